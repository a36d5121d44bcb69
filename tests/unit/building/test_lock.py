import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from agent.building import lock as module
from agent.building.fetch import fetch
from agent.building.lock import alone_in, beat, taken
from agent.errors import ModelError

HOLDER = """
import sys, time
from pathlib import Path
from agent.building import lock
lock._BEAT_S = 0
with lock.alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    until = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        lock.beat()
        time.sleep(0.02)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds the lock of tmp_path and works for some seconds."""
    started = []

    def start(seconds: float) -> "subprocess.Popen[str]":
        child = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), str(seconds)],
                                 stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout.readline() == "held\n"
        return child
    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_one_that_works_is_waited_for_as_long_as_it_works_and_named(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    said, began = [], time.monotonic()
    holder = hold(2)
    with alone_in(tmp_path, say=said.append):
        assert time.monotonic() - began > 1.5
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert said == [f"waiting for process {holder.pid}, which works in {tmp_path}"]


def test_one_that_was_stopped_is_given_up(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    holder, said = hold(60), []
    os.kill(holder.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ModelError, match=f"process {holder.pid} holds its lock .* no sign of work for 0.5 s") as caught:
        fetch("https://localhost:9/m.onnx", "0" * 64, tmp_path, stage=said.append)
    assert time.monotonic() - began < 5
    assert f"`ps {holder.pid}`" in caught.value.remedy
    assert said[-1] == f"waiting for process {holder.pid}, which is stopped (SIGSTOP, or Ctrl-Z) in {tmp_path}"
    assert taken(tmp_path)


def test_waiting_is_no_sign_of_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    with alone_in(tmp_path):
        before = (tmp_path / ".lock").stat().st_mtime_ns
        for _ in range(2):
            with pytest.raises(ModelError, match="no sign"), alone_in(tmp_path):
                pytest.fail("two are in there")
        assert (tmp_path / ".lock").stat().st_mtime_ns == before


def test_a_beat_is_for_every_lock_of_this_thread_and_for_no_lock_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_S", 0)
    monkeypatch.setattr(module._HERE, "next_s", 0.0)
    locks = [tmp_path / name / ".lock" for name in ("outer", "inner", "old")]

    def beaten() -> list[bool]:
        for lock in locks:
            os.utime(lock, (0, 0))
        beat()
        return [lock.stat().st_mtime_ns > 0 for lock in locks]
    with alone_in(tmp_path / "old"):
        pass
    with alone_in(tmp_path / "outer"):
        with alone_in(tmp_path / "inner"):
            assert beaten() == [True, True, False]
        assert beaten() == [True, False, False]
    assert beaten() == [False, False, False]


def test_the_pid_of_the_one_before_is_gone_whole(tmp_path):
    (tmp_path / ".lock").write_text("12345678901\n")
    with alone_in(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


class Holder:
    """A thread that takes a lock and does nothing until it is let go."""

    def __init__(self, folder):
        self._let_go, self._holds = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(folder,))
        self._thread.start()
        assert self._holds.wait(5)

    def _hold(self, folder):
        with alone_in(folder):
            self._holds.set()
            self._let_go.wait(20)

    def let_go(self):
        self._let_go.set()
        self._thread.join(20)


def test_the_next_holder_gets_patience_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.02)
    holders, began = [Holder(tmp_path)], time.monotonic()

    def wait():
        after_s = time.monotonic() - began
        if after_s > 0.7 and len(holders) == 1:
            holders[0].let_go()
            holders.append(Holder(tmp_path))
        if after_s > 1.4:
            holders[-1].let_go()
    try:
        with alone_in(tmp_path, wait):
            assert time.monotonic() - began > 1.4
            assert len(holders) == 2
    finally:
        holders[-1].let_go()


def test_who_waits_for_one_that_works_shows_that_work(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(module, "_BEAT_S", 0)
    monkeypatch.setattr(module._HERE, "next_s", 0.0)
    began, outer, holds = time.monotonic(), tmp_path / "outer", threading.Event()

    def work():
        with alone_in(outer):
            holds.set()
            with alone_in(tmp_path):
                pass
    hold(2)
    between = threading.Thread(target=work)
    between.start()
    assert holds.wait(5)
    with alone_in(outer):
        assert time.monotonic() - began > 1.5
    between.join()
