"""What a way really gives: what is noticed, how long it counts, and that the governor leaves a way that gives too little."""

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.power.governor import PERIOD_S, begin, decide
from agent.power.orders import Order, Rules, Sample
from agent.power.plant import Plant
from agent.power.points import Way
from agent.power.policy import Limits
from agent.power.reach import Reached, as_reached, learned, served

ONE = Way(tier="t", batch=1, capacity=900.0, base=6.0, joules=0.01)
EIGHT = Way(tier="t", batch=8, capacity=980.0, base=6.0, joules=0.01)
AT_ONE = Order(tier="t", batch=1, rate=900.0)


def seen(fps, now_s=1000.0, offered=None):
    return Sample(now_s=now_s, watts=10.0, celsius=None, fps=fps, offered=offered)


def test_a_way_that_gives_clearly_less_than_it_is_asked_for_is_remembered_with_what_it_gave():
    assert learned((), AT_ONE, seen(450.0)) == (Reached("t", 1, 450.0, 1000.0),)
    assert learned((), AT_ONE, seen(764.0)) == (Reached("t", 1, 764.0, 1000.0),)
    assert learned((), AT_ONE, seen(766.0)) == ()
    assert learned((), Order(tier="t", batch=1, rate=None), seen(450.0)) == (Reached("t", 1, 450.0, 1000.0),), "unpaced: that is what it gives"


def test_sources_that_offer_no_more_are_no_shortfall():
    assert learned((), AT_ONE, seen(450.0, offered=450.0)) == ()
    assert learned((), AT_ONE, seen(450.0, offered=490.0)) == ()
    assert learned((), AT_ONE, seen(450.0, offered=500.0)) == (Reached("t", 1, 450.0, 1000.0),)


def test_a_pause_teaches_nothing():
    known = (Reached("t", 1, 0.0, 1000.0), Reached("t", 8, 700.0, 900.0))
    assert learned((), Order(tier="t", batch=1, rate=0.0), seen(0.0)) == ()
    assert learned(known, Order(tier="t", batch=1, rate=0.0), seen(3.0)) == known, "what was under way still came out"


def test_what_is_seen_again_moves_the_mean_and_more_than_that_forgets_it():
    known = learned((Reached("t", 1, 450.0, 990.0),), AT_ONE, seen(500.0))
    assert known == (Reached("t", 1, pytest.approx(460.0), 1000.0),)
    assert learned(known, AT_ONE, seen(800.0)) == ()
    slow = Order(tier="t", batch=1, rate=200.0)
    assert learned(known, slow, seen(200.0)) == known, "asked for less, it says nothing about more"


@pytest.mark.parametrize("order", [Order(tier="t", batch=8, rate=900.0), AT_ONE, Order(tier="t", batch=1, rate=100.0), Order(tier="t", batch=1, rate=0.0)])
def test_it_is_remembered_for_five_minutes(order):
    known = (Reached("t", 1, 450.0, 1000.0), Reached("u", 1, 9.0, 1000.0))
    fps, offered = order.rate and min(order.rate, 440.0), 440.0
    assert set(known) <= {*learned(known, order, seen(fps, 1299.5, offered))}
    assert learned(known, order, seen(fps, 1300.0, offered)) == ()


def test_other_ways_stay_known():
    known = learned((Reached("t", 8, 700.0, 900.0), Reached("u", 1, 9.0, 950.0)), AT_ONE, seen(450.0))
    assert known == (Reached("t", 8, 700.0, 900.0), Reached("u", 1, 9.0, 950.0), Reached("t", 1, 450.0, 1000.0))


def test_a_way_has_no_more_capacity_than_it_was_seen_to_have():
    known = (Reached("t", 1, 450.0, 0.0), Reached("u", 1, 0.0, 0.0))
    assert (as_reached(ONE, known).capacity, as_reached(ONE, known).joules) == (450.0, 0.01)
    assert as_reached(EIGHT, known) is EIGHT
    assert as_reached(ONE, (Reached("t", 1, 950.0, 0.0),)) is ONE, "a table is not made better by it"
    assert as_reached(Way(tier="t", batch=1), known).capacity is None
    assert as_reached(Way(tier="u", batch=1, capacity=5.0), known).capacity == 0.2, "never none at all"


