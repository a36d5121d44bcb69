"""The budget on the status screen: what is known, why the pace is what it is, and what was done; never a made-up 0."""

import re

import msgspec
import pytest

from agent.snapshot import GovernorView, LimitView, MemoryView, OrderView, ReadingView, SpentView, StepView
from tests.unit.cli.test_screen import camera, drawn, position, snapshot

UNSET = {name: LimitView(limit=None, reading=None, unit=unit, enforced=True)
         for name, unit in (("rate", "frames/s"), ("memory", "bytes"), ("watts", "W"), ("celsius", "C"))}


def limits(**each):
    return {name: msgspec.structs.replace(view, **each.get(name, {})) for name, view in UNSET.items()}


def order(rate=12.34, tier="640x640 int8", batch=2):
    return OrderView(tier=tier, batch=batch, rate=rate)


def reading(**changes):
    return ReadingView(**{**dict(
        telemetry="jtop 7.2.2", age_s=0.1, watts=8.9, measures="VDD_IN", celsius=61.0, hottest="tj-thermal", gpu_load=0.5,
        rails={"VDD_IN": 8.9, "VDD_SOC": 1.5}, zones={"tj-thermal": 61.0, "cpu-thermal": 59.5}, alarms=[], events={"oc1": 0}, trouble=""), **changes})


def memory(**changes):
    return MemoryView(**{**dict(
        resident=300_000_000, children=0, device=200_000_000, total=500_000_000, available=2_000_000_000, limit=None, limit_of="", used=None,
        pressure=0.0, given_up=[], why="", leak=""), **changes})


def step(number, before=None, after=None, kind="step", reason="because"):
    return StepView(at=1_790_000_000.0 + number, kind=kind, before=before or order(30.0), after=after or order(), reason=reason,
                    watts=9.3, celsius=61.0, memory=None)


def governor(**changes):
    return GovernorView(**{**dict(
        policy="max_fps", order=order(), why="8.90 W of 9 W", since_s=7.2, quiet="", blind=False, table="fit, measured 2026-03-14", shares={},
        reading=reading(), memory=memory(), frames_per_joule=1.234, steps=[], count=0, spent=[
            SpentView(name="640x640 int8, batch 2", seconds=90.0, frames=900.0, frames_per_joule=1.2),
            SpentView(name="paused", seconds=10.0, frames=0.0, frames_per_joule=0.0)]), **changes})


def told(width=300, height=None, sources=(), budget=None, **changes):
    view = snapshot(sources, budget=budget or limits(watts={"limit": 9.0, "reading": 8.9}), governor=governor(**changes))
    return drawn(view, width=width, height=height)


def line(lines, start):
    return lines[position(lines, start)].rstrip()


def test_without_a_limit_and_a_step_there_is_one_line():
    lines = told(budget=limits(watts={"reading": 5.1}, rate={"reading": 0.0}))
    assert line(lines, "budget") == "budget    no limit set: watts 5.1 W, celsius unknown, memory unknown, rate 0.0 fps"
    for start in ("pace", "sensors", "memory", "points", "time at", "step"):
        assert not any(each.startswith(start) for each in lines), start


def test_a_step_without_a_limit_shows_all_of_it():
    lines = told(budget=UNSET, steps=[step(0, kind="memory")], count=1)
    for start in ("pace", "sensors", "memory", "points", "time at", "step at"):
        assert position(lines, start)


@pytest.mark.parametrize(("view", "says"), [
    (dict(watts={"limit": 9.0, "reading": 8.94}), "watts 8.9 of 9 W,"),
    (dict(watts={"limit": 9.0}), "watts unknown of 9 W,"),
    (dict(watts={"limit": 9.0, "reading": 8.0, "enforced": False}), "watts 8.0 of 9 W (shown only),"),
    (dict(celsius={"limit": 85.0, "reading": 0.0}), "celsius 0.0 of 85 °C,"),
    (dict(memory={"limit": 6e8, "reading": 1.4e8}), "memory 140.0 of 600.0 MB,"),
    (dict(memory={"limit": 1.8e9, "reading": 6e8}), "memory 600.0 MB of 1.8 GB,"),
    (dict(memory={"limit": 6e8}), "memory unknown of 600.0 MB,"),
    (dict(rate={"limit": 10.0, "reading": 9.5}), "rate 9.5 of 10 fps"),
    (dict(watts={"limit": 0.0, "reading": 1.0}), "watts 1.0 of 0 W,"),
])
def test_each_limit_with_its_reading(view, says):
    assert says in line(told(budget=limits(**view)), "budget")


