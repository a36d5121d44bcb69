"""The seam to cameras, and the one-frame mailbox between a reader thread and the loop.

Pull, newest wins: a reader grabs every frame, so that no decoder falls behind, but turns a grabbed frame into
pixels only when the loop is about to take one. The loop says *when* it will (:meth:`LatestFrame.want`); a reader
of a live source retrieves the last frame that arrives before that time, a reader of a finite file starts its read
so as to be ready at that time. Either way latency does not grow with the number of cameras. Before the loop has said
anything, a live reader keeps its mailbox fresh and a reader of a file waits: no frame grows old while an engine loads.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from agent.records import Canvas, Frame, Pixels


class Source(Protocol):
    """An open camera, stream or file. One thread uses it; opening happens in the constructor."""

    live: bool
    """True: frames come in their own time and are gone if not taken. False: the next frame waits for us."""

    def grab(self) -> int:
        """Wait for the next frame and hold it, undecoded pixels and all, until the next call.

        Returns:
            The frame's number since the source was opened (a looped clip starts again at 0).

        Raises:
            SourceError: no frame came in time, the stream broke, or the picture cannot be decoded.
            EndOfStreamError: a finite source has no more frames.
        """
        ...

    def retrieve(self) -> Pixels:
        """Return the grabbed frame as (H, W, 3) uint8 BGR; a later call may reuse nothing of it.

        Raises:
            SourceError: the held frame cannot be turned into a picture.
        """
        ...

    def close(self) -> None:
        """Let go of the device or connection."""
        ...


class LatestFrame:
    """A mailbox with room for the newest frame of one source.

    Args:
        source: The source's name.
        ready: Condition shared by all mailboxes of one loop; notified when a frame arrives, is taken or is wanted.

    Attributes:
        live: What the reader knows of its source, see :class:`Source`; False until it is opened.
        skip_reason: Why frames nobody took were passed over, as the counters name it; the loop may change it.
        lay: Lays pixels on the engine's canvas; set by the loop. The reader calls it while the pixels are still in its
            processor's cache, which costs half of what it costs in another thread.
    """

    def __init__(self, source: str, ready: threading.Condition) -> None:
        self.source = source
        self.ready = ready
        self.last_taken_ns = 0
        self.live = False
        self.skip_reason = "starting"
        self.lay: Callable[[Pixels], Canvas] | None = None
        self._wanted_ns: int | None = None
        self._frame: Frame | None = None
        self._last_seq = -1

    def want(self, at_ns: int) -> None:
        """Tell the reader that the loop will take a frame at ``at_ns`` (monotonic clock). Call with ``ready`` held."""
        self._wanted_ns = at_ns
        self.ready.notify_all()

    def wanted_before(self, next_frame_ns: int) -> bool:
        """Tell a live reader whether the frame after the one it holds would come too late."""
        return self._wanted_ns is None or self._wanted_ns <= next_frame_ns

    def wait_until_wanted(self, lead_ns: int, timeout_s: float) -> bool:
        """Block a finite source's reader until it is time to read so that the frame is there when it is wanted.

        Args:
            lead_ns: How long reading one frame takes, nanoseconds.
            timeout_s: Give up after this long, so that the reader can look at its stop flag.

        Returns:
            True when it is time and the mailbox is empty.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        with self.ready:
            while True:
                now_ns = time.monotonic_ns()
                free = self._frame is None and self._wanted_ns is not None
                begin_ns = (self._wanted_ns or 0) - lead_ns
                if free and now_ns >= begin_ns:
                    return True
                if now_ns >= deadline_ns:
                    return False
                until_ns = min(begin_ns, deadline_ns) if free else deadline_ns
                self.ready.wait((until_ns - now_ns) / 1e9)

    def put(self, frame: Frame) -> bool:
        """Leave ``frame``, in place of an older one that nobody took.

        Returns:
            True when an older frame was thrown away for it.
        """
        with self.ready:
            replaced = self._frame is not None
            self._frame = frame
            self.ready.notify_all()
        return replaced

    @property
    def frame(self) -> Frame | None:
        """The waiting frame, if any. Call with ``ready`` held."""
        return self._frame

    def take(self, now_ns: int) -> tuple[Frame, int]:
        """Remove and return the waiting frame and the number of frames skipped since the last one taken.

        Call with ``ready`` held, and only when :attr:`frame` is not None.
        """
        frame, self._frame = self._frame, None
        if frame is None:
            raise RuntimeError(f"{self.source}: nothing to take")
        skipped = frame.seq - self._last_seq - 1
        self._last_seq = frame.seq
        self.last_taken_ns = now_ns
        self.ready.notify_all()
        return frame, skipped

    def clear(self) -> bool:
        """Throw away a waiting frame, because its source froze or died; True when there was one."""
        with self.ready:
            had = self._frame is not None
            self._frame = None
        return had
