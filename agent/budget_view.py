"""The governor and the memory as the snapshot shows them. Reads only, never acts."""

import time
from collections.abc import Iterator

from agent.config import BudgetSection
from agent.governing import Governing
from agent.keeping import MemoryKeeper
from agent.power.orders import Order
from agent.power.telemetry import Reading
from agent.snapshot import GovernorView, LimitView, MemoryView, OrderView, ReadingView, SpentView, StepView

_FRESH_S = 3.0
_ENFORCED = frozenset({"max_fps", "min_energy"})


def governor_view(governing: Governing, policy: str) -> GovernorView:
    """Return what the governor does."""
    decided, ledger = governing.decided, governing.ledger
    return GovernorView(
        policy=policy, order=_order(decided.order), why=decided.why, since_s=time.monotonic() - decided.since_s,
        quiet=decided.quiet, blind=decided.blind, table=decided.table,
        shares={name: share for name, share in decided.shares.items() if share is not None},
        reading=_reading(decided.reading, governing.telemetry_name), memory=_memory(governing.keeper),
        frames_per_joule=ledger.frames_per_joule(),
        spent=[SpentView(name=each.name, seconds=each.seconds, frames=each.frames,
                         frames_per_joule=each.metered_frames / each.joules if each.joules > 0 else None)
               for each in ledger.spent()],
        steps=[StepView(at=step.at, kind=step.kind, before=_order(step.before), after=_order(step.after),
                        reason=step.reason, watts=step.watts, celsius=step.celsius, memory=step.memory)
               for step in ledger.steps()],
        count=ledger.count)


def limits_view(section: BudgetSection, governing: Governing | None, rate: float) -> dict[str, LimitView]:
    """Return each limit that holds now beside its reading; ``rate`` is the frames per second served."""
    decided = governing.decided if governing else None
    limits, reading = (decided.limits, decided.reading) if decided else (section, None)
    fresh = reading if reading and time.monotonic() - reading.at_s <= _FRESH_S else None
    memory = governing.keeper.reading.own if governing else None
    enforced = section.policy in _ENFORCED

    def view(limit: float | None, value: float | None, unit: str, *, kept: bool) -> LimitView:
        return LimitView(limit=None if limit is None else float(limit), reading=value, unit=unit, enforced=kept)

    watts = section.watts if not enforced else limits.watts
    celsius = section.celsius if not enforced else limits.celsius
    return {"rate": view(limits.rate, rate, "frames/s", kept=True),
            "memory": view(section.memory, None if memory is None else float(memory), "bytes", kept=enforced),
            "watts": view(watts, fresh.watts if fresh else None, "W", kept=enforced),
            "celsius": view(celsius, fresh.celsius if fresh else None, "C", kept=enforced)}


def budget_problems(governing: Governing) -> Iterator[str]:
    """Yield what is wrong with the budget and its means."""
    decided, keeper = governing.decided, governing.keeper
    if decided.blind:
        yield decided.why
    elif decided.order.rate == 0:
        now = decided.reading.watts if decided.reading else None
        yield f"the loop is paused: {decided.why}" + (f"; {now:.1f} W now" if now is not None else "")
    if decided.reading:
        yield from (f"the board complains: {alarm}" for alarm in decided.reading.alarms)
    if keeper.state.taken:
        yield f"memory is short: {' and '.join(keeper.state.taken)} given up ({keeper.why})"
    if keeper.state.trouble:
        yield f"memory: {keeper.state.trouble}"
    if keeper.leak:
        yield keeper.leak.words
    if decided.table.startswith(("stale", "cannot")):
        yield f"the operating points are {decided.table}"


def _order(order: Order) -> OrderView:
    return OrderView(tier=order.tier, batch=order.batch, rate=order.rate)


def _reading(reading: Reading | None, telemetry: str) -> ReadingView:
    if reading is None:
        reading = Reading(at_s=time.monotonic(), trouble="not read yet")
    return ReadingView(
        telemetry=telemetry, age_s=time.monotonic() - reading.at_s, watts=reading.watts, measures=reading.measures,
        celsius=reading.celsius, hottest=reading.hottest, gpu_load=reading.gpu_load, rails=dict(reading.rails),
        zones=dict(reading.zones), alarms=list(reading.alarms), events=dict(reading.events), trouble=reading.trouble)


def _memory(keeper: MemoryKeeper) -> MemoryView:
    reading = keeper.reading
    return MemoryView(
        resident=reading.resident, children=reading.children, device=reading.device, total=reading.total,
        available=reading.available, limit=reading.limit, limit_of=reading.limit_of, used=reading.used,
        pressure=reading.pressure, given_up=list(keeper.state.taken), why=keeper.why if keeper.state.taken else "",
        leak=keeper.leak.words if keeper.leak else "")
