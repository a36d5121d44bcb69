"""A spool with a long backlog against an empty one: start, memory, latency. Its files are written by plain SQL.

``python -m bench.backlog WHAT MAX_BYTES PATH...`` is a child: it prints one JSON object.
"""

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from agent.report import sealing
from agent.report.spool import FilePolicy, Spool
from agent.report.spool_db import Database
from bench.reports import factory, walking
from bench.row import Row

_KINDS = 2048  # different bodies; only their sizes matter here
_GROUP = 256
_TURNS = 400


def run(folder: Path, count: int, max_bytes: int) -> list[Row]:
    """Measure with ``count`` events and return the rows."""
    full, empty = folder / "full/spool.sqlite", folder / "empty/spool.sqlite"
    for path in (full, empty):
        path.parent.mkdir()
    began = time.perf_counter()
    _build(full, count, max_bytes)
    built_s, size = time.perf_counter() - began, full.stat().st_size
    name = f"{count:,} events in the spool"
    cold = [_child("start", max_bytes, _forgotten(full)) for _ in range(3)]
    warm = [_child("start", max_bytes, full) for _ in range(3)]
    none = [_child("start", max_bytes, empty) for _ in range(3)]
    latency = _child("latency", max_bytes, full, empty)
    return [
        Row(f"{name}: file, GB", size / 1e9), Row(f"{name}: built by plain SQL, s", built_s),
        Row(f"{name}: open to first commit, page cache dropped, s, worst of 3",
            max(run["start_s"] for run in cold), "<= 1"),
        Row(f"{name}: the same, page cache warm", max(run["start_s"] for run in warm), "<= 1"),
        Row("an empty spool: the same", max(run["start_s"] for run in none)),
        Row(f"{name}: peak resident memory above an empty spool's, MB",
            statistics.median(run["rss_mb"] for run in warm) - statistics.median(run["rss_mb"] for run in none),
            "<= 20"),
        Row(f"{name}: append() p99 / that of an empty spool", latency["append_p99"], "<= 1.5"),
        Row(f"{name}: commit of {_GROUP} p99 / that of an empty spool", latency["commit_p99"], "<= 1.5"),
        Row(f"{name}: the same, p50", latency["commit_p50"]),
        Row(f"{name}: append() p99, us", latency["append_us"]), Row(f"{name}: commit p99, ms", latency["commit_ms"]),
    ]


def _build(path: Path, count: int, max_bytes: int) -> None:
    Database(path, max_bytes).close()
    db = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "BEGIN"):
        db.execute(statement).fetchall()
    db.executemany("INSERT INTO event VALUES (?, ?, 0, 'camera0', 'detection', ?, ?)", _rows(count))
    db.execute("COMMIT")
    db.close()


def _rows(count: int) -> Iterator[tuple[int, str, float, bytes]]:
    events = list(islice(walking(factory()), _KINDS))
    for seq in range(1, count + 1):
        event = events[seq % _KINDS]
        yield seq, event.id, 1.8e9 + seq / 10, sealing.numbered(event.body, seq)


def _forgotten(path: Path) -> Path:
    """Drop a file from the page cache, where the kernel does so."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def _child(what: str, max_bytes: int, *paths: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "bench.backlog", what, str(max_bytes), *map(str, paths)], check=True,
                          stdout=subprocess.PIPE)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _start(max_bytes: int, path: Path) -> dict[str, float]:
    event = next(walking(factory()))
    began = time.perf_counter()
    with Spool(path, FilePolicy(max_bytes=max_bytes), factory().gap) as spool:
        spool.append(event)
        assert spool.flush(60)
        start_s = time.perf_counter() - began
        batch = spool.seal(32, 0)  # what a backlog's first delivery needs is part of its memory
        assert batch is not None
        spool.ack(batch)
        return {"start_s": start_s, "rss_mb": _rss_mb()}


def _latency(max_bytes: int, full: Path, empty: Path) -> dict[str, float]:
    """Append and commit to both in turns; two groups at a time, so that the second is appended while one is written."""
    events = list(islice(walking(factory()), 2 * _GROUP))
    appends: list[list[int]] = [[], []]
    with Spool(full, FilePolicy(max_bytes=max_bytes), factory().gap) as one, \
            Spool(empty, FilePolicy(max_bytes=max_bytes), factory().gap) as other:
        for _ in range(_TURNS // 2):
            for spool, taken in ((one, appends[0]), (other, appends[1])):
                for event in events:
                    began = time.perf_counter_ns()
                    spool.append(event)
                    taken.append(time.perf_counter_ns() - began)
                assert spool.flush(60)
        commits: list[Any] = [one.stats().commit, other.stats().commit]
    p99 = [statistics.quantiles(taken, n=100)[98] for taken in appends]
    return {"append_p99": p99[0] / p99[1], "commit_p99": commits[0].p99 / commits[1].p99,
            "commit_p50": commits[0].p50 / commits[1].p50, "append_us": p99[0] / 1e3, "commit_ms": commits[0].p99 * 1e3}


def _rss_mb() -> float:
    status = Path("/proc/self/status").read_text("ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    what, max_bytes, *paths = sys.argv[1:]
    answer = (_start if what == "start" else _latency)(int(max_bytes), *map(Path, paths))
    print(json.dumps(answer))
