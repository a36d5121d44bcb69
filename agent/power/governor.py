"""The governor: what the loop may do now, decided twice a second from what was measured. Pure: no clock, no sensor.

``decide(rules, state, sample) -> (state, reason)``; ``state.order`` is what the loop may do. In this order:

1. A sensor that a limit needs tells nothing: the safest known pace, until it has told something for a while.
2. The *way* (engine tier and batch) that serves best within all limits, by the table; seldom changed.
3. The rate of that way: as many frames as watts and degrees allow (``caps.py``), and not more than are wanted. Down at
   once, up slowly, never up again within the dwell after a down.
4. Memory: the ladder (``squeeze.py``) forces a smaller batch, a smaller tier, a pause.

A *step* is what is told and reported: another way, a pause, its end, blindness, or a rate that left the last told one
by more than a sixth. Between steps the rate is trimmed silently.
"""

import math
from dataclasses import dataclass, field, replace

from agent.power.caps import Heat, Power, rate_for_watts
from agent.power.choice import Choice, choose
from agent.power.orders import (
    LEAST_RATE,
    Order,
    Rules,
    Sample,
    asked_for,
    exceeded,
    governed,
    loading,
    missing,
    safest_rate,
    wanted,
    way_of,
)
from agent.power.pauses import Pauses, after_pause
from agent.power.points import Way
from agent.power.reach import Reached, ahead, as_reached, learned

