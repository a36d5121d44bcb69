"""What the supervisor promises when something goes wrong inside: real processes, real parts, one fault each."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from agent.metrics import prometheus
from agent.snapshot import SCHEMA
from tests.helpers.agent import Agent, source, source_named, write_config, write_recipe


def test_with_every_budget_set_status_answers_and_the_end_is_good(tmp_path, fresh_state, carphone):
    budget = '[budget]\nrate = "15fps"\nwatts = "9W"\nmemory = "600MB"\ncelsius = "85C"\n'
    with Agent(write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), budget, state=fresh_state)) as agent:
        now = agent.until(lambda s: s.found.get("face", 0) > 10)
        assert {name: view.limit for name, view in now.budget.items()} == {"rate": 15, "watts": 9, "memory": 600e6, "celsius": 85}
        assert now.budget["watts"].reading is None
        assert now.budget["memory"].reading > 10e6
        assert "vedette_budget_watts_limit 9" in prometheus(now)
        assert agent.stop() == 0, agent.said()
        assert agent.last().budget["rate"].limit == 15
        assert agent.last().sources[0].skipped["pace"] > 0


def test_one_live_source_is_not_slowed_by_twenty_dead_ones(tmp_path, fresh_state, carphone):
    dead = "".join(source(f"dead{i}", "rtsp://127.0.0.1:1/x") for i in range(20))
    with Agent(write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), dead, state=fresh_state)) as agent:
        agent.until(lambda s: s.found.get("face", 0) > 10 and all(v.state == "down" for v in s.sources if v.name != "car"))
        before = source_named(agent.snapshot(), "car")
        time.sleep(4)
        after = source_named(agent.snapshot(), "car")
        assert agent.stop() == 0
    # It is about the share of its frames, not about speed: nothing else wants the engine. One turn in 21 would be 0.05.
    assert after.processed - before.processed > 0.2 * (after.seen - before.seen)


def test_without_any_picture_it_is_down(tmp_path, fresh_state):
    with Agent(write_config(tmp_path, source("gone", "rtsp://127.0.0.1:1/x"), state=fresh_state)) as agent:
        down = agent.until(lambda s: s.ready and source_named(s, "gone").state == "down")
        assert (down.state, down.exit_code()) == ("down", 2)
        assert agent.stop() == 0
        assert "WARNING agent.supervisor: source gone is down" in agent.said()


def test_a_killed_run_leaves_no_good_word(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with Agent(config) as agent:
        agent.until(lambda s: s.ready)
        assert agent.stop() == 0
        assert (fresh_state / "last-status.json").exists()
    with Agent(config) as agent:
        agent.until(lambda s: s.ready)
        agent.stop(signal.SIGKILL)
    assert not (fresh_state / "last-status.json").exists()


@pytest.fixture
def no_nohup():
    """Where these tests run under nohup, the agent would inherit that; a handler is not inherited."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("no_nohup")
def test_a_hang_up_ends_it_in_good_order(tmp_path, fresh_state, carphone):
    with Agent(write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)) as agent:
        agent.until(lambda s: s.ready)
        assert agent.stop(signal.SIGHUP) == 0, agent.said()
    assert "stopping: SIGHUP" in agent.said()
    assert json.loads((fresh_state / "runs.json").read_bytes())[-1]["ended"] == "stopped"


def test_under_nohup_a_hang_up_is_nothing(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with Agent(config, prefix=["nohup"]) as agent:
        agent.until(lambda s: s.ready)
        agent.process.send_signal(signal.SIGHUP)
        seen = source_named(agent.snapshot(), "car").seen
        agent.until(lambda s: source_named(s, "car").seen > seen + 30)
        assert agent.stop() == 0
    assert "SIGHUP" not in agent.said()


FAULTY = """
import sys, threading, time
from pathlib import Path
from agent import assembly, serving, supervisor
from agent.config import load
from agent.errors import EngineError, SpoolError
from agent.report.spool_db import SpoolFullError
from agent.report.spool_file import SpoolFile
what, path = sys.argv[1:]
def fail(error):
    def raising(*_a, **_k):
        raise error
    return raising
class Faulty(supervisor.Supervisor):
    if what == "main":
        supervisor.ending.leave_word = fail(ZeroDivisionError("a defect in the main thread"))
    if what == "slow prepare, spool dies":
        SpoolFile.commit = fail(SpoolError("the disk is gone"))
        serving.Serving.first = lambda self: time.sleep(60)
    if what == "loader":
        serving.Serving.first = fail(EngineError("no engine today"))
if what == "postprocess":
    real = assembly.pipeline
    def broken(*a, **k):
        loop = real(*a, **k)
        object.__setattr__(loop._model, "head", fail(ZeroDivisionError("a defect in a head")))
        return loop
    assembly.pipeline = broken
if what == "status":
    supervisor.View.snapshot = fail(ZeroDivisionError("a defect in the view"))
if what == "disk full":
    SpoolFile.commit = fail(SpoolFullError("full", "", "the disk is full"))
supervisor.Supervisor = Faulty
try:
    sys.exit(supervisor.run(load(Path(path))))
except supervisor.AgentError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(("what", "code", "says"), [
    ("main", 70, "a defect in the main thread"), ("postprocess", 70, "a defect in a head"), ("loader", 2, "no engine today"),
    ("slow prepare, spool dies", 2, "the disk is gone"), ("disk full", 1, "events are lost"),
])
def test_a_fault_inside_ends_with_its_code_and_its_words(tmp_path, fresh_state, carphone, what, code, says):
    pace = "realtime" if "spool dies" in what else "all"
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?pace={pace}"), state=fresh_state)
    done = subprocess.run([sys.executable, "-c", FAULTY, what, str(config)], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_a_defect_in_answering_does_not_end_the_agent(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with subprocess.Popen([sys.executable, "-c", FAULTY, "status", str(config)], stderr=subprocess.PIPE, text=True) as agent:
        ask = [sys.executable, "-m", "agent", "status", "-c", str(config), "--json"]
        for _ in range(50):
            asked = subprocess.run(ask, capture_output=True, text=True, check=False)
            if "without an answer" in asked.stderr:
                break
            time.sleep(0.1)
        else:
            pytest.fail(asked.stderr)
        assert asked.returncode == 2
        assert agent.poll() is None, "still watching"
        agent.kill()


def test_a_hung_camera_is_told_while_the_engine_is_still_being_prepared(tmp_path, fresh_state):
    """A listener that never answers, and a model that never comes: the reader is given up and status says so."""
    import socket

    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"rtsp://127.0.0.1:{mute.getsockname()[1]}/x"
        far = write_recipe(tmp_path, "far", f"https://127.0.0.1:{mute.getsockname()[1]}/model.onnx", sha256="0" * 64)
        config = write_config(tmp_path, source("mute", url, open_timeout="1s"), far, state=fresh_state)
        with Agent(config) as agent:
            told = agent.until(lambda s: source_named(s, "mute").state == "down", 15)
            assert told.state == "starting"
            assert "fetching" in told.doing
            assert agent.stop(timeout_s=20) == 0


def test_what_status_prints_is_what_the_schema_says(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with Agent(config) as agent:
        agent.until(lambda s: s.ready)
        shown = subprocess.run([sys.executable, "-m", "agent", "status", "-c", str(config), "--json"], capture_output=True, text=True,
                               check=True, env={**os.environ, "LANG": "C"})
        assert json.loads(shown.stdout)["schema"] == SCHEMA
        agent.stop()
