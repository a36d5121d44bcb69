"""How the clocks are ruled, read from files as cpufreq lays them out."""

import pytest

from agent.power.clocks import are_fixed, clocks


def policy(root, number, governor, low=1, high=2):
    place = root / f"devices/system/cpu/cpufreq/policy{number}"
    place.mkdir(parents=True)
    for name, value in (("scaling_governor", governor), ("scaling_min_freq", low), ("scaling_max_freq", high)):
        (place / name).write_text(f"{value}\n")


def test_a_machine_without_cpufreq_rules_no_clocks(tmp_path):
    assert clocks(tmp_path) == ""
    assert not are_fixed("")


@pytest.mark.parametrize(("policies", "words"), [
    ([("schedutil", 1, 2)], "schedutil"),
    ([("schedutil", 1, 2), ("schedutil", 5, 9)], "schedutil"),
    ([("schedutil", 1, 2), ("performance", 5, 9)], "performance and schedutil"),
    ([("schedutil", 2, 2), ("schedutil", 9, 9)], "schedutil, frequency fixed"),
    ([("schedutil", 2, 2), ("schedutil", 5, 9)], "schedutil"),
])
def test_governors_are_told_once_and_whether_they_have_a_choice(tmp_path, policies, words):
    for number, each in enumerate(policies):
        policy(tmp_path, number, *each)
    assert clocks(tmp_path) == words
    assert are_fixed(words) == words.endswith("fixed")


def test_frequencies_that_cannot_be_read_are_not_taken_for_fixed_ones(tmp_path):
    policy(tmp_path, 0, "schedutil")
    for name in ("scaling_min_freq", "scaling_max_freq"):
        (tmp_path / "devices/system/cpu/cpufreq/policy0" / name).unlink()
    assert clocks(tmp_path) == "schedutil"
