"""Which limits count at which hour."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.power.policy import Hours, Limits, Policy, limits_at, minute_of_day

DAY = Limits(watts=20.0, celsius=80.0, rate=50.0)
NIGHT = Hours(begin=minute_of_day("22:00"), end=minute_of_day("06:30"), limits=Limits(watts=8.0))
NOON = Hours(begin=minute_of_day("12:00"), end=minute_of_day("13:00"), limits=Limits(watts=30.0, celsius=60.0))
MINUTES = st.integers(0, 1439)
maybe = st.one_of(st.none(), st.floats(1.0, 100.0))
LIMITS = st.builds(Limits, watts=maybe, celsius=maybe, rate=maybe)


def at(written, *quiet, limits=DAY, objective="max_fps"):
    return limits_at(Policy(objective=objective, limits=limits, quiet=quiet), None if written is None else minute_of_day(written))


@pytest.mark.parametrize(("written", "watts"), [
    ("21:59", 20.0), ("22:00", 8.0), ("23:59", 8.0), ("00:00", 8.0), ("06:29", 8.0), ("06:30", 20.0), ("12:00", 20.0)])
def test_quiet_hours_begin_on_the_minute_and_end_before_it_over_midnight(written, watts):
    limits, name = at(written, NIGHT)
    assert limits == Limits(watts=watts, celsius=80.0, rate=50.0)
    assert name == ("22:00-06:30" if watts == 8.0 else "")


def test_quiet_hours_only_tighten():
    assert at("12:30", NOON)[0] == Limits(watts=20.0, celsius=60.0, rate=50.0)
    assert at("12:30", NOON, limits=Limits())[0] == Limits(watts=30.0, celsius=60.0)


def test_the_first_that_holds_counts():
    other = Hours(begin=0, end=minute_of_day("12:30"), limits=Limits(watts=5.0))
    assert at("12:10", NOON, other)[1] == "12:00-13:00"
    assert at("12:10", other, NOON)[0].watts == 5.0


def test_hours_that_end_where_they_begin_are_the_whole_day():
    assert all(Hours(begin=600, end=600, limits=Limits()).hold(minute) for minute in (0, 599, 600, 601, 1439))


def test_a_clock_that_cannot_be_believed_means_the_tightest_of_all():
    limits, name = at(None, NIGHT, NOON)
    assert limits == Limits(watts=8.0, celsius=60.0, rate=50.0)
    assert name == "(the tightest of all, for the clock is not set)"
    assert at(None) == (DAY, ""), "without quiet hours the hour does not matter"


@pytest.mark.parametrize("written", ["23:00", "12:30", None])
def test_off_leaves_the_limit_of_the_rate_alone(written):
    assert at(written, NIGHT, NOON, objective="off") == (Limits(rate=50.0), "")


@given(MINUTES, MINUTES, MINUTES)
def test_a_span_and_its_complement_never_hold_at_once(begin, end, minute):
    one, other = Hours(begin=begin, end=end, limits=Limits()), Hours(begin=end, end=begin, limits=Limits())
    if begin != end:
        assert one.hold(minute) != other.hold(minute)


@given(LIMITS, LIMITS)
def test_tightened_limits_exceed_neither(one, other):
    both = one.tightened(other)
    assert both == other.tightened(one)
    for name in ("watts", "celsius", "rate"):
        values = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        assert getattr(both, name) == (min(values) if values else None)


@pytest.mark.parametrize(("written", "minute"), [("00:00", 0), ("06:30", 390), ("23:59", 1439)])
def test_minutes_of_the_day(written, minute):
    assert minute_of_day(written) == minute
