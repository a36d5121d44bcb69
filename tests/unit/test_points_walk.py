"""What is wanted, what holds, what is missing, and the walk; what measures is scripted."""

import math

import msgspec
import pytest

from agent.errors import ConfigError
from agent.measuring import Measurement
from agent.points_walk import Step, agenda, asked_for, carried_over, missing, walk
from agent.power.points import Point, Table, Tier


class Offered:
    def __init__(self, name="big", identity="a" * 16, most=1):
        self.tier = Tier(name=name, identity=identity, form="fp32", height=64, width=64, max_batch=most)


BIG, SMALL = Offered(), Offered("small", "b" * 16)
EMPTY = Table(recipe="r", tiers=[BIG.tier, SMALL.tier], points=[], idle_watts=1.0, telemetry="sysfs", measures="VDD_IN", power_mode=None,
              clocks="", at=0.0, took_s=0.0, complete=False, seconds=8.0, runs_on="here")
CAPACITY = {"big": 30.0, "small": 100.0 / 3}


def measurement(fps, watts=5.0, measures="VDD_IN"):
    return Measurement(calls=10, fps=fps, p50_ms=1.0, p99_ms=2.0, watts=watts, resident_bytes=10, grown_bytes=1, device_bytes=None, measures=measures, trouble="")


class Bench:
    def __init__(self, fail=lambda _step: "", **more):
        self.done, self.kept, self.told, self.fail, self.more = [], [], [], fail, more

    def measure(self, step, rate):
        self.done.append((step.offer.tier.name, step.batch, rate))
        return self.fail(step) or measurement(rate or CAPACITY[step.offer.tier.name] * step.batch, **self.more)

    def walk(self, table, steps):
        return walk(table, steps, self.measure, keep=self.kept.append, told=lambda number, step, found: self.told.append((number, found)))


@pytest.mark.parametrize(("most", "wanted", "batches"), [
    (1, (), [1]), (4, (), [1, 2, 4]), (6, (), [1, 2, 4, 6]), (4, (4, 1), [1, 4]), (4, (2, 2, 8), [2])])
def test_batches_are_powers_of_two_and_the_largest_unless_others_are_wanted(most, wanted, batches):
    assert [step.batch for step in agenda([Offered(most=most)], wanted, 0)] == batches


def test_each_way_is_first_measured_unpaced_then_at_equal_shares_tier_by_tier():
    steps = agenda([Offered(most=2), SMALL], (), 3)
    assert [(step.offer.tier.name, step.batch, step.share) for step in steps] == [
        (name, batch, share) for name, batch in (("big", 1), ("big", 2), ("small", 1)) for share in (None, 0.25, 0.5, 0.75)]
    assert steps[0].words == "big, batch 1, as fast as it goes"
    assert steps[5].words == "big, batch 2, at 25 % of its capacity"


def test_a_batch_no_engine_takes_is_told_with_the_largest():
    with pytest.raises(ConfigError, match="the largest is 1"):
        agenda([BIG], (8,), 3)


def test_the_walk_paces_by_the_capacity_it_found_and_keeps_each_point():
    bench = Bench()
    table, failures = bench.walk(EMPTY, agenda([BIG, SMALL], (), 3))
    assert bench.done == [("big", 1, None), ("big", 1, 7.5), ("big", 1, 15.0), ("big", 1, 22.5),
                          ("small", 1, None), ("small", 1, 8.333), ("small", 1, 16.67), ("small", 1, 25.0)]
    assert failures == []
    assert table.complete
    assert [len(kept.points) for kept in bench.kept] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert [kept.complete for kept in bench.kept] == [False] * 8 + [True]
    assert [number for number, _ in bench.told] == list(range(8))


@pytest.mark.parametrize("after", range(1, 9))
def test_an_interrupted_walk_goes_on_where_it_stopped_and_measures_nothing_twice(after):
    steps, first = agenda([BIG, SMALL], (), 3), Bench()
    whole, _ = first.walk(EMPTY, steps)
    stopped = msgspec.json.decode(msgspec.json.encode(first.kept[after - 1]), type=Table)  # as from the disk
    table, why = carried_over(stopped, EMPTY)
    assert why == []
    assert len(missing(table, steps)) == 8 - after
    second = Bench()
    again, _ = second.walk(table, steps)
    assert first.done[after:] == second.done
    assert again.points == whole.points
    assert again.complete


