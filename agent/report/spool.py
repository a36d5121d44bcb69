"""The durable queue between the loop and the upstream.

Promises: ``append`` never waits for the disk and never raises; what was committed survives a crash and a power cut and
is handed out, in order, in batches whose bytes and id never change, until it is acknowledged. What a power cut can
cost is what waits for its group commit. What does not fit is refused and counted, never dropped from the middle.
Does not send anything. One lock around one SQLite connection: SQLite has one writer at a time anyway.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agent.errors import ConfigError, SpoolError
from agent.meters import Heartbeat, Histogram, Percentiles
from agent.records import Event
from agent.report.spool_file import LEAST_BYTES, Levels, Pending, SealedBatch, SpoolFile, SpoolFullError, take_lock

__all__ = ["SealedBatch", "Spool", "SpoolFullError", "SpoolStats"]

_log = logging.getLogger(__name__)
_RING_BYTES = 4 * 1024 * 1024
# An event is taken only if it will fit at its commit, at the worst: a row that does not fit into the rest of a page
# takes a new one, so up to half of each page stays empty. Row and index entry add less than 200 bytes.
_PAGING = 2
_ROW_BYTES = 200
_BEAT_S = 1.0
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStats:
    """The spool in figures; counters since the start of the agent.

    Attributes:
        depth: Events in the file, not yet acknowledged.
        pending: Events in memory that wait for their commit.
        bytes: Size of the file and its journal on the disk.
        oldest_age_s: Age of the oldest event in the file by the wall clock, None when there is none.
        appended: Events taken.
        committed: Events on the disk.
        acked: Events acknowledged by the upstream.
        refused: Events not taken, by reason: ``memory_full``, ``spool_full``, ``closed``.
        failed_commits: Commits that could not be made at once: the disk was full or the file held.
        commit: Seconds of one commit.
    """

    depth: int
    pending: int
    bytes: int
    oldest_age_s: float | None
    appended: int
    committed: int
    acked: int
    refused: Mapping[str, int]
    failed_commits: int
    commit: Percentiles


class Spool(AbstractContextManager["Spool"]):
    """An open spool with its writer thread; leaving its ``with`` block closes it.

    Any thread may append; one thread seals and acknowledges.

    Args:
        path: The SQLite file; ``<path>.lock`` beside it holds the pid of the process that uses it.
        max_bytes: Largest size of the file; at least 1 MiB.
        commit_events: Most events in one commit.
        commit_interval_s: Longest time an event waits for its commit, seconds.
        ring_bytes: Bodies that may wait in memory, bytes.
        heartbeat: Beaten by the writer thread, at least every second while the disk answers.
        clock: Wall clock, seconds since the epoch.

    Attributes:
        stuck: Why the last commit was put off and new events wait in memory; empty when it went well.
        crash: Set when the file can no longer be written; the writer thread has then ended by raising it
            (``threading.excepthook`` sees it), and the agent must end and start again.

    Raises:
        SpoolError: another process uses it, or it cannot be opened.
        ConfigError: ``max_bytes`` is too small.
    """

    def __init__(self, path: Path, *, max_bytes: int, commit_events: int = 256, commit_interval_s: float = 0.25,
                 ring_bytes: int = _RING_BYTES, heartbeat: Heartbeat | None = None,
                 clock: Callable[[], float] = time.time) -> None:
        if max_bytes < LEAST_BYTES:
            raise ConfigError(f"spool.max_bytes = {max_bytes} is too small", 'give it at least "1MiB"')
        self.crash: SpoolError | None = None
        self._path = path
        self._commit_events, self._interval_s, self._ring_max = commit_events, commit_interval_s, ring_bytes
        self._heartbeat = heartbeat or Heartbeat("spool", float("inf"))
        self._clock = clock
        self._ready = threading.Condition()  # guards the ring and its counters
        self._ring: deque[Pending] = deque()
        self._ring_bytes = 0
        self._appended = self._committed = self._acked = self._failed_commits = 0
        self._refused: Counter[str] = Counter()
        self._hurry = 0
        self._closing = threading.Event()
        self.stuck = ""
        self._commit_s = Histogram()
        self._lock_file = take_lock(path)
        self._disk = threading.Lock()  # guards the file and what is known of it
        try:
            self._file = SpoolFile(path, int(max_bytes))
            self._unsealed, self._sealed = self._file.counts()
            self._levels: Levels = self._file.levels()
        except SpoolError:
            os.close(self._lock_file)
            raise
        self._writer = threading.Thread(target=self._write, name="spool", daemon=True)
        self._writer.start()

    def append(self, event: Event) -> None:
        """Take ``event`` for the next commit, or count it as refused; returns at once."""
        size = len(event.body)
        with self._ready:
            reason = self._refusal(size)
            if reason:
                self._refused[reason] += 1
                return
            self._ring.append(Pending(event, self._clock(), time.monotonic()))
            self._ring_bytes += size
            self._appended += 1
            if len(self._ring) in {1, self._commit_events}:
                self._ready.notify_all()

    def _refusal(self, size: int) -> str:
        waiting = self._ring_bytes + size + _ROW_BYTES * (len(self._ring) + 1)
        if self._closing.is_set():
            return "closed"
        if self._levels.used + _PAGING * waiting > self._file.limit:
            return "spool_full"
        return "memory_full" if self._ring_bytes + size > self._ring_max else ""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was appended before is on the disk; False when it is not after ``timeout_s``."""
        with self._ready:
            target = self._appended
            self._hurry += 1
            self._ready.notify_all()
            try:
                self._ready.wait_for(lambda: self._committed >= target or self.crash is not None, timeout_s)
                return self._committed >= target
            finally:
                self._hurry -= 1

    def seal(self, max_events: int, max_age_s: float) -> SealedBatch | None:
        """Return the batch to send next: one sealed before, else the oldest events if they are many or old enough.

        Args:
            max_events: Most events in a batch; as many are sealed at once.
            max_age_s: Fewer are sealed when the oldest is this old; 0 seals whatever is there.

        Raises:
            SpoolFullError: the disk is full; try again later.
            SpoolError: the file is damaged or the disk fails.
        """
        with self._disk:
            if self._sealed:
                return self._file.sealed()
            if not self._due(max_events, max_age_s):
                return None
            batch = self._file.seal(max_events, self._clock())
            if batch is not None:
                self._unsealed -= batch.events
                self._sealed += batch.events
                self._levels = self._file.levels()
            return batch

    def _due(self, max_events: int, max_age_s: float) -> bool:
        oldest = self._levels.oldest_unsealed
        if oldest is None:
            return False
        # A clock that was set back makes ages negative: then the event counts as old.
        return self._unsealed >= max_events or not 0 <= self._clock() - oldest < max_age_s

    def ack(self, batch: SealedBatch) -> None:
        """Delete ``batch`` with its events: the upstream has it.

        Raises:
            SpoolError: as for :meth:`seal`; the batch is then still there, and sending it again does no harm.
        """
        with self._disk:
            self._file.remove(batch)
            self._sealed -= batch.events
            self._acked += batch.events
            if not self._unsealed:
                self._file.shrink()
            self._levels = self._file.levels()

    @property
    def depth(self) -> int:
        """Events in the file, not yet acknowledged."""
        return self._unsealed + self._sealed

    def stats(self) -> SpoolStats:
        """Return the figures of now; never waits for the disk's lock."""
        oldest = self._levels.oldest
        return SpoolStats(
            depth=self.depth, pending=len(self._ring),
            bytes=sum(_size(self._path.with_name(self._path.name + suffix)) for suffix in ("", "-wal")),
            oldest_age_s=None if oldest is None else max(0.0, self._clock() - oldest),
            appended=self._appended, committed=self._committed, acked=self._acked, refused=dict(self._refused),
            failed_commits=self._failed_commits, commit=self._commit_s.recent())

    def close(self) -> None:
        """Commit what waits (once; what a full disk refuses now is lost and logged), then let go of the file."""
        self._closing.set()
        with self._ready:
            self._ready.notify_all()
        self._writer.join()
        if self._ring:
            _log.error("spool: closed with %d events that could not be committed", len(self._ring))
        with self._disk:
            self._file.close()
        os.close(self._lock_file)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        """Commit group after group until the spool is closed or its file fails."""
        try:
            while group := self._next_group():
                why = self._commit(group)
                if not why:
                    if self.stuck:
                        _log.info("spool: writing again; %d events had waited", len(group))
                    self.stuck = ""
                    continue
                if not self.stuck:
                    _log.warning("spool: cannot be written, %s; new events wait in memory", why)
                self.stuck = why
                if self._closing.wait(_RETRY_S):
                    return
        except SpoolError as error:
            with self._ready:
                self.crash = error
                self._ready.notify_all()
            raise

    def _next_group(self) -> list[Pending]:
        """Wait until a commit is due and return its events, which stay in the ring; nothing at the end."""
        with self._ready:
            while True:
                self._heartbeat.beat()
                wait_s = _BEAT_S
                if self._ring:
                    wait_s = self._ring[0].appended + self._interval_s - time.monotonic()
                    if wait_s <= 0 or len(self._ring) >= self._commit_events or self._hurry or self._closing.is_set():
                        break
                elif self._closing.is_set():
                    return []
                self._ready.wait(min(wait_s, _BEAT_S))
            return list(islice(self._ring, self._commit_events))

    def _commit(self, group: list[Pending]) -> str:
        """Write a group; return why it cannot be written for now, or nothing."""
        with self._disk:
            started = time.monotonic()
            try:
                self._file.insert(group)
            except SpoolFullError as error:
                self._failed_commits += 1
                return error.why
            self._commit_s.record(time.monotonic() - started)
            self._unsealed += len(group)
            self._levels = self._file.levels()
        with self._ready:
            for _ in group:
                self._ring_bytes -= len(self._ring.popleft().event.body)
            self._committed += len(group)
            self._ready.notify_all()
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
