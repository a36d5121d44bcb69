"""`vedette tune` on a small real model whose points are scripted: warnings, tables, plots, exit codes."""

import json
import os
import re
import shutil
import sys

import click
import msgspec
import pytest

from agent import points_file
from agent.building.prepare import prepare
from agent.cli import main, tune_plot, tune_tables
from agent.cli import tune as command
from agent.cli import tune_session as session
from agent.config import BudgetSection, Config
from agent.errors import AgentError
from agent.machine import PowerMode
from agent.measuring import Measurement
from agent.power.points import Point, Table, Tier
from agent.power.watching import Power
from tests.helpers.engines import write_recipe

TIERS = [Tier(name=f"{side}x{side} fp32", identity=str(side) * 8, form="fp32", height=side, width=side, max_batch=1) for side in (64, 32)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    recipe = write_recipe(folder)
    for side in (64, 32):
        prepare(recipe, size=(side, side), state_dir=folder / "state")
    return folder


class Box:
    """A box whose sensors and points are scripted; ``tune`` is the command line."""

    def __init__(self, made, folder, monkeypatch, capsys):
        self.state, self.folder, self.capsys = folder / "state", folder, capsys
        shutil.copytree(made / "state", self.state)
        (folder / "sys").mkdir()
        self.configure(f'recipes = ["{made}/recipes"]')
        self.power = Power(watts=3.0, measures="VDD_IN", telemetry="sysfs 1", trouble="")
        self.idle, self.measured, self.answer = [], [], self.usual
        monkeypatch.setattr(session, "measure", self.measure)
        monkeypatch.setattr(session, "pictures", lambda *_: "8 pictures")
        for module in (session, command):
            monkeypatch.setattr(module, "power_now", self.power_now)
        monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))

    def configure(self, engine, budget=""):
        (self.folder / "config.toml").write_text(
            f'[device]\nruntime_dir = "{self.folder}/run"\n[engine]\nrecipe = "small"\nthreads = 1\nmax_batch = 2\n{engine}\n'
            f'[budget]\nsizes = [[32, 32]]\nsysfs = "{self.folder}/sys"\n{budget}\n')

    def power_now(self, _config, seconds):
        self.idle.append(seconds)
        return self.power

    def measure(self, offer, recipe, config, frames, *, batch, rate, seconds, report):
        self.measured.append((offer.tier.name, batch, rate))
        return self.answer(offer.tier.name, batch, rate)

    @staticmethod
    def usual(tier, batch, rate):
        most = {"64x64 fp32": 30.0, "32x32 fp32": 90.0}[tier] * batch
        fps = rate or most
        return Measurement(calls=9, fps=fps, p50_ms=10.0, p99_ms=12.0, watts=4.0 + 5.0 * fps / most, resident_bytes=100_000_000, grown_bytes=1, device_bytes=None,
                           measures="VDD_IN", trouble="")

    def tune(self, *arguments):
        """Return (exit code, stdout, stderr)."""
        code = main(["tune", "-c", str(self.folder / "config.toml"), "--state-dir", str(self.state), *map(str, arguments)])
        return code, *self.capsys.readouterr()

    def stored(self):
        return points_file.load(self.state, "small")


@pytest.fixture
def box(made, tmp_path, monkeypatch, capsys):
    return Box(made, tmp_path, monkeypatch, capsys)


def test_it_measures_idle_first_then_each_tier_and_batch_and_keeps_the_table(box):
    code, out, err = box.tune("--rates", 1)
    assert code == 0, err
    assert box.idle == [5.0]
    assert box.measured == [("64x64 fp32", 1, None), ("64x64 fp32", 1, 15.0), ("64x64 fp32", 2, None), ("64x64 fp32", 2, 30.0),
                            ("32x32 fp32", 1, None), ("32x32 fp32", 1, 45.0), ("32x32 fp32", 2, None), ("32x32 fp32", 2, 90.0)]
    table = box.stored()
    assert table.complete
    assert (table.idle_watts, table.telemetry, table.measures, table.frames, table.seconds) == (3.0, "sysfs", "VDD_IN", "8 pictures", 8.0)
    assert len(table.points) == 8
    assert "[8/8]" in err
    row = next(line for line in out.splitlines() if "90.0" in line and "32x32 fp32 │ 1" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "32x32 fp32", "1", "all", "90.0", "10.0", "12.0", "9.00", "6.00", "100", "-", "10.00", ""]
    assert "a = 64x64 fp32, b = 32x32 fp32; capitals: on the Pareto front" in out
    assert "idle 3.00 W, watts of VDD_IN by sysfs" in out
    assert not list(box.state.glob("engines/small/points/work-*"))


