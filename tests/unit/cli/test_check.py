"""`vedette status --check`: what a Nagios plugin must print and return, case by case."""

import re
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest

from agent.asking import NoAnswer
from agent.cli import main
from agent.cli.check import CRITICAL, OK, UNKNOWN, WARNING, Limits, judge
from agent.errors import ConfigError
from agent.snapshot import SCHEMA, EndView
from agent.status import StatusServer
from tests.unit.cli.test_screen import camera, queue, snapshot
from tests.unit.test_asking import answering, listening, unit

# https://nagios-plugins.org/doc/guidelines.html: 'label'=value[UOM];[warn];[crit];[min];[max]
PERFDATA = re.compile(r"([a-z0-9_]+)=(-?[0-9.]+)(s?)((?:;[0-9.]*){0,4})")


def well(**changes):
    sources = changes.pop("sources", [camera("gate", last_frame_age_s=0.04), camera("yard")])
    return snapshot(sources, **{**dict(state="running", uptime_s=3 * 86400.0 + 7300, state_since_s=3 * 86400.0 + 7200, spool=queue(depth=0)),
                                **changes})


def absent(state, **changes):
    return NoAnswer(**{**dict(schema=SCHEMA, answer=None, state=state, why="why|it is", mend="mend it", socket="/s", asked_by="1"), **changes})


def test_all_is_well_in_one_line():
    verdict = judge(well(), Limits(warn_spool=1000, crit_spool=5000, warn_age=60, crit_age=600.5))
    assert verdict.code == OK
    assert verdict.text == (
        "VEDETTE OK - running 3 d 2 h, 2 of 2 sources live, 15.0 fps | fps=15.0;;;0 spool=0;1000;5000;0 spool_age=0s;60;600.5;0 "
        "frame_age=0.04s;60;600.5;0 p99_ms=3;;;0 live=2;;;0;2")


@pytest.mark.parametrize(("changes", "code", "says"), [
    ({}, OK, "running"),
    ({"state": "degraded", "problems": ["source gate is frozen", "second|one"]}, WARNING, "source gate is frozen"),
    ({"state": "starting", "doing": "building a quick engine", "ready": False, "uptime_s": 60.0}, WARNING, "(building a quick engine)"),
    ({"state": "stopping", "ready": False}, WARNING, "stopping"),
    ({"state": "down", "problems": ["source gate is down"]}, CRITICAL, "source gate is down"),
    ({"state": "a new word"}, WARNING, "a new word"),
])
def test_the_agents_state(changes, code, says):
    verdict = judge(well(**changes), Limits())
    first, *rest = verdict.text.splitlines()
    assert (verdict.code, says in first) == (code, True)
    assert first.count("|") == 1
    assert rest == [problem.replace("|", "/") for problem in changes.get("problems", [])]


OLD = queue(depth=50, oldest_age_s=100.0)
SILENT = [camera("gate", last_frame_age_s=30.0), camera("clip", "ended", last_frame_age_s=9000.0)]
NEVER = [camera("gate", last_frame_age_s=None)]


@pytest.mark.parametrize(("changes", "limits", "code", "says"), [
    ({"spool": OLD}, Limits(warn_spool=50), OK, ""), ({"spool": OLD}, Limits(warn_spool=49), WARNING, "WARNING: 50 events wait in the spool, more than 49"),
    ({"spool": OLD}, Limits(warn_spool=10, crit_spool=49), CRITICAL, "CRITICAL: 50 events wait"), ({"spool": OLD}, Limits(crit_spool=50), OK, ""),
    ({"spool": OLD}, Limits(warn_age=100), OK, ""), ({"spool": OLD}, Limits(warn_age=99.5), WARNING, "the oldest event not yet delivered is 100 s old"),
    ({"spool": OLD}, Limits(crit_age=99), CRITICAL, "the oldest event"),
    ({"spool": queue(depth=0, oldest_age_s=None)}, Limits(crit_age=0.1), OK, ""),
    ({"spool": queue(depth=3, oldest_age_s=None)}, Limits(crit_age=0.1), OK, ""),
    ({"spool": None}, Limits(crit_spool=0, crit_age=0.1), OK, ""),
    ({"sources": SILENT}, Limits(warn_age=31, crit_age=60), OK, ""), ({"sources": SILENT}, Limits(warn_age=29), WARNING, "the last frame of gate is 30 s old"),
    ({"sources": SILENT}, Limits(crit_age=29), CRITICAL, "the last frame of gate"), ({"sources": NEVER}, Limits(crit_age=60), CRITICAL, "gate has given no frame yet, for"),
    ({"sources": []}, Limits(crit_age=60), OK, ""),
])
def test_limits(changes, limits, code, says):
    verdict = judge(well(**changes), limits)
    assert verdict.code == code
    assert says in verdict.text.splitlines()[-1] if says else len(verdict.text.splitlines()) == 1


