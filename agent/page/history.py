"""The last ten minutes, a line a second, for the page's charts."""

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from agent.snapshot import Snapshot

_SPAN_S = 600
_MOST_AGES = 2000
_FRESH_S = 3.0


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One second: when by the monotonic clock, frames a second, latency in milliseconds, events in the spool, watts.

    Null is unknown, or that nothing was looked at.
    """

    at: float
    rate: float
    p50_ms: float | None
    p99_ms: float | None
    spool: int | None
    watts: float | None


class History:
    """A ring of samples; ``saw`` is called by the loop, ``sample`` once a second, ``samples`` by any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ages: deque[float] = deque(maxlen=_MOST_AGES)
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=_SPAN_S)

    def saw(self, age_s: float) -> None:
        """Learn of a frame that was looked at ``age_s`` seconds after its capture."""
        self._ages.append(age_s)

    def sample(self, snapshot: Snapshot) -> None:
        """Add a line from the snapshot and from the frames since the last line."""
        ages = sorted(self._ages.popleft() for _ in range(len(self._ages)))
        reading = snapshot.governor.reading if snapshot.governor else None
        fresh = reading is not None and reading.age_s is not None and reading.age_s <= _FRESH_S
        line = Sample(
            at=round(self._clock(), 2), rate=round(sum(s.processed_rate for s in snapshot.sources), 2),
            p50_ms=_ms(ages, 0.50), p99_ms=_ms(ages, 0.99), spool=snapshot.spool.depth if snapshot.spool else None,
            watts=round(reading.watts, 2) if reading and fresh and reading.watts is not None else None)
        with self._lock:
            self._samples.append(line)

    def samples(self, after: float = 0.0) -> list[Sample]:
        """Return the lines behind ``after``, oldest first."""
        with self._lock:
            return [sample for sample in self._samples if sample.at > after]


def _ms(ages: list[float], share: float) -> float | None:
    return round(ages[min(int(len(ages) * share), len(ages) - 1)] * 1e3, 2) if ages else None