def test_the_second_run_measures_nothing_and_force_all(box):
    box.tune("--rates", 1)
    box.measured.clear()
    code, _, err = box.tune("--rates", 1)
    assert (code, box.measured) == (0, [])
    assert "8 of 8 points are there already; --force" in err
    assert box.stored().complete
    assert box.tune("--rates", 1, "--force")[0] == 0
    assert len(box.measured) == 8


@pytest.mark.parametrize("after", [1, 4, 7])
def test_after_ctrl_c_what_is_measured_stays_and_the_next_run_goes_on(box, after):
    def until(tier, batch, rate):
        if len(box.measured) > after:
            raise KeyboardInterrupt
        return box.usual(tier, batch, rate)

    box.answer = until
    code, _, err = box.tune("--rates", 1)
    assert code == 130
    assert f"{after} points are kept in" in err
    assert not box.stored().complete
    assert not list(box.state.glob("engines/small/points/work-*"))
    assert box.tune("--show")[0] == 1
    box.answer, before = box.usual, list(box.measured)
    box.measured.clear()
    code, _, err = box.tune("--rates", 1)
    assert code == 0
    assert f"{after} of 8 points are there already; they stay" in err
    assert len({*before[:after], *box.measured}) == 8
    assert len(box.measured) == 8 - after
    assert box.stored().complete


def test_another_telemetry_makes_all_anew_and_says_so(box):
    box.tune("--rates", 0)
    box.power = Power(watts=9.0, measures="CPU packages", telemetry="rapl", trouble="")
    box.answer = lambda *point: msgspec.structs.replace(box.usual(*point), measures="CPU packages")
    box.measured.clear()
    code, _, err = box.tune("--rates", 0)
    assert code == 0
    assert "the telemetry was 'sysfs' and is 'rapl'" in err
    assert len(box.measured) == 4
    assert box.idle[-1] == 5.0, "idle power, too"
    assert box.stored().idle_watts == 9.0


def test_without_watts_it_says_why_and_draws_times_instead(box):
    box.power = Power(watts=None, measures="", telemetry="none", trouble="no sensors here")
    box.answer = lambda *point: msgspec.structs.replace(box.usual(*point), watts=None, measures="", trouble="no sensors here")
    code, out, err = box.tune("--rates", 1)
    assert code == 0
    assert "warning: no watts, so frames per joule stay unknown: no sensors here" in err
    assert "p99 ms" in out
    assert "there is no front" in out
    assert "unknown" in out
    assert "nothing measures watts" in out
    assert box.stored().points[0].watts is None


def test_json_has_what_follows_from_the_points(box):
    code, out, _ = box.tune("--rates", 1, "--json")
    found = json.loads(out)
    assert code == 0
    best = next(point for point in found["points"] if point["batch"] == 2 and point["tier"] == "32x32 fp32" and point["asked"] is None)
    assert best["frames_per_joule"] == pytest.approx(20.0)
    assert best["watts_above_idle"] == pytest.approx(6.0)
    assert best["on_front"]
    assert (found["warnings"], found["failures"], found["misfits"]) == ([], [], [])
    assert found["file"] == str(points_file.path_of(box.state, "small"))


def test_a_point_that_fails_makes_the_code_1_and_is_told(box):
    box.answer = lambda tier, batch, rate: "out of memory" if batch == 2 else box.usual(tier, batch, rate)
    code, out, _ = box.tune("--rates", 1)
    assert code == 1
    assert "not measured: 64x64 fp32, batch 2, as fast as it goes: out of memory" in out
    assert box.stored().complete


def test_when_all_fails_the_code_is_2(box):
    box.answer = lambda *_: "the driver is gone"
    assert box.tune("--rates", 0)[0] == 2
    assert box.stored() is None


