"""The governor's decisions: what must hold whatever the sensors say, and that boards settle below their limits."""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.power.governor import PERIOD_S, State, back, begin, decide
from agent.power.orders import Order, Rules, Sample, wanted
from agent.power.plant import Plant
from agent.power.points import Way
from agent.power.policy import Limits
from agent.power.reach import served

DWELL_S, WAY_DWELL_S, BATCH_DWELL_S = 4.0, 60.0, 20.0
BIG = Way(tier="big", batch=1, rank=0, capacity=30.0, base=5.0, joules=0.3)
SMALL = Way(tier="small", batch=1, rank=1, capacity=60.0, base=4.5, joules=0.1)
BARE = Way(tier="big", batch=1)
ALL = frozenset({"big", "small", "tiny"})
WATTS = Limits(watts=10.0)


def rules(*ways, changeable=ALL, **limits):
    return Rules(limits=Limits(**limits), ways=ways or (BIG,), changeable=changeable)


def sample(now_s, watts=None, celsius=None, fps=0.0, **more):
    return Sample(now_s=now_s, watts=watts, celsius=celsius, fps=fps, **more)


def steady(on, state, seconds, watts=None, celsius=None, start=None, **more):
    """Let the board serve what it is told, with the same readings; return the state and the steps told."""
    now_s, steps = (state.now_s or 0.0) if start is None else start, []
    for _ in range(round(seconds / PERIOD_S)):
        now_s += PERIOD_S
        fps = min(30.0, math.inf if state.order.rate is None else state.order.rate)
        state, why = decide(on, state, sample(now_s, watts, celsius, fps, **more))
        if why:
            steps.append((state.order, why))
    return state, steps


def test_a_rung_of_the_memory_ladder_is_answered_once():
    ways = [Way(tier="big", batch=batch) for batch in (1, 2, 4, 8)]
    state, _ = steady(rules(*ways), begin(rules(*ways), ways[3]), 2.0)
    state, steps = steady(rules(*ways), state, 30.0, squeeze="batch", why_squeezed="memory is short")
    assert (state.order.batch, len(steps)) == (4, 1), "half, and no more as long as this rung is the last"
    state, _ = steady(rules(*ways), state, 30.0)
    state, _ = steady(rules(*ways), state, 61.0)
    state, _ = steady(rules(*ways), state, 1.0, squeeze="batch", why_squeezed="memory is short again")
    assert state.order.batch <= 4, "the next time it is answered again"


# Whatever happens -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """Some seconds of one kind."""

    periods: int
    period_s: float
    neighbour: float
    celsius: float
    warming: float
    offered: float | None
    squeeze: str
    seen: str
    alarm: bool
    limits: Limits


def maybe(strategy):
    return st.one_of(st.none(), strategy)


LIMITS = st.builds(Limits, watts=maybe(st.floats(2.0, 40.0)), celsius=maybe(st.floats(40.0, 90.0)), rate=maybe(st.floats(0.3, 80.0)))
PHASES = st.lists(st.builds(
    Phase, periods=st.integers(1, 40), period_s=st.sampled_from([0.5, 0.5, 0.5, 0.4, 1.3, 5.0]), neighbour=st.floats(0.0, 12.0),
    celsius=st.floats(20.0, 100.0), warming=st.floats(-0.5, 0.5), offered=maybe(st.floats(0.0, 100.0)),
    squeeze=st.sampled_from(["", "", "", "batch", "tier", "pause"]), seen=st.sampled_from(["all", "all", "all", "all", "watts", "celsius", "none"]),
    alarm=st.sampled_from([False, False, False, True]), limits=LIMITS), min_size=1, max_size=6)


@st.composite
def tables(draw):
    """Two to four ways in one to three tiers, measured, partly measured, or not at all."""
    known = draw(st.sampled_from(["all", "all", "some", "none"]))
    found = []
    for rank, tier in enumerate(("big", "small", "tiny")[: draw(st.integers(1, 3))]):
        for batch in (1, 4)[: draw(st.integers(1, 2))]:
            way = Way(tier=tier, batch=batch, rank=rank)
            if known == "all" or (known == "some" and draw(st.booleans())):
                way = Way(tier=tier, batch=batch, rank=rank, capacity=draw(st.floats(2.0, 90.0)), base=draw(st.floats(0.5, 8.0)),
                          joules=draw(st.floats(0.02, 1.5)))
            found.append(way)
    return found[:4]


def drive(table, phases, objective="max_fps", fps=None, begun=None, noise=0.0):
    """Govern a board through the phases; yield (rules, before, sample, after, why) of each decision."""
    true = {way.tier: (way.base or 4.0, way.joules or 0.2, way.capacity or 25.0) for way in table}
    on = Rules(objective=objective, limits=phases[0].limits, fps=fps, ways=table, changeable=ALL)
    state = begun or begin(on, table[0])
    now_s, n, rate = 100.0, 0, state.order.rate
    for phase in phases:
        on = replace(on, limits=phase.limits if objective != "off" else Limits(rate=phase.limits.rate))
        for period in range(phase.periods):
            now_s, n = now_s + phase.period_s, n + 1
            base, joules, capacity = true[state.order.tier]
            rate = state.order.rate
            done = min(bound for bound in (rate, capacity, phase.offered) if bound is not None)
            watts = base + joules * done + phase.neighbour + noise * math.sin(n * 1.7)
            seen = sample(now_s, watts if phase.seen in {"all", "watts"} else None,
                          phase.celsius + phase.warming * period if phase.seen in {"all", "celsius"} else None, done, offered=phase.offered,
                          alarms=("over-current",) if phase.alarm else (), trouble="gone" if phase.seen != "all" else "",
                          squeeze=phase.squeeze, why_squeezed="memory is short" if phase.squeeze else "")
            before = state
            state, why = decide(on, before, seen)
            yield on, before, seen, state, why


