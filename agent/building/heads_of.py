"""Which nodes of a network belong to its head, its stem and its body: pure questions to an ONNX graph.

The head turns features into boxes and scores. Its numbers differ in kind (pixels beside probabilities), so rounding
them to 8 bits costs far more than it saves; the convolutions of the body do nearly all the work and stand it well.
So the quantiser leaves the head as it is, and finds it here, from the graph alone.

What sees only the *shape* of a tensor (Shape, Size) carries no values: such a path is no path. A branch or loop body is
one node that passes on everything it sees; convolutions inside it are never quantised.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches

import numpy as np
import onnx
from onnx import numpy_helper

from agent.errors import ModelError

_SHAPE_ONLY = {"Shape", "Size"}
_STEM_CHANNELS = 4  # input channels a group; a picture has 3, a depthwise convolution 1
_SHOWN = 5  # names in a message


def name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes without a name, in place, one that depends on the graph alone: ``Conv_12`` is the thirteenth node."""
    taken = {node.name for node in model.graph.node if node.name}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def head_convs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names, in the graph's order, of the convolutions that make the head; nameless nodes get names first.

    These are the convolutions from which an output can be reached without passing another convolution. One kind of
    convolution does not count as another and is in the head itself where it stands before an output: the fixed 1x1
    one with the weights 0, 1, 2 … that YOLOv8 and later use to take the mean of a distribution (DFL). It is no layer
    that learned something, and the box branch's last learned convolution stands right before it.
    """
    name_nodes(model)
    consumers = _consumers(model.graph)
    ends = {output.name for output in model.graph.output}
    means = {node.name for node in model.graph.node if _takes_mean(model.graph, node)}

    def passes(node: onnx.NodeProto) -> bool:
        return node.op_type not in _SHAPE_ONLY and (node.op_type != "Conv" or node.name in means)

    near = _reaching(model.graph, consumers, starts=lambda node: bool(ends.intersection(node.output)), passes=passes)
    return tuple(node.name for node in model.graph.node if node.op_type == "Conv" and node.name in near)


def resolve(model: onnx.ModelProto, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the convolutions to leave out: those of ``wanted``, or of the head when None.

    Args:
        model: Its nameless nodes get names first.
        wanted: Names of Conv nodes, or of the tensors that they give.

    Raises:
        ModelError: there is no such convolution; names that look alike are told.
    """
    if wanted is None:
        return head_convs(model)
    name_nodes(model)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    names = {alias: node.name for node in convs for alias in (node.output[0], node.name)}
    for name in wanted:
        if name not in names:
            near = get_close_matches(name, names, _SHOWN, 0.4) or [node.name for node in convs[-_SHOWN:]]
            raise ModelError(f"the model has no convolution {name!r} to leave out of the quantisation",
                             f"name nodes or their outputs, such as {', '.join(near)}")
    return tuple(dict.fromkeys(names[name] for name in wanted))


def stem(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the leading convolutions with at most 4 input channels a group, in order; all nodes must have names."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = weights.get(node.input[1])
            if weight is None or weight.dims[1] > _STEM_CHANNELS:
                break
            found.append(node.name)
    return tuple(found)


def tail(model: onnx.ModelProto, excluded: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all nodes that no quantised network may hold in INT8 when ``excluded`` stays in float.

    These are ``excluded`` and whatever has no convolution of the body behind it, for there pixels and scores are mixed.
    But what stands between the body and a convolution of the head, such as the last Relu, is body still.
    """
    left = set(excluded)
    consumers = _consumers(model.graph)
    means = {node.name for node in model.graph.node if _takes_mean(model.graph, node)}
    convs = {node.name for node in model.graph.node if node.op_type == "Conv"} - means
    body = convs - left

    def before(names: set[str]) -> set[str]:
        feeding = {name for node in model.graph.node if node.name in names for name in node.input}
        return _reaching(model.graph, consumers, starts=lambda node: bool(feeding.intersection(node.output)),
                         passes=lambda node: node.op_type not in _SHAPE_ONLY)

    before_body, before_any = before(body) | body, before(convs)
    maker = {name: node.name for node in model.graph.node for name in node.output}
    kept: set[str] = set()
    for node in model.graph.node:
        makers = {maker[name] for name in node.input if name in maker}
        joins = node.name in before_any and bool(makers) and makers <= kept
        if node.name not in left and (node.name in before_body or joins):
            kept.add(node.name)
    return tuple(node.name for node in model.graph.node if node.name not in kept)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Order the nodes, in place, so that each comes after what it reads; the given order breaks ties.

    Raises:
        ModelError: the graph has a cycle, or a node reads what nobody gives.
    """
    made = {name for node in graph.node for name in node.output if name}
    known = {""}
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in known or name not in made for name in _reads(node)):
                known.update(node.output)
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ModelError(f"the graph's node {waiting[0].name!r} reads its own result", "export the model anew")
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)


def _reaching(graph: onnx.GraphProto, consumers: dict[str, list[onnx.NodeProto]], *,
              starts: Callable[[onnx.NodeProto], bool], passes: Callable[[onnx.NodeProto], bool]) -> set[str]:
    """Return the names of the nodes that ``starts`` names, and of those whose values reach one through ``passes``."""
    found: set[str] = set()
    for node in reversed(graph.node):
        if starts(node) or any(consumer.name in found and passes(consumer)
                               for name in node.output for consumer in consumers.get(name, ())):
            found.add(node.name)
    return found


def _takes_mean(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Tell whether ``node`` is a 1x1 Conv to one channel with fixed weights in equal steps from 0."""
    if node.op_type != "Conv":
        return False
    tensor = next((tensor for tensor in graph.initializer if tensor.name == node.input[1]), None)
    if tensor is None or tensor.dims[0] != 1 or tensor.dims[1] < 4 or any(size != 1 for size in tensor.dims[2:]):
        return False
    weights = numpy_helper.to_array(tensor).astype(np.float64).ravel()
    return bool(weights[1]) and np.allclose(weights, weights[1] * np.arange(weights.size), rtol=1e-3, atol=0)


def _consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in _reads(node):
            found.setdefault(name, []).append(node)
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what ``node`` reads, in the bodies of its branches and loops, too."""
    yield from node.input
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)
            yield from (output.name for output in body.output)