def test_what_is_not_known_has_no_performance_data():
    labels = [part.split("=")[0] for part in judge(well(spool=None, sources=[], stages={}), Limits()).perfdata]
    assert labels == ["fps", "live"]


@pytest.mark.parametrize("answer", [well(), well(spool=OLD, sources=SILENT), well(spool=None, sources=[])])
def test_performance_data_keeps_to_the_format(answer):
    for part in judge(answer, Limits(warn_spool=3, crit_age=1e6)).perfdata:
        assert PERFDATA.fullmatch(part), part


@pytest.mark.parametrize(("answer", "code"), [
    (absent("down"), UNKNOWN), (absent("down", unit=unit(load_state="not-found")), UNKNOWN), (absent("down", unit=unit()), CRITICAL),
    (absent("down", last_words=["the last run left no word"]), CRITICAL), (absent("down", last_end=EndView(at=None, how="power", words="x")), CRITICAL),
    (absent("failed", unit=unit()), CRITICAL), (absent("restarting"), CRITICAL), (absent("hung"), CRITICAL), (absent("unheard"), CRITICAL),
    (absent("starting"), WARNING), (absent("stopping"), WARNING), (absent("busy"), UNKNOWN), (absent("not_permitted"), UNKNOWN),
    (absent("other_version", agent_state="running"), UNKNOWN), (absent("foreign"), UNKNOWN),
])
def test_nobody_answers(answer, code):
    verdict = judge(answer, Limits(crit_spool=0))
    first, *rest = verdict.text.splitlines()
    assert verdict.code == code
    assert first == f"VEDETTE {('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')[code]} - {answer.state.replace('_', ' ')}: why/it is"
    assert "mend: mend it" in rest


@pytest.mark.parametrize(("uptime_s", "code"), [(1700.0, WARNING), (1900.0, CRITICAL)])
def test_one_that_starts_for_half_an_hour_is_critical(uptime_s, code):
    assert judge(well(state="starting", ready=False, uptime_s=uptime_s), Limits()).code == code


def test_a_camera_that_gave_no_frame_has_no_age_in_the_figures():
    never = well(sources=[camera("door", "down", last_frame_age_s=None)])
    verdict = judge(never, Limits(warn_age=1.0))
    assert "frame_age" not in verdict.text
    assert "door has given no frame yet" in verdict.text


@pytest.fixture
def socket():
    return Path(tempfile.mkdtemp(prefix="vt-"), "s.sock")


@pytest.mark.parametrize(("ends", "code"), [
    ([], WARNING), (["failed"], WARNING), (["failed", "failed"], CRITICAL), (["stopped", "watchdog", "failed"], CRITICAL), (["failed", "stopped"], WARNING),
    (["failed", "power"], WARNING), (["no-start", "no-start"], WARNING), (["signal", "no-start"], WARNING)])
def test_one_that_only_starts_and_ends_is_critical(ends, code):
    starting = well(state="starting", ready=False, uptime_s=60.0, ends=[EndView(at=None, how=how, words=how) for how in ends])
    assert judge(starting, Limits()).code == code