def way_of(state):
    return state.order.tier, state.order.batch


def governed(on):
    return on.limits.watts is not None or on.limits.celsius is not None


def height(rate):
    return math.inf if rate is None else rate


OBJECTIVES = st.sampled_from(["max_fps", "max_fps", "min_energy"])


@given(tables(), PHASES, OBJECTIVES, st.floats(0.5, 50.0))
@settings(max_examples=150, deadline=None)
def test_ways_are_never_changed_to_and_fro_within_the_dwell(table, phases, objective, fps):
    assert_no_to_and_fro(table, phases, objective, fps)


# An hour of what makes it change its mind: memory that comes and goes, limits and cameras that change, on tables where it can.
TROUBLED = st.lists(st.builds(
    Phase, periods=st.integers(1, 50), period_s=st.just(0.5), neighbour=st.sampled_from([0.0, 0.0, 3.0]), celsius=st.just(40.0), warming=st.just(0.0),
    offered=st.sampled_from([None, 2.0, 8.0, 20.0]), squeeze=st.sampled_from(["", "", "batch", "tier"]), seen=st.just("all"), alarm=st.just(False),
    limits=st.sampled_from([Limits(watts=8.0), Limits(watts=12.0), Limits(watts=30.0)])), min_size=4, max_size=12)
FOUR = [Way(tier="big", batch=1, rank=0, capacity=20.0, base=5.0, joules=0.4), Way(tier="big", batch=4, rank=0, capacity=30.0, base=6.0, joules=0.3),
        Way(tier="small", batch=1, rank=1, capacity=50.0, base=4.0, joules=0.12), Way(tier="small", batch=4, rank=1, capacity=80.0, base=5.0, joules=0.08)]


@given(st.sampled_from([FOUR, [*FOUR[::-1]], [Way(tier=way.tier, batch=way.batch, rank=way.rank) for way in FOUR]]), TROUBLED, OBJECTIVES, st.floats(2.0, 40.0))
@settings(max_examples=80, deadline=None)
def test_not_even_where_memory_limits_and_cameras_change_all_the_time(table, phases, objective, fps):
    assert_no_to_and_fro(table, phases, objective, fps)


def assert_no_to_and_fro(table, phases, objective, fps):
    """Larger after smaller, or smaller after larger: tiers not within 60 s, batches of a tier not within 20 s.

    And whatever the direction: only a squeeze changes another tier within 60 s of the last change, another batch within 20 s.
    """
    rank = {way.tier: way.rank for way in table}
    changes = []
    for _, before, seen, after, why in drive(table, phases, objective, fps):
        if way_of(before) != way_of(after):
            (old, old_batch), (new, new_batch) = way_of(before), way_of(after)
            larger = (-rank[new], new_batch) > (-rank[old], old_batch)
            changes.append((seen.now_s, old != new, larger, bool(seen.squeeze) and why.startswith(seen.why_squeezed)))
    for (earlier_s, _, _, _), (later_s, tier, larger, squeezed) in pairwise(changes):
        assert squeezed or later_s - earlier_s >= (WAY_DWELL_S if tier else BATCH_DWELL_S)
        assert not (squeezed and larger)
    for n, (earlier_s, tier, larger, _) in enumerate(changes):
        for later_s, other_tier, other_larger, _ in changes[n + 1:]:
            if larger != other_larger and tier == other_tier:
                assert later_s - earlier_s >= (WAY_DWELL_S if tier else BATCH_DWELL_S)


def test_a_squeeze_takes_the_smaller_way_at_once_whatever_was_done_before_but_growing():
    on = rules(*FOUR, watts=30.0)
    state, _ = steady(on, begin(on, FOUR[1]), 3.0, watts=9.0, offered=5.0)
    state, steps = steady(on, state, 1.0, watts=9.0, offered=5.0, squeeze="batch", why_squeezed="memory is short")
    state, more = steady(on, state, 1.0, watts=9.0, offered=5.0, squeeze="tier", why_squeezed="memory is short")
    assert [(order.tier, order.batch) for order, _ in steps + more] == [("big", 1), ("small", 1)]
    small = begin(on, FOUR[2])
    grown, _ = steady(on, small, 30.0, watts=6.0, offered=5.0)
    assert grown.order.tier == "big"
    grew_s = grown.grew_s
    kept, _ = steady(on, grown, grew_s + 59.0 - grown.now_s, watts=9.0, squeeze="tier", why_squeezed="memory is short")
    assert kept.order.tier == "big"
    assert steady(on, kept, 1.0, watts=9.0, squeeze="tier", why_squeezed="memory is short")[0].order.tier == "small"
    gone = back(grown, FOUR[1])
    assert steady(on, gone, 0.5, watts=9.0, squeeze="tier", why_squeezed="memory is short")[0].order.tier == "small", "it never grew"


