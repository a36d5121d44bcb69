"""What the real agent says to systemd, heard at a socket of ours: ready, alive, why not; and how it starts after bad ends."""

import os
import signal
import socket
import threading
import time

import pytest

from agent.runs import Runs, last_run
from tests.helpers.agent import Agent, source, write_config


class Systemd:
    """The socket, and (seconds, message) of all that came."""

    def __init__(self, folder):
        self.path, self.heard = str(folder / "notify"), []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        while message := self.socket.recv(4096):
            self.heard.append((time.monotonic(), message.decode()))

    @property
    def environment(self):
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "2000000"}

    def until(self, word, timeout_s=30.0, after=0.0):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for at, message in self.heard:
                if word in message and at > after:
                    return at, message
            time.sleep(0.02)
        raise AssertionError(f"systemd never heard {word!r}: {self.heard}")

    def alive(self, seconds):
        """Return how often WATCHDOG=1 came in the next seconds."""
        before = time.monotonic()
        time.sleep(seconds)
        return sum(message == "WATCHDOG=1" and at > before for at, message in self.heard)

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.path)
        self.thread.join(5)
        self.socket.close()


@pytest.fixture
def systemd(tmp_path):
    made = Systemd(tmp_path)
    yield made
    made.close()


def test_ready_means_a_result_and_alive_is_said_until_it_stops(tmp_path, fresh_state, carphone, systemd):
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with Agent(config, env=systemd.environment) as agent:
        ready_at, _ = systemd.until("READY=1")
        assert agent.snapshot().first_result_s is not None
        at, _ = systemd.until("STATUS=running: 1 of 1 sources live", after=ready_at)
        assert at - ready_at < 3
        assert systemd.alive(3.0) >= 3
        os.kill(agent.process.pid, signal.SIGSTOP)
        time.sleep(0.3)
        assert systemd.alive(2.0) == 0, "a process that stands still says nothing"
        os.kill(agent.process.pid, signal.SIGCONT)
        assert systemd.alive(3.0) >= 3
        asked = time.monotonic()
        assert agent.stop() == 0
        systemd.until("STOPPING=1", after=asked)
    assert last_run(fresh_state).ended == "stopped"


def test_a_dead_camera_is_ready_with_its_reason_and_alive(tmp_path, fresh_state, systemd):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = write_config(tmp_path, source("door", f"rtsp://127.0.0.1:{nobody.getsockname()[1]}/x"), state=fresh_state)
        with Agent(config, env=systemd.environment) as agent:
            ready_at, _ = systemd.until("READY=1")
            systemd.until("STATUS=down: 0 of 1 sources live (door down)", after=ready_at - 3)
            assert systemd.alive(3.0) >= 3
            assert agent.snapshot().ready


def test_after_bad_ends_it_waits_longer_and_longer_and_says_why(tmp_path, fresh_state, carphone, systemd):
    fresh_state.mkdir(exist_ok=True)
    for _ in range(3):
        Runs(fresh_state, waits=False)
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with Agent(config, env=systemd.environment) as agent:
        snapshot = agent.until(lambda s: s.doing.startswith("waiting"))
        assert snapshot.doing == "waiting 4 s: 3 runs in a row ended by themselves, the last one: it was killed, or it crashed"
        waits_since, _ = systemd.until("STATUS=starting: waiting 4 s")
        assert not any("READY" in message for _, message in systemd.heard)
        at, _ = systemd.until("READY=1")
        assert at - waits_since > 3
        assert any("EXTEND_TIMEOUT_USEC" in message for _, message in systemd.heard)
        assert [end.how for end in agent.snapshot().ends][-1] == "killed"


def test_by_hand_it_does_not_wait(tmp_path, fresh_state, carphone):
    fresh_state.mkdir(exist_ok=True)
    for _ in range(5):
        Runs(fresh_state, waits=False)
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?pace=all"), state=fresh_state)
    began = time.monotonic()
    with Agent(config) as agent:
        assert agent.wait() == 0, agent.said()
    assert time.monotonic() - began < 15
    assert (last_run(fresh_state).ended, last_run(fresh_state).words) == ("ended", "all its sources had ended")


def test_an_engine_that_cannot_run_is_how_it_ended(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("car", carphone.as_uri()), '[engine]\nprovider = "CUDAExecutionProvider"\n', state=fresh_state)
    with Agent(config) as agent:
        assert agent.wait() == 2
    assert last_run(fresh_state).ended == "failed"
    assert "CUDA" in last_run(fresh_state).words
