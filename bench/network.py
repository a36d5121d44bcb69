"""YOLOv8n's architecture as one list of layers with seeded random weights, and the same as an ONNX graph.

``bench/gpu_torch.py`` makes a PyTorch module of the same list, so that both compute the very same function: uint8 NHWC
BGR frames in, [n, 84, cells] out, boxes (centre and size) in pixels. Each channel of each convolution is
scaled to mean 0 and deviation 1 over two pictures, as batch normalisation leaves them, so that FP16 is no worse than it
is for a trained network. Random weights: speed and agreement of numbers, never accuracy.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = 80
FOUND = 4  # classes that are ever found: a handful of boxes of about 100 candidates, as in real pictures
BINS = 16


@dataclass
class Layer:
    """One step: what it does, of which values (their numbers), and its settings."""

    kind: str
    inputs: tuple[int, ...]
    stride: int = 1
    act: bool = True
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None


@dataclass
class Network:
    """Layers in order; value i is what layer i gives. The last three pairs of values feed the head."""

    size: int
    layers: list[Layer] = field(default_factory=list)
    heads: list[tuple[int, int, int]] = field(default_factory=list)  # boxes, classes, stride

    @property
    def anchors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Centres (1, 2, cells) in cells and strides (1, 1, cells) in pixels."""
        centres, strides = [], []
        for *_, stride in self.heads:
            side = self.size // stride
            at = np.stack(np.meshgrid(np.arange(side), np.arange(side)), 0).reshape(1, 2, -1) + 0.5
            centres.append(at)
            strides.append(np.full((1, 1, side * side), stride))
        return np.concatenate(centres, 2).astype(np.float32), np.concatenate(strides, 2).astype(np.float32)


