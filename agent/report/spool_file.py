"""The spool's SQLite file: its settings, its schema, and the few transactions that are ever run on it.

Promises: a transaction that returned is on the disk (WAL, synchronous=FULL); one that raised changed nothing. The
file never passes its page limit, and keeps room to seal a batch when it is full of events, so that it can always be
drained. Not safe for two threads at a time: :class:`agent.report.spool.Spool` holds a lock around every call.

Schema 1: ``event`` holds what is not yet in a batch, ``batch`` the sealed ones. Sealing *moves*: the rows leave
``event`` in the transaction that writes the batch, so nothing is stored twice and an acknowledged batch is one
DELETE. ``event.id`` has no unique index: ids are unique by construction, a moved event would escape the index, and
it would double the pages of every commit. ``class`` says what may be given up first; ``seq`` is never used again, so
that a lost range can be named. The index on (class, seq) finds the oldest of the lowest class and makes the count
at start read a small index instead of all bodies.
"""

import fcntl
import gzip
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from agent.errors import SpoolError
from agent.records import Event

SCHEMA = 1
LEAST_BYTES = 1024 * 1024
CONTENT_TYPE = "application/cloudevents-batch+json"
_PAGE = 4096
_CHECKPOINT_PAGES = 128
_JOURNAL_BYTES = 1024 * 1024
_BUSY_MS = 5000
# Pages given back to the file system at a time: a file that grew in an outage must shrink, but not in one long write.
_VACUUM_PAGES = 1024
_PASSING = {"database or disk is full": "the disk is full", "database is locked": "another process holds the file"}
_ORDINARY = 1
_CLASSES = {"detection": 0, "gap": 2, "update.outcome": 2}
_TABLES = """
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, class INTEGER NOT NULL, subject TEXT NOT NULL,
    created REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX event_by_class ON event (class, seq);
CREATE TABLE batch (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, class INTEGER NOT NULL, content_type TEXT NOT NULL,
    encoding TEXT NOT NULL, events INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    created REAL NOT NULL, sealed REAL NOT NULL, body BLOB NOT NULL);
"""


class SpoolFullError(SpoolError):
    """The file cannot be written for now; nothing was changed, try again later.

    ``why`` says it in words: the disk is full, or another process holds the file.
    """

    def __init__(self, what: str, remedy: str, why: str) -> None:
        super().__init__(what, remedy)
        self.why = why


class Pending(NamedTuple):
    """An event that waits for its commit; ``created`` by the wall clock, ``appended`` by the monotonic one."""

    event: Event
    created: float
    appended: float


class SealedBatch(NamedTuple):
    """Bytes that never change again, whatever happens between here and the receiver.

    Attributes:
        n: Key in the file.
        id: SHA-256 of the JSON array before compression, 64 hex digits: what a receiver can check, whatever
            encoding it was sent in; the same on every retry and after a restart.
        content_type: Media type of the array.
        encoding: Content encoding of ``body``: ``gzip``.
        events: How many events the array has.
        first_seq: Number of its first event in this spool.
        last_seq: Number of its last.
        body: The encoded bytes.
    """

    n: int
    id: str
    content_type: str
    encoding: str
    events: int
    first_seq: int
    last_seq: int
    body: bytes


class Levels(NamedTuple):
    """What the file holds: bytes in use, and when the oldest event (of all; not yet sealed) was appended, or None."""

    used: int
    oldest: float | None
    oldest_unsealed: float | None


