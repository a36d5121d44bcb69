"""What may be loaded or built, and the sentence that says why not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.power.admission import FLOOR_BYTES, admit, child_cap, too_small
from agent.power.memory import MemoryReading

MB = 1_000_000
WHAT = "loading the engine x"


def reading(**more):
    return MemoryReading(at_s=0.0, **{"resident": 200 * MB, "children": 0, "device": 10 * MB, "available": 4000 * MB, **more})


def test_what_fits_is_admitted():
    assert admit(300 * MB, reading(limit=1000 * MB, limit_of="/m", used=210 * MB), budget=600 * MB, reserve=64 * MB, what=WHAT) == ""


def test_the_budget_is_shared_with_what_is_there():
    assert admit(900 * MB, reading(), budget=600 * MB, reserve=64 * MB, what=WHAT) == (
        "loading the engine x takes 900 MB; of the budget of 600 MB 210 MB are taken: 510 MB too much")
    assert admit(390 * MB, reading(), budget=600 * MB, reserve=64 * MB, what=WHAT) == "", "it may be used up"
    assert admit(390 * MB + 1, reading(), budget=600 * MB, reserve=64 * MB, what=WHAT).endswith(" 1 MB too much")
    assert not admit(390 * MB, reading(children=MB), budget=600 * MB, reserve=0, what=WHAT), "builds have limits of their own"


def test_the_control_group_keeps_the_reserve():
    group = reading(limit=1000 * MB, limit_of="/cg/memory.max", used=700 * MB)
    assert admit(236 * MB, group, budget=None, reserve=64 * MB, what=WHAT) == ""
    assert admit(300 * MB, group, budget=None, reserve=64 * MB, what=WHAT) == (
        "loading the engine x takes 300 MB; of the control group's limit of 1000 MB (/cg/memory.max) 700 MB are taken and 64 MB stay free: "
        "64 MB too much")


def test_a_group_that_does_not_tell_what_it_takes_takes_at_least_what_we_take():
    group = reading(limit=1000 * MB, limit_of="/m", children=100 * MB)
    assert admit(600 * MB, group, budget=None, reserve=64 * MB, what=WHAT) == ""
    assert "300 MB are taken" in admit(700 * MB, group, budget=None, reserve=64 * MB, what=WHAT)


def test_the_machine_keeps_the_reserve():
    assert admit(500 * MB, reading(available=564 * MB), budget=None, reserve=64 * MB, what=WHAT) == ""
    assert admit(500 * MB, reading(available=520 * MB), budget=None, reserve=64 * MB, what=WHAT) == (
        "loading the engine x takes 500 MB; 520 MB are available on the machine and 64 MB of them stay free: 44 MB too much")


def test_a_gpu_with_a_memory_of_its_own_has_its_own_room_and_the_budget_counts_both():
    assert admit(100 * MB, reading(), budget=None, reserve=64 * MB, what=WHAT, on_device=(300 * MB, 364 * MB)) == ""
    assert admit(100 * MB, reading(), budget=None, reserve=64 * MB, what=WHAT, on_device=(300 * MB, 350 * MB)) == (
        "loading the engine x takes 400 MB; 300 MB of it on the device, where 350 MB are free and 64 MB stay free: 14 MB too much")
    assert "10 MB too much" in admit(100 * MB, reading(), budget=600 * MB, reserve=0, what=WHAT, on_device=(300 * MB, 900 * MB))


def test_everything_that_stands_against_it_is_named():
    said = admit(900 * MB, reading(available=100 * MB, limit=500 * MB, limit_of="/m", used=1), budget=600 * MB, reserve=0, what=WHAT,
                 on_device=(MB, 0))
    assert [word in said for word in ("budget", "control group", "available", "device")] == [True] * 4


def test_what_is_unknown_forbids_nothing():
    assert admit(10**12, MemoryReading(at_s=0.0), budget=600 * MB, reserve=64 * MB, what=WHAT) == ""


def test_the_cap_of_a_child_is_the_least_of_all_bounds():
    assert child_cap(MemoryReading(at_s=0.0), 64 * MB, None) is None
    assert child_cap(MemoryReading(at_s=0.0), 64 * MB, 3000 * MB) == 3000 * MB
    assert child_cap(reading(), 64 * MB, None) == 3936 * MB
    assert child_cap(reading(), 64 * MB, 3000 * MB) == 3000 * MB
    group = reading(limit=1000 * MB, used=700 * MB)
    assert child_cap(group, 64 * MB, 3000 * MB) == 236 * MB
    assert child_cap(group, 400 * MB, 3000 * MB) == 0


def test_a_build_that_can_only_fail_is_refused():
    group = reading(limit=1000 * MB, used=886 * MB)
    cap = child_cap(group, 64 * MB, None)
    assert too_small(cap, group, 64 * MB, what="building fp16") == (
        "building fp16 takes 134 MB at least; 50 MB may be taken (4000 MB available on the machine, 886 MB taken of the control group's "
        "limit of 1000 MB), 64 MB stay free: 85 MB too little")
    assert too_small(FLOOR_BYTES, group, 0, what="x") == ""
    assert too_small(FLOOR_BYTES - 1, MemoryReading(at_s=0.0), 0, what="x").endswith("stay free: 1 MB too little")
    assert too_small(None, reading(), 0, what="x") == ""
    assert too_small(500, reading(), 0, what="x", floor=500) == ""


SIZES = st.integers(0, 10**10)
MAYBE = st.none() | SIZES
READINGS = st.builds(MemoryReading, at_s=st.just(0.0), resident=MAYBE, children=MAYBE, device=MAYBE, available=MAYBE, limit=MAYBE, used=MAYBE)


@given(READINGS, SIZES, SIZES, MAYBE, SIZES)
def test_what_was_refused_is_not_admitted_when_it_takes_more(reading, need, more, budget, reserve):
    if admit(need, reading, budget=budget, reserve=reserve, what="x"):
        assert admit(need + more, reading, budget=budget, reserve=reserve, what="x")
        assert admit(need, reading, budget=budget, reserve=reserve + more, what="x")


@given(READINGS, SIZES, MAYBE)
def test_a_child_that_keeps_to_its_cap_would_be_admitted(reading, reserve, wanted):
    cap = child_cap(reading, reserve, wanted)
    if cap:
        assert cap <= (wanted if wanted is not None else cap)
        assert admit(cap, reading, budget=None, reserve=reserve, what="x") == ""


@pytest.mark.parametrize("need", [1, 499_999, 500_001, 10**12])
def test_the_figures_are_in_megabytes(need):
    assert f" takes {need / 1e6:.0f} MB; " in admit(need, reading(available=0), budget=None, reserve=0, what="x")
