import gc
import threading
import time

import numpy as np
import pytest

from agent.errors import EngineError
from agent.inference import tensorrt as module
from agent.inference.device import CudaDevice
from agent.inference.engine import infer
from agent.inference.tensorrt import TensorRtEngine
from tests.helpers.cuda_double import CudaDouble, LogicError
from tests.helpers.gpu_models import SIDE, on_cpu, pictures, scorer
from tests.helpers.trt_double import TrtDouble, make_plan


class Rig:
    def __init__(self, folder, **settings):
        self.cuda = CudaDouble(**settings)
        self.device = CudaDevice(cuda=self.cuda)
        self.trt = TrtDouble(self.cuda)
        self.path = folder / "x.engine"

    def engine(self, plan=None, **settings):
        self.path.write_bytes(make_plan(scorer()) if plan is None else plan)
        return TensorRtEngine(self.path, **({
            "runtime": "tensorrt", "name": "door", "identity": "0" * 16, "form": "int8-fp16", "model_sha256": "1" * 64,
            "device": self.device, "max_batch": 4, "trt": self.trt} | settings))


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def rig(request, tmp_path):
    made = Rig(tmp_path, integrated=request.param)
    yield made
    gc.collect()
    assert made.cuda.broken == []
    assert made.cuda._stack() == []


def test_it_gives_what_onnx_runtime_gives_for_every_batch(rig):
    loaded = rig.engine()
    loaded.warm_up()
    for count in range(1, 5):
        frames = pictures(count, seed=count)
        for given, expected in zip(infer(loaded, frames), on_cpu(scorer(), frames), strict=True):
            np.testing.assert_allclose(given, expected, rtol=1e-5)
            assert given.dtype == expected.dtype
    loaded.close()


def test_the_spec_and_the_description(rig):
    loaded = rig.engine()
    spec, described = loaded.spec, loaded.describe()
    assert (spec.height, spec.width, spec.max_batch, spec.depth) == (SIDE, SIDE, 4, 2)
    assert [(o.name, o.shape, o.dtype) for o in spec.outputs] == [("rows", (-1, 8), "float32"), ("means", (-1, 3), "float32")]
    assert (described.runtime, described.provider, described.precision, described.threads) == ("tensorrt 10.3.0", "Double", "int8-fp16", 0)
    assert loaded.device_bytes >= 4096
    loaded.close()


def test_float16_outputs_stay_float16(rig):
    loaded = rig.engine(make_plan(scorer(half=True)))
    rows, _ = infer(loaded, pictures(3))
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, on_cpu(scorer(half=True), pictures(3))[0])
    loaded.close()


def test_the_profile_bounds_the_batch(rig):
    loaded = rig.engine(make_plan(scorer(), most=3), max_batch=8)
    assert loaded.spec.max_batch == 3
    with pytest.raises(EngineError, match="takes 1 to 3 contiguous frames"):
        loaded.start(pictures(4))
    loaded.close()


@pytest.mark.parametrize(("plan", "most"), [(make_plan(scorer(2)), 2), (make_plan(scorer(), least=2), 4)])
def test_a_plan_that_wants_more_frames_than_there_are_is_filled_up(plan, most, rig):
    loaded = rig.engine(plan)
    assert loaded.spec.max_batch == most
    given = infer(loaded, pictures(1))
    assert [output.shape for output in given] == [(1, 8), (1, 3)]
    np.testing.assert_allclose(given[0], on_cpu(scorer(), pictures(1))[0], rtol=1e-5)
    loaded.close()


def test_two_calls_are_under_way_and_neither_sees_the_other(rig):
    loaded = rig.engine()
    batch = pictures(2, seed=1)
    first = loaded.start(batch)
    batch[:] = 0  # the caller's again
    second = loaded.start(pictures(3, seed=2))
    np.testing.assert_allclose(first()[0], on_cpu(scorer(), pictures(2, seed=1))[0], rtol=1e-5)
    third = loaded.start(pictures(1, seed=3))
    np.testing.assert_allclose(second()[0], on_cpu(scorer(), pictures(3, seed=2))[0], rtol=1e-5)
    np.testing.assert_allclose(third()[0], on_cpu(scorer(), pictures(1, seed=3))[0], rtol=1e-5)
    loaded.close()


def test_outputs_belong_to_the_caller(rig):
    loaded = rig.engine()
    kept = infer(loaded, pictures(2, seed=1))[0]
    copy = kept.copy()
    for seed in range(3):
        infer(loaded, pictures(2, seed=seed + 2))
    np.testing.assert_array_equal(kept, copy)
    kept[:] = 0
    loaded.close()


