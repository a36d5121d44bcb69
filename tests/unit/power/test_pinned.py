"""What the watts are of must not change behind a limit's back."""

import pytest

from agent.power.pinned import Pinned
from agent.power.telemetry import Reading


def of(measures, watts=5.0, **more):
    return Reading(at_s=1.0, watts=watts, measures=measures, celsius=50.0, **more)


def test_watts_of_something_else_are_none_and_it_is_said_until_the_former_are_back():
    pinned = Pinned()
    assert pinned.check(of("GPU")) == of("GPU")
    reading = pinned.check(of("CPU packages", trouble="nvml: lost"))
    assert (reading.watts, reading.celsius) == (None, 50.0)
    assert reading.trouble == (
        "the watts are of CPU packages now, the limit was kept with those of GPU; nvml: lost")
    assert pinned.check(of("GPU (1 s mean)")).watts is None
    assert pinned.check(of("")).trouble.startswith("the watts are of something without a name now")
    assert pinned.check(of("GPU")) == of("GPU")


def test_a_reading_without_watts_pins_nothing():
    pinned = Pinned()
    assert pinned.check(of("sum of 3 rails", None)).watts is None
    assert pinned.check(of("VDD_IN")).watts == 5.0
    assert pinned.check(of("CPU packages", None, trouble="first look")).trouble == "first look"


def test_the_table_says_what_they_must_be_of():
    pinned = Pinned()
    assert pinned.check(of("CPU packages"), table="GPU").watts is None
    assert pinned.check(of("GPU"), table="GPU").watts == 5.0
    assert pinned.check(of("CPU packages"), table="GPU").watts is None
    assert pinned.check(of("CPU packages"), table="").watts is None, "a table that fits no more leaves the limit as it was"
    assert pinned.check(of("CPU packages"), table="CPU packages").watts == 5.0


@pytest.mark.parametrize(("table", "then"), [("", 5.0), ("GPU", None)])
def test_what_a_stand_in_said_first_holds_until_the_wanted_one_tells(table, then):
    pinned = Pinned()
    assert pinned.check(of("GPU"), table=table, stand_in=True).watts == 5.0
    assert pinned.check(of("CPU packages"), table=table, stand_in=True).watts is None, "another stand-in"
    assert pinned.check(of("VDD_IN"), table=table).watts == then
    assert pinned.check(of("GPU"), table=table, stand_in=True).watts == (5.0 if table else None)


def test_a_sum_may_grow_and_not_shrink():
    pinned = Pinned()
    assert [pinned.check(of(f"sum of {rails}")).watts for rails in ("1 rail", "4 rails", "5 rails", "4 rails", "5 rails")] == [
        5.0, 5.0, 5.0, None, 5.0]
    assert pinned.check(of("VDD_IN")).watts is None
