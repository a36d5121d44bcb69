"""What watts and degrees allow, from what was learned so far."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.power.caps import Heat, Power, rate_for_watts

FLOATS = {"allow_nan": False, "allow_infinity": False}


def learned(readings, known=None, power=None, dt_s=0.5):
    power = power or Power()
    for watts, fps in readings:
        power = power.followed(watts, fps, known, dt_s)
    return power


@given(st.lists(st.tuples(st.floats(0.0, 200.0, **FLOATS), st.floats(0.0, 500.0, **FLOATS), st.floats(0.001, 2.0)), min_size=1, max_size=60),
       st.one_of(st.none(), st.floats(0.001, 5.0)), st.floats(0.5, 100.0))
@settings(max_examples=200, deadline=None)
def test_whatever_is_measured_the_figures_stay_figures(readings, known, limit):
    power = Power()
    for watts, fps, dt_s in readings:
        power = power.followed(watts, fps, known, dt_s)
        assert power.base >= 0.0
        assert all(math.isfinite(value) and value >= 0.0 for value in (power.rate, power.joules, power.variance, power.mean, power.settled_s))
        assert 0.006 * limit <= power.margin(limit) <= 0.15 * limit
        assert not math.isnan(rate_for_watts(power, limit, watts))


def test_the_base_is_what_remains_when_the_frames_are_taken_off():
    power = learned([(8.0, 10.0)] * 40, known=0.3)
    assert power.base == pytest.approx(5.0)
    assert rate_for_watts(power, 11.0, 8.0) == pytest.approx((11.0 - 5.0 - power.margin(11.0)) / 0.3)
    power = learned([(10.0, 10.0)] * 20, known=0.3, power=power)
    assert power.base == pytest.approx(7.0, abs=0.02), "a neighbour came"


def test_without_a_table_the_cost_is_learned_and_begins_with_a_small_part_of_the_power():
    power = learned([(8.0, 10.0)])
    assert 0.15 * 8.0 <= power.joules * 10.0 <= 0.30 * 8.0
    assert learned([(8.0, 10.0)] * 20, power=power).joules == power.joules, "one rate teaches nothing"
    power = learned([(8.0, 10.0)] * 20, power=power)
    power = learned([(14.0, 30.0)] * 80, power=power)
    assert power.low[0] == pytest.approx(10.0, rel=0.01)
    assert power.joules == pytest.approx(0.3, rel=0.05)
    assert power.base == pytest.approx(5.0, abs=0.3)


def test_the_lowest_rate_counts_only_when_it_was_held():
    power = learned([(8.0, 10.0)] * 20)
    assert learned([(6.0, 3.0)], power=power).low == power.low
    low = learned([(6.0, 3.0)] * 60, power=power).low
    assert low == (pytest.approx(3.0, rel=0.05), pytest.approx(6.0, rel=0.05))


def test_a_reading_above_the_limit_counts_in_full_at_once_and_one_below_does_not():
    power = learned([(8.0, 10.0)] * 40, known=0.3)
    before = rate_for_watts(power, 9.0, 8.0)
    assert rate_for_watts(power, 9.0, 9.5) == pytest.approx(10.0 - (0.5 + power.margin(9.0)) / 0.3)
    assert rate_for_watts(power, 9.0, 8.9) == before
    assert rate_for_watts(power, 9.0, 6.0) == before


def test_nothing_allowed_is_told_as_less_than_nothing():
    power = learned([(12.0, 0.0)] * 40, known=0.3)
    assert rate_for_watts(power, 10.0, 12.0) < 0.0


def test_a_sensor_that_says_nothing_but_zero_allows_any_rate():
    assert rate_for_watts(learned([(0.0, 10.0)] * 5), 5.0, 0.0) == math.inf
    assert rate_for_watts(Power(base=6.0), 5.0, 5.0) == 0.0


def test_the_margin_is_the_noise_of_the_load():
    r = random.Random(1)
    quiet, noisy = learned([(10.0, 10.0)] * 200, known=0.3), learned([(10.0 + r.gauss(0, 0.15), 10.0) for _ in range(200)], known=0.3)
    assert quiet.margin(10.0) == pytest.approx(0.06), "the least"
    assert noisy.margin(10.0) == pytest.approx(2.6 * 0.15, rel=0.35)
    assert learned([(10.0, 10.0)]).margin(10.0) == pytest.approx(2.6 * 0.08), "until it is measured"
    wild = learned([(10.0 + r.gauss(0, 3.0), 10.0) for _ in range(200)], known=0.3)
    assert wild.margin(10.0) == pytest.approx(1.5), "the most"


def test_waves_slower_than_the_base_are_noise_too():
    waves = learned([(10.0 + 0.3 * math.sin(n / 4), 10.0) for n in range(400)], known=0.3)  # one takes 12 s
    assert waves.margin(10.0) >= 0.3, "they are 0.3 W high"


def test_what_the_rate_does_to_the_power_is_no_noise():
    quiet = learned([(8.0, 10.0)] * 100, known=0.3)
    rising = [10.0 * 1.01 ** n for n in range(120)]  # 2 % a second: to 33 fps in a minute
    climbed = learned([(5.0 + 0.3 * fps, fps) for fps in rising], known=0.3, power=quiet)
    assert climbed.settled_s == 0.0
    assert climbed.margin(10.0) < 0.2
    there = learned([(5.0 + 0.3 * rising[-1], rising[-1])] * 60, known=0.3, power=climbed)
    assert there.settled_s > 15.0
    assert there.margin(10.0) < 0.2


def test_a_cost_that_was_learned_stays_when_the_rate_comes_back_to_the_lowest_one():
    power = learned([(14.0, 30.0)] * 80, power=learned([(8.0, 10.0)] * 20))
    for _ in range(20):
        power = learned([(8.0, 10.0)], power=power)
    assert power.joules == pytest.approx(0.3, rel=0.1)


def test_a_cost_is_never_taken_for_nothing_and_never_for_more_than_all():
    low = learned([(8.0, 10.0)] * 20)
    for watts in (1.0, 8.0, 8.001, 500.0):
        power = learned([(watts, 30.0)] * 200, power=low)
        assert 0.15 * watts * 0.99 <= power.joules * 30.0 <= watts * 1.01


def test_a_neighbour_that_comes_is_no_noise():
    power = learned([(10.0, 10.0)] * 100, known=0.3)
    for _ in range(100):
        power = learned([(13.0, 10.0)], known=0.3, power=power)
        assert power.variance < 1.2, "of 3 W a tenth of the power counts"
    assert power.variance < 0.3, "and not for long"


# Degrees --------------------------------------------------------------------------------------------------------------


def heated(readings, limit=70.0, fps=10.0, heat=None, dt_s=0.5):
    heat = heat or Heat()
    for celsius in readings:
        heat = heat.followed(celsius, limit, fps, dt_s)
    return heat


@given(st.lists(st.tuples(st.floats(-40.0, 130.0), st.floats(0.2, 500.0), st.floats(0.001, 2.0)), min_size=1, max_size=60), st.floats(30.0, 100.0))
@settings(max_examples=200, deadline=None)
def test_the_cap_is_a_figure_and_never_far_ahead_of_what_is_served(readings, limit):
    heat = Heat()
    for celsius, fps, dt_s in readings:
        heat = heat.followed(celsius, limit, fps, dt_s)
        assert 0.0 <= heat.cap <= 2.5 * fps * (1 + 1e-9)
        if celsius >= limit:
            assert heat.cap <= 0.7 * fps * (1 + 1e-9)


def test_far_below_the_limit_the_rate_may_grow_and_near_it_only_slowly():
    far, near = heated([40.0] * 20), heated([68.0] * 20)
    assert far.cap == pytest.approx(25.0)
    assert near.cap < 15.0
    assert heated([69.5] * 40).cap < 10.0, "above what is aimed at it falls"


def test_a_board_that_heats_up_fast_is_held_back_earlier():
    slow, fast = (heated([60.0 + k * n for n in range(14)]) for k in (0.02, 0.5))
    assert fast.slope > slow.slope > 0
    assert fast.cap < 10.0 < slow.cap


def test_the_slope_is_in_kelvin_per_second():
    assert heated([40.0 + 0.1 * n for n in range(200)]).slope == pytest.approx(0.2, rel=0.05)
    assert heated([40.0] * 50).slope == 0.0
    assert Heat().slope == 0.0


def test_nothing_but_the_first_reading_at_the_limit_is_enough():
    assert heated([70.0]).cap == 7.0
    assert heated([69.9]).cap == 10.0


def test_frames_that_were_not_counted_yet_are_not_taken_for_dear_ones():
    power = learned([(8.0, 0.0)] + [(8.0, 1.0)] * 10, known=None)
    assert power.joules <= 2 * 0.15 * 8.0 / 1.0, "nothing counted in the first moment is no price"
