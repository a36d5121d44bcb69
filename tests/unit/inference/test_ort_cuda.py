"""The CUDA engine's own logic, on the double of CUDA and ONNX Runtime's CPU provider standing in for the CUDA one.

What the provider itself does is for tests/device to show on a real GPU.
"""

import gc
import threading
import time

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agent.errors import EngineError
from agent.inference import ort_cuda as module
from agent.inference.device import CudaDevice
from agent.inference.engine import infer
from agent.inference.ort_cuda import PROVIDER, OrtCudaEngine
from tests.helpers.cuda_double import CudaDouble, LaunchError, LogicError
from tests.helpers.gpu_models import SIDE, on_cpu, pictures, scorer


class Binding:
    def __init__(self):
        self.inputs, self.outputs = [], []

    def bind_input(self, *what):
        self.inputs.append(what)

    def bind_output(self, *what):
        self.outputs.append(what)


class Session:
    """Runs on the CPU when the stream is waited for; captures like the CUDA provider: once an id, addresses and all."""

    def __init__(self, runtime, path, options, providers):
        self.runtime, (self.provider, self.options) = runtime, providers[0]
        self.graph = self.options.get("enable_cuda_graph") == "1"
        assert self.graph == ("user_compute_stream" in self.options), "a stream of ours is for graphs only"
        if runtime.refuse_graphs and self.graph:
            raise RuntimeError("cannot use the graph capture feature")
        self.real = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.graphs, self.thread = {}, threading.get_ident()
        runtime.sessions.append(self)

    def get_providers(self):
        return [self.runtime.takes, "CPUExecutionProvider"]

    def get_inputs(self):
        return self.real.get_inputs()

    def get_outputs(self):
        return self.real.get_outputs()

    def io_binding(self):
        return Binding()

    def run_with_iobinding(self, binding, options):
        assert threading.get_ident() == self.thread, "graphs are kept a thread"
        cuda, wanted = self.runtime.cuda, options.entries
        assert wanted.get("disable_synchronize_execution_providers") == ("1" if self.graph else None)
        if self.runtime.fail:
            raise RuntimeError("CUDA failure 700")
        shown = repr([binding.inputs, binding.outputs])
        if self.graph:
            assert self.graphs.setdefault(wanted["gpu_graph_id"], shown) == shown, "replayed with other buffers"
        self.runtime.ran.append(binding.inputs[0][4][0])

        def sized(what):
            return int(np.prod(what[4])) * np.dtype(what[3]).itemsize

        users = [cuda.buffer(what[5], sized(what)) for what in (*binding.inputs, *binding.outputs)]

        def work():
            if self.runtime.launch_fails:
                raise LaunchError("an illegal memory access was encountered")
            feeds = {what[0]: cuda.bytes_at(what[5], sized(what)).view(what[3]).reshape(what[4]) for what in binding.inputs}
            for what, given in zip(binding.outputs, self.real.run(None, feeds), strict=True):
                cuda.bytes_at(what[5], sized(what)).view(what[3]).reshape(what[4])[:] = given

        if self.graph:
            cuda.stream_of(int(self.options["user_compute_stream"])).put(work, users)
        else:
            work()  # in a stream of its own, and waited for: whatever has not arrived yet is not there


class RunOptions:
    def __init__(self):
        self.entries, self.log_severity_level = {}, 2

    def add_run_config_entry(self, key, value):
        self.entries[key] = value


class Runtime:
    """ONNX Runtime with a CUDA provider."""

    RunOptions = RunOptions

    def __init__(self, cuda):
        self.cuda, self.sessions, self.ran = cuda, [], []
        self.refuse_graphs = self.fail = self.launch_fails = False
        self.takes, self.preloaded = PROVIDER, 0

    def __getattr__(self, name):
        return getattr(onnxruntime, name)

    def InferenceSession(self,  # noqa: N802 -- theirs
                         path, options, providers):
        return Session(self, path, options, providers)

    def preload_dlls(self):
        self.preloaded += 1
        print("noise")

    def set_default_logger_severity(self, level):
        assert level == 3


class Rig:
    def __init__(self, folder, monkeypatch, **settings):
        self.cuda = CudaDouble(**settings)
        self.device = CudaDevice(cuda=self.cuda)
        self.runtime = Runtime(self.cuda)
        self.folder = folder
        monkeypatch.setattr(module, "import_runtime", lambda: self.runtime)
        monkeypatch.setattr(module, "check_provider", lambda name: None)

    def engine(self, model=None, **settings):
        path = self.folder / "m.onnx"
        path.write_bytes(scorer() if model is None else model)
        return OrtCudaEngine(path, **({"name": "door", "identity": "0" * 16, "model_sha256": "1" * 64, "device": self.device,
                                       "max_batch": 6, "precision": "fp16"} | settings))


