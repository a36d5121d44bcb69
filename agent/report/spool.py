"""The durable queue between the loop and the upstream.

Promises: ``append`` never waits for the disk and never raises; what was committed survives a crash and a power cut and
is handed out, in order, in batches whose bytes and id never change, until it is acknowledged. What a power cut can
cost is what waits for its group commit. What must go because of a bound, or could not be taken, is counted and
declared by a ``gap`` event. A full disk stops nothing but growth; a damaged file is set aside and a fresh one goes on
with the sequence. Does not send anything.
"""

import logging
import shutil
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from agent.errors import SpoolError
from agent.journal import MessageId, about
from agent.meters import Heartbeat, Histogram
from agent.records import Event
from agent.report.age import Clocks
from agent.report.gaps import Gap
from agent.report.handoff import HandOff
from agent.report.spool_db import SpoolFullError
from agent.report.spool_records import Declare, FilePolicy, Pending, SealedBatch, SpoolStats
from agent.report.store import Store, box_clocks

__all__ = ["FilePolicy", "SealedBatch", "Spool", "SpoolFullError", "SpoolStats"]

_log = logging.getLogger(__name__)
_RING_BYTES = 4 * 1024 * 1024
# A commit's share of the journal, which must fit into the ballast when the disk is full.
_COMMIT_BYTES = 512 * 1024
_BEAT_S = 1.0
_RETRY_S = 0.5
_UPKEEP_S = 5.0


