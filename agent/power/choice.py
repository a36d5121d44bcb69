"""Which way (engine tier and batch) serves best within the limits, by the table. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from agent.power.caps import Power
from agent.power.orders import LEAST_RATE, Rules, Sample
from agent.power.points import Way

_BETTER = 1.10  # a change must be worth so much
_CAREFUL = 0.92  # of the rate the table promises: it is trimmed up from there


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Another way, the rate to begin with, and why."""

    way: Way
    rate: float
    why: str


def choose(rules: Rules, now: Way, power: Power, sample: Sample, wanted: float | None, *, settled: bool,
           only_batch: bool = False, squeezable: bool = True) -> Choice | None:
    """Return a way that is clearly better than ``now``; None to stay.

    ``max_fps``: the one that serves the most of what is wanted; of those that serve all of it the most wanted tier,
    then the least power. ``min_energy``: the same, the least power first. The memory ladder takes ways away.

    Args:
        rules: Ways, limits and what is wanted of the governor.
        now: The way in service.
        power: What was learned about power.
        sample: What was measured.
        wanted: Frames per second there is any use for; None = as many as can be had.
        settled: The last change is long enough ago for another.
        only_batch: But not for another tier.
        squeezable: It is, for a smaller one.
    """
    if sample.squeeze in {"batch", "tier"} and squeezable and (smaller := _smaller(rules, now, sample)):
        rate = min(filter(None, (smaller.capacity, sample.fps or rules.safe_rate)))
        return Choice(way=smaller, rate=rate, why=sample.why_squeezed)
    if not settled:
        return None
    if only_batch:
        rules = replace(rules, changeable=frozenset())
    if now.capacity is None or not (rules.limits.watts or rules.limits.celsius or rules.objective == "min_energy"):
        return _largest(rules, now, sample)
    drift = _drift(now, power)
    rated = [(way, _fps(way, rules, drift, wanted)) for way in _allowed(rules, now, sample)]
    here = _fps(now, rules, drift, wanted)
    need = min(wanted, max((fps for _, fps in rated), default=here)) if wanted is not None else None

    def value(way: Way, fps: float) -> tuple[float, ...]:
        enough = need is not None and fps >= 0.98 * need
        cost = (way.base or 0.0) + (way.joules or 0.0) * fps
        if enough:
            return (1.0, 0.0, -cost, -way.rank) if rules.objective == "min_energy" else (1.0, -way.rank, -cost)
        return (0.0, fps, -way.rank)

    best, fps = max(rated, key=lambda item: value(*item), default=(now, here))
    if (best.tier, best.batch) == (now.tier, now.batch) or not _worth(value(best, fps), value(now, here)):
        return None
    if best.rank < now.rank and need is not None and fps < 1.1 * need and not _roomy(best, rules, drift, need):
        return None  # it would only just serve all: noise would send us back
    rate = fps * _CAREFUL
    if now.joules is not None and best.joules is not None:  # as much power as now; from there the loop trims
        rate = min(rate, sample.fps * now.joules / best.joules)
    return Choice(way=best, rate=max(rate, LEAST_RATE), why=(
        f"{best.tier} with batch {best.batch} gives {fps:.3g} fps within the limits, "
        f"{now.tier} with batch {now.batch} {max(here, 0.0):.3g} fps"))


def _largest(rules: Rules, now: Way, sample: Sample) -> Choice | None:
    """Return the most wanted tier with its largest batch, when less serves and nothing known speaks for that."""
    best = min((way for way in _allowed(rules, now, sample, unmeasured=True)
                if way.rank < now.rank or (way.tier == now.tier and way.batch > now.batch)),
               key=lambda way: (way.rank, -way.batch), default=None)
    if best is None:
        return None
    return Choice(way=best, rate=max(min(sample.fps, rules.safe_rate), LEAST_RATE), why=(
        f"{best.tier} with batch {best.batch} may serve again"))


def _allowed(rules: Rules, now: Way, sample: Sample, *, unmeasured: bool = False) -> Sequence[Way]:
    """Return the ways that can be chosen: measured, loadable, and not larger than memory permits."""
    return [way for way in rules.ways if (unmeasured or way.capacity is not None)
            and (unmeasured or way.joules is not None or not _costs_count(rules))
            and (way.tier == now.tier or way.tier in rules.changeable)
            and not (sample.squeeze and (way.rank < now.rank or (way.rank == now.rank and way.batch > now.batch)))]


def _costs_count(rules: Rules) -> bool:
    """Tell whether a way can only be judged by what its frames cost: what is unknown is not 0."""
    return rules.limits.watts is not None or rules.objective == "min_energy"


def _smaller(rules: Rules, now: Way, sample: Sample) -> Way | None:
    """Return the next smaller way: half the batch, or the next smaller tier with its smallest batch."""
    if sample.squeeze == "batch" and now.batch > 1:
        half = [way for way in rules.ways if way.tier == now.tier and way.batch <= now.batch // 2]
        return max(half, key=lambda way: way.batch, default=Way(tier=now.tier, batch=now.batch // 2, rank=now.rank))
    if sample.squeeze == "tier":
        lower = [way for way in rules.ways if way.rank > now.rank and way.tier in rules.changeable]
        next_one = min(lower, key=lambda way: (way.rank, way.batch), default=None)
        # Where nothing was measured a way bears the configured batch; a batch that was given up stays so.
        return next_one and msgspec.structs.replace(next_one, batch=min(next_one.batch, now.batch))
    return None


def _drift(now: Way, power: Power) -> float:
    """Return how much more the board takes than the table said, watts: neighbours, cameras, another day."""
    return 0.0 if power.base is None or now.base is None else power.base - now.base


def _fps(way: Way, rules: Rules, drift: float, wanted: float | None) -> float:
    """Return the frames per second that a way gives within the limits, and that are of use."""
    fps = way.capacity or 0.0
    if rules.limits.watts is not None and way.base is not None and way.joules is not None:
        fps = min(fps, (0.98 * rules.limits.watts - way.base - drift) / way.joules)
    return fps if wanted is None else min(fps, wanted)


def _roomy(way: Way, rules: Rules, drift: float, need: float) -> bool:
    return _fps(way, rules, drift, None) >= 1.1 * need


def _worth(new: tuple[float, ...], old: tuple[float, ...]) -> bool:
    """Tell whether the gain is worth a change: all that is wanted instead of a part, a better tier, a tenth."""
    if new[0] != old[0]:
        return new[0] > old[0]
    if new[0] == 1.0:
        return new[1] > old[1] or (new[1] == old[1] and -new[2] * _BETTER < -old[2])
    return new[1] > old[1] * _BETTER or (new[1] >= old[1] and new[2] > old[2])
