"""Models for TensorRT's builder: a detector of the YOLO shape with seeded weights, prepared by our own code, in all forms."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.building.forms import Form
from agent.building.prepare import Job
from agent.building.recipe_tables import InputTable

CONVOLUTIONS = 18
HEAD = 5  # of them: the last ones of boxes and scores, and the one that turns bins into distances


class _Net:
    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.held = [], []

    def hold(self, value):
        self.held.append(numpy_helper.from_array(np.ascontiguousarray(value), f"held{len(self.held)}"))
        return self.held[-1].name

    def add(self, kind, *inputs, count=1, **settings):
        name = f"{kind}{len(self.nodes)}"
        outputs = [f"{name}.{index}" for index in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **settings))
        return outputs if count > 1 else outputs[0]

    def conv(self, data, wide, out, side=3, stride=1, bare=False):
        weights = self.random.normal(0, np.sqrt(2 / (wide * side * side)), (out, wide, side, side))
        made = self.add("Conv", data, self.hold(weights.astype(np.float32)),
                        self.hold(self.random.normal(0, 0.05, out).astype(np.float32)),
                        kernel_shape=[side, side], strides=[stride, stride], pads=[side // 2] * 4)
        return made if bare else self.add("Mul", made, self.add("Sigmoid", made))

    def stage(self, data, wide):
        """Half of the channels go through two convolutions with a short cut; then all are mixed."""
        left, right = self.add("Split", data, self.hold(np.array([wide // 2, wide // 2])), count=2, axis=1)
        deep = self.add("Add", right, self.conv(self.conv(right, wide // 2, wide // 2), wide // 2, wide // 2))
        return self.conv(self.add("Concat", left, right, deep, axis=1), wide + wide // 2, wide, side=1)


def detector(size=96, width=8, classes=3, bins=8, seed=0, batch="batch"):
    """Float NCHW `images` 0..1 to `output0` (batch, 4 + classes, anchors): boxes in pixels, scores 0..1."""
    net = _Net(seed)
    data = net.conv("images", 3, width, stride=2)
    data = net.stage(net.conv(data, width, 2 * width, stride=2), 2 * width)
    fine = net.conv(data, 2 * width, 4 * width, stride=2)
    coarse = net.conv(fine, 4 * width, 8 * width, stride=2)
    pooled = net.add("MaxPool", coarse, kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)
    coarse = net.conv(net.add("Concat", coarse, pooled, axis=1), 16 * width, 8 * width, side=1)
    up = net.add("Resize", coarse, "", net.hold(np.array([1, 1, 2, 2], np.float32)), mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    fine = net.conv(net.add("Concat", up, fine, axis=1), 12 * width, 4 * width, side=1)
    boxes, scores, centres, strides = [], [], [], []
    for data, wide, stride in ((fine, 4 * width, 8), (coarse, 8 * width, 16)):
        cells = size // stride
        for found, out in ((boxes, 4 * bins), (scores, classes)):
            made = net.conv(net.conv(data, wide, wide), wide, out, side=1, bare=True)
            found.append(net.add("Reshape", made, net.hold(np.array([0, out, cells * cells]))))
        y, x = np.indices((cells, cells), np.float32).reshape(2, -1) + np.float32(0.5)
        centres.append(np.stack([x, y]))
        strides.append(np.full(cells * cells, stride, np.float32))
    total = sum(len(values) for values in strides)
    spread = net.add("Reshape", net.add("Concat", *boxes, axis=2), net.hold(np.array([0, 4, bins, total])))
    shares = net.add("Softmax", net.add("Transpose", spread, perm=[0, 2, 1, 3]), axis=1)
    mean = net.add("Conv", shares, net.hold(np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1)), kernel_shape=[1, 1])
    first, last = net.add("Split", net.add("Reshape", mean, net.hold(np.array([0, 4, total]))),
                          net.hold(np.array([2, 2])), count=2, axis=1)
    centre = net.hold(np.concatenate(centres, 1)[None])
    low, high = net.add("Sub", centre, first), net.add("Add", centre, last)
    middle = net.add("Mul", net.add("Add", low, high), net.hold(np.float32(0.5)))
    box = net.add("Mul", net.add("Concat", middle, net.add("Sub", high, low), axis=1),
                  net.hold(np.concatenate(strides)[None, None]))
    score = net.add("Sigmoid", net.add("Concat", *scores, axis=2))
    net.nodes.append(helper.make_node("Concat", [box, score], ["output0"], name="output", axis=1))
    graph = helper.make_graph(
        net.nodes, "detector", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, 4 + classes, total])], net.held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def prepared_detector(folder: Path, size=96, **shape) -> Path:
    """The detector as the agent prepares it: uint8 NHWC `frames`, any batch."""
    from agent.building.preparing import prepare_model

    raw, target = folder / f"raw{size}.onnx", folder / f"detector{size}.onnx"
    raw.write_bytes(detector(size, **shape).SerializeToString())
    outcome = prepare_model(Job(model=str(raw), target=str(target), height=size, width=size,
                                input=InputTable(size=(size, size), colour="rgb", scale=1 / 255)))
    assert outcome.folded
    return target


def pictures(height, width, count=24, seed=0):
    """Random rectangles on random slopes, uint8 (count, height, width, 3): variety for a calibration, nothing more."""
    random = np.random.default_rng(seed)
    made = np.empty((count, height, width, 3), np.uint8)
    for picture in made:
        slope = np.linspace(*random.integers(0, 256, 2), width)[None, :, None]
        picture[:] = slope.astype(np.uint8)
        for _ in range(12):
            top, left = random.integers(0, height), random.integers(0, width)
            picture[top:top + random.integers(4, height // 2), left:left + random.integers(4, width // 2)] = (
                random.integers(0, 256, 3))
    return made


def forms_of(prepared: Path, folder: Path, frames) -> dict[Form, Path]:
    """All five forms, written by the code that writes them in the product."""
    from agent.building.precision import QuantiseSettings, write_forms

    folder.mkdir(exist_ok=True)
    written = write_forms(prepared, folder, list(Form), frames, QuantiseSettings())
    failed = {form: why for form, why in written.items() if isinstance(why, str)}
    assert not failed, failed
    return written
