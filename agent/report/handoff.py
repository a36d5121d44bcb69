"""Where the loop hands its events to the writer: bounded, and never a wait.

``append`` takes an event or counts it as refused; what was refused becomes a gap that the writer declares with its
next commit. One thread takes out, any thread puts in.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice

from agent.records import Event
from agent.report import sealing
from agent.report.gaps import Gap, Reason, merged
from agent.report.spool_records import Pending


class HandOff:
    """Events in memory that wait for their commit.

    Args:
        max_bytes: Bodies that may wait, bytes.
        commit_events: Most events in one commit.
        commit_bytes: Most bytes of bodies in one commit, unless a single one is larger.
        commit_interval_s: Longest time an event waits before its commit is due, seconds.

    Attributes:
        appended: Events taken.
        committed: Events taken out for good.
        refused: Events not taken, by reason.
    """

    def __init__(self, *, max_bytes: int, commit_events: int, commit_bytes: int, commit_interval_s: float) -> None:
        self._max_bytes, self._commit_events, self._commit_bytes = max_bytes, commit_events, commit_bytes
        self._interval_s = commit_interval_s
        self._changed = threading.Condition()
        self._ring: deque[Pending] = deque()
        self._bytes = 0
        self._undeclared: dict[Reason, Gap] = {}
        self._hurry = 0
        self._closed = False
        self.appended = self.committed = 0
        self.refused: Counter[str] = Counter()

    def append(self, event: Event) -> None:
        """Take ``event``, or count it as refused; returns at once."""
        size = len(event.body)
        with self._changed:
            if self._closed or self._bytes + size > self._max_bytes:
                self._refuse(event)
                return
            self._ring.append(Pending(event, time.monotonic()))
            self._bytes += size
            self.appended += 1
            if len(self._ring) in {1, self._commit_events}:
                self._changed.notify_all()

    def _refuse(self, event: Event) -> None:
        if self._closed:  # nothing can be declared any more
            self.refused["closed"] += 1
            return
        self.refused["memory_full"] += 1
        at = sealing.time_of(event.body)
        self._add(Gap(reason="memory_full", count=1, types={event.type: 1}, since=at, until=at))

    def _add(self, gap: Gap) -> None:
        before = self._undeclared.get(gap.reason)
        self._undeclared[gap.reason] = merged(before, gap) if before else gap

    def next_group(self, longest_s: float) -> list[Pending]:
        """Wait until a commit is due, for ``longest_s`` at most, and return its events, which stay here."""
        deadline = time.monotonic() + longest_s
        with self._changed:
            while True:
                now = time.monotonic()
                if self._due(now) or now >= deadline:
                    break
                until = min(deadline, self._ring[0].appended + self._interval_s) if self._ring else deadline
                self._changed.wait(until - now)
            return self._group() if self._due(time.monotonic()) else []

    def _due(self, now: float) -> bool:
        if not self._ring:
            return self._closed
        return (now >= self._ring[0].appended + self._interval_s or len(self._ring) >= self._commit_events
                or self._hurry > 0 or self._closed)

    def _group(self) -> list[Pending]:
        group: list[Pending] = []
        size = 0
        for one in islice(self._ring, self._commit_events):
            size += len(one.event.body)
            if group and size > self._commit_bytes:
                break
            group.append(one)
        return group

    def done(self, count: int) -> None:
        """Forget the first ``count`` events: they are committed."""
        with self._changed:
            for _ in range(count):
                self._bytes -= len(self._ring.popleft().event.body)
            self.committed += count
            self._changed.notify_all()

    def undeclared(self) -> list[Gap]:
        """Take out what was refused and not declared yet; hand it back with :meth:`still_undeclared` if need be."""
        with self._changed:
            gaps = list(self._undeclared.values())
            self._undeclared.clear()
            return gaps

    def still_undeclared(self, gaps: list[Gap]) -> None:
        """Take back what could not be declared."""
        with self._changed:
            for gap in gaps:
                self._add(gap)

    def flush(self, timeout_s: float, given_up: Callable[[], bool]) -> bool:
        """Wait until all that was appended before is committed; False when it is not after ``timeout_s``."""
        with self._changed:
            target = self.appended
            self._hurry += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self.committed >= target or given_up(), timeout_s)
                return self.committed >= target
            finally:
                self._hurry -= 1

    def wake(self) -> None:
        """Let those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._ring)