def test_a_smaller_batch_in_between_does_not_forget_that_the_tier_has_only_just_grown():
    on = rules(*FOUR, watts=30.0)
    grown = replace(begin(on, FOUR[1]), way_s=100.0, grew_s=100.0, now_s=119.5, blind=0)
    cheap = replace(on, ways=[replace_way(FOUR[0], joules=0.1), *FOUR[1:]])
    smaller, _ = decide(cheap, grown, sample(120.0, 9.0, fps=5.0, offered=5.0))
    assert way_of(smaller) == ("big", 1)
    short = {"watts": 9.0, "offered": 5.0, "squeeze": "tier", "why_squeezed": "memory is short"}
    assert steady(cheap, smaller, 39.0, **short)[0].order.tier == "big"
    assert steady(cheap, smaller, 41.0, **short)[0].order.tier == "small"


@pytest.mark.parametrize("squeeze", ["batch", "tier"])
def test_a_squeeze_takes_the_smaller_way_where_no_sensor_speaks_too(squeeze):
    on = rules(*FOUR, watts=30.0)
    state, _ = steady(on, begin(on, FOUR[1]), 5.0, trouble="gone")
    safe = state.order.rate
    state, steps = steady(on, state, 5.0, trouble="gone", squeeze=squeeze, why_squeezed="memory is short")
    assert [(order.tier, order.batch) for order, _ in steps] == [("big", 1) if squeeze == "batch" else ("small", 1)]
    assert steps[0][1] == "memory is short; no watts: gone; the safest known pace until it is back"
    assert 0.0 < steps[0][0].rate <= safe


def test_another_batch_may_follow_after_twenty_seconds_and_another_tier_after_sixty():
    dear, cheap = replace_way(BIG, joules=0.4), Way(tier="big", batch=4, rank=0, capacity=30.0, base=5.0, joules=0.2)
    for ways, dwell_s in (((dear, cheap), BATCH_DWELL_S), ((dear, SMALL), WAY_DWELL_S)):
        on = rules(*ways, watts=9.0)
        state = replace(begin(on, dear), way_s=100.0)
        now_s = 100.0
        while way_of(state) == ("big", 1):
            now_s += PERIOD_S
            assert now_s < 200.0
            state, _ = decide(on, state, sample(now_s, 8.0, fps=state.order.rate))
        assert now_s == 100.0 + dwell_s


@given(tables(), PHASES, OBJECTIVES, st.floats(0.5, 50.0))
@settings(max_examples=250, deadline=None)
def test_the_rate_of_a_way_never_rises_within_the_dwell_after_a_fall(table, phases, objective, fps):
    fell_s = -math.inf
    for on, before, seen, after, why in drive(table, phases, objective, fps, noise=0.3):
        if not governed(on) or way_of(before) != way_of(after):
            fell_s = -math.inf
            continue
        if before.order.rate is None:  # what was served before is not known here
            continue
        old, new = before.order.rate, after.order.rate
        if new > old:
            assert seen.now_s - fell_s >= DWELL_S - 1e-9, why
        if new < old:
            fell_s = seen.now_s


@given(tables(), PHASES, OBJECTIVES, st.floats(0.5, 50.0))
@settings(max_examples=250, deadline=None)
def test_above_a_hard_limit_the_same_decision_goes_down(table, phases, objective, fps):
    """The readings here follow the rate at once; a real board lags, and there what is on its way already counts."""
    since_s = math.inf  # since the rate was lowered or the way changed
    for on, before, seen, after, _ in drive(table, phases, objective, fps, noise=0.3):
        limits = on.limits
        since_s += min(seen.now_s - (before.now_s or 0.0), 2.0)  # a gap in the samples is taken for two seconds
        over = (limits.watts is not None and seen.watts is not None and seen.watts > limits.watts) or (
            limits.celsius is not None and seen.celsius is not None and seen.celsius >= limits.celsius)
        old, new = height(before.order.rate), height(after.order.rate)
        if over and old > 0:
            assert new <= old
            if since_s > 3.0 and old > 0.2:  # 0.2: the least before a pause
                assert new < old
        if new < old or way_of(before) != way_of(after):
            since_s = 0.0


@given(tables(), PHASES, OBJECTIVES, st.floats(0.5, 50.0))
@settings(max_examples=250, deadline=None)
def test_a_missing_sensor_means_the_safest_known_pace_at_once(table, phases, objective, fps):
    for on, before, seen, after, why in drive(table, phases, objective, fps):
        lacks = (on.limits.watts is not None and seen.watts is None) or (on.limits.celsius is not None and seen.celsius is None)
        if not lacks or seen.squeeze == "pause":
            continue
        way = next(way for way in table if (way.tier, way.batch) == way_of(after))
        safest = on.safe_rate
        if on.limits.celsius is None and way.base is not None:
            safest = max(safest, (0.8 * on.limits.watts - way.base) / way.joules)
        assert after.order.rate <= min(bound for bound in (safest, way.capacity, on.limits.rate) if bound is not None)
        assert after.order.rate <= height(before.order.rate) or before.order.rate == 0.0
        assert "the safest known pace" in after.why
        assert "gone" in after.why
        assert "no watts" in after.why or "no temperature" in after.why
        if before.blind == 0 and seen.now_s - before.blind_s >= 60.0:
            assert why == after.why


@given(tables(), PHASES, OBJECTIVES, st.floats(0.5, 50.0))
@settings(max_examples=300, deadline=None)
def test_a_rate_is_a_number_within_what_is_asked_for(table, phases, objective, fps):
    for on, before, seen, after, _ in drive(table, phases, objective, fps, noise=0.3):
        rate, old = after.order.rate, before.order.rate
        if rate is None:
            assert on.limits == Limits()
            continue
        assert math.isfinite(rate)
        assert rate >= 0.0
        if on.limits.rate is not None:
            assert rate <= on.limits.rate
        most = wanted(on, seen)
        if governed(on) and most is not None and way_of(before) == way_of(after) and rate > height(old) and "safest" not in after.why:
            assert rate <= most


