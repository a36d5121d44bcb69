"""What is a leak and what only looks like one, on made series."""

import math
import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.power.leak import LeakWatch, inflation, mann_kendall, theil_sen

MB = 1_000_000.0
HOUR = 3600


def alarms(size, seconds, limit=None, watch=None, start=0):
    """Return time and leak of each alarm of ``size``, a function of the time in seconds."""
    watch = watch or LeakWatch(limit)
    return [(t, leak) for t in range(start, start + seconds, 10) if (leak := watch.add(float(t), int(size(t))))]


def growing(mb_a_minute, seed=1, noise=2 * MB, base=200 * MB):
    rng = random.Random(seed)
    return lambda t: base + mb_a_minute * MB * t / 60 + rng.gauss(0, noise)


@pytest.mark.parametrize("values", [[], [1], [5] * 30, [1, 1]])
def test_what_does_not_differ_has_no_trend(values):
    assert mann_kendall(values) == (0.0, 1.0)


def test_mann_kendall_by_hand():
    """Eight rising values: S = 28, Var = 8*7*21/18 = 65.33, Z = 27/8.083; with a tie of two S = 27, Var = 64.33."""
    z, p = mann_kendall(range(8))
    assert z == pytest.approx(27 / math.sqrt(8 * 7 * 21 / 18))
    assert p == pytest.approx(0.000837, rel=1e-2)
    assert mann_kendall(range(8, 0, -1)) == (-z, p)
    assert mann_kendall([0, 1, 2, 3, 3, 5, 6, 7])[0] == pytest.approx(26 / math.sqrt((8 * 7 * 21 - 2 * 1 * 9) / 18))
    assert mann_kendall(range(8), inflated_by=4.0)[0] == pytest.approx(z / 2)


def test_mann_kendall_is_significant_as_often_as_it_says():
    rng = random.Random(3)
    found = sum(mann_kendall([rng.gauss(0, 1) for _ in range(30)])[1] < 0.05 for _ in range(2000))
    assert 60 < found < 140


def test_theil_sen_by_hand_and_with_wild_points():
    assert theil_sen([(0, 1.0), (1, 3.0), (2, 5.0)]) == 2.0
    assert theil_sen([(5, 1.0), (5, 3.0)]) == 0.0
    assert theil_sen([]) == 0.0
    line = [(t, 2.0 * t) for t in range(30)]
    for wild in (3, 11, 12, 25):
        line[wild] = (wild, 1e9)
    assert theil_sen(line) == pytest.approx(2.0)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_inflation_is_never_below_one(values):
    assert 1.0 <= inflation(values) <= 2 * len(values)


def test_neighbours_that_depend_on_each_other_inflate():
    rng = random.Random(2)
    x, walk = 0.0, []
    for _ in range(400):
        x = 0.8 * x + rng.gauss(0, 1)
        walk.append(x)
    assert inflation(walk) == pytest.approx(9.0, rel=0.35), "(1 + 0.8) / (1 - 0.8)"
    assert inflation([rng.gauss(0, 1) for _ in range(400)]) < 1.3


@pytest.mark.parametrize(("pace", "within_min"), [(10, 26), (1, 26), (0.1, 90)])
def test_a_leak_is_told_once_with_its_pace(pace, within_min):
    found = alarms(growing(pace), 4 * HOUR)
    assert len(found) == 1
    at_s, leak = found[0]
    assert at_s / 60 <= within_min
    assert leak.slope_bytes_per_s * 60 / MB == pytest.approx(pace, rel=0.4)
    assert leak.projected_s is None
    assert "limit" not in leak.words
    assert leak.since_s <= at_s - 1200


def test_it_is_told_again_each_time_what_is_left_has_halved():
    found = alarms(growing(1), 390 * 60, limit=int(600 * MB))
    left = [leak.projected_s for _, leak in found]
    assert left[0] == pytest.approx(375 * 60, rel=0.05)
    assert 5 <= len(left) <= 12
    assert all(later <= before / 2 for before, later in pairwise(left))
    assert found[0][1].words.startswith("memory grew by 0.98 MB a minute for 23 minutes, to 223 MB")
    assert found[0][1].words.endswith(": at this pace the limit of 600 MB is reached in 6 hours")


def test_a_limit_that_is_near_does_not_wait_for_the_whole_window():
    found = alarms(growing(30), 1800, limit=int(900 * MB))
    assert found[0][0] <= 600
    assert 600 < found[0][1].projected_s < 1200
    assert alarms(growing(30), 1200) == []


def test_above_the_limit_nothing_is_left():
    assert alarms(growing(1), 1800, limit=int(100 * MB))[0][1].projected_s == 0.0


def test_a_leak_that_ended_is_told_anew_when_it_returns():
    watch = LeakWatch(None)
    assert len(alarms(growing(1), 2 * HOUR, watch=watch)) == 1
    assert alarms(lambda t: 320 * MB, 7 * HOUR, watch=watch, start=2 * HOUR) == []
    assert len(alarms(lambda t: 320 * MB + (t - 9 * HOUR) * MB / 60, HOUR, watch=watch, start=9 * HOUR)) == 1


