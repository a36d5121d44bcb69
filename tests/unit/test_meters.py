import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.meters import Heartbeat, Histogram, Rate, SourceMeter


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@given(st.lists(st.floats(2e-5, 90), min_size=1, max_size=300))
def test_percentiles_are_right_to_a_bucket(values):
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    figures = histogram.recent()
    assert figures.count == len(values)
    assert figures.longest == max(values)
    for quantile, got in ((50, figures.p50), (95, figures.p95), (99, figures.p99)):
        true = float(np.percentile(values, quantile, method="inverted_cdf"))
        assert got == pytest.approx(true, rel=0.026)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1, max_value=1e6))
def test_any_duration_is_taken(value):
    histogram = Histogram()
    histogram.record(value)
    assert histogram.recent().count == 1


def test_old_durations_leave_and_totals_stay():
    clock = Clock()
    histogram = Histogram(clock)
    histogram.record(1.0)
    assert histogram.recent().count == 1
    clock.now += 61
    histogram.record(0.001)
    assert histogram.recent().count == 2
    clock.now += 61
    histogram.record(0.001)
    figures = histogram.recent()
    assert (figures.count, figures.longest) == (2, 0.001)
    clock.now += 60
    assert histogram.recent().count == 1, "the older window has left, though nothing new came"
    clock.now += 500
    assert histogram.recent().count == 0
    assert histogram.recent().p50 is None
    histogram.record(0.002)
    assert histogram.recent().count == 1
    assert histogram.count == 4


def test_rate_counts_the_last_seconds_only():
    clock = Clock()
    rate = Rate(span_s=5, clock=clock)
    for _ in range(50):
        clock.now += 0.1
        rate.add()
    assert rate.per_second() == pytest.approx(10, rel=0.11)
    clock.now += 60
    assert rate.per_second() == 0


def test_heartbeat_is_stale_after_its_limit():
    clock = Clock()
    beat = Heartbeat("x", 5, clock)
    clock.now += 4
    assert beat.fresh()
    clock.now += 2
    assert not beat.fresh()
    beat.beat()
    assert beat.fresh()


def test_source_meter_adds_up():
    meter = SourceMeter()
    for _ in range(5):
        meter.saw()
    meter.skip("busy", 3)
    meter.skip("frozen")
    meter.did()
    assert meter.seen == meter.processed + sum(meter.skipped().values()) == 5
