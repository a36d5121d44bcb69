"""``budget.step`` events: before, after, reason and reading, null for what is not known; bounded and valid."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.report.events import (
    BUDGET_STEP,
    MAX_BODY,
    BudgetReading,
    BudgetStepData,
    CloudEvent,
    EventFactory,
    WorkingPoint,
)
from agent.report.sealing import numbered

AT = 1763761516.123456


class Received(CloudEvent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data: BudgetStepData


def stepped(kind="step", rate=7.5, reason="9.31 W measured, the limit is 9 W", **known):
    reading = BudgetReading(**{**dict(watts=9.31, measures="VDD_IN", celsius=61.5, memory=512_000_000), **known})
    return EventFactory("jetson-1", "run", "0.1.0").budget_step(
        kind, before=WorkingPoint(tier="640x640 int8", batch=4, rate=None), after=WorkingPoint(tier="640x640 int8", batch=4, rate=rate),
        reason=reason, reading=reading, at=AT)


def test_the_event_as_the_docs_show_it():
    event = stepped()
    found = json.loads(event.body)
    assert (event.type, found["type"], found["time"]) == (BUDGET_STEP, "budget.step", "2025-11-21T21:45:16.123456Z")
    assert not found.get("subject"), "it is about the box, not a camera"
    assert found["data"] == {
        "kind": "step", "before": {"tier": "640x640 int8", "batch": 4, "rate": None}, "after": {"tier": "640x640 int8", "batch": 4, "rate": 7.5},
        "reason": "9.31 W measured, the limit is 9 W",
        "reading": {"watts": 9.31, "measures": "VDD_IN", "celsius": 61.5, "memory": 512000000}, "agent": "0.1.0"}


def test_unknown_is_null_and_a_pause_is_0():
    data = json.loads(stepped(kind="blind", rate=0.0, watts=None, measures="", celsius=None, memory=None).body)["data"]
    assert data["reading"] == {"watts": None, "measures": "", "celsius": None, "memory": None}
    assert data["after"]["rate"] == 0
    assert data["before"]["rate"] is None


@given(reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=5000), watts=st.none() | st.floats(0, 1e4))
def test_any_reason_makes_a_valid_bounded_event(reason, watts):
    body = stepped(reason=reason, watts=watts).body
    assert len(numbered(body, 10**12)) <= MAX_BODY
    data = msgspec.json.decode(body, type=Received).data
    assert reason.startswith(data.reason)
    assert data.reading.watts == watts


@pytest.mark.parametrize("kind", ["step", "memory", "blind", "seeing", "limits", "leak"])
def test_every_kind_is_told_as_it_is(kind):
    assert json.loads(stepped(kind=kind).body)["data"]["kind"] == kind