def test_what_was_told_stays_told_over_a_restart():
    watch = LeakWatch(None)
    assert len(alarms(growing(10), 1800, watch=watch)) == 1
    watch.restart()
    assert alarms(growing(10), 2 * HOUR, watch=watch, start=1800) == []


def test_the_first_minutes_after_a_start_and_a_swap_do_not_count():
    def warming(t):
        return (200 if t % HOUR > 110 else 100 + t % HOUR) * MB

    watch = LeakWatch(int(250 * MB))
    assert alarms(warming, HOUR, watch=watch) == []
    watch.restart()
    assert alarms(warming, HOUR, watch=watch, start=HOUR) == []

    watch = LeakWatch(None)
    alarms(warming, 300, watch=watch)
    assert watch._samples[0][0] == 120
    watch.restart()
    alarms(warming, 300, watch=watch, start=1000)
    assert watch._samples[0][0] == 1120


def test_a_leak_in_even_steps_is_found_though_neighbours_depend_on_each_other():
    assert len(alarms(lambda t: 200 * MB + 3 * MB * (t // 150), HOUR)) == 1


def test_what_levels_off_within_the_window_is_none():
    def filling(t):
        return (200 + 100 * (1 - math.exp(-t / 420))) * MB

    assert alarms(filling, 2 * HOUR) == []
    assert mann_kendall([filling(t) for t in range(120, 1320, 40)])[1] < 1e-9, "the trend as such is significant"


def noisily_filling(seed):
    rng = random.Random(seed)
    return lambda t: 200 * MB + 8 * MB * (1 - math.exp(-t / 420)) + rng.gauss(0, MB / 2)


def test_what_levels_off_below_noise_is_none():
    assert [seed for seed in range(20) if alarms(noisily_filling(seed), HOUR)] == []


def test_a_fast_leak_is_found_below_slow_swings():
    assert len(alarms(lambda t: (200 + 5 * t / 60 + 2 * math.sin(t / 140)) * MB, 2 * HOUR)) == 1


@pytest.mark.parametrize("phase", range(0, 1000, 100))
def test_a_saw_whose_teeth_last_minutes_is_none(phase):
    assert alarms(lambda t: (200 + 50 * ((t + phase) % 1000) / 1000) * MB, 4 * HOUR) == []


def test_samples_that_come_too_often_or_from_the_past_are_left_out():
    watch = LeakWatch(None)
    for t in range(3000):
        watch.add(float(t), 5)
    watch.add(100.0, 10**12)
    assert len(watch._samples) <= 180
    assert all(later[0] - before[0] >= 9.5 for before, later in pairwise(watch._samples))


def test_a_pause_of_an_hour_leaves_no_old_samples():
    watch = LeakWatch(None)
    alarms(growing(1), 1800, watch=watch)
    assert watch.add(9000.0, 10**9) is None
    assert len(watch._samples) == 1


def leak_free(kind, rng):
    base, sd = rng.uniform(100, 900) * MB, rng.uniform(0.05, 4) * MB
    height, period, phase = rng.uniform(1, 60) * MB, rng.uniform(20, 600), rng.uniform(0, 900)
    steps = [(rng.uniform(0, 7200), rng.uniform(1, 60) * MB) for _ in range(rng.randint(1, 3))]
    phi, walk = rng.uniform(0.5, 0.98), [0.0]

    def neighbours():
        walk[0] = phi * walk[0] + rng.gauss(0, sd * math.sqrt(1 - phi * phi))
        return walk[0]

    return {
        "flat": lambda t: base,
        "noise": lambda t: base + rng.gauss(0, sd),
        "slow noise": lambda t: base + neighbours(),
        "saw": lambda t: base + height * ((t + phase) % period) / period + rng.gauss(0, sd / 4),
        "steps": lambda t: base + sum(more for at_s, more in steps if t >= at_s) + rng.gauss(0, sd / 4),
        "filling": lambda t: base + 3 * height * (1 - math.exp(-2 * t / period)) + rng.gauss(0, sd / 4),
        "ramp": lambda t: base + 3 * height * min(1, t / period) + rng.gauss(0, sd / 4),
        "swing": lambda t: base + height / 3 * math.sin(4.2 * t / period + phase) + rng.gauss(0, sd / 4),
        "falling": lambda t: base - 0.01 * MB * t / 60 + rng.gauss(0, sd),
    }[kind]


KINDS = ["flat", "noise", "slow noise", "saw", "steps", "filling", "ramp", "swing", "falling"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_looks_like_a_leak_is_none(kind):
    false = sum(bool(alarms(leak_free(kind, random.Random(f"{kind}{n}")), 2 * HOUR)) for n in range(12))
    assert false == 0


@pytest.mark.slow
def test_of_a_thousand_series_of_two_hours_without_a_leak_few_alarm():
    false = [kind for n in range(112) for kind in KINDS if alarms(leak_free(kind, random.Random(f"{kind}{n}")), 2 * HOUR)]
    assert len(false) <= 5, false


def test_a_sample_costs_little():
    watch, size = LeakWatch(None), growing(1)
    began = time.process_time()
    for t in range(0, 7200, 10):
        watch.add(float(t), int(size(t)))
    assert (time.process_time() - began) / 720 < 5e-3