@given(tables(), PHASES, st.sampled_from(["max_fps", "off"]))
@settings(max_examples=150, deadline=None)
def test_without_limits_of_power_the_rate_is_the_limit_and_nothing_else(table, phases, objective):
    phases = [replace(phase, squeeze="" if phase.squeeze == "pause" else phase.squeeze) for phase in phases]
    if objective == "max_fps":
        phases = [replace(phase, limits=Limits(rate=phase.limits.rate)) for phase in phases]
    for on, _, _, after, _ in drive(table, phases, objective):
        assert after.order.rate == on.limits.rate


@given(tables(), PHASES, OBJECTIVES, st.floats(0.5, 50.0))
@settings(max_examples=60, deadline=None)
def test_a_decision_depends_on_nothing_else_and_changes_nothing(table, phases, objective, fps):
    for on, before, seen, after, why in drive(table, phases, objective, fps):
        kept = deepcopy((on, before, seen))
        assert decide(on, before, seen) == (after, why)
        assert (on, before, seen) == kept


@given(tables(), PHASES)
@settings(max_examples=150, deadline=None)
def test_each_change_of_way_and_each_pause_is_a_step_that_says_why(table, phases):
    for _, before, _, after, why in drive(table, phases):
        if way_of(before) != way_of(after) or (before.order.rate == 0) != (after.order.rate == 0):
            assert why
            assert after.told == after.order
        if why:
            assert after.why == why


# Watts ----------------------------------------------------------------------------------------------------------------


def plant(way=BIG, **changes):
    made = Plant(**{"idle": way.base, "joules": way.joules, "capacity": way.capacity, **changes})
    made.rest()
    return made


def govern(board, on, seconds, state=None, start=0.0, offered=None, disturb=lambda now_s: 0.0):
    """Run a simulated board; return the state and (time, watts, celsius, order) of each period."""
    state = state or begin(on, on.ways[0])
    told = []
    for n in range(round(seconds / PERIOD_S)):
        now_s = start + n * PERIOD_S
        mean = 0.0
        for _ in range(10):
            rate = state.order.rate
            board.step(min((r for r in (rate, offered) if r is not None), default=None), PERIOD_S / 10, disturb(now_s))
            mean += board.watts / 10
        state, _ = decide(on, state, sample(now_s, round(mean, 2), round(2 * board.celsius) / 2, board.fps, offered=offered))
        told.append((now_s, mean, board.celsius, state.order))
    return state, told


@pytest.mark.parametrize("way", [BIG, BARE], ids=["table", "no table"])
@pytest.mark.parametrize("off", [0.8, 1.0, 1.25], ids=["dearer", "right", "cheaper"])
def test_a_board_settles_just_below_its_limit(way, off):
    board = plant(joules=BIG.joules * off)
    _, told = govern(board, Rules(limits=WATTS, ways=[way]), 240.0)
    rest = [watts for now_s, watts, _, _ in told if now_s >= 120.0]
    assert max(rest) <= 10.0
    assert min(rest) >= 0.93 * 10.0, "and it does not waste what may be used"
    assert max(watts for _, watts, _, _ in told) <= 1.05 * 10.0


@pytest.mark.parametrize("way", [BIG, BARE], ids=["table", "no table"])
def test_a_lower_limit_is_kept_within_two_seconds_and_a_higher_one_is_used(way):
    board = plant()
    state, _ = govern(board, Rules(limits=WATTS, ways=[way]), 120.0)
    state, told = govern(board, Rules(limits=Limits(watts=7.5), ways=[way]), 60.0, state, start=120.0)
    assert all(watts <= 1.05 * 7.5 for now_s, watts, _, _ in told if now_s >= 122.5)
    assert all(watts <= 7.5 for now_s, watts, _, _ in told if now_s >= 130.0)
    _, told = govern(board, Rules(limits=Limits(watts=12.0), ways=[way]), 120.0, state, start=180.0)
    assert told[-1][1] >= 0.93 * 12.0
    assert max(watts for _, watts, _, _ in told) <= 1.05 * 12.0


def test_a_neighbour_on_the_board_takes_from_the_frames():
    board, on = plant(), Rules(limits=WATTS, ways=[BIG])
    state, told = govern(board, on, 120.0)
    alone = told[-1][3].rate
    state, told = govern(board, on, 60.0, state, start=120.0, disturb=lambda _: 2.0)
    assert max(watts for now_s, watts, _, _ in told if now_s >= 130.0) <= 10.0
    assert told[-1][3].rate == pytest.approx(alone - 2.0 / 0.3, rel=0.1)
    _, told = govern(board, on, 60.0, state, start=180.0)
    assert told[-1][3].rate == pytest.approx(alone, rel=0.1)


def test_what_the_board_takes_without_frames_can_be_too_much_and_then_it_pauses_and_comes_back():
    board, on = plant(), Rules(limits=WATTS, ways=[BIG])
    state, _ = govern(board, on, 60.0)
    state, told = govern(board, on, 60.0, state, start=60.0, disturb=lambda _: 7.0)
    assert told[-1][3].rate == 0.0
    assert "W measured, the limit is 10 W" in state.why
    kept, _ = govern(deepcopy(board), on, 120.0, state, start=120.0, disturb=lambda _: 4.8)
    assert kept.order.rate == 0.0, "0.2 W below the limit is not room enough"
    assert kept.why == state.why, "what paused it"
    _, told = govern(board, on, 60.0, state, start=120.0)
    assert told[-1][3].rate > 10.0
    resumed = next(order for _, _, _, order in told if order.rate)
    assert resumed.rate <= 1.0, "it begins at the safe rate"


