"""Readers against a real RTSP server that is killed, frozen, hung, late, and asks for a password.

The bounds are the promises of the configuration (deadline plus grace), not speeds.
"""

import logging
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest

from agent.capture.opening import SourceOptions, open_source
from agent.capture.reader import Reader, ReaderPolicy
from agent.capture.source import LatestFrame
from agent.meters import SourceMeter
from agent.records import SourceState
from tests.helpers.rtsp import RtspCamera, need_rtsp

pytestmark = pytest.mark.rtsp  # killing and freezing are part of `make test`: no double shows what FFmpeg does then
READ_S, OPEN_S, GRACE_S, TICK_S = 2.0, 4.0, 1.0, 0.2


class Watched:
    """A reader with a loop that takes its frames and a supervisor that checks it."""

    def __init__(self, url: str, **login) -> None:
        self.ready = threading.Condition()
        self.slot = LatestFrame("cam", self.ready)
        self.meter = SourceMeter()
        self.changes, self.taken = [], []
        options = SourceOptions(name="cam", url=url, read_timeout_s=READ_S, open_timeout_s=OPEN_S, **login)
        policy = ReaderPolicy(read_timeout_s=READ_S, open_timeout_s=OPEN_S, retry_max_s=1.0, frozen_after_s=10,
                              black_after_s=5)
        self.reader = Reader("cam", lambda: open_source(options), self.slot, self.meter, self._told, policy)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._loop), threading.Thread(target=self._supervise)]

    def _told(self, change) -> None:
        self.changes.append((time.monotonic(), change))

    def _loop(self) -> None:
        while not self._stop.is_set():
            with self.ready:
                if self.ready.wait_for(lambda: self.slot.frame is not None, TICK_S):
                    frame, _ = self.slot.take(time.monotonic_ns())
                    self.taken.append((time.monotonic(), frame.seq, frame.captured_ns))
                    self.meter.did()

    def _supervise(self) -> None:
        while not self._stop.wait(TICK_S):
            self.reader.check()

    def __enter__(self):
        self.reader.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self.reader.stop(5)
        for thread in self._threads:
            thread.join()
        assert self.reader.crash is None

    def until(self, state: SourceState, within_s: float) -> float:
        """Wait for a state; return how long that took."""
        begin = time.monotonic()
        while self.reader.status().state is not state:
            assert time.monotonic() < begin + within_s, (self.reader.status(), self.changes)
            time.sleep(0.02)
        return time.monotonic() - begin

    def states(self) -> list[str]:
        return [str(change.state) for _, change in self.changes]

    def gaps(self) -> float:
        return max(later[0] - earlier[0] for earlier, later in pairwise(self.taken))


@pytest.fixture
def camera(tmp_path):
    yield from _camera(tmp_path / "cam")


@pytest.fixture
def neighbour(tmp_path):
    """A second source that must not notice anything."""
    other = _camera(tmp_path / "other")
    good = next(other)
    good.start()
    with Watched(good.url) as watched:
        watched.until(SourceState.LIVE, 10)
        yield watched
        assert watched.states() == ["live"]
        assert watched.gaps() < 1.5, "frames go on while the other camera is in trouble"
    for _ in other:
        pass


def _camera(folder, *options):
    need_rtsp()
    camera = RtspCamera(folder, *options)
    try:
        yield camera
    finally:
        camera.kill()


@contextmanager
def live(camera):
    camera.start()
    with Watched(camera.url) as watched:
        watched.until(SourceState.LIVE, 10)
        yield watched


def test_killed_camera_is_down_at_once_and_back_soon(camera, neighbour):
    with live(camera) as watched:
        camera.kill()
        took_s = watched.until(SourceState.DOWN, READ_S + GRACE_S)
        print(f"killed: DOWN after {took_s:.2f} s")
        camera.start()
        took_s = watched.until(SourceState.LIVE, 5)
        print(f"restarted: LIVE after {took_s:.2f} s")
        assert watched.states() == ["live", "down", "live"]
        assert watched.reader.status().reconnects == 1
        seqs = [seq for _, seq, _ in watched.taken]
        assert seqs == sorted(set(seqs)), "no frame twice, no number back"
        watched.reader.stop(5)
        waiting = watched.slot.frame is not None
        assert watched.meter.seen == watched.meter.processed + sum(watched.meter.skipped().values()) + waiting


