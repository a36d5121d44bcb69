"""What systemctl prints, and what is made of it."""

import subprocess
from types import SimpleNamespace

import pytest

from agent import unit as module
from agent.unit import ask_unit, parsed

# As systemd 252 prints it, in the emulated machine.
SHOWN = """Type=notify
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
Result=success
ExecMainCode=0
ExecMainStatus=0
MainPID=517
NRestarts=3
StatusText=running: 1 of 1 sources live, 4.0 frames/s, spool 0
NeedDaemonReload=no
StateChangeTimestampMonotonic=1000000
MemoryCurrent=104857600
FragmentPath=/usr/local/lib/systemd/system/vedette.service
DropInPaths=/etc/systemd/system/vedette.service.d/50-box.conf /etc/systemd/system/vedette.service.d/99-own.conf
"""


def shown(**changes):
    lines = dict(line.split("=", 1) for line in SHOWN.splitlines())
    return parsed("vedette.service", "\n".join(f"{key}={value}" for key, value in {**lines, **changes}.items()))


def test_a_running_service():
    unit = shown()
    assert (unit.installed, unit.words, unit.main_pid, unit.restarts, unit.memory) == (True, "active (running)", 517, 3, 104857600)
    assert unit.status_text == "running: 1 of 1 sources live, 4.0 frames/s, spool 0"
    assert len(unit.drop_ins) == 2
    assert unit.since_s > 0


@pytest.mark.parametrize(("changes", "words"), [
    (dict(LoadState="not-found", ActiveState="inactive", SubState="dead"), "not installed"),
    (dict(ActiveState="failed", SubState="failed", Result="exit-code", ExecMainCode="1", ExecMainStatus="78"), "failed (failed, exit code 78)"),
    (dict(ActiveState="failed", SubState="failed", Result="watchdog"), "failed (failed, watchdog)"),
    (dict(ActiveState="activating", SubState="auto-restart", Result="signal", ExecMainStatus="9"), "activating (auto-restart, signal 9)"),
    (dict(ActiveState="deactivating", SubState="stop-post", Result="exit-code", ExecMainStatus="243"), "deactivating (stop-post, exit code 243)"),
    (dict(ActiveState="deactivating", SubState="stop-sigterm"), "deactivating (stop-sigterm)"),
    (dict(ActiveState="inactive", SubState="dead"), "inactive (dead)")])
def test_its_state_in_words(changes, words):
    assert shown(**changes).words == words


@pytest.mark.parametrize(("key", "value", "name"), [
    ("StateChangeTimestampMonotonic", "0", "since_s"), ("MemoryCurrent", "[not set]", "memory"), ("MemoryCurrent", "18446744073709551615", "memory")])
def test_what_systemd_does_not_know_is_none(key, value, name):
    assert getattr(shown(**{key: value}), name) is None


@pytest.mark.parametrize("text", ["", "Failed to connect to bus", "ActiveState=active"])
def test_no_answer(text):
    assert parsed("x", text) is None


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BOOTED", tmp_path)

    def runs(answer):
        def run(*_, **__):
            if isinstance(answer, Exception):
                raise answer
            return answer
        monkeypatch.setattr(module.subprocess, "run", run)
    return runs


def test_asking(systemd):
    systemd(SimpleNamespace(returncode=0, stdout=SHOWN))
    assert ask_unit().main_pid == 517
    for answer in (SimpleNamespace(returncode=1, stdout=SHOWN), subprocess.TimeoutExpired("systemctl", 2), FileNotFoundError("systemctl")):
        systemd(answer)
        assert ask_unit() is None


def test_without_systemd_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_BOOTED", tmp_path / "none")
    assert ask_unit() is None