def test_the_rate_does_not_run_ahead_of_what_the_cameras_give():
    _, told = govern(plant(), Rules(limits=Limits(watts=30.0), ways=[BIG]), 60.0, offered=8.0)
    assert told[-1][3].rate == pytest.approx(8.8, rel=0.02)


def test_the_rate_does_not_run_ahead_of_what_the_engine_gives():
    _, told = govern(plant(), Rules(limits=Limits(watts=30.0), ways=[BIG]), 120.0)
    assert told[-1][3].rate == pytest.approx(33.0, rel=0.02)


def test_nothing_measured_as_zero_watts_is_divided_by():
    state, _ = steady(rules(BARE, watts=5.0), begin(rules(BARE, watts=5.0), BARE), 20.0, watts=0.0)
    assert 0.0 < state.order.rate < 100.0


def test_a_single_reading_above_the_limit_lowers_the_rate_at_once():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 60.0, watts=9.0)
    after, _ = decide(on, state, sample(state.now_s + 0.5, 10.01, fps=state.order.rate))
    assert after.order.rate < state.order.rate


def test_alarms_of_the_board_lower_the_rate():
    on = rules(watts=20.0)
    state, _ = steady(on, begin(on, BIG), 60.0, watts=9.0)
    after, why = decide(on, state, sample(state.now_s + 0.5, 9.0, fps=20.0, alarms=("over-current",)))
    assert after.order.rate == pytest.approx(14.0)
    assert why == "the board complains: over-current"
    off = Rules(objective="off", ways=[BIG])
    assert decide(off, begin(off, BIG), sample(1.0, 9.0, fps=20.0, alarms=("over-current",)))[0].order.rate is None


# Degrees --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [BIG, BARE], ids=["table", "no table"])
def test_a_board_settles_just_below_its_temperature(way):
    board = plant(resistance=4.0, heat_capacity=15.0)  # 45 C at rest, 81 C at full load
    _, told = govern(board, Rules(limits=Limits(celsius=65.0), ways=[way]), 900.0)
    assert max(celsius for _, _, celsius, _ in told) <= 65.5
    rest = [celsius for now_s, _, celsius, _ in told if now_s >= 600.0]
    assert min(rest) >= 61.0
    assert max(rest) < 65.0


@pytest.mark.parametrize("celsius", [65.0, 70.0])
def test_a_reading_at_the_limit_lowers_the_rate_at_once_even_the_first_one(celsius):
    on = rules(celsius=65.0)
    state, _ = steady(on, begin(on, BIG), 60.0, celsius=40.0)
    after, _ = decide(on, state, sample(state.now_s + 0.5, celsius=celsius, fps=state.order.rate))
    assert after.order.rate <= 0.7 * state.order.rate
    fresh = begin(on, BIG)
    assert decide(on, fresh, sample(1.0, celsius=celsius, fps=fresh.order.rate))[0].order.rate < fresh.order.rate
    none = Rules(ways=[BIG])
    state, _ = steady(none, begin(none, BIG), 5.0, celsius=celsius)
    after, _ = decide(on, state, sample(state.now_s + 0.5, celsius=celsius, fps=20.0))
    assert after.order.rate <= 14.0, "a limit that only begins to hold counts at once, too"


def test_what_was_learned_of_heat_hours_ago_does_not_count_when_a_limit_holds_again():
    on, none = rules(celsius=80.0), Rules(ways=[BIG])
    state, _ = steady(on, begin(on, BIG), 60.0, celsius=30.0)
    state, _ = steady(none, state, 30.0, celsius=70.0)
    state, _ = steady(on, state, 0.5, celsius=70.0)
    assert state.heat.slope == 0.0


# Sensors that are gone ------------------------------------------------------------------------------------------------


def test_blind_at_the_safest_pace_and_back_by_itself():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 60.0, watts=9.0)
    fast = state.order.rate
    blind, why = decide(on, state, sample(state.now_s + 0.5, None, fps=fast, trouble="the sensor is gone"))
    assert blind.order.rate == pytest.approx((8.0 - 5.0) / 0.3)
    assert blind.order.rate < fast
    assert why == "no watts: the sensor is gone; the safest known pace until it is back"
    blind, steps = steady(on, blind, 10.0, trouble="the sensor is gone")
    assert steps == [], "told once"
    seeing, _ = steady(on, blind, 1.5, watts=8.0)
    assert (seeing.order, seeing.blind) == (blind.order, 1), "one good reading is none"
    seeing, _ = steady(on, seeing, 30.0, watts=8.0)
    assert seeing.blind == 0
    assert seeing.order.rate > blind.order.rate


@pytest.mark.parametrize(("way", "limits", "rate"), [
    (BIG, WATTS, 10.0), (BARE, WATTS, 1.0), (BIG, Limits(watts=5.0), 1.0), (BIG, Limits(watts=99.0), 30.0),
    (BIG, Limits(watts=10.0, rate=3.0), 3.0), (BIG, Limits(celsius=60.0), 1.0), (BIG, Limits(watts=10.0, celsius=60.0), 1.0),
    (BIG, Limits(rate=3.0), 3.0), (BIG, Limits(), None)])
def test_it_begins_at_the_safest_known_pace(way, limits, rate):
    assert begin(Rules(limits=limits, ways=[way]), way).order == Order(tier="big", batch=1, rate=rate and pytest.approx(rate))


