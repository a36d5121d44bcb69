"""The spool's SQLite database: its settings, its schema, its errors, and the files beside it.

Promises: a transaction that returned is on the disk (WAL, synchronous=FULL); one that raised changed nothing. The
database never passes its page limit. What is no spool, or is damaged, is told apart from what passes by itself. Not
safe for two threads at a time.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from agent.atomic import fsync_dir
from agent.errors import SpoolError

SCHEMA = 2
APPLICATION_ID = 0x56444554  # "VDET"
# Five events of a dozen detections fit into a page, and little of it stays empty; with 4096 only two would.
PAGE = 8192
_CHECKPOINT_PAGES = 128
_JOURNAL_BYTES = 2 * 1024 * 1024
_BUSY_MS = 5000
# Pages given back to the file system at a time: a file that grew in an outage must shrink, but not in one long write.
_VACUUM_PAGES = 512
# On a full disk the file may still grow to this; the rest of the ballast is for the journal.
_LEAST_ON_FULL_DISK = 1024 * 1024
_DISK_FULL = "database or disk is full"
_PASSING = {_DISK_FULL: "the disk is full", "database is locked": "another process holds the file"}
# SQLite quotes damaged bytes in its messages, and finds damaged rows at odds with their table.
_UNUSABLE = ("file is not a database", "malformed", "file is encrypted", "unsupported file format",
             "codec can't decode", "Could not decode", "constraint failed", "no such table", "no such column")
_ASIDE = ".bad-"
_MOST_ASIDE = 3
_TABLES = """
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, class INTEGER NOT NULL, subject TEXT NOT NULL,
    type TEXT NOT NULL, created REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX event_by_class ON event (class DESC);
