"""Does the agent's memory grow for good? Told while there is time, in words, once.

Every minute the last half hour is looked at, as the medians of up to 30 equal blocks of samples. It is a leak when the
Theil-Sen slope of the later half is at least half that of the whole (what fills up levels off), and the growth is a
straight line but for a tenth of itself, or the Mann-Kendall test calls it significant with the samples' dependence on
their neighbours taken into account (a few steps, a saw and slow swings are not). What grows for 15 minutes and longer,
and then ends, cannot be told from a leak while it lasts; nor can a slow leak be seen below swings of several minutes
that are larger than what it adds in half an hour.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_EVERY_S = 10.0
_WINDOW_S = 1800.0
_KEPT = 180
_BLOCKS = 30  # 435 pairs, a fifth of a millisecond; medians of six samples also have less of their neighbours in them
_TEST_EVERY = 6
_WARM_UP_S = 120.0
# A cache that fills within some minutes has levelled off after so long; only a limit that is near cannot wait for it.
_FULL_S = 1200.0
_LEAST_S = 300.0
_NEAR_S = 1800.0
# p < 0.001 once would be enough, but a day has 1,440 looks, some 50 of them at quite other samples: with 0.001, 5 of
# 1,008 made series of two hours without a leak alarmed, with 0.0001 one did.
_SIGNIFICANT = 1e-4
# 1 MiB in the window is what an allocator's own housekeeping makes; half the slope leaves the later half its noise.
_LEAST_RISE = 1 << 20
_LASTING = 0.5
_STRAIGHT = 0.1  # three steps of one size are off their line by a sixth of the whole
_OVER_S = 6 * 3600.0  # a slow leak is lost sight of for an hour at times
_CONFIRMED = 3  # tests in a row: neighbours in time share most of their samples, but noise seldom lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Memory that only grows.

    Attributes:
        slope_bytes_per_s: How fast.
        since_s: Start of the time it was seen in, seconds of the monotonic clock; it may be older.
        projected_s: Seconds from now until the limit is reached at this pace; None without a limit.
        words: All of it for people.
    """

    slope_bytes_per_s: float
    since_s: float
    projected_s: float | None
    words: str


class LeakWatch:
    """Notices a leak in samples of the memory the agent takes. Needs 1 ms of a processor a minute. One thread uses it.

    Args:
        limit: Bytes at which it becomes serious: the budget or the control group's limit; None = there is none. May be
            set anew.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._samples: deque[tuple[float, int]] = deque(maxlen=_KEPT)
        self._warm_at_s: float | None = None
        self._added = 0
        self._confirmed = 0
        self._told: Leak | None = None
        self._seen_s = -math.inf

    def restart(self) -> None:
        """Begin anew: another engine, canvas or batch takes another amount. What was told stays told."""
        self._samples.clear()
        self._warm_at_s, self._added, self._confirmed = None, 0, 0

    def add(self, at_s: float, size: int) -> Leak | None:
        """Take a sample; return a leak once, and again when the time left has halved.

        A leak not seen for six hours is over, and would be told anew. Samples within 10 s of the last one are left
        out, so it may be called more often.

        Args:
            at_s: Seconds of the monotonic clock.
            size: Resident memory, with the device's and what is swapped out where known, bytes; always the same of it.
        """
        if self._warm_at_s is None:
            self._warm_at_s = at_s + _WARM_UP_S
        # Half a second is what a timer of one second may be early.
        if at_s < self._warm_at_s or (self._samples and at_s - self._samples[-1][0] < _EVERY_S - 0.5):
            return None
        self._samples.append((at_s, size))
        while at_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        self._added += 1
        if self._added % _TEST_EVERY:
            return None
        found = self._look(at_s)
        self._confirmed = self._confirmed + 1 if found else 0
        if found is None or self._confirmed < _CONFIRMED:
            return None
        known, self._seen_s = at_s - self._seen_s <= _OVER_S and self._told, at_s
        if known and not _halved(known, found):
            return None
        self._told = found
        return found

    def _look(self, now_s: float) -> Leak | None:
        since_s = self._samples[0][0]
        span_s = now_s - since_s
        if span_s < _LEAST_S:
            return None
        line = _blocks(list(self._samples))
        slope = theil_sen(line)
        if slope * span_s < _LEAST_RISE or not _lasting(line, slope):
            return None
        rests = _rests(line, slope)
        if max(map(abs, rests)) > _STRAIGHT * slope * span_s:
            z, p = mann_kendall([size for _, size in line], inflated_by=inflation(rests))
            if z < 0 or p >= _SIGNIFICANT:
                return None
        size = line[-1][1]
        left_s = None if self.limit is None else max(0.0, (self.limit - size) / slope)
        if span_s < _FULL_S and (left_s is None or left_s > _NEAR_S):
            return None
        words = (f"memory grew by {slope * 60 / 1e6:.2f} MB a minute for {span_s / 60:.0f} minutes, "
                 f"to {size / 1e6:.0f} MB")
        if left_s is not None and self.limit is not None:
            words += f": at this pace the limit of {self.limit / 1e6:.0f} MB is reached in {_for_people(left_s)}"
        return Leak(slope_bytes_per_s=slope, since_s=since_s, projected_s=left_s, words=words)


def theil_sen(line: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes of all pairs of points; 0 when no two have different times.

    H. Theil, A rank-invariant method of linear and polynomial regression analysis, 1950; P. K. Sen, Estimates of the
    regression coefficient based on Kendall's tau, J. Am. Stat. Assoc. 63 (1968): 1379-1389. Up to 29 % of the points
    may be wild without harm.
    """
    slopes = [(y2 - y1) / (x2 - x1) for n, (x1, y1) in enumerate(line) for x2, y2 in line[n + 1:] if x2 != x1]
    return median(slopes) if slopes else 0.0