def test_blind_from_the_start_is_told_too():
    on = rules(watts=10.0)
    _, steps = steady(on, begin(on, BARE), 5.0, trouble="no sensors here")
    assert [why for _, why in steps] == ["no watts: no sensors here; the safest known pace until it is back"]


def test_a_sensor_that_no_limit_needs_may_be_gone():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 60.0, watts=9.0, celsius=None, trouble="no temperature")
    assert state.blind == 0
    assert "no temperature" not in state.why


def test_above_the_limit_counts_though_the_sensor_has_only_just_come_back():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 10.0, watts=9.0)
    state, _ = steady(on, state, 5.0)
    after, _ = decide(on, state, sample(state.now_s + 0.5, 12.0, fps=state.order.rate))
    assert after.order.rate < state.order.rate


def test_a_pause_of_the_memory_does_not_outlast_it_where_no_sensor_speaks():
    on = rules(BARE, watts=10.0)
    state, _ = steady(on, begin(on, BARE), 2.0, trouble="gone", squeeze="pause", why_squeezed="memory is short")
    assert state.order.rate == 0.0
    assert state.why == "memory is short"
    state, _ = steady(on, state, 20.0, trouble="gone")
    assert state.order.rate == 1.0


# Pauses, and what is asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(), Limits(rate=5.0), WATTS])
def test_a_pause_for_memory_holds_and_ends(limits):
    on = Rules(limits=limits, ways=[BIG])
    state, _ = steady(on, begin(on, BIG), 30.0, watts=8.0)
    before = state.order.rate
    state, steps = steady(on, state, 10.0, watts=5.0, squeeze="pause", why_squeezed="memory is short")
    assert [(str(order), why) for order, why in steps] == [("big, batch 1, paused", "memory is short")]
    state, steps = steady(on, state, 30.0, watts=8.0)
    assert steps
    assert height(state.order.rate) >= 0.9 * height(before)


@pytest.mark.parametrize("limits", [Limits(rate=0.1), Limits(rate=0.1, watts=10.0)])
def test_a_rate_slower_than_one_in_five_seconds_can_be_asked_for(limits):
    on = Rules(limits=limits, ways=[BIG])
    assert steady(on, begin(on, BIG), 30.0, watts=8.0)[0].order.rate == pytest.approx(0.1)


def test_cameras_that_give_a_frame_in_ten_seconds_do_not_pause_it():
    on = rules(watts=10.0)
    assert steady(on, begin(on, BIG), 60.0, watts=6.0, offered=0.1)[0].order.rate == pytest.approx(0.11, rel=0.03)


def test_a_limit_of_the_rate_counts_at_once_with_a_limit_of_power():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 60.0, watts=8.0)
    assert state.order.rate > 4.0
    state, _ = steady(rules(watts=10.0, rate=4.0), state, 0.5, watts=8.0)
    assert state.order.rate <= 4.0


def test_min_energy_reaches_the_rate_at_the_least_watts():
    on = Rules(objective="min_energy", fps=20.0, ways=[BIG, SMALL], changeable=ALL)
    state, steps = steady(on, begin(on, BIG), 5.0, watts=9.0)
    assert state.order == Order(tier="small", batch=1, rate=20.0)
    assert len(steps) == 1
    on = replace(on, ways=[BIG, replace_way(SMALL, base=20.0)])
    assert steady(on, begin(on, BIG), 5.0, watts=9.0)[0].order == Order(tier="big", batch=1, rate=20.0)
    on = replace(on, ways=[BIG, replace_way(SMALL, capacity=10.0)])
    assert steady(on, begin(on, BIG), 5.0, watts=9.0)[0].order == Order(tier="big", batch=1, rate=20.0), "it must reach it"


def replace_way(way, **changes):
    from msgspec.structs import replace as changed
    return changed(way, **changes)


def test_min_energy_keeps_to_the_limits_as_well():
    on = Rules(objective="min_energy", fps=20.0, limits=Limits(watts=6.0), ways=[BIG], changeable=ALL)
    _, told = govern(plant(), on, 60.0)
    assert told[-1][1] <= 6.0
    on = replace(on, limits=Limits(watts=30.0))
    _, told = govern(plant(), on, 60.0)
    assert told[-1][3].rate == pytest.approx(20.0, rel=0.02)


# Ways -----------------------------------------------------------------------------------------------------------------


def test_a_limit_too_low_for_the_big_tier_brings_the_small_one_and_back():
    board, ways = plant(), (BIG, SMALL)
    state, _ = govern(board, rules(*ways, watts=13.0), 70.0, offered=20.0)
    assert state.order.tier == "big"
    state, told = govern(board, rules(*ways, watts=7.5), 120.0, state, start=70.0, offered=20.0)
    assert state.order.tier == "small"
    assert len({(order.tier, order.batch) for _, _, _, order in told}) <= 2
    board.idle, board.joules, board.capacity = SMALL.base, SMALL.joules, SMALL.capacity
    state, told = govern(board, rules(*ways, watts=7.5), 120.0, state, start=190.0, offered=20.0)
    assert {order.tier for _, _, _, order in told} == {"small"}
    state, _ = govern(board, rules(*ways, watts=14.0), 120.0, state, start=310.0, offered=20.0)
    assert state.order.tier == "big"


