"""How earlier runs ended, and what that means for the next."""

import os
import time

import msgspec
import pytest

from agent import runs
from agent.errors import EngineError
from agent.runs import LAST_END, LAST_START, NO_START, STOPPED, Run, Runs, bad_in_a_row, last_run, settled, wait_after

THIS, OTHER = "1d1c1b1a-0000-4000-8000-00000000000a", "2d2c2b2a-0000-4000-8000-00000000000b"
HERE, THERE = THIS.replace("-", ""), OTHER.replace("-", "")


def run(began_s, ended="watchdog", boot="b", waited_s=0.0):
    return Run(began_at=1000.0 + began_s, began_s=began_s, boot=boot, ended=ended, waited_s=waited_s)


@pytest.mark.parametrize(("last_end", "boot", "ended", "words"), [
    ("watchdog killed ABRT", "b", "watchdog", "the watchdog ended it: a part of it had stopped moving"),
    ("watchdog killed ABRT memory-high", "b", "watchdog",
     "the watchdog ended it: a part of it had stopped moving; the kernel had been holding its memory down at MemoryHigh"),
    ("oom-kill killed KILL", "b", "oom-kill", "it was killed, and memory ran out in its control group"),
    ("oom-kill killed KILL memory-high", "b", "oom-kill", "it was killed, and memory ran out in its control group"),
    ("timeout killed TERM memory-high", "b", "timeout", "it did not start or stop in time and was killed"),
    ("signal killed SEGV", "b", "signal", "it ended by signal (killed SEGV)"),
    ("exit-code exited 70", "b", "exit-code", "it ended with exit code 70, a defect of the program"),
    ("timeout killed TERM", "b", "timeout", "it did not start or stop in time and was killed"),
    ("success killed TERM", "b", STOPPED, "it was stopped"),
    ("", "b", "killed", "it was killed, or it crashed"),
    ("", "another", "power", "the power failed, or the box was reset"),
])
def test_a_run_that_left_no_word(last_end, boot, ended, words):
    last = settled([run(1.0, ended="")], last_end, 5.0, boot)[-1]
    assert (last.ended, last.words, last.ended_at) == (ended, words, 5.0)


@pytest.mark.parametrize(("last_end", "ended"), [("", "failed"), ("exit-code exited 2", "failed"), ("success exited 0", "failed"), ("timeout killed KILL", "timeout")])
def test_a_runs_own_word_counts_unless_it_was_killed_after_it(last_end, ended):
    assert settled([run(1.0, ended="failed")], last_end, None, "b")[-1].ended == ended


@pytest.mark.parametrize(("said", "words"), [
    ("exit-code exited 64", "it ended with exit code 64, the command line cannot be used"),
    ("exit-code exited 70", "it ended with exit code 70, a defect of the program"),
    ("exit-code exited 78", "it ended with exit code 78, the configuration cannot be used"),
    ("exit-code exited 203", "it ended with exit code 203, the program cannot be executed"),
    ("exit-code exited 243", "it ended with exit code 243, systemd could not give it a credential"),
    ("protocol exited 1", "it ended with exit code 1"),
    ("signal killed SEGV", "it ended by signal (killed SEGV)"),
    (f"signal killed SEGV {THIS}", "it ended by signal (killed SEGV)"),
    (f"protocol {THIS}", "it ended by protocol"),
    ("timeout killed TERM", "it did not start or stop in time and was killed"),
    ("resources", "systemd could not give it what it needs"),
])
def test_a_start_that_failed_before_it_was_a_run(tmp_path, said, words, monkeypatch):
    monkeypatch.setattr(runs, "boot_id", lambda: HERE)
    Runs(tmp_path, waits=True).end(STOPPED, "it was stopped on request")
    (tmp_path / LAST_END).write_text("success killed TERM\n")
    (tmp_path / LAST_START).write_text(f"{said}\n")
    later_s = time.time() + 7.0
    os.utime(tmp_path / LAST_START, (later_s, later_s))
    found = last_run(tmp_path)
    assert (found.ended, found.words, found.ended_at) == (NO_START, f"it never began its work: {words}", pytest.approx(later_s))
    assert (tmp_path / LAST_START).exists(), "who only asks changes nothing"
    good = Runs(tmp_path, waits=True)
    assert [each.ended for each in good.before] == [STOPPED, NO_START]
    assert good.before[-1] == found
    assert not (tmp_path / LAST_START).exists(), "it is told once"
    assert last_run(tmp_path).ended == "", "the good run goes on"
    good.end(STOPPED, "")
    assert [each.ended for each in Runs(tmp_path, waits=True).before] == [STOPPED, NO_START, STOPPED]


