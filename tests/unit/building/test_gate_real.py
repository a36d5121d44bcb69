"""The gate on real arithmetic: a detector quantised as it should be passes, one quantised the wrong way does not.

The net has YOLOv8's layout and random weights; what comes out of it is computed by ONNX Runtime, nothing is scripted.
Only the times are given, so that the verdict is about answers.
"""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from agent.building import graph
from agent.building.agreement import agree, output_difference
from agent.building.forms import Form
from agent.building.gate import Measured, Speed, Tolerance, judge
from agent.building.precision import quantise
from agent.building.recipe import InputTable
from agent.inference.engine import infer
from agent.inference.heads import HeadConfig, make_head
from agent.inference.onnxruntime import OnnxRuntimeEngine
from agent.records import Placement
from bench.media import _write_detector

SIDE = 160
LIMITS = Tolerance()
WHERE = Placement(scale=1.0, left=0, top=0, width=SIDE, height=SIDE)


def pictures(count: int, seed: int) -> np.ndarray:
    """(count, SIDE, SIDE, 3) uint8: noise of several sizes, so that boxes of several sizes are found."""
    rng = np.random.default_rng(seed)
    return np.stack([np.kron(rng.integers(0, 256, (SIDE // grain, SIDE // grain, 3)), np.ones((grain, grain, 1))).astype(np.uint8)
                     for grain in rng.choice([1, 2, 4, 8], count)])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    _write_detector(folder / "model.onnx", SIDE)
    model = copy.deepcopy(onnx.load(folder / "model.onnx"))
    graph.tidy(model)
    graph.fold_input(model, InputTable(size=(SIDE, SIDE), colour="rgb", scale=1 / 255), SIDE, SIDE)
    onnx.save(model, folder / "prepared.onnx")
    return folder / "prepared.onnx"


def engine(path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(path, name="net", identity="0" * 16, model_sha256="0" * 64, threads=1)


def answers(path, frames):
    loaded = engine(path)
    head = make_head(HeadConfig(kind="yolov8", classes=80, score=0.25 - LIMITS.score_drift, iou=0.45), loaded.spec)
    raw = [infer(loaded, frame[None]) for frame in frames]
    return raw, [head(outputs, [WHERE])[0] for outputs in raw]


def judged(prepared, candidate, frames):
    raw, boxes = answers(prepared, frames)
    found_raw, found = answers(candidate, frames)
    worst = max(output_difference(a, b) for a, b in zip(raw, found_raw, strict=True))
    quick, slow = (Speed(runs=100, p50_ms=ms, p99_ms=ms, mean_ms=ms) for ms in (1.0, 2.0))
    measured = Measured(agreement=agree(boxes, found, threshold=0.25, score_drift=LIMITS.score_drift, output_difference=worst), speed=quick,
                        baseline=slow, frames_kind="held-out")
    return judge(Form.INT8_FP32, measured, LIMITS), measured.agreement


class Frames(CalibrationDataReader):
    def __init__(self, prepared, frames):
        name = onnxruntime.InferenceSession(str(prepared), providers=["CPUExecutionProvider"]).get_inputs()[0].name
        self.feeds = iter([{name: frame[None]} for frame in frames])

    def get_next(self):
        return next(self.feeds, None)


def test_the_right_way_passes_and_the_wrong_way_does_not(prepared, tmp_path):
    held_out = pictures(16, seed=1)
    quantise(prepared, tmp_path / "right.onnx", pictures(16, seed=2), method="percentile", percentile=99.99, exclude=None)
    verdict, agreement = judged(prepared, tmp_path / "right.onnx", held_out)
    assert agreement.reference_boxes >= 100
    assert verdict.kept, verdict.words

    quantize_static(str(prepared), str(tmp_path / "wrong.onnx"), Frames(prepared, pictures(16, seed=2)), quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)  # every operator, the head and its last Concat too
    verdict, agreement = judged(prepared, tmp_path / "wrong.onnx", held_out)
    assert not verdict.kept
    assert agreement.share < 0.9
    assert verdict.reasons[0].startswith(f"agreement {agreement.share:.3g} < 0.98 ({agreement.matched} of {agreement.reference_boxes} boxes; ")


def test_the_reference_agrees_with_itself(prepared):
    verdict, agreement = judged(prepared, prepared, pictures(6, seed=3))
    assert verdict.kept
    assert (agreement.share, agreement.extra, agreement.score_drift_max, agreement.output_difference) == (1.0, 0, 0.0, 0.0)
