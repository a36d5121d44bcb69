"""One opening of a source: its timed calls and the rhythm in which its frames come.

It decides nothing about states; :mod:`agent.capture.reader` does.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.capture.source import LatestFrame, Source
from agent.errors import AgentError
from agent.records import Pixels

_WEIGHT = 0.1
"""Weight of the newest value in the moving averages of frame interval and reading time."""
_LOOK_UP_S = 0.25


class AbandonedError(AgentError):
    """The call came back after its thread had been given up: unwind, close, change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A call that hangs: its name, its limit in seconds, and whether a grabbed frame is lost with it."""

    what: str
    limit_s: float
    holds_frame: bool


class CallWatch:
    """Says how long one thread has been inside a call, and cuts it off from the rest when that is too long."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._call: tuple[str, float, float] | None = None
        self.abandoned = False
        self.holds_frame = False

    @contextmanager
    def call(self, what: str, limit_s: float) -> Iterator[None]:
        """Time the block.

        Raises:
            AbandonedError: the thread was given up meanwhile.
        """
        with self._lock:
            self._call = (what, self._clock(), limit_s)
        try:
            yield
        finally:
            with self._lock:
                self._call = None
        if self.abandoned:
            raise AbandonedError(f"{what} returned too late")

    def abandon_if_overdue(self) -> Overdue | None:
        """Give the thread up if its call takes longer than allowed; either this or the call's end comes first."""
        with self._lock:
            if self._call is None or self._clock() - self._call[1] <= self._call[2]:
                return None
            self.abandoned = True
            return Overdue(what=self._call[0], limit_s=self._call[2], holds_frame=self.holds_frame)

    def abandon(self) -> None:
        """Give the thread up."""
        with self._lock:
            self.abandoned = True


class Session:
    """An open source with its watch.

    Attributes:
        live: See :class:`agent.capture.source.Source`.
        watch: Times the calls.
        frames: Grabbed so far.
        lasted_s: From the first grabbed frame to the newest, seconds.
    """

    def __init__(self, source: Source, slot: LatestFrame, watch: CallWatch, limit_s: float,
                 clock: Callable[[], float]) -> None:
        self.live = source.live
        self.watch = watch
        self.frames = 0
        self.lasted_s = 0.0
        self._source = source
        self._slot = slot
        self._limit_s = limit_s
        self._clock = clock
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._interval_s = 0.0
        self._lead_s = 0.0
        self._begin_s = 0.0

    def due(self) -> bool:
        """Wait for the moment to read; False: look at the stop flag, then ask again."""
        return self.live or self._slot.wait_until_wanted(int(self._lead_s * 1e9), _LOOK_UP_S)

    def grab(self) -> int:
        """Grab in time, and learn the rhythm; raises what the source raises."""
        self._begin_s = self._clock()
        with self.watch.call("a read", self._limit_s):
            index = self._source.grab()
        now_s = self._clock()
        if self._last_s is not None:
            self._interval_s = _mean(self._interval_s, now_s - self._last_s)
        self._first_s, self._last_s = now_s if self._first_s is None else self._first_s, now_s
        self.lasted_s = now_s - self._first_s
        self.frames += 1
        return index

    def retrieve(self) -> Pixels:
        """Retrieve in time; raises what the source raises."""
        with self.watch.call("decoding", self._limit_s):
            return self._source.retrieve()

    def handed_over(self) -> None:
        """Learn how long one frame takes from its grab to the mailbox."""
        self._lead_s = _mean(self._lead_s, self._clock() - self._begin_s)

    def wanted(self, now_s: float) -> bool:
        """Tell whether the frame after this one would come too late for the loop."""
        return self._slot.wanted_before(round((now_s + self._interval_s) * 1e9))

    def close(self) -> None:
        """Close the source, which may hang as well."""
        try:
            with self.watch.call("closing", self._limit_s):
                self._source.close()
        except AbandonedError:
            return


def _mean(before: float, new: float) -> float:
    return new if before == 0 else before + _WEIGHT * (new - before)
