"""What the snapshot says of the governor: limits beside fresh readings, problems only where a hand is needed."""

import json
import time
from types import SimpleNamespace

import msgspec
import pytest

from agent.assembly import budget_step, policy
from agent.budget_view import budget_problems, governor_view, limits_view
from agent.config import BudgetSection
from agent.power import governor
from agent.power.ledger import Ledger, Step
from agent.power.memory import MemoryReading
from agent.power.orders import Order, Rules
from agent.power.points import Way
from agent.power.policy import Limits
from agent.power.telemetry import Reading
from agent.report.events import EventFactory
from agent.snapshot import GovernorView
from agent.units import Bytes, Celsius, PerSecond, Watts

ORDER = Order(tier="640x640 int8", batch=2, rate=5.0)


def section(policy="max_fps", **values):
    kinds = {"watts": Watts, "celsius": Celsius, "memory": Bytes, "rate": PerSecond}
    return BudgetSection(policy=policy, **{name: kinds[name](value) for name, value in values.items()})


def governing(reading=None, limits=None, taken=(), trouble="", leak="", memory=None, **changes):
    decided = SimpleNamespace(**{**dict(
        order=ORDER, why="5 W of 9 W", since_s=time.monotonic() - 3.0, limits=limits or Limits(), quiet="", reading=reading, blind=False,
        table="fit", shares={}), **changes})
    keeper = SimpleNamespace(
        reading=memory or MemoryReading(at_s=0.0, resident=100, children=20, device=None), state=SimpleNamespace(taken=taken, trouble=trouble),
        why="too much", leak=SimpleNamespace(words=leak) if leak else None)
    return SimpleNamespace(decided=decided, ledger=Ledger(), keeper=keeper, telemetry_name="sysfs")


def fresh(age_s=0.0, **values):
    return Reading(at_s=time.monotonic() - age_s, **{**dict(watts=5.0, measures="VDD_IN", celsius=60.0), **values})


def test_limits_of_this_hour_stand_beside_what_is_measured_now():
    found = limits_view(section(watts=9.0, celsius=85.0, memory=600e6, rate=30.0),
                        governing(fresh(), Limits(watts=6.0, celsius=85.0, rate=10.0)), rate=4.5)
    assert {name: (view.limit, view.reading, view.unit, view.enforced) for name, view in found.items()} == {
        "rate": (10.0, 4.5, "frames/s", True), "memory": (600e6, 100.0, "bytes", True), "watts": (6.0, 5.0, "W", True),
        "celsius": (85.0, 60.0, "C", True)}


def test_with_the_policy_off_limits_are_shown_as_configured_and_not_kept():
    found = limits_view(section(policy="off", watts=9.0, memory=600e6, rate=30.0), governing(fresh(), Limits(rate=30.0)), rate=4.5)
    assert {name: (view.limit, view.enforced) for name, view in found.items()} == {
        "rate": (30.0, True), "memory": (600e6, False), "watts": (9.0, False), "celsius": (None, False)}
    assert found["watts"].reading == 5.0


@pytest.mark.parametrize(("age_s", "measured", "shown"), [(None, 5.0, None), (2.0, 5.0, 5.0), (60.0, 5.0, None), (0.0, None, None), (0.0, 0.0, 0.0)])
def test_an_old_reading_is_none(age_s, measured, shown):
    reading = None if age_s is None else fresh(age_s, watts=measured)
    assert limits_view(section(watts=9.0), governing(reading, Limits(watts=9.0)), rate=0.0)["watts"].reading == shown


def test_before_the_governor_runs_there_are_limits_and_no_readings():
    found = limits_view(section(watts=9.0), None, rate=0.0)
    assert (found["watts"].limit, found["watts"].reading, found["memory"].reading) == (9.0, None, None)


def test_the_view_is_whole_and_survives_the_wire():
    part = governing(fresh(rails={"VDD_IN": 5.0}), shares={"gate": None, "yard": 0.0}, leak="grows", taken=("queues",))
    part.ledger.passed(ORDER, 2.0, 20, 5.0)
    part.ledger.passed(Order(tier="b", batch=1, rate=1.0), 1.0, 3, None)
    part.ledger.took(Step(at=1.0, kind="step", before=ORDER, after=ORDER, reason="r", watts=None, celsius=1.0, memory=7))
    view = governor_view(part, "max_fps")
    assert msgspec.json.decode(msgspec.json.encode(view), type=GovernorView) == view
    assert view.shares == {"yard": 0.0}, "who has no limit of its own is not in it"
    assert [(each.name, each.frames_per_joule) for each in view.spent] == [("640x640 int8, batch 2", 2.0), ("b, batch 1", None)]
    assert (view.count, view.steps[0].memory, view.steps[0].watts, view.memory.total) == (1, 7, None, 120)
    assert (view.memory.given_up, view.memory.why, view.memory.leak) == (["queues"], "too much", "grows")
    assert 2.9 < view.since_s < 10.0


def test_orders_made_of_configured_figures_can_be_sent():
    """Quantities of the configuration are no plain numbers to an encoder: an agent died of its first step that way."""
    wanted = policy(section(watts=9.0, rate=30.0))
    order = governor.begin(Rules(limits=wanted.limits, safe_rate=wanted.safe_rate), Way(tier="a", batch=1)).order
    part = governing(order=order)
    step = Step(at=1.0, kind="step", before=order, after=order, reason="r", watts=None, celsius=None, memory=None)
    part.ledger.took(step)
    assert msgspec.json.decode(msgspec.json.encode(governor_view(part, "max_fps")))["order"]["rate"] == 1.0
    assert json.loads(budget_step(EventFactory("box", "run", "1"), step, "VDD_IN").body)["data"]["after"]["rate"] == 1.0


def test_before_the_first_reading_it_says_so():
    view = governor_view(governing(), "max_fps")
    assert (view.reading.trouble, view.reading.watts, view.reading.celsius) == ("not read yet", None, None)


@pytest.mark.parametrize(("changes", "says"), [
    ({}, []), ({"blind": True, "why": "no watts"}, ["no watts"]),
    ({"order": Order(tier="a", batch=1, rate=0.0), "why": "9 W"}, ["the loop is paused: 9 W"]),
    ({"reading": fresh(alarms=("over-current",))}, ["the board complains: over-current"]),
    ({"taken": ("queues", "batch")}, ["memory is short: queues and batch given up (too much)"]),
    ({"trouble": "cannot be read"}, ["memory: cannot be read"]), ({"leak": "it grows"}, ["it grows"]),
    ({"table": "stale: x"}, ["the operating points are stale: x"]), ({"table": "cannot be used: x"}, ["the operating points are cannot be used: x"]),
    ({"table": "not measured: `vedette tune`"}, []),
])
def test_problems_are_what_needs_a_hand(changes, says):
    assert list(budget_problems(governing(**changes))) == says
