"""`vedette spool …`: what it prints, what it writes, which exit codes it gives."""

import fcntl
import json
import os
import pty
import subprocess
import sys

import pytest

from agent.cli import main
from tests.helpers.spools import by_hand, pending, put_event, spool_file

COMMANDS = (["status"], ["peek"], ["verify"], ["export"], ["retry-dead", "--all"], ["drop-dead", "--all", "--yes"])


@pytest.fixture
def path(tmp_path):
    """A spool with two dead letters (1, 2), a batch (3 to 6) and events that wait."""
    (tmp_path / "config.toml").write_text(f'[device]\nstate_dir = "{tmp_path}"\n[source.door]\nurl = "rtsp://camera/1"\n')
    path = tmp_path / "spool.sqlite"
    with spool_file(path) as file:
        file.commit([pending(number) for number in range(1, 10)])
        assert file.bury(file.seal(1), "HTTP 422: unprocessable")
        assert file.bury(file.seal(1), "HTTP 413: too large")
        file.seal(4)
    return path


@pytest.fixture
def spool(path, capfd):
    def run(*arguments, code=0):
        capfd.readouterr()
        assert main(["spool", *arguments, "-c", str(path.parent / "config.toml")]) == code
        return capfd.readouterr()
    return run


def test_status_says_what_is_there(spool, path):
    said = " ".join(spool("status").out.split())
    for part in (f"{path}, no agent has it open", "5 waiting, 4 in 1 sealed batch", "last sequence 11", "1 letter: HTTP 422: unprocessable",
                 "dead_letter: 1 event, sequence 1; not delivered yet", "nothing since this file was made", "vedette status", "detection 0, goes first 3 4"):
        assert part in said
    found = json.loads(spool("status", "--json").out)
    assert (found["waiting"], found["sealed"], found["sequence"]) == (5, 4, 11)
    assert found["types"][0] == {"type": "detection", "class": 0, "waiting": 3, "sealed": 4}


