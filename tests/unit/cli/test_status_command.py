"""`vedette status`: the last word of an agent that is gone, and watching without a terminal."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest

from agent.asking import NoAnswer
from agent.cli import main
from agent.cli.absent import absent_lines
from agent.cli.status import _place
from agent.cli.words import span
from agent.errors import AgentError, ConfigError
from agent.snapshot import LAST_STATUS, SCHEMA, EndView
from agent.status import StatusServer
from tests.unit.cli.test_screen import camera, queue, snapshot
from tests.unit.test_asking import answering, unit


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
    server = StatusServer(socket, lambda: snapshot([camera("gate")], pid=os.getpid()), lambda: True)
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
    (tmp_path / "spool.sqlite").touch()
    monkeypatch.setattr("agent.asking.ask", hangs)
    assert main(["status", "-c", str(config)]) == 2
    said = capsys.readouterr().err
    assert "hung: " in said
    assert "left no word" not in said


def hangs(*_):
    raise AgentError("accepts but does not answer") from TimeoutError()


def test_json_has_an_object_when_nobody_answers_too(tmp_path, config, capsys):
    (tmp_path / "spool.sqlite").touch()
    assert main(["status", "--json", "-c", str(config)]) == 2
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert (answer["answer"], answer["state"], answer["schema"], answer["unit"]) == (None, "down", SCHEMA, None)
    assert answer["last_words"][0].startswith("the last run left no word")
    assert "vedette: down: no agent answers" in said.err


@pytest.mark.parametrize("broken", ["nonsense = 1", "[device", "[source.a]\nurl = 'ftp://x'", None])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_configuration_that_cannot_be_used_is_no_reason_not_to_ask_the_service(tmp_path, served, capsys, monkeypatch, broken, as_json):
    usual = tmp_path / "etc/config.toml"
    usual.parent.mkdir()
    usual.write_text(broken or "")
    if broken is None:  # there, but not for this user
        def refuse(*_, **__):
            raise ConfigError(f"{usual}: Permission denied", "read it as root")
        monkeypatch.setattr("agent.cli.options.load", refuse)
    for module in ("options", "status"):
        monkeypatch.setattr(f"agent.cli.{module}.DEFAULT_PATH", usual)
    monkeypatch.setattr("agent.cli.absent.DEFAULT_PATH", usual)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(served.parent))
    served.rename(served.parent / "status.sock")
    assert main(["status", *(["--json"] if as_json else [])]) == 0
    said = capsys.readouterr()
    assert "the configuration cannot be used, asking on " in said.err
    assert str(usual) in said.err
    assert "gate" in said.out


@pytest.mark.parametrize(("text", "asked"), [
    ("[spool]\nmax_age = 'soon'\n[status]\nsocket = '{served}'", "own"),
    ("[spool]\nmax_age = 'soon'\n[device]\nruntime_dir = '{served.parent}'", "own"),
    ("[spool]\nmax_age = 'soon'", "usual")])
def test_another_file_that_cannot_be_used_is_said_and_the_agent_asked_all_the_same(tmp_path, served, capsys, monkeypatch, text, asked):
    socket = served.rename(served.parent / "status.sock")
    if asked == "usual":
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(served.parent))
    trial = tmp_path / "trial.toml"
    trial.write_text(text.replace("{served}", str(socket)).replace("{served.parent}", str(socket.parent)))
    assert main(["status", "-c", str(trial)]) == 0
    said = capsys.readouterr()
    assert f"the configuration cannot be used, asking on {socket} all the same: {trial}: " in said.err
    assert "  mend: " in said.err
    assert "gate" in said.out


@pytest.mark.parametrize("kind", ["unknown key", "no TOML", "overlay", "folder", "below a file"])
def test_another_file_that_does_not_tell_where_to_ask_is_refused(tmp_path, served, capsys, monkeypatch, kind):
    served.rename(served.parent / "status.sock")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(served.parent))  # who answers there is not the agent that is meant
    trial = tmp_path / "trial.toml"
    match kind:
        case "folder":
            trial.mkdir()
        case "below a file":
            tmp_path.joinpath("file").touch()
            trial = tmp_path / "file/trial.toml"
        case "overlay":
            trial.touch()
            tmp_path.joinpath("conf.d").mkdir()
            tmp_path.joinpath("conf.d/10.toml").write_text("[status")
        case _:
            trial.write_text({"unknown key": "[status]\nnonsense = 1", "no TOML": "[status"}[kind])
    assert main(["status", "-c", str(trial)]) == 78
    assert main(["status", "--check", "-c", str(trial)]) == 3
    said = capsys.readouterr()
    assert "VEDETTE UNKNOWN - " in said.out
    assert "gate" not in said.out


def test_overlays_of_a_file_that_cannot_be_used_tell_where_to_ask_as_well(tmp_path, served, capsys):
    tmp_path.joinpath("conf.d").mkdir()
    trial = tmp_path / "trial.toml"
    trial.touch()
    tmp_path.joinpath("conf.d/10.toml").write_text(f"[status]\nsocket = '{served}'")
    tmp_path.joinpath("conf.d/20.toml").write_text("[spool]\nmax_age = 'soon'")
    assert main(["status", "-c", str(trial)]) == 0
    said = capsys.readouterr()
    assert "gate" in said.out
    assert "spool.max_age" in said.err


@pytest.mark.parametrize("own", [True, False])
def test_systemd_is_asked_where_the_socket_is_the_services(tmp_path, monkeypatch, own):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    (tmp_path / "trial.toml").write_text("" if own else "[status]\nsocket = 'a.sock'")
    place, fault = _place(tmp_path / "trial.toml", None)
    assert (place.service, fault) == (own, None)


def test_where_a_relative_state_directory_is(tmp_path):
    (tmp_path / "trial.toml").write_text("nonsense = 1\n[device]\nstate_dir = 'state'")
    place, fault = _place(tmp_path / "trial.toml", None)
    assert place.state_dir == tmp_path / "state"
    assert "nonsense" in str(fault)


def test_a_relative_socket_of_a_file_that_cannot_be_used_starts_where_the_file_is(tmp_path, capsys):
    (tmp_path / "trial.toml").write_text("nonsense = 1\n[status]\nsocket = 'a.sock'")
    assert main(["status", "-c", str(tmp_path / "trial.toml")]) == 2
    assert f"no agent answers on {tmp_path / 'a.sock'}" in capsys.readouterr().err


def test_another_file_that_is_not_there_is_an_error(tmp_path, capsys):
    assert main(["status", "-c", str(tmp_path / "trial.toml")]) == 78
    assert "no such file" in capsys.readouterr().err


def test_with_a_socket_no_configuration_is_read(served, capsys, monkeypatch):
    monkeypatch.setenv("VEDETTE_CONFIG", "/nowhere/config.toml")
    assert main(["status", "--socket", str(served)]) == 0
    assert "gate" in capsys.readouterr().out


@pytest.mark.parametrize(("found", "says"), [
    (dict(active_state="failed", sub_state="failed", result="watchdog", restarts=3),
     ["vedette: failed: no agent answers on ", "systemd: vedette.service is failed (failed, watchdog) for 12 s, 3 restarts", "mend: `journalctl -u vedette"]),
    (dict(active_state="activating", sub_state="start", status_text="building 3 of 7"),
     ["vedette: starting: ", "it is starting: building 3 of 7", "systemd: vedette.service is activating (start) for 12 s, it said: building 3 of 7"]),
    (dict(active_state="activating", sub_state="auto-restart", result="oom-kill", restarts=1),
     ["vedette: restarting: ", "activating (auto-restart, oom-kill) for 12 s, 1 restart, starts again by itself"]),
    (dict(active_state="inactive", sub_state="dead", since_s=None, need_reload=True), ["vedette: down: ", "inactive (dead), its files have changed: `sudo systemctl daemon-reload`"]),
    (dict(load_state="not-found"), ["vedette: down: ", "systemd: vedette.service is not installed"]),
])
def test_what_systemd_says_of_the_service_is_said(capsys, monkeypatch, found, says):
    nowhere = Path(tempfile.mkdtemp(prefix="vt-"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(nowhere))
    monkeypatch.setenv("STATE_DIRECTORY", str(nowhere))
    monkeypatch.setattr("agent.asking.ask_unit", lambda **_: unit(**found))
    assert main(["status", "--socket", str(nowhere / "status.sock")]) == 2
    said = capsys.readouterr().err
    for part in says:
        assert part in said
    assert main(["status", "--json", "--socket", str(nowhere / "status.sock")]) == 2
    assert json.loads(capsys.readouterr().out)["unit"]["name"] == "vedette.service"


def test_of_another_version_it_shows_what_it_can(capsys, tmp_path):
    path = Path(tempfile.mkdtemp(prefix="vt-"), "s.sock")
    answering(path, b'{"schema": 7, "version": "9.1", "state": "degraded", "problems": ["gate is frozen"]}')
    assert main(["status", "--socket", str(path)]) == 2
    said = capsys.readouterr().err
    for part in ("other version: ", "is vedette 9.1, this command is", "it says of itself: degraded", "its problem: gate is frozen", "mend: "):
        assert part in said


def test_the_screen_says_which_version_runs_and_what_else_is_odd(served, capsys, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(served.parent))
    monkeypatch.setattr("agent.asking.ask_unit", lambda **_: unit(active_state="failed", sub_state="failed", result="exit-code", exec_status=78, main_pid=0))
    served.rename(served.parent / "status.sock")
    assert main(["status", "--socket", str(served.parent / "status.sock")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note the agent is vedette 1.2.3 (schema 2), this command" in said
    assert "is there a second agent?" in said


def test_down_is_told_without_what_is_heavy(tmp_path):
    code = ("import sys; from agent.cli import main; code = main(['status', '--check', '--socket', sys.argv[1]]); "
            "heavy = {'numpy', 'cv2', 'rich', 'requests', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy; sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")


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


def test_a_start_that_failed_is_told_apart_from_the_last_run():
    answer = NoAnswer(schema=SCHEMA, answer=None, state="failed", why="why", mend="mend", socket="/s", asked_by="1",
                      last_end=EndView(at=None, how="no-start", words="it never began its work"), last_words=["the last run stopped in good order"])
    lines = absent_lines(answer)
    assert sum("the last run" in line for line in lines) == 1
    assert any("the last start failed" in line and "it never began its work" in line for line in lines)


def test_no_span_is_none():
    assert span(0.0) == span(0.0004) == "<1 ms"