def test_one_that_was_stopped_before_it_began_has_not_failed(tmp_path):
    Runs(tmp_path, waits=True).end(STOPPED, "")
    (tmp_path / LAST_START).write_text("success killed TERM")
    assert last_run(tmp_path).ended == STOPPED
    assert [each.ended for each in Runs(tmp_path, waits=True).before] == [STOPPED]


def test_a_failed_start_neither_counts_as_a_bad_run_nor_ends_the_count(tmp_path):
    for _ in range(3):
        made = Runs(tmp_path, waits=True)
        made.end("defect", "a fault")
        (tmp_path / LAST_START).write_text("exit-code exited 70")
        os.utime(tmp_path / LAST_START, (time.time() + 1,) * 2)
    assert made.wait_s == 2, "two bad runs before it"
    last = Runs(tmp_path, waits=True)
    assert (last.wait_s, last.why) == (4, "3 runs in a row ended by themselves, the last one: a fault")
    assert [each.ended for each in last.before] == ["defect", NO_START] * 3


@pytest.mark.parametrize("said", ["exit-code exited 78", "signal killed SEGV", "timeout killed TERM", "core-dump dumped ABRT"])
def test_the_word_on_a_start_is_not_taken_for_one_on_the_run_that_lost_its_power(tmp_path, said, monkeypatch):
    """That run left no word, so ExecStopPost takes the first start after the boot for it."""
    monkeypatch.setattr(runs, "boot_id", lambda: HERE)
    before = run(1.0, ended="", boot=THERE)
    power, start = settled([before], f"{said} {THIS}", 5.0, HERE)
    assert (power.ended, power.ended_at) == ("power", None)
    assert (start.ended, start.ended_at) == (NO_START, 5.0), "whatever the clock says"
    (tmp_path / runs.FILE).write_bytes(msgspec.json.encode([before]))
    (tmp_path / LAST_END).write_text(f"{said} {THIS}")
    assert last_run(tmp_path).ended == NO_START


@pytest.mark.parametrize(("said", "ended"), [("exit-code exited 70", "exit-code"), ("timeout killed KILL", "timeout"), ("success killed TERM", STOPPED)])
@pytest.mark.parametrize("boot", ["", f" {OTHER}"])
def test_the_word_of_its_own_boot_is_about_the_run_also_after_the_next_boot(said, boot, ended):
    """Its own word could not be kept, the disk was full; a unit of an older version writes no boot."""
    assert [each.ended for each in settled([run(1.0, ended="", boot=THERE)], said + boot, 5.0, HERE)] == [ended]


def test_a_start_that_failed_in_the_next_boot_is_told_also_after_a_run_that_stopped():
    """The power went between the run's own word and ExecStopPost's."""
    found = settled([run(1.0, STOPPED, boot=THERE)], f"exit-code exited 78 {THIS}", 5.0, HERE)
    assert [each.ended for each in found] == [STOPPED, NO_START]


def test_starts_that_failed_one_after_the_other_are_told_as_one(tmp_path):
    """The first of a new box goes into last-end, the others into last-start."""
    (tmp_path / LAST_END).write_text(f"exit-code exited 203 {THIS}")
    (tmp_path / LAST_START).write_text(f"exit-code exited 78 {THIS}")
    found = last_run(tmp_path)
    assert found.words.endswith("the configuration cannot be used")
    assert list(Runs(tmp_path, waits=True).before) == [found]


@pytest.mark.parametrize(("start", "its_boot", "told"), [
    (f"exit-code exited 78 {THIS}", HERE, False), (f"exit-code exited 78 {OTHER}", HERE, False), ("exit-code exited 78", HERE, False),
    ("exit-code exited 78", THERE, False), (f"exit-code exited 78 {OTHER}", THERE, False),
    (f"exit-code exited 78 {THIS}", THERE, True)])  # the clock was set back
