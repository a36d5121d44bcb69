"""What ONNX Runtime saves as its own optimised model, with the real library."""

import os
import shutil
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agent.building import ort_builder
from agent.building.ort_builder import build_ort
from agent.errors import ModelError
from tests.helpers import onnx_models, trt_models


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return trt_models.prepared_detector(tmp_path_factory.mktemp("detector"), 64)


def go(source, target, **chosen):
    return build_ort(source, target, **{"provider": None, "threads": 1, "report": lambda *_: None,
                                        "cancelled": lambda: False, **chosen})


def outputs(path, pictures, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"frames": pictures})


def own_operators(path):
    """Operators that only ONNX Runtime has."""
    return {node.op_type for node in onnx.load(str(path)).graph.node if node.domain.startswith("com.microsoft")}


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: mounting a small tmpfs to fill it up")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"needs the right to mount: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_the_saved_model_is_optimised_already_and_gives_the_same(detector, tmp_path):
    seen = []
    built = go(detector, tmp_path / "engine", report=lambda *at: seen.append(at))
    target = tmp_path / "engine"
    assert built.bytes == target.stat().st_size
    assert built.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert (built.max_batch, built.workspace) == (0, 0)
    assert seen == [("optimising", number, 4) for number in range(5)]
    # Not fewer nodes: some versions leave many that only change the layout. What was fused and laid out is not ONNX's own.
    assert own_operators(detector) == set()
    assert own_operators(target) >= {"QuickGelu"}
    pictures = trt_models.pictures(64, 64, 3)
    off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for one, other in zip(outputs(detector, pictures), outputs(target, pictures, off), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_a_fixed_batch_is_told(detector, tmp_path):
    model = onnx.load(str(detector))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    assert go(tmp_path / "fixed.onnx", tmp_path / "engine").max_batch == 1


def test_never_another_provider(detector, tmp_path):
    with pytest.raises(ModelError, match="'MadeUpExecutionProvider' is not in this onnxruntime") as caught:
        go(detector, tmp_path / "engine", provider="MadeUpExecutionProvider")
    assert "[engine] provider" in caught.value.remedy


def test_a_provider_that_falls_back_is_refused(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider"])
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(ModelError, match="asked for AzureExecutionProvider, onnxruntime took CPUExecutionProvider"):
        go(detector, tmp_path / "engine", provider="AzureExecutionProvider")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no model", "unknown operator", "float input"])
def test_what_cannot_be_optimised_is_named_and_leaves_nothing(content, tmp_path):
    source = tmp_path / "bad.onnx"
    if content == "unknown operator":
        content = onnx_models.unsupported_op().SerializeToString()
    elif content == "float input":
        node = helper.make_node("Relu", ["frames"], ["out"])
        graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("frames", TensorProto.FLOAT, [1, 8, 8, 3])],
                                  [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
        content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    source.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx") as caught:
        go(source, tmp_path / "engine")
    assert caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize("asked", range(4))
def test_cancelled_at_any_step(detector, tmp_path, asked):
    answers = iter([False] * asked + [True])
    (tmp_path / "engine").write_bytes(b"old")
    with pytest.raises(ModelError, match="cancelled"):
        go(detector, tmp_path / "engine", cancelled=lambda: next(answers))
    assert (tmp_path / "engine").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_a_saved_model_that_answers_otherwise_is_refused(detector, tmp_path, monkeypatch):
    real, calls = ort_builder._run, []

    def second_differs(*given):
        calls.append(real(*given))
        return [output + np.float32(0.01) * np.abs(output).max() * (len(calls) - 1) for output in calls[-1]]

    monkeypatch.setattr(ort_builder, "_run", second_differs)
    with pytest.raises(ModelError, match=r"differ by 0\.01 of their range"):
        go(detector, tmp_path / "engine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("one", "other", "expected"), [
    ([np.ones(3)], [np.ones(3)], 0.0),
    ([np.array([0.0, 10.0])], [np.array([1.0, 10.0])], 0.1),
    ([np.ones(3)], [np.ones(4)], float("inf")),
    ([np.ones(3)], [np.ones(3), np.ones(3)], float("inf")),
    ([np.array([1.0, np.nan])], [np.array([1.0, 2.0])], float("inf")),
    ([np.array([1.0, np.nan])], [np.array([1.0, np.nan])], 0.0),
    ([np.zeros(0)], [np.zeros(0)], 0.0),
])
def test_difference(one, other, expected):
    assert ort_builder._difference(one, other) == pytest.approx(expected)


def test_scraps_of_killed_builds_go(detector, tmp_path):
    (tmp_path / ".engine.1.part").write_bytes(b"half")
    go(detector, tmp_path / "engine")
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_a_full_disk_is_said(detector, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ort_builder.os, "fsync", full)
    with pytest.raises(ModelError, match="cannot be written: No space left"):
        go(detector, tmp_path / "engine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", [0, 300_000])
def test_a_disk_that_is_really_full_is_said_and_not_the_runtimes_own_words(detector, small_disk, left):
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "others").write_bytes(b"x" * (free - left))
    with pytest.raises(ModelError, match=r"cannot save it: the disk is full: 0\.0 MB free") as caught:
        go(detector, small_disk / "engine")
    assert caught.value.remedy.startswith("make room")
    assert [path.name for path in small_disk.iterdir()] == ["others"]


@pytest.mark.parametrize(("free", "words", "remedy"), [(0.5, "the disk is full", "make room"), (3, "cannot load what it saved itself", "another form")])
def test_a_saved_model_that_was_cut_short_is_told_by_the_room_there_is(detector, tmp_path, monkeypatch, free, words, remedy):
    real = onnxruntime.InferenceSession

    def cuts(path, options, **named):
        session = real(path, options, **named)
        for scrap in tmp_path.glob(".engine.*.part"):
            os.truncate(scrap, 1000)
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", cuts)
    usage = shutil._ntuple_diskusage(1, 1, int(free * detector.stat().st_size))
    monkeypatch.setattr(ort_builder.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=words) as caught:
        go(detector, tmp_path / "engine")
    assert remedy in caught.value.remedy
    assert "fp32" not in caught.value.remedy, "that may be what failed"
    assert not list(tmp_path.iterdir())


def test_a_bad_model_is_bad_on_a_full_disk_too(tmp_path, monkeypatch):
    monkeypatch.setattr(ort_builder.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx: onnxruntime cannot optimise and save it"):
        go(tmp_path / "bad.onnx", tmp_path / "engine")


def test_a_folder_that_is_not_there_is_said(detector, tmp_path):
    with pytest.raises(ModelError):
        go(detector, tmp_path / "nowhere" / "engine")


def test_no_telemetry(detector, tmp_path, monkeypatch):
    off = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: off.append(1))
    go(detector, tmp_path / "engine")
    assert off
