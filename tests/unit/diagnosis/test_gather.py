"""Gathering, with libraries that crash, hang and lie, and a made driver; the true ones of this machine besides."""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from agent.config import Config, EngineSection, StatusSection
from agent.diagnosis import gather as gathering
from agent.diagnosis.asking import how_it_ended
from agent.diagnosis.facts import Driver
from agent.diagnosis.gather import copies, gather
from agent.errors import ConfigError
from agent.machine import Reply

SOURCE = Path(__file__).resolve().parents[2] / "helpers/fake_libcuda.c"
TENSORRT = """
__version__ = "10.7.0"
class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = range(3)
    def __init__(self): pass
class NetworkDefinitionCreationFlag: STRONGLY_TYPED = 1
class ActivationType: RELU = 0
class MemoryPoolType: WORKSPACE = 0
float32 = 0
class Config:
    def set_memory_pool_limit(self, pool, size): assert size > 0
class Layer:
    def get_output(self, number): return self
class Network:
    def add_input(self, *_): return self
    def add_activation(self, *_): return Layer()
    def mark_output(self, tensor): assert isinstance(tensor, Layer)
class Builder:
    def __init__(self, log): self.log = log
    def create_network(self, flags): return Network()
    def create_builder_config(self): return Config()
    def build_serialized_network(self, network, config):
        print("noise on standard output")
        self.log.log(ILogger.Severity.WARNING, "never mind")
        self.log.log(ILogger.Severity.ERROR, "Target GPU SM 87 is not supported by this TensorRT release.")
        return None
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Return a function that puts a made module before the true ones, as the children see them."""
    folder = tmp_path / "made"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    def put(name, text):
        (folder / f"{name}.py").write_text(text)
        return folder / f"{name}.py"

    return put


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to make the stand-in for libcuda.so.1 with")
    folder = tmp_path_factory.mktemp("cuda")
    subprocess.run([compiler, "-shared", "-fPIC", "-Werror", "-o", folder / "libcuda.so.1", SOURCE], check=True)
    return folder


@pytest.fixture
def ask(tmp_path):
    return gathering._Asker(lambda _: None, 5, tmp_path)


def driver(ask):
    return ask("driver", Driver, lambda fault: Driver(fault=fault))


def package(ask, name, probe=None):
    kind = {"tensorrt": gathering.TensorRt, "cv2": gathering.OpenCv, "onnxruntime": gathering.OnnxRuntime}.get(name, gathering.Package)
    return ask.package(name, probe or name, kind)


@pytest.mark.parametrize(("text", "said"), [
    ("import ctypes; ctypes.string_at(0)", "it crashes: SIGSEGV"),
    ("import os; os.abort()", "it crashes: SIGABRT"),
    ("raise ImportError('libGL.so.1: cannot open shared object file')", "libGL.so.1"),
    ("import no_such_thing_below", "No module named 'no_such_thing_below'"),
    ("raise KeyError('odd')", "KeyError: 'odd'"),
    ("import sys; sys.exit(3)", "exit code 3"),
    ("import os; os._exit(0)", "gave no answer"),
])
def test_a_library_that_cannot_be_imported_is_told_with_the_reason(library, ask, text, said):
    file = library("cv2", text)
    found = package(ask, "cv2")
    assert not found.missing
    assert said in found.fault
    assert not found.usable
    assert copies("cv2", [str(file.parent)]) == [str(file)], "where it is, is known without importing it"


def test_a_library_that_hangs_is_given_up(library, tmp_path):
    library("cv2", "import time; time.sleep(60)")
    found = package(gathering._Asker(lambda _: None, 0.7, tmp_path), "cv2")
    assert found.fault == "it hangs: no answer within 0.7 s"


def test_a_library_that_prints_does_not_garble_the_answer(library, ask):
    library("cv2", "print('hello'); import os; os.write(1, b'{'); __version__ = '9.9'\ndef getBuildInformation(): return '    GStreamer:   YES (1.20.3)\\n    FFMPEG:  NO\\n'")
    found = package(ask, "cv2")
    assert (found.version, found.gstreamer, found.ffmpeg, found.fault) == ("9.9", True, False, None)


def test_the_process_that_looks_is_the_first_to_go_when_memory_runs_out(library, ask):
    library("onnx", "__version__ = open('/proc/self/oom_score_adj').read().strip()")
    assert package(ask, "onnx").version == "1000"


