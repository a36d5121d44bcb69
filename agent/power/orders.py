"""What goes into the governor and what comes out: rules, samples, orders."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.power.points import Way
from agent.power.policy import Limits, Objective


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
