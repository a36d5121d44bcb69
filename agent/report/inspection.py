"""A spool file looked at from outside, whether an agent runs or not: opened, counted, its dead letters treated.

Promises: looking changes nothing and makes no file that was not there (the journal's index ``-shm`` apart, where a
killed agent left a journal without one); every transaction is short, so that a running agent's checkpoints are not held
back; its lock is never taken. Root acts as the file's owner, so that no file is left behind that the agent cannot open.
What is in the file is told by :mod:`agent.report.figures`, :mod:`agent.report.contents` and :mod:`agent.report.proof`.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.errors import SpoolError
from agent.report.age import AgeClock, ClockReading
from agent.report.classes import class_of
from agent.report.spool_db import APPLICATION_ID, SCHEMA
from agent.report.store import box_clocks

# How long to wait for a turn while the agent writes, seconds.
_BUSY_S = 5.0
# First bytes of every SQLite file: https://www.sqlite.org/fileformat2.html, 1.3.1.
_MAGIC = b"SQLite format 3\0"


class DamagedError(SpoolError):
    """The file is a spool, but some of its pages cannot be read."""


class Batch(NamedTuple):
    """A sealed batch as it stands in the file."""

    n: int
    id: str
    content_type: str
    encoding: str
    events: int
    first_seq: int
    last_seq: int
    body: bytes


_BATCH_TYPES = (int, str, str, str, int, int, int, bytes)
_SAVE = "save what can be read: vedette spool export --all"


class Inspection(AbstractContextManager["Inspection"]):
    """An open spool file; leave its ``with`` block to close it.

    Args:
        path: The file.
        writing: Whether dead letters are to be treated.

    Attributes:
        path: The file.
        agent_pid: Process that held it when it was opened, None when none did; 0 when it cannot be told who.

    Raises:
        SpoolError: it is not there, may not be read, is no database, no spool, or of another version.
    """

    def __init__(self, path: Path, *, writing: bool = False) -> None:
        self.path = path.absolute()
        self._opened = ExitStack()
        try:
            self._opened.enter_context(_as_owner(self.path))
            _look(self.path)
            self._was = _state(self.path)
            self.agent_pid = holder(self.path)
            # Without a journal and an agent the file is complete and still: SQLite is told so, because it would
            # make a journal and its index only to read them.
            self._still = not writing and self.agent_pid is None and not size_of(beside(self.path, "-wal"))
            self._db = self._connect("mode=rw" if writing else "mode=ro&immutable=1" if self._still else "mode=ro")
            self._opened.callback(self._db.close)
            self._check()
        except BaseException:
            self._opened.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._opened.close()
        if kind is None:
            self._disturbed()

    def _connect(self, options: str) -> sqlite3.Connection:
        with self.guard():
            db = sqlite3.connect(f"{self.path.as_uri()}?{options}", uri=True, isolation_level=None, timeout=_BUSY_S)
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a damaged name must not end the reading
        return db

    def _check(self) -> None:
        with self.guard():
            owner, schema = self.one("PRAGMA application_id"), self.one("PRAGMA user_version")
        if owner == APPLICATION_ID and schema == SCHEMA:
            return
        if owner == APPLICATION_ID and schema > SCHEMA:
            raise SpoolError(f"{self.path}: written by a newer version (schema {schema}, this one knows {SCHEMA})",
                             "use the `vedette` command of that version")
        if owner == APPLICATION_ID or (owner, schema) == (0, 1):
            raise SpoolError(f"{self.path}: written by an older version (schema {schema}, this one knows {SCHEMA})",
                             "an agent of this version sets it aside; the version that wrote it can still deliver it")
        raise SpoolError(f"{self.path}: a database of another application (id {owner:#010x}), no spool",
                         "give the right file: --file PATH")

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn SQLite's errors into ours.

        Raises:
            DamagedError: some pages cannot be read.
            SpoolError: all else.
        """
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a table's own name is damaged
            text = str(error)
            self._disturbed()
            if "not a database" in text or "encrypted" in text:
                raise SpoolError(f"{self.path}: no database that can be read", "give the right file: --file PATH"
                                 ) from error
            if isinstance(error, sqlite3.OperationalError) and not re.search("malformed|I/O|no such table", text):
                remedy = _REMEDIES.get(text, "check the disk, and the file's owner and mode")
                raise SpoolError(f"{self.path}: {text}", remedy) from error
            raise DamagedError(f"{self.path}: {text}", _SAVE) from error

    def _disturbed(self) -> None:
        if self._still and (size_of(beside(self.path, "-wal")) or _state(self.path) != self._was):
            raise SpoolError(f"{self.path}: an agent opened it while it was read", "run the command again")

    @contextmanager
    def transaction(self, kind: str = "DEFERRED") -> Iterator[None]:
        """Show one state of the file in the block, and with ``IMMEDIATE`` change it as a whole or not at all.

        Raises:
            SpoolError: as for :meth:`guard`.
        """
        with self.guard():
            self._db.execute(f"BEGIN {kind}")
            try:
                yield
                # Who only read has nothing to commit, and on a damaged file could not.
                self._db.execute("COMMIT" if kind == "IMMEDIATE" else "ROLLBACK")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement; only inside of :meth:`guard` or :meth:`transaction`."""
        return self._db.execute(statement, values)

    def one(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row, None when there is none; only inside as :meth:`execute`."""
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def last_sequence(self) -> int:
        """Return the last sequence that was given; only inside as :meth:`execute`."""
        last = self.one("SELECT seq FROM sqlite_sequence WHERE name = 'event'") or 0
        if not isinstance(last, int):
            raise DamagedError(f"{self.path}: the last sequence is no number", _SAVE)
        return last

    def batches(self, where: str = "", values: Sequence[Any] = (), *, newest: bool = False) -> Iterator[Batch]:
        """Yield the sealed batches in the order they go out, or backwards; only inside as :meth:`execute`."""
        query = f"SELECT {', '.join(Batch._fields)} FROM batch {where} ORDER BY first_seq"  # noqa: S608 -- our own names
        for row in self._db.execute(f"{query} DESC" if newest else query, values):
            if tuple(map(type, row)) != _BATCH_TYPES:
                raise DamagedError(f"{self.path}: a sealed batch has values of the wrong type", _SAVE)
            yield Batch._make(row)

    def now(self) -> float | None:
        """Return the time by the spool's clock, None where it cannot be told; only inside as :meth:`execute`."""
        saved = self.one("SELECT value FROM meta WHERE key = 'clock'")
        try:
            reading = msgspec.json.decode(saved, type=ClockReading) if isinstance(saved, str) else None
        except msgspec.DecodeError:
            return None
        return None if reading is None else AgeClock(reading, box_clocks())()

    def retry_dead(self, ids: Sequence[str] | None) -> list[str]:
        """Put dead letters back among the events that wait, under their old sequence; all of them for None.

        Their age begins anew: what was kept for a person must not go at once because it is old.

        Returns:
            The ids of those that were there.
        """
        with self.transaction("IMMEDIATE"):
            rows, now = self._dead(ids), self.now() or time.time()
            self._db.executemany(
                "INSERT INTO event (seq, id, class, subject, type, created, body)"
                " SELECT seq, id, ?, subject, type, ?, body FROM dead WHERE seq = ?",
                [(class_of(type_), now, seq) for seq, _, type_ in rows])
            self._db.executemany("DELETE FROM dead WHERE seq = ?", [(row[0],) for row in rows])
        return [row[1] for row in rows]

    def drop_dead(self, ids: Sequence[str] | None) -> list[str]:
        """Delete dead letters and count them as lost; all of them for None. Their ``gap`` events have told it already.

        Returns:
            The ids of those that were there.
        """
        with self.transaction("IMMEDIATE"):
            rows = self._dead(ids)
            self._db.executemany("DELETE FROM dead WHERE seq = ?", [(row[0],) for row in rows])
            if rows:
                self.execute("INSERT INTO lost VALUES ('dead_letter', ?) ON CONFLICT (reason)"
                             " DO UPDATE SET events = events + excluded.events", (len(rows),))
        return [row[1] for row in rows]

    def _dead(self, ids: Sequence[str] | None) -> list[tuple[int, str, str]]:
        wanted = None if ids is None else set(ids)
        return [row for row in self.execute("SELECT seq, id, type FROM dead ORDER BY seq")
                if wanted is None or row[1] in wanted]


