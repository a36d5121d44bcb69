"""Small ONNX models of the shapes that matter, made on the spot with seeded random weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    outputs: Sequence[str],
    *,
    shape: Sequence[int | str] = ("batch", 3, "height", "width"),
    kind: int = TensorProto.FLOAT,
    opset: int = OPSET,
    more_inputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """A model with the input `image` and outputs of undeclared shape."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", kind, shape), *more_inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def conv_net(w: np.ndarray, bias: np.ndarray | None = None, *, first: Sequence[onnx.NodeProto] = (),
             data: str = "image", constants: dict[str, np.ndarray] | None = None,
             **settings: object) -> onnx.ModelProto:
    """One Conv, perhaps with nodes before it."""
    inputs = [data, "w"] + ([] if bias is None else ["b"])
    held = {"w": w, **({} if bias is None else {"b": bias}), **(constants or {})}
    return model([*first, helper.make_node("Conv", inputs, ["out"], **settings)], held, ["out"])


def _columns(channels: int, shape: Sequence[int]) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Conv of stride 8, reshaped to `columns`."""
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["map"], strides=[8, 8], kernel_shape=[8, 8]),
        helper.make_node("Reshape", ["map", "shape"], ["columns"]),
    ]
    held = {"w": weights(channels, 3, 8, 8) / 64, "b": weights(channels, seed=1), "shape": np.array(shape, np.int64)}
    return nodes, held


def yolov8(classes: int = 2) -> onnx.ModelProto:
    nodes, held = _columns(4 + classes, [0, 4 + classes, -1])
    return model(nodes, held, ["columns"])


def yolov5(classes: int = 2) -> onnx.ModelProto:
    nodes, held = _columns(5 + classes, [0, 5 + classes, -1])
    return model([*nodes, helper.make_node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1])], held, ["rows"])


def end2end(keep: int = 4) -> onnx.ModelProto:
    """The `keep` best rows by their fifth column."""
    nodes, held = _columns(6, [0, 6, -1])
    nodes += [
        helper.make_node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["rows", "four", "five", "two"], ["scores"]),
        helper.make_node("TopK", ["scores", "keep"], ["best", "where"], axis=1),
        helper.make_node("Expand", ["where", "six"], ["wide"]),
        helper.make_node("GatherElements", ["rows", "wide"], ["kept"], axis=1),
    ]
    held |= {"four": np.array([4]), "five": np.array([5]), "two": np.array([2]), "keep": np.array([keep]),
             "six": np.array([1, 1, 6])}
    return model(nodes, held, ["kept"])


def fixed_batch() -> onnx.ModelProto:
    """Works for one picture only: a Reshape names the batch."""
    nodes, held = _columns(6, [1, 6, -1])
    return model(nodes, held, ["columns"])


def fixed_size(side: int = 64) -> onnx.ModelProto:
    """Works at one size only: a Reshape names the number of cells."""
    nodes, held = _columns(6, [0, 6, (side // 8) ** 2])
    return model(nodes, held, ["columns"], shape=["batch", 3, side, side])


def classifier(classes: int = 1000) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["classes"]),
    ]
    return model(nodes, {"w": weights(8, 3, 3, 3), "dense": weights(8, classes)}, ["classes"])


def unsupported_op() -> onnx.ModelProto:
    return model([helper.make_node("Warp", ["image"], ["out"], domain="com.example")], {}, ["out"])


def boxes_of_all_pictures() -> onnx.ModelProto:
    """[rows of all pictures, 6]: the first axis is not the batch."""
    nodes, held = _columns(6, [-1, 6])
    return model(nodes, held, ["columns"])


def save(what: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(what.SerializeToString())
    return path