PERIOD_S = 0.5
"""Between two decisions: power follows a change of rate by about as long, and a sensor is read as often."""
_DWELL_S = 4.0  # after a down no up: as long as it takes to see what the down has done
_WAY_DWELL_S, _BATCH_DWELL_S = 60.0, 20.0  # another tier has to be loaded; another batch costs nothing
_HOLD_S, _HOLD_DOWN_S = 5.0, 2.0  # between two told changes of the rate, upwards and downwards
_TOLD = 1 / 6  # a change of the rate by so much is told
_HYSTERESIS = 0.015
_UP, _GENTLY_DOWN = 0.12, 0.4  # of the way to the cap, a period
_UP_UNKNOWN = 0.25  # without a table what a frame costs is taken for too much rather than too little
_GOOD_SAMPLES = 4
_QUIET_S = 60.0  # a sensor that comes and goes is told so often
_ALARM_FACTOR = 0.7
_DEPTH = {"": 0, "batch": 1, "tier": 2, "pause": 3}
_ROOM = 0.03  # of the limit
_REACH_S = 4.0  # after a step nobody knows yet what the way gives


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the governor remembers; make the first one with :func:`begin`.

    Attributes:
        order: What the loop may do.
        told: The order of the last step.
        why: Why the order is what it is, in words.
        blind: Good samples still missing before the sensors are believed; 0 = they are.
        blind_told: This blindness was told; one that follows another at once is not.
        blind_s: When one was told last.
        power: See :class:`agent.power.caps.Power`.
        heat: See :class:`agent.power.caps.Heat`.
        top: Frames per second this way has served at most, where no table tells its capacity.
        now_s: Time of the last sample.
        down_s: When the rate last went down.
        told_s: When the last step was told.
        way_s: When the way was last changed.
        pauses: See :class:`agent.power.pauses.Pauses`.
        grew_s: When it was last changed to a larger one.
        squeezed: How deep a rung of the memory ladder has been answered by a smaller way.
        reached: What ways have given at most, see :mod:`agent.power.reach`.
    """

    order: Order
    told: Order
    why: str = "start"
    blind: int = 1
    blind_told: bool = False
    blind_s: float = -1e9
    power: Power = field(default_factory=Power)
    heat: Heat = field(default_factory=Heat)
    top: float = 0.0
    now_s: float | None = None
    down_s: float = -1e9
    told_s: float = -1e9
    way_s: float = -1e9
    pauses: Pauses = field(default_factory=Pauses)
    grew_s: float = -1e9
    squeezed: int = 0
    reached: tuple[Reached, ...] = ()


def begin(rules: Rules, way: Way) -> State:
    """Return the state at the start, with ``way`` in service: at the safest pace until a sensor has spoken."""
    rate = safest_rate(rules, way) if governed(rules) else rules.limits.rate
    order = Order(tier=way.tier, batch=way.batch, rate=rate)
    return State(order=order, told=order)


def decide(rules: Rules, state: State, sample: Sample) -> tuple[State, str]:
    """Return the state after ``sample``, and why a step was taken; empty when none was."""
    dt_s = PERIOD_S if state.now_s is None else min(max(sample.now_s - state.now_s, 1e-3), 4 * PERIOD_S)
    state = replace(state, now_s=sample.now_s, top=max(state.top * (1 - dt_s / 600), sample.fps))
    if sample.now_s - max(state.way_s, state.told_s) >= _REACH_S and not (state.blind or sample.changing
                                                                          or _climbing(state)):
        state = replace(state, reached=learned(state.reached, state.order, sample))
    rules = replace(rules, ways=[as_reached(way, state.reached) for way in rules.ways])
    state = replace(state, squeezed=min(state.squeezed, _DEPTH[sample.squeeze]))
    lacks, blind = missing(rules, sample), max(state.blind - 1, 0)
    if not lacks:
        state = replace(_learned(rules, state, sample, dt_s), blind=blind, blind_told=state.blind_told and blind > 0)
    if sample.squeeze == "pause":
        state = replace(state, blind=_GOOD_SAMPLES) if lacks and state.blind else state
        return _told(state, replace(state.order, rate=0.0), sample.why_squeezed)
    if lacks:
        return _blind(rules, state, sample, lacks)
    if not state.blind and not exceeded(rules, sample):  # above a limit the rate falls first: a way may take seconds
        held_s = sample.now_s - state.way_s
        choice = choose(rules, way_of(rules, state.order), state.power, sample, wanted(rules, sample),
                        settled=held_s >= _BATCH_DWELL_S, only_batch=held_s < _WAY_DWELL_S,
                        squeezable=_squeezable(state, sample))
        if choice is not None:
            return _change(rules, state, sample, choice)
    return _pace(rules, state, sample)


def _squeezable(state: State, sample: Sample) -> bool:
    """Tell whether the memory ladder may take a smaller way now: once a rung, and not soon after a larger one."""
    return _DEPTH[sample.squeeze] > state.squeezed and sample.now_s - state.grew_s >= _WAY_DWELL_S


def back(state: State, way: Way) -> State:
    """Return the state when an ordered way could not be had, or another took its place: ``way`` serves."""
    order = replace(state.order, tier=way.tier, batch=way.batch)
    return replace(state, order=order, told=order, way_s=state.now_s or 0.0, grew_s=-1e9,
                   power=replace(state.power, low=None, joules=0.0, settled_s=0.0))


def _blind(rules: Rules, state: State, sample: Sample, why: str) -> tuple[State, str]:
    if smaller := choose(rules, way_of(rules, state.order), state.power, sample, None, settled=False,
                         squeezable=_squeezable(state, sample)):
        state, words = _change(rules, state, sample, smaller)
        why = f"{words}; {why}"  # what the memory forces needs no sensor of power; else only a pause were left
    safe, held = safest_rate(rules, way_of(rules, state.order)), state.order.rate
    if held == 0.0 and not exceeded(rules, sample) and _waited(rules, state, sample):
        held, state = safe, _ended(rules, state, sample)  # nothing says that what paused the loop still holds
    rate = safe if held is None else min(held, safe)
    if exceeded(rules, sample):  # the sensor of another limit is there, and says so
        rate = rate * _ALARM_FACTOR if rate * _ALARM_FACTOR >= LEAST_RATE else 0.0
    tell = not state.blind_told and sample.now_s - state.blind_s >= _QUIET_S
    fresh = smaller or tell or (rate == 0.0) != (state.order.rate == 0.0)
    if fresh:
        state = replace(state, blind_told=True, blind_s=sample.now_s)
    state = replace(state, blind=_GOOD_SAMPLES, down_s=sample.now_s, power=Power(), heat=Heat())
    order = replace(state.order, rate=rate)
    why = f"{why}; the safest known pace until it is back"
    return _step(state, order, why) if fresh else (replace(state, order=order, why=why), "")


def _learned(rules: Rules, state: State, sample: Sample, dt_s: float) -> State:
    way, power, heat = way_of(rules, state.order), state.power, state.heat
    if loading(state.order, sample):  # what is measured is still the other tier's
        way = next((way for way in rules.ways if way.tier == sample.serving), way)
    if sample.watts is not None:
        power = power.followed(sample.watts, sample.fps, way.joules, dt_s)
    if sample.celsius is not None and rules.limits.celsius is not None:
        heat = heat.followed(sample.celsius, rules.limits.celsius, max(sample.fps, LEAST_RATE), dt_s)
    elif rules.limits.celsius is None:
        heat = Heat()  # what it was hours ago says nothing about the slope when a limit holds again
    return replace(state, power=power, heat=heat)


def _pace(rules: Rules, state: State, sample: Sample) -> tuple[State, str]:
    """Trim the rate of the way in service."""
    order, now_s, asked = state.order, sample.now_s, asked_for(rules)
    if not governed(rules):
        why = "nothing limits the rate" if asked is None else f"{asked:.3g} fps are wanted"
        if order.rate == asked:
            return state, ""
        if order.rate == 0.0:
            state = _ended(rules, state, sample)
        free = after_pause(order.rate, asked, safe=rules.safe_rate, top=state.top,
                           since_s=now_s - state.pauses.resumed_s)
        return _trimmed(state, replace(order, rate=free), why)
    if order.rate is None:  # there was no limit until now: begin with what is served
        order = replace(order, rate=max(sample.fps, state.top))
        state = replace(state, order=order)
    rate, over, (cap, why) = order.rate or 0.0, exceeded(rules, sample), _cap(rules, state, sample)
    most = wanted(rules, sample) or math.inf
    if cap < min(LEAST_RATE, most):
        if rate == 0.0:
            return state, ""
        why = (f"{over}, without any frame" if not sample.fps else over) if over else why
        return _told(replace(state, down_s=now_s, pauses=state.pauses.again(now_s)), replace(order, rate=0.0), why)
    bound, may_rise = math.inf if asked is None else asked, not (over or state.blind or loading(state.order, sample))
    if rate == 0.0:
        ready = may_rise and _waited(rules, state, sample) and cap >= min(2 * LEAST_RATE, most)
        again = replace(order, rate=min(cap, _first_rate(rules, state, sample)))
        return _step(_ended(rules, state, sample), again, why) if ready else (state, "")
    if cap < rate * (1 - _HYSTERESIS) or (over and cap < rate) or rate > bound:
        lower = min(cap if over else rate + _GENTLY_DOWN * (cap - rate), bound)
        state, order, why = replace(state, down_s=now_s), replace(order, rate=lower), over or why
    elif may_rise and cap > rate * (1 + _HYSTERESIS) and now_s - state.down_s >= _DWELL_S:
        part = _UP if way_of(rules, state.order).joules is not None else _UP_UNKNOWN
        order = replace(order, rate=rate + part * (cap - rate))
    return _trimmed(state, order, why) if order != state.order else (state, "")


def _first_rate(rules: Rules, state: State, sample: Sample) -> float:
    """Return the rate after a pause: a safe one, and not more than the room there is now would carry."""
    rate, limit, joules = rules.safe_rate, rules.limits.watts, way_of(rules, state.order).joules
    if joules is None and state.power.low is not None:
        joules = state.power.joules
    if limit is not None and sample.watts is not None and joules:
        rate = min(rate, (limit - state.power.margin(limit) - sample.watts) / joules)
    return max(min(rate, state.pauses.rate(rules.safe_rate, sample.watts, rules.limits)), LEAST_RATE)


def _waited(rules: Rules, state: State, sample: Sample) -> bool:
    return sample.now_s - state.told_s >= state.pauses.wait_s(sample.watts, rules.limits)


def _ended(rules: Rules, state: State, sample: Sample) -> State:
    return replace(state, pauses=state.pauses.over(sample.now_s, sample.watts, rules.limits))


def _climbing(state: State) -> bool:
    """Tell whether the rate is on its way up: what is counted lags behind it, and that is no shortfall."""
    was, now = state.told.rate, state.order.rate
    return bool(was is not None and now is not None and now > was * (1 + _TOLD))


def _cap(rules: Rules, state: State, sample: Sample) -> tuple[float, str]:
    """Return the frames per second that everything allows, and what binds, in words."""
    way, limits = way_of(rules, state.order), rules.limits
    caps: list[tuple[float, str]] = []
    if limits.watts is not None and sample.watts is not None:
        # Nothing is known of what a frame costs before the first pace was held for a moment: no more until then.
        known = way.joules is not None or state.power.low is not None or bool(exceeded(rules, sample))
        allowed = state.order.rate or 0.0
        if known:
            allowed = rate_for_watts(state.power, limits.watts, sample.watts, way.joules)
        if state.order.rate == 0.0:  # a pause ends when there is room, whatever a frame was thought to cost
            room = limits.watts - state.power.margin(limits.watts) - sample.watts
            allowed = math.inf if room > _ROOM * limits.watts else 0.0
        caps.append((allowed, f"{sample.watts:.2f} W of {limits.watts:g} W"))
    if limits.celsius is not None and sample.celsius is not None:
        caps.append((state.heat.cap, "as fast as it may climb" if state.heat.far else
                     f"{sample.celsius:.1f} C, {state.heat.slope:+.2f} C/s, limit {limits.celsius:g} C"))
    if sample.alarms:
        caps.append((sample.fps * _ALARM_FACTOR, "the board complains: " + ", ".join(sample.alarms)))
    asked = wanted(rules, sample)
    if asked is not None:
        caps.append((asked, f"{asked:.3g} fps are wanted"))
    caps.append((ahead(way, state.order.rate or rules.safe_rate, state.top, sample.fps, rules.safe_rate),
                 "as fast as the engine is"))
    return min(caps)


def _change(rules: Rules, state: State, sample: Sample, choice: Choice) -> tuple[State, str]:
    """Go to another way, at the rate that costs what may be used; what was learned of the base stays."""
    asked = asked_for(rules)
    rate = min(choice.rate, math.inf if asked is None else asked) if governed(rules) else asked
    order = Order(tier=choice.way.tier, batch=choice.way.batch, rate=rate)
    before = way_of(rules, state.order)
    grew_s = sample.now_s if (-choice.way.rank, choice.way.batch) > (-before.rank, before.batch) else state.grew_s
    state = replace(state, way_s=sample.now_s, grew_s=grew_s, top=0.0, down_s=sample.now_s,
                    power=replace(state.power, low=None, joules=0.0, settled_s=0.0))
    if choice.why == sample.why_squeezed:
        state = replace(state, squeezed=_DEPTH[sample.squeeze])
    return _step(state, order, choice.why)


def _trimmed(state: State, order: Order, why: str) -> tuple[State, str]:
    """Change the rate; it is a step when it has left the told one far enough."""
    was, now = state.told.rate, order.rate
    if was is None or now is None or was == 0:
        return _told(state, order, why)
    trimmed, held_s = state.order.rate or 0.0, (state.now_s or 0.0) - state.told_s
    if now < trimmed:  # a cut after a silent rise is told when it is one by itself
        tells = now < (1 - _TOLD) * max(was, trimmed) and held_s >= _HOLD_DOWN_S
    else:
        tells = now > (1 + _TOLD) * was and held_s >= _HOLD_S
    if tells:
        return _step(state, order, why)
    return replace(state, order=order, why=why), ""


def _told(state: State, order: Order, why: str) -> tuple[State, str]:
    """Take a step if that changes anything."""
    return (replace(state, why=why), "") if order == state.order else _step(state, order, why)


def _step(state: State, order: Order, why: str) -> tuple[State, str]:
    return replace(state, order=order, told=order, why=why, told_s=state.now_s or 0.0), why