_REMEDIES = {
    "database is locked": "the agent writes without a pause: run the command again",
    "attempt to write a readonly database": "use sudo, or be the agent's user",
    "unable to open database file": "use sudo; on a disk that cannot be written, copy the file with its -wal first",
    "database or disk is full": "make room on that disk",
}


def holder(path: Path) -> int | None:
    """Return the process that has the lock of the spool ``path``, None when none has, without trying to take it."""
    lock = beside(path, ".lock")
    try:
        found = lock.stat()
        table = Path("/proc/locks").read_text("ascii", "replace")
        said = lock.read_text("ascii", "replace").strip()
    except OSError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    # proc(5): `1: FLOCK ADVISORY WRITE 812 fe:00:2441368 0 EOF`. An overlay may show another device: the pid counts.
    for pid, place, inode in re.findall(r"FLOCK +ADVISORY +WRITE +(\d+) ([0-9a-f]+:[0-9a-f]+):(\d+)", table):
        if int(inode) == found.st_ino and (place == device or pid == said):
            return int(pid)
    return None


def beside(path: Path, suffix: str) -> Path:
    """Return the file that belongs to ``path``: its name with ``suffix``."""
    return path.with_name(path.name + suffix)


def _look(path: Path) -> None:
    """Raise a plain error for what SQLite would call by a strange name."""
    try:
        if not path.is_file():
            path.stat()
            raise SpoolError(f"{path}: not a file", "give the right file: --file PATH")
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError as error:
        raise SpoolError(f"{path}: no such file", "the agent makes it when it first starts; if it lies elsewhere: "
                         "--config or --file") from error
    except OSError as error:
        raise SpoolError(f"{path}: {(error.strerror or str(error)).lower()}", "use sudo, or check the path: --file PATH"
                         ) from error
    if start != _MAGIC:
        raise SpoolError(f"{path}: {'no database' if start else 'empty, no spool'}", "give the right file: --file PATH")


@contextmanager
def _as_owner(path: Path) -> Iterator[None]:
    """Let root be the file's owner in the block, if the owner can get at the file at all."""
    was = os.geteuid(), os.getegid()
    try:
        owner = path.stat() if was[0] == 0 else None
    except OSError:
        owner = None
    try:
        if owner is not None:
            os.setegid(owner.st_gid)
            os.seteuid(owner.st_uid)
            if not os.access(path, os.R_OK, effective_ids=True):
                os.seteuid(was[0])
        yield
    finally:
        os.seteuid(was[0])
        os.setegid(was[1])


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes when the file is written or replaced."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def size_of(path: Path) -> int:
    """Return the bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
