"""Memory against a real limit: the agent as a unit of a real systemd, on cgroup v2, where the kernel means it.

Each rule is shown beside what happens without it. The machine is emulated, so the engines are small and frames are few;
CenterFace and ONNX Runtime are the real ones.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from agent import points_file
from tests.helpers import engines, systemd_box
from tests.helpers.systemd_box import CODE, ROOT, SITE, Box, Unit

LARGE, SMALL = "960x640 fp32", "96x64 fp32"
RESERVE = 4_000_000
LEAK = 3  # MB a frame, about as many frames a second while two agents run

pytestmark = [pytest.mark.slow, pytest.mark.box, pytest.mark.timeout(400),
              pytest.mark.skipif(bool(systemd_box.missing()), reason=systemd_box.missing() or "-")]


def config(size, *, sizes="[]", policy="max_fps"):
    return (f'[source.pictures]\nurl = "images:///opt/pictures?loop=1&fps=4"\n[engine]\nrecipe = "centerface"\nsize = {size}\nthreads = 1\n'
            f'[budget]\npolicy = "{policy}"\nsizes = {sizes}\nreserve = "{RESERVE}B"\ntelemetry = "off"\n')


@pytest.fixture(scope="module")
def lab(prepared, tmp_path_factory):
    """The box, up, with the agent in it and two engines whose memory `vedette tune` has measured here; and their bytes."""
    here = tmp_path_factory.mktemp("lab")
    state = here / "state"
    shutil.copytree(prepared, state, symlinks=False)
    (here / "config.toml").write_text(f'[device]\nruntime_dir = "{here}/run"\n' + config([640, 960], sizes="[[64, 96]]"))
    tune = [sys.executable, "-m", "agent", "tune", "-c", here / "config.toml", "--state-dir", state, "--seconds", "0.4", "--rates", "0"]
    box = Box(Path(tempfile.mkdtemp(prefix="vt-box-", dir=systemd_box.SHM)))
    try:
        with subprocess.Popen(tune, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tuning:
            box.create()
            box.boot()
            _, said = tuning.communicate(timeout=120)
            assert tuning.returncode == 0, said
        pictures = engines.pictures(here / "pictures", 8)
        box.put({"/opt/state": state, "/opt/pictures": pictures, f"{CODE}/agent": ROOT / "agent", f"{CODE}/engines": ROOT / "engines",
                 f"{CODE}/leaky_agent.py": ROOT / "tests/helpers/leaky_agent.py"})
        # What is read here first counts for no unit: file cache belongs to the group that read it.
        box.run("env", f"PYTHONPATH={SITE}", "sh", "-c", f"cd {CODE} && python3 -c 'import agent.supervisor, agent.inference.onnxruntime, cv2'")
        box.run("cp", "-r", "/opt/state", "/opt/unmeasured")
        box.run("rm", "/opt/unmeasured/engines/centerface/points.json")
        table = points_file.load(state, "centerface")
        yield box, {point.tier: point.grown_bytes for point in table.points}
    finally:
        box.delete()
        shutil.rmtree(box.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def too_little(lab):
    """A limit, bytes, that has room for the small engine and not for the large one."""
    _, takes = lab
    assert takes[LARGE] > takes[SMALL] + 80_000_000
    return takes[SMALL] + 60_000_000 + RESERVE


def test_an_engine_that_is_too_large_is_refused_before_it_is_loaded(lab, too_little):
    box, takes = lab
    killed = box.killed()
    with Unit(box, "refused", config=config([640, 960]), memory_max=too_little, state="/opt/state") as unit:
        ended, said = unit.wait(90), unit.said()
    assert (ended["Result"], ended["ExecMainStatus"]) == ("exit-code", "2"), said
    assert f"the engine 960x640 takes {takes[LARGE] / 1e6:.0f} MB" in said, said
    assert f"of the control group's limit of {too_little / 1e6:.0f} MB (/sys/fs/cgroup/system.slice/refused.service/memory.max)" in said
    assert "mend: raise [budget] memory or what bounds it" in said
    assert "Traceback" not in said
    assert box.killed() == killed


def test_where_nobody_measured_it_the_kernel_kills_it(lab, too_little):
    """So the refusal was right: the same engine, of which nothing is known."""
    box, _ = lab
    killed = box.killed()
    with Unit(box, "unmeasured", config=config([640, 960], policy="off"), memory_max=too_little, state="/opt/unmeasured") as unit:
        ended, said = unit.wait(120), unit.said()
    assert (ended["Result"], ended["ExecMainStatus"]) == ("oom-kill", "9"), said
    assert box.killed() == killed + 1


def test_a_smaller_canvas_serves_where_the_configuration_allows_it(lab, too_little):
    box, _ = lab
    killed = box.killed()
    with Unit(box, "smaller", config=config([640, 960], sizes="[[64, 96]]"), memory_max=too_little, state="/opt/state") as unit:
        status = unit.until(lambda s: s["engine"] and s["sources"][0]["processed"] > 8, 90, "it serves")
        memory = unit.memory()
    assert (status["engine"]["width"], status["engine"]["height"]) == (96, 64)
    assert any(f"the smaller canvas {SMALL} serves instead" in problem for problem in status["problems"]), status["problems"]
    assert memory["oom_kill"] == 0
    assert memory["peak"] < too_little
    assert box.killed() == killed


def test_growing_memory_makes_it_give_up_rung_by_rung_and_live_where_an_ungoverned_one_is_killed(lab):
    box, _ = lab
    killed, limit, program = box.killed(), 220_000_000, f"{CODE}/leaky_agent.py {LEAK}"
    options = {"memory_max": limit, "state": "/opt/state", "program": program}
    with (Unit(box, "ungoverned", config=config([64, 96], policy="off"), **options) as ungoverned,
          Unit(box, "governed", config=config([64, 96]), **options) as governed):
        ended = ungoverned.wait(120)
        assert (ended["Result"], ended["ExecMainStatus"]) == ("oom-kill", "9"), ungoverned.said()
        first = governed.until(lambda s: "pause" in s["governor"]["memory"]["given_up"], 60, "it pauses")
        time.sleep(60)
        status, memory, shown, said = governed.status(), governed.memory(), governed.shown(), governed.said()
        told = box.run("env", "PYTHONPATH=/opt/site", "sh", "-c", f"cd {CODE} && python3 -m agent spool peek -n 1000 --json -c {governed.config}")
    assert shown["ActiveState"] == "active", said
    assert (memory["oom"], memory["oom_kill"]) == (0, 0), said
    assert memory["peak"] < limit, "and not by dropping file cache at the last moment"
    assert box.killed() == killed + 1, "the ungoverned one"
    assert first["governor"]["order"]["rate"] == 0
    assert any(problem.startswith("memory is short: queues and pause given up (") for problem in first["problems"]), first["problems"]
    assert "the control group's limit of 220 MB" in first["governor"]["memory"]["why"]
    # A pause that made room is ended on trial, once: then some frames more have cost what they cost.
    served = status["sources"][0]["processed"] - first["sources"][0]["processed"]
    assert served * LEAK * 1e6 < limit / 4
    steps = [event["data"] for event in map(json.loads, told.splitlines()) if event["type"].endswith("budget.step")]
    assert (steps[0]["kind"], steps[0]["reason"].startswith("gives up queues")) == ("memory", True), steps[0]
    # Whether pause is taken with it or a second later depends on how quick this machine is.
    assert next(step for step in steps if step["kind"] == "step")["after"]["rate"] == 0, steps
