"""What a way of working really gives. Pure.

A table knows what an engine can do; cameras, decoders and the rest of the loop may leave less of it. A way that gives
clearly less than it is asked for is remembered with what it gave, for a while, so that another one can be chosen.
"""

from typing import NamedTuple

import msgspec

from agent.power.orders import AHEAD, LEAST_RATE, Order, Sample
from agent.power.points import Way

_SHORT = 0.85  # of what was asked for
_MORE_OFFERED = 1.1
_REMEMBERED_S = 300.0
_NEWEST = 0.2  # weight of the newest sample in the mean
_SERVED, _COARSE = 0.93, 1.25  # so much has to be counted, but for two and a half frames in 2 s
_DOUBLE = 2.5  # the cap of a rate that is served, where no table tells the capacity
_KEEPS_UP = 0.7  # what is counted lags behind a climbing rate by about so much


class Reached(NamedTuple):
    """A way, the frames per second it gave at most, and when that was seen last, seconds of the monotonic clock."""

    tier: str
    batch: int
    fps: float
    at_s: float


def served(asked: float | None, counted: float) -> float:
    """Return the frames per second really served.

    Args:
        asked: The pace; None or 0 = none.
        counted: Frames counted over the last two seconds / two seconds: a slow pace makes it coarse.
    """
    return asked if asked and counted >= _SERVED * asked - _COARSE else counted


def learned(known: tuple[Reached, ...], order: Order, sample: Sample) -> tuple[Reached, ...]:
    """Return what is known after ``sample``, in which ``order`` was in force."""
    now_s, fps = sample.now_s, sample.fps
    known = tuple(each for each in known if now_s - each.at_s < _REMEMBERED_S)
    if order.rate == 0.0:
        return known
    others = tuple(each for each in known if (each.tier, each.batch) != (order.tier, order.batch))
    before = next((each.fps for each in known if (each.tier, each.batch) == (order.tier, order.batch)), None)
    short = order.rate is None or fps < _SHORT * order.rate
    if short and (sample.offered is None or sample.offered > _MORE_OFFERED * fps):
        mean = fps if before is None else before + _NEWEST * (fps - before)
        return (*others, Reached(order.tier, order.batch, mean, now_s))
    return others if before is None or fps > before else known


def as_reached(way: Way, known: tuple[Reached, ...]) -> Way:
    """Return ``way`` with no more capacity than it was seen to have."""
    fps = next((each.fps for each in known if (each.tier, each.batch) == (way.tier, way.batch)), None)
    if fps is None or way.capacity is None or fps >= way.capacity:
        return way
    return msgspec.structs.replace(way, capacity=max(fps, LEAST_RATE))


def ahead(way: Way, rate: float, top: float, fps: float, safe: float) -> float:
    """Return how far the rate may run ahead of what is served: an engine at its end gives no more for a higher one.

    Args:
        way: In service.
        rate: Frames per second that it may serve now.
        top: The most it has served lately.
        fps: Served now.
        safe: The rate that is always allowed.
    """
    if way.capacity is not None:
        return AHEAD * max(way.capacity, top)
    return max(_DOUBLE * rate if fps >= _KEEPS_UP * rate else AHEAD * max(top, fps), safe)
