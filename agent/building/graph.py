"""Rewrite a model's graph so that it takes camera pixels as they are: uint8 NHWC BGR, any batch, a fixed size.

A recipe asks for ``y = (x * scale - mean) / std`` in the model's channel order. That is ``y = factor * (x - offset)``
with ``factor = scale / std`` and ``offset = mean / scale``, channel by channel. A convolution is linear, so ``factor``
and the channel order go into its weights exactly. ``offset`` goes into the bias only where the convolution does not
pad: the zeros of its padding stand for y = 0, not for x = 0, so at the borders the bias would be wrong. There one
``Sub`` is put before it. Where the input feeds something else than convolutions, all of it is put before the model.

Only rewrites protobufs; runs nothing and reads no file. Whether the result is right is for the worker to measure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from agent.building.recipe import InputTable
from agent.errors import ModelError

FRAMES = "frames"
_OLDEST_OPSET = 7  # the first one with numpy's broadcasting
_OLDEST_IR = 4  # the first one in which initialisers need not be inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """What was done to the input.

    Attributes:
        folded: Nothing but Cast and Transpose (and perhaps one Sub) was put before the model.
        first_layers: Names of the tensors that the input's consumers give.
        note: The same in words.
    """

    folded: bool
    first_layers: tuple[str, ...]
    note: str


def tidy(model: onnx.ModelProto) -> None:
    """Remove, in place, what runtimes stumble over: initialisers among the inputs, unused ones, stale shapes.

    Raises:
        ModelError: the graph has no nodes, or its opset is too old.
    """
    graph = model.graph
    if not graph.node:
        raise ModelError("the file holds no ONNX graph", "export the model anew")
    opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    if opset < _OLDEST_OPSET:
        raise ModelError(f"opset {opset} is too old", "export the model anew with opset 11 or later")
    used = {name for node in _all_nodes(graph) for name in node.input} | {output.name for output in graph.output}
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    constants = {tensor.name for tensor in graph.initializer}
    _keep(graph.input, [value for value in graph.input if value.name not in constants and value.name in used])
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    model.ir_version = max(model.ir_version, _OLDEST_IR)


def image_input(model: onnx.ModelProto) -> tuple[str, tuple[int, int] | None]:
    """Return the name of a tidied model's picture input and the size (height, width) it declares, if any.

    Raises:
        ModelError: there is not exactly one input, or it is not float32 NCHW with 3 channels.
    """
    inputs = model.graph.input
    remedy = "export the model with one float32 input [batch, 3, height, width]"
    if len(inputs) != 1:
        raise ModelError(f"the model has {len(inputs)} inputs ({', '.join(value.name for value in inputs)}), not one",
                         remedy)
    tensor = inputs[0].type.tensor_type
    dims = [int(dim.dim_value) for dim in tensor.shape.dim]  # 0 = not declared
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if kind != "FLOAT" or len(dims) != 4 or dims[1] not in {0, 3}:
        shown = [dim or "?" for dim in dims]
        raise ModelError(f"input {inputs[0].name!r} is {kind} {shown}, not FLOAT [batch, 3, height, width]", remedy)
    return inputs[0].name, (dims[2], dims[3]) if dims[2] and dims[3] else None


def set_size(model: onnx.ModelProto, name: str, height: int, width: int) -> None:
    """Relabel the input ``name``: any batch, 3 channels, ``height`` x ``width`` pixels, float32 NCHW."""
    del model.graph.input[:]
    model.graph.input.append(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3, height, width]))


def fold_input(model: onnx.ModelProto, wanted: InputTable, height: int, width: int, *, fold: bool = True) -> FoldReport:
    """Give a tidied model the input ``frames`` [batch, height, width, 3] uint8 BGR, in place.

    Args:
        model: Already tidied.
        wanted: What the model wants to see.
        height: Canvas height, pixels.
        width: Canvas width, pixels.
        fold: False puts everything before the model even where folding is possible.

    Raises:
        ModelError: the input is no picture, or a name in the graph is in the way.
    """
    graph = model.graph
    old, _ = image_input(model)
    taken = {name for node in _all_nodes(graph) for name in node.output} | {tensor.name for tensor in graph.initializer}
    if clash := sorted(name for name in taken if name == FRAMES or name.startswith("vedette_")):
        raise ModelError(f"the tensor name {clash[0]!r} is needed for the new input", "rename it and export anew")
    _rename_uses(graph, old, "vedette_image")
    consumers = [node for node in _all_nodes(graph) if "vedette_image" in node.input]
    factor, offset, swap = _affine(wanted)
    layers = tuple(node.output[0] for node in consumers)
    if fold and all(_is_plain_conv(graph, node) for node in consumers):
        in_bias = not any(_pads(node) for node in consumers)
        for index, node in enumerate(consumers):
            _fold_into(graph, node, index, (factor, offset if in_bias else np.zeros(3), swap))
        before = [] if in_bias or not offset.any() else [("Sub", offset[::-1] if swap else offset)]
        report = FoldReport(folded=True, first_layers=layers, note=(
            f"folded into {len(consumers)} convolution(s)" + (", mean subtracted before: it pads" if before else "")))
    else:
        before = [("Gather", np.array([2, 1, 0], np.int64))] if swap else []
        before += [("Sub", offset)] if offset.any() else []
        before += [("Mul", factor)] if (factor != 1).any() else []
        kinds = ", ".join(sorted({node.op_type for node in consumers}))
        report = FoldReport(folded=False, first_layers=layers, note=(
            f"{' and '.join(kind for kind, _ in before) or 'nothing'} put before the model: its input feeds {kinds}"))
    _prepend(graph, before)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(
        FRAMES, onnx.TensorProto.UINT8, ["batch", height, width, 3]))
    return report


def set_batch(model: onnx.ModelProto, batch: int | None) -> None:
    """Declare the batch of the inputs: fixed, or free when None."""
    for value in model.graph.input:
        _set_dim(value.type.tensor_type.shape.dim[0], batch)


def set_outputs(model: onnx.ModelProto, shapes: Sequence[Sequence[int | None]], batch: int | None) -> None:
    """Declare the outputs' shapes; None is unknown, and the first axis is the batch (free when ``batch`` is None)."""
    for output, shape in zip(model.graph.output, shapes, strict=True):
        declared = output.type.tensor_type.shape
        del declared.dim[:]
        for axis, size in enumerate(shape):
            _set_dim(declared.dim.add(), batch if axis == 0 else size, f"{output.name}_{axis}" if axis else "batch")


