"""The memory ladder: what takes a rung, what gives it back, and that it neither swings nor sticks."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.power.memory import MemoryReading
from agent.power.squeeze import RUNGS, Rules, Sample, State, squeeze

MB = 1_000_000
RULES = Rules()
BUDGET = 600 * MB
ALL = frozenset(RUNGS)


def sample(at_s, total=300 * MB, *, budget=BUDGET, reserve=64 * MB, available=ALL, loading=False, **more):
    fields = {"resident": total, "children": None if total is None else 0, "available": 4000 * MB, **more}
    return Sample(reading=MemoryReading(at_s=float(at_s), **fields), budget=budget, reserve=reserve, available=available, loading=loading)


def group(at_s, used, limit=1000 * MB, **more):
    return sample(at_s, budget=None, limit=limit, limit_of=f"/cg/{limit}", used=used, **more)


def run(samples, state=None, rules=RULES):
    """Return the last state and the moves with their times."""
    state, moves = state or State(), []
    for one in samples:
        state, move = squeeze(state, one, rules)
        if move:
            moves.append((one.reading.at_s, move))
    return state, moves


def squeezed(level=3, at_s=0.0):
    return State(taken=RUNGS[:level], at_s=at_s, down_at_s=at_s)


def test_with_room_nothing_is_given_up():
    assert run(sample(t) for t in range(100))[1] == []


def test_above_the_budget_one_rung_goes_each_period_in_order_until_all_is_paused():
    state, moves = run(sample(t, 610 * MB) for t in range(20))
    assert [(t, move.rungs, move.before, move.after) for t, move in moves] == [
        (n, (RUNGS[n],), n, n + 1) for n in range(5)]
    assert moves[0][1].reason == "610 MB are taken of the budget of 600 MB"
    assert moves[0][1].down
    assert state.level == 5
    assert state.trouble == "nothing is left to give up, and 610 MB are taken of the budget of 600 MB"


def test_samples_that_come_faster_do_not_make_it_faster():
    _, moves = run(sample(t / 10, 610 * MB) for t in range(31))
    assert len(moves) == 4
    assert all(later - before >= RULES.interval_s for (before, _), (later, _) in pairwise(moves))


def test_a_sample_seen_before_or_older_changes_nothing():
    state, _ = run([sample(5, 610 * MB)])
    assert squeeze(state, sample(5, 900 * MB), RULES) == (state, None)
    assert squeeze(state, sample(4, 900 * MB), RULES) == (state, None)


def test_rungs_that_free_nothing_are_left_out_and_pausing_always_remains():
    state, moves = run(sample(t, 610 * MB, available=frozenset({"tier"})) for t in range(9))
    assert [move.rungs for _, move in moves] == [("tier",), ("pause",)]
    assert [move.after for _, move in moves] == [3, 5]
    state, moves = run((sample(t, available=frozenset()) for t in range(9, 90)), state)
    assert [(move.rungs, move.after) for _, move in moves] == [(("pause",), 3), (("tier",), 0)], "what was skipped is not given back"


@pytest.mark.parametrize(("used", "reserve", "moves"), [
    (919 * MB, 0, 0), (921 * MB, 0, 1), (971 * MB, 0, 2),
    (935 * MB, 64 * MB, 1), (910 * MB, 100 * MB, 1), (899 * MB, 100 * MB, 0),
    (499 * MB, 5000 * MB, 0), (501 * MB, 5000 * MB, 1),
])
def test_the_control_group_is_squeezed_before_its_limit(used, reserve, moves):
    one = group(0, used, reserve=reserve)
    state, found = run([replace(one, reading=replace(one.reading, available=9000 * MB))])
    assert state.level == moves
    if moves:
        assert f"{used / 1e6:.0f} MB are taken of the control group's limit of 1000 MB" in found[0][1].reason


@pytest.mark.parametrize(("pressure", "level"), [(10.0, 0), (10.1, 1), (None, 0)])
def test_waiting_for_memory_is_pressure(pressure, level):
    state, moves = run([sample(0, budget=None, pressure=pressure)])
    assert state.level == level
    assert not level or moves[0][1].reason == "tasks waited for memory 10 % of the last 10 s, more than 10 %"


@pytest.mark.parametrize(("available", "level"), [(64 * MB, 0), (63 * MB, 1), (31 * MB, 2)])
def test_a_machine_that_runs_out_is_pressure(available, level):
    one = sample(0, budget=None)
    assert run([replace(one, reading=replace(one.reading, available=available))])[0].level == level


@pytest.mark.parametrize(("used", "before", "after", "level"), [
    (880 * MB, {"max": 3}, {"max": 4}, 1),
    (300 * MB, {"max": 3}, {"max": 9}, 0),  # file cache was dropped, no more
    (None, {"max": 3}, {"max": 4}, 1),
    (300 * MB, {"oom_kill": 0}, {"oom_kill": 1}, 1),
    (880 * MB, {"max": 4}, {"max": 4}, 0),
    (880 * MB, {}, {"max": 4}, 0),
    (880 * MB, {"max": 9}, {"max": 4}, 0),
])
def test_the_groups_counters_count_where_room_is_not_known(used, before, after, level):
    state, moves = run([group(0, used, events=before), group(1, used, events=after)])
    assert state.level == level
    assert not level or "met its limit since the last look" in moves[0][1].reason


def test_the_counters_of_another_group_are_not_compared():
    assert run([group(0, 880 * MB, events={"max": 1}), group(1, 1780 * MB, 2000 * MB, events={"max": 50})])[1] == []


def test_growth_that_reaches_the_limit_within_seconds_takes_two_rungs_early():
    _, moves = run(group(t, (300 + 100 * t) * MB) for t in range(6))
    assert [(t, move.rungs) for t, move in moves] == [(2.0, ("queues", "batch")), (3.0, ("tier", "candidate")), (4.0, ("pause",))]
    assert moves[0][1].reason == "100 MB more every second reach the control group's limit of 1000 MB in 5.0 s"


def test_a_step_and_a_planned_load_are_no_growth():
    assert run(group(t, 300 * MB if t < 3 else 800 * MB) for t in range(20))[1] == []
    assert run(replace(group(t, (300 + 100 * min(t, 5)) * MB), loading=True) for t in range(9))[1] == []


def test_what_is_given_up_comes_back_slowly_one_by_one():
    state, moves = run((sample(t, 500 * MB) for t in range(1, 120)), squeezed())
    assert [(t, move.rungs, move.down) for t, move in moves] == [(31, ("tier",), False), (61, ("batch",), False), (91, ("queues",), False)]
    assert moves[0][1].reason == "there has been room for 30 s"
    assert state.level == 0


def test_between_the_lines_nothing_comes_back_but_on_trial():
    state, moves = run((sample(t, 550 * MB) for t in range(1, 600)), squeezed())
    assert moves == []
    _, moves = run((sample(t, 550 * MB) for t in range(600, 605)), state)
    assert moves[0][1].rungs == ("tier",)
    assert moves[0][1].reason == "on trial: no pressure for 600 s, though 550 MB are taken of the budget of 600 MB"


def test_opposite_moves_wait_for_the_dwell():
    _, moves = run([sample(t, 500 * MB) for t in range(1, 32)] + [sample(31 + n / 4, 700 * MB) for n in range(1, 12)], squeezed())
    assert [(t, move.down) for t, move in moves[:2]] == [(31, False), (33, True)]
    _, moves = run((sample(1 + n, 500 * MB) for n in range(9)), squeezed(), Rules(relief_s=0.0, dwell_s=5.0))
    assert moves[0][0] == 5


def test_one_look_without_room_begins_the_wait_anew():
    _, moves = run((sample(t, 550 * MB if t == 20 else 500 * MB) for t in range(1, 60)), squeezed())
    assert [t for t, _ in moves] == [51]


def test_what_had_to_be_taken_again_waits_twice_as_long_each_time():
    """A rung that costs 200 MB above what fits: each giving back is a mistake."""
    state, moves = State(), []
    for t in range(4000):
        state, move = squeeze(state, sample(t, 700 * MB if state.level == 0 else 500 * MB), RULES)
        moves += [(t, move.down)] if move else []
    backs = [t for t, down in moves if not down]
    waits = [later - before for before, later in pairwise(backs)]
    assert [round(wait / RULES.relief_s) for wait in waits] == [2, 4, 8, *[16] * (len(waits) - 3)]
    assert len(moves) / 4000 < 1 / 60, "less than a move a minute"


def test_a_rung_given_back_without_harm_shortens_the_wait_again():
    state = replace(squeezed(5), doubled=2)
    state, moves = run((sample(t) for t in range(1, 900)), state)
    assert [round(later - before) for (before, _), (later, _) in pairwise(moves)] == [120, 60, 30, 30]
    assert state.doubled == 0


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("blind", [
    {"total": None}, {"limit": 1000 * MB, "limit_of": "/m", "used": None}, {"available": None},
])
def test_what_is_unknown_neither_takes_nor_gives_and_says_so(level, blind):
    def one(t):
        made = sample(t, **{key: value for key, value in blind.items() if key == "total"})
        return replace(made, reading=replace(made.reading, **{key: value for key, value in blind.items() if key != "total"}))

    state, moves = run((one(t) for t in range(1, 2000)), squeezed(level))
    assert moves == []
    assert "cannot be read: " in state.trouble
    assert state.trouble.endswith("(queues, batch, tier) stays so" if level else "nothing is given up for it")
    state, moves = run((sample(t) for t in range(2000, 2032)), state)
    assert state.trouble == ""
    assert [t for t, _ in moves] == ([2030.0] if level else []), "the wait begins when it is known again"


def test_what_is_known_still_squeezes_while_something_else_is_not():
    made = sample(1, 610 * MB)
    state, moves = run([replace(made, reading=replace(made.reading, limit=10**9, limit_of="/m", used=None))])
    assert len(moves) == 1
    assert state.trouble.startswith("what the control group takes cannot be read")


def test_a_budget_that_is_lifted_gives_back():
    assert run((sample(t, 5000 * MB, budget=None) for t in range(1, 200)), squeezed())[0].level == 0


READINGS = st.builds(
    lambda resident, available, limit, used, pressure, most: MemoryReading(
        at_s=0.0, resident=resident, children=0, available=available, limit=limit, limit_of="/m" if limit else "", used=used,
        pressure=pressure, events={"max": most}),
    st.none() | st.integers(0, 1000 * MB), st.none() | st.integers(0, 4000 * MB), st.sampled_from([None, 500 * MB, 1000 * MB]),
    st.none() | st.integers(0, 1000 * MB), st.none() | st.floats(0, 100), st.integers(0, 3))
STEPS = st.lists(st.tuples(st.floats(0.1, 90), READINGS, st.frozensets(st.sampled_from(RUNGS)), st.sampled_from([None, BUDGET])), max_size=80)
QUICK = Rules(relief_s=5.0, patience_s=20.0)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from([RULES, QUICK, Rules(relief_s=0.0, interval_s=0.0, dwell_s=10.0)]))
def test_whatever_comes_the_ladder_keeps_its_rules(steps, rules):
    state, now, last = State(), 0.0, None
    for more, reading, available, budget in steps:
        now += more
        before = state
        one = Sample(reading=replace(reading, at_s=now), budget=budget, reserve=64 * MB, available=available)
        state, move = squeeze(state, one, rules)
        assert 0 <= state.level <= len(RUNGS)
        assert list(state.taken) == sorted(set(state.taken), key=RUNGS.index)
        if move is None:
            assert state.taken == before.taken
            continue
        assert (move.before, move.after) == (before.level, state.level)
        assert move.reason
        if move.down:
            assert set(move.rungs) <= available | {"pause"}
            assert 1 <= len(move.rungs) <= 2
        else:
            assert not state.trouble, "nothing is given back while something is not known"
            assert len(move.rungs) == 1
        if last and last[1] != move.down:
            assert now - last[0] >= rules.dwell_s
        if last and last[1] and move.down:
            assert now - last[0] >= rules.interval_s
        last = now, move.down


@settings(max_examples=100, deadline=None)
@given(STEPS, st.frozensets(st.sampled_from(RUNGS)), st.integers(601 * MB, 5000 * MB))
def test_from_anywhere_lasting_pressure_only_goes_down_and_pauses_soon_and_room_gives_all_back(steps, available, total):
    state, now = State(), 0.0
    for more, reading, rungs, budget in steps:
        now += more
        state, _ = squeeze(state, Sample(reading=replace(reading, at_s=now), budget=budget, reserve=64 * MB, available=rungs), QUICK)
    levels = [state.level]
    for n in range(1, 9):  # the dwell is two samples, then a rung each
        state, move = squeeze(state, sample(now + n, total, available=available), QUICK)
        assert move is None or move.down
        levels.append(state.level)
    assert levels == sorted(levels)
    assert levels[-1] == 5
    assert state.taken[-1] == "pause"
    state, moves = run((sample(now + 9 + n) for n in range(5 * 16 * 6)), state, QUICK)
    assert state.level == 0
    assert not any(move.down for _, move in moves)