def test_frozen_stream_is_down_after_its_deadline_and_recovers_after_thaw(camera, neighbour):
    with live(camera) as watched:
        camera.freeze()
        took_s = watched.until(SourceState.DOWN, READ_S + 1.5)
        print(f"frozen: DOWN after {took_s:.2f} s: {watched.reader.status().reason}")
        camera.thaw()
        took_s = watched.until(SourceState.LIVE, OPEN_S + GRACE_S + 5)
        print(f"thawed: LIVE after {took_s:.2f} s")


@pytest.mark.slow
def test_hung_camera_is_down_after_its_deadline_and_recovers(camera, neighbour):
    with live(camera) as watched:
        camera.hang()
        took_s = watched.until(SourceState.DOWN, READ_S + 1.5)
        print(f"hung: DOWN after {took_s:.2f} s: {watched.reader.status().reason}")
        time.sleep(OPEN_S + GRACE_S)  # let it try to open a camera that accepts and never answers
        assert watched.reader.status().state is SourceState.DOWN
        camera.resume()
        took_s = watched.until(SourceState.LIVE, OPEN_S + GRACE_S + 5)
        print(f"resumed: LIVE after {took_s:.2f} s, hung threads {watched.reader.status().hung}")


@pytest.mark.slow
def test_camera_dead_at_boot_is_reported_once_and_comes_alive(camera, neighbour):
    with Watched(camera.url) as watched:
        watched.until(SourceState.DOWN, 3)
        assert "Connection refused" in watched.reader.status().reason
        time.sleep(2)
        camera.start()
        took_s = watched.until(SourceState.LIVE, 5)
        print(f"late start: LIVE after {took_s:.2f} s")
        assert watched.states() == ["down", "live"]


@pytest.mark.slow
def test_frames_are_fresh_although_opening_gathers_a_backlog(camera):
    with live(camera) as watched:
        time.sleep(1)
    first = [captured_ns for _, _, captured_ns in watched.taken[:10]]
    assert min(later - earlier for earlier, later in pairwise(first)) > 0.2 * 1e9 / 15, "frames of a burst would all carry the moment of opening as their time"


PASSWORD = "h@rd/to:gu3ss %1?"


@pytest.mark.slow
def test_hard_password_opens_and_wrong_one_is_named_but_never_shown(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    for camera in _camera(tmp_path / "cam", "--user", "guard", "--password", PASSWORD):
        camera.start()
        with Watched(camera.url, username="guard", password=PASSWORD) as good:
            good.until(SourceState.LIVE, 10)
        with Watched(camera.url, username="guard", password="wr0ng/s3cret") as bad:
            bad.until(SourceState.DOWN, OPEN_S + GRACE_S)
            time.sleep(1)
        with Watched(camera.url) as without:
            without.until(SourceState.DOWN, OPEN_S + GRACE_S)
        told = repr([change for _, change in good.changes + bad.changes + without.changes]) + repr(bad.reader.status())
        streams = capfd.readouterr()
        assert streams.err == "", "neither OpenCV nor FFmpeg writes anything"
        for secret in (PASSWORD, "h%40rd", "wr0ng", "guard"):
            for text in (told, streams.out, streams.err, caplog.text):
                assert secret not in text
        assert "refused the user name or password" in bad.reader.status().reason
        assert "wants a user name and a password" in without.reader.status().reason
        assert bad.states() == ["down"]


@pytest.mark.slow
def test_unknown_path_is_named(camera):
    camera.start()
    with Watched(camera.url.replace("/cam", "/nothing")) as watched:
        watched.until(SourceState.DOWN, OPEN_S + GRACE_S)
        assert "no such stream" in watched.reader.status().reason