@pytest.mark.parametrize(("changes", "says"), [
    ({}, "pace      12.3 fps, 640x640 int8, batch 2, for 7 s: 8.90 W of 9 W"),
    ({"order": order(None), "why": "start"}, "pace      unpaced, 640x640 int8, batch 2, for 7 s"),
    ({"order": order(0.0), "since_s": 0.3}, "pace      paused, 640x640 int8, batch 2, for less than 1 s: 8.90 W of 9 W"),
    ({"quiet": "22:00-06:00"}, "pace      12.3 fps, 640x640 int8, batch 2, for 7 s (quiet hours 22:00-06:00): 8.90 W of 9 W"),
    ({"policy": "min_energy"}, "pace      12.3 fps, 640x640 int8, batch 2, for 7 s (policy min_energy): 8.90 W of 9 W"),
    ({"blind": True, "why": "no watts: a; b\nc; the safest"}, "pace      blind, 12.3 fps, 640x640 int8, batch 2, for 7 s: no watts: a"),
])
def test_the_pace_since_when_and_why(changes, says):
    assert line(told(**changes), "pace") == says


@pytest.mark.parametrize(("changes", "says"), [
    ({}, "sensors   jtop 7.2.2: watts of VDD_IN; hottest tj-thermal; GPU 50 % busy; VDD_SOC 1.50 W; cpu-thermal 59.5 °C"),
    ({"age_s": 2.6}, "sensors   jtop 7.2.2, last reading 3 s old: watts of VDD_IN; hottest tj-thermal"),
    ({"trouble": "the service is gone", "measures": "", "hottest": "", "rails": {}, "zones": {}, "gpu_load": None, "age_s": None},
     "sensors   jtop 7.2.2: the service is gone"),
    ({"trouble": "one rail\nis off", "gpu_load": None, "zones": {}},
     "sensors   jtop 7.2.2: one rail is off; watts of VDD_IN; hottest tj-thermal; VDD_SOC 1.50 W"),
    ({"events": {"oc1": 3}, "rails": {}, "zones": {}, "gpu_load": None},
     "sensors   jtop 7.2.2: watts of VDD_IN; hottest tj-thermal; since boot oc1 3"),
])
def test_who_reads_the_sensors_and_what_the_watts_are_of(changes, says):
    assert line(told(reading=reading(**changes)), "sensors") == says


def test_what_the_reason_says_already_is_not_said_twice():
    lines = told(blind=True, why="no watts: the rail is off; the safest known pace", reading=reading(trouble="the rail is off"))
    assert "off" not in line(lines, "sensors")


@pytest.mark.parametrize(("changes", "says"), [
    ({}, "memory    300.0 MB resident + 200.0 MB on the device = 500.0 MB; machine has 2.0 GB left"),
    ({"device": None, "total": 300_000_000}, "memory    300.0 MB resident; machine has 2.0 GB left"),
    ({"children": None, "device": None, "total": None, "available": None},
     "memory    300.0 MB resident; children unknown, all together unknown; machine has unknown left"),
    ({"device": None, "children": 5_000_000, "given_up": ["queues", "batch"], "leak": "x", "limit": 600_000_000, "used": 550_000_000,
      "pressure": 12.34, "total": 305_000_000},
     ("memory    300.0 MB resident; children 5.0 MB, all together 305.0 MB; gave up queues, batch; grows steadily; control group 550.0 MB of 600.0 MB; "
      "12.3 % of the time short of it; machine has 2.0 GB left")),
])
def test_the_memory_apart_and_together(changes, says):
    assert line(told(memory=memory(**changes)), "memory") == says


