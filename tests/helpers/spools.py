"""Spool files made by the agent's own code, without threads or a running agent, and by hand where they must be wrong."""

import sqlite3
import time

# Open ones (open_spool, open_file, SetClocks, events_of, drain) are in live_spools.py.
from contextlib import contextmanager

from agent.records import Event
from agent.report import sealing
from agent.report.age import Clocks
from agent.report.classes import class_of
from agent.report.events import EventFactory
from agent.report.spool_db import Database
from agent.report.spool_file import SpoolFile
from agent.report.spool_records import FilePolicy, Pending
from tests.helpers.events import event

CLOCKS = Clocks(boot_id="0" * 32, boottime=lambda: 1000.0, wall=lambda: 1.8e9, certain=lambda: True)


@contextmanager
def spool_file(path, max_bytes=8 * 1024 * 1024, **policy):
    """Open the spool as the agent does."""
    file = SpoolFile(path, FilePolicy(max_bytes=max_bytes, **policy), EventFactory("test", "gaps", "1").gap, CLOCKS)
    try:
        file.begin()
        yield file
        file.end()
    finally:
        file.db.close()


def pending(number: int, kind: str = "detection", size: int = 0) -> Pending:
    return Pending(event(number, kind=kind, size=size), time.monotonic() - 60)


def fill(path, events=10, **policy):
    """Write a spool of so many detections, sequences from 1."""
    with spool_file(path, **policy) as file:
        file.commit([pending(number) for number in range(1, events + 1)])
    return path


def numbered(sequence: int, kind: str = "detection") -> Event:
    made = event(sequence, kind=kind)
    return Event(id=made.id, type=kind, subject=made.subject, body=sealing.numbered(made.body, sequence))


def by_hand(path):
    """Return a connection to a spool with the agent's schema, to write into it what the agent never would."""
    database = Database(path, 64 * 1024 * 1024)
    database.close()
    return sqlite3.connect(path)


def put_event(db, sequence: int, kind: str = "detection", body: bytes | None = None) -> None:
    made = numbered(sequence, kind)
    db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)",
               (sequence, made.id, class_of(kind), made.subject, kind, 1.8e9, made.body if body is None else body))


def put_dead(db, sequence: int, why: str = "HTTP 422") -> None:
    made = numbered(sequence)
    db.execute("INSERT INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
               (sequence, made.id, made.type, made.subject, 1.8e9, 1.8e9, why, made.body))


def put_gap(db, sequence: int, first, last, count, reason: str = "spool_full") -> None:
    """Declare a gap, as an event that waits and as a row."""
    put_event(db, sequence, "gap")
    db.execute("INSERT INTO gap VALUES (?, ?, ?, ?, ?, ?, ?)", (sequence, f"run-{sequence}", reason, first, last, count, b"{}"))


def put_batch(db, sequences, events=None, first=None, last=None, name=None, body=None, encoding="gzip") -> None:
    made = sealing.encode([numbered(sequence).body for sequence in sequences], "cloudevents", "gzip")
    db.execute("INSERT INTO batch (id, content_type, encoding, events, first_seq, last_seq, created, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
               (name or made.id, made.content_type, encoding, events or len(sequences), first or sequences[0], last or sequences[-1],
                1.8e9, made.body if body is None else body))