def mann_kendall(values: Sequence[float], inflated_by: float = 1.0) -> tuple[float, float]:
    """Return Z (positive: upward) and the two-sided p of the trend of ``values``, which are in order of time.

    H. B. Mann, Nonparametric tests against trend, Econometrica 13 (1945): 245-259; the variance with ties and the
    normal approximation with its correction of 1 as in R. O. Gilbert, Statistical Methods for Environmental Pollution
    Monitoring (1987), section 16.4. Fewer than two different values have no trend: (0, 1).

    Args:
        values: In order of time.
        inflated_by: Factor on the variance, see :func:`inflation`.
    """
    n = len(values)
    s = sum((later > value) - (later < value) for k, value in enumerate(values) for later in values[k + 1:])
    groups: dict[float, int] = {}
    for value in values:
        groups[value] = groups.get(value, 0) + 1
    variance = inflated_by * (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in groups.values())) / 18
    if variance <= 0 or s == 0:
        return 0.0, 1.0
    z = (s - math.copysign(1, s)) / math.sqrt(variance)
    return z, math.erfc(abs(z) / math.sqrt(2))


def inflation(rests: Sequence[float]) -> float:
    """Return by how much dependence between neighbours raises the variance of Mann and Kendall's S; 1 or more.

    n/n* of an AR(1) process with the lag-1 autocorrelation of ``rests``, the values without their trend: S. Yue and
    C. Wang, The Mann-Kendall test modified by effective sample size to detect trend in serially correlated
    hydrological series, Water Resources Management 18 (2004): 201-218. A negative one would make noise significant: 0.
    """
    n, mean = len(rests), sum(rests) / len(rests)
    spread = sum((rest - mean) ** 2 for rest in rests)
    if spread <= 0:
        return 1.0
    rho = max(0.0, sum((a - mean) * (b - mean) for a, b in pairwise(rests)) / spread)
    return 1 + 2 * sum((1 - k / n) * rho ** k for k in range(1, n))


def _rests(line: Sequence[tuple[float, float]], slope: float) -> list[float]:
    """Return what the line of this slope through the middle leaves of each value."""
    rests = [y - slope * x for x, y in line]
    middle = median(rests)
    return [rest - middle for rest in rests]


def _blocks(samples: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Return the median time and size of each block of samples; those that fill no block at the start are left out."""
    each = math.ceil(len(samples) / _BLOCKS)
    return [(median(at_s for at_s, _ in block), median(size for _, size in block))
            for n in range(len(samples) % each, len(samples), each) for block in [samples[n:n + each]]]


def _lasting(line: Sequence[tuple[float, float]], slope: float) -> bool:
    """Tell whether the growth goes on to the end. Of what levels off the median slope is far less than the mean one."""
    third = len(line) // 3
    (first_s, first), (last_s, last) = ((median(at_s for at_s, _ in part), median(size for _, size in part))
                                        for part in (line[:third], line[-third:]))
    mean = (last - first) / (last_s - first_s)
    return theil_sen(line[len(line) // 2:]) >= _LASTING * max(slope, mean)


def _halved(told: Leak, found: Leak) -> bool:
    return (told.projected_s is not None and found.projected_s is not None
            and found.projected_s <= told.projected_s / 2)


def _for_people(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
