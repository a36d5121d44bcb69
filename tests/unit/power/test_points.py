"""Tables of operating points: ways, lines, fronts, and whether a table still speaks for the box."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.power.points import Point, Table, Tier, Way, misfits, pareto, ways

BIG = Tier(name="640x640 fp16", identity="a" * 16, form="fp16", height=640, width=640, max_batch=4)
SMALL = Tier(name="320x320 fp16", identity="b" * 16, form="fp16", height=320, width=320, max_batch=4)


def point(fps, watts=None, tier=BIG, batch=1, **more):
    return Point(tier=tier.name, batch=batch, asked=None, fps=fps, p50_ms=1.0, p99_ms=2.0, watts=watts,
                 **{"resident_bytes": 100, "device_bytes": None, **more})


def table(*points, **changes):
    return Table(**{"recipe": "r", "tiers": [BIG, SMALL], "points": list(points), "idle_watts": 4.0, "telemetry": "sysfs", "measures": "VDD_IN",
                    "power_mode": "15W (0)", "clocks": "schedutil", "at": 1.0, "took_s": 60.0, "complete": True, "seconds": 5.0,
                    "runs_on": "tensorrt 10.3", **changes})


def test_a_way_is_a_line_through_its_points():
    way, = ways(table(point(10.0, 8.0), point(20.0, 11.0), point(30.0, 14.0)))
    assert way == Way(tier="640x640 fp16", batch=1, rank=0, capacity=30.0, base=pytest.approx(5.0), joules=pytest.approx(0.3), bytes=100)


def test_ways_come_most_wanted_tier_first_and_small_batches_first():
    found = ways(table(point(1.0, tier=SMALL, batch=4), point(1.0, batch=4), point(1.0, tier=SMALL), point(1.0)))
    assert [(way.tier, way.batch, way.rank) for way in found] == [
        (BIG.name, 1, 0), (BIG.name, 4, 0), (SMALL.name, 1, 1), (SMALL.name, 4, 1)]


@pytest.mark.parametrize("points", [
    [point(10.0, 8.0)], [point(10.0), point(20.0)], [point(10.0, 8.0), point(10.0, 9.0)], [point(10.0, 8.0), point(20.0, 8.0)],
    [point(10.0, 9.0), point(20.0, 8.0)], [point(10.0, 8.0), point(20.0)]])
def test_without_two_rates_and_a_rise_nothing_is_said_about_the_cost(points):
    way, = ways(table(*points))
    assert (way.base, way.joules) == (None, None)
    assert way.capacity == max(each.fps for each in points)


def test_memory_is_the_most_that_was_seen_and_unknown_where_nobody_looked():
    way, = ways(table(point(1.0, device_bytes=50), point(2.0, resident_bytes=120), point(3.0, resident_bytes=None)))
    assert way.bytes == 150
    way, = ways(table(point(1.0, resident_bytes=None)))
    assert way.bytes is None


@given(st.floats(0.1, 20.0), st.floats(0.01, 3.0), st.lists(st.floats(0.5, 200.0), min_size=2, max_size=8, unique=True))
@settings(max_examples=100, deadline=None)
def test_points_on_a_line_give_that_line(base, joules, rates):
    if max(rates) - min(rates) < 0.5:
        return
    way, = ways(table(*(point(rate, base + joules * rate) for rate in rates)))
    assert way.joules == pytest.approx(joules, rel=1e-4)
    assert way.base == pytest.approx(base, abs=1e-3 * (base + joules * 200))


@given(st.lists(st.tuples(st.floats(1.0, 100.0), st.one_of(st.none(), st.floats(1.0, 50.0))), max_size=12))
@settings(max_examples=200, deadline=None)
def test_the_front_holds_exactly_what_nothing_beats(figures):
    points = [point(fps, watts) for fps, watts in figures]
    front = pareto(points)
    assert [each.watts for each in front] == sorted(each.watts for each in front)
    assert [each.fps for each in front] == sorted({each.fps for each in front})
    for each in points:
        beaten = any(other.watts is not None and each.watts is not None and other.watts <= each.watts and other.fps >= each.fps
                     and (other.watts, other.fps) != (each.watts, each.fps) for other in points)
        same = [(other.fps, other.watts) for other in front]
        assert ((each.fps, each.watts) in same) == (each.watts is not None and not beaten)


def test_derived_figures_are_unknown_where_a_part_is():
    assert point(10.0, 8.0).above(5.0) == 3.0
    assert point(10.0, 8.0).above(None) is None
    assert point(10.0).above(5.0) is None
    assert point(10.0, 8.0).frames_per_joule == 1.25
    assert point(10.0).frames_per_joule is None
    assert point(10.0, 0.0).frames_per_joule is None


@pytest.mark.parametrize(("then", "now", "why"), [
    ({}, {}, None),
    ({"complete": False}, {}, "its measuring was interrupted"),
    ({"tiers": [SMALL]}, {}, "the tier 640x640 fp16 was not measured"),
    ({}, {"tiers": [SMALL]}, None),
    ({}, {"tiers": [msgspec.structs.replace(BIG, identity="c" * 16)]}, "the engine of 640x640 fp16 is another one now (aaaaaaaaaaaaaaaa then, cccc"),
    ({}, {"power_mode": "MAXN (1)"}, "the power mode was '15W (0)' and is 'MAXN (1)'"),
    ({}, {"power_mode": None}, None), ({"power_mode": None}, {}, None),
    ({}, {"clocks": "jetson_clocks"}, "the ruling of the clocks was 'schedutil' and is 'jetson_clocks'"),
    ({}, {"measures": "GPU"}, "what the watts are of was 'VDD_IN' and is 'GPU'"),
    ({}, {"runs_on": "tensorrt 10.7"}, "what runs the engines was 'tensorrt 10.3' and is 'tensorrt 10.7'")])
def test_a_table_of_another_box_or_day_is_told_apart(then, now, why):
    found = misfits(table(**then), table(complete=False, **now) if "complete" not in now else table(**now))
    assert bool(found) == bool(why)
    assert not why or why in found[0]
    assert len(found) <= 1


def test_a_table_is_read_back_as_it_was_written():
    before = table(point(10.0, 8.0), point(20.0))
    assert msgspec.json.decode(msgspec.json.encode(before), type=Table) == before