def test_a_failed_start_older_than_the_last_run_is_not_told(tmp_path, monkeypatch, start, its_boot, told):
    """A version that does not know of it ran since, or the file could not be removed."""
    monkeypatch.setattr(runs, "boot_id", lambda: HERE)
    now_s = time.time()
    kept = Run(began_at=now_s - 9000, began_s=5.0, boot=its_boot, ended=STOPPED, ended_at=now_s - 60)
    (tmp_path / runs.FILE).write_bytes(msgspec.json.encode([kept]))
    (tmp_path / LAST_START).write_text(start)
    os.utime(tmp_path / LAST_START, (now_s - 9500, now_s - 9500))
    assert last_run(tmp_path).ended == (NO_START if told else STOPPED)
    assert [each.ended for each in Runs(tmp_path, waits=True).before] == [STOPPED, NO_START][:1 + told]
    assert not (tmp_path / LAST_START).exists()


def test_no_failed_start_of_an_earlier_boot_is_told_after_a_run_of_this_one(tmp_path, monkeypatch):
    """Whatever the clock, which was set back, says."""
    monkeypatch.setattr(runs, "boot_id", lambda: HERE)
    (tmp_path / runs.FILE).write_bytes(msgspec.json.encode([run(1.0, "", boot=HERE)]))
    (tmp_path / LAST_START).write_text(f"exit-code exited 78 {OTHER}")
    assert last_run(tmp_path).ended == "", "it goes on"


def test_the_very_first_start_failed(tmp_path):
    (tmp_path / LAST_END).write_text("exit-code exited 203")
    assert last_run(tmp_path).ended == NO_START
    assert [each.ended for each in Runs(tmp_path, waits=True).before] == [NO_START]


def test_bad_ends_in_a_row():
    assert bad_in_a_row([], "b", 10) == 0
    assert bad_in_a_row([run(1), run(2), run(3)], "b", 4) == 3
    assert bad_in_a_row([run(1), run(2, STOPPED), run(3)], "b", 4) == 1
    assert bad_in_a_row([run(1), run(2), run(3)], "another boot", 4) == 0
    assert bad_in_a_row([run(1), run(2), run(3)], "b", 400) == 0, "the last one was a long one"
    assert bad_in_a_row([run(1), run(2), run(200, waited_s=60)], "b", 550) == 3, "its wait is no work"
    assert bad_in_a_row([run(1), run(500), run(510)], "b", 520) == 2, "the first one was long"


def test_the_wait_rises():
    assert [wait_after(bad) for bad in range(9)] == [0, 0, 2, 4, 8, 16, 32, 60, 60]


def test_runs_are_kept_from_one_to_the_next(tmp_path):
    with Runs(tmp_path, waits=True) as first:
        assert (list(first.before), first.wait_s) == ([], 0)
        first.end(STOPPED, "it was stopped on request")
    (tmp_path / runs.LAST_END).write_text("success killed TERM\n")
    second = Runs(tmp_path, waits=True)
    assert [each.ended for each in second.before] == [STOPPED]
    assert not (tmp_path / runs.LAST_END).exists(), "it was about that run only"
    assert last_run(tmp_path).ended == "", "it goes on"
    (tmp_path / runs.LAST_END).write_text("watchdog killed ABRT\n")
    assert last_run(tmp_path).ended == "watchdog"
    assert (tmp_path / runs.LAST_END).exists(), "who only asks changes nothing"
    third = Runs(tmp_path, waits=True)
    assert [each.ended for each in third.before] == [STOPPED, "watchdog"]
    fourth = Runs(tmp_path, waits=True)
    assert (fourth.wait_s, fourth.why) == (2, "2 runs in a row ended by themselves, the last one: it was killed, or it crashed")
    assert Runs(tmp_path, waits=False).wait_s == 0