def test_without_a_spare_outputs_are_copied_and_with_one_they_are_not(rig):
    loaded = rig.engine()
    held = [infer(loaded, pictures(1, seed=seed)) for seed in range(6)]
    for seed, given in enumerate(held):
        for one, other in zip(given, on_cpu(scorer(), pictures(1, seed=seed)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
    assert [given[0].flags.owndata for given in held] == [False] * 2 + [True] * 4
    view = held[0][0][:, 2:]
    held.clear()
    kept = view.copy()
    assert len(loaded._staging._spares) == 1  # the other is still seen through the view
    for seed in range(6, 12):
        infer(loaded, pictures(1, seed=seed))
    np.testing.assert_array_equal(view, kept)
    del view, given, one, other
    assert len(loaded._staging._spares) == 2
    loaded.close()
    gc.collect()
    assert rig.cuda.living() == []


def test_outputs_outlive_the_engine_and_the_device(rig):
    loaded = rig.engine()
    kept = infer(loaded, pictures(2, seed=4))
    loaded.close()
    rig.device.close()
    assert len(rig.cuda.living()) == 2
    for one, other in zip(kept, on_cpu(scorer(), pictures(2, seed=4)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    del kept, one
    assert rig.cuda.living() == []


def test_the_third_start_blocks_until_the_first_was_waited_for(rig):
    loaded = rig.engine()
    first, second, third = loaded.start(pictures(1)), loaded.start(pictures(1)), []
    thread = threading.Thread(target=lambda: third.append(loaded.start(pictures(1, seed=9))))
    thread.start()
    time.sleep(0.1)
    assert not third
    first()
    thread.join(5)
    second()
    np.testing.assert_allclose(third[0]()[0], on_cpu(scorer(), pictures(1, seed=9))[0], rtol=1e-5)
    loaded.close()


def test_start_and_wait_in_two_threads(rig):
    loaded = rig.engine()
    failed, under_way, ready = [], [], threading.Semaphore(0)

    def tell():
        for seed in range(40):
            ready.acquire()
            try:
                np.testing.assert_allclose(under_way.pop(0)()[0], on_cpu(scorer(), pictures(1 + seed % 4, seed))[0], rtol=1e-5)
            except Exception as error:  # noqa: BLE001
                failed.append(error)

    thread = threading.Thread(target=tell)
    thread.start()
    for seed in range(40):
        under_way.append(loaded.start(pictures(1 + seed % 4, seed)))
        ready.release()
    thread.join()
    loaded.close()
    assert failed == []


def test_copies_and_computing_lie_in_three_streams_on_a_gpu_of_its_own(tmp_path):
    rig = Rig(tmp_path)
    loaded = rig.engine()
    pending = loaded.start(pictures(1))
    assert sorted(len(stream.queue) for stream in rig.cuda._streams) == [1, 2, 3]  # in; wait, run; wait, two out
    pending()
    loaded.close()


def test_on_an_integrated_gpu_nothing_is_copied(tmp_path):
    rig = Rig(tmp_path, integrated=True)
    loaded = rig.engine()
    infer(loaded, pictures(2))
    assert not {"memcpy_htod_async", "memcpy_dtoh_async", "mem_alloc"} & set(rig.cuda.calls)
    loaded.close()


@pytest.mark.parametrize(("what", "words"), [
    ("enqueue", "the run cannot be queued: Error Code 1"), ("address", "the address of 'frames' is refused: Parameter"),
    ("shape", r"the shape \(1, 16, 16, 3\) is refused: Parameter"), ("launch", "queued work failed: an illegal memory")])
def test_a_failed_run_raises_with_the_loggers_words_and_gives_nothing_old(what, words, rig):
    loaded = rig.engine()
    good = loaded.start(pictures(1, seed=1))
    expected = on_cpu(scorer(), pictures(1, seed=1))[0]
    if what != "launch":
        rig.trt.fail.add(what)
        with pytest.raises(EngineError, match=rf"^engine door \(.*x.engine\): {words}"):
            infer(loaded, pictures(1, seed=2))
        np.testing.assert_allclose(good()[0], expected, rtol=1e-5)  # the call before is none the worse
    else:
        good()
        rig.trt.fail.add(what)
        pending = loaded.start(pictures(1, seed=2))
        with pytest.raises(EngineError, match=words):
            pending()
    rig.trt.fail.clear()
    with pytest.raises(EngineError, match="a run failed earlier") as caught:
        loaded.start(pictures(1))
    assert caught.value.remedy
    rig.cuda.sticky = None
    loaded.close()


def test_a_failed_copy_raises(tmp_path):
    for name in ("memcpy_htod_async", "memcpy_dtoh_async"):
        rig = Rig(tmp_path)
        loaded = rig.engine()
        infer(loaded, pictures(1))
        rig.cuda.fail[name] = LogicError("bad copy")
        with pytest.raises(EngineError, match=r"engine door .*a copy .* failed: bad copy"):
            loaded.start(pictures(1))
        loaded.close()
        assert rig.cuda.broken == []


@pytest.mark.parametrize("batch", [
    pictures(0), pictures(5), pictures(1).astype(np.float32), pictures(1)[:, :8], pictures(1)[..., ::-1], pictures(1)[0]])
def test_a_batch_against_the_contract_is_refused_and_harms_nothing(batch, rig):
    loaded = rig.engine()
    with pytest.raises(EngineError, match="takes 1 to 4 contiguous frames"):
        loaded.start(batch)
    infer(loaded, pictures(1))
    loaded.close()


@pytest.mark.parametrize("plan", [b"", b"garbage", b"double planet"])
def test_a_plan_that_does_not_load_says_why_and_leaves_nothing(plan, rig):
    with pytest.raises(EngineError, match=r"engine door .*the plan does not load: Serialization assertion") as caught:
        rig.engine(plan)
    assert "vedette engines build" in caught.value.remedy
    assert rig.cuda.living() == []


def test_a_context_that_cannot_be_made(rig):
    rig.trt.fail.add("context")
    with pytest.raises(EngineError, match="no execution context: Error Code 2: OutOfMemory"):
        rig.engine()


def test_a_missing_plan(rig, tmp_path):
    with pytest.raises(EngineError, match=r"gone\.engine\): cannot be read: No such file"):
        TensorRtEngine(tmp_path / "gone.engine", runtime="tensorrt", name="door", identity="", form="fp16", model_sha256="",
                       device=rig.device, trt=rig.trt)


def test_the_wheel_for_other_machines_is_recognised(rig, monkeypatch):
    real = rig.trt.error
    monkeypatch.setattr(rig.trt, "error", lambda words, answer=None: real("Target GPU SM 87 is not supported by this TensorRT release", answer))
    with pytest.raises(EngineError, match="SM 87") as caught:
        rig.engine(b"garbage")
    assert "python3-libnvinfer" in caught.value.remedy
    assert "--system-site-packages" in caught.value.remedy


def test_without_a_driver_the_runtime_cannot_be_made(rig, monkeypatch):
    def none(logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(rig.trt, "Runtime", none)
    with pytest.raises(EngineError, match="TensorRT's runtime cannot be made: TensorRT gave no reason"):
        rig.engine()


def test_outputs_that_are_on_the_host_or_of_no_numpy_type_are_refused(rig, monkeypatch):
    rig.trt.output_location = rig.trt.TensorLocation.HOST
    with pytest.raises(EngineError, match="output 'rows' has the shape"):
        rig.engine()
    rig.trt.output_location = rig.trt.TensorLocation.DEVICE
    real = rig.trt.nptype
    monkeypatch.setattr(rig.trt, "nptype", lambda kind: real(rig.trt.DataType.BF16))
    with pytest.raises(EngineError, match="of a type that numpy lacks") as caught:
        rig.engine()
    assert caught.value.remedy
    assert rig.trt.alive == []  # although the traceback still holds the half-made engine


def test_too_little_memory_frees_what_was_taken(tmp_path):
    rig = Rig(tmp_path, total=3000)
    with pytest.raises(EngineError, match=r"engine door .* cannot be allocated"):
        rig.engine()
    gc.collect()
    assert rig.cuda.living() == []
    assert rig.cuda.broken == []


def test_close_frees_everything_and_may_be_called_again(rig):
    loaded = rig.engine()
    infer(loaded, pictures(2))
    loaded.close()
    loaded.close()
    assert rig.trt.alive == []
    assert rig.cuda.living() == []
    with pytest.raises(EngineError, match="is closed"):
        loaded.start(pictures(1))


def test_close_waits_for_calls_under_way(rig):
    loaded = rig.engine()
    pendings = [loaded.start(pictures(1, seed=seed)) for seed in (1, 2)]
    thread = threading.Thread(target=loaded.close)
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    for seed, pending in zip((1, 2), pendings, strict=True):
        np.testing.assert_allclose(pending()[0], on_cpu(scorer(), pictures(1, seed=seed))[0], rtol=1e-5)
    thread.join(5)
    assert not thread.is_alive()
    assert rig.cuda.living() == []


def test_a_call_that_nobody_waits_for_does_not_hold_up_close_for_ever(rig, monkeypatch, caplog):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    loaded = rig.engine()
    loaded.start(pictures(1))
    loaded.close()
    assert "nobody fetched" in caplog.text
    assert rig.cuda.living() == []


def test_there_is_one_logger_a_process(rig):
    one = rig.engine()
    two = rig.engine()
    assert module._logger(rig.trt) is module._logger(rig.trt)
    for loaded in (one, two):
        loaded.close()


def test_missing_bindings_say_where_they_come_from(rig):
    for runtime, words in (("tensorrt", "python3-libnvinfer"), ("no_such_runtime", "libnvinfer")):
        with pytest.raises(EngineError, match=f"{runtime} cannot be imported") as caught:
            rig.engine(runtime=runtime, trt=None)
        assert words in caught.value.remedy
