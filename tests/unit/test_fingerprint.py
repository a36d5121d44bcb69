"""Every fact of the platform comes from where it should; what they mean for an engine is the identity's test."""

from types import SimpleNamespace

import msgspec
import pytest

from agent import fingerprint, machine
from agent.building import tensorrt_bindings
from agent.building.identity import Platform
from agent.errors import EngineError
from agent.inference import device, onnxruntime
from agent.inference.device import DeviceFacts

# No two values alike, so that none can stand in another's place.
GPU = DeviceFacts(index=3, name="A GPU", sm="8.7", sm_count=16, integrated=True, unified=True, memory_bytes=8_000_000_000,
                  driver="540.4.0", driver_cuda="12.6", cuda="12.2")
CPU = machine.CpuModel(name="A CPU", flags=("avx2",))
MODE = machine.PowerMode(name="MAXN", number=2)


@pytest.fixture
def box(monkeypatch):
    """A box that has everything; the names of what was asked are gathered in ``asked``."""
    asked = []

    def tell(owner, name, value):
        def call(*given):
            asked.append((name, *given))
            if isinstance(value, Exception):
                raise value
            return value
        monkeypatch.setattr(owner, name, call)

    tell(machine, "cpu_model", CPU)
    tell(machine, "architecture", "an architecture")
    tell(machine, "l4t", "36.4.3")
    tell(machine, "power_mode", MODE)
    tell(device, "facts", GPU)
    tell(tensorrt_bindings, "load_bindings", SimpleNamespace(__version__="10.3.0.26"))
    tell(onnxruntime, "import_runtime", SimpleNamespace(__version__="1.23.2"))
    return SimpleNamespace(asked=asked, tell=tell)


ON_GPU = {"gpu": "A GPU", "sm": "8.7", "sm_count": 16, "cuda": "12.6", "driver": "540.4.0"}
SYSTEM = {"l4t": "36.4.3", "power_mode": "MAXN (2)"}


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt_depends_on_the_gpu_and_not_on_the_processor(box, runtime):
    expected = Platform(runtime=f"{runtime} 10.3.0.26", **ON_GPU, **SYSTEM)
    assert fingerprint.platform(runtime, None, 6) == expected
    assert fingerprint.platform(runtime, "CPUExecutionProvider", 6) == expected, "the provider is ONNX Runtime's affair"
    assert ("load_bindings", runtime) in box.asked
    assert ("import_runtime",) not in box.asked


@pytest.mark.parametrize("provider", [None, "CPUExecutionProvider"])
def test_onnx_runtime_on_the_processor_depends_on_it_and_its_threads(box, provider):
    assert fingerprint.platform("onnxruntime", provider, 6) == Platform(
        runtime="onnxruntime 1.23.2", provider="CPUExecutionProvider", cpu="A CPU avx2", threads=6, **SYSTEM)
    assert ("facts",) not in box.asked, "no GPU is woken for it"
    assert not any(name == "load_bindings" for name, *_ in box.asked)


def test_onnx_runtime_on_the_gpu_depends_on_the_gpu(box):
    assert fingerprint.platform("onnxruntime", "CUDAExecutionProvider", 6) == Platform(
        runtime="onnxruntime 1.23.2", provider="CUDAExecutionProvider", **ON_GPU, **SYSTEM)


def test_a_processor_without_a_name_is_told_by_its_architecture(box):
    box.tell(machine, "cpu_model", None)
    assert fingerprint.platform("onnxruntime", None, 1).cpu == "an architecture"
    assert fingerprint.platform("tensorrt", None, 1).cpu == ""


@pytest.mark.parametrize(("owner", "name", "field"), [(machine, "l4t", "l4t"), (machine, "power_mode", "power_mode")])
def test_what_the_system_does_not_tell_stays_empty(box, owner, name, field):
    before = fingerprint.platform("tensorrt", None, 1)
    box.tell(owner, name, None)
    assert fingerprint.platform("tensorrt", None, 1) == msgspec.structs.replace(before, **{field: ""})


def test_a_driver_that_does_not_tell_its_version_leaves_the_rest(box):
    before = fingerprint.platform("tensorrt", None, 1)
    box.tell(device, "facts", DeviceFacts(**{field: getattr(GPU, field) for field in GPU.__slots__ if field != "driver"}, driver=None))
    assert fingerprint.platform("tensorrt", None, 1) == msgspec.structs.replace(before, driver="")


@pytest.mark.parametrize(("runtime", "provider"), [("tensorrt", None), ("onnxruntime", "CUDAExecutionProvider")])
def test_without_a_gpu_its_fields_are_empty(box, runtime, provider):
    box.tell(device, "facts", EngineError("no GPU", "get one"))
    found = fingerprint.platform(runtime, provider, 6)
    assert found == Platform(runtime=found.runtime, provider=provider or "", **SYSTEM)


@pytest.mark.parametrize(("owner", "name", "runtime"), [
    (tensorrt_bindings, "load_bindings", "tensorrt"), (onnxruntime, "import_runtime", "onnxruntime")])
def test_a_runtime_that_is_not_installed_is_said(box, owner, name, runtime):
    box.tell(owner, name, EngineError("not installed", "install it"))
    with pytest.raises(EngineError, match="not installed"):
        fingerprint.platform(runtime, None, 1)