def test_above_a_limit_the_rate_falls_first_and_the_way_changes_afterwards():
    ways = (BIG, SMALL)
    on = rules(*ways, watts=13.0)
    state, _ = steady(on, begin(on, BIG), 70.0, watts=11.0, offered=20.0)
    lower = rules(*ways, watts=7.5)
    after, _ = decide(lower, state, sample(state.now_s + 0.5, 11.0, fps=20.0, offered=20.0))
    assert after.order.tier == "big"
    assert after.order.rate < state.order.rate
    after, _ = decide(lower, after, sample(state.now_s + 1.0, 7.0, fps=after.order.rate, offered=20.0))
    assert after.order.tier == "small"


def test_going_back_says_which_way_serves_and_waits_before_it_is_left():
    on = rules(BIG, SMALL, watts=13.0)
    state, _ = steady(on, begin(on, BIG), 70.0, watts=8.0)
    came = back(state, SMALL)
    assert (came.order.tier, came.order.batch, came.order.rate) == ("small", 1, state.order.rate)
    assert came.told == came.order
    assert came.way_s == state.now_s
    assert came.power.low is None
    kept, _ = steady(on, came, 50.0, watts=8.0, offered=10.0)
    assert kept.order.tier == "small"
    gone, _ = steady(on, kept, 20.0, watts=8.0, offered=10.0)
    assert gone.order.tier == "big"


def test_a_change_of_way_never_exceeds_the_limit_of_the_rate():
    on = Rules(limits=Limits(watts=20.0, rate=0.5), ways=[Way(tier="big", batch=4), Way(tier="big", batch=2)])
    state = begin(on, Way(tier="big", batch=4))
    state, _ = decide(on, state, sample(1.0, 5.0, fps=0.0, squeeze="batch", why_squeezed="memory is short"))
    assert (state.order.batch, state.order.rate) == (2, 0.5)


@pytest.mark.parametrize(("asked", "counted", "rate"), [
    (10.0, 9.5, 10.0), (10.0, 5.0, 5.0), (None, 7.0, 7.0), (0.0, 1.0, 1.0), (0.5, 0.0, 0.5), (10.0, 8.1, 10.0), (10.0, 8.0, 8.0)])
def test_what_is_served_is_the_pace_unless_clearly_less_was_counted(asked, counted, rate):
    assert served(asked, counted) == rate


def test_the_first_state_remembers_nothing():
    state = begin(rules(watts=10.0), BIG)
    assert isinstance(state, State)
    assert (state.order, state.power.base, state.heat.fast, state.now_s) == (state.told, None, None, None)


def test_a_hair_above_the_limit_is_above_it():
    light = replace_way(BIG, base=0.5, capacity=100.0)
    on = Rules(limits=WATTS, ways=[light])
    state, _ = govern(plant(light), on, 120.0)
    after, _ = decide(on, state, sample(state.now_s + 0.5, 10.001, fps=state.order.rate))
    assert 0.985 * state.order.rate < after.order.rate < state.order.rate


def test_a_hair_above_the_limit_of_the_rate_is_above_it():
    state, _ = steady(rules(watts=10.0, rate=5.0), begin(rules(watts=10.0, rate=5.0), BIG), 60.0, watts=6.0)
    assert state.order.rate > 4.96
    assert decide(rules(watts=10.0, rate=4.95), state, sample(state.now_s + 0.5, 6.0, fps=5.0))[0].order.rate <= 4.95


def test_slow_cameras_are_served_again_after_a_pause():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 20.0, watts=6.0, offered=0.1)
    state, _ = steady(on, state, 5.0, watts=5.0, offered=0.1, squeeze="pause", why_squeezed="memory is short")
    assert state.order.rate == 0.0
    assert steady(on, state, 20.0, watts=6.0, offered=0.1)[0].order.rate == pytest.approx(0.11, rel=0.03)


# Just above idle power ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["table", "no table"])
@pytest.mark.parametrize(("limit", "joules"), [(5.3, 0.5), (7.0, 1.0)])
def test_a_limit_just_above_idle_is_kept_and_no_cycle_goes_on_for_ever(known, limit, joules):
    way = Way(tier="big", batch=1, base=5.0, joules=joules, capacity=40.0) if known else BARE
    board = plant(Way(tier="big", batch=1, base=5.0, joules=joules, capacity=40.0))
    on = Rules(limits=Limits(watts=limit), ways=[way], safe_rate=5.0)
    state, _ = govern(board, on, 60.0, offered=30.0)
    state, told = govern(board, on, 240.0, state, start=60.0, offered=30.0)
    assert sum(watts > limit for _, watts, _, _ in told) <= 0.01 * len(told)
    assert sum(one.rate != other.rate and 0.0 in (one.rate, other.rate) for one, other in pairwise([order for *_, order in told])) <= 4
    assert told[-1][3].rate >= 0.75 * (limit - 5.0) / joules


def paused(limits=WATTS, way=BARE, safe=4.0):
    """Return the rules, and a state that a limit has paused just now."""
    on = Rules(limits=limits, ways=[way], safe_rate=safe)
    state, _ = steady(on, begin(on, way), 70.0, watts=8.0)
    return on, until_paused(on, state)


def until_paused(on, state):
    for _ in range(100):
        if state.order.rate == 0.0:
            return state
        state, _ = steady(on, state, 0.5, watts=14.0)
    raise AssertionError("it never paused")


def until_resumed(on, state, watts=8.0):
    """Return the state, and how long the pause took."""
    since_s = state.now_s
    for _ in range(2000):
        state, _ = steady(on, state, 0.5, watts=watts)
        if state.order.rate:
            return state, state.now_s - since_s
    raise AssertionError("it never came back")


