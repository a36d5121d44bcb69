"""Video files: real ones, written by the test, and damaged in the ways files get damaged."""

import sys
import wave

import cv2
import numpy as np
import pytest

from agent.capture.opencv import StreamSource, with_login
from agent.capture.opening import SourceOptions, open_source
from agent.capture.quiet import load_cv2
from agent.errors import EndOfStreamError, SourceError, SourceGoneError, missing_extra
from tests.helpers.scripted_source import Clock

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "gray steps.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    assert writer.isOpened()
    for i in range(FRAMES):
        noise = np.random.default_rng(i).integers(-10, 11, (48, 64, 3))  # makes the frames outweigh the header
        writer.write((20 + 18 * i + noise).clip(0, 255).astype(np.uint8))
    writer.release()
    return path


def opened(path, query=""):
    return open_source(SourceOptions(name="clip", url=f"file://{path}{query}".replace(" ", "%20")))


def test_every_frame_comes_in_order_with_its_pixels(clip):
    source = opened(clip, "?pace=all")
    assert not source.live
    kept = []
    for i in range(FRAMES):
        assert source.grab() == i
        kept.append(source.retrieve())
    with pytest.raises(EndOfStreamError):
        source.grab()
    assert kept[0].shape == (48, 64, 3)
    assert kept[0].dtype == np.uint8
    assert [round((float(pixels.mean()) - 20) / 18) for pixels in kept] == list(range(FRAMES)), "earlier frames are not reused"


def test_looped_clip_begins_again_at_zero(clip):
    source = opened(clip, "?loop=1&pace=all")
    assert [source.grab() for _ in range(2 * FRAMES + 1)] == [*range(FRAMES), *range(FRAMES), 0]


def test_realtime_frames_are_due_at_the_clips_rate_and_late_ones_come_at_once(clip):
    from agent.capture.address import ClipAddress
    from agent.capture.opencv import ClipSource
    clock, slept = Clock(), []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        clock.advance(seconds)

    source = ClipSource(ClipAddress(path=clip, loop=False, realtime=True), clock, sleep)
    assert source.live
    indices = [source.grab() for _ in range(3)]
    clock.advance(0.1)
    indices += [source.grab() for _ in range(4)]
    assert indices == list(range(7)), "a late frame is not dropped"
    assert slept == [0.04, 0.04, 0.02, 0.04]


@pytest.mark.parametrize(("make", "says"), [
    (lambda path: None, "No such file"),
    (lambda path: path.mkdir(), "is a folder"),
    (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.write_bytes(np.random.default_rng(0).bytes(50_000)), "no video that can be decoded"),
], ids=["missing", "folder", "empty", "noise"])
def test_unusable_file_is_gone_or_down_when_looped(tmp_path, make, says):
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(SourceGoneError, match=says) as caught:
        opened(path)
    assert str(path) in caught.value.what
    assert caught.value.remedy
    with pytest.raises(SourceError, match=says) as caught:
        opened(path, "?loop=1")
    assert not isinstance(caught.value, SourceGoneError)


def test_sound_without_a_picture_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    with pytest.raises(SourceGoneError, match="no picture track"):
        opened(tmp_path / "sound.mp4")


@pytest.mark.parametrize(("query", "kind"), [("?pace=all", SourceGoneError), ("?pace=all&loop=1", SourceError)])
def test_clip_cut_off_names_the_frame_where_it_breaks(clip, tmp_path, query, kind):
    whole = clip.read_bytes()
    short = tmp_path / "short.avi"
    short.write_bytes(whole[:len(whole) * 3 // 4])
    source = opened(short, query)
    indices = []
    with pytest.raises(SourceError) as caught:
        indices.extend(iter(source.grab, None))
    assert type(caught.value) is kind
    assert 0 < len(indices) < FRAMES
    assert f"breaks at frame {len(indices)} of {FRAMES}" in caught.value.what


class FakeCapture:
    """Stands for a stream whose reads take scripted times."""

    def __init__(self, clock, reads):
        self.clock, self.reads = clock, iter(reads)

    def isOpened(self):  # noqa: N802
        return True

    def get(self, _):
        return 10.0

    def grab(self):
        grabbed, took_s = next(self.reads)
        self.clock.advance(took_s)
        return grabbed


def stream(monkeypatch, reads):
    clock = Clock()
    asked = []

    def capture(*arguments):
        asked.append(arguments)
        return FakeCapture(clock, reads)

    monkeypatch.setattr("agent.capture.opencv.cv2.VideoCapture", capture)
    monkeypatch.setattr("agent.capture.opencv.greet", lambda *_: None)
    from agent.capture.address import StreamAddress
    source = StreamSource(StreamAddress(url="rtsp://cam/live"), username="u", password="p", open_timeout_s=4,
                          read_timeout_s=2, clock=clock)
    return source, asked


def test_frame_that_took_the_whole_timeout_is_a_dead_stream_although_it_came(monkeypatch):
    source, asked = stream(monkeypatch, [(True, 0.1), (True, 0.1), (True, 2.0)])
    assert source.grab() == 0
    with pytest.raises(SourceError, match="no frame within 2 s"):
        source.grab()
    url, backend, settings = asked[0]
    assert (url, backend) == ("rtsp://u:p@cam/live", cv2.CAP_FFMPEG)
    assert settings == [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 4000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 2000,
                        cv2.CAP_PROP_N_THREADS, 1]


def test_backlog_from_opening_is_passed_over(monkeypatch):
    source, _ = stream(monkeypatch, [*[(True, 0.001)] * 20, (True, 0.09), (True, 0.1), (False, 0.1)])
    assert source.grab() == 0
    with pytest.raises(SourceError, match="broke off"):
        source.grab()


@pytest.mark.parametrize(("username", "password", "url"), [
    (None, None, "rtsp://[::1]:554/a?b=c"), ("u", None, "rtsp://u@[::1]:554/a?b=c"),
    ("u ü", "p@s/w:d?#1%", "rtsp://u%20%C3%BC:p%40s%2Fw%3Ad%3F%231%25@[::1]:554/a?b=c")])
def test_login_is_percent_encoded(username, password, url):
    assert with_login("rtsp://[::1]:554/a?b=c", username, password) == url


def test_a_missing_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SourceError, match="OpenCV cannot be loaded") as caught:
        load_cv2()
    assert caught.value.remedy.endswith(missing_extra("cpu"))