class _Writer:
    def __init__(self, size: int) -> None:
        self.network = Network(size)
        self._rng = np.random.default_rng(0)
        self._channels: list[int] = []

    def add(self, kind: str, *inputs: int, channels: int, **settings: Any) -> int:
        self.network.layers.append(Layer(kind, inputs, **settings))
        self._channels.append(channels)
        return len(self._channels) - 1

    def conv(self, x: int, cout: int, kernel: int, stride: int = 1, act: bool = True) -> int:
        weight = self._rng.standard_normal((cout, self._channels[x], kernel, kernel), np.float32)
        return self.add("conv", x, channels=cout, stride=stride, act=act, weight=weight,
                        bias=np.zeros(cout, np.float32))

    def halves(self, x: int) -> tuple[int, int]:
        half = self._channels[x] // 2
        return self.add("first", x, channels=half), self.add("second", x, channels=half)

    def concat(self, *xs: int) -> int:
        return self.add("concat", *xs, channels=sum(self._channels[x] for x in xs))

    def same(self, kind: str, *xs: int) -> int:
        return self.add(kind, *xs, channels=self._channels[xs[0]])

    def c2f(self, x: int, cout: int, times: int, shortcut: bool) -> int:
        parts = list(self.halves(self.conv(x, cout, 1)))
        for _ in range(times):
            inner = self.conv(self.conv(parts[-1], cout // 2, 3), cout // 2, 3)
            parts.append(self.same("add", parts[-1], inner) if shortcut else inner)
        return self.conv(self.concat(*parts), cout, 1)

    def sppf(self, x: int, cout: int) -> int:
        parts = [self.conv(x, cout // 2, 1)]
        for _ in range(3):
            parts.append(self.same("pool", parts[-1]))
        return self.conv(self.concat(*parts), cout, 1)

    def head(self, x: int, stride: int) -> None:
        boxes = self.conv(self.conv(self.conv(x, 64, 3), 64, 3), 4 * BINS, 1, act=False)
        classes = self.conv(self.conv(self.conv(x, CLASSES, 3), CLASSES, 3), CLASSES, 1, act=False)
        self.network.heads.append((boxes, classes, stride))


@cache
def yolov8n(size: int = 640) -> Network:
    """Return the list; the class bias is such that about 100 candidates of a scene pass a score of 0.25."""
    w = _Writer(size)
    x = w.add("frames", channels=3)
    x = w.c2f(w.conv(w.conv(x, 16, 3, 2), 32, 3, 2), 32, 1, True)
    p3 = w.c2f(w.conv(x, 64, 3, 2), 64, 2, True)
    p4 = w.c2f(w.conv(p3, 128, 3, 2), 128, 2, True)
    p5 = w.sppf(w.c2f(w.conv(p4, 256, 3, 2), 256, 1, True), 256)
    n4 = w.c2f(w.concat(w.same("up", p5), p4), 128, 1, False)
    n3 = w.c2f(w.concat(w.same("up", n4), p3), 64, 1, False)
    m4 = w.c2f(w.concat(w.conv(n3, 64, 3, 2), n4), 128, 1, False)
    m5 = w.c2f(w.concat(w.conv(m4, 128, 3, 2), p5), 256, 1, False)
    for value, stride in ((n3, 8), (m4, 16), (m5, 32)):
        w.head(value, stride)
    _normalise(w.network)
    _set_class_bias(w.network)
    return w.network


def picture(size: int, count: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    """Return smooth random pictures (count, size, size, 3) uint8: blobs, not white noise, as cameras see them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, size // 32, size // 32, 3)).astype(np.float32)
    wide = coarse.repeat(32, 1).repeat(32, 2)
    noise = rng.normal(0, 12, wide.shape)
    return np.clip(wide + noise, 0, 255).astype(np.uint8)


def scene(size: int, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return ``count`` frames of one scene at rest (count, size, size, 3) uint8: each has noise of its own.

    Nothing moves: random weights see another world in each shifted picture, with 50 or 2000 candidates.
    """
    wide = picture(size, 1, seed)[0].astype(np.int16)
    rng = np.random.default_rng(seed + 1)
    clipped: NDArray[np.uint8] = np.clip(
        np.stack([wide + rng.integers(-1, 2, wide.shape) for _ in range(count)]), 0, 255).astype(np.uint8)
    return clipped


def _normalise(network: Network) -> None:
    """Set weights and biases, layer by layer, by what two pictures make of the layers before."""
    values: list[NDArray[np.float32]] = []
    for layer in network.layers:
        x = [values[index] for index in layer.inputs]
        if layer.weight is not None and layer.bias is not None:
            y = _alone(layer, x[0])
            mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3)) + 1e-6
            layer.weight /= std[:, None, None, None]
            layer.bias -= mean / std
            y = (y - mean[:, None, None]) / std[:, None, None]
            values.append(y / (1 + np.exp(-y)) if layer.act else y)
        elif layer.kind == "frames":
            values.append(picture(network.size, 2).transpose(0, 3, 1, 2).astype(np.float32))
        elif layer.kind in {"first", "second"}:
            values.append(np.split(x[0], 2, 1)[layer.kind == "second"])
        elif layer.kind == "up":
            values.append(x[0].repeat(2, 2).repeat(2, 3))
        elif layer.kind == "pool":
            values.append(_alone(layer, x[0]))
        else:
            values.append(np.concatenate(x, 1) if layer.kind == "concat" else x[0] + x[1])


def _alone(layer: Layer, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run one convolution or pooling without its activation."""
    from onnx import TensorProto, helper, numpy_helper

    if layer.weight is None:
        node, held = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[5, 5], pads=[2] * 4), []
    else:
        node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[layer.stride] * 2,
                                pads=[layer.weight.shape[2] // 2] * 4)
        held = [numpy_helper.from_array(layer.weight, "w")]
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return np.asarray(_session(model).run(None, {"x": x})[0])


def on_cpu(model: Any, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the only output of ``model`` for ``frames``, computed by ONNX Runtime on the CPU."""
    return np.asarray(_session(model).run(None, {"frames": frames})[0])


def _session(model: Any) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _set_class_bias(network: Network) -> None:
    never = np.full(CLASSES, -30, np.float32)
    never[:FOUND] = 0
    for _, classes, _ in network.heads:
        bias = network.layers[classes].bias
        assert bias is not None
        bias += never
    scores = on_cpu(to_onnx(network), scene(network.size, 1))[0, 4:4 + FOUND].astype(np.float64)
    logits = np.log(scores / (1 - scores)).max(axis=0)
    for _, classes, _ in network.heads:
        bias = network.layers[classes].bias
        assert bias is not None
        bias[:FOUND] += np.float32(np.log(0.25 / 0.75) - np.sort(logits)[-100])


class _Graph:
    """ONNX nodes in the making."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.held: list[Any] = []

    def const(self, value: Any) -> str:
        from onnx import numpy_helper

        self.held.append(numpy_helper.from_array(np.ascontiguousarray(value), f"c{len(self.held)}"))
        return str(self.held[-1].name)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"node{name}", **attributes))
        return name

    def part(self, x: str, begin: int, end: int) -> str:
        return self.op("Slice", x, *(self.const(np.array([value])) for value in (begin, end, 1)))

    def layer(self, layer: Layer, x: list[str], width: int) -> str:
        """Add one layer of the list; ``width`` is its own number of channels."""
        if layer.weight is not None:
            kernel = layer.weight.shape[2]
            y = self.op("Conv", x[0], self.const(layer.weight), self.const(layer.bias), strides=[layer.stride] * 2,
                        pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2)
            return self.op("Mul", y, self.op("Sigmoid", y)) if layer.act else y
        if layer.kind in {"first", "second"}:
            return self.part(x[0], *((0, width) if layer.kind == "first" else (width, 2 * width)))
        if layer.kind == "pool":
            return self.op("MaxPool", x[0], kernel_shape=[5, 5], pads=[2] * 4, strides=[1, 1])
        if layer.kind == "up":
            return self.op("Resize", x[0], "", self.const(np.array([1, 1, 2, 2], np.float32)), mode="nearest",
                           coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        return self.op("Concat", *x, axis=1) if layer.kind == "concat" else self.op("Add", *x)

    def decoded(self, network: Network, values: list[str]) -> None:
        """Add what makes ``output0`` of the heads' raw values."""
        flat = [self.op("Concat", self.op("Reshape", values[b], self.const(np.array([0, 4 * BINS, -1]))),
                        self.op("Reshape", values[c], self.const(np.array([0, CLASSES, -1]))), axis=1)
                for b, c, _ in network.heads]
        together = self.op("Concat", *flat, axis=2)
        bins = self.op("Reshape", self.part(together, 0, 4 * BINS), self.const(np.array([0, 4, BINS, -1])))
        shares = self.op("Softmax", self.op("Transpose", bins, perm=[0, 2, 1, 3]), axis=1)
        expected = self.op("Conv", shares, self.const(np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1)))
        sides = self.op("Reshape", expected, self.const(np.array([0, 4, -1])))
        centres, strides = network.anchors
        near = self.op("Sub", self.const(centres), self.part(sides, 0, 2))
        far = self.op("Add", self.const(centres), self.part(sides, 2, 4))
        middle = self.op("Mul", self.op("Add", near, far), self.const(np.float32(0.5)))
        boxes = self.op("Mul", self.op("Concat", middle, self.op("Sub", far, near), axis=1), self.const(strides))
        scores = self.op("Sigmoid", self.part(together, 4 * BINS, 4 * BINS + CLASSES))
        self.op("Concat", boxes, scores, axis=1)
        self.nodes[-1].output[0] = "output0"


def to_onnx(network: Network, batch: int | str = "batch") -> Any:
    """Return the list as an FP32 ONNX model with the input ``frames`` uint8 NHWC and the output ``output0``."""
    from onnx import TensorProto, helper

    graph, widths = _Graph(), channels(network)
    values = [graph.op("Transpose", graph.op("Cast", "frames", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])]
    for layer, width in zip(network.layers[1:], widths[1:], strict=True):
        values.append(graph.layer(layer, [values[index] for index in layer.inputs], width))
    graph.decoded(network, values)
    size, cells = network.size, network.anchors[0].shape[2]
    made = helper.make_graph(
        graph.nodes, "yolov8n", [helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch, size, size, 3])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, 4 + CLASSES, cells])], graph.held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def channels(network: Network) -> list[int]:
    """Return how many channels each value has."""
    widths: list[int] = []
    for layer in network.layers:
        of = [widths[index] for index in layer.inputs]
        if layer.kind == "frames":
            widths.append(3)
        elif layer.weight is not None:
            widths.append(int(layer.weight.shape[0]))
        elif layer.kind in {"first", "second"}:
            widths.append(of[0] // 2)
        else:
            widths.append(sum(of) if layer.kind == "concat" else of[0])
    return widths


def to_fp16(model: Any) -> Any:
    """Return ``model`` with an FP16 body; frames stay uint8 and the output float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)
