import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agent.building.prepare import Job
from agent.building.preparing import prepare_model as work
from agent.building.recipe import InputTable
from agent.errors import EngineError, missing_extra
from agent.inference.engine import infer
from agent.inference.onnxruntime import OnnxRuntimeEngine, check_provider
from tests.helpers import onnx_models as nets

SIZE = (32, 64)


def engine(path: Path, **settings) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(path, **({"name": "door", "identity": "0" * 16, "model_sha256": "1" * 64, "threads": 1} | settings))


def prepared(folder: Path, model) -> Path:
    source = nets.save(model, folder / "source.onnx")
    target = folder / "prepared.onnx"
    work(Job(model=str(source), target=str(target), input=InputTable(size=SIZE, colour="rgb", scale=1 / 255),
             height=SIZE[0], width=SIZE[1]))
    return target


@pytest.fixture
def yolo(tmp_path) -> Path:
    return prepared(tmp_path, nets.yolov8())


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


def test_the_spec_is_what_the_file_says(yolo):
    spec = engine(yolo, max_batch=4).spec
    assert (spec.height, spec.width, spec.max_batch) == (*SIZE, 4)
    assert [(o.name, o.shape, o.dtype) for o in spec.outputs] == [("columns", (-1, 6, 32), "float32")]


def test_it_describes_what_really_runs(yolo):
    described = engine(yolo, threads=2).describe()
    assert described.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert (described.provider, described.precision, described.threads) == ("CPUExecutionProvider", "fp32", 2)
    assert (described.name, described.identity, described.model_sha256) == ("door", "0" * 16, "1" * 64)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 7), (None, 1)])
def test_without_a_number_one_core_is_left_to_the_cameras(cores, threads, yolo, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert engine(yolo, threads=0).describe().threads == threads


def test_a_batch_gives_what_its_frames_give_alone(yolo):
    loaded = engine(yolo, max_batch=3)
    together = infer(loaded, frames(3))[0]
    for index in range(3):
        np.testing.assert_allclose(together[index], infer(loaded, frames(3)[index:index + 1])[0][0], rtol=1e-5, atol=1e-5)


def test_a_later_call_leaves_earlier_outputs_alone(yolo):
    loaded = engine(yolo)
    first = infer(loaded, frames(1))[0]
    kept = first.copy()
    second = infer(loaded, frames(1, seed=1))[0]
    assert (second != kept).any()
    assert (first == kept).all()
    first[:] = 0
    assert (infer(loaded, frames(1))[0] == kept).all()


def test_start_has_done_the_work_and_the_batch_is_the_callers_again(yolo):
    loaded = engine(yolo)
    assert loaded.spec.depth == 1
    expected = infer(loaded, frames(1))[0]
    batch = frames(1)
    pending = loaded.start(batch)
    batch[:] = 0
    np.testing.assert_array_equal(pending()[0], expected)


def test_a_model_for_one_picture_lowers_the_batch(tmp_path):
    loaded = engine(prepared(tmp_path, nets.fixed_batch()), max_batch=8)
    loaded.warm_up()
    assert loaded.spec.max_batch == 1


@pytest.mark.parametrize("batch", [
    frames(0), frames(3), frames(1).astype(np.float32), frames(1)[:, :16], frames(1)[..., ::-1], frames(1)[0],
    np.zeros((1, 64, 32, 3), np.uint8)])
def test_a_batch_against_the_contract_is_refused(batch, yolo):
    with pytest.raises(EngineError, match="takes 1 to 2 contiguous frames"):
        engine(yolo, max_batch=2).start(batch)


@pytest.mark.parametrize("content", [
    b"", b"text", nets.yolov8().SerializeToString()[:-99], nets.unsupported_op().SerializeToString()])
def test_a_file_that_cannot_be_loaded_is_named_with_the_runtimes_words(content, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot be loaded: .*ONNXRuntimeError") as caught:
        engine(path)
    assert "engine door" in caught.value.what
    assert str(path) in caught.value.what
    assert "vedette engines fetch" in caught.value.remedy


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"gone\.onnx"):
        engine(tmp_path / "gone.onnx")


@pytest.mark.parametrize("build", [nets.yolov8, lambda: nets.model(
    [helper.make_node("Add", ["image", "b"], ["out"])], {}, ["out"],
    more_inputs=[helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])])])
def test_a_model_that_is_not_prepared_is_refused(build, tmp_path):
    with pytest.raises(EngineError, match="no prepared model"):
        engine(nets.save(build(), tmp_path / "m.onnx"))


def late_failure() -> object:
    """Loads well and fails when it runs: the Reshape fits no picture."""
    nodes = [helper.make_node("Cast", ["frames"], ["f"], to=TensorProto.FLOAT), helper.make_node("Reshape", ["f", "s"], ["out"])]
    model = nets.model(nodes, {"s": np.array([7, 11])}, ["out"], shape=["batch", *SIZE, 3], kind=TensorProto.UINT8)
    model.graph.input[0].name = "frames"
    return model


def test_a_failure_of_the_first_run_carries_the_runtimes_words(tmp_path):
    loaded = engine(nets.save(late_failure(), tmp_path / "m.onnx"))
    with pytest.raises(EngineError, match=r"engine door .*the run failed: .*Reshape"):
        loaded.warm_up()


def test_warming_up_finds_outputs_that_are_not_per_picture(tmp_path):
    nodes = [helper.make_node("Cast", ["frames"], ["f"], to=TensorProto.FLOAT), helper.make_node("Reshape", ["f", "s"], ["out"])]
    model = nets.model(nodes, {"s": np.array([-1, 3])}, ["out"], shape=["batch", *SIZE, 3], kind=TensorProto.UINT8)
    model.graph.input[0].name = "frames"
    loaded = engine(nets.save(model, tmp_path / "m.onnx"))
    with pytest.raises(EngineError, match=r"shape \(2048, 3\) for 1 frame"):
        loaded.warm_up()


def test_a_provider_that_is_not_there_is_an_error_and_no_fallback(yolo):
    with pytest.raises(EngineError, match="'MoonExecutionProvider' is not in this onnxruntime") as caught:
        engine(yolo, provider="MoonExecutionProvider")
    assert "[engine] provider" in caught.value.remedy


def test_a_provider_is_checked_without_an_engine(monkeypatch):
    check_provider("CPUExecutionProvider")
    with pytest.raises(EngineError, match=r"'MoonExecutionProvider' is not in this onnxruntime; it has .*CPUExecution"):
        check_provider("MoonExecutionProvider")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError) as caught:
        check_provider("CPUExecutionProvider")
    assert caught.value.remedy == missing_extra("cpu")


def test_a_provider_that_silently_gives_way_is_an_error(yolo, monkeypatch):
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession",
                        lambda path, options, providers: real(path, options, providers=["CPUExecutionProvider"]))
    with pytest.raises(EngineError, match="asked for CUDAExecutionProvider, onnxruntime took CPUExecutionProvider"):
        engine(yolo, provider="CUDAExecutionProvider")


def test_a_missing_package_names_the_extra(yolo, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError) as caught:
        engine(yolo)
    assert caught.value.remedy == missing_extra("cpu")


def test_importing_the_module_does_not_import_the_runtime():
    code = "import sys, agent.inference.onnxruntime; print('onnxruntime' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