def test_opencv_that_does_not_tell_how_it_was_built_is_unknown(library, ask):
    library("cv2", "def getBuildInformation(): return ''")
    assert (package(ask, "cv2").gstreamer, package(ask, "cv2").ffmpeg) == (None, None)


def test_the_words_of_tensorrts_logger_come_through(library, ask):
    library("tensorrt", TENSORRT)
    found = package(ask, "tensorrt", "tensorrt-build")
    assert found.builds is False
    assert found.said == ("Target GPU SM 87 is not supported by this TensorRT release.",)
    assert (found.version, found.library_version) == ("10.7.0", None)
    assert package(ask, "tensorrt").builds is None


def test_bindings_alone_are_found_and_a_builder_that_is_none_is_no_crash(library, ask):
    library("tensorrt_bindings", TENSORRT.replace("def __init__(self, log): self.log = log", "def __init__(self, log): raise TypeError('factory function returned nullptr')"))
    found = package(ask, "tensorrt", "tensorrt-build")
    assert (found.builds, found.said) == (False, ("factory function returned nullptr",))


def test_all_copies_are_listed_and_the_imported_one_is_not(tmp_path, monkeypatch, ask):
    system = tmp_path / "usr/lib/python3.10/dist-packages/cv2"
    system.mkdir(parents=True)
    (system / "__init__.py").touch()
    extension = tmp_path / "usr/lib/python3/dist-packages/onnx.abi3.so"
    extension.parent.mkdir(parents=True)
    extension.touch()
    assert package(ask, "cv2").others == (str(system / "__init__.py"),)
    assert package(ask, "onnx").others == (str(extension),)


def test_the_driver_is_asked_for_its_device_and_memory(fake_cuda, monkeypatch, ask):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda))
    assert driver(ask) == Driver(version="12.6", devices=2, name="Fake Orin", sm="8.7", sm_count=8, integrated=True, context=True,
                                 free=5_000_000_000, total=7_600_000_000)


@pytest.mark.parametrize(("how", "fault", "known"), [
    ("cuInit", "cuInit: CUDA_ERROR_UNKNOWN (999)", {"version": "12.6"}),
    ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRetain: CUDA_ERROR_UNKNOWN (999)", {"name": "Fake Orin", "sm": "8.7"}),
    ("cuMemGetInfo_v2", "cuMemGetInfo_v2: CUDA_ERROR_UNKNOWN (999)", {"context": True, "free": None}),
    ("empty", None, {"devices": 0, "context": False}),
    ("crash", "it crashes: SIGSEGV ended the process that looked at it", {}),
])
def test_a_driver_that_fails_says_where_and_keeps_what_was_learnt(fake_cuda, monkeypatch, ask, how, fault, known):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda))
    monkeypatch.setenv("FAKE_CUDA", how)
    found = driver(ask)
    assert found.fault == fault
    assert {key: getattr(found, key) for key in known} == known
    assert not found.usable


def test_a_driver_that_hangs_is_given_up(fake_cuda, monkeypatch, tmp_path):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda))
    monkeypatch.setenv("FAKE_CUDA", "hang")
    assert driver(gathering._Asker(lambda _: None, 1, tmp_path)).fault == "it hangs: no answer within 1 s"


def test_a_file_that_is_no_library_is_a_fault_and_not_a_missing_driver(tmp_path, monkeypatch, ask):
    (tmp_path / "libcuda.so.1").write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = driver(ask)
    assert not found.missing
    assert "libcuda.so.1" in found.fault


@pytest.mark.parametrize(("reply", "said"), [
    (Reply(code=1, out="", err="Traceback (most recent call last):\n  File x\nValueError: two\nlines of it\n"), "ValueError: two"),
    (Reply(code=1, out="", err="Traceback (most recent call last):\n  a\nOSError: 1\n\nDuring it:\n\nTraceback (most recent call last):\n  b\nOSError: 2\n"), "OSError: 2"),
    (Reply(code=4, out="", err="just words\n"), "just words"),
    (Reply(code=4, out="", err=""), "its process ended with exit code 4"),
    (Reply(code=-9, out="", err=""), "SIGKILL ended the process that looked at it: perhaps the memory ran out"),
    (Reply(code=-64 - 30, out="", err=""), "it crashes: signal 94 ended the process that looked at it"),
])
def test_how_a_child_ended_in_words(reply, said):
    assert how_it_ended(reply, 1) == said