def _set_dim(dim: Any, size: int | None, name: str = "batch") -> None:
    if size is None:
        dim.dim_param = name
    else:
        dim.dim_value = size


def _keep(field: Any, values: list[Any]) -> None:
    del field[:]
    field.extend(values)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the bodies of its loops and branches, which see the outer names."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _all_nodes(body)


def _rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in _all_nodes(graph):
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _affine(wanted: InputTable) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Return factor (3,), offset (3,) in the model's channel order, and whether the channels change places."""
    mean, std = np.array(wanted.mean), np.array(wanted.std)
    return wanted.scale / std, mean / wanted.scale, wanted.colour == "rgb"


def _is_plain_conv(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Tell whether ``node`` is a float32 Conv of all channels with constant weights, with the picture as its data."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    if node.op_type != "Conv" or node.domain not in {"", "ai.onnx"} or "vedette_image" in node.input[1:]:
        return False
    weights = [constants.get(name) for name in node.input[1:] if name]
    return all(w is not None and w.data_type == onnx.TensorProto.FLOAT for w in weights) and (
        weights[0] is not None and weights[0].dims[1] == 3)


def _pads(node: onnx.NodeProto) -> bool:
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return any(settings.get("pads", ())) or settings.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}


def _fold_into(graph: onnx.GraphProto, node: onnx.NodeProto, index: int,
               affine: tuple[NDArray[np.float64], NDArray[np.float64], bool]) -> None:
    """Give one Conv new weights (and a bias where there is an offset); others may share the old ones."""
    factor, offset, swap = affine
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = constants[node.input[1]] * factor[:, None, None]
    if offset.any():
        bias = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else 0.0
        moved = bias - (weights * offset[:, None, None]).sum((1, 2, 3))
        graph.initializer.append(numpy_helper.from_array(moved.astype(np.float32), f"vedette_bias{index}"))
        del node.input[2:]
        node.input.append(f"vedette_bias{index}")
    if swap:
        weights = weights[:, ::-1]
    graph.initializer.append(numpy_helper.from_array(
        np.ascontiguousarray(weights, np.float32), f"vedette_weights{index}"))
    node.input[1] = f"vedette_weights{index}"
    used = {name for other in _all_nodes(graph) for name in other.input}
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])


def _prepend(graph: onnx.GraphProto, before: Sequence[tuple[str, NDArray[np.generic]]]) -> None:
    """Put Cast, the given steps on the last axis (channels), and Transpose before the model."""
    nodes = [helper.make_node("Cast", [FRAMES], ["vedette_float"], to=onnx.TensorProto.FLOAT)]
    for kind, values in before:
        name = f"vedette_{kind.lower()}"
        array = values if kind == "Gather" else values.astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}_value"))
        axis = {"axis": 3} if kind == "Gather" else {}
        nodes.append(helper.make_node(kind, [nodes[-1].output[0], f"{name}_value"], [name], **axis))
    nodes.append(helper.make_node("Transpose", [nodes[-1].output[0]], ["vedette_image"], perm=[0, 3, 1, 2]))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