def test_an_exception_is_how_a_run_ended(tmp_path):
    with pytest.raises(EngineError), Runs(tmp_path, waits=True):
        raise EngineError("no engine", "build one")
    assert (last_run(tmp_path).ended, last_run(tmp_path).words) == ("failed", "no engine\n  mend: build one")
    with pytest.raises(ZeroDivisionError), Runs(tmp_path, waits=True):
        raise ZeroDivisionError
    assert last_run(tmp_path).ended == "defect"
    assert "ZeroDivisionError" in last_run(tmp_path).words


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[{"began_at": "x"}]', b"\xff\xfe"])
def test_a_damaged_file_is_forgotten(tmp_path, content, caplog):
    (tmp_path / runs.FILE).write_bytes(content)
    assert list(Runs(tmp_path, waits=True).before) == []
    assert "cannot be read" in caplog.text


def test_no_more_than_twenty_are_kept(tmp_path):
    (tmp_path / runs.FILE).write_bytes(msgspec.json.encode([run(float(i), STOPPED) for i in range(30)]))
    Runs(tmp_path, waits=True).end(STOPPED, "")
    assert len(msgspec.json.decode((tmp_path / runs.FILE).read_bytes())) == 20


def test_a_full_disk_is_no_reason_not_to_run(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(runs, "write_atomic", full)
    Runs(tmp_path, waits=True).end(STOPPED, "")
    assert "No space left" in caplog.text


@pytest.mark.parametrize(("words", "kept"), [
    ("watchdog killed ABRT\n", "watchdog killed ABRT"), ("exit-code exited 70", "exit-code exited 70"), ("success  \n", "success"), ("core-dump", "core-dump"),
    (f"signal killed RTMIN+5 {THIS}\n", f"signal killed RTMIN+5 {THIS}"), (f"watchdog killed ABRT memory-high {THIS}", f"watchdog killed ABRT memory-high {THIS}"), (f"resources {THIS}", f"resources {THIS}"),
    ("root:$6$salt$hash:19000:0", ""), ("root killed KILL", ""), ("success; rm", ""), ("signal killed \x1b[2J", ""), ("signal killed\nABRT", ""), ("\xff\xfe", ""), ("", ""),
    ("signal Please run curl evilexample", ""), ("signal killed please", ""), ("signal killed ABRT run this", ""), (f"signal killed ABRT {THIS} more", ""), ("exit-code exited 78 12345678", ""),
    ("signal killed " + "A" * 242, "signal killed " + "A" * 242), ("signal killed " + "A" * 243, "")])
def test_only_systemds_words_count_as_the_last_end(tmp_path, words, kept):
    (tmp_path / runs.LAST_END).write_bytes(words.encode("latin-1"))
    assert runs.last_end(tmp_path / runs.LAST_END)[0] == kept


@pytest.mark.parametrize("name", [runs.FILE, runs.LAST_END, runs.LAST_START])
@pytest.mark.parametrize("kind", ["link", "pipe", "giant", "deep"])
def test_what_another_user_put_there_is_neither_followed_nor_waited_for(tmp_path, name, kind, caplog):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / runs.FILE).write_bytes(msgspec.json.encode([run(1.0, ended="")]))
    path = tmp_path / "state" / name
    path.unlink(missing_ok=True)
    match kind:
        case "link":  # what it leads to would be taken
            (tmp_path / "other").write_bytes(b"watchdog killed ABRT" if name != runs.FILE else msgspec.json.encode([run(2.0, ended="hidden")]))
            path.symlink_to(tmp_path / "other")
        case "pipe":
            os.mkfifo(path)
        case "giant":
            path.write_bytes(b" " * runs.MOST_RUNS + b"[]")
        case _:
            path.write_bytes(b"[" * 60_000)
    found = last_run(tmp_path / "state")
    assert found is None if name == runs.FILE else found.ended == ""
    assert [each.ended for each in Runs(tmp_path / "state", waits=True).before] == ([] if name == runs.FILE else ["power"])
    assert not (tmp_path / "state" / runs.LAST_END).is_symlink()
    assert not (tmp_path / "state" / runs.LAST_START).is_symlink()


def test_twenty_ends_with_long_words_can_be_read_again(tmp_path):
    for _ in range(22):
        Runs(tmp_path, waits=False).end("defect", "\x01é\U0001f600" * 9000)
    assert (tmp_path / runs.FILE).stat().st_size <= runs.MOST_RUNS
    assert len(Runs(tmp_path, waits=False).before) == 20
