"""Fields of log lines; a real journald reads them in tests/integration/test_service_box.py."""

import io
import logging
import os
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent import journal
from agent.journal import MessageId, about, fields, priority

ROOT = Path(__file__).resolve().parents[2]


def record(level=logging.INFO, thread="MainThread", **extra):
    made = logging.LogRecord("agent.x", level, "/code/x.py", 7, "words %d", (1,), None, "work")
    made.threadName = thread
    made.__dict__.update(extra)
    return made


def test_fields_of_a_plain_line():
    assert fields(record(logging.WARNING)) == {
        "PRIORITY": "4", "SYSLOG_IDENTIFIER": "vedette", "LOGGER": "agent.x", "THREAD_NAME": "MainThread",
        "CODE_FILE": "/code/x.py", "CODE_LINE": 7, "CODE_FUNC": "work", "VEDETTE_STAGE": "supervisor"}


@pytest.mark.parametrize(("thread", "stage", "source"), [
    ("reader-door", "capture", "door"), ("inference", "inference", None), ("spool", "spool", None), ("loader", "engine", None),
    ("status-client", "status", None)])
def test_a_thread_says_which_stage_wrote(thread, stage, source):
    said = fields(record(thread=thread))
    assert (said["VEDETTE_STAGE"], said.get("VEDETTE_SOURCE")) == (stage, source)


def test_the_call_site_knows_better():
    said = fields(record(thread="reader-a", **about(MessageId.SOURCE, source="b", stage="x")))
    assert (said["VEDETTE_STAGE"], said["VEDETTE_SOURCE"], said["MESSAGE_ID"]) == ("x", "b", MessageId.SOURCE.value)


def test_priorities():
    assert [priority(level) for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)] == [2, 3, 4, 6, 7]


def test_message_ids_are_distinct_and_well_formed():
    assert len({kind.value for kind in MessageId}) == len(MessageId)
    assert all(re.fullmatch(r"[0-9a-f]{32}", kind.value) for kind in MessageId)


def test_every_kind_is_used_and_in_the_operations_page():
    code = "\n".join(path.read_text() for path in (ROOT / "agent").rglob("*.py") if path.name != "journal.py")
    page = (ROOT / "docs/operations.md").read_text()
    for kind in MessageId:
        assert f"MessageId.{kind.name}" in code, kind
        assert kind.value in page, kind


@pytest.fixture
def logger():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield root
    root.handlers[:], root.level = before, level


def set_up(level):
    logging.getLogger().handlers[:] = []  # pytest's own came after the fixture
    journal.set_up(level)


def journal_stream(monkeypatch):
    reading, writing = os.pipe()
    where = os.fstat(writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{where.st_dev}:{where.st_ino}")
    monkeypatch.setattr(sys, "stderr", os.fdopen(writing, "w", buffering=1))
    return os.fdopen(reading)


def test_without_a_journal_lines_are_plain(logger, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    set_up("info")
    logging.getLogger("agent.x").info("a\nb")
    assert sys.stderr.getvalue() == "INFO agent.x: a\nb\n"


def test_without_systemd_python_lines_have_a_priority(logger, monkeypatch):
    heard = journal_stream(monkeypatch)
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    set_up("info")
    logging.getLogger("agent.x").warning("a\nb")
    sys.stderr.close()
    with heard:
        assert heard.read() == "<4>agent.x: a\n<4>b\n"


def test_with_it_each_line_has_its_fields(logger, monkeypatch):
    heard, sent = journal_stream(monkeypatch), []
    monkeypatch.setitem(sys.modules, "systemd.journal", SimpleNamespace(send=lambda message, **said: sent.append((message, said))))
    set_up("warning")
    thread = threading.Thread(target=lambda: logging.getLogger("agent.x").warning("down", extra=about(MessageId.SOURCE)), name="reader-door")
    thread.start()
    thread.join()
    logging.getLogger("agent.x").info("too quiet")
    logging.getLogger("agent.x").error("a defect", exc_info=ZeroDivisionError("division by zero"))
    assert [message.splitlines()[0] for message, _ in sent] == ["down", "a defect"]
    assert "ZeroDivisionError: division by zero" in sent[1][0]
    assert (sent[0][1]["VEDETTE_SOURCE"], sent[0][1]["MESSAGE_ID"]) == ("door", MessageId.SOURCE.value)
    sys.stderr.close()
    heard.close()


@pytest.mark.parametrize("error", [OSError("no journal"), ValueError("d"), TypeError("x")])
def test_a_journal_that_is_away_ends_nothing(logger, monkeypatch, error):
    heard, tried = journal_stream(monkeypatch), []
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def away(message, **_):
        tried.append(message)
        raise error
    monkeypatch.setitem(sys.modules, "systemd.journal", SimpleNamespace(send=away))
    set_up("info")
    logging.getLogger("agent.x").warning("words")
    logging.getLogger("agent.x").warning("more")
    assert tried == ["words", "more"], "the next line is tried again"
    sys.stderr.close()
    heard.close()
