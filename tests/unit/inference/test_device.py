import subprocess
import sys
import threading
import types

import numpy as np
import pytest

from agent.errors import EngineError
from agent.inference import device as module
from agent.inference.device import CudaDevice, facts
from tests.helpers.cuda_double import BrokenRuleError, CudaDouble, LaunchError, LogicError


@pytest.fixture
def cuda():
    double = CudaDouble()
    yield double
    assert double.broken == []
    assert double._stack() == []


@pytest.fixture
def gpu(cuda):
    device = CudaDevice(cuda=cuda)
    yield device
    device.close()
    assert cuda.living() == []


def test_the_facts(gpu, monkeypatch, tmp_path):
    told = gpu.facts()
    assert (told.index, told.name, told.sm, told.sm_count) == (0, "Double", "8.7", 8)
    assert (told.integrated, told.unified, told.memory_bytes) == (False, True, 1 << 30)
    assert (told.driver_cuda, told.cuda) == ("12.6", "12.6")


def test_the_drivers_version_is_read_from_the_kernel(cuda, monkeypatch, tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Oct 1\nGCC version: 12\n", "utf-8")
    monkeypatch.setattr(module, "_DRIVER_FILE", file)
    assert CudaDevice(cuda=cuda).facts().driver == "580.159.04"
    monkeypatch.setattr(module, "_DRIVER_FILE", tmp_path / "none")
    assert CudaDevice(cuda=cuda).facts().driver is None


def test_facts_alone_take_no_context(cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", cuda)
    assert facts(0).name == "Double"
    assert cuda.retained == 0
    with pytest.raises(EngineError, match="CUDA device 3 cannot be used: invalid device ordinal"):
        facts(3)


def test_a_device_that_is_not_there(cuda):
    with pytest.raises(EngineError, match="CUDA device 7: cannot be used: invalid device") as caught:
        CudaDevice(7, cuda=cuda)
    assert caught.value.remedy


def test_the_primary_context_is_retained_once(cuda):
    CudaDevice(cuda=cuda).close()
    CudaDevice(cuda=cuda).close()
    assert cuda.retained == 1


def test_without_pycuda_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    for call in (CudaDevice, facts):
        with pytest.raises(EngineError, match="pycuda cannot be imported") as caught:
            call()
        assert "pip install pycuda" in caught.value.remedy


def test_importing_the_modules_imports_neither_pycuda_nor_tensorrt_nor_onnxruntime():
    code = ("import sys, agent.inference.device, agent.inference.tensorrt, agent.inference.ort_cuda;"
            "print({'pycuda', 'tensorrt', 'tensorrt_rtx', 'onnxruntime'} & set(sys.modules))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_bytes_go_in_and_come_back(gpu):
    with gpu.current():
        stream, memory, here, there = gpu.stream(), gpu.malloc(64), gpu.host(64), gpu.host(64)
        here.array[:] = np.arange(64)
        gpu.copy_in(memory.address, here.array, stream)
        gpu.copy_out(there.array, memory.address, stream)
        stream.synchronise()
    assert (there.array == np.arange(64)).all()
    assert (memory.nbytes, here.address) == (64, None)


def test_mapped_memory_has_an_address_for_the_gpu(gpu, cuda):
    with gpu.current():
        mapped = gpu.host(16, mapped=True)
        mapped.array[:] = 5
    assert mapped.address is not None
    assert (cuda.bytes_at(mapped.address, 16) == 5).all()


def test_an_event_orders_two_streams(gpu):
    with gpu.current():
        one, two, done = gpu.stream(), gpu.stream(), gpu.event()
        memory, here, there = gpu.malloc(8), gpu.host(8), gpu.host(8)
        here.array[:] = 9
        gpu.copy_in(memory.address, here.array, one)
        done.record(one)
        two.wait_for(done)
        gpu.copy_out(there.array, memory.address, two)
        two.synchronise()
    assert (there.array == 9).all()


def test_without_that_event_it_is_garbage(gpu):
    with gpu.current():
        one, two = gpu.stream(), gpu.stream()
        memory, here, there = gpu.malloc(8), gpu.host(8), gpu.host(8)
        here.array[:] = 9
        gpu.copy_in(memory.address, here.array, one)
        gpu.copy_out(there.array, memory.address, two)
        two.synchronise()
        one.synchronise()
    assert (there.array == 0xAB).all()


def test_only_an_event_with_timing_tells_the_time(gpu):
    with gpu.current():
        stream = gpu.stream()
        timed, plain = [gpu.event(timing=True) for _ in range(2)], gpu.event()
        for event in (*timed, plain):
            event.record(stream)
            event.wait()
        assert timed[1].ms_since(timed[0]) == 1.0
        with pytest.raises(EngineError, match="an event has no time"):
            plain.ms_since(timed[0])


@pytest.mark.parametrize("call", [
    lambda gpu: gpu.malloc(8), lambda gpu: gpu.host(8), lambda gpu: gpu.stream(), lambda gpu: gpu.event(),
    lambda gpu: gpu.memory()])
def test_every_call_needs_the_context_in_its_own_thread(call, gpu):
    with pytest.raises(EngineError, match="none is current in this thread"):
        call(gpu)
    failed = []

    def work():
        try:
            call(gpu)
        except EngineError as error:
            failed.append(error)

    with gpu.current():
        call(gpu)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(failed) == 1


def test_the_context_is_popped_after_an_error_too(gpu, cuda):
    with pytest.raises(ValueError, match="x"), gpu.current():
        raise ValueError("x")
    assert cuda._stack() == []


def test_current_may_be_nested(gpu):
    with gpu.current():
        with gpu.current():
            pass
        gpu.memory()


def test_too_little_memory_says_how_much_was_asked_for(gpu):
    with gpu.current(), pytest.raises(EngineError, match="CUDA device 0: 4294967296 bytes cannot be allocated: out of") as caught:
        gpu.malloc(1 << 32)
    assert "free GPU memory" in caught.value.remedy


def test_failed_work_is_raised_where_it_is_waited_for(gpu, cuda):
    with gpu.current():
        stream, event = gpu.stream(), gpu.event()

        def fail():
            raise LaunchError("illegal address")

        stream.native.put(fail)
        event.record(stream)
        for wait in (event.wait, stream.synchronise):
            with pytest.raises(EngineError, match="queued work failed: illegal address"):
                wait()


@pytest.mark.parametrize(("name", "call"), [
    ("memcpy_htod_async", lambda gpu, m, h, s: gpu.copy_in(m.address, h.array, s)),
    ("memcpy_dtoh_async", lambda gpu, m, h, s: gpu.copy_out(h.array, m.address, s))])
def test_a_failed_copy_is_an_error_of_ours(name, call, gpu, cuda):
    with gpu.current():
        stream, memory, host = gpu.stream(), gpu.malloc(8), gpu.host(8)
        cuda.fail[name] = LogicError("bad")
        with pytest.raises(EngineError, match=r"a copy .* failed: bad"):
            call(gpu, memory, host, stream)


def test_memory_tells_free_and_total(gpu):
    with gpu.current():
        assert gpu.memory() == (1 << 30, 1 << 30)
        held = gpu.malloc(1 << 20)
        assert gpu.memory()[0] == (1 << 30) - (1 << 20)
        gpu.free(held)
        gpu.free(held)  # nothing is freed twice
        assert gpu.memory()[0] == 1 << 30


def test_close_frees_in_reverse_order_and_may_be_called_again(cuda, monkeypatch):
    gpu = CudaDevice(cuda=cuda)
    order = []
    with gpu.current():
        for thing in (gpu.malloc(8), gpu.stream(), gpu.host(8), gpu.event()):
            monkeypatch.setattr(thing, "release", lambda kept=thing, release=thing.release: (order.append(kept), release()))
        things = list(gpu._held.values())
    gpu.close()
    gpu.close()
    assert order == things[::-1]
    assert cuda.living() == []
    monkeypatch.undo()


def test_nothing_is_too_little_to_allocate(gpu):
    with gpu.current():
        assert gpu.malloc(0).nbytes == 0


def test_a_copy_beyond_the_buffer_is_caught_by_the_double(gpu):
    with gpu.current():
        stream, memory, host = gpu.stream(), gpu.malloc(4), gpu.host(8)
        with pytest.raises(BrokenRuleError):
            gpu.copy_in(memory.address, host.array, stream)
