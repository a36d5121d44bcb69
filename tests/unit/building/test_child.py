"""Real children that answer, die, hang, eat and print."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.building import child as module
from agent.building import lock
from agent.building.child import Death, Limits, Refusal, run_child
from tests.helpers.scripted_child import Do, Done

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(what, number=0, *, wall_s=20.0, memory_bytes=None, nice=10, **settings):
    return run_child("tests.helpers.scripted_child", Do(what=what, number=number), Done,
                     Limits(wall_s=wall_s, memory_bytes=memory_bytes, nice=nice), **settings)


def test_it_answers_and_steps_back():
    answer = run("answer", nice=7)
    assert isinstance(answer, Done)
    assert answer.what == f"nice {os.nice(0) + 7}"


def test_progress_arrives_in_order_before_the_answer():
    seen = []
    assert run("progress", 500, report=lambda *step: seen.append(step)) == Done(what="progress")
    assert seen == [("building", step, 500) for step in range(500)]


def test_what_libraries_print_is_no_answer():
    assert run("print") == Done(what="print")


def test_while_a_child_works_who_waits_for_our_lock_sees_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_S", 0)
    monkeypatch.setattr(lock._HERE, "next_s", 0.0)  # another test may just have beaten
    with lock.alone_in(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        run("hang", wall_s=0.5)
        assert (tmp_path / ".lock").stat().st_mtime > 0


def test_a_refusal_is_an_answer():
    assert run("refuse") == Refusal(what="no good", remedy="mend it")


@pytest.mark.parametrize(("what", "number", "words"), [
    ("signal", 9, "was killed by signal 9 (SIGKILL): no last words"), ("signal", 11, "was killed by signal 11 (SIGSEGV)"),
    ("exit", 3, "ended with 3 and no answer: last words"), ("defect", 0, "ended with 1 and no answer: ZeroDivisionError: defect"),
    ("close", 0, "ended with 1 and no answer")])
def test_a_death_is_a_result(what, number, words, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_S", 0.3)
    died = run(what, number)
    assert isinstance(died, Death)
    assert words in died.what
    assert died.remedy


def test_the_wall_limit_ends_it():
    began = time.monotonic()
    died = run("hang", wall_s=0.8)
    assert "took longer than 0.8 s" in died.what
    assert time.monotonic() - began < 5


def test_the_memory_cap_ends_it():
    died = run("eat", 300e6, memory_bytes=200_000_000)
    assert "the cap is 200 MB" in died.what


def test_cancelled_it_may_end_in_good_order():
    cancel = threading.Event()
    answer = run("obey", cancel=cancel, report=lambda *_: cancel.set())
    assert answer == Refusal(what="cancelled", remedy="")


def test_cancelled_and_deaf_it_is_killed(monkeypatch):
    monkeypatch.setattr(module, "_GRACE_S", 0.3)
    cancel = threading.Event()
    died = run("deaf", cancel=cancel, report=lambda *_: cancel.set())
    assert died.what == "cancelled"


def test_it_follows_a_parent_that_was_killed(tmp_path):
    code = ("from tests.helpers.scripted_child import Do, Done\nfrom agent.building.child import *\n"
            "run_child('tests.helpers.scripted_child', Do(what='deaf'), Done, Limits(wall_s=60), "
            "report=lambda *_: print('up', flush=True))")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout.readline() == b"up\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 1
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{children[0]}").exists() and "Z" not in Path(f"/proc/{children[0]}/stat").read_text().rpartition(")")[2].split()[0]:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)