def test_it_warns_of_what_goes_on_beside_it(box, monkeypatch):
    monkeypatch.setattr(session, "fetch", lambda _: "a snapshot")
    monkeypatch.setattr(session, "taken", lambda folder: folder.name == "built")
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0 * (os.cpu_count() or 1), 0.0, 0.0))
    _, out, err = box.tune("--rates", 0)
    for words in ("the agent runs", "an engine is being built", "the machine is busy: a load of"):
        assert words in err
        assert words in out


@pytest.mark.parametrize(("cause", "running"), [(FileNotFoundError(), False), (ConnectionRefusedError(), False), (PermissionError(), True), (None, True)])
def test_an_agent_that_answers_in_words_we_do_not_know_runs_all_the_same(monkeypatch, tmp_path, cause, running):
    def fetch(_):
        raise AgentError("it did not answer as it should") from cause
    monkeypatch.setattr(session, "fetch", fetch)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert bool(session.reasons_to_wait(Config(), tmp_path, "small")) is running


def table(**changes):
    return msgspec.structs.replace(Table(
        recipe="small", tiers=TIERS, points=[], idle_watts=2.0, telemetry="sysfs", measures="VDD_IN", power_mode="15W (2)", clocks="schedutil",
        at=1.0, took_s=2.0, complete=True, seconds=8.0), **changes)


@pytest.mark.parametrize(("budget", "now", "before", "words"), [
    ({}, {}, {}, []), ({"nvpmodel": "15W", "jetson_clocks": False}, {}, {}, []),
    ({"nvpmodel": "25W"}, {}, {}, ["the power mode is 15W (2), in service it will be 25W"]),
    ({"nvpmodel": "25W"}, {"power_mode": None}, {"power_mode": None}, ["the power mode is unknown, in service it will be 25W"]),
    ({"jetson_clocks": True}, {}, {}, ["the clocks are ruled by schedutil, in service jetson_clocks will be on"]),
    ({"jetson_clocks": True}, {"clocks": ""}, {"clocks": ""}, []),
    ({}, {"power_mode": "MAXN (0)"}, {}, ["the power mode is MAXN (0), when last measured it was 15W (2)"]),
    ({}, {"clocks": "performance"}, {}, ["the clocks are ruled by performance, when last measured by schedutil"]),
])
def test_it_warns_when_the_board_is_not_as_in_service_or_as_before(budget, now, before, words):
    found = session.unlike_service(Config(budget=BudgetSection(**budget)), table(**now), table(**before))
    assert len(found) == len(words)
    assert all(word in said for word, said in zip(words, found, strict=True))


def test_a_power_mode_that_changes_meanwhile_is_told(box, monkeypatch):
    monkeypatch.setattr(session.machine, "power_mode", lambda: PowerMode(name="25W" if len(box.measured) > 2 else "15W", number=2))
    assert "changed meanwhile" in box.tune("--rates", 0)[2]
    assert box.stored().power_mode == "15W (2)"


def test_two_at_once_are_refused(box):
    def second(*_):
        with pytest.raises(AgentError, match="another `vedette tune` measures small"), session.session(
                Config(), write_recipe(box.folder), box.state, session.Asked(1.0, (), 0, force=False)):
            pass
        return box.usual(*_)

    box.answer = second
    assert box.tune("--rates", 0)[0] == 0


def test_scraps_of_a_killed_run_are_cleared_away(box):
    scrap = box.state / "engines/small/points/work-old"
    scrap.mkdir(parents=True)
    (scrap / "frames.npy").write_bytes(b"x")
    box.tune("--rates", 0)
    assert not scrap.exists()


# What is stored -------------------------------------------------------------------------------------------------------


def test_show_tells_whether_it_still_fits_and_measures_nothing(box, made):
    code, out, err = box.tune("--show")
    assert (code, out) == (2, "")
    assert "no operating points of small are stored" in err
    assert "mend: " in err
    box.tune("--rates", 0)
    box.measured.clear()
    code, out, _ = box.tune("--show")
    assert (code, box.measured, box.idle[-1]) == (0, [], 0)
    assert "it fits this device as it is now" in out
    box.configure(f'recipes = ["{made}/recipes"]\nthreads = 2')
    (box.folder / "config.toml").write_text((box.folder / "config.toml").read_text().replace("threads = 1\n", "", 1))
    code, out, _ = box.tune("--show")
    assert code == 1
    assert "what runs the engines was" in out
    assert json.loads(box.tune("--show", "--json")[1])["misfits"]


