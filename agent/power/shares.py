"""Who gets the frames when there are not enough for all: the sources of the highest priority first. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST_RATE = 0.1  # frames per second; a source that would get less gets none: it is shed, and that is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a source could use.

    Attributes:
        source: Its name.
        priority: 1..9, 9 is served first.
        fps: Frames per second it gives, or may have; None = as many as are taken.
    """

    source: str
    priority: int
    fps: float | None


def shares(rate: float | None, demands: Sequence[Demand]) -> Mapping[str, float | None]:
    """Return the frames per second each source may have; None = no limit of its own.

    Between sources of one priority nothing is divided here: the loop is fair, whoever was served longest ago goes
    first. Only where priorities differ, and ``rate`` is less than all can use, the lower ones get what the higher ones
    leave.

    Args:
        rate: Frames per second there are for all together; None = any, 0 = none.
        demands: One a source that gives frames now.
    """
    if rate is None or len({demand.priority for demand in demands}) < 2:
        return {}
    left, given = rate, {}
    for priority in sorted({demand.priority for demand in demands}, reverse=True):
        group = [demand for demand in demands if demand.priority == priority]
        given.update(_fairly(left, group))
        left = max(left - sum(given[demand.source] for demand in group), 0.0)
    enough = {demand.source for demand in demands if demand.fps is not None and given[demand.source] >= demand.fps}
    return {source: None if source in enough else share if share >= _LEAST_RATE else 0.0
            for source, share in given.items()}


def _fairly(rate: float, demands: Sequence[Demand]) -> dict[str, float]:
    """Divide ``rate`` so that nobody who gets less than he could use gets less than another (max-min fairness)."""
    given: dict[str, float] = {}
    waiting = sorted(demands, key=lambda demand: float("inf") if demand.fps is None else demand.fps)
    for place, demand in enumerate(waiting):
        equal = (rate - sum(given.values())) / (len(waiting) - place)
        given[demand.source] = equal if demand.fps is None else min(demand.fps, equal)
    return given