def test_a_pause_lasts_eight_seconds_and_twice_as_long_when_it_comes_back_within_a_minute():
    on, state = paused()
    waits, rates = [], []
    for _ in range(9):
        state, wait_s = until_resumed(on, state)
        waits.append(wait_s)
        rates.append(state.order.rate)
        state = until_paused(on, state)
    assert waits == [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0, 600.0]
    assert rates[1] <= rates[0] / 2
    assert min(rates) >= 0.2
    state, _ = until_resumed(on, state)
    state, _ = steady(on, state, 61.0, watts=8.0)
    assert until_resumed(on, until_paused(on, state))[1] == 8.0, "a run of a minute has proved its rate"


def test_another_limit_or_a_neighbour_that_has_gone_ends_the_longer_wait():
    on, state = paused()
    for _ in range(5):
        state = until_paused(on, until_resumed(on, state)[0])
    assert until_resumed(on, state)[1] > 200.0
    assert until_resumed(on, state, watts=7.0)[1] == 8.0
    assert until_resumed(replace(on, limits=Limits(watts=11.0)), state)[1] == 8.0


def test_after_a_pause_the_rate_is_what_the_room_carries():
    on, state = paused(way=replace_way(BIG, joules=1.0), safe=5.0)
    state, _ = until_resumed(on, state, watts=9.0)
    assert 0.2 <= state.order.rate < 1.0
    on, state = paused(way=replace_way(BIG, joules=0.01), safe=5.0)
    assert until_resumed(on, state, watts=9.0)[0].order.rate == 5.0, "and never more than the safe one"


# While something else goes on -----------------------------------------------------------------------------------------


def test_while_another_tier_loads_the_watts_are_taken_for_those_of_the_one_that_serves():
    on = rules(BIG, SMALL, watts=12.0)
    state = begin(on, BIG)
    for n in range(60):
        state, _ = decide(on, state, sample(1.0 + n / 2, 8.0, fps=10.0, offered=10.0))
    state = back(state, SMALL)
    before = state.order.rate
    for n in range(40):
        state, _ = decide(on, state, sample(31.0 + n / 2, 8.0, fps=10.0, offered=60.0, changing=True, serving="big"))
    assert state.power.base == pytest.approx(5.0, abs=0.1), "of the small tier's joules it would be 7 W"
    assert state.order.rate <= before, "no rise before it serves"
    lower, _ = decide(on, state, sample(51.0, 12.5, fps=10.0, offered=10.0, changing=True, serving="big"))
    assert lower.order.rate < 10.0, "above the limit the one that serves has to come down"


def test_while_the_memory_pauses_it_the_sensors_are_believed_again_and_learned_from():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 30.0, watts=8.0)
    state, _ = steady(on, state, 2.0, trouble="gone")
    assert state.blind == 4
    state, _ = steady(on, state, 5.0, trouble="gone", squeeze="pause", why_squeezed="memory is short")
    assert state.blind == 4
    assert state.blind_told
    for n in range(40):
        state, _ = decide(on, state, sample(state.now_s + 0.5, 6.0, squeeze="pause", why_squeezed="memory is short"))
        assert state.blind == max(3 - n, 0)
    assert not state.blind_told
    assert state.power.base == pytest.approx(6.0, abs=0.05)
    assert state.order.rate == 0.0


def flickering(on, state, seconds, every):
    steps = []
    for n in range(round(seconds / PERIOD_S)):
        watts = None if n % every == 0 else 5.0 + 0.3 * state.order.rate
        state, why = decide(on, state, sample(state.now_s + 0.5, watts, fps=state.order.rate, trouble="lost"))
        steps += [why] if why else []
    return state, steps


def test_a_sensor_that_comes_and_goes_is_told_once_a_minute():
    on = rules(watts=10.0)
    state, _ = steady(on, begin(on, BIG), 30.0, watts=8.0)
    state, steps = flickering(on, state, 120.0, 6)
    assert len([why for why in steps if "lost" in why]) == 2
    assert len(steps) <= 4
    state, _ = steady(on, state, 30.0, watts=8.0)
    assert not state.blind_told
    state, steps = steady(on, state, 90.0, trouble="lost for good")
    assert len(steps) == 1, "a blindness that lasts is told"


def test_right_after_the_sensors_are_back_the_rate_does_not_rise():
    on = rules(watts=20.0)
    state, _ = steady(on, begin(on, BIG), 10.0, watts=8.0)
    state, _ = steady(on, state, 5.0, trouble="gone")
    low = replace(state, down_s=-1e9, order=replace(state.order, rate=2.0))
    for left in (3, 2, 1):
        low, _ = decide(on, low, sample(low.now_s + 0.5, 6.0, fps=2.0))
        assert (low.blind, low.order.rate) == (left, 2.0)
    low, _ = decide(on, low, sample(low.now_s + 0.5, 6.0, fps=2.0))
    assert low.order.rate > 2.0


def test_far_below_the_limit_of_degrees_the_heat_is_no_reason():
    on = rules(watts=30.0, celsius=85.0)
    _, steps = steady(on, begin(on, BARE), 10.0, watts=8.0, celsius=37.2)
    assert steps
    assert not [why for _, why in steps if "limit 85 C" in why]
    state, _ = steady(on, begin(on, BIG), 30.0, watts=8.0, celsius=37.2)
    _, steps = steady(on, state, 5.0, watts=8.0, celsius=86.0)
    assert "86.0 C measured, the limit is 85 C" in steps[0][1]
    near = rules(celsius=40.0)
    state, _ = steady(near, begin(near, BIG), 60.0, celsius=37.2)
    assert "limit 40 C" in state.why