def test_status_names_the_agent_that_holds_it(spool, path):
    with path.with_name("spool.sqlite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"the agent runs, pid {os.getpid()}" in " ".join(spool("status").out.split())


def test_peek_shows_the_next_the_newest_and_the_dead(spool):
    rows = spool("peek", "-n", "5").out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["3", "4", "5", "6", "7"]
    assert "batch" in rows[1]
    assert rows[5].split()[-1] == "waiting"
    assert [row.split()[0] for row in spool("peek", "--newest", "-n", "1").out.splitlines()[1:]] == ["11"]
    dead = spool("peek", "--dead").out
    assert "HTTP 413: too large" in dead
    assert "id of 2: run-2" in dead
    events = [json.loads(line) for line in spool("peek", "--json", "-n", "2").out.splitlines()]
    assert [event["sequence"] for event in events] == ["000000000003", "000000000004"]
    assert [json.loads(line)["id"] for line in spool("peek", "--dead", "--json").out.splitlines()] == ["run-1", "run-2"]


def test_verify_tells_proven_from_not(spool, path):
    assert "every number given has left, is here, or is declared lost" in spool("verify").out
    with by_hand(path) as db:
        db.execute("DELETE FROM event WHERE seq = 8")
    db.close()
    said = spool("verify", code=1).out
    assert "sequence 8: neither here nor declared" in said
    assert "proven: 1 finding" in said
    found = json.loads(spool("verify", "--json", code=1).out)
    assert (found["proven"], found["findings"]) == (False, ["sequence 8: neither here nor declared"])


@pytest.mark.parametrize(("more", "sequences"), [([], range(3, 12)), (["--dead"], [1, 2]), (["--all"], range(1, 12))])
def test_export_writes_events_oldest_first(spool, tmp_path, more, sequences):
    lines = spool("export", *more).out.splitlines()
    assert [int(json.loads(line)["sequence"]) for line in lines] == list(sequences)
    out = tmp_path / "events.ndjson"
    assert f"{len(lines)} events" in spool("export", *more, "-o", str(out)).out
    assert out.read_text().splitlines() == lines


def test_export_never_overwrites_unasked_nor_the_spool(spool, path, tmp_path):
    out = tmp_path / "events.ndjson"
    out.write_text("mine")
    assert "exists already" in spool("export", "-o", str(out), code=2).err
    assert out.read_text() == "mine"
    assert json.loads(spool("export", "-o", str(out), "--force", "--json").out) == {"written": 9, "unreadable": 0}
    assert len(out.read_text().splitlines()) == 9
    before = path.read_bytes()
    spool("export", "-o", str(path), "--force", code=64)
    assert path.read_bytes() == before
    assert "No such file" in spool("export", "-o", str(tmp_path / "no" / "where"), code=2).err


def test_export_of_a_damaged_file_says_what_is_missing(spool, path, tmp_path):
    with by_hand(path) as db:
        db.execute("UPDATE event SET body = x'ff' WHERE seq = 8")
    db.close()
    said = spool("export", code=1)
    assert len(said.out.splitlines()) == 8
    assert "1 event could not be read" in said.err
    out = tmp_path / "events.ndjson"
    assert json.loads(spool("export", "--json", "-o", str(out), code=1).out) == {"written": 8, "unreadable": 1}
    assert len(out.read_text().splitlines()) == 8


def test_dead_letters_are_put_back_and_deleted_by_id(spool):
    assert json.loads(spool("retry-dead", "--id", "run-1", "--id", "run-7", "--json", code=1).out) == {"put_back": ["run-1"], "not_found": ["run-7"]}
    assert "1 dead letter deleted" in spool("drop-dead", "--id", "run-2", "--yes").out
    assert "no dead letters" in spool("peek", "--dead").out
    assert "0 dead letters put back" in spool("retry-dead", "--all").out
    assert json.loads(spool("status", "--json").out)["lost"] == {"dead_letter": 1}
    spool("verify")


@pytest.mark.parametrize("command", ["retry-dead", "drop-dead"])
def test_which_dead_letters_must_be_said(spool, command):
    assert "give either --id" in spool(command, code=64).err
    assert "give either --id" in spool(command, "--all", "--id", "x", code=64).err


def test_nobody_is_asked_without_a_terminal(spool, monkeypatch):
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        assert "give --yes" in spool("drop-dead", "--all", code=64).err
    assert len(spool("peek", "--dead", "--json").out.splitlines()) == 2


@pytest.mark.parametrize(("answer", "left", "code"), [("n\n", 2, 1), ("y\n", 0, 0)])
def test_a_terminal_is_asked(spool, path, answer, left, code):
    here, there = pty.openpty()
    os.write(here, answer.encode())
    done = subprocess.run([sys.executable, "-m", "agent", "spool", "drop-dead", "--all", "--file", str(path)], stdin=there, capture_output=True,
                          text=True, check=False)
    os.close(here)
    os.close(there)
    assert done.returncode == code
    assert "delete 2 dead letters for good?" in done.stderr
    assert len(spool("peek", "--dead", "--json").out.splitlines()) == left


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_another_file_may_be_named_and_must_be_a_spool(spool, path, tmp_path, command):
    name = tmp_path / "no-such"
    said = spool(*command, "--file", str(name), code=2)
    assert "no such file" in said.err
    assert not name.exists()
    assert said.out == ""
    other = tmp_path / "other.sqlite"
    with by_hand(other) as db:
        put_event(db, 1)
    db.close()
    spool(*command, "--file", str(other))
    spool(*command, "--json", "--file", str(other))


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize("command", [["status"], ["peek"], ["peek", "--dead"], ["verify"]], ids=" ".join)
def test_no_line_is_wider_than_the_terminal(path, command, width):
    done = subprocess.run([sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))", "env", f"COLUMNS={width}", sys.executable,
                           "-m", "agent", "spool", *command, "--file", str(path)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "TERM": "dumb"}, check=False)
    lines = done.stdout.replace("\r", "").splitlines()
    assert lines
    assert max(map(len, lines)) <= width
