"""Heads on real networks' outputs: they find what is in the picture, and agree with the slow reference."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from agent.inference.engine import EngineSpec, TensorSpec
from agent.inference.heads import HeadConfig, make_head
from agent.records import Detections, Placement
from tests.helpers import media
from tests.helpers.reference_heads import assert_same, detect

LAB = Path(__file__).resolve().parents[3] / "shared" / "lab"
PERSON, BICYCLE = 0, 1  # COCO's order


def script(name: str) -> Path:
    path = LAB / name
    if not path.exists():
        pytest.skip(f"needs {path}: the lab's scripts stand beside the repository, in ../shared/lab")
    return path


def letterboxed(pictures, side: int, pad: int):
    """Return (n, side, side, 3) uint8 and the placements."""
    canvas, placements = np.full((len(pictures), side, side, 3), pad, np.uint8), []
    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        new_height, new_width = round(height * scale), round(width * scale)
        top, left = (side - new_height) // 2, (side - new_width) // 2
        canvas[number, top:top + new_height, left:left + new_width] = cv2.resize(picture, (new_width, new_height))
        placements.append(Placement(scale=scale, left=left, top=top, width=width, height=height))
    return canvas, placements


class Network:
    """An ONNX model run as it is, with the preprocessing that its authors meant."""

    def __init__(self, path: Path, side: int, head: HeadConfig, *, scale: float, pad: int) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.side, self.config, self.scale, self.pad = side, head, scale, pad
        outputs = tuple(TensorSpec(name=o.name, dtype="float32", shape=tuple(d if isinstance(d, int) else -1 for d in o.shape))
                        for o in self.session.get_outputs())
        self.head = make_head(head, EngineSpec(height=side, width=side, max_batch=8, outputs=outputs))

    def detect(self, pictures) -> list[Detections]:
        """Return the head's detections, after comparing each frame's with the reference."""
        canvas, placements = letterboxed(pictures, self.side, self.pad)
        rgb = np.ascontiguousarray(canvas[..., ::-1].transpose(0, 3, 1, 2), np.float32) * np.float32(self.scale)
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: rgb})
        found = self.head(outputs, placements)
        for number, (one, placement) in enumerate(zip(found, placements, strict=True)):
            expected = detect(self.head.kind, [output[number] for output in outputs], self.config, placement)
            assert_same(one, expected, self.config.landmarks)
        return found


def frames(clip: Path, every: int):
    capture = cv2.VideoCapture(str(clip))
    pictures = []
    while capture.grab():
        if int(capture.get(cv2.CAP_PROP_POS_FRAMES)) % every == 1:
            pictures.append(capture.retrieve()[1])
    capture.release()
    assert pictures
    return pictures


@pytest.fixture(scope="module")
def centerface(tmp_path_factory) -> Path:
    """The model with its real shapes: the published file declares a batch of 10 pictures of 32 x 32."""
    model = onnx.load(media.fetch(*media.CENTERFACE))
    del model.graph.value_info[:]
    del model.graph.input[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("input.1", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"]))
    for output in model.graph.output:
        for axis, name in ((0, "n"), (2, "h4"), (3, "w4")):
            output.type.tensor_type.shape.dim[axis].dim_param = name
    path = tmp_path_factory.mktemp("centerface") / "centerface.onnx"
    onnx.save(model, path)
    return path


def test_centerface_finds_the_one_face_of_the_carphone_clip(centerface):
    network = Network(centerface, 320, HeadConfig(kind=None, classes=1, score=0.5, iou=0.3, landmarks=5), scale=1.0, pad=0)
    assert network.head.kind == "centerface"
    pictures = frames(media.fetch(*media.CARPHONE), every=15)
    assert len(pictures) == 8
    found = [one for start in (0, 4) for one in network.detect(pictures[start:start + 4])]
    assert [len(one) for one in found] == [1] * 8
    for one in found:
        x1, y1, x2, y2 = one.xyxy[0]
        assert 30 < x2 - x1 < 100
        assert 40 < y2 - y1 < 120  # of 176 x 144
        eye, other_eye, nose, mouth, other_mouth = one.landmarks[0]
        assert eye[0] < other_eye[0]
        assert max(eye[1], other_eye[1]) < nose[1] < min(mouth[1], other_mouth[1])
        assert mouth[0] < other_mouth[0]


def test_centerface_with_a_low_threshold_equals_the_reference(centerface):
    network = Network(centerface, 320, HeadConfig(kind="centerface", classes=1, score=0.02, iou=0.3), scale=1.0, pad=0)
    (found,) = network.detect([cv2.imread(str(media.fetch(*media.ASTRONAUT)))])
    assert len(found) > 3
    assert found.scores[0] > 0.8
    face = found.xyxy[0]
    assert 150 < face[0] < face[2] < 300  # her face, in the 512 x 512 portrait
    assert 30 < face[1] < face[3] < 250


@pytest.mark.slow
def test_yolov3_tiny_finds_the_cyclist_and_the_bicycle(tmp_path):
    model = tmp_path / "yolov3-tiny.onnx"
    convert = script("darknet2onnx.py")
    subprocess.run([sys.executable, convert, media.fetch(*media.YOLOV3_TINY_CFG),
                    media.fetch(*media.YOLOV3_TINY_WEIGHTS), model], check=True, timeout=120)
    network = Network(model, 416, HeadConfig(kind=None, classes=80, score=0.3, iou=0.45), scale=1 / 255, pad=128)
    assert network.head.kind == "yolov5"
    found = network.detect(frames(media.fetch(*media.BIKES), every=25))
    street = found[5]  # a cyclist stands right of the middle, beside a car that leaves the picture
    assert street.scores[0] > 0.9
    assert street.class_ids[0] == PERSON
    np.testing.assert_allclose(street.xyxy[0], [381, 3, 491, 267], atol=15)
    (bicycle,) = street.xyxy[street.class_ids == BICYCLE]
    np.testing.assert_allclose(bicycle, [391, 169, 525, 269], atol=15)


def test_yolov8_shaped_network_equals_the_reference(tmp_path):
    model = tmp_path / "detector.onnx"
    subprocess.run([sys.executable, script("make_detector.py"), model], check=True, timeout=120)
    network = Network(model, 320, HeadConfig(kind=None, classes=8, score=0.52, iou=0.45), scale=1 / 255, pad=114)
    assert network.head.kind == "yolov8"
    found = network.detect(frames(media.fetch(*media.CARPHONE), every=60))
    assert all(len(one) > 10 for one in found)  # random weights: what they see means nothing
