"""Is there room for an engine, or for building one: what is asked with which figures."""

from types import SimpleNamespace

import msgspec
import pytest

from agent import room as module
from agent.building.forms import Form
from agent.config import BudgetSection, Config, EngineSection
from agent.power.memory import MemoryReading
from agent.room import NoRoomError, Room, measured_need
from tests.helpers.engines import measured

MB = 1_000_000


def plan(on_cpu=True, memory=None):
    return SimpleNamespace(on_cpu=on_cpu, prepared=SimpleNamespace(width=640, height=480), memory=memory)


@pytest.fixture
def box(monkeypatch):
    it = SimpleNamespace(values={"resident": 200 * MB, "children": 0, "available": 1000 * MB}, devices=[], free=500 * MB, jetson=False)

    def read(_, device):
        it.devices.append(device)
        return MemoryReading(at_s=0.0, device=device, **it.values)

    monkeypatch.setattr(module.MemoryWatch, "read", read)
    monkeypatch.setattr(module, "free_device_bytes", lambda: it.free)
    monkeypatch.setattr(module.machine, "is_jetson", lambda: it.jetson)
    return it


def room(memory=None, reserve=50 * MB):
    return Room(BudgetSection(memory=memory, reserve=reserve))


def refused(asked, *what):
    with pytest.raises(NoRoomError) as raised:
        asked.ask(*what)
    return raised.value


def test_what_fits_is_let_pass_and_what_does_not_is_told_with_figures_and_a_remedy(box):
    room().ask(plan(), 950 * MB, None)
    error = refused(room(), plan(), 951 * MB, None)
    assert error.what.startswith("the engine 640x480 takes 951 MB; 1000 MB are available on the machine and 50 MB of them stay free")
    assert "[budget] memory" in error.remedy
    assert "[budget] sizes" in error.remedy
    refused(room(reserve=51 * MB), plan(), 950 * MB, None)


def test_the_budget_is_the_agents_own(box):
    room(memory=500 * MB).ask(plan(), 300 * MB, None)
    assert "the budget of 500 MB" in refused(room(memory=500 * MB), plan(), 301 * MB, None).what


def test_the_engine_that_serves_counts_with_its_device_memory(box):
    served = SimpleNamespace(device_bytes=100 * MB)
    room(memory=600 * MB).ask(plan(), 300 * MB, served)
    assert box.devices[-1] == 100 * MB
    assert "loaded beside the one that serves" in refused(room(memory=600 * MB), plan(), 301 * MB, served).what
    room(memory=600 * MB).ask(plan(), 400 * MB, SimpleNamespace())
    assert box.devices[-1] is None


@pytest.mark.parametrize("memory", [None, 1 * MB])
def test_what_nobody_knows_forbids_nothing(box, memory):
    room(memory).ask(plan(), None, None)
    assert box.devices == []


def test_a_gpu_with_memory_of_its_own_is_asked_for_that(box):
    box.values["available"] = 60 * MB
    room().ask(plan(on_cpu=False), 450 * MB, None)
    assert "on the device, where 500 MB are free" in refused(room(), plan(on_cpu=False), 451 * MB, None).what


def test_a_gpu_that_shares_the_machines_memory_takes_from_that(box):
    box.jetson, box.free = True, 0
    room().ask(plan(on_cpu=False), 950 * MB, None)
    assert "available on the machine" in refused(room(), plan(on_cpu=False), 951 * MB, None).what


def test_a_build_gets_what_may_be_taken_now(box, monkeypatch):
    monkeypatch.setattr(module, "replace", lambda on, memory: plan(memory=memory))
    assert room().for_build(plan()).memory == 950 * MB
    assert room().for_build(plan(memory=300 * MB)).memory == 300 * MB
    box.values["available"] = 180 * MB
    with pytest.raises(NoRoomError, match="building an engine takes 134 MB at least") as raised:
        room().for_build(plan())
    assert "MemoryMax" in raised.value.remedy
    box.values["available"] = None
    assert room().for_build(plan()).memory is None


def stored(*rungs, form=Form.FP16, tuned=True):
    return SimpleNamespace(card=SimpleNamespace(form=form, bytes=7), tuning=SimpleNamespace(rungs=rungs) if tuned else None)


def rung(form=Form.FP16, **figures):
    return SimpleNamespace(form=form, measured=msgspec.structs.replace(measured(), **figures) if figures else None)


@pytest.mark.parametrize(("on_cpu", "what", "need"), [
    (True, stored(rung(resident_bytes=100, device_bytes=900)), 100),
    (False, stored(rung(resident_bytes=100, device_bytes=900)), 900),
    (True, stored(rung(Form.FP32, resident_bytes=500), rung(resident_bytes=100)), 100),
    (True, stored(rung()), 7), (True, stored(), 7), (True, stored(tuned=False), 7),
    (False, stored(rung(resident_bytes=100, device_bytes=None)), 7)])
def test_what_an_engine_takes_is_what_was_measured_of_it_else_its_file(on_cpu, what, need):
    assert measured_need(plan(on_cpu), what) == need


def test_a_real_plan_is_given_its_memory(box, tmp_path):
    from agent.building.prepare import prepare
    from agent.plan import plan_for
    from tests.helpers.engines import write_recipe
    recipe = write_recipe(tmp_path)
    real = plan_for(Config(engine=EngineSection(recipe="small", threads=1)), recipe, prepare(recipe, state_dir=tmp_path / "state"))
    assert room().for_build(real).memory == min(950 * MB, real.memory or 950 * MB)