class Spool(AbstractContextManager["Spool"]):
    """An open spool with its writer thread; leaving its ``with`` block closes it.

    Any thread may append; one thread seals, acknowledges, splits and buries.

    Args:
        path: The SQLite file; see :class:`agent.report.store.Store` for those beside it.
        policy: How the file is kept.
        declare: Makes ``gap`` events: :meth:`agent.report.events.EventFactory.gap`.
        commit_events: Most events in one commit.
        commit_interval_s: Longest time an event waits for its commit, seconds.
        max_age_s: Events older than this go; 0: never.
        ring_bytes: Bodies that may wait in memory, bytes.
        heartbeat: Beaten by the writer thread, at least every second while the disk answers.
        clocks: Of the box.

    Attributes:
        stuck: Why the last commit was put off and new events wait in memory; empty when it went well.
        crash: Set when the file can no longer be written; the writer thread has then ended by raising it
            (``threading.excepthook`` sees it), and the agent must end and start again.

    Raises:
        SpoolError: another process uses it, or it cannot be opened.
    """

    def __init__(self, path: Path, policy: FilePolicy, declare: Declare, *, commit_events: int = 256,
                 commit_interval_s: float = 0.25, max_age_s: float = 0.0, ring_bytes: int = _RING_BYTES,
                 heartbeat: Heartbeat | None = None, clocks: Clocks | None = None) -> None:
        self.crash: SpoolError | None = None
        self._path = path
        self._heartbeat = heartbeat or Heartbeat("spool", float("inf"))
        self._closing = threading.Event()
        self._acked = self._failed_commits = 0
        self._commit_s = Histogram()
        self._next_upkeep = 0.0
        self._store = Store(path, policy, declare, max_age_s=max_age_s, clocks=clocks or box_clocks())
        self.stuck = self._store.closed_for
        self._behind = False
        self._handoff = HandOff(max_bytes=ring_bytes, commit_events=commit_events,
                                commit_bytes=min(policy.max_bytes // 8, _COMMIT_BYTES),
                                commit_interval_s=commit_interval_s)
        self._writer = threading.Thread(target=self._write, name="spool", daemon=True)
        self._writer.start()

    # For everyone ---------------------------------------------------------------------------------------------

    def append(self, event: Event) -> None:
        """Take ``event`` for the next commit, or count it as refused; returns at once."""
        self._handoff.append(event)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was appended before is on the disk; False when it is not after ``timeout_s``."""
        return self._handoff.flush(timeout_s, lambda: self.crash is not None)

    @property
    def depth(self) -> int:
        """Events in the file, not yet acknowledged."""
        return self._store.levels.unsealed + self._store.levels.sealed

    def stats(self) -> SpoolStats:
        """Return the figures of now; never waits for a write to the disk."""
        store, handoff = self._store, self._handoff
        levels = store.levels
        return SpoolStats(
            depth=levels.unsealed + levels.sealed, pending=len(handoff),
            bytes=sum(_size(self._path.with_name(self._path.name + suffix)) for suffix in ("", "-wal")),
            oldest_age_s=None if levels.oldest is None else max(0.0, store.now() - levels.oldest),
            sequence=levels.last, dead=levels.dead, lost=levels.lost, appended=handoff.appended,
            committed=handoff.committed, acked=self._acked, evicted=store.evicted, refused=dict(handoff.refused),
            failed_commits=self._failed_commits, disk_free=_free(self._path), disk_full=store.disk_full,
            set_aside=store.set_aside, commit=self._commit_s.recent())

    def close(self) -> None:
        """Commit what waits (once; what a full disk refuses now is lost and logged), then let go of the file."""
        self._closing.set()
        self._handoff.close()
        self._writer.join()
        if len(self._handoff):
            _log.error("spool: closed with %d events that could not be committed", len(self._handoff),
                       extra=about(MessageId.LOST))
        self._store.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    # For the uploader -----------------------------------------------------------------------------------------

    def seal(self, max_events: int, max_age_s: float) -> SealedBatch | None:
        """Return the batch to send next: one sealed before, else the oldest events if they are many or old enough.

        Args:
            max_events: Most events in a batch; as many are sealed at once.
            max_age_s: Fewer are sealed when the oldest is this old; 0 seals whatever is there.

        Raises:
            SpoolFullError: the disk is full; try again later.
            SpoolError: the disk fails.
        """
        levels = self._store.levels
        if not levels.sealed and (levels.oldest_unsealed is None or (
                levels.unsealed < max_events and self._store.now() - levels.oldest_unsealed < max_age_s)):
            return None
        return self._store.next_batch(max_events)

    def ack(self, batch: SealedBatch, next_events: int = 0) -> None:
        """Delete ``batch`` with its events: the upstream has it.

        Args:
            batch: What was delivered.
            next_events: If so many wait, the next batch is sealed by the same write to the disk.

        Raises:
            SpoolError: as for :meth:`seal`; the batch is then still there, and sending it again does no harm.
        """
        try:
            self._store.use(lambda file: file.remove(batch, next_events))
        except SpoolFullError:  # to delete takes less room than to seal
            self._store.use(lambda file: file.remove(batch))
        self._acked += batch.events

    def split(self, batch: SealedBatch) -> None:
        """Replace a sealed batch of two or more events by two halves; :meth:`seal` returns the first of them next.

        Raises:
            SpoolError: as for :meth:`seal`.
        """
        self._store.use(lambda file: file.split(batch))

    def bury(self, batch: SealedBatch, why: str) -> bool:
        """Move a batch of one event to the dead letters, and declare it as a gap.

        Returns:
            False when the dead letters are full; nothing is changed then.

        Raises:
            SpoolError: as for :meth:`seal`.
        """
        return self._store.use(lambda file: file.bury(batch, why))

    # The writer's thread --------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Commit group after group until the spool is closed or its file fails."""
        try:
            while True:
                self._heartbeat.beat()
                closing = self._closing.is_set()
                group = self._handoff.next_group(0 if self._behind else _BEAT_S)
                gaps = self._handoff.undeclared()
                if (group or gaps) and not self._committed(group, gaps) and self._closing.wait(_RETRY_S):
                    return  # the next run declares that this one did not end well
                if closing and not group:
                    break
                self._keep_up()
            with suppress(SpoolFullError):
                self._store.end()
        except SpoolError as error:
            self.crash = error
            self._handoff.wake()
            raise

    def _committed(self, group: list[Pending], gaps: list[Gap]) -> bool:
        """Write a group and what was refused; tell whether it could be."""
        started = time.monotonic()
        try:
            self._store.commit(group, gaps)
        except SpoolFullError as error:
            self._handoff.still_undeclared(gaps)
            self._failed_commits += 1
            if not self.stuck:
                _log.warning("spool: cannot be written, %s; new events wait in memory", error.why,
                             extra=about(MessageId.SPOOL))
            self.stuck = error.why
            return False
        self._commit_s.record(time.monotonic() - started)
        self._handoff.done(len(group))
        if self.stuck:
            _log.info("spool: writing again; %d events had waited", len(group), extra=about(MessageId.SPOOL))
            self.stuck = ""
        return True

    def _keep_up(self) -> None:
        """Tend the files now and then; step by step while there is much to drop, so that commits are not held up."""
        if self._behind or time.monotonic() >= self._next_upkeep:
            self._behind = False
            with suppress(SpoolFullError):
                self._behind = self._store.tend()
            self._next_upkeep = time.monotonic() + _UPKEEP_S


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
