"""A YOLO's best class of each box, found on the GPU: fourteen times less to copy back, and nothing left for the host.

The YOLOv8 layout gives each of 8400 boxes a score for every class, 2.8 MB a frame for 80 classes, of which the head
keeps the highest. Done where the scores are, six numbers a box leave the GPU. On a CPU it gains nothing, and the graph
stays as it is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BEST = "vedette_best"
"""Name of the output [batch, 6, boxes]: centre x, y, width, height, best score, its class."""


def takes_tail(model: onnx.ModelProto, kind: str | None, classes: int) -> bool:
    """Tell whether a prepared model has the one output [batch, 4 + classes, boxes] that the recipe's head would take.

    Args:
        model: Prepared: its outputs' shapes are declared.
        kind: The recipe's head; None = it is recognised by shapes, and so it is here.
        classes: Of the recipe.
    """
    if kind not in {None, "yolov8"} or len(model.graph.output) != 1 or classes < 2:
        return False
    tensor = model.graph.output[0].type.tensor_type
    dims = [int(dim.dim_value) for dim in tensor.shape.dim]
    return bool(tensor.elem_type == TensorProto.FLOAT and len(dims) == 3 and dims[1] == 4 + classes
                and dims[2] > dims[1])


def add_tail(model: onnx.ModelProto) -> None:
    """Replace the output [batch, 4 + classes, boxes] by :data:`BEST`, in place.

    Equal scores go to the first class, as the head has it.
    """
    graph, output = model.graph, model.graph.output[0]
    batch, _, boxes = output.type.tensor_type.shape.dim
    shape: list[Any] = [batch.dim_param or batch.dim_value, 6, boxes.dim_value]
    for name, value in (("four", 4), ("zero", 0), ("end", np.iinfo(np.int32).max), ("axis", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"vedette_{name}"))
    old_reduce = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}) < 18

    def op(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    places = op("Slice", [output.name, "vedette_zero", "vedette_four", "vedette_axis"], "vedette_places")
    scores = op("Slice", [output.name, "vedette_four", "vedette_end", "vedette_axis"], "vedette_scores")
    best = (op("ReduceMax", [scores], "vedette_highest", axes=[1], keepdims=1) if old_reduce
            else op("ReduceMax", [scores, "vedette_axis"], "vedette_highest", keepdims=1))
    chosen = op("ArgMax", [scores], "vedette_class_index", axis=1, keepdims=1)
    chosen = op("Cast", [chosen], "vedette_class", to=TensorProto.FLOAT)
    op("Concat", [places, best, chosen], BEST, axis=1)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(BEST, TensorProto.FLOAT, shape))


def with_tail(prepared: Path, folder: Path, kind: str | None, classes: int) -> Path:
    """Return the prepared model with the tail, written into ``folder``; as it is where the tail does not fit it."""
    model = onnx.load(str(prepared))
    if not takes_tail(model, kind, classes):
        return prepared
    add_tail(model)
    onnx.checker.check_model(model, full_check=True)
    target = folder / "tail.onnx"
    onnx.save(model, str(target))
    return target
