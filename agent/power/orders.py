"""What goes into the governor and what comes out: rules, samples, orders."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.power.points import Way
from agent.power.policy import Limits, Objective

AHEAD = 1.1
"""What is allowed never runs further ahead of what is served or wanted."""
LEAST_RATE = 0.2
"""Frames per second; below it is a pause."""
_SAFE_SHARE = 0.8  # of the limit: measured points below that are safe to go to blindly


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for a while.

    Attributes:
        objective: See :class:`agent.power.policy.Policy`.
        limits: What must not be exceeded now.
        fps: What ``min_energy`` must reach.
        safe_rate: Frames per second when nothing better is known.
        ways: What can be chosen, the one in service included; without figures where nothing was measured.
        changeable: Names of the tiers that can be changed to now.
    """

    objective: Objective = "max_fps"
    limits: Limits = field(default_factory=Limits)
    fps: float | None = None
    safe_rate: float = 1.0
    ways: Sequence[Way] = ()
    changeable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was measured since the last decision.

    Attributes:
        now_s: Monotonic clock, seconds.
        watts: None = unknown or stale.
        celsius: The hottest zone; None = unknown or stale.
        fps: Frames served per second since the last sample.
        offered: Frames per second the sources give; None = as many as are taken.
        alarms: What the board complains of.
        trouble: Why something is unknown.
        squeeze: How far the memory ladder went: ``""``, ``batch``, ``tier``, ``pause``.
        why_squeezed: In words, with figures.
        changing: The ordered tier does not serve yet, or has only just begun to: ``fps`` says nothing about it.
        serving: The tier that served; empty = the ordered one.
    """

    now_s: float
    watts: float | None
    celsius: float | None
    fps: float
    offered: float | None = None
    alarms: tuple[str, ...] = ()
    trouble: str = ""
    squeeze: str = ""
    why_squeezed: str = ""
    changing: bool = False
    serving: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the loop may do: ``rate`` frames per second (None = no limit, 0 = pause) with one tier and batch."""

    tier: str
    batch: int
    rate: float | None

    def __str__(self) -> str:
        """Return it as one short text."""
        rate = "unpaced" if self.rate is None else "paused" if self.rate == 0 else f"{self.rate:.3g} fps"
        return f"{self.tier}, batch {self.batch}, {rate}"


def governed(rules: Rules) -> bool:
    """Tell whether there is a limit that only sensors can keep."""
    return rules.limits.watts is not None or rules.limits.celsius is not None


def missing(rules: Rules, sample: Sample) -> str:
    """Return which reading that a limit needs is not there, and why, in words; empty when all are."""
    lacks = [name for name, limit, value in (("watts", rules.limits.watts, sample.watts),
                                             ("temperature", rules.limits.celsius, sample.celsius))
             if limit is not None and value is None]
    return f"no {' and no '.join(lacks)}: {sample.trouble or 'the sensors tell nothing'}" if lacks else ""


def exceeded(rules: Rules, sample: Sample) -> str:
    """Return which hard limit is exceeded now, in words."""
    limits = rules.limits
    if limits.watts is not None and sample.watts is not None and sample.watts > limits.watts:
        return f"{sample.watts:.2f} W measured, the limit is {limits.watts:g} W"
    if limits.celsius is not None and sample.celsius is not None and sample.celsius >= limits.celsius:
        return f"{sample.celsius:.1f} C measured, the limit is {limits.celsius:g} C"
    return "the board complains: " + ", ".join(sample.alarms) if sample.alarms and governed(rules) else ""


def wanted(rules: Rules, sample: Sample) -> float | None:
    """Return the frames per second there is any use for; None = as many as can be had."""
    offered = sample.offered * AHEAD if sample.offered is not None else None
    return min((bound for bound in (offered, asked_for(rules)) if bound is not None), default=None)


def asked_for(rules: Rules) -> float | None:
    """Return the frames per second that are asked for, whatever the sources give."""
    return min((bound for bound in (rules.limits.rate, rules.fps if rules.objective == "min_energy" else None)
                if bound is not None), default=None)


def safest_rate(rules: Rules, way: Way) -> float:
    """Return the rate at which the table saw well less power than the limit; without that the configured one.

    A table knows nothing about how hot it is today: a limit of degrees alone leaves the configured rate.
    """
    limit, rate = rules.limits.watts, rules.safe_rate
    if limit is not None and rules.limits.celsius is None and way.base is not None and way.joules is not None:
        rate = max(rate, (_SAFE_SHARE * limit - way.base) / way.joules)
    bounds = [bound for bound in (rate, way.capacity, rules.limits.rate) if bound is not None]
    return min(bounds)


def way_of(rules: Rules, order: Order) -> Way:
    """Return the way that is ordered; one without figures where the table does not know it."""
    same = [way for way in rules.ways if way.tier == order.tier]
    rank = same[0].rank if same else 0
    return next((way for way in same if way.batch == order.batch), Way(tier=order.tier, batch=order.batch, rank=rank))


def loading(order: Order, sample: Sample) -> bool:
    """Tell whether another tier than the ordered one still serves."""
    return sample.serving not in {"", order.tier}
