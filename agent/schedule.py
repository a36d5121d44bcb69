"""Whose frame is next, and when the others' will be wanted: fair, and no faster than the pace allows."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agent.capture.source import LatestFrame
from agent.meters import SourceMeter
from agent.records import Frame

_IDLE_S = 0.25
_NEVER_NS = 1 << 62
_ALIVE_NS = 1_000_000_000  # a source that gave no frame for so long is not waited for


@dataclass(slots=True, kw_only=True)
class Pace:
    """What the loop may do now.

    Attributes:
        rate: Frames per second for all sources together; None = as many as the engine takes, 0 = none.
        max_batch: Most frames in one engine call.
        batch_deadline_s: A batch that is not full waits this long for more.
    """

    rate: float | None = None
    max_batch: int = 1
    batch_deadline_s: float = 0.005


@dataclass(slots=True, kw_only=True)
class Lane:
    """One source as the loop sees it.

    Attributes:
        slot: Its mailbox.
        meter: Its counters.
        max_rate: Frames per second it may have at most; None = any.
        share: What the budget leaves it, the same way; 0 = nothing: it is shed.
        priority: Sources of a higher one are served first when there is not enough for all.
    """

    slot: LatestFrame
    meter: SourceMeter
    max_rate: float | None = None
    share: float | None = None
    priority: int = 5

    @property
    def open_ns(self) -> int:
        """The moment from which another frame of this source may be taken."""
        rate = min((rate for rate in (self.max_rate, self.share) if rate is not None), default=None)
        if rate is None:
            return 0
        return self.slot.last_taken_ns + int(1e9 / rate) if rate else _NEVER_NS


class Schedule:
    """The line of the sources before the engine.

    Args:
        lanes: One a source; all mailboxes share one condition.
        ready: That condition.
        pace: Limits; whoever holds it may change it between two batches.

    Attributes:
        call_ns: How long a call keeps the engine busy, nanoseconds; whoever runs the engine keeps it up to date.
        underway: Frames taken and not told yet; change it with ``ready`` held.
    """

    def __init__(self, lanes: Sequence[Lane], ready: threading.Condition, pace: Pace) -> None:
        self.lanes = lanes
        self.ready = ready
        self.pace = pace
        self.call_ns = 0
        self.underway = 0
        self._open_ns = 0
        self._someone_waits = False

    def take(self, most: int, stop: threading.Event) -> Sequence[tuple[Frame, int]]:
        """Wait up to a moment for frames, at most until ``stop``; return (frame, skipped) of those who waited longest.

        Args:
            most: Frames that fit into one call of the engine; the pace may allow fewer.
            stop: Ends the wait.
        """
        give_up_ns = time.monotonic_ns() + int(_IDLE_S * 1e9)
        first_ns = 0
        with self.ready:
            while not stop.is_set():
                now_ns = time.monotonic_ns()
                ripe = self._ripe(now_ns)
                allowed = min(most, self.pace.max_batch)  # it may change while we wait
                first_ns = (first_ns or now_ns) if ripe else 0
                full_ns = first_ns + int(self.pace.batch_deadline_s * 1e9)
                if ripe and (len(ripe) >= self._enough(allowed, now_ns) or now_ns >= full_ns):
                    return self._serve(ripe, allowed, now_ns)
                if not ripe and now_ns >= give_up_ns:
                    break
                opening = [t for t in (self._open_ns, *(lane.open_ns for lane in self.lanes)) if t > now_ns]
                wake_ns = full_ns if ripe else min([*opening, give_up_ns])
                self.ready.wait((wake_ns - now_ns) / 1e9)
        return []

    def told(self, count: int) -> None:
        """Learn that ``count`` frames are told."""
        with self.ready:
            self.underway -= count
            if self._someone_waits and not self.underway:
                self.ready.notify_all()

    def rest(self, timeout_s: float) -> None:
        """Wait until something happens, at most for a moment."""
        with self.ready:
            self.ready.wait(timeout_s)

    def wait_until_told(self, timeout_s: float) -> None:
        """Wait until no frame is under way, at most for a moment."""
        with self.ready:
            self._someone_waits = True
            self.ready.wait_for(lambda: not self.underway, timeout_s)
            self._someone_waits = False

    def _ripe(self, now_ns: int) -> list[Lane]:
        """Return the lanes whose frame may be taken now, the one served longest ago first."""
        if now_ns < self._open_ns or self.pace.rate == 0:
            return []
        ripe = [lane for lane in self.lanes if lane.slot.frame is not None and lane.open_ns <= now_ns]
        return sorted(ripe, key=lambda lane: lane.slot.last_taken_ns)

    def _enough(self, most: int, now_ns: int) -> int:
        """Return how many frames are worth no more waiting: a full batch, or one of each source that is alive."""
        return max(1, min(most, sum(_alive(lane, now_ns) for lane in self.lanes)))

    def _serve(self, ripe: Sequence[Lane], most: int, now_ns: int) -> Sequence[tuple[Frame, int]]:
        taken = [lane.slot.take(now_ns) for lane in ripe[:most]]
        self.underway += len(taken)
        self.ask(most, now_ns, len(taken))
        return taken

    def ask(self, most: int, now_ns: int, count: int) -> None:
        """Say when the next frames are wanted; call with ``ready`` held.

        The source that was served longest ago is next in line, at the end of the engine call that now begins; those
        behind it one call later for each batch before them. A source that gives no frames takes no place in the line:
        its first one is welcome at once.
        """
        rate = self.pace.rate
        period_ns = int(1e9 / rate) if rate else 0
        # A pace that was slower until now leaves no frame waiting for longer than a period of the new one.
        open_ns = min(max(self._open_ns, now_ns - period_ns), now_ns + period_ns)
        self._open_ns = open_ns + count * period_ns
        if rate == 0:
            for lane in self.lanes:
                lane.slot.skip_reason = "paused"
                lane.slot.want(_NEVER_NS)
            return
        place = 0
        for lane in sorted(self.lanes, key=lambda lane: lane.slot.last_taken_ns):
            free_ns = now_ns + self.call_ns
            if _alive(lane, now_ns):
                free_ns += self.call_ns * (place // most)
                place += 1
            wanted_ns = max(free_ns, self._open_ns, lane.open_ns)
            lane.slot.skip_reason = "shed" if lane.share == 0 else "pace" if wanted_ns > free_ns else "busy"
            lane.slot.want(wanted_ns)


def _alive(lane: Lane, now_ns: int) -> bool:
    """Tell whether a source gives frames: one waits, or one was taken not long ago. Call with ``ready`` held."""
    return lane.slot.frame is not None or now_ns - lane.slot.last_taken_ns < _ALIVE_NS
