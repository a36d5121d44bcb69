"""Quantising real networks on real pictures: boxes stay, the wrong way is worse, the CPU gains, memory stays bounded."""

import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from agent.building import graph
from agent.building.forms import Form
from agent.building.precision import QuantiseSettings, head_convs, quantise, read_report, write_forms
from agent.building.recipe import InputTable
from agent.inference.engine import EngineSpec, TensorSpec
from agent.inference.heads import HeadConfig, make_head
from agent.inference.letterbox import Letterbox
from tests.helpers import media
from tests.helpers.wrong_quantisation import quantise_everything

LAB = Path(__file__).resolve().parents[3] / "shared" / "lab"
SIDE = 320
FACES = HeadConfig(kind="centerface", classes=1, score=0.5, iou=0.3, landmarks=5)


def canvases(side: int, pad: int, every: int, clip: media.Media = media.CARPHONE):
    """Return letterboxed frames (n, side, side, 3) of a clip and their placements."""
    capture, letterbox = cv2.VideoCapture(str(media.fetch(*clip))), Letterbox(side, side, pad)
    frames, placements = [], []
    while capture.grab():
        if int(capture.get(cv2.CAP_PROP_POS_FRAMES)) % every == 1:
            canvas = np.empty((side, side, 3), np.uint8)
            placements.append(letterbox.place(capture.retrieve()[1], canvas))
            frames.append(canvas)
    capture.release()
    assert frames
    return np.stack(frames), placements


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def model(prepared):
    (path,) = (prepared / "engines" / "centerface").glob("*.onnx")
    return path


@pytest.fixture(scope="module")
def clip():
    """Frames to calibrate with from the first half of the clip, to judge by from the second, and their placements."""
    frames, placements = canvases(SIDE, 0, every=12)
    half = len(frames) // 2
    return frames[:half], frames[half:], placements[half:]


def faces(path: Path, frames, placements):
    """Return the boxes and scores of each frame."""
    engine = session(path)
    outputs = tuple(TensorSpec(name=o.name, dtype="float32", shape=tuple(d if isinstance(d, int) else -1 for d in o.shape))
                    for o in engine.get_outputs())
    head = make_head(FACES, EngineSpec(height=SIDE, width=SIDE, max_batch=8, outputs=outputs))
    return [head(engine.run(None, {"frames": frame[None]}), [place])[0]
            for frame, place in zip(frames, placements, strict=True)]


