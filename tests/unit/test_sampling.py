"""A random sample of what is looked at, on a real disk; the clock is short."""

import errno
import os
import threading
import time

import numpy as np
import pytest

from agent.config import CalibrationSection
from agent.pictures import reservoir_of
from agent.records import Canvas, Placement
from agent.sampling import Sampler
from agent.units import Bytes, LongTimeout
from tests.helpers.engines import write_recipe


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path, model=tmp_path / "m.onnx")


class Sampling:
    """A sampler in its thread; ``seen`` is what the engine looked at last."""

    def __init__(self, recipe, state, interval_s=0.01, max_bytes=10e6):
        self.seen, self.stop, self.asked = None, threading.Event(), threading.Semaphore(0)
        section = CalibrationSection(live=True, interval=LongTimeout(interval_s), max_bytes=Bytes(max_bytes))
        self.sampler = Sampler(section, recipe, (64, 64), state, self._last)

    def _last(self):
        self.asked.release()
        return self.seen

    def look(self, number, source="cam"):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        self.seen = (source, Canvas(pixels=pixels, placement=Placement(scale=1.0, left=0, top=0, width=64, height=64), took_s=0.0))
        self.rest()

    def rest(self, times=2):
        """Wait until it has asked so many times more."""
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(times):
            assert self.asked.acquire(timeout=10)

    def __enter__(self):
        self.thread = threading.Thread(target=self.sampler.run, args=(self.stop,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


def kept(recipe, state):
    return reservoir_of(state, recipe, (64, 64), 1 << 40)


def test_each_frame_is_offered_once_with_its_source(recipe, tmp_path):
    with Sampling(recipe, tmp_path) as sampling:
        sampling.rest()
        for number, source in enumerate(["door", "door", "gate"]):
            sampling.look(number, source)
        sampling.rest(10)
    status = kept(recipe, tmp_path).status()
    assert (status.frames, status.offered) == (3, 3)
    assert status.sources == {"door": 2, "gate": 1}
    found = {frame.tobytes() for frame in kept(recipe, tmp_path).frames()}
    assert found == {np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8).tobytes() for number in range(3)}


def test_it_keeps_to_its_budget(recipe, tmp_path):
    with Sampling(recipe, tmp_path, max_bytes=1e6) as sampling:
        for number in range(80):
            sampling.look(number)
    status = kept(recipe, tmp_path).status()
    assert status.frames < status.offered <= 80, "what is on the disk may be a little behind"
    assert status.bytes <= 1e6
    assert 30 < status.frames < 80


def test_it_waits_its_interval_and_stops_at_once(recipe, tmp_path):
    with Sampling(recipe, tmp_path, interval_s=3600) as sampling:
        time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not sampling.asked.acquire(blocking=False)


def test_a_full_disk_is_told_once_and_lived_with(recipe, tmp_path, monkeypatch, caplog):
    def full(*_given, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Sampling(recipe, tmp_path) as sampling:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            patch.setattr(os, "fsync", full)
            patch.setattr(os, "write", full)
            for number in range(4):
                sampling.look(number)
            told = [record for record in caplog.records if "calibration frames cannot be kept" in record.getMessage()]
            assert len(told) == 1
            assert "No space left" in told[0].getMessage()
        sampling.look(9)
        assert sampling.thread.is_alive()
    assert kept(recipe, tmp_path).status().frames >= 1