def test_providers_are_tried_and_one_that_falls_back_is_told(library, tmp_path, monkeypatch):
    library("onnxruntime", """
__version__ = "1.99"
def get_available_providers(): return ["CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider", "BadExecutionProvider"]
class InferenceSession:
    def __init__(self, model, providers):
        assert model[:2] == b"\\x08\\x07"
        if providers == ["BadExecutionProvider"]: import os; os.kill(os.getpid(), 4)
    def get_providers(self): return ["CPUExecutionProvider"]
    def run(self, names, feed): return [feed["x"]]
""")
    found = gather(Config(), None, state_dir=tmp_path, timeout_s=20).onnxruntime
    assert list(found.providers) == ["CUDAExecutionProvider", "CPUExecutionProvider", "BadExecutionProvider"], "the one that calls servers is left out"
    assert found.providers["CPUExecutionProvider"] is None
    assert "falls back" in found.providers["CUDAExecutionProvider"]
    assert "SIGILL" in found.providers["BadExecutionProvider"]


@pytest.mark.slow
def test_a_machine_with_a_device_tries_tensorrt_only_with_memory_to_spare(library, fake_cuda, tmp_path, monkeypatch):
    library("tensorrt", TENSORRT)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_cuda))
    (tmp_path / "proc").mkdir()
    for kib, builds in ((2_400_000, None), (2_500_000, False)):
        (tmp_path / "proc/meminfo").write_text(f"MemTotal: 4000000 kB\nMemAvailable: {kib} kB\n")
        assert gather(Config(), None, state_dir=tmp_path, root=tmp_path).tensorrt.builds is builds
    monkeypatch.setenv("FAKE_CUDA", "cuInit")
    assert gather(Config(), None, state_dir=tmp_path, root=tmp_path).tensorrt.builds is None, "without a device it says nothing"


@pytest.mark.parametrize(("file", "socket", "own"), [(None, "/a.sock", True), ("c.toml", "/a.sock", False), ("c.toml", None, True)])
def test_systemd_is_asked_for_its_process_where_the_agent_asked_is_the_service(tmp_path, monkeypatch, file, socket, own):
    def asked(path, *, service):
        raise RuntimeError(service)
    monkeypatch.setattr("agent.diagnosis.gather.ask_agent", asked)
    config = Config(status=StatusSection(socket=socket) if socket else StatusSection())
    with pytest.raises(RuntimeError, match=str(own)):
        gather(config, file and tmp_path / file, state_dir=tmp_path, root=tmp_path)


def test_this_machine(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: install the extra cpu")
    looked = []
    facts = gather(Config(), None, state_dir=tmp_path, looking=looked.append)
    assert facts.onnxruntime.version == onnxruntime.__version__
    assert facts.onnxruntime.file == onnxruntime.__file__
    assert facts.onnxruntime.providers["CPUExecutionProvider"] is None, "the made model runs"
    assert {"driver", "cv2", "provider CPUExecutionProvider"} <= set(looked)
    assert facts.wanted.model == "needs preparing"
    assert facts.state.fault is None
    assert facts.state.free > 0
    assert msgspec.json.decode(msgspec.json.encode(facts), type=type(facts)) == facts


def test_a_state_directory_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path or mode == os.R_OK)  # root may write everywhere
    assert gathering._state_directory(tmp_path).fault == "it cannot be written to by this user"
    assert gathering._state_directory(tmp_path / "to/state").fault == f"{tmp_path} cannot be written to by this user"


def test_a_state_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    found = gathering._state_directory(tmp_path / "file")
    assert "no directory" in found.fault
    assert found.remedy
    assert gathering._state_directory(tmp_path / "to/be/made").fault is None


def test_an_unusable_configuration_and_an_unknown_recipe(tmp_path, ask):
    error = ConfigError("c.toml: [engine] nme: unknown key", "remove it")
    wanted = gathering._wanted(error, tmp_path / "c.toml", tmp_path, ask)
    assert (wanted.fault, wanted.remedy, wanted.recipe, wanted.unsure) == (error.what, error.remedy, "", False)
    error.__cause__ = PermissionError()
    assert gathering._wanted(error, tmp_path / "c.toml", tmp_path, ask).unsure
    config = Config(engine=EngineSection(recipe="nobody"))
    wanted = gathering._wanted(config, None, tmp_path, ask)
    assert "nobody" in wanted.fault
    assert wanted.recipe == "nobody"
