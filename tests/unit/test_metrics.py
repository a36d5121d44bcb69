"""The Prometheus page's lines on the budget: what is unknown or old has no line, and names follow the conventions."""

import re

import msgspec
import pytest

from agent.metrics import prometheus
from tests.unit.cli.test_screen import camera, snapshot
from tests.unit.cli.test_screen_budget import governor, memory, order, reading


def samples(**changes):
    page = prometheus(snapshot([camera("gate")], governor=governor(**changes)))
    return dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))


def test_what_is_known_has_a_line():
    found = samples(shares={"gate": 0.0}, count=23, reading=reading(events={"oc1": 3}), memory=memory(given_up=["queues"], limit=600, used=500))
    for name, value in {
            'vedette_watts{measures="VDD_IN"}': "8.9", 'vedette_celsius{zone="cpu-thermal"}': "59.5", 'vedette_rail_watts{rail="VDD_SOC"}': "1.5",
            'vedette_memory_bytes{part="resident"}': "300000000", 'vedette_memory_bytes{part="device"}': "200000000",
            'vedette_memory_bytes{part="children"}': "0", 'vedette_memory_bytes{part="total"}': "500000000", "vedette_memory_group_limit_bytes": "600",
            "vedette_pace_frames_per_second": "12.34", "vedette_paused": "0", "vedette_budget_blind": "0", "vedette_budget_steps_total": "23",
            'vedette_way_seconds_total{way="paused"}': "10", "vedette_frames_per_joule": "1.234", 'vedette_power_events_total{event="oc1"}': "3",
            "vedette_memory_pressure_percent": "0", 'vedette_memory_given_up{rung="queues"}': "1",
            'vedette_source_share_frames_per_second{source="gate"}': "0", "vedette_gpu_load_ratio": "0.5"}.items():
        assert found[name] == value, name


def test_what_is_unknown_has_none():
    known = set(samples())
    found = set(samples(
        order=order(None), frames_per_joule=None, reading=reading(watts=None, gpu_load=None, zones={}, rails={}),
        memory=memory(resident=None, children=None, device=None, total=None, available=None, pressure=None)))
    gone = {name.split("{")[0].removeprefix("vedette_") for name in known - found}
    assert gone == {"pace_frames_per_second", "frames_per_joule", "watts", "celsius", "rail_watts", "gpu_load_ratio", "memory_bytes",
                    "memory_available_bytes", "memory_pressure_percent"}
    assert not found - known


@pytest.mark.parametrize(("age", "there"), [(0.0, True), (2.9, True), (3.1, False), (None, False)])
def test_an_old_reading_is_none(age, there):
    found = samples(reading=reading(age_s=age))
    for name in ('vedette_watts{measures="VDD_IN"}', 'vedette_celsius{zone="cpu-thermal"}', 'vedette_rail_watts{rail="VDD_SOC"}', "vedette_gpu_load_ratio"):
        assert (name in found) == there, name


def test_paused_is_a_rate_of_nothing_and_unpaced_has_none():
    assert samples(order=order(0.0))["vedette_paused"] == "1"
    assert samples(order=order(0.0))["vedette_pace_frames_per_second"] == "0"
    assert samples(order=order(None))["vedette_paused"] == "0"


def test_the_page_keeps_to_the_format_and_the_conventions():
    page = prometheus(snapshot([camera("gate")], governor=governor()))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))
    assert len(kinds) == len(re.findall("^# TYPE", page, re.M)), "a name stands once"
    for text in page.splitlines():
        if not text.startswith("#"):
            assert re.fullmatch(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? -?[0-9.e+-]+', text), text
    for name, kind in kinds.items():
        assert (kind == "counter") == name.endswith("_total") or name == "vedette_spool_sequence", name


def test_a_snapshot_without_a_governor_has_no_line_of_it():
    page = prometheus(msgspec.structs.replace(snapshot(), governor=None))
    assert "vedette_pace" not in page
    assert "vedette_memory_bytes" not in page
