"""The memory ladder: what is given up, one rung after the other, before the kernel chooses what to kill.

Pure: (state, sample, rules) in, (state, move or None) out. Quick down, slow back, and never two opposite moves within
the dwell. A rung that had to be taken again soon after it was given back waits twice as long the next time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.power.memory import MemoryReading

RUNGS = ("queues", "batch", "tier", "candidate", "pause")
"""What is given up, in this order: frames that wait, frames in one call, the canvas, the second engine (loaded, or
being built), seeing at all. The level is the place of the last rung taken, 1 to 5; 0 = nothing is given up."""
_LAST = RUNGS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All that is chosen, with its reason. Shares are of a limit.

    Attributes:
        interval_s: Least time between two moves down: a control period of 1 s, less what a timer may be early.
        high: Share of the control group's limit above which it is squeezed: 8 % of a 600 MB group are 48 MB, a few
            seconds at the 10 MB/s that a queue filling with frames takes.
        low: Share of the budget below which there is room again; a group's line keeps the same distance to ``high``.
        severe: Share of the group's limit above which two rungs go at once.
        ahead_s: Two rungs go at once when the growth of now reaches a limit within this time: four rungs take as long.
        seen_s: How far back growth is looked at. A step is no growth: both halves of it must have grown.
        stalled: Percent of the time in which a task waited for memory (PSI ``some avg10``) that is pressure.
        flowing: Percent below which it is none any more.
        relief_s: How long there must be room before one rung is given back.
        patience_s: How long there must be no pressure, room or not, before one is given back on trial: what fits a
            budget only just would never recover.
        regret_s: A rung taken within this time after one was given back doubles both waits.
        doublings: How often at most, so that a day has several trials: 10 min become 2 h 40 min.
        dwell_s: Least time between two opposite moves: two control periods, in which a rung given back shows its cost.
    """

    interval_s: float = 0.9
    high: float = 0.92
    low: float = 0.85
    severe: float = 0.97
    ahead_s: float = 5.0
    seen_s: float = 5.0
    stalled: float = 10.0
    flowing: float = 5.0
    relief_s: float = 30.0
    patience_s: float = 600.0
    regret_s: float = 60.0
    doublings: int = 4
    dwell_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is known now.

    Attributes:
        reading: The memory.
        budget: Most that the agent and its device memory may take, bytes; None = any.
        reserve: Bytes that must stay free for others.
        available: The rungs that would free something if taken now. Those in force need not be among them; ``pause``
            always is.
        loading: An engine is being loaded, which was admitted: growth is not looked at.
    """

    reading: MemoryReading
    budget: int | None
    reserve: int
    available: frozenset[str] = frozenset(RUNGS)
    loading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A change of level.

    Attributes:
        before: Level before.
        after: Level after.
        rungs: Those taken or given back.
        reason: Why, in words with figures.
    """

    before: int
    after: int
    rungs: tuple[str, ...]
    reason: str

    @property
    def down(self) -> bool:
        """Whether more is given up than before."""
        return self.after > self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is remembered between two samples; times in seconds of the monotonic clock.

    Attributes:
        taken: The rungs in force, in the order of :data:`RUNGS`.
        trouble: What should be known and is not, or that nothing is left to give up; in words, empty when all is well.
        doubled: How often the waits are doubled now.
        went_back: The last move gave something back.
    """

    taken: tuple[str, ...] = ()
    trouble: str = ""
    doubled: int = 0
    at_s: float | None = None
    down_at_s: float | None = None
    back_at_s: float | None = None
    went_back: bool = False
    calm_since_s: float | None = None
    room_since_s: float | None = None
    events: Mapping[str, int] = field(default_factory=dict)
    events_of: str = ""
    rooms: tuple[tuple[float, str, int], ...] = ()

    @property
    def level(self) -> int:
        """0 = nothing is given up, 5 = paused."""
        return RUNGS.index(self.taken[-1]) + 1 if self.taken else 0


@dataclass(slots=True)
class _Found:
    """What one sample says: why to squeeze, whether at once, why not to release, what is not known."""

    pressure: list[str] = field(default_factory=list)
    severe: bool = False
    tight: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def squeeze(state: State, sample: Sample, rules: Rules) -> tuple[State, Move | None]:
    """Return the state after ``sample``, and the move it causes.

    A figure that is missing neither squeezes nor lets anything be given back; ``State.trouble`` says so. A sample that
    is no newer than the last one changes nothing.
    """
    now = sample.reading.at_s
    if state.at_s is not None and now <= state.at_s:
        return state, None
    found = _judge(state, sample, rules)
    calm = not found.pressure and not found.unknown
    state = replace(
        state, at_s=now, events=sample.reading.events, events_of=sample.reading.limit_of,
        rooms=_rooms(state, sample, rules), trouble=_trouble(state, found),
        calm_since_s=(now if state.calm_since_s is None else state.calm_since_s) if calm else None,
        room_since_s=(now if state.room_since_s is None else state.room_since_s)
        if calm and not found.tight else None)
    if found.pressure:
        return _down(state, sample, rules, found)
    return _back(state, rules, found) if calm and state.taken else (state, None)


def _down(state: State, sample: Sample, rules: Rules, found: _Found) -> tuple[State, Move | None]:
    now, before = sample.reading.at_s, state.level
    left = [rung for rung in RUNGS[before:] if rung in sample.available or rung == _LAST]
    rungs = tuple(left[:2 if found.severe else 1])
    if not (rungs and _over(state.down_at_s, now, rules.interval_s) and _over(state.back_at_s, now, rules.dwell_s)):
        return state, None
    doubled = state.doubled
    if state.went_back:  # else this belongs to what was counted already
        regretted = not _over(state.back_at_s, now, rules.regret_s)
        doubled = min(rules.doublings, doubled + 1) if regretted else 0
    after = replace(state, taken=(*state.taken, *rungs), down_at_s=now, went_back=False, doubled=doubled)
    return after, Move(before=before, after=after.level, rungs=rungs, reason="; ".join(found.pressure))


def _back(state: State, rules: Rules, found: _Found) -> tuple[State, Move | None]:
    now = state.at_s
    assert now is not None
    factor = 1 << state.doubled
    room_s, calm_s = (-1.0 if since is None else now - since for since in (state.room_since_s, state.calm_since_s))
    roomy = room_s >= rules.relief_s * factor
    if not (roomy or calm_s >= rules.patience_s * factor) or not _over(state.down_at_s, now, rules.dwell_s):
        return state, None
    reason = (f"there has been room for {room_s:.0f} s" if roomy else
              f"on trial: no pressure for {calm_s:.0f} s, though {'; '.join(found.tight) or 'room is new'}")
    held = state.went_back and _over(state.back_at_s, now, rules.regret_s)  # what was given back last time did no harm
    after = replace(state, taken=state.taken[:-1], back_at_s=now, went_back=True, calm_since_s=now, room_since_s=now,
                    rooms=(),  # how it grew while the rung was in force says nothing about what comes now
                    doubled=max(0, state.doubled - held))
    return after, Move(before=state.level, after=after.level, rungs=state.taken[-1:], reason=reason)


def _judge(state: State, sample: Sample, rules: Rules) -> _Found:
    found, reading = _Found(), sample.reading
    if sample.budget is not None:
        _budget(found, reading.own, sample.budget, rules)
    if reading.limit is not None:
        _group(found, sample, reading.limit, rules)
    if reading.available is None:
        found.unknown.append("what is available on the machine")
    else:
        words = f"{_mb(reading.available)} are available on the machine, {_mb(sample.reserve)} must stay"
        if reading.available < sample.reserve:
            found.pressure.append(words)
            found.severe |= reading.available < sample.reserve // 2
        elif reading.available * rules.low < sample.reserve:
            found.tight.append(words)
    if reading.pressure is not None:
        words = f"tasks waited for memory {reading.pressure:.0f} % of the last 10 s"
        if reading.pressure > rules.stalled:
            found.pressure.append(f"{words}, more than {rules.stalled:.0f} %")
        elif reading.pressure > rules.flowing:
            found.tight.append(words)
    _counters(found, state, sample, rules)
    _growth(found, state, sample, rules)
    return found


def _budget(found: _Found, total: int | None, budget: int, rules: Rules) -> None:
    if total is None:
        found.unknown.append("what the agent takes")
        return
    words = f"{_mb(total)} are taken of the budget of {_mb(budget)}"
    if total > budget:
        found.pressure.append(words)
    elif total > rules.low * budget:
        found.tight.append(words)


def _group(found: _Found, sample: Sample, limit: int, rules: Rules) -> None:
    if (used := sample.reading.used) is None:
        found.unknown.append("what the control group takes")
        return
    high = _line(sample, limit, rules)
    words = f"{_mb(used)} are taken of the control group's limit of {_mb(limit)}"
    if used > high:
        found.pressure.append(f"{words}, more than {_mb(high)}")
        found.severe |= used > rules.severe * limit
    elif used > high * rules.low / rules.high:
        found.tight.append(words)


def _line(sample: Sample, limit: int, rules: Rules) -> float:
    """Return the bytes above which the group is squeezed. A reserve of more than half the limit is not for it."""
    return min(rules.high * limit, max(limit - sample.reserve, limit / 2))


def _counters(found: _Found, state: State, sample: Sample, rules: Rules) -> None:
    """Judge the group's counters, if they are the same group's as before.

    ``high`` and ``max`` also move when the kernel only had to drop file cache, which costs us nothing: while we know
    that there is room they are no pressure. Something that was killed always is.
    """
    reading = sample.reading
    if state.at_s is None or state.events_of != reading.limit_of:
        return
    moved = {name: more for name, number in reading.events.items()
             if name in state.events and (more := number - state.events[name]) > 0}
    roomy = (reading.limit is not None and reading.used is not None
             and reading.used <= _line(sample, reading.limit, rules) * rules.low / rules.high)
    told = [f"{name} {more} times" for name, more in moved.items() if name in {"oom", "oom_kill"} or not roomy]
    if told:
        found.pressure.append(f"the control group met its limit since the last look ({', '.join(told)})")


def _rooms(state: State, sample: Sample, rules: Rules) -> tuple[tuple[float, str, int], ...]:
    """Return time, whose, and bytes of what is left before somebody is killed, of the last seconds."""
    reading = sample.reading
    fresh: list[tuple[float, str, int]] = []
    if reading.limit is not None and reading.used is not None:
        fresh.append((reading.at_s, f"the control group's limit of {_mb(reading.limit)}", reading.limit - reading.used))
    if reading.available is not None:
        fresh.append((reading.at_s, "the end of the machine's memory", reading.available))
    return (*(room for room in state.rooms if reading.at_s - room[0] <= rules.seen_s), *fresh)


def _growth(found: _Found, state: State, sample: Sample, rules: Rules) -> None:
    rooms = [] if sample.loading else _rooms(state, sample, rules)
    for name in sorted({name for _, name, _ in rooms}):
        line = [(at_s, room) for at_s, whose, room in rooms if whose == name]
        if len(line) < 3 or line[-1][0] != sample.reading.at_s or line[-1][0] - line[0][0] < 2 * rules.interval_s:
            continue
        (first_s, first), (middle_s, middle), (at_s, room) = line[0], line[len(line) // 2], line[-1]
        growth = min((first - middle) / (middle_s - first_s), (middle - room) / (at_s - middle_s))
        if growth > 0 and room / growth <= rules.ahead_s:
            found.severe = True
            found.pressure.append(f"{_mb(growth)} more every second reach {name} in {max(0.0, room / growth):.1f} s")


def _trouble(state: State, found: _Found) -> str:
    if found.unknown:
        kept = f"what was given up ({', '.join(state.taken)}) stays so" if state.taken else "nothing is given up for it"
        return f"{' and '.join(found.unknown)} cannot be read: {kept}"
    stuck = found.pressure and _LAST in state.taken
    return f"nothing is left to give up, and {'; '.join(found.pressure)}" if stuck else ""


def _over(since_s: float | None, now_s: float, wait_s: float) -> bool:
    return since_s is None or now_s - since_s >= wait_s


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