def overlap(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def worst(reference, found) -> tuple[float, float]:
    """The least overlap and the largest score difference over frames with one face each; 0 and 1 when one is missed."""
    assert {len(one) for one in reference} == {1}
    if {len(one) for one in found} != {1}:
        return 0.0, 1.0
    return (min(overlap(a.xyxy[0], b.xyxy[0]) for a, b in zip(reference, found, strict=True)),
            max(abs(float(a.scores[0] - b.scores[0])) for a, b in zip(reference, found, strict=True)))


@pytest.fixture(scope="module")
def on_cpu(model, clip, tmp_path_factory):
    """The INT8 form for ONNX Runtime on the CPU."""
    path = tmp_path_factory.mktemp("cpu") / "int8-fp32.onnx"
    done = quantise(model, path, clip[0], flavour="cpu")
    assert (done.convolutions, done.quantised) == (60, 54)
    return path


def test_the_int8_form_for_the_cpu_finds_the_same_faces(model, on_cpu, clip):
    _, held_out, placements = clip
    iou, drift = worst(faces(model, held_out, placements), faces(on_cpu, held_out, placements))
    assert iou > 0.85
    assert drift < 0.08


def error(model: Path, path: Path, frames) -> float:
    """The mean difference of the raw outputs as a share of their ranges."""
    one, other = session(model), session(path)
    return float(np.mean([
        np.abs(a - b).mean() / np.ptp(a) for frame in frames
        for a, b in zip(one.run(None, {"frames": frame[None]}), other.run(None, {"frames": frame[None]}), strict=True)]))


def test_all_forms_find_the_same_faces_and_quantising_everything_is_worse(model, clip, tmp_path):
    calibration, held_out, placements = clip
    written = write_forms(model, tmp_path, list(Form), calibration, QuantiseSettings())
    report = read_report(tmp_path)
    assert (report.convolutions, report.quantised) == (60, 56)
    reference = faces(model, held_out, placements)
    for form, path in written.items():
        assert isinstance(path, Path), f"{form}: {path}"
        iou, drift = worst(reference, faces(path, held_out, placements))
        least, most = (0.98, 0.01) if form.precision != "int8" else (0.5, 0.25) if form is Form.INT8_FP16 else (0.85, 0.08)
        # Scales in FP16 cost much on ONNX Runtime's CPU provider (IoU 0.77 with 1.31; 0.66 and a drift
        # of 0.19 with 1.23), which is never given them: there the same faces must do.
        assert iou > least, form
        assert drift < most, form
    wrong = quantise_everything(model, tmp_path / "wrong.onnx", calibration)
    assert error(model, wrong, held_out) > 1.4 * error(model, written[Form.INT8_FP32], held_out)
    assert worst(reference, faces(wrong, held_out, placements))[1] > 0.12


def test_the_four_branches_are_the_head_of_centerface(model):
    network = onnx.load(str(model))
    named = head_convs(network)
    makers = {name: node for node in network.graph.node for name in node.output}
    ends = [makers[output.name] for output in network.graph.output]
    assert set(named) == {(makers[end.input[0]] if end.op_type == "Sigmoid" else end).name for end in ends}
    assert len(named) == 4


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The lab's YOLO-shaped network, prepared; its weights are random, so only numbers can be compared."""
    script = LAB / "make_detector.py"
    if not script.exists():
        pytest.skip(f"needs {script}: the lab's scripts stand beside the repository, in ../shared/lab")
    network = runpy.run_path(str(script))["build"](SIDE)
    graph.tidy(network)
    graph.fold_input(network, InputTable(size=(SIDE, SIDE), colour="rgb", scale=1 / 255), SIDE, SIDE)
    graph.set_outputs(network, [[None, 12, 2000]], None)
    path = tmp_path_factory.mktemp("detector") / "prepared.onnx"
    onnx.save(network, path)
    return path


@pytest.mark.parametrize("flavour", ["tensorrt", "cpu"])
def test_a_yolo_shaped_network_keeps_its_boxes_and_scores(detector, tmp_path, flavour):
    frames, _ = canvases(SIDE, 114, every=20)
    quantise(detector, tmp_path / "right.onnx", frames[::2], flavour=flavour)
    quantise_everything(detector, tmp_path / "wrong.onnx", frames[::2])
    engines = [session(path) for path in (detector, tmp_path / "right.onnx", tmp_path / "wrong.onnx")]
    expected, right, wrong = (np.concatenate([engine.run(None, {"frames": frame[None]})[0] for frame in frames[1::2]])
                              for engine in engines)
    pixels, scores = np.abs(right - expected)[:, :4].max(), np.abs(right - expected)[:, 4:].max()
    assert pixels < 0.3
    assert scores < 0.005
    assert np.abs(wrong - expected)[:, :4].max() > 5 * pixels
    assert np.abs(wrong - expected)[:, 4:].max() > 5 * scores  # pixels and scores under one scale


@pytest.mark.slow
def test_int8_is_faster_on_one_thread_of_the_cpu(model, on_cpu, clip):
    if "avx512_vnni" not in (flags := Path("/proc/cpuinfo").read_text("utf-8")) and "asimddp" not in flags:
        pytest.skip("needs a CPU with INT8 dot products (avx512_vnni or asimddp): without, INT8 need not be faster")
    engines = [session(model), session(on_cpu)]
    times: list[list[float]] = [[], []]
    for _ in range(40):  # in turns, so that both meet the same machine
        for engine, taken in zip(engines, times, strict=True):
            begin = time.perf_counter()
            engine.run(None, {"frames": clip[1][:1]})
            taken.append(time.perf_counter() - begin)
    assert np.median(times[0]) / np.median(times[1]) > 1.3  # 1.6 measured; docs/engines.md


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from agent.building.precision import quantise
frames = np.random.default_rng(0).integers(0, 256, (int(sys.argv[3]), 320, 320, 3), np.uint8)
quantise(Path(sys.argv[1]), Path(sys.argv[2]), frames)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_frames(model, tmp_path):
    peaks = []
    for count in (3, 20):
        script = subprocess.run([sys.executable, "-c", MEMORY, model, tmp_path / "q.onnx", str(count)], check=True,
                                capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2],
                                env=os.environ | {"MALLOC_ARENA_MAX": "2"})
        peaks.append(int(re.findall(r"\d+", script.stdout)[-1]))
    # One frame's activations are 120 MB; the frames themselves, 0.3 MB each, are the caller's.
    assert peaks[1] < peaks[0] + 50, peaks
