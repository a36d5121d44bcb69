"""What the agent knows about its own speed: histograms, counters and heartbeats. Cheap enough for every frame.

A histogram has logarithmic buckets 5 % apart from 10 µs to 100 s, so a percentile is right to about 2.5 %.
Status shows the last one to two minutes (two windows that take turns); totals count since the start.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

STAGES = ("capture_age", "wait", "preprocess", "infer", "postprocess", "report", "latency")
_LOWEST_S = 1e-5
_STEP = math.log(1.05)
_BUCKETS = int(math.log(100 / _LOWEST_S) / _STEP) + 2
_WINDOW_S = 60.0
_SLOTS = 10


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Figures of one histogram; seconds. ``count`` 0 means that all others are None: nothing was measured."""

    count: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    longest: float | None = None


class Histogram:
    """Durations of one stage. ``record`` is called by one thread, ``recent`` by any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: list[int] = [0] * _BUCKETS
        self._before: list[int] = [0] * _BUCKETS
        self._longest = [0.0, 0.0]
        self._turn_at = clock() + _WINDOW_S
        self.count = 0
        self.total_s = 0.0

    def record(self, seconds: float) -> None:
        """Add one duration in seconds."""
        if (now := self._clock()) >= self._turn_at:
            stale = now >= self._turn_at + _WINDOW_S
            self._before = [0] * _BUCKETS if stale else self._now
            self._longest = [0.0, 0.0 if stale else self._longest[0]]
            self._now = [0] * _BUCKETS
            self._turn_at = now + _WINDOW_S
        bucket = int(math.log(seconds / _LOWEST_S) / _STEP) + 1 if seconds > _LOWEST_S else 0
        self._now[min(bucket, _BUCKETS - 1)] += 1
        self._longest[0] = max(self._longest[0], seconds)
        self.count += 1
        self.total_s += seconds

    def recent(self) -> Percentiles:
        """Return the figures of the last one to two minutes."""
        overdue = self._clock() - self._turn_at
        if overdue >= _WINDOW_S:
            return Percentiles(0)
        if overdue >= 0:  # nothing came since the turn was due: the older window has left
            counts, longest = self._now, self._longest[0]
        else:
            counts, longest = [a + b for a, b in zip(self._now, self._before, strict=True)], max(self._longest)
        total = sum(counts)
        if not total:
            return Percentiles(0)
        p50, p95, p99 = (min(self._at(counts, total * q), longest) for q in (0.50, 0.95, 0.99))
        return Percentiles(total, p50, p95, p99, longest)

    @staticmethod
    def _at(counts: list[int], rank: float) -> float:
        seen = 0
        for bucket, count in enumerate(counts):
            seen += count
            if seen >= rank:
                return _LOWEST_S * math.exp((bucket - 0.5) * _STEP)
        raise AssertionError("unreachable: the rank is at most the sum")


class Heartbeat:
    """Proof that a thread goes forward: it beats, also while it rightly waits, and whoever watches reads the age."""

    def __init__(self, name: str, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.limit_s = limit_s
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """Say: still going forward."""
        self._last = self._clock()

    def age_s(self) -> float:
        """Return the seconds since the last beat."""
        return self._clock() - self._last

    def fresh(self) -> bool:
        """Tell whether the last beat is younger than the limit."""
        return self.age_s() <= self.limit_s


class Rate:
    """Events per second over the last few seconds; counted by one thread, read by any."""

    def __init__(self, span_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slot_s = span_s / _SLOTS
        self._slots = [0] * (_SLOTS + 1)  # one more: the newest is still filling
        self._head = int(clock() / self._slot_s)
        self._born = clock()

    def add(self, count: int = 1) -> None:
        """Count ``count`` events now."""
        self._turn()
        self._slots[self._head % len(self._slots)] += count

    def per_second(self) -> float:
        """Return the mean rate over the span (or since birth, when younger)."""
        self._turn()
        now = self._clock()
        span_s = self._slot_s * _SLOTS + (now - self._head * self._slot_s)
        return sum(self._slots) / max(min(span_s, now - self._born), self._slot_s)

    def _turn(self) -> None:
        head = int(self._clock() / self._slot_s)
        for slot in range(self._head + 1, min(head, self._head + len(self._slots)) + 1):
            self._slots[slot % len(self._slots)] = 0
        self._head = max(self._head, head)


class SourceMeter:
    """Counters of one source: seen = processed + skipped (by reason) + the one in flight."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self.seen = 0
        self.processed = 0
        self.reconnects = 0
        self._skipped: Counter[str] = Counter()
        self.seen_rate = Rate(clock=clock)
        self.processed_rate = Rate(clock=clock)

    def saw(self) -> None:
        """Count one grabbed frame."""
        self.seen += 1
        self.seen_rate.add()

    def skip(self, reason: str, count: int = 1) -> None:
        """Count frames that the engine will never see, by reason (``busy``, ``pace``, ``frozen`` …)."""
        with self._lock:
            self._skipped[reason] += count

    def did(self) -> None:
        """Count one frame that went through the engine."""
        self.processed += 1
        self.processed_rate.add()

    def skipped(self) -> dict[str, int]:
        """Return a copy of the skip counters by reason."""
        with self._lock:
            return dict(self._skipped)