def test_the_command_prints_it_and_returns_its_code(socket, capsys):
    server = StatusServer(socket, lambda: well(spool=OLD), lambda: True)
    thread = threading.Thread(target=server.serve)
    thread.start()
    assert main(["status", "--check", "--socket", str(socket)]) == 0
    assert main(["status", "--check", "--socket", str(socket), "--warn-spool", "5"]) == 1
    assert main(["status", "--check", "--socket", str(socket), "--crit-age", "5"]) == 2
    server.close()
    thread.join(5)
    assert main(["status", "--check", "--socket", str(socket)]) == 3
    said = capsys.readouterr()
    assert [line.split(" - ")[0] for line in said.out.splitlines() if line.startswith("VEDETTE")] == [
        "VEDETTE OK", "VEDETTE WARNING", "VEDETTE CRITICAL", "VEDETTE UNKNOWN"]
    assert said.err == ""


def test_it_takes_three_seconds_at_most(socket, capsys, monkeypatch):
    def slow(timeout_s, **_):
        time.sleep(timeout_s)

    monkeypatch.setattr("agent.asking.ask_unit", slow)
    monkeypatch.setattr("agent.config.Config.socket_path", property(lambda _: socket))
    began = time.monotonic()
    with listening(socket):
        assert main(["status", "--check", "--socket", str(socket)]) == 2
    assert 2.0 < time.monotonic() - began <= 3.0
    assert "VEDETTE CRITICAL - hung" in capsys.readouterr().out


@pytest.mark.parametrize(("state", "code", "word"), [("running", 1, "WARNING"), ("down", 2, "CRITICAL")])
def test_a_configuration_that_cannot_be_used_is_a_warning_whatever_the_agent_says(socket, tmp_path, capsys, state, code, word):
    (tmp_path / "c.toml").write_text(f"nonsense = 1\n[status]\nsocket = '{socket}'")
    answering(socket, msgspec.json.encode(snapshot(state=state)))
    assert main(["status", "--check", "-c", str(tmp_path / "c.toml")]) == code
    said = capsys.readouterr().out
    assert said.startswith(f"VEDETTE {word} - {state}")
    assert "its configuration cannot be used, so it would not start again |" in said
    assert "nonsense" in said
    assert "mend: " in said


def test_a_configuration_that_this_user_may_not_read_is_no_fault(socket, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise ConfigError("c.toml: cannot be read: Permission denied", "check its owner and mode") from PermissionError()
    (tmp_path / "c.toml").touch()
    monkeypatch.setattr("agent.cli.options.load", refuse)
    monkeypatch.setattr("os.access", lambda *_, **__: False)  # the tests run as root, who may read everything
    monkeypatch.setattr("agent.cli.absent.DEFAULT_PATH", tmp_path / "c.toml")
    monkeypatch.setattr("agent.config.Config.socket_path", property(lambda _: socket))
    answering(socket, msgspec.json.encode(snapshot(state="running")))
    assert main(["status", "--check", "-c", str(tmp_path / "c.toml")]) == 0
    assert "configuration" not in capsys.readouterr().out


def test_a_folder_in_its_place_is_a_fault(socket, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("agent.cli.absent.DEFAULT_PATH", tmp_path)
    monkeypatch.setattr("agent.config.Config.socket_path", property(lambda _: socket))
    answering(socket, msgspec.json.encode(snapshot(state="running")))
    assert main(["status", "--check", "-c", str(tmp_path)]) == 1
    assert "its configuration cannot be used" in capsys.readouterr().out


def test_a_configuration_that_is_not_there_is_unknown(tmp_path, capsys):
    assert main(["status", "--check", "-c", str(tmp_path / "c.toml")]) == 3
    assert "VEDETTE UNKNOWN - " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--check", "--watch"], ["--check", "--json"], ["--schema", "--check"], ["--warn-spool", "3"], ["--check", "--warn-age", "-1"]])
def test_options_that_do_not_go_together(arguments, capsys):
    assert main(["status", *arguments]) == 64
    assert capsys.readouterr().err
