"""The spool's files, kept usable: opened, replaced when damaged, relieved when the disk is full, tended.

Promises: whatever state the files are in at a start, there is a spool afterwards, or a clear reason why not; a file
that cannot be used is set aside and never deleted for it; the sequence goes on. One lock around one SQLite
connection: SQLite has one writer at a time anyway.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from agent import clock
from agent.errors import SpoolError
from agent.journal import MessageId, about
from agent.report.age import ClockReading, Clocks, SequenceMark
from agent.report.ballast import Ballast
from agent.report.gaps import Gap
from agent.report.spool_db import SpoolFullError, UnusableFileError, set_aside, take_lock
from agent.report.spool_file import SpoolFile
from agent.report.spool_records import Declare, FilePolicy, Levels, Pending, SealedBatch

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
# Numbers that one commit may give to gap events, beside those of its events.
_GAPS = 16


def box_clocks() -> Clocks:
    """Return the clocks of this box."""
    trust = clock.RecentTrust()
    return Clocks(clock.boot_id(), clock.boottime, time.time, lambda: trust() == "synchronised")


class Store:
    """The files of one spool, held by this process. Any thread may call any method.

    Args:
        path: The SQLite file. Beside it: ``.lock`` holds the pid of the process that uses it, ``.mark`` how far the
            sequence may have come, ``.ballast`` room for a full disk, ``.bad-…`` files that were set aside.
        policy: How the file is kept.
        declare: Makes ``gap`` events.
        max_age_s: Events older than this go; 0: never.
        clocks: Of the box.

    Attributes:
        levels: What the file holds, as of the last use of it.
        evicted: Events that went because of the bounds, since the start.
        set_aside: Names of files that could not be used, since the start.
        closed_for: Why the file is not open: the disk is full; empty when it is open.

    Raises:
        SpoolError: another process uses it, or it cannot be opened.
    """

    def __init__(self, path: Path, policy: FilePolicy, declare: Declare, *, max_age_s: float, clocks: Clocks) -> None:
        self._path, self._policy, self._declare = path, policy, declare
        self._max_age_s, self._clocks = max_age_s, clocks
        self.levels = Levels(lost={})
        self.evicted = 0
        self.set_aside: tuple[str, ...] = ()
        self.closed_for = ""
        self._lock_file = take_lock(path)
        self._disk = threading.Lock()  # guards the file and what is known of it
        self._file: SpoolFile | None = None
        try:
            self._mark, self._ballast = SequenceMark(path), Ballast(path)
            with self._disk:
                self._opened()
        except SpoolFullError as error:
            # A full disk must not keep the agent from watching: events wait in memory.
            self.closed_for = error.why
            _log.warning("spool: cannot be opened, %s; events wait in memory", error.why, extra=about(MessageId.SPOOL))
        except BaseException:
            os.close(self._lock_file)
            raise

    def use(self, work: Callable[[SpoolFile], _T], numbers: int = _GAPS) -> _T:
        """Do ``work``; once more after making room on a full disk, or on a fresh file in the place of a damaged one.

        Args:
            work: What to do; it gives at most ``numbers`` sequences.
            numbers: Marked as possibly given before.

        Raises:
            SpoolFullError: the disk is full, nothing was changed; try again later.
            SpoolError: the disk fails.
        """
        with self._disk:
            file = self._opened()
            try:
                result = self._done(file, work, numbers)
            except UnusableFileError as error:
                file = self._replaced(file, error.what)
                result = self._done(file, work, numbers)
            # Not part of the above: what is done must not be done again. The next use finds what is wrong, too.
            with suppress(SpoolError):
                self.levels = file.levels()
            return result

    def _done(self, file: SpoolFile, work: Callable[[SpoolFile], _T], numbers: int) -> _T:
        try:
            self._reserve(file.last_sequence() + numbers)
            return work(file)
        except SpoolError as error:
            if isinstance(error, UnusableFileError) or not self._relieve(file):
                raise self._told(error, file) from error
        try:
            self._reserve(file.last_sequence() + numbers)
            return work(file)
        except SpoolError as error:
            raise self._told(error, file) from error

    def _told(self, error: SpoolError, file: SpoolFile | None = None) -> SpoolError:
        """Return what an error means here.

        SQLite says "attempt to write a readonly database" of a file that is no longer at its path, and on a full disk
        "disk I/O error" and the like.
        """
        if file is not None and not file.db.in_place():
            return _gone(self._path)
        if isinstance(error, UnusableFileError | SpoolFullError) or not self._ballast.disk_is_full():
            return error
        return SpoolFullError(error.what, error.remedy, "the disk is full")

    def _reserve(self, needed: int) -> None:
        try:
            self._mark.reserve(needed, self.levels.kept)
        except OSError as error:
            why = (error.strerror or "it fails").lower()
            raise SpoolFullError(f"{self._path}.mark: {why}", "make room on that disk", why) from error

    # What it is used for --------------------------------------------------------------------------------------

    def commit(self, group: Sequence[Pending], gaps: Sequence[Gap]) -> None:
        """Write events and gaps; see :meth:`agent.report.spool_file.SpoolFile.commit`.

        Raises:
            SpoolError: as for :meth:`use`.
        """
        self.evicted += self.use(lambda file: file.commit(group, gaps), len(group) + _GAPS)

    def next_batch(self, max_events: int) -> SealedBatch | None:
        """Return the oldest sealed batch, or seal one, or None when nothing waits.

        Age is looked at before events are sealed: a batch that is being tried stays until it is delivered.

        Raises:
            SpoolError: as for :meth:`use`.
        """
        def work(file: SpoolFile) -> SealedBatch | None:
            if found := file.sealed():
                return found
            oldest = self.levels.oldest_unsealed
            if self._max_age_s and oldest is not None and oldest < file.now() - self._max_age_s:
                self.evicted += file.evict_older(file.now() - self._max_age_s)
            return file.seal(max_events)
        return self.use(work)

    def tend(self) -> bool:
        """Hold the ballast, drop what is too old, notice a file deleted under the agent; call it now and then.

        Returns:
            Whether there is more to drop: then call it again soon.

        Raises:
            SpoolError: as for :meth:`use`.
        """
        def work(file: SpoolFile) -> int:
            if not file.db.in_place():
                raise _gone(self._path)
            if self._ballast.take() and file.room.frozen:
                _log.info("spool: the disk has room again", extra=about(MessageId.SPOOL))
                file.room.freeze(frozen=False)
            return file.evict_older(file.now() - self._max_age_s) if self._max_age_s else 0
        dropped = self.use(work)
        self.evicted += dropped
        return dropped > 0

    def now(self) -> float:
        """Return the spool's time, seconds; it never goes back while the file is open."""
        file = self._file
        return self._clocks.wall() if file is None else file.now()

    @property
    def disk_full(self) -> bool:
        """Whether the spool lives on what it has, because the disk is full."""
        return self._file is None or self._file.room.frozen

    def end(self) -> None:
        """Note that all that was taken is committed.

        Raises:
            SpoolError: as for :meth:`use`.
        """
        self.use(SpoolFile.end)

    def close(self) -> None:
        """Let go of the files."""
        with self._disk:
            if self._file is not None:
                self._file.db.close()
        os.close(self._lock_file)

    # How it is kept usable ------------------------------------------------------------------------------------

    def _opened(self) -> SpoolFile:
        if self._file is None:
            if self._ballast.disk_is_full():
                self._ballast.release()
            try:
                self._file = self._open()
            except SpoolError as error:
                raise self._told(error) from error
        return self._file

    def _open(self) -> SpoolFile:
        """Open the file, or a fresh one in the place of one that cannot be used."""
        try:
            file = self._at_path()
            lost = not file.in_use_before and self._mark.mark.reached
            return self._begun(file, self._reset("its file was missing") if lost else None)
        except UnusableFileError as error:  # some damage shows only at the first write
            detail = self._put_aside(error.what)
            return self._begun(self._at_path(), self._reset(detail))

    def _replaced(self, file: SpoolFile, why: str) -> SpoolFile:
        """Start a fresh file while running: the sequence goes on where it was."""
        known, reading, self._file = self.levels, file.now.reading(), None
        with suppress(SpoolError):
            file.db.close()
        detail = self._put_aside(why)
        reset = Gap(reason="spool_reset", first=known.kept if known.last else None, last=known.last or None,
                    detail=detail)
        self._file = self._begun(self._at_path(reading), reset)
        return self._file

    def _at_path(self, carried: ClockReading | None = None) -> SpoolFile:
        return SpoolFile(self._path, self._policy, self._declare, self._clocks, carried)

    def _reset(self, detail: str) -> Gap:
        """Return what a fresh file must declare that knows nothing of the one before it."""
        mark = self._mark.mark
        return Gap(reason="spool_reset", first=mark.kept if mark.reached else None, last=mark.reached or None,
                   detail=detail)

    def _begun(self, file: SpoolFile, reset: Gap | None) -> SpoolFile:
        try:
            last = (reset.last if reset else file.last_sequence()) or 0
            self._reserve(last + _GAPS)
            file.begin(reset)
            self.levels, self.closed_for = file.levels(), ""
        except BaseException:
            file.db.close()
            raise
        return file

    def _put_aside(self, why: str) -> str:
        """Set the file aside and return what to say about it."""
        aside = set_aside(self._path)
        if aside is None:
            _log.error("spool: %s; a fresh one is used", why, extra=about(MessageId.SPOOL))
            return why
        self.set_aside += (aside.name,)
        _log.error("spool: %s; it is kept as %s, and a fresh one is used", why, aside.name,
                   extra=about(MessageId.SPOOL))
        return f"set aside as {aside.name}: {why}"

    def _relieve(self, file: SpoolFile) -> bool:
        """Make room on a full disk, once: give the ballast up and let the file grow no more."""
        if not self._ballast.disk_is_full():
            return False
        released = self._ballast.release()
        if not released and file.room.frozen:
            return False
        _log.warning("spool: the disk is full; old events make room for new ones until it is not",
                     extra=about(MessageId.SPOOL))
        file.room.freeze(frozen=True)
        return True


def _gone(path: Path) -> UnusableFileError:
    return UnusableFileError(f"{path}: deleted or replaced while in use", "")
