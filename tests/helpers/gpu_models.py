"""Small prepared models whose answer is easily told, for the engines that run on a GPU or on its double."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SIDE = 16


def scorer(batch="batch", *, half=False, second=True, width=8):
    """``frames`` uint8 NHWC to ``rows`` [n, width] (and ``means`` [n, 3]): different for every picture."""
    weights = np.random.default_rng(0).normal(0, 0.1, (3, width)).astype(np.float32)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [helper.make_node("Cast", ["frames"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["f"], ["means"], axes=[1, 2], keepdims=0),
             helper.make_node("MatMul", ["means", "w"], ["r"]),
             helper.make_node("Cast", ["r"], ["rows"], to=kind)]
    outputs = [helper.make_tensor_value_info("rows", kind, [batch, width])]
    if second:
        outputs.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, [batch, 3]))
    graph = helper.make_graph(
        nodes, "scorer", [helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch, SIDE, SIDE, 3])], outputs,
        [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def on_cpu(model, frames):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"frames": frames})