@pytest.fixture
def rig(tmp_path, monkeypatch):
    made = Rig(tmp_path, monkeypatch)
    yield made
    gc.collect()
    assert made.cuda.broken == []
    assert made.cuda._stack() == []


def test_it_gives_what_the_cpu_gives_for_every_batch(rig):
    loaded = rig.engine()
    loaded.warm_up()
    for count in range(1, 7):
        frames = pictures(count, seed=count)
        for given, expected in zip(infer(loaded, frames), on_cpu(scorer(), frames), strict=True):
            np.testing.assert_allclose(given, expected, rtol=1e-5)
    loaded.close()


def test_all_graphs_are_captured_before_service(rig):
    loaded = rig.engine()
    loaded.warm_up()
    session = rig.runtime.sessions[0]
    captured = dict(session.graphs)
    assert len(captured) == 8  # 1, 2, 4 and 6 frames in two sets of buffers
    rig.runtime.ran.clear()
    for count in range(1, 7):
        for _ in range(2):
            infer(loaded, pictures(count))
    assert session.graphs == captured
    assert rig.runtime.ran == [1, 1, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6]
    loaded.close()


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])])
def test_the_sizes(most, sizes):
    assert list(module._sizes(most)) == sizes


def test_the_provider_gets_our_stream_and_options(rig):
    loaded = rig.engine(options={"prefer_nhwc": "0", "gpu_mem_limit": "5"})
    options = rig.runtime.sessions[0].options
    assert options["user_compute_stream"] == str(loaded._stream.handle)
    assert (options["enable_cuda_graph"], options["prefer_nhwc"], options["gpu_mem_limit"]) == ("1", "0", "5")
    assert rig.runtime.preloaded == 1
    loaded.close()


def test_what_preloading_prints_does_not_reach_standard_output(rig, capsys):
    rig.engine().close()
    assert capsys.readouterr().out == ""


def test_the_spec_and_the_description(rig):
    loaded = rig.engine()
    described = loaded.describe()
    assert (loaded.spec.max_batch, loaded.spec.depth, loaded.spec.height) == (6, 2, SIDE)
    assert (described.provider, described.precision, described.threads) == (PROVIDER, "fp16", 0)
    assert described.runtime == f"onnxruntime {onnxruntime.__version__}"
    loaded.close()


def test_a_fixed_batch_lowers_the_most(rig):
    loaded = rig.engine(scorer(1))
    loaded.warm_up()
    assert loaded.spec.max_batch == 1
    loaded.close()


def test_two_calls_under_way_do_not_see_each_other(rig):
    loaded = rig.engine()
    batch = pictures(2, seed=1)
    first = loaded.start(batch)
    batch[:] = 0
    second = loaded.start(pictures(5, seed=2))
    np.testing.assert_allclose(first()[0], on_cpu(scorer(), pictures(2, seed=1))[0], rtol=1e-5)
    np.testing.assert_allclose(second()[0], on_cpu(scorer(), pictures(5, seed=2))[0], rtol=1e-5)
    loaded.close()


def test_started_in_one_thread_waited_for_in_another(rig):
    loaded = rig.engine()
    failed, under_way, ready = [], [], threading.Semaphore(0)

    def tell():
        for seed in range(40):
            ready.acquire()
            try:
                np.testing.assert_allclose(under_way.pop(0)()[0], on_cpu(scorer(), pictures(1 + seed % 6, seed))[0], rtol=1e-5)
            except Exception as error:  # noqa: BLE001
                failed.append(error)

    thread = threading.Thread(target=tell)
    thread.start()
    for seed in range(40):
        under_way.append(loaded.start(pictures(1 + seed % 6, seed)))
        ready.release()
    thread.join()
    loaded.close()
    assert failed == []


def test_a_network_that_cannot_be_captured_runs_and_says_so(rig, caplog):
    rig.runtime.refuse_graphs = True
    loaded = rig.engine()
    assert not loaded.cuda_graph
    assert "no CUDA graph, runs will be slower" in caplog.text
    assert "cannot use the graph capture feature" in caplog.text
    np.testing.assert_allclose(infer(loaded, pictures(3))[0], on_cpu(scorer(), pictures(3))[0], rtol=1e-5)
    loaded.close()


