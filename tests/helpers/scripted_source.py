"""A source that does what a list says, and a stage on which a Reader plays with it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from agent.capture.reader import Reader, ReaderPolicy
from agent.capture.source import LatestFrame
from agent.errors import EndOfStreamError, SourceGoneError
from agent.meters import SourceMeter
from agent.records import Pixels, SourceChange


def noise(seed: int, width: int = 64, height: int = 48) -> Pixels:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), np.uint8)


class Hang:
    """A call that returns only when told, or when its stage closes."""

    born: ClassVar[list["Hang"]] = []

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.born.append(self)

    def wait(self) -> None:
        self.entered.set()
        self.release.wait()


class ScriptedSource:
    """Plays steps: pixels = a frame; an exception = raised by grab; a Hang = grab blocks, then goes on; a callable is
    called. At the end: EndOfStreamError."""

    def __init__(self, steps, *, live: bool = True) -> None:
        self.live = live
        self.closed = threading.Event()
        self._steps: Iterator = iter(steps)
        self._index = -1
        self._held: object = None

    def grab(self) -> int:
        for step in self._steps:
            if isinstance(step, Hang):
                step.wait()
            elif isinstance(step, BaseException):
                raise step
            elif callable(step):
                step()
            else:
                self._held = step
                self._index += 1
                return self._index
        raise EndOfStreamError("the script ended")

    def retrieve(self) -> Pixels:
        held = self._held
        if isinstance(held, tuple):  # (exception,): the frame was grabbed but is no picture
            raise held[0]
        return held

    def close(self) -> None:
        self.closed.set()


class Clock:
    """A clock that only tests move."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class Stage:
    """A Reader with all its surroundings; opens the given sources one after the other.

    A Hang or an exception in ``sources`` happens to the opener itself.
    """

    def __init__(self, sources, *, clock=time.monotonic, wall=None, **policy) -> None:
        self.ready = threading.Condition()
        self.slot = LatestFrame("door", self.ready)
        self.slot.skip_reason = "busy"
        with self.ready:
            self.slot.want(0)  # a loop is there, and hungry
        self.meter = SourceMeter()
        self.changes: list[SourceChange] = []
        self.seen = threading.Condition()
        self._sources = iter(sources)
        self.opened: list[ScriptedSource] = []
        settings = {"read_timeout_s": 2.0, "open_timeout_s": 4.0, "retry_max_s": 0.01, "frozen_after_s": 10.0,
                    "black_after_s": 5.0, **policy}
        self.reader = Reader("door", self._open, self.slot, self.meter, self._told, ReaderPolicy(**settings),
                             clock=clock, wall=wall or clock, draw=lambda: 0.0)

    def _open(self):
        exhausted = SourceGoneError("the script has no more sources")
        item = next(self._sources, exhausted)
        if isinstance(item, Hang):
            item.wait()
            item = next(self._sources, exhausted)
        if isinstance(item, BaseException):
            raise item
        self.opened.append(item)
        return item

    def close(self) -> None:
        """Leave no thread behind for the next test."""
        self.reader._stopping.set()
        while Hang.born:
            Hang.born.pop().release.set()
        self.reader.stop(5)
        for thread in self.reader._hung:
            thread.join(5)

    def _told(self, change: SourceChange) -> None:
        with self.seen:
            self.changes.append(change)
            self.seen.notify_all()

    def states(self) -> list[str]:
        return [change.state.value for change in self.changes]

    def until_told(self, count: int) -> None:
        with self.seen:
            assert self.seen.wait_for(lambda: len(self.changes) >= count, 10), self.changes

    def take(self):
        """Take a frame as the loop does; waits for it."""
        with self.ready:
            assert self.ready.wait_for(lambda: self.slot.frame is not None, 10), "no frame came"
            frame, _ = self.slot.take(time.monotonic_ns())
        self.meter.did()
        return frame


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for what another thread does; fails loudly."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
