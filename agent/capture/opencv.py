"""Video files and RTSP streams, decoded by the FFmpeg inside OpenCV.

A stream's liveness is judged by the time a read took, not by its result: after a camera has frozen, OpenCV hands
out leftover frames, each after the whole timeout (measured with 4.14). A file that breaks in the middle says so.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from agent.capture.address import HIGHEST_RATE, LOWEST_RATE, ClipAddress, StreamAddress
from agent.capture.pacing import Pacer
from agent.capture.quiet import load_cv2
from agent.capture.rtsp import diagnose, greet
from agent.errors import EndOfStreamError, SourceError, SourceGoneError
from agent.records import Pixels
from agent.redact import redact

cv2 = load_cv2()

_FALLBACK_RATE = 25.0  # for a clip whose container names no frame rate


class ClipSource:
    """A video file.

    Args:
        address: The file, and how to play it.
        clock: Monotonic seconds.
        sleep: Waits that many seconds.

    Raises:
        SourceGoneError: the file is missing, empty or no video, and it is not to be looped.
        SourceError: the same for a looped one, which is tried again: it may come with a mount.
    """

    def __init__(self, address: ClipAddress, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._path = address.path
        self._loop = address.loop
        self.live = address.realtime
        self._error = SourceError if address.loop else SourceGoneError
        self._capture = self._open()
        self._next = 0
        self._pacer = None
        if address.realtime:
            rate = float(self._capture.get(cv2.CAP_PROP_FPS))
            known = 0 < rate <= HIGHEST_RATE
            self._pacer = Pacer(max(rate, LOWEST_RATE) if known else _FALLBACK_RATE, clock, sleep)

    def grab(self) -> int:
        """Hold the next frame; see :class:`agent.capture.source.Source`."""
        if self._pacer is not None:
            self._pacer.wait()
        if not self._capture.grab():
            self._end()
        index, self._next = self._next, self._next + 1
        return index

    def retrieve(self) -> Pixels:
        """Return the held frame."""
        return retrieved(self._capture, f"clip {self._path}, frame {self._next - 1}")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _open(self) -> Any:
        problem = _unfit(self._path)
        if problem is None:
            capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
            if capture.isOpened():
                return capture
            problem = "holds no video that can be decoded: it is corrupt, has no picture track or an unknown codec"
        raise self._error(f"clip {self._path} {problem}", "check the path in `url`, and the file with `ffprobe`")

    def _end(self) -> None:
        """Start again at the first frame of a looped clip.

        Raises:
            EndOfStreamError: the last frame was delivered.
            SourceGoneError: frames are missing (SourceError for a looped clip).
        """
        frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if self._next < max(frames, 1):
            # Some containers (Matroska) tell a duration only, and then sound longer than the picture looks like this.
            raise self._error(f"clip {self._path} breaks at frame {self._next} of {frames}: the file is damaged, cut "
                              "off, or its duration is wrong", "copy the file again, or repack it as MP4")
        if not self._loop:
            raise EndOfStreamError(f"clip {self._path} ended after {self._next} frames")
        self._next = 0
        # Going back is cheaper than opening again, which not every container spares us.
        if self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0) and self._capture.grab():
            return
        self._capture.release()
        self._capture = self._open()
        if not self._capture.grab():
            raise self._error(f"clip {self._path} could not be read again from its start", "check the file")


class StreamSource:
    """An RTSP stream over TCP, one decoder thread (more would hold back as many frames).

    Args:
        address: The stream.
        username: User name, or None.
        password: The secret itself, or None; enters the URL, percent-encoded, only for opening.
        open_timeout_s: Opening may take this long, seconds.
        read_timeout_s: A read that takes this long means a dead stream, seconds.
        clock: Monotonic seconds.

    Raises:
        SourceError: no connection, login refused, no such stream, no decodable video.
    """

    live = True

    def __init__(self, address: StreamAddress, *, username: str | None, password: str | None, open_timeout_s: float,
                 read_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = redact(address.url)
        self._read_timeout_s = read_timeout_s
        self._clock = clock
        self._next = 0
        begin_s = clock()
        greet(address.url, open_timeout_s)
        self._capture = cv2.VideoCapture(with_login(address.url, username, password), cv2.CAP_FFMPEG, [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_timeout_s * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_timeout_s * 1000), cv2.CAP_PROP_N_THREADS, 1])
        left_s = begin_s + open_timeout_s - clock()
        if not self._capture.isOpened():
            raise SourceError(*diagnose(address.url, left_s, login=username is not None))
        self._drop_backlog(left_s)

    def grab(self) -> int:
        """Hold the next frame; see :class:`agent.capture.source.Source`."""
        grab_in_time(self._capture, self._what, self._read_timeout_s, self._clock, "check the camera and its network")
        index, self._next = self._next, self._next + 1
        return index

    def retrieve(self) -> Pixels:
        """Return the held frame."""
        return retrieved(self._capture, f"{self._what}, frame {self._next - 1}")

    def close(self) -> None:
        """End the session."""
        self._capture.release()

    def _drop_backlog(self, limit_s: float) -> None:
        """Pass over the frames FFmpeg gathered while it opened (about 2 s): they would get a wrong capture time.

        A frame that had to be waited for is fresh.
        """
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        fresh_s = 0.5 / rate if 0 < rate <= HIGHEST_RATE else 0.5 / _FALLBACK_RATE
        end_s = self._clock() + limit_s
        begin_s = self._clock()
        while begin_s < end_s and self._capture.grab():
            now_s = self._clock()
            if now_s - begin_s >= fresh_s:
                break
            begin_s = now_s


def with_login(url: str, username: str | None, password: str | None) -> str:
    """Return ``url`` with the login in it, percent-encoded. Never log the result."""
    if username is None:
        return url
    parts = urlsplit(url)
    login = quote(username, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def grab_in_time(
        capture: Any, what: str, limit_s: float, clock: Callable[[], float], remedy: str) -> None:
    """Let a ``cv2.VideoCapture`` hold its next frame, and judge by the time it took, whatever it says itself.

    Raises:
        SourceError: it took ``limit_s`` seconds or longer, or there is no frame.
    """
    begin_s = clock()
    grabbed = capture.grab()
    if clock() - begin_s >= limit_s:
        raise SourceError(f"{what}: no frame within {limit_s:g} s", remedy)
    if not grabbed:
        raise SourceError(f"{what}: the stream broke off", remedy)


def retrieved(capture: Any, what: str) -> Pixels:
    """Return the frame that a ``cv2.VideoCapture`` holds as (H, W, 3) uint8 BGR.

    Raises:
        SourceError: it cannot be decoded.
    """
    try:
        decoded, pixels = capture.retrieve()
    except cv2.error as error:
        raise SourceError(f"{what}: {error}") from error
    if not decoded or pixels is None:
        raise SourceError(f"{what}: cannot be decoded")
    picture: Pixels = pixels
    return picture


def _unfit(path: Path) -> str | None:
    """Say why ``path`` cannot be a video file, or None."""
    try:
        if path.is_dir():
            return "is a folder (for pictures use images://)"
        with path.open("rb") as file:
            return None if file.read(1) else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