def test_without_a_graph_runs_see_the_frames_of_their_own_call(rig):
    loaded = rig.engine(graphs=False)
    batches = [pictures(2, seed=seed) for seed in range(6)]
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        pendings = [loaded.start(first), loaded.start(second)]
        for batch, pending in zip((first, second), pendings, strict=True):
            np.testing.assert_allclose(pending()[0], on_cpu(scorer(), batch)[0], rtol=1e-5)
    loaded.close()


def test_another_provider_is_an_error(rig):
    rig.runtime.takes = "CPUExecutionProvider"
    with pytest.raises(EngineError, match="asked for CUDAExecutionProvider, onnxruntime took CPUExecutionProvider"):
        rig.engine()


def test_a_missing_provider_is_an_error(tmp_path, monkeypatch):
    cuda = CudaDouble()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="'CUDAExecutionProvider' is not in this onnxruntime"):
        OrtCudaEngine(tmp_path / "m.onnx", name="door", identity="", model_sha256="", device=CudaDevice(cuda=cuda))
    assert cuda.living() == []


def test_a_failed_run_raises_and_so_does_every_later_one(rig):
    loaded = rig.engine()
    good = loaded.start(pictures(1))
    good()
    rig.runtime.fail = True
    with pytest.raises(EngineError, match=r"engine door \(.*\): the run failed: CUDA failure 700"):
        infer(loaded, pictures(1))
    rig.runtime.fail = False
    with pytest.raises(EngineError, match="a run failed earlier: the run failed: CUDA failure 700"):
        loaded.start(pictures(1))
    loaded.close()


def test_work_that_fails_on_the_gpu_raises_where_it_is_waited_for(rig):
    loaded = rig.engine()
    infer(loaded, pictures(1))
    rig.runtime.launch_fails = True
    pending = loaded.start(pictures(1))
    with pytest.raises(EngineError, match="queued work failed: an illegal memory access"):
        pending()
    rig.cuda.sticky = None
    with pytest.raises(EngineError, match="failed earlier"):
        loaded.start(pictures(1))
    loaded.close()


def test_a_failed_copy_raises(rig):
    loaded = rig.engine()
    rig.cuda.fail["memcpy_htod_async"] = LogicError("bad copy")
    with pytest.raises(EngineError, match="a copy to the GPU failed: bad copy"):
        loaded.start(pictures(1))
    rig.cuda.fail["memcpy_dtoh_async"] = LogicError("bad copy")
    with pytest.raises(EngineError, match="a copy from the GPU failed: bad copy"):
        infer(loaded, pictures(1))
    loaded.close()


@pytest.mark.parametrize("model", [b"garbage", scorer().replace(b"frames", b"framez")[:200]])
def test_a_file_that_does_not_load_leaves_nothing(model, rig):
    with pytest.raises(EngineError, match=r"engine door .*cannot be loaded"):
        rig.engine(model)
    gc.collect()
    assert rig.cuda.living() == []
    assert not list(rig.cuda._streams)


def test_outputs_of_unknown_size_are_refused(rig):
    nodes = [helper.make_node("Cast", ["frames"], ["f"], to=TensorProto.FLOAT), helper.make_node("NonZero", ["f"], ["z"]),
             helper.make_node("Cast", ["z"], ["rows"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(EngineError, match=r"output 'rows' has the shape \(4, -1\): only the batch"):
        rig.engine(model.SerializeToString())
    gc.collect()
    assert rig.cuda.living() == []


def test_a_batch_against_the_contract_is_refused(rig):
    loaded = rig.engine()
    with pytest.raises(EngineError, match="takes 1 to 6 contiguous frames"):
        loaded.start(pictures(7))
    loaded.close()


def test_close_waits_frees_everything_and_may_be_called_again(rig):
    loaded = rig.engine()
    pending = loaded.start(pictures(2, seed=3))
    thread = threading.Thread(target=loaded.close)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    np.testing.assert_allclose(pending()[0], on_cpu(scorer(), pictures(2, seed=3))[0], rtol=1e-5)
    thread.join(5)
    loaded.close()
    gc.collect()
    assert rig.cuda.living() == []
    with pytest.raises(EngineError, match="is closed"):
        loaded.start(pictures(1))


def test_on_an_integrated_gpu_a_captured_graph_keeps_its_buffers(tmp_path, monkeypatch):
    rig = Rig(tmp_path, monkeypatch, integrated=True)
    loaded = rig.engine()
    held = [infer(loaded, pictures(1, seed=seed))[0] for seed in range(5)]
    for seed, given in enumerate(held):
        np.testing.assert_allclose(given, on_cpu(scorer(), pictures(1, seed=seed))[0], rtol=1e-5)
    loaded.close()
