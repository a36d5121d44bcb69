"""Who frees outputs that are still held when the engine goes, whatever thread lets go of them and when."""

import gc
import sys
import threading

import pytest

from agent.inference.device import CudaDevice
from agent.inference.engine import TensorSpec
from agent.inference.staging import Staging
from tests.helpers.cuda_double import CudaDouble
from tests.helpers.gpu_models import pictures

OUTPUTS = (TensorSpec(name="rows", shape=(-1, 8), dtype="float32"), TensorSpec(name="means", shape=(-1, 3), dtype="float32"))


class Rig:
    def __init__(self, integrated):
        self.cuda = CudaDouble(integrated=integrated)
        self.device = CudaDevice(cuda=self.cuda)
        with self.device.current():
            frames = pictures(1)
            self.staging = Staging(self.device, height=frames.shape[1], width=frames.shape[2], max_batch=1, outputs=OUTPUTS, rebinds=True)

    def outputs(self):
        """Of one call, handed out without a copy."""
        staging = self.staging
        with self.device.current():
            slot = staging.take()
            staging.fill(slot, pictures(1))
            staging.before_computing(slot)
            staging.after_computing(slot, 1)
            given = staging.collect(slot, 1)
        assert not any(output.flags.owndata for output in given)
        return given

    def release(self):
        with self.device.current():
            self.staging.release()


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def rig(request):
    made = Rig(request.param)
    yield made
    gc.collect()
    assert made.cuda.broken == []
    assert made.cuda._stack() == []


def in_a_thread(drop):
    thread = threading.Thread(target=drop)
    thread.start()
    thread.join(0.2)  # it may have to wait for who is in the middle of the release
    return thread


@pytest.mark.parametrize("let_go", [in_a_thread, lambda drop: drop()], ids=["another thread", "the collector in this thread"])
@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_outputs_let_go_of_while_all_is_released_are_freed_once_and_others_stay(rig, monkeypatch, let_go, which, when):
    held = {0: rig.outputs(), 1: rig.outputs()}
    threads, real = [], rig.device.give_up

    def drop():
        for number in which:
            held.pop(number, None)

    def give_up(*things):
        monkeypatch.setattr(rig.device, "give_up", real)
        if when == "after":
            real(*things)
        threads.append(let_go(drop))
        real(*things)

    monkeypatch.setattr(rig.device, "give_up", give_up)
    rig.release()
    for thread in filter(None, threads):
        thread.join(10)
        assert not thread.is_alive()
    assert len(threads) == 1
    rig.device.close()
    assert len(rig.cuda.living()) == len(OUTPUTS) * (2 - len(which)), "what somebody holds stays, and no more"
    held.clear()
    assert rig.cuda.living() == []


def test_outputs_come_back_from_many_threads_while_all_is_released(rig):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            fresh = Rig(rig.cuda.integrated)
            held = [[output] for _ in range(2) for output in fresh.outputs()]
            start = threading.Barrier(len(held) + 1)
            threads = [threading.Thread(target=lambda one=one, start=start: (start.wait(), one.clear())) for one in held]
            for thread in threads:
                thread.start()
            start.wait()
            fresh.release()
            for thread in threads:
                thread.join(10)
            assert fresh.cuda.living() == []
            assert fresh.staging._out == []
    finally:
        sys.setswitchinterval(interval)


class Watched(list):
    """A list at whose ``at`` something else happens, once."""

    def __init__(self, things, at, event):
        super().__init__(things)
        self.at, self.event = at, event

    def _happen(self, at):
        if self.at == at:
            self.at = None
            self.event()

    def remove(self, thing):
        super().remove(thing)
        self._happen("removed")

    def __iter__(self):
        self._happen("iterated")
        return super().__iter__()


def test_all_is_released_while_outputs_are_on_their_way_back(rig):
    held, threads = rig.outputs(), []
    rig.staging._out = Watched(rig.staging._out, "removed", lambda: threads.append(in_a_thread(rig.release)))
    held.clear()
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert rig.cuda.living() == []


@pytest.mark.parametrize("let_go", [in_a_thread, lambda drop: drop()], ids=["another thread", "the collector in this thread"])
def test_outputs_let_go_of_just_before_the_release_looks_at_them(rig, let_go):
    held, threads = [rig.outputs(), rig.outputs()], []
    rig.staging._out = Watched(rig.staging._out, "iterated", lambda: threads.append(let_go(held.clear)))
    rig.release()
    for thread in filter(None, threads):
        thread.join(10)
    assert len(threads) == 1
    assert rig.cuda.living() == []
