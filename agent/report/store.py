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
from agent.report.age import Clocks, SequenceMark
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
    return Clocks(clock.boot_id(), clock.boottime, time.time, clock.RecentTrust().distrust)


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
            self.use(lambda _: None)
        except SpoolFullError as error:
            # A full disk must not keep the agent from watching: events wait in memory.
            self.closed_for = error.why
            _log.warning("spool: cannot be opened, %s; events wait in memory", error.why)
        except BaseException:
            os.close(self._lock_file)
            raise

    def use(self, work: Callable[[SpoolFile], _T]) -> _T:
        """Do ``work``; once more after making room on a full disk, or on a fresh file in the place of a damaged one.

        Raises:
            SpoolFullError: the disk is full, nothing was changed; try again later.
            SpoolError: the disk fails.
        """
        with self._disk:
            file = self._file = self._file or self._open()
            try:
                result, levels = work(file), file.levels()
            except SpoolFullError:
                if not self._relieve(file):
                    raise
                result, levels = work(file), file.levels()
            except UnusableFileError as error:
                file = self._file = self._replace(file, error.what)
                result, levels = work(file), file.levels()
            self.levels, self.closed_for = levels, ""
            return result

    # What it is used for --------------------------------------------------------------------------------------

    def commit(self, group: Sequence[Pending], gaps: Sequence[Gap]) -> None:
        """Write events and gaps; see :meth:`agent.report.spool_file.SpoolFile.commit`.

        Raises:
            SpoolError: as for :meth:`use`.
        """
        def work(file: SpoolFile) -> int:
            try:
                self._mark.reserve(self.levels.last + len(group) + _GAPS, self.levels.kept)
            except OSError as error:
                why = (error.strerror or "it fails").lower()
                raise SpoolFullError(f"{self._path}.mark: {why}", "make room on that disk", why) from error
            return file.commit(group, gaps)
        self.evicted += self.use(work)

    def next_batch(self, max_events: int) -> SealedBatch | None:
        """Return the oldest sealed batch that is not too old, or seal one, or None when nothing waits.

        Raises:
            SpoolError: as for :meth:`use`.
        """
        def work(file: SpoolFile) -> SealedBatch | None:
            while found := file.sealed():
                batch, created = found
                if not self._too_old(file, created):
                    return batch
                file.unseal(batch)
                self._evict_old(file)
            if self._too_old(file, self.levels.oldest_unsealed):
                self._evict_old(file)
            return file.seal(max_events)
        return self.use(work)

    def tend(self) -> None:
        """Hold the ballast, drop what is too old, notice a file deleted under the agent; call it now and then.

        Raises:
            SpoolError: as for :meth:`use`.
        """
        def work(file: SpoolFile) -> None:
            if not file.db.in_place():
                raise UnusableFileError(f"{self._path}: deleted or replaced while in use", "")
            if self._ballast.take() and file.room.frozen:
                _log.info("spool: the disk has room again")
                file.room.freeze(frozen=False)
            self._evict_old(file)
        self.use(work)

    def _too_old(self, file: SpoolFile, created: float | None) -> bool:
        return self._max_age_s > 0 and created is not None and created < file.now() - self._max_age_s

    def _evict_old(self, file: SpoolFile) -> None:
        while self._max_age_s and (lost := file.evict_older(file.now() - self._max_age_s)):
            self.evicted += lost

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

    def _open(self) -> SpoolFile:
        """Open the file, or a fresh one in the place of one that cannot be used."""
        if self._ballast.disk_is_full():
            self._ballast.release()
        mark, reset = self._mark.mark, None
        try:
            file = self._at_path()
            if file.db.fresh and mark.reached:
                reset = Gap(reason="spool_reset", first=mark.kept, last=mark.reached, detail="its file was missing")
            return _begun(file, reset)
        except UnusableFileError as error:  # some damage shows only at the first write
            name = self._put_aside(error.what)
            reset = Gap(reason="spool_reset", first=mark.kept if mark.reached else None, last=mark.reached or None,
                        detail=f"set aside as {name}: {error.what}")
            return _begun(self._at_path(), reset)

    def _replace(self, file: SpoolFile, why: str) -> SpoolFile:
        """Start a fresh file while running: the sequence goes on where it was."""
        known = self.levels
        with suppress(SpoolError):
            file.db.close()
        name = self._put_aside(why)
        return _begun(self._at_path(), Gap(
            reason="spool_reset", first=known.kept if known.last else None, last=known.last or None,
            detail=f"set aside as {name}: {why}"))

    def _at_path(self) -> SpoolFile:
        return SpoolFile(self._path, self._policy, self._declare, self._clocks)

    def _put_aside(self, why: str) -> str:
        name = set_aside(self._path).name
        self.set_aside += (name,)
        _log.error("spool: %s; it is kept as %s, and a fresh one is used", why, name)
        return name

    def _relieve(self, file: SpoolFile) -> bool:
        """Make room on a full disk, once: give the ballast up and let the file grow no more."""
        if not self._ballast.disk_is_full():
            return False
        released = self._ballast.release()
        if not released and file.room.frozen:
            return False
        _log.warning("spool: the disk is full; old events make room for new ones until it is not")
        file.room.freeze(frozen=True)
        return True


def _begun(file: SpoolFile, reset: Gap | None) -> SpoolFile:
    try:
        file.begin(reset)
    except BaseException:
        file.db.close()
        raise
    return file