class SpoolFile:
    """One open spool file.

    Args:
        path: The file; made when missing, its folder must exist.
        max_bytes: Largest size of the file (its journal, at most about 1.5 MiB, comes on top).

    Raises:
        SpoolError: it cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        # A batch that nginx takes with its default client_max_body_size even if it does not compress at all.
        self.batch_bytes = min(max_bytes // 8, 1000 * 1000)
        self.limit = max_bytes - 2 * self.batch_bytes  # the rest is for sealing when all else is full
        with self._guard():
            # Both threads that use it take turns under the spool's lock.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._guard():
                self._prepare(max_bytes)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, max_bytes: int) -> None:
        found = self._one("PRAGMA user_version")
        if found > SCHEMA:
            raise SpoolError(f"{self._path}: written by a newer version (schema {found}, this one knows {SCHEMA})",
                             "install that version again, or move the file away to start an empty spool")
        for setting in (
                f"busy_timeout = {_BUSY_MS}", f"page_size = {_PAGE}",
                "auto_vacuum = INCREMENTAL",  # counts only before the first table, and before WAL writes page 1
                "journal_mode = WAL", "synchronous = FULL", f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
                f"journal_size_limit = {_JOURNAL_BYTES}", f"max_page_count = {max_bytes // _PAGE}"):
            self._db.execute(f"PRAGMA {setting}").fetchall()
        if found == 0:
            with self._transaction():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def counts(self) -> tuple[int, int]:
        """Return (events not yet sealed, events in sealed batches); reads an index, no bodies."""
        with self._guard():
            return self._one("SELECT COUNT(*) FROM event"), self._one("SELECT COALESCE(SUM(events), 0) FROM batch")

    def levels(self) -> Levels:
        """Return what the file holds now; cheap."""
        with self._guard():
            pages = self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")
            unsealed = self._one("SELECT created FROM event ORDER BY seq LIMIT 1")
            sealed = self._one("SELECT created FROM batch ORDER BY n LIMIT 1")
        return Levels(pages * _PAGE, unsealed if sealed is None else sealed, unsealed)

    def insert(self, pending: Sequence[Pending]) -> None:
        """Write events in one transaction.

        Raises:
            SpoolFullError: the disk is full.
            SpoolError: the file is damaged or the disk fails.
        """
        rows = [(event.id, _CLASSES.get(event.type, _ORDINARY), event.subject, created, event.body)
                for event, created, _ in pending]
        with self._guard(), self._transaction():
            self._db.executemany("INSERT INTO event (id, class, subject, created, body) VALUES (?, ?, ?, ?, ?)", rows)

    def seal(self, max_events: int, now: float) -> SealedBatch | None:
        """Move the oldest events, at most ``max_events`` and ``batch_bytes`` before compression, into a batch.

        Returns:
            The batch, or None when no event waits.

        Raises:
            SpoolError: as for :meth:`insert`.
        """
        with self._guard(), self._transaction():
            rows: list[Any] = []
            size = 0
            for row in self._db.execute("SELECT seq, class, created, body FROM event ORDER BY seq LIMIT ?",
                                        (max_events,)):
                size += len(row[3]) + 1
                if rows and size > self.batch_bytes:
                    break
                rows.append(row)
            if not rows:
                return None
            array = b"[" + b",".join(row[3] for row in rows) + b"]"
            first, last, name = rows[0][0], rows[-1][0], hashlib.sha256(array).hexdigest()
            body = gzip.compress(array, mtime=0)
            self._db.execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", (first, last))
            n = self._db.execute(
                "INSERT INTO batch (id, class, content_type, encoding, events, first_seq, last_seq, created, sealed,"
                " body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (name, max(row[1] for row in rows), CONTENT_TYPE, "gzip", len(rows), first, last, rows[0][2], now,
                 body)).lastrowid
        assert n is not None
        return SealedBatch(n, name, CONTENT_TYPE, "gzip", len(rows), first, last, body)

    def sealed(self) -> SealedBatch | None:
        """Return the oldest sealed batch, if any."""
        with self._guard():
            row = self._db.execute(
                f"SELECT {', '.join(SealedBatch._fields)} FROM batch ORDER BY n LIMIT 1").fetchone()  # noqa: S608 -- our own names
        return None if row is None else SealedBatch(*row)

    def remove(self, batch: SealedBatch) -> None:
        """Delete a delivered batch with all its events.

        Raises:
            SpoolError: as for :meth:`insert`.
        """
        with self._guard(), self._transaction():
            self._db.execute("DELETE FROM batch WHERE n = ?", (batch.n,))

    def shrink(self) -> None:
        """Give some free pages back to the file system, where there are many."""
        with self._guard():
            if self._one("PRAGMA freelist_count") > _VACUUM_PAGES:
                # Not execute(): it stops at this statement's first (empty) row, and so gives back a single page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")

    def close(self) -> None:
        """Fold the journal into the file and close it."""
        with self._guard():
            self._db.close()

    def _one(self, query: str) -> Any:
        row = self._db.execute(query).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite rolls back by itself after some errors, a full disk for one
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            # By message: sqlite_errorcode exists from Python 3.11 on.
            if why := _PASSING.get(text):
                raise SpoolFullError(f"{self._path}: {text}", "make room on that disk, or end who holds the file", why
                                     ) from error
            raise SpoolError(f"{self._path}: {text}", "check the disk and the file's owner; if the file is damaged, "
                             "move it away and the agent starts an empty one") from error


def take_lock(path: Path) -> int:
    """Lock ``<path>.lock`` for this process and write the pid into it.

    Returns:
        The descriptor; closing it gives the lock back, and so does the end of the process.

    Raises:
        SpoolError: another process has the lock, or the file cannot be made.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SpoolError(f"{lock}: {error.strerror}", "make the state directory, writable by the agent's user"
                         ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise SpoolError(f"{path}: in use by process {owner}",
                         "stop that agent, or give this one another device.state_dir") from error
    with suppress(OSError):  # a full disk takes no pid; the lock holds all the same
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