def test_another_recipe_is_measured_on_its_own_canvas(box, made):
    write_recipe(box.folder, "other")
    box.configure(f'recipes = ["{made}/recipes", "{box.folder}/recipes"]\nsize = [64, 96]')
    assert box.tune("other", "--rates", 0)[0] == 0
    assert {tier for tier, _, _ in box.measured} == {"64x64 fp32"}
    assert points_file.load(box.state, "other").complete


@pytest.mark.parametrize(("arguments", "words"), [
    (["--batches", "1,x"], "write whole numbers"), (["--batches", "0"], "at least one frame"), (["--seconds", "0"], "--seconds"),
    (["--png", "/nowhere/a.png"], "there is no such folder")])
def test_wrong_arguments_are_told_before_anything_is_measured(box, arguments, words):
    code, _, err = box.tune(*arguments)
    assert code == 64
    assert words in err
    assert box.idle == []


def test_a_canvas_that_is_no_smaller_one_is_told_before_idle_power_is_measured(box, made):
    box.configure(f'recipes = ["{made}/recipes"]\nsize = [32, 32]')
    code, _, err = box.tune()
    assert code == 78
    assert "budget.sizes" in err
    assert box.idle == []


# Pictures -------------------------------------------------------------------------------------------------------------


def point(tier, fps, watts, batch=1):
    return Point(tier=TIERS[tier].name, batch=batch, asked=None, fps=fps, p50_ms=1.0, p99_ms=1000 / fps, watts=watts)


def test_the_plot_marks_the_front_by_capitals_and_puts_points_where_they_are():
    lines = tune_plot.text_plot(table(points=[point(0, 10.0, 5.0), point(0, 20.0, 10.0), point(1, 15.0, 10.0)])).splitlines()
    field = {(row, column): mark for row, line in enumerate(lines) if "|" in line for column, mark in enumerate(line.split("|")[1]) if mark != " "}
    places = {mark: [place for place, each in field.items() if each == mark] for mark in set(field.values())}
    assert sorted(places) == ["A", "b"]
    (high, right), (low, middle) = sorted(places["A"])
    assert middle == pytest.approx(right / 2, abs=1)
    assert low - high == pytest.approx(15 / 2 / 1.05, abs=1)
    assert places["b"][0][1] == right


def test_points_without_watts_are_counted_not_drawn():
    assert "1 points without watts are not drawn" in tune_plot.text_plot(table(points=[point(0, 10.0, 5.0), point(1, 9.0, None)]))


def test_nothing_measured_is_said():
    assert tune_plot.text_plot(table()) == "nothing is measured yet"


@pytest.mark.parametrize("watts", [5.0, None])
def test_the_png_is_a_picture_and_not_blank(tmp_path, watts):
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    tune_plot.write_png(table(points=[point(0, 10.0, watts), point(1, 30.0, watts), point(1, 50.0, watts and 8.0, 2)]), tmp_path / "a.png")
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture.shape[0] > 400
    assert picture.std() > 5
    colours = {tuple(map(int, colour)) for colour in picture.reshape(-1, 3)[::7]}
    assert len(colours) > 20


def test_without_matplotlib_the_remedy_names_the_extra(box, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = box.tune("--png", box.folder / "a.png")
    assert code == 2
    assert re.search(r"matplotlib cannot be loaded.*\n.*\.\[plot\]", err)
    assert box.idle == [], "found out before an hour of measuring"


def test_a_png_that_cannot_be_written_is_told(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(AgentError, match="cannot be written"):
        tune_plot.write_png(table(points=[point(0, 10.0, 5.0)]), tmp_path / "nowhere/a.png")


def test_unknown_is_never_a_number(capsys):
    tune_tables.show(table(points=[point(0, 10.0, None)], idle_watts=None, measures=""))
    out = capsys.readouterr().out
    assert "unknown" in out
    assert "0.00" not in out
    assert click.unstyle(out) == out
