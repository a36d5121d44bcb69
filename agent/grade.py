"""How good a source has been over the last hour: good, fair, poor or bad, and why. Values only, no I/O.

Somebody who looks once a second tells a :class:`Record` what the source does; sums are kept by the minute, so that one
look costs a few additions and an hour of them some hundred bytes. docs/status.md has the table of limits.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

GOOD, FAIR, POOR, BAD, UNKNOWN = "good", "fair", "poor", "bad", "unknown"
GRADES = (GOOD, FAIR, POOR, BAD)
_MINUTE_S = 60.0
_HOUR = 60  # minutes
_MEAN_OF = 10  # minutes
_DAY = 144  # means of ten minutes
_LONGEST_LOOK_S = 5.0
_LEAST_S = 60.0  # below that a source is not judged
_LEAST_LIVE_S = 30.0  # of a minute, for its rate to count
_LONG_S = 300.0
_AWAY = frozenset({"down", "connecting"})
_NOTHING = frozenset({"frozen", "black"})

_RATE = (0.8, 0.5, 0.2)
"""Least share of the source's usual rate that is good, fair, poor."""
_RECONNECTS = (2, 10, 30)
"""Most reconnects in the last hour that are good, fair, poor."""
_AWAY_S = _NOTHING_S = (20.0, 180.0, 900.0)
"""Most seconds of the last hour, not live or showing nothing, that are good, fair, poor."""


class Look(NamedTuple):
    """What a source does at one moment; counters since the start."""

    at_s: float
    state: str
    seen: int
    reconnects: int


class Grade(NamedTuple):
    """The judgement: one of :data:`GRADES` or ``unknown``, why in words, and the source's usual rate."""

    grade: str
    why: str
    usual_rate: float | None


class _Minute:
    """Sums of one minute; seconds and counts."""

    __slots__ = ("away_s", "live_s", "nothing_s", "reconnects", "seen", "watched_s")

    def __init__(self) -> None:
        self.watched_s = self.live_s = self.away_s = self.nothing_s = 0.0
        self.seen = self.reconnects = 0

    @property
    def rate(self) -> float | None:
        """Frames per second while it was live; None when that was too short to tell."""
        return self.seen / self.live_s if self.live_s >= _LEAST_LIVE_S else None


class Record:
    """What one source did over the last hour, and the rate it usually has.

    Args:
        own_rate: The source has a rate of its own; False for files that are read as fast as the engine takes them.
    """

    def __init__(self, *, own_rate: bool = True) -> None:
        self._own_rate = own_rate
        self._minutes: deque[_Minute] = deque(maxlen=_HOUR)
        self._now = _Minute()
        self._means: deque[float] = deque(maxlen=_DAY)
        self._of_mean: list[float] = []
        self._last: Look | None = None
        self._since_s = 0.0

    def look(self, look: Look) -> None:
        """Add what the source does now. Time between two looks counts as what the second one finds."""
        last, self._last = self._last, look
        if last is None or last.state != look.state:
            self._since_s = look.at_s
        if last is None:
            return
        passed_s = look.at_s - last.at_s
        if not 0 < passed_s <= _LONGEST_LOOK_S:
            return  # nobody looked: what happened meanwhile is not known
        minute = self._now
        minute.watched_s += passed_s
        minute.reconnects += max(look.reconnects - last.reconnects, 0)
        if look.state == "live":
            minute.live_s += passed_s
            minute.seen += max(look.seen - last.seen, 0)
        elif look.state in _AWAY:
            minute.away_s += passed_s
        elif look.state in _NOTHING:
            minute.nothing_s += passed_s
        if minute.watched_s >= _MINUTE_S:
            self._turn(minute)

    def _turn(self, minute: _Minute) -> None:
        self._minutes.append(minute)
        self._now = _Minute()
        if (rate := minute.rate) is None:
            return
        self._of_mean.append(rate)
        if len(self._of_mean) == _MEAN_OF:
            self._means.append(sum(self._of_mean) / _MEAN_OF)
            self._of_mean.clear()

    @property
    def usual_rate(self) -> float | None:
        """The median of its ten-minute rates over the last day; None before the first ten minutes."""
        return median(self._means) if self._means and self._own_rate else None

    def grade(self) -> Grade:
        """Judge: the worst of what :func:`_judged` finds decides, and is the reason."""
        usual, last = self.usual_rate, self._last
        # Copies first: the looking thread goes on while another asks.
        minutes = [*tuple(self._minutes), self._now]
        watched_s = sum(minute.watched_s for minute in minutes)
        if last is None or watched_s < _LEAST_S:
            return Grade(UNKNOWN, f"watched for {watched_s:.0f} s, {_LEAST_S:.0f} s are needed", usual)
        if last.state == "ended":
            return Grade(UNKNOWN, "it has ended", usual)
        found = list(_judged(minutes, usual, last.state, last.at_s - self._since_s))
        worst = max((level for level, _ in found), default=0)
        why = "; ".join(words for level, words in found if level == worst) if worst else ""
        return Grade(GRADES[worst], why, usual)


def _judged(minutes: Sequence[_Minute], usual: float | None, state: str, since_s: float) -> list[tuple[int, str]]:
    """Return a level (0 good … 3 bad) and the words for each thing that is judged."""
    found = []
    if state in _AWAY | _NOTHING:
        level = 1 if state == "connecting" and since_s <= _LONG_S else 2 if since_s <= _LONG_S else 3
        found.append((level, f"{state} now"))
    rate = minutes[-1].rate if minutes[-1].rate is not None else minutes[-2].rate if len(minutes) > 1 else None
    if usual and rate is not None:
        level = next((n for n, least in enumerate(_RATE) if rate >= least * usual), 3)
        found.append((level, f"{rate:.1f} fps, usually {usual:.1f}"))
    again = sum(minute.reconnects for minute in minutes)
    found += [
        (_level(again, _RECONNECTS), f"{again} reconnects in the last hour"),
        *((_level(seconds, limits), f"{words} for {seconds:.0f} s of the last hour") for seconds, limits, words in (
            (sum(minute.away_s for minute in minutes), _AWAY_S, "not live"),
            (sum(minute.nothing_s for minute in minutes), _NOTHING_S, "frozen or black")))]
    return found


def _level(value: float, limits: Sequence[float]) -> int:
    return next((n for n, most in enumerate(limits) if value <= most), 3)