def test_what_fails_is_noted_its_paces_are_skipped_and_the_rest_is_measured():
    bench = Bench(fail=lambda step: "out of memory" if step.offer.tier.name == "big" and step.batch == 2 else "")
    table, failures = bench.walk(EMPTY, agenda([Offered(most=2), SMALL], (), 1))
    assert failures == ["big, batch 2, as fast as it goes: out of memory"]
    assert [(point.tier, point.batch) for point in table.points] == [("big", 1)] * 2 + [("small", 1)] * 2
    assert table.complete, "each tier has a way to go"
    assert bench.told[2] == (2, "out of memory")


def test_a_tier_of_which_nothing_is_known_leaves_the_table_incomplete():
    table, _ = Bench(fail=lambda step: "crashed" if step.offer is SMALL else "").walk(EMPTY, agenda([BIG, SMALL], (), 1))
    assert len(table.points) == 2
    assert not table.complete


def test_watts_of_something_else_are_unknown_to_the_table():
    table, failures = Bench(watts=300.0, measures="GPU").walk(EMPTY, agenda([BIG], (), 0))
    assert table.points[0].watts is None
    assert "of 'GPU', those before of 'VDD_IN'" in failures[0]
    table, failures = Bench(watts=300.0, measures="GPU").walk(msgspec.structs.replace(EMPTY, measures=""), agenda([BIG], (), 0))
    assert (table.points[0].watts, table.measures, failures) == (300.0, "GPU", [])


FULL = msgspec.structs.replace(Bench().walk(EMPTY, agenda([BIG, SMALL], (), 1)).table, idle_watts=3.0, took_s=9.0)
NOW = msgspec.structs.replace(EMPTY, idle_watts=None)


@pytest.mark.parametrize(("change", "words"), [
    ({"telemetry": "rapl"}, "the telemetry was 'sysfs' and is 'rapl'"), ({"seconds": 1.0}, "the time of a point was 8.0 and is 1.0"),
    ({"power_mode": "15W"}, "the power mode was None and is '15W'"), ({"clocks": "performance"}, "the ruling of the clocks was '' and is 'performance'"),
    ({"runs_on": "there"}, "what runs the engines was 'here' and is 'there'"), ({"measures": "GPU"}, "what the watts are of was 'VDD_IN' and is 'GPU'")])
def test_nothing_holds_when_what_all_points_share_is_another(change, words):
    table, why = carried_over(FULL, msgspec.structs.replace(NOW, **change))
    assert table.points == []
    assert why == [words]


def test_a_new_engine_takes_only_its_own_points_away():
    new = Offered("small", "c" * 16)
    table, why = carried_over(FULL, msgspec.structs.replace(NOW, tiers=[BIG.tier, new.tier]))
    assert {point.tier for point in table.points} == {"big"}
    assert table.idle_watts == 3.0
    assert not table.complete
    assert why == [f"the engine of small is another one now ({'b' * 16} then, {'c' * 16} now)"]
    assert [step.offer for step in missing(table, agenda([BIG, new], (), 1))] == [new, new]


def test_a_tier_that_is_gone_is_told_and_a_new_one_is_missing():
    tiny = Offered("tiny", "d" * 16)
    table, why = carried_over(FULL, msgspec.structs.replace(NOW, tiers=[BIG.tier, tiny.tier]))
    assert why == ["small is not among the tiers any more"]
    assert len(missing(table, agenda([BIG, tiny], (), 1))) == 2


def test_sensors_that_say_nothing_now_throw_nothing_away():
    table, why = carried_over(FULL, msgspec.structs.replace(NOW, measures=""))
    assert (why, len(table.points), table.measures) == ([], 4, "VDD_IN")


def test_the_asked_rate_survives_the_disk():
    for fps in (math.pi, 1e-3, 123456.789, 1 / 3):
        point = Point(tier="big", batch=1, asked=None, fps=fps, p50_ms=1.0, p99_ms=1.0)
        again = msgspec.json.decode(msgspec.json.encode(point), type=Point)
        assert asked_for(point, 0.75) == asked_for(again, 0.75) > 0


def test_steps_are_told_apart_by_batch_and_share():
    assert Step(BIG, 1, None) != Step(BIG, 2, None)
