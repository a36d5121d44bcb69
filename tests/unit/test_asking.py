"""When no agent answers: which of the reasons it is, from real sockets, real processes and what systemd says."""

import grp
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from agent import __version__
from agent.asking import NoAnswer, Place, hang, look, stranger_note, version_note
from agent.errors import AgentError
from agent.runs import FILE, Run
from agent.snapshot import LAST_STATUS, SCHEMA, Snapshot
from agent.unit import Unit
from tests.unit.cli.test_screen import camera, queue, snapshot


def unit(**changes):
    return Unit(**{**dict(
        name="vedette.service", load_state="loaded", active_state="active", sub_state="running", unit_file_state="enabled", result="success", exec_code=0,
        exec_status=0, main_pid=17, restarts=0, since_s=12.0, status_text="", need_reload=False, memory=None, file="", drop_ins=()), **changes})


@pytest.fixture
def path():
    return Path(tempfile.mkdtemp(prefix="vt-"), "status.sock")


@pytest.fixture
def systemd(monkeypatch):
    """Let systemd say what the test wants; None when it was not asked."""
    asked = []

    def says(found):
        monkeypatch.setattr("agent.asking.ask_unit", lambda **_: asked.append(found) or found)
        return asked
    says(None)
    return says


def listening(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    return closing(listener)


def answering(path, answer):
    """Give one answer, then be gone."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()

    def serve():
        client = listener.accept()[0]
        client.recv(1000)
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + answer if isinstance(answer, bytes) else msgspec.json.encode(answer))
        client.close()
        listener.close()
    threading.Thread(target=serve).start()


@pytest.mark.parametrize(("found", "state", "mend"), [
    (None, "down", "`vedette run`"),
    (dict(load_state="not-found", active_state="inactive", sub_state="dead"), "down", "not installed"),
    (dict(active_state="inactive", sub_state="dead", main_pid=0), "down", "`sudo systemctl start vedette`"),
    (dict(active_state="inactive", sub_state="dead", main_pid=0, unit_file_state="disabled"), "down", "`sudo systemctl enable --now vedette`"),
    (dict(active_state="failed", sub_state="failed", result="watchdog"), "failed", "`journalctl -u vedette -n 50` says why; then `sudo systemctl start vedette`"),
    (dict(active_state="failed", sub_state="failed", result="exit-code", exec_status=78), "failed", "`sudo vedette config check`"),
    (dict(active_state="failed", sub_state="failed", result="exit-code", exec_status=70), "failed", "journalctl"),
    (dict(active_state="activating", sub_state="start"), "starting", "wait"),
    (dict(active_state="activating", sub_state="auto-restart", result="signal"), "restarting", "starts it again by itself"),
    (dict(active_state="deactivating", sub_state="stop-sigterm"), "stopping", "wait"),
    (dict(active_state="deactivating", sub_state="stop-post", result="watchdog"), "restarting", "starts it again by itself"),
    (dict(active_state="deactivating", sub_state="stop-post", result="exit-code", exec_status=243), "restarting", "vedette-setup"),
    (dict(active_state="deactivating", sub_state="stop-post", result="exit-code", exec_status=78), "failed", "`sudo vedette config check`"),
    (dict(active_state="deactivating", sub_state="stop-post", result="exit-code", exec_status=64), "failed", "`systemctl cat vedette`"),
    (dict(), "unheard", "--socket PATH"),
])
@pytest.mark.parametrize("stale", [False, True])
def test_nobody_is_at_the_socket_and_systemd_says_why(path, systemd, found, state, mend, stale):
    if stale:
        listening(path).__enter__().close()
    systemd(found if found is None else unit(**found))
    answer = look(Place(path, service=True))
    assert (answer.state, answer.answer, answer.exit_code()) == (state, None, 2)
    assert mend in answer.mend
    assert f"no agent answers on {path}" in answer.why
    assert answer.unit == (found if found is None else unit(**found))


def test_starting_says_what_it_does(path, systemd):
    systemd(unit(active_state="activating", sub_state="start", status_text="building a quick engine 3 of 7"))
    assert "building a quick engine 3 of 7" in look(Place(path, service=True)).why


def test_systemd_is_not_asked_about_an_agent_that_is_not_the_service_nor_when_one_answers(path, systemd):
    asked = systemd(unit(active_state="failed"))
    assert look(Place(path)).state == "down"
    answering(path, msgspec.json.encode(snapshot()))
    assert isinstance(look(Place(path, service=True)), Snapshot)
    assert asked == []


def test_it_takes_the_question_and_does_not_answer(path, systemd):
    with listening(path):
        began = time.monotonic()
        answer = look(Place(path, service=True), timeout_s=0.3)
    assert 0.3 <= time.monotonic() - began < 1.0
    assert (answer.state, answer.pid) == ("hung", os.getpid())
    assert f"process {os.getpid()} hangs" in answer.why


def test_its_queue_is_full(path):
    with listening(path) as listener:
        listener.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(os.fspath(path))
        answer = look(Place(path), timeout_s=0.3)
        for client in waiting:
            client.close()
    assert answer.state == "hung"
    assert "its queue is full" in answer.why


def test_its_process_is_stopped(path, systemd):
    code = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        systemd(unit(main_pid=process.pid))
        answer = look(Place(path, service=True), timeout_s=0.3)
    finally:
        process.kill()
        process.communicate()
    assert answer.state == "hung"
    assert f"process {process.pid} is stopped" in answer.why
    assert f"kill -CONT {process.pid}" in answer.mend
    assert "watchdog" in answer.mend


@pytest.mark.parametrize(("said", "version", "state", "problems"), [
    ({"schema": 9, "version": "7.0", "state": "degraded", "problems": ["gate is down", 3], "pid": 5}, "7.0", "degraded", ["gate is down"]),
    ({"schema": "x"}, None, None, []),
    ({"version": 3, "state": [], "problems": "none"}, None, None, []),
])
def test_of_another_versions_answer_it_reads_what_it_can(path, said, version, state, problems):
    answering(path, msgspec.json.encode(said))
    answer = look(Place(path))
    assert (answer.state, answer.version, answer.agent_state, answer.problems) == ("other_version", version, state, problems)
    assert f"is {f'vedette {version}' if version else 'an unknown version'}, this command is {__version__}" in answer.why
    assert answer.asked_by == __version__


def test_an_answer_of_a_later_version_that_can_be_read_is_one_and_that_is_told(path):
    later = {**msgspec.to_builtins(snapshot(version="9.9")), "schema": SCHEMA + 1, "news": [1, 2]}
    answering(path, msgspec.json.encode(later))
    answer = look(Place(path))
    assert answer.version == "9.9"
    told, = version_note(answer)
    assert f"vedette 9.9 (schema {SCHEMA + 1}), this command {__version__} (schema {SCHEMA})" in told
    assert list(version_note(snapshot(version=__version__))) == []


@pytest.mark.parametrize(("answer", "state"), [(b"{", "foreign"), (b"[]", "foreign"), (b"", "foreign")])
def test_what_is_no_answer_of_an_agent(path, answer, state):
    answering(path, answer)
    assert look(Place(path)).state == state


@pytest.mark.parametrize(("raw", "state"), [(b"SSH-2.0\r\n\r\n", "foreign"), (b"HTTP/1.0 503 Service Unavailable\r\n\r\nbusy", "busy"), (b"", "busy")])
def test_what_answers_otherwise(path, raw, state):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()

    def serve():
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            client.sendall(raw)
            client.recv(100)
            client.close()
    thread = threading.Thread(target=serve)
    thread.start()
    assert look(Place(path), timeout_s=0.3).state == state
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.mark.parametrize(("member", "says"), [(False, "`sudo usermod -aG vedette $USER`, then log in again"), (True, "log in again, or `newgrp vedette`")])
def test_a_user_outside_the_group_is_told_how_to_join_it(path, systemd, monkeypatch, member, says):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("agent.asking.getpass.getuser", lambda: "ada")
    monkeypatch.setattr("agent.asking.grp.getgrnam", lambda name: grp.struct_group((name, "x", 990, ["ada"] if member else [])))
    systemd(unit())
    answer = look(Place(path, service=True))
    assert answer.state == "not_permitted"
    assert says in answer.mend
    assert answer.unit.active_state == "active"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("member", [False, True])
def test_members_of_the_sockets_group_may_ask_and_others_really_may_not(path, member):
    answering(path, msgspec.json.encode(snapshot(state="running")))
    path.parent.chmod(0o750)
    path.chmod(0o660)
    for each in (path, path.parent):
        os.chown(each, 0, 64321)
    code = ("import os, sys; from pathlib import Path; from agent.asking import Place, look; os.setgroups([int(sys.argv[2])]); os.setgid(65534); "
            "os.setuid(65534); answer = look(Place(Path(sys.argv[1]))); print(answer.state, getattr(answer, 'mend', ''))")
    done = subprocess.run([sys.executable, "-c", code, str(path), "64321" if member else "65534"], capture_output=True, text=True, check=False)
    if not member:
        look(Place(path))  # lets the thread go
    assert done.stdout.startswith("running" if member else "not_permitted `sudo usermod -aG vedette $USER`"), done


def test_two_agents_the_one_that_answers_is_not_the_service(path, systemd):
    systemd(unit(active_state="failed", sub_state="failed", result="exit-code", exec_status=78, main_pid=0))
    other = snapshot(pid=os.getpid())
    told, = stranger_note(other, Place(path, service=True))
    assert f"process {os.getpid()}, not the service" in told
    assert "failed" in told
    assert list(stranger_note(other, Place(path))) == []
    systemd(unit(main_pid=os.getpid()))
    assert list(stranger_note(other, Place(path, service=True))) == []
    systemd(None)
    assert list(stranger_note(other, Place(path, service=True))) == []


@pytest.mark.parametrize(("left", "how", "said"), [
    ({}, None, []),
    ({"spool.sqlite": b""}, None, ["the last run left no word"]),
    ({"last-start": b"exit-code exited 203"}, "no-start", []),
    ({FILE: [Run(began_at=1.0, began_s=1.0, boot="b", ended="watchdog", words="the watchdog ended it", ended_at=99.0)], "spool.sqlite": b""}, "watchdog", []),
    ({FILE: [Run(began_at=1.0, began_s=1.0, boot="b")], "spool.sqlite": b""}, None, ["left no word"]),
    ({FILE: [Run(began_at=1.0, began_s=1.0, boot="b", ended="stopped", words="it was stopped")], LAST_STATUS: snapshot([camera("a")], spool=queue(depth=7))},
     "stopped", ["in good order", "7 events left in the spool"]),
])
def test_how_the_last_run_ended(path, tmp_path, left, how, said):
    for name, content in left.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    answer = look(Place(path, state_dir=tmp_path))
    assert (answer.last_end.how if answer.last_end else None) == how
    assert bool(answer.last_words) == bool(said)
    assert all(part in " ".join(answer.last_words) for part in said)


@pytest.mark.parametrize("kind", ["link", "pipe", "giant", "deep"])
def test_a_status_that_another_user_put_there_is_not_taken(path, tmp_path, kind):
    left = tmp_path / LAST_STATUS
    match kind:
        case "link":
            (tmp_path / "other").write_bytes(msgspec.json.encode(snapshot([camera("a")], problems=["hidden"])))
            left.symlink_to(tmp_path / "other")
        case "pipe":
            os.mkfifo(left)
        case "giant":
            with left.open("wb") as file:
                file.truncate(1 << 40)
        case _:
            left.write_bytes(b'{"x":' + b"[" * 200_000)
    said, = look(Place(path, state_dir=tmp_path)).last_words
    assert "cannot be read" in said
    assert "hidden" not in said


def test_an_answer_of_endless_depth_is_no_agents(path):
    answering(path, b"HTTP/1.0 200 OK\r\n\r\n" + b'{"x":' + b"[" * 200_000)
    assert look(Place(path)).state == "foreign"


def test_the_object_comes_back_from_json(path):
    answer = look(Place(path))
    assert msgspec.json.decode(msgspec.json.encode(answer), type=NoAnswer) == answer


def test_of_a_full_queue_the_services_process_is_the_one_that_hangs(tmp_path):
    error = AgentError("full", "")
    error.__cause__ = BlockingIOError()
    found = hang(tmp_path / "nobody.sock", error, os.getpid())
    assert (found.pid, found.stopped) == (os.getpid(), False)
    assert f"its queue is full: process {os.getpid()} hangs" in found.why
    assert hang(tmp_path / "nobody.sock", error).pid is None
