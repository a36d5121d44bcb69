"""The spool against raw sqlite3 and against a plain file, on the same disk in the same run.

The disk is that of ``.cache/bench``; the two sides of a ratio take turns, round by round, and the ratio is that of
their medians, so that what else the machine does meanwhile hits both. The spread of the rounds is told beside it.
Raw is what a plain table costs: ``(id, body)``, SQLite's own page size, WAL, synchronous=FULL, one transaction a
batch, no index, no sequence, no compression.
"""

import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple

from agent.records import Event
from agent.report import sealing
from agent.report.spool import FilePolicy, Spool
from bench import backlog, share
from bench.media import CACHE
from bench.reports import factory, walking
from bench.row import Row

_GROUP = 256
_BATCH = 32
_MOST_BYTES = 8 * 2**30


class _Turns(NamedTuple):
    """Seconds of each round of two sides that took turns."""

    ours: list[float]
    raw: list[float]

    def rows(self, name: str, count: int, target: str) -> list[Row]:
        """Return the ratio of speeds, its spread over the rounds and our events per second."""
        each = sorted(raw / ours for ours, raw in zip(self.ours, self.raw, strict=True))
        ours = statistics.median(self.ours)
        return [Row(f"{name}, ratio of medians", statistics.median(self.raw) / ours, target),
                Row(f"{name}, lowest of {len(each)} rounds", each[0]), Row(f"{name}, highest", each[-1]),
                Row(f"{name}: events per second", count / ours)]


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    CACHE.mkdir(parents=True, exist_ok=True)
    events = list(islice(walking(factory()), 8 * _GROUP))
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        return [*_append(folder, events, rounds=5 if quick else 15), *_written(folder, events),
                *_drain(folder, events, rounds=3 if quick else 7), *_wire(),
                *backlog.run(folder, 100_000 if quick else 1_000_000, _MOST_BYTES), *share.run(5 if quick else 20)]


def _spool(path: Path, compression: sealing.Compression = "gzip") -> Spool:
    return Spool(path, FilePolicy(max_bytes=_MOST_BYTES, compression=compression), factory().gap)


class _Raw:
    """One plain table."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL",
                          "CREATE TABLE event (id INTEGER PRIMARY KEY, body BLOB)"):
            self._db.execute(statement)

    def append(self, events: Sequence[Event]) -> None:
        for start in range(0, len(events), _GROUP):
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO event (body) VALUES (?)",
                                 [(event.body,) for event in events[start:start + _GROUP]])
            self._db.execute("COMMIT")

    def drain(self, size: int) -> None:
        while rows := self._db.execute("SELECT id, body FROM event ORDER BY id LIMIT ?", (size,)).fetchall():
            self._db.execute("DELETE FROM event WHERE id <= ?", (rows[-1][0],))

    def close(self) -> None:
        self._db.close()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _fill(spool: Spool, events: Sequence[Event]) -> None:
    for event in events:
        spool.append(event)
    assert spool.flush(60)


def _empty(spool: Spool, size: int) -> None:
    """Seal and acknowledge until nothing is left, as the uploader does: one commit ends a batch and seals the next."""
    while batch := spool.seal(size, 0):
        spool.ack(batch, size)


def _append(folder: Path, events: Sequence[Event], rounds: int) -> list[Row]:
    turns, plain = _Turns([], []), []
    raw = _Raw(folder / "append.raw")
    with _spool(folder / "append.sqlite") as spool, (folder / "append.log").open("ab", buffering=0) as log:
        for _ in range(rounds):
            turns.ours.append(_seconds(lambda: _fill(spool, events)))
            turns.raw.append(_seconds(lambda: raw.append(events)))
            plain.append(_seconds(lambda: _write(log.fileno(), events)))
    raw.close()
    return [*turns.rows(f"append, commits of {_GROUP} / raw sqlite3", len(events), ">= 0.8"),
            Row("the same / plain append and fdatasync", statistics.median(plain) / statistics.median(turns.ours))]


def _write(handle: int, events: Sequence[Event]) -> None:
    for start in range(0, len(events), _GROUP):
        os.write(handle, b"\n".join(event.body for event in events[start:start + _GROUP]))
        os.fdatasync(handle)


def _written(folder: Path, events: Sequence[Event]) -> list[Row]:
    """Count what the kernel wrote for this process (/proc/self/io: pages made dirty), checkpoints and close included.

    The ballast and the tables, made once in the life of a file, are not counted.
    """
    sent = 8 * sum(len(sealing.numbered(event.body, 1)) for event in events)
    with _spool(folder / "written.sqlite") as spool:
        _fill(spool, events[:1])
        while not (folder / "written.sqlite.ballast").exists():
            time.sleep(0.1)
        time.sleep(0.1)
        before = _io()
        for _ in range(8):
            _fill(spool, events)
    ours = _io() - before
    raw = _Raw(folder / "written.raw")
    before = _io()
    for _ in range(8):
        raw.append(events)
    raw.close()
    return [Row(f"bytes written per event byte, commits of {_GROUP}", ours / sent, "<= 2.5"),
            Row("the same for raw sqlite3", (_io() - before) / sent)]


def _io() -> int:
    text = Path("/proc/self/io").read_text("ascii")
    return int(next(line for line in text.splitlines() if line.startswith("write_bytes")).split()[1])


def _drain(folder: Path, events: Sequence[Event], rounds: int) -> list[Row]:
    rows: list[Row] = []
    compressions: tuple[sealing.Compression, ...] = ("gzip", "none")
    for size, compression in product((_BATCH, _GROUP), compressions):
        turns = _drained(folder / f"drain-{size}-{compression}", events, rounds, size, compression)
        rows += turns.rows(f"drain, batches of {size}, {compression} / raw read and delete", len(events), ">= 0.8")
    return rows


def _drained(path: Path, events: Sequence[Event], rounds: int, size: int, compression: sealing.Compression) -> _Turns:
    turns = _Turns([], [])
    raw = _Raw(path.with_suffix(".raw"))
    with _spool(path, compression) as spool:
        for _ in range(rounds):
            _fill(spool, events)
            raw.append(events)
            turns.ours.append(_seconds(lambda: _empty(spool, size)))
            turns.raw.append(_seconds(lambda: raw.drain(size)))
    raw.close()
    return turns


def _wire() -> list[Row]:
    rows = []
    for sources in (1, 4):
        bodies = [sealing.numbered(event.body, 1_000_000 + n)
                  for n, event in enumerate(islice(walking(factory(), sources), 32 * _BATCH))]
        many = [bodies[start:start + _BATCH] for start in range(0, len(bodies), _BATCH)]
        if sources == 1:
            rows.append(Row("an event of 12 detections, bytes of JSON", statistics.mean(map(len, bodies))))
        compressions: tuple[sealing.Compression, ...] = ("gzip", "zstd")
        for compression in compressions:
            sizes = [len(sealing.encode(batch, "cloudevents", compression).body) / _BATCH for batch in many]
            rows.append(Row(f"bytes on the wire an event, batches of {_BATCH}, {sources} cameras, {compression}",
                            statistics.mean(sizes), "<= 260" if compression == "gzip" else ""))
    return rows
