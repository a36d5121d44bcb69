"""The real `vedette tune` on CenterFace at two small sizes, with a board that is only files as its sensors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import points_file
from agent.building.forms import Form
from agent.building.prepare import prepare
from agent.building.recipe import find_recipe, recipe_folders
from agent.building.store import Rung, Store, Tuning
from agent.config import load
from agent.plan import plan_for
from agent.power.board import SimulatedBoard
from tests.helpers.engines import measured
from tests.helpers.marked import Marked

ROOT = Path(__file__).resolve().parents[2]
BIG, SMALL = "128x96 fp32", "96x64 fp32"
STEPS = [(tier, paced) for tier in (BIG, SMALL) for paced in (False, True)]

pytestmark = [pytest.mark.slow, pytest.mark.alone]


class Box(Marked):
    """A state directory with both models, a board that takes 5 W, and the command line."""

    def __init__(self, folder, state):
        self.folder, self.state = folder, folder / "state"
        shutil.copytree(state, self.state, symlinks=False)
        SimulatedBoard(folder / "sys", idle_watts=5.0)
        (folder / "config.toml").write_text(
            f'[device]\nruntime_dir = "{folder}/run"\n[engine]\nrecipe = "centerface"\nsize = [96, 128]\nthreads = 1\n'
            f'[budget]\nsizes = [[64, 96]]\ntelemetry = "sysfs"\nsysfs = "{folder}/sys"\n')
        super().__init__()

    def start(self, *arguments):
        name, _, value = self.mark.partition("=")
        return subprocess.Popen(
            [sys.executable, "-m", "agent", "tune", "-c", self.folder / "config.toml", "--state-dir", self.state, "--seconds", "0.4", "--rates", "1",
             *arguments], cwd=ROOT, env={**os.environ, name: value}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def tune(self, *arguments):
        """Return (exit code, stdout, stderr)."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def until(self, process, words):
        for line in process.stderr:
            if words in line:
                return
        raise AssertionError(f"it ended with {process.wait()} before it said {words!r}")

    def table(self):
        return points_file.load(self.state, "centerface")


@pytest.fixture(scope="module")
def tuned(prepared, tmp_path_factory):
    """A box that was tuned, what that said, and the picture."""
    box = Box(tmp_path_factory.mktemp("tuned"), prepared)
    return box, box.tune("--png", str(box.folder / "points.png"), "--json"), box.folder / "points.png"


@pytest.fixture
def box(tuned, tmp_path):
    """The same box, whose table is not there yet."""
    fresh = Box(tmp_path, tuned[0].state)
    points_file.path_of(fresh.state, "centerface").unlink()
    return fresh


def test_it_measures_both_tiers_paced_and_unpaced_with_the_watts_of_the_board(tuned):
    box, (code, out, err), _ = tuned
    assert code == 0, err
    found = json.loads(out)
    assert [(point["tier"], point["asked"] is not None) for point in found["points"]] == STEPS
    assert found["complete"]
    assert found["idle_watts"] == pytest.approx(5.0, abs=0.01)
    assert (found["telemetry"], found["measures"]) == ("sysfs", "VDD_IN")
    for unpaced, paced in (found["points"][:2], found["points"][2:]):
        assert paced["asked"] == pytest.approx(unpaced["fps"] / 2, rel=1e-3)
        assert paced["fps"] == pytest.approx(paced["asked"], rel=0.25)
        assert 0 < unpaced["p50_ms"] <= unpaced["p99_ms"]
        assert unpaced["fps"] == pytest.approx(1000 / unpaced["p50_ms"], rel=0.6)
        for point in (unpaced, paced):
            assert point["watts"] == pytest.approx(5.0, abs=0.01)
            assert point["resident_bytes"] > 30e6
            assert point["device_bytes"] is None
    assert found["points"][2]["fps"] > found["points"][0]["fps"], "the smaller canvas takes less time"
    assert not list(box.state.glob("engines/centerface/points/work-*"))


def test_the_picture_is_there_and_not_blank(tuned):
    import cv2

    picture = cv2.imread(str(tuned[2]))
    assert picture.shape[1] > 600
    assert picture.std() > 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interrupted_in_the_middle_it_keeps_what_it_has_and_goes_on(box, number, code):
    process = box.start()
    box.until(process, "[2/4]")
    time.sleep(0.7)  # into the next child
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert box.childless(), box.children()
    if number != signal.SIGKILL:
        assert "2 points are kept in" in err
        assert not list(box.state.glob("engines/centerface/points/work-*"))
    stopped = box.table()
    assert not stopped.complete
    assert [(point.tier, point.asked is not None) for point in stopped.points] == STEPS[:2]
    assert "interrupted" in box.tune("--show")[1]
    code, _, err = box.tune()
    assert code == 0, err
    assert "2 of 4 points are there already; they stay" in err
    assert "[2/2]" in err
    whole = box.table()
    assert whole.complete
    assert whole.points[:2] == stopped.points, "nothing was measured twice"
    assert len(whole.points) == 4
    assert not list(box.state.glob("engines/centerface/points/work-*")), "and what it left is cleared away"


def test_another_engine_makes_its_tier_stale_and_only_that_is_measured_again(tuned, tmp_path):
    box = Box(tmp_path, tuned[0].state)
    code, out, _ = box.tune("--show")
    assert (code, "it fits this device" in out) == (0, True), out
    config = load(box.folder / "config.toml", to_run=False)
    recipe = find_recipe("centerface", recipe_folders())
    on = plan_for(config, recipe, prepare(recipe, size=(64, 96), state_dir=box.state))
    built = box.state / "built.onnx"
    shutil.copyfile(on.prepared.path, built)
    Store(box.state).put(on.parts, Form.FP32, built, 1)
    Store(box.state).finish(Tuning(parts=on.parts, kept=Form.FP32, at=1.0, took_s=1.0, rungs=[
        Rung(form=Form.FP32, outcome="kept", words="", measured=measured())]))
    code, out, _ = box.tune("--show")
    assert code == 1
    assert f"the engine of {SMALL} is another one now" in out
    before = box.table()
    code, _, err = box.tune()
    assert code == 0, err
    assert "[2/2]" in err
    after = box.table()
    assert [point for point in after.points if point.tier == BIG] == before.points[:2]
    assert [point for point in after.points if point.tier == SMALL] != before.points[2:]
    assert box.tune("--show")[0] == 0
