"""The governor's accounts: steps, time, frames and joules, each only where it was known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.power.ledger import Ledger, Step
from agent.power.orders import Order

FAST, SLOW = Order(tier="a", batch=2, rate=30.0), Order(tier="b", batch=1, rate=5.0)


def step(number):
    return Step(at=float(number), kind="step", before=FAST, after=SLOW, reason=str(number), watts=None, celsius=None, memory=None)


def test_ten_steps_are_kept_and_all_are_counted():
    ledger = Ledger()
    for number in range(23):
        ledger.took(step(number))
    assert [each.reason for each in ledger.steps()] == [str(number) for number in range(13, 23)]
    assert ledger.count == 23


def test_time_goes_to_the_way_whatever_its_rate_and_to_the_pause():
    ledger = Ledger()
    for order in (FAST, SLOW, Order(tier="a", batch=2, rate=None), Order(tier="a", batch=2, rate=0.0), FAST):
        ledger.passed(order, 0.5, 3, None)
    most = ledger.spent()[0]
    assert (most.name, most.seconds, most.frames) == ("a, batch 2", 1.5, 9)
    assert {each.name: each.seconds for each in ledger.spent()} == {"a, batch 2": 1.5, "b, batch 1": 0.5, "paused": 0.5}


def test_frames_per_joule_are_of_the_time_in_which_the_power_was_known():
    ledger = Ledger()
    assert ledger.frames_per_joule() is None
    ledger.passed(FAST, 1.0, 1000, None)
    assert ledger.frames_per_joule() is None
    ledger.passed(FAST, 2.0, 20, 5.0)
    assert ledger.frames_per_joule() == pytest.approx(2.0)
    spent = ledger.spent()[0]
    assert (spent.frames, spent.metered_frames, spent.joules, spent.seconds) == (1020, 20, 10.0, 3.0)


def test_frames_per_joule_forget_what_is_older_than_a_minute_of_periods():
    ledger = Ledger()
    for _ in range(50):
        ledger.passed(FAST, 0.5, 100, 1.0)
    for _ in range(120):
        ledger.passed(SLOW, 0.5, 1, 2.0)
    assert ledger.frames_per_joule() == pytest.approx(1.0)
    assert sum(each.seconds for each in ledger.spent()) == pytest.approx(85.0)


@given(st.lists(st.tuples(st.sampled_from([FAST, SLOW, Order(tier="a", batch=2, rate=0.0)]), st.floats(0, 10), st.integers(0, 100),
                          st.none() | st.floats(0, 100)), max_size=40))
def test_nothing_is_lost_or_counted_twice(periods):
    ledger = Ledger()
    for period in periods:
        ledger.passed(*period)
    spent = ledger.spent()
    assert sum(each.seconds for each in spent) == pytest.approx(sum(seconds for _, seconds, _, _ in periods))
    assert sum(each.frames for each in spent) == sum(frames for _, _, frames, _ in periods)
    assert sum(each.joules for each in spent) == pytest.approx(sum(s * w for _, s, _, w in periods if w is not None))
    assert [each.seconds for each in spent] == sorted((each.seconds for each in spent), reverse=True)
