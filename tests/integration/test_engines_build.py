"""`vedette engines build` as a real process that is interrupted, killed and starved of disk, on a small real model."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.building.store import Store
from tests.helpers.engines import pictures, write_recipe
from tests.helpers.marked import Marked

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounting a small tmpfs")


class Box(Marked):
    """A state directory, pictures and a recipe; its commands and their children carry a mark in their environment."""

    def __init__(self, folder, state=None):
        self.folder, self.state = folder, state or folder / "state"
        self.state.mkdir(exist_ok=True)
        write_recipe(folder)
        self.frames = pictures(folder / "frames")
        (folder / "config.toml").write_text(
            f'[engine]\nrecipe = "small"\nrecipes = ["{folder}/recipes"]\nthreads = 1\n[source.a]\nurl = "rtsp://127.0.0.1/a"\n')
        super().__init__()

    def start(self, *arguments, command="build", frames=True):
        name, _, value = self.mark.partition("=")
        names = ["small", *(["--frames", self.frames] if frames else [])] if command == "build" else []
        return subprocess.Popen(
            [sys.executable, "-m", "agent", "engines", command, *names, *arguments, "-c", self.folder / "config.toml", "--state-dir", self.state],
            cwd=ROOT, env={**os.environ, name: value}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments, command="build", frames=True):
        """Return (exit code, stdout, stderr)."""
        process = self.start(*arguments, command=command, frames=frames)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    @property
    def works(self):
        return list(self.state.glob("engines/small/built/.work-*"))

    def serving(self):
        """Forms that would serve, all hashes checked."""
        store = Store(self.state)
        return [str(stored.card.form) for tuning in store.tunings("small") if (stored := store.serving(tuning.parts))]

    def damaged(self):
        """Engines with a card that they do not match; there must never be any."""
        store = Store(self.state)
        return [str(stored.path) for stored in store.all() if store.engine(stored.card.parts, stored.card.form) is None] + [
            str(path) for path in self.state.glob("engines/small/quarantine/*.engine")]


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


PHASES = ("small: frames", "small: convert", "small: build fp32", "small: measure fp32", "small: build int8-fp32", "small: measure int8-fp32: time")


@pytest.mark.parametrize("phase", [PHASES[3], *[pytest.param(phase, marks=pytest.mark.slow) for phase in ("small: preparing", *PHASES[:3], *PHASES[4:])]])
def test_ctrl_c_leaves_no_child_and_no_scraps(box, phase):
    process = box.start()
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(phase):
            break
    assert seen[-1:], "it ended before"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, (out, err)
    assert "interrupted" in err
    assert "Traceback" not in err
    assert box.childless()
    assert box.works == []
    assert box.damaged() == []
    assert box.run("--json")[0] == 0
    assert box.serving() == ["fp32"]


@pytest.mark.slow
def test_killed_at_any_time_it_leaves_whole_engines_no_orphan_and_the_next_build_works(box):
    assert box.run()[0] == 0
    began = time.monotonic()
    assert box.run("--force")[0] == 0
    whole_s = time.monotonic() - began
    rng, killed = random.Random(4), 0
    for number in range(40):
        if killed == 24:
            break
        if fresh := number % 3 == 2:  # as on a box that was never tuned
            shutil.rmtree(box.state / "engines/small/built")
        process = box.start("--force")
        time.sleep(rng.uniform(0.1, 0.95) * whole_s)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert box.childless(), box.children()
        assert box.damaged() == []
        assert all(engine.stat().st_size > 1000 for engine in box.state.glob("engines/small/built/*/*.engine"))
        assert fresh or box.serving() in ([], ["fp32"])
    assert killed >= 20, "too many had ended before"
    code, _, err = box.run("--force")
    assert code == 0, err
    assert box.serving() == ["fp32"]
    assert box.works == []
    assert not list(box.state.glob("engines/small/**/.*.part")), "and what they left is cleared away"


@pytest.mark.slow
def test_what_served_before_a_killed_rebuild_serves_after_it_or_is_whole_anew(box):
    assert box.run()[0] == 0
    for phase in PHASES:
        process = box.start("--force")
        for line in process.stderr:
            if line.startswith(phase):
                break
        process.kill()
        process.communicate()
        assert box.childless()
        assert box.serving() == ["fp32"], phase


def test_two_builds_at_once_take_turns(box):
    first, second = box.start(), box.start()
    answers = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], answers
    assert box.serving() == ["fp32"]
    assert box.damaged() == []
    assert box.works == []


# Disks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"needs the right to mount: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk, but):
    """Take every block of the disk but so many bytes."""
    with (disk / "others").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 65536)
        file.truncate(max(file.tell() - but, 0))


@needs_root
@pytest.mark.parametrize("room", [0, *[pytest.param(room, marks=pytest.mark.slow) for room in (4096, 16_384, 65_536, 262_144, 786_432, 1_048_576)]])
def test_a_full_disk_is_said_and_costs_nothing(tmp_path, disk, room):
    box = Box(tmp_path, disk / "state")
    assert box.run()[0] == 0
    before = box.serving()
    fill(disk, room)
    code, out, err = box.run("--force")
    said = " ".join((out + err).split())
    assert "Traceback" not in err
    if code:
        assert "No space left on device" in said or "disk seems to be full" in said
        assert "mend:" in err
        assert "prune" in err or "room" in err
    assert box.serving() == before == ["fp32"], (code, said)
    assert box.damaged() == []
    assert box.works == []
    assert code == 2 or room > 100_000
    (disk / "others").unlink()
    assert box.run("--force")[0] == 0


@pytest.mark.slow
@needs_root
def test_a_full_disk_on_a_fresh_box_is_said(tmp_path, disk):
    box = Box(tmp_path, disk / "state")
    fill(disk, 0)
    code, _, err = box.run()
    assert code == 2
    assert "Traceback" not in err
    assert "No space left on device" in err
    (disk / "others").unlink()
    assert box.run()[0] == 0


@pytest.mark.slow
@needs_root
def test_a_read_only_disk_is_said_and_what_is_stored_can_be_looked_at(tmp_path, disk):
    box = Box(tmp_path, disk / "state")
    assert box.run()[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, _, err = box.run("--force")
    assert code in {2, 78}
    assert "Read-only file system" in err
    assert "mend:" in err
    assert "Traceback" not in err
    assert box.run(frames=False)[0] == 0, "what is there needs no writing"
    code, out, err = box.run("--json", command="verify")
    assert (code, json.loads(out)[0]["verdict"]) == (0, "whole"), err
    assert box.run(command="prune")[0] == 0
    assert box.serving() == ["fp32"]


def test_a_state_directory_that_is_a_file_is_said(box, tmp_path):
    box.state.rmdir()
    box.state.write_text("no folder")
    code, _, err = box.run()
    assert code in {2, 78}
    assert str(box.state) in err
    assert "Traceback" not in err


# Real TensorRT-RTX, no GPU --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tensorrt_rtx_builds_real_plans_here_and_says_that_they_are_not_measured(box):
    import importlib.util

    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("needs tensorrt_rtx: pip install -e '.[rtx]'")
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU: the plans would be measured")
    code, out, err = box.run("--runtime", "tensorrt_rtx", "--json")
    assert code == 1, err
    report, = json.loads(out)
    outcomes = {rung["form"]: rung["outcome"] for rung in report["rungs"]}
    assert set(outcomes) == {"int8-fp16", "int8-fp16-casts", "int8-fp32", "fp16", "fp32"}
    assert set(outcomes.values()) == {"not measured"}, report["rungs"]
    assert report["kept"] is None
    assert len(list(box.state.glob("engines/small/built/*/*.engine"))) == 5
    assert box.serving() == []
    code, out, _ = box.run("--json", command="verify")
    assert code == 0
    assert {row["verdict"] for row in json.loads(out)} == {"whole"}
