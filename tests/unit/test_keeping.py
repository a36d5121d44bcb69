"""The memory's side of the governor: when it looks, what it passes on, what it tells."""

from types import SimpleNamespace

import pytest

from agent import keeping as module
from agent.config import BudgetSection
from agent.keeping import MemoryKeeper
from agent.power.memory import MemoryReading
from agent.power.squeeze import RUNGS

MB = 1_000_000
ALL = frozenset(RUNGS)


class Rig:
    def __init__(self, monkeypatch, **budget):
        self.now_s, self.reads, self.values = 100.0, [], {"resident": 300 * MB, "children": 0, "available": 4000 * MB}
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.keeper = MemoryKeeper(BudgetSection(**{"memory": 600 * MB, "reserve": 0, **budget}), self)

    def read(self, device):
        self.reads.append(device)
        return MemoryReading(at_s=self.now_s, device=device, **self.values)

    def look(self, seconds=1.0, device=None, available=ALL, loading=False):
        self.now_s += seconds
        return self.keeper.look(device, available, loading=loading)


@pytest.fixture
def rig(monkeypatch):
    return lambda **budget: Rig(monkeypatch, **budget)


def test_it_looks_once_a_second_however_often_it_is_asked(rig):
    it = rig()
    it.look()
    before = len(it.reads)
    it.values["resident"] = 900 * MB
    kept = it.look(0.5)
    assert (len(it.reads), kept.move, kept.reading.resident) == (before, None, 300 * MB)
    assert it.look(0.5).reading.resident == it.keeper.reading.resident == 900 * MB
    assert it.reads[-1] is None


def test_the_devices_bytes_are_passed_on_and_count(rig):
    it = rig()
    assert it.look(device=200 * MB).move is None
    assert it.reads[-1] == 200 * MB
    assert it.look(device=310 * MB).move.rungs == ("queues",)


def test_above_the_budget_it_climbs_and_says_what_the_governor_must_do(rig):
    it, forces = rig(), []
    it.values["resident"] = 610 * MB
    for _ in range(5):
        move = it.look().move
        assert move.reason == it.keeper.why
        forces.append(it.keeper.force)
    assert "610 MB are taken of the budget of 600 MB" in it.keeper.why
    assert forces == ["", "batch", "tier", "tier", "pause"]
    assert it.look().move is None
    it.values["resident"] = 100 * MB
    moves = [move for _ in range(300) if (move := it.look().move)]
    assert [move.down for move in moves] == [False] * 5
    assert (it.keeper.force, it.keeper.state.taken) == ("", ())


def test_only_rungs_that_free_something_are_taken_and_none_but_a_pause_while_loading(rig):
    it = rig()
    it.values["resident"] = 610 * MB
    assert it.look(available=frozenset({"tier"})).move.rungs == ("tier",)
    it = rig()
    it.values["resident"] = 610 * MB
    assert it.look(loading=True).move is None or "tier" not in it.keeper.state.taken


def test_with_the_policy_off_nothing_is_given_up_but_memory_is_shown(rig):
    it = rig(policy="off")
    it.values["resident"] = 900 * MB
    assert all(it.look().move is None for _ in range(10))
    assert (it.keeper.force, it.keeper.reading.resident) == ("", 900 * MB)


def grow(it, hours, a_second=20_000):
    leaks = []
    for second in range(0, round(hours * 3600), 5):
        it.values["resident"] = 300 * MB + second * a_second
        if leak := it.look(5.0).leak:
            leaks.append((second, leak))
    return leaks


def test_memory_that_only_grows_is_a_leak_and_is_remembered(rig):
    it = rig()
    leaks = grow(it, 3)
    assert leaks
    assert it.keeper.leak is leaks[-1][1]
    assert leaks[0][1].projected_s is not None, "the budget is what it runs into"
    it.values["resident"] = 300 * MB
    assert it.look(5.0).leak is None
    assert it.keeper.leak is leaks[-1][1]


def test_the_devices_bytes_can_leak_too(rig):
    it, leaks = rig(), []
    for second in range(0, 3 * 3600, 5):
        leaks.append(it.look(5.0, device=second * 20_000).leak)
    assert any(leaks)


def test_what_is_swapped_out_can_leak_too(rig):
    it, leaks = rig(), []
    for second in range(0, 3 * 3600, 5):
        it.values["swapped"] = second * 20_000
        leaks.append(it.look(5.0).leak)
    assert any(leaks)


@pytest.mark.parametrize("budget", [None, 50_000 * MB])
def test_the_limit_of_the_control_group_is_what_a_leak_runs_into_when_it_is_the_nearer_one(rig, budget):
    it = rig(memory=budget)
    it.values["limit"] = 2000 * MB
    second, leak = grow(it, 3)[0]
    assert leak.projected_s == pytest.approx((2000 - 300) * MB / 20_000 - second, rel=0.1)


def test_growth_while_an_engine_is_loaded_is_not_looked_at(rig):
    def climb(loading):
        it, moves = rig(), []
        for second in range(16):
            it.values["available"] = (900 - 50 * second) * MB
            moves.append(it.look(loading=loading).move)
        return [move for move in moves if move]
    assert climb(loading=False), "the machine's memory would end within seconds"
    assert climb(loading=True) == []


def test_memory_that_stays_is_none(rig):
    it = rig()
    assert grow(it, 3, a_second=0) == []
    assert it.keeper.leak is None


def test_nothing_is_said_of_a_leak_where_memory_cannot_be_read(rig):
    it = rig()
    it.values = {}
    assert it.look().leak is None
    assert it.keeper.reading.resident is None


def test_another_engine_begins_anew(rig):
    it = rig()
    first = grow(it, 3)[0][0]
    it = rig()
    leaks = []
    for second in range(0, first + 5, 5):
        if second % 600 == 0:
            it.keeper.restart()
        it.values["resident"] = 300 * MB + second * 20_000
        leaks.append(it.look(5.0).leak)
    assert not any(leaks)
