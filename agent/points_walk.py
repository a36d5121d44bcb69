"""How a table of operating points is filled: what is wanted, what of an earlier run still holds, what is missing.

Whatever measures a point is handed in.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from agent.errors import ConfigError
from agent.measuring import Measurement
from agent.power.points import Point, Table
from agent.tiers import Offer


class Step(NamedTuple):
    """A point that is wanted: a tier, frames in a call, and the share of the way's capacity (None = all it takes)."""

    offer: Offer
    batch: int
    share: float | None

    @property
    def words(self) -> str:
        """``640x480 fp32, batch 2, at 25 % of its capacity``."""
        pace = "as fast as it goes" if self.share is None else f"at {100 * self.share:.0f} % of its capacity"
        return f"{self.offer.tier.name}, batch {self.batch}, {pace}"


Measure = Callable[[Step, float | None], Measurement | str]
"""Measures a step at a rate in frames per second (None = unpaced); in words why it could not."""


class Walked(NamedTuple):
    """The table as it is now, and what could not be measured, in words."""

    table: Table
    failures: list[str]


def agenda(offers: Sequence[Offer], batches: Sequence[int], rates: int) -> list[Step]:
    """Return the points of all tiers: each batch unpaced, which tells its capacity, then at ``rates`` equal shares.

    Args:
        offers: The tiers.
        batches: Frames in a call; those a tier cannot take are left out. Empty = powers of two and the largest.
        rates: How many paces below the capacity: 3 are 25, 50 and 75 %.

    Raises:
        ConfigError: no tier takes any of these batches.
    """
    shares = [None, *(number / (rates + 1) for number in range(1, rates + 1))]
    found = [Step(offer, batch, share) for offer in offers for batch in _batches(offer.tier.max_batch, batches)
             for share in shares]
    if offers and not found:
        most = max(offer.tier.max_batch for offer in offers)
        raise ConfigError(f"no engine here takes a batch of {', '.join(map(str, batches))}: the largest is {most}",
                          "raise [engine] max_batch and build the engines for it, or give other --batches")
    return found


def _batches(most: int, wanted: Sequence[int]) -> list[int]:
    powers = [1 << power for power in range(most.bit_length())]
    return sorted({batch for batch in (wanted or [*powers, most]) if batch <= most})


def carried_over(before: Table | None, now: Table) -> tuple[Table, list[str]]:
    """Return ``now`` with what of ``before`` still holds, and in words why the rest does not.

    All or nothing holds for what is the same for all points: sensors, seconds, clocks, what runs the engines. Beyond
    that a tier's points hold as long as its engine is the same.
    """
    if before is None:
        return now, []
    changed = [f"{what} was {then!r} and is {today!r}" for what, then, today in (
        ("the telemetry", before.telemetry, now.telemetry), ("the time of a point", before.seconds, now.seconds),
        ("the power mode", before.power_mode, now.power_mode),
        ("the ruling of the clocks", before.clocks, now.clocks),
        ("what runs the engines", before.runs_on, now.runs_on)) if then != today]
    if before.measures and now.measures and before.measures != now.measures:
        changed.append(f"what the watts are of was {before.measures!r} and is {now.measures!r}")
    if changed:
        return now, changed
    identities, why = {tier.name: tier.identity for tier in before.tiers}, list[str]()
    same = {tier.name for tier in now.tiers if identities.get(tier.name) == tier.identity}
    why += [f"the engine of {tier.name} is another one now ({identities[tier.name]} then, {tier.identity} now)"
            for tier in now.tiers if tier.name in identities and tier.name not in same]
    gone = [name for name in identities if name not in {tier.name for tier in now.tiers}]
    why += [f"{name} is not among the tiers any more" for name in gone]
    points = [point for point in before.points if point.tier in same]
    return msgspec.structs.replace(
        now, points=points, idle_watts=before.idle_watts, measures=now.measures or before.measures,
        took_s=before.took_s, at=before.at, frames=before.frames), why


def missing(table: Table, steps: Sequence[Step]) -> list[Step]:
    """Return the steps whose points are not in the table."""
    return [step for step in steps if _point_of(table, step) is None]


def _point_of(table: Table, step: Step) -> Point | None:
    if step.share is None:
        return _at(table, step, None)
    capacity = _at(table, step, None)
    return _at(table, step, asked_for(capacity, step.share)) if capacity else None


def _at(table: Table, step: Step, asked: float | None) -> Point | None:
    return next((point for point in table.points if (point.tier, point.batch, point.asked) ==
                 (step.offer.tier.name, step.batch, asked)), None)


def asked_for(capacity: Point, share: float) -> float:
    """Return the rate, frames per second, that is ``share`` of what was reached unpaced; four digits say enough."""
    return float(f"{capacity.fps * share:.4g}")


def walk(table: Table, steps: Sequence[Step], measure: Measure, *, keep: Callable[[Table], None],
         told: Callable[[int, Step, Point | str], None]) -> Walked:
    """Measure what is missing, in order; what cannot be measured is noted, and the next one follows.

    Args:
        table: With the points that hold.
        steps: All that are wanted.
        measure: Measures one.
        keep: Given the table after each new point; the last one is complete.
        told: Given the number of the step, the step, and its point or why there is none.

    Returns:
        The table is complete where each tier has at least one point; what failed, failed for a reason.
    """
    failures: list[str] = []
    for number, step in enumerate(steps):
        if _point_of(table, step):
            continue
        capacity = _at(table, step, None)
        if step.share is not None and capacity is None:
            continue  # its failure is noted already
        asked = asked_for(capacity, step.share) if capacity and step.share is not None else None
        answer = measure(step, asked)
        if isinstance(answer, str):
            failures.append(f"{step.words}: {answer}")
            told(number, step, answer)
            continue
        point, measures = _point(step, asked, answer, table.measures)
        if answer.watts is not None and point.watts is None:
            failures.append(f"{step.words}: its watts are of {answer.measures!r}, those before of {measures!r}")
        table = msgspec.structs.replace(table, points=[*table.points, point], measures=measures)
        keep(table)
        told(number, step, point)
    measured = {point.tier for point in table.points}
    if all(tier.name in measured for tier in table.tiers):
        table = msgspec.structs.replace(table, complete=True)
        keep(table)
    return Walked(table, failures)


def _point(step: Step, asked: float | None, answer: Measurement, measures: str) -> tuple[Point, str]:
    """Return the point, and what the table's watts are of; watts of something else are unknown to it."""
    fits = not measures or not answer.measures or answer.measures == measures
    return Point(
        tier=step.offer.tier.name, batch=step.batch, asked=asked, fps=answer.fps, p50_ms=answer.p50_ms,
        p99_ms=answer.p99_ms, watts=answer.watts if fits else None, resident_bytes=answer.resident_bytes,
        grown_bytes=answer.grown_bytes, device_bytes=answer.device_bytes), measures or answer.measures
