"""`vedette status`: the last word of an agent that is gone, and watching without a terminal."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest

from agent.cli import main
from agent.snapshot import LAST_STATUS
from agent.status import StatusServer
from tests.unit.cli.test_screen import camera, queue, snapshot


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.toml").write_text(f"""
[device]
state_dir = "{tmp_path}"
runtime_dir = "{tempfile.mkdtemp(prefix='vt-')}"
[source.door]
url = "rtsp://camera/1"
""")
    return tmp_path / "config.toml"


@pytest.fixture
def served(tmp_path):
    socket = Path(tempfile.mkdtemp(prefix="vt-"), "s.sock")
    server = StatusServer(socket, lambda: snapshot([camera("gate")]), lambda: True)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield socket
    server.close()
    thread.join(5)


@pytest.mark.parametrize(("left", "said"), [
    ({LAST_STATUS: msgspec.json.encode(snapshot(problems=["gate is down"])), "spool.sqlite": b""}, ["in good order at", "gate is down"]),
    ({"spool.sqlite": b""}, ["left no word: it was killed, it crashed, the power failed or its disk was full", "vedette spool verify"]),
    ({LAST_STATUS: msgspec.json.encode(snapshot(spool=queue(depth=7, dead=3)))}, ["in good order at", "7 events and 3 dead letters left in the spool"]),
    ({LAST_STATUS: b"{", "spool.sqlite": b""}, ["last-status.json cannot be read"]),
    ({}, []),
])
def test_the_last_word_of_an_agent_that_is_gone(tmp_path, config, capsys, left, said):
    for name, content in left.items():
        (tmp_path / name).write_bytes(content)
    assert main(["status", "-c", str(config)]) == 2
    words = capsys.readouterr().err
    assert "no agent answers" in words
    for part in said:
        assert part in words
    assert ("last run" in words) == any("order" in part or "left no word" in part for part in said)
    assert main(["status", "-c", str(config), "--socket", str(tmp_path / "elsewhere")]) == 2
    assert "last run" not in capsys.readouterr().err, "another socket may be another agent's"


def test_an_agent_that_hangs_is_not_called_dead(tmp_path, config, capsys, monkeypatch):
    from agent.errors import AgentError

    def hangs(_path):
        raise AgentError("accepts but does not answer") from TimeoutError()

    (tmp_path / "spool.sqlite").touch()
    monkeypatch.setattr("agent.cli.status.fetch", hangs)
    assert main(["status", "-c", str(config)]) == 2
    assert "left no word" not in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_watching_without_a_terminal_prints_again_and_again(served, as_json):
    process = subprocess.Popen([sys.executable, "-m", "agent", "status", "--watch", "--socket", str(served), *(["--json"] if as_json else [])],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        seen = 0
        while seen < 2:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            seen += line.startswith('{"schema"' if as_json else "vedette 1.2.3 on box")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()