def test_a_gpu_that_tells_nothing_of_its_memory_is_unknown():
    engine = msgspec.structs.replace(snapshot().engine, provider="CUDAExecutionProvider")
    lines = drawn(snapshot(engine=engine, budget=limits(watts={"limit": 9.0}), governor=governor(memory=memory(device=None))), width=200)
    assert "300.0 MB resident + unknown on the device" in line(lines, "memory")


def test_points_energy_and_the_time_at_each_way():
    lines = told()
    assert line(lines, "points") == "points    fit, measured 2026-03-14; frames per joule 1.23 in the last minute"
    assert line(lines, "time at") == "time at   640x640 int8, batch 2: 90 s (90 %, 1.20 frames/J); paused: 10 s (10 %)"
    unknown = told(frames_per_joule=None, spent=[])
    assert line(unknown, "points").endswith("frames per joule unknown")
    assert not any(each.startswith("time at") for each in unknown)


@pytest.mark.parametrize(("before", "after", "says"), [
    (order(30.0), order(12.34), "30 -> 12.3 fps"), (order(None), order(12.34), "unpaced -> 12.3 fps"), (order(12.0), order(0.0), "12 fps -> paused"),
    (order(0.0), order(1.0), "paused -> 1 fps"), (order(12.0), order(None), "12 fps -> unpaced"), (order(12.0), order(12.0), "12 fps"),
    (order(12.0, batch=4), order(9.0), "640x640 int8, batch 4, 12 fps -> 640x640 int8, batch 2, 9 fps"),
])
def test_a_step_says_what_changed_in_few_words(before, after, says):
    lines = told(steps=[step(0, before, after)], count=1)
    row = line(lines, "step at") and lines[position(lines, "step at") + 1]
    assert re.split(r"\s{2,}", row.rstrip())[1:] == ["step", says, "because"]


def test_steps_stand_newest_first_and_all_are_counted():
    lines = told(steps=[step(n, reason=f"reason {n}") for n in range(10)], count=23)
    rows = lines[position(lines, "23 steps") + 1:]
    assert [row.split()[-1] for row in rows] == [str(n) for n in reversed(range(10))]


def test_what_a_source_may_have_is_shown_where_priorities_decide():
    lines = told(sources=[camera("gate"), camera("yard"), camera("door")], shares={"gate": 9.0, "yard": 0.0})
    assert "may have" in line(lines, "source")
    assert "9 fps" in line(lines, "gate")
    assert "shed" in line(lines, "yard")
    assert "all" in line(lines, "door")
    assert "may have" not in line(told(sources=[camera("gate")]), "source")


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize("problems", [0, 1, 9])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_it_is_never_taller_than_the_terminal(width, problems, count):
    view = snapshot([camera(f"gate-{n}") for n in range(count)], problems=["p" * 200] * problems, budget=limits(watts={"limit": 9.0}),
                    governor=governor(steps=[step(n, reason="long " * 50) for n in range(10)], count=10, why="why " * 50))
    for height in range(16, 70):
        lines = drawn(view, width=width, height=height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert any(each.startswith("budget") for each in lines)
        assert any(each.startswith("gate-") for each in lines)


def test_on_a_small_terminal_the_newest_steps_are_kept_and_the_stages_give_way():
    changes = dict(sources=[camera("gate")], steps=[step(n, reason=f"reason {n}") for n in range(10)], count=10, width=80)
    small, large = told(height=24, **changes), told(height=32, **changes)
    assert "reason 9" in "\n".join(small)
    assert not any(each.startswith("latency") for each in small)
    assert any(each.startswith("latency") for each in large)
    assert "reason 9" in "\n".join(large)
    assert "reason 0" in "\n".join(told(height=40, **changes))
    for height in (16, 24, 32):
        lines = told(height=height, **changes)
        assert position(lines, "budget") < position(lines, "pace") < position(lines, "source")
