"""The whole agent as a real process: real clip, real engine, real HTTPS."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from agent.cli.receiver import Receiver
from tests.helpers.agent import Agent, ReceiverProcess, source, source_named, upstream, write_config, write_recipe


def test_a_clip_becomes_delivered_reports(tmp_path, fresh_state, carphone):
    with Receiver(tmp_path / "up") as receiver:
        config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?pace=all"), upstream(receiver), state=fresh_state)
        with Agent(config) as agent:
            assert agent.wait() == 0, agent.said()
            last = agent.last()
        events = receiver.events()
    car = source_named(last, "car")
    detections = [event for event in events if event["type"] == "detection"]
    assert (car.seen, car.processed, car.skipped) == (120, 120, {})
    assert len(detections) >= 0.95 * 120
    assert {event["subject"] for event in events} == {"car"}
    assert [event["data"]["frame"]["index"] for event in detections] == sorted({e["data"]["frame"]["index"] for e in detections})
    for event in detections:
        x1, y1, x2, y2 = event["data"]["detections"][0]["box"]
        assert 0 <= x1 < x2 <= 176
        assert 0 <= y1 < y2 <= 144
        assert event["source"] == "urn:vedette:test-box"
    assert [event["data"]["state"] for event in events if event["type"] == "source.state"] == ["live", "ended"]
    assert len({event["id"] for event in events}) == len(events) == last.spool.committed == last.spool.acked
    assert receiver.duplicates == 0
    assert last.found == {"face": sum(len(event["data"]["detections"]) for event in detections)}
    assert last.engine.provider == "CPUExecutionProvider"


def test_it_stops_when_told_and_leaves_word(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with Agent(config) as agent:
        agent.until(lambda s: s.found.get("face", 0) > 3)
        status = subprocess.run([sys.executable, "-m", "agent", "status", "-c", str(config)], capture_output=True, text=True, check=False)
        assert status.returncode == 0, status.stdout + status.stderr
        assert "running" in status.stdout
        assert agent.stop() == 0
        assert agent.last().state == "stopping"
    gone = subprocess.run([sys.executable, "-m", "agent", "status", "-c", str(config)], capture_output=True, text=True, check=False)
    assert gone.returncode == 2
    assert "no agent answers" in gone.stderr
    assert "stopped in good order" in gone.stderr


def test_it_stops_when_told_while_a_model_is_still_on_its_way(tmp_path, carphone):
    with socket.socket() as mute:  # accepts, and never says a word
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        far = write_recipe(tmp_path, "far", f"https://127.0.0.1:{mute.getsockname()[1]}/model.onnx", sha256="0" * 64)
        config = write_config(tmp_path, source("car", carphone.as_uri()), far)
        with Agent(config) as agent:
            agent.until(lambda s: s.state == "starting" and s.sources, what="it starts")
            assert agent.snapshot().exit_code() == 2
            mute.settimeout(20)
            connection, _ = mute.accept()
            with connection:
                assert agent.stop(timeout_s=10) == 0
        assert "Traceback" not in agent.said()


def test_a_second_agent_on_the_same_state_is_refused(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path / "a", source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    other = write_config(tmp_path / "b", source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
    with Agent(config) as agent:
        agent.until(lambda s: s.ready)
        with Agent(other) as second:
            assert second.wait() == 2
            assert str(agent.process.pid) in second.said()
        assert agent.stop() == 0


def test_what_was_committed_before_a_kill_arrives_after_the_next_start(tmp_path, fresh_state, carphone):
    with Receiver(tmp_path / "up") as receiver:
        offline = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), state=fresh_state)
        with Agent(offline) as agent:
            committed = agent.until(lambda s: s.spool.committed > 40).spool.committed
            agent.stop(signal.SIGKILL)
        with Agent(write_config(tmp_path, source("car", f"{carphone.as_uri()}?pace=all"), upstream(receiver), state=fresh_state)) as agent:
            assert agent.wait() == 0, agent.said()
        runs = {}
        for event in receiver.events():
            run, _, number = event["id"].rpartition("-")
            runs.setdefault(run, set()).add(int(number))
    assert len(runs) == 2
    first = min(runs.values(), key=len)
    assert first >= set(range(1, committed + 1))


@pytest.mark.parametrize("outage_s", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_an_upstream_that_was_away_gets_everything(tmp_path, fresh_state, carphone, outage_s):
    with ReceiverProcess(tmp_path / "up") as up:
        config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), upstream(up), state=fresh_state)
        with Agent(config) as agent:
            agent.until(lambda s: s.upstream.delivered_events > 10)
            up.kill()
            down = agent.until(lambda s: s.upstream.state == "retrying", what="the outage is said")
            assert down.exit_code() == 1
            assert any("upstream is retrying" in problem for problem in down.problems)
            time.sleep(outage_s)
            waiting = agent.snapshot()
            assert waiting.spool.depth > 15 * outage_s
            assert waiting.sources[0].processed_rate > 15, "the loop goes on"
            assert "connection refused" in waiting.upstream.reason
            up.start()
            agent.until(lambda s: s.spool.depth < 40 and s.upstream.state in {"idle", "sending"}, what="the backlog is delivered")
            assert agent.stop() == 0, agent.said()
            last, events = agent.last(), up.events()
    ids = [event["id"] for event in events]
    assert len(ids) == len(set(ids)) == last.spool.committed
    assert {int(i.rpartition("-")[2]) for i in ids} == set(range(1, last.spool.committed + 1))


@pytest.mark.slow
@pytest.mark.alone
def test_the_demo_twice_the_second_time_without_a_network(tmp_path):
    out = tmp_path / "out"
    first = subprocess.run([sys.executable, "-m", "agent", "demo", "--out", str(out)], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    # pip has nowhere to go: a download would fail.
    nowhere = {**os.environ, "PIP_INDEX_URL": "https://127.0.0.1:1/", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nonexistent"}
    second = subprocess.run([sys.executable, "-m", "agent", "demo", "--out", str(out)], capture_output=True, text=True, check=False,
                            env=nowhere)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (out / "faces.jpg").read_bytes()[:2] == b"\xff\xd8"
    events = [json.loads(line) for line in (out / "received/events.ndjson").read_text().splitlines()]
    found = [event for event in events if event["type"] == "detection"]
    last = json.loads((out / "state/last-status.json").read_text())
    assert len(found) >= 0.95 * last["sources"][0]["processed"] > 100
