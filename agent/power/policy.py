"""What is wanted of the governor, and which limits count at this hour. Pure: the hour is an argument."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Objective = Literal["max_fps", "min_energy", "off"]
_DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What must not be exceeded; None = no limit. Watts, degrees Celsius, frames per second of all sources together."""

    watts: float | None = None
    celsius: float | None = None
    rate: float | None = None

    def tightened(self, other: "Limits") -> "Limits":
        """Return the lower of each limit."""
        return Limits(watts=_lower(self.watts, other.watts), celsius=_lower(self.celsius, other.celsius),
                      rate=_lower(self.rate, other.rate))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Tighter limits from one minute of the day to another, local time; the end before the begin is the next day's."""

    begin: int
    end: int
    limits: Limits

    def hold(self, minute: int) -> bool:
        """Tell whether ``minute`` of the day lies within."""
        return (minute - self.begin) % _DAY_MIN < ((self.end - self.begin) % _DAY_MIN or _DAY_MIN)

    def __str__(self) -> str:
        """Return begin and end as people write them."""
        return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.begin, self.end))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is wanted.

    Attributes:
        objective: ``max_fps``, ``min_energy`` (reach ``fps`` at the least power), ``off``: only ``limits.rate`` counts.
        limits: At ordinary hours.
        fps: What ``min_energy`` must reach, frames per second.
        quiet: The first that holds tightens the limits.
        safe_rate: Frames per second while a sensor that a limit needs tells nothing and no table helps.
    """

    objective: Objective = "max_fps"
    limits: Limits = field(default_factory=Limits)
    fps: float | None = None
    quiet: Sequence[Hours] = ()
    safe_rate: float = 1.0


def minute_of_day(written: str) -> int:
    """Return ``HH:MM`` as a minute of the day."""
    hours, _, minutes = written.partition(":")
    return int(hours) * 60 + int(minutes)


def limits_at(policy: Policy, minute: int | None) -> tuple[Limits, str]:
    """Return the limits that count, and the name of the quiet hours that made them so (empty: none).

    Args:
        policy: What is wanted.
        minute: Of the day, local time; None = the clock cannot be believed: then the tightest limits of all count, for
            whoever sleeps beside the box does not care why its clock is wrong.
    """
    if policy.objective == "off":
        return Limits(rate=policy.limits.rate), ""
    if minute is None and policy.quiet:
        limits = policy.limits
        for hours in policy.quiet:
            limits = limits.tightened(hours.limits)
        return limits, "(the tightest of all, for the clock is not set)"
    for hours in policy.quiet:
        if minute is not None and hours.hold(minute):
            return policy.limits.tightened(hours.limits), str(hours)
    return policy.limits, ""


def _lower(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)