CREATE TABLE batch (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL, content_type TEXT NOT NULL, encoding TEXT NOT NULL,
    events INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, created REAL NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX batch_by_seq ON batch (first_seq);
CREATE TABLE dead (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, type TEXT NOT NULL, subject TEXT NOT NULL, created REAL NOT NULL,
    buried REAL NOT NULL, why TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE gap (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, reason TEXT NOT NULL, first INTEGER, last INTEGER, count INTEGER,
    data BLOB NOT NULL);
CREATE TABLE lost (reason TEXT PRIMARY KEY, events INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""


class SpoolFullError(SpoolError):
    """The file cannot be written for now; nothing was changed, try again later.

    ``why`` says it in words: the disk is full, or another process holds the file.
    """

    def __init__(self, what: str, remedy: str, why: str) -> None:
        super().__init__(what, remedy)
        self.why = why


class UnusableFileError(SpoolError):
    """The file is damaged, no spool, or of another version: set it aside and start a fresh one."""


class Database:
    """One open spool database.

    Args:
        path: The file; made when missing, its folder must exist.
        max_bytes: Largest size of the file (its journal, at most about 1.5 MiB, comes on top).

    Attributes:
        fresh: Whether the file was made just now.

    Raises:
        SpoolFullError: the disk is full, or another process holds the file.
        UnusableFileError: it is damaged or no spool of this version.
        SpoolError: it cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._most_pages = max_bytes // PAGE
        with self.guard():
            # Both threads that use it take turns under the spool's lock.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.text_factory = _text
        try:
            with self.guard():
                self.fresh = self._prepare()
            self._inode = _inode(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> bool:
        self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        schema, owner = self.one("PRAGMA user_version"), self.one("PRAGMA application_id")
        fresh = not schema and not owner and not self.one("SELECT COUNT(*) FROM sqlite_master")
        if not fresh and (schema, owner) != (SCHEMA, APPLICATION_ID):
            raise UnusableFileError(
                f"{self.path}: not a spool of this version (schema {schema}, application {owner:#x})",
                "it is kept whole; the version that wrote it can deliver it")
        for setting in (
                f"page_size = {PAGE}",
                "auto_vacuum = INCREMENTAL",  # counts only before the first table, and before WAL writes page 1
                "journal_mode = WAL", "synchronous = FULL", f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
                f"journal_size_limit = {_JOURNAL_BYTES}", f"max_page_count = {self._most_pages}"):
            self._db.execute(f"PRAGMA {setting}").fetchall()
        if fresh:
            with self.transaction():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        return fresh

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        """Run one statement; only inside of :meth:`guard`."""
        return self._db.execute(statement, values)

    def executemany(self, statement: str, rows: Any) -> None:
        """Run one statement for each row; only inside of :meth:`guard`."""
        self._db.executemany(statement, rows)

    def one(self, query: str, values: Any = ()) -> Any:
        """Return the first column of the first row, None when there is none; only inside of :meth:`guard`."""
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def remember(self, key: str, value: object) -> None:
        """Keep a value as JSON; only inside of :meth:`transaction`."""
        self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, msgspec.json.encode(value).decode()))

    def recall(self, key: str, kind: Any = Any) -> Any:
        """Return what was kept, None for nothing; only inside of :meth:`guard`.

        Raises:
            UnusableFileError: it is not of type ``kind``.
        """
        text = self.one("SELECT CAST(value AS TEXT) FROM meta WHERE key = ?", (key,))
        try:
            return None if text is None else msgspec.json.decode(text, type=kind)
        except msgspec.DecodeError as error:
            raise UnusableFileError(f"{self.path}: damaged: {key} cannot be read", "it is kept") from error

    def used(self) -> int:
        """Return the bytes of the file that are in use, also within a transaction."""
        return int(self.one("PRAGMA page_count") - self.one("PRAGMA freelist_count")) * PAGE

    def last_sequence(self) -> int:
        """Return the last sequence that was given, 0 before the first; also within a transaction."""
        return int(self.one("SELECT seq FROM sqlite_sequence WHERE name = 'event'") or 0)

    def changed_by_others(self) -> int:
        """Return a number that changes when another process changes the file."""
        return int(self.one("PRAGMA data_version"))

    def freeze(self, frozen: bool) -> int:
        """Let the file grow no more (the disk is full) or again, and return how large it may be, bytes."""
        pages = min(self._most_pages, max(self.one("PRAGMA page_count"), _LEAST_ON_FULL_DISK // PAGE)
                    ) if frozen else self._most_pages
        self._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        return int(pages) * PAGE

    def shrink(self) -> None:
        """Give some free pages back to the file system, where there are many."""
        if self.one("PRAGMA freelist_count") > _VACUUM_PAGES:
            # Not execute(): it stops at this statement's first (empty) row, and so gives back a single page.
            self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")

    def in_place(self) -> bool:
        """Tell whether the open file is still the one at its path: someone may have deleted it under the agent."""
        return _inode(self.path) == self._inode

    def close(self) -> None:
        """Fold the journal into the file and close it."""
        with self.guard():
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done in the block, or nothing of it; only inside of :meth:`guard`."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite rolls back by itself after some errors, a full disk for one
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn SQLite's errors into the spool's."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            text = str(error)
            # By message: sqlite_errorcode exists from Python 3.11 on.
            if why := _PASSING.get(text):
                raise SpoolFullError(f"{self.path}: {text}", "make room on that disk, or end who holds the file", why
                                     ) from error
            # Read-only though it may be written: its header is damaged, or it is no longer at its path.
            if any(sign in text for sign in _UNUSABLE) or ("readonly" in text and os.access(self.path, os.W_OK)):
                raise UnusableFileError(f"{self.path}: {text}", "it is kept; `vedette spool export --file` reads what "
                                        "can be read") from error
            raise SpoolError(f"{self.path}: {text}", "check the disk, and that the agent's user may write there"
                             ) from error


def set_aside(path: Path) -> Path | None:
    """Rename a file that cannot be used, and its journal; only the newest three stay.

    Returns:
        Its new name, None when there was no file: someone deleted it.

    Raises:
        SpoolError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}{_ASIDE}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for number in range(2, 100):
        if not aside.exists():
            break
        aside = aside.with_name(f"{aside.name.partition('Z')[0]}Z-{number}")
    there = path.exists()
    try:
        # The file first: a journal that is left beside no file is deleted by SQLite, not played into a fresh one.
        if there:
            path.replace(aside)
        _move_journal(path, aside if there else None)
        for old in set_asides(path)[:-_MOST_ASIDE]:
            old.unlink()
            _move_journal(old, None)
        fsync_dir(path.parent)
    except OSError as error:
        raise SpoolError(f"{path}: cannot be set aside: {error.strerror}",
                         "check that the agent's user may write there") from error
    return aside if there else None


def _move_journal(path: Path, to: Path | None) -> None:
    """Rename the journal of ``path`` to that of ``to``, or delete it."""
    journal = path.with_name(f"{path.name}-wal")
    if to is None:
        journal.unlink(missing_ok=True)
    else:
        with suppress(FileNotFoundError):
            journal.replace(to.with_name(f"{to.name}-wal"))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def set_asides(path: Path) -> list[Path]:
    """Return the files that were set aside, oldest first."""
    return sorted(one for one in path.parent.glob(f"{path.name}{_ASIDE}*") if not one.name.endswith(("-wal", "-shm")))


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


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")  # a damaged row must not end the agent


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
