"""Who gets the frames when there are not enough for all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.power.shares import Demand, shares


def demands(**what):
    return [Demand(source=name, priority=priority, fps=fps) for name, (priority, fps) in what.items()]


DEMANDS = st.lists(st.tuples(st.integers(1, 9), st.one_of(st.none(), st.floats(0.1, 60.0))), max_size=8).map(
    lambda found: [Demand(source=f"s{n}", priority=priority, fps=fps) for n, (priority, fps) in enumerate(found)])
RATE = st.floats(0.0, 200.0)


def test_the_highest_priority_first_and_the_lower_ones_get_what_it_leaves():
    assert shares(12.0, demands(gate=(9, 10.0), yard=(5, 10.0), roof=(1, 10.0))) == {"gate": None, "yard": pytest.approx(2.0), "roof": 0.0}


def test_what_one_does_not_need_goes_to_the_others_of_its_priority():
    assert shares(12.0, demands(slow=(5, 2.0), a=(5, 20.0), b=(5, 20.0), low=(1, 5.0))) == {
        "slow": None, "a": pytest.approx(5.0), "b": pytest.approx(5.0), "low": 0.0}


def test_where_nothing_has_to_be_divided_there_are_no_shares():
    assert shares(None, demands(gate=(9, 10.0), yard=(5, 10.0))) == {}
    assert shares(3.0, demands(gate=(5, 10.0), yard=(5, 10.0))) == {}
    assert shares(3.0, []) == {}


def test_enough_for_all_limits_nobody():
    assert shares(20.0, demands(gate=(9, 10.0), yard=(5, 10.0))) == {"gate": None, "yard": None}


def test_a_source_that_takes_any_number_leaves_nothing_to_lower_ones():
    assert shares(30.0, demands(clip=(9, None), yard=(5, 1.0))) == {"clip": 30.0, "yard": 0.0}
    assert shares(30.0, demands(clip=(5, None), gate=(9, 10.0), yard=(5, 4.0))) == {"gate": None, "clip": 16.0, "yard": None}


@pytest.mark.parametrize(("rate", "share"), [(10.09, 0.0), (10.11, pytest.approx(0.11))])
def test_less_than_a_frame_in_ten_seconds_is_shed(rate, share):
    assert shares(rate, demands(gate=(9, 10.0), yard=(5, 10.0)))["yard"] == share


def test_a_pause_sheds_all():
    assert shares(0.0, demands(gate=(9, 10.0), yard=(5, None))) == {"gate": 0.0, "yard": 0.0}


@given(RATE, DEMANDS)
@settings(max_examples=300, deadline=None)
def test_what_is_given_never_exceeds_what_there_is_and_is_given_in_order(rate, found):
    given_out = shares(rate, found)
    if not given_out:
        assert len({demand.priority for demand in found}) < 2
        return
    got = {demand.source: demand.fps if given_out[demand.source] is None else given_out[demand.source] for demand in found}
    assert set(got) == {demand.source for demand in found}
    assert sum(got.values()) <= rate + 1e-6
    for demand in found:
        assert got[demand.source] >= 0.0
        if demand.fps is not None:
            assert got[demand.source] <= demand.fps + 1e-9
        short = given_out[demand.source] is not None
        for other in found:
            if short and other.priority < demand.priority:
                assert got[other.source] <= 0.1, "nobody is served while a higher one wants more"
            if short and other.priority == demand.priority:
                assert got[other.source] <= max(got[demand.source], 0.1) + 1e-6, "nobody gets more than an equal who wants more"


@given(RATE, DEMANDS)
@settings(max_examples=200, deadline=None)
def test_nothing_is_left_over_while_somebody_wants_more(rate, found):
    given_out = shares(rate, found)
    if any(share is not None for share in given_out.values()):
        got = sum(demand.fps if given_out[demand.source] is None else given_out[demand.source] for demand in found)
        assert got >= rate - 0.1 * len(found) - 1e-6