@given(st.lists(st.tuples(st.sampled_from([1, 8]), st.one_of(st.none(), st.floats(0.0, 1e3)), st.floats(0.0, 1e3), st.one_of(st.none(), st.floats(0.0, 1e3)),
                          st.floats(0.1, 100.0)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_each_way_is_known_once_and_never_for_longer_than_five_minutes(turns):
    known, now_s = (), 0.0
    for batch, rate, fps, offered, later_s in turns:
        now_s += later_s
        known = learned(known, Order(tier="t", batch=batch, rate=rate), seen(fps, now_s, offered))
        assert len({(each.tier, each.batch) for each in known}) == len(known)
        assert all(now_s - each.at_s < 300.0 and 0.0 <= each.fps <= 1e3 for each in known)


# With the governor ------------------------------------------------------------------------------------------------------


def govern(on, gives, seconds, way=ONE, state=None, offered=None, changing=lambda now_s: False):
    """Run a loop that serves no more than ``gives[batch]``, counted as the thread counts; return (time, state, sample, why) of each period."""
    board = Plant(idle=way.base, joules=way.joules, capacity=1e6)
    board.rest()
    state = state or begin(on, way)
    now_s, told = state.now_s or 0.0, []
    counts = deque([(now_s, 0.0)], maxlen=5)
    for _ in range(round(seconds / PERIOD_S)):
        now_s += PERIOD_S
        fps = min(bound for bound in (state.order.rate, gives[state.order.batch], offered) if bound is not None)
        for _ in range(10):
            board.step(fps, PERIOD_S / 10)
        counts.append((now_s, counts[-1][1] + fps * PERIOD_S))
        (first_s, first), (_, last) = counts[0], counts[-1]
        found = Sample(now_s=now_s, watts=board.watts, celsius=board.celsius, fps=served(state.order.rate, (last - first) / (now_s - first_s)),
                       offered=offered, changing=changing(now_s))
        state, why = decide(on, state, found)
        told.append((now_s, state, found, why))
    return told


@pytest.mark.parametrize("limits", [Limits(watts=30.0), Limits(celsius=90.0)], ids=["watts", "degrees"])
def test_a_loop_that_cannot_feed_single_frames_changes_to_batches(limits):
    """The table says 900 fps for batch 1; decoding leaves it 450, and a batch of 8 gives 1000."""
    told = govern(Rules(limits=limits, ways=[ONE, EIGHT]), {1: 450.0, 8: 1000.0}, 300.0)
    batches = [(now_s, state.order.batch) for now_s, state, _, _ in told]
    changed_s = next(now_s for now_s, batch in batches if batch == 8)
    assert changed_s <= 40.0
    assert all(batch == 8 for now_s, batch in batches if now_s >= changed_s), "and stays"
    assert told[-1][2].fps >= 950.0
    why = next(why for now_s, _, _, why in told if now_s == changed_s)
    assert why == "t with batch 8 gives 980 fps within the limits, t with batch 1 450 fps"


def test_where_batches_give_no_more_either_it_stays_with_the_better_one():
    told = govern(Rules(limits=Limits(watts=30.0), ways=[ONE, EIGHT]), {1: 450.0, 8: 460.0}, 290.0)
    changes = sum(one[1].order.batch != other[1].order.batch for one, other in pairwise(told))
    assert changes <= 1, "it tried the other one"


@pytest.mark.parametrize("limits", [Limits(watts=30.0), Limits(celsius=95.0), Limits(watts=12.0)], ids=["watts", "degrees", "few watts"])
@pytest.mark.parametrize("safe_rate", [1.0, 200.0])
def test_a_rate_on_its_way_up_is_no_shortfall(limits, safe_rate):
    """What is counted over two seconds lags behind a rate that climbs."""
    told = govern(Rules(limits=limits, ways=[ONE], safe_rate=safe_rate), {1: 900.0}, 120.0)
    assert not any(each.fps < 0.9 * 900.0 for _, state, _, _ in told for each in state.reached)


def test_cameras_that_give_less_are_no_reason_to_change():
    told = govern(Rules(limits=Limits(watts=30.0), ways=[ONE, EIGHT]), {1: 900.0, 8: 1000.0}, 120.0, offered=450.0)
    assert all(state.order.batch == 1 and not state.reached for _, state, _, _ in told)


def test_while_another_engine_is_loaded_its_way_is_not_judged():
    on = Rules(limits=Limits(watts=30.0), ways=[ONE])
    assert govern(on, {1: 450.0}, 60.0)[-1][1].reached
    assert not govern(on, {1: 450.0}, 60.0, changing=lambda _: True)[-1][1].reached


def test_after_five_minutes_a_way_is_worth_another_try():
    on = Rules(limits=Limits(watts=30.0), ways=[ONE, EIGHT])
    state = govern(on, {1: 450.0, 8: 1000.0}, 60.0)[-1][1]
    assert [each.batch for each in state.reached if each.batch == 1] == [1]
    told = govern(on, {1: 450.0, 8: 1000.0}, 320.0, state=state)
    assert not any(each.batch == 1 for each in told[-1][1].reached)
