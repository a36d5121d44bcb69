"""The table of operating points on the disk."""

import logging

import msgspec
import pytest

from agent import points_file
from agent.config import BudgetSection, Config
from agent.errors import ModelError
from agent.machine import PowerMode
from agent.power.points import Point, Table, Tier, misfits
from tests.helpers.engines import ORIN, plan, write_recipe

TIER = Tier(name="64x64 fp32", identity="a" * 16, form="fp32", height=64, width=64, max_batch=4)
POINT = Point(tier="64x64 fp32", batch=1, asked=None, fps=10.0, p50_ms=90.0, p99_ms=110.0, watts=5.0)


def table(**changes):
    return msgspec.structs.replace(Table(
        recipe="small", tiers=[TIER], points=[POINT], idle_watts=2.0, telemetry="sysfs", measures="VDD_IN", power_mode="15W (2)",
        clocks="schedutil", at=1.0, took_s=2.0, complete=True, seconds=8.0, runs_on="a runtime", frames="8 pictures"), **changes)


class OneOffer:
    def __init__(self, on):
        self.tier, self.plan = TIER, on


def test_what_is_saved_is_loaded(tmp_path):
    assert points_file.load(tmp_path, "small") is None
    points_file.save(tmp_path, table())
    assert points_file.load(tmp_path, "small") == table()
    assert [file.name for file in (tmp_path / "engines/small").iterdir()] == ["points.json"]
    points_file.save(tmp_path, table(complete=False))
    assert points_file.load(tmp_path, "small").complete is False


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"schema":1}', msgspec.json.encode(table(schema=99)), msgspec.json.encode(table(recipe="other"))])
def test_what_cannot_be_used_is_as_if_there_were_none_and_that_is_logged(tmp_path, caplog, content):
    path = points_file.path_of(tmp_path, "small")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert points_file.load(tmp_path, "small") is None
    assert str(path) in caplog.text


def test_a_disk_that_cannot_be_written_is_told_with_a_remedy(tmp_path):
    (tmp_path / "engines").write_text("a file where a folder should be")
    with pytest.raises(ModelError, match=r"points\.json: cannot be written") as caught:
        points_file.save(tmp_path, table())
    assert caught.value.remedy


def test_a_table_of_now_says_what_the_board_is_like_now(tmp_path, monkeypatch):
    policy = tmp_path / "devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_governor").write_text("performance\n")
    monkeypatch.setattr(points_file.machine, "power_mode", lambda: PowerMode(name="15W", number=2))
    recipe = write_recipe(tmp_path)
    config = Config(budget=BudgetSection(sysfs=str(tmp_path)))
    now = points_file.current(config, recipe, [OneOffer(plan(recipe))], telemetry="jtop 7.2.2", measures="VDD_IN", seconds=8.0)
    assert (now.telemetry, now.measures, now.power_mode, now.clocks, now.seconds) == ("jtop", "VDD_IN", "15W (2)", "performance", 8.0)
    assert now.tiers == [TIER]
    assert (now.points, now.complete) == ([], False)
    assert now.runs_on == "onnxruntime 1.23.2, CPUExecutionProvider, A CPU avx2, 1 thread"
    same = table(clocks="performance", runs_on=now.runs_on)
    assert misfits(same, now) == []
    assert "what runs the engines" in misfits(table(clocks="performance"), now)[0]


def test_the_power_mode_is_not_told_twice(tmp_path):
    words = points_file.runs_on(plan(write_recipe(tmp_path), platform=ORIN))
    assert "MAXN" not in words
    assert words == "tensorrt 10.3.0.26, Orin (nvgpu), CUDA 12.6, driver 540.4.0, L4T 36.4.3"
