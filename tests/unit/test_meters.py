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


@given(st.floats(0, 1000), st.integers(5, 60))
def test_rate_is_right_at_every_moment(begin, per_second):
    clock = Clock()
    clock.now = begin
    rate = Rate(span_s=5, clock=clock)
    for count in range(per_second * 12):
        clock.now = begin + (count + 1) / per_second
        rate.add()
        if clock.now > begin + 6:
            # One event more or less lies in the span, depending on where it is cut.
            assert rate.per_second() == pytest.approx(per_second, abs=0.21 + 1e-6)
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
