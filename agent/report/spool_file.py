"""The few transactions that are ever run on a spool: commit, seal, acknowledge, split, bury, evict.

Promises: every event that is committed gets the next sequence, in the same transaction; every event that leaves
other than by an acknowledgement is counted in a ``gap`` event written in that same transaction. The file keeps room
to seal a batch when it is full of events, so that it can always be drained. Not safe for two threads at a time:
:class:`agent.report.spool.Spool` holds a lock around every call.

``event`` holds what is not yet in a batch, ``batch`` the sealed ones. Sealing *moves*: the rows leave ``event`` in
the transaction that writes the batch, so nothing is stored twice and an acknowledged batch is one DELETE.
``event.id`` has no unique index: ids are unique by construction, and it would double the pages of every commit. The
index on (class, seq) finds the oldest of the lowest class and makes the count at start read no bodies.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.records import Event
from agent.report import sealing
from agent.report.age import AgeClock, ClockReading, Clocks
from agent.report.batches import Batches
from agent.report.classes import class_of
from agent.report.dead_letters import DeadLetters
from agent.report.declaring import Declarations
from agent.report.gaps import Gap
from agent.report.room import Room
from agent.report.spool_db import Database, SpoolFullError
from agent.report.spool_records import Declare, FilePolicy, Levels, Pending, SealedBatch

# Of the room, how much the dead letters may take.
_DEAD_SHARE = 16
_CLOCK_EVERY_S = 60.0
_INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)"


class SpoolFile:
    """The spool's transactions. Every method raises what :class:`agent.report.spool_db.Database` raises.

    Args:
        path: The file; made when missing, its folder must exist.
        policy: How it is kept.
        declare: Makes gap events.
        clocks: Of the box.
        carried: What the spool's clock said in the file before this one, for a fresh file.

    Attributes:
        in_use_before: Whether a run ever began with this file; False: it is fresh.
    """

    def __init__(self, path: Path, policy: FilePolicy, declare: Declare, clocks: Clocks,
                 carried: ClockReading | None = None) -> None:
        self.db = Database(path, policy.max_bytes)
        self._policy, self._gaps = policy, Declarations(self.db, declare)
        # A batch that nginx takes with its default client_max_body_size even if it does not compress at all.
        self.batch_bytes = min(policy.max_bytes // 8, 1000 * 1000)
        limit = policy.max_bytes - 2 * self.batch_bytes  # the rest is for sealing when all else is full
        self.room = Room(self.db, limit, reserve=2 * self.batch_bytes)
        self._batches = Batches(self.db)
        self._dead_letters = DeadLetters(self.db, policy.max_dead, limit // _DEAD_SHARE)
        try:
            with self.db.guard():
                self.in_use_before = self.db.recall("open") is not None
                saved = self.db.recall("clock", ClockReading)
                self.now = AgeClock(saved or carried, clocks)
                self._saved_at = float("-inf")
                self._count()
        except BaseException:
            self.db.close()
            raise

    def begin(self, reset: Gap | None = None) -> None:
        """Note that the file is in use, and declare what an earlier run could not: it was killed, or its file is lost.

        Args:
            reset: The file is a fresh one in the place of another; the sequence goes on after ``reset.last``.
        """
        with self._transaction():
            if reset is not None:
                self.db.execute("DELETE FROM sqlite_sequence")
                self.db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('event', ?)", (reset.last or 0,))
                self._declare(reset)
            elif self.db.recall("open"):
                self._declare(Gap(reason="unclean_stop", detail="what had not been committed"))
            self.db.remember("open", 1)
            self._save_clock()

    def end(self) -> None:
        """Note that all that was taken is committed: the next run has nothing to declare."""
        with self._transaction():
            self.db.remember("open", 0)
            self._save_clock()

    # Taking in ------------------------------------------------------------------------------------------------

    def commit(self, pending: Sequence[Pending], gaps: Sequence[Gap] = ()) -> int:
        """Write events, give them their sequence, evict what they need room for, and declare ``gaps``.

        Returns:
            How many events were lost for it: evicted, or themselves the least important where there is no room.
        """
        rows = list(pending)
        with self._transaction():
            lost = sum(self._lose(gap) for gap in self.room.make(rows))
            # By the spool's clock of this moment: the file may be another than when they were appended.
            born = self.now() - time.monotonic()
            self.db.executemany(_INSERT, (
                _row(sequence, one.event, born + one.appended, sealing.numbered(one.event.body, sequence))
                for sequence, one in enumerate(rows, self.db.last_sequence() + 1)))
            self._unsealed += len(rows)
            for gap in gaps:
                self._declare(gap)
            if self.now() > self._saved_at + _CLOCK_EVERY_S:
                self._save_clock()
        return lost

    def evict_older(self, bound: float) -> int:
        """Delete events created before ``bound`` (spool's clock), but for the never evicted; return how many.

        At most a few hundred of each class at a time: call it again while it returns more than 0.
        """
        with self._transaction():
            return sum(self._lose(gap) for gap in self.room.older(bound))

    def _insert(self, sequence: int, event: Event, created: float, body: bytes) -> None:
        self.db.execute(_INSERT, _row(sequence, event, created, body))
        self._unsealed += 1

    def _lose(self, gap: Gap) -> int:
        assert gap.count is not None
        if gap.first is not None:
            self._unsealed -= gap.count
        self._declare(gap)
        return gap.count

    def _declare(self, gap: Gap) -> None:
        self._unsealed += self._gaps.declare(gap, self.now())

    # Giving out -----------------------------------------------------------------------------------------------

    def seal(self, max_events: int) -> SealedBatch | None:
        """Move the oldest events, at most ``max_events`` and ``batch_bytes`` before compression, into a batch.

        Returns:
            The batch, or None when no event waits.
        """
        with self._transaction():
            return self._seal(max_events)

    def _seal(self, max_events: int) -> SealedBatch | None:
        rows: list[Any] = []
        size = 0
        # SQLite checks no types when it reads: a damaged row may hold a NULL.
        for row in self.db.execute(
                "SELECT seq, CAST(COALESCE(created, 0) AS REAL), CAST(COALESCE(body, '') AS BLOB) FROM event"
                " ORDER BY seq LIMIT ?", (max_events,)):
            size += len(row[2]) + 1
            if rows and size > self.batch_bytes:
                break
            rows.append(row)
        for damaged in [row for row in rows if not sealing.is_whole(row[2])]:
            self._declare(self._dead_letters.add_damaged(damaged[0], self.now()))
            self._unsealed -= 1
            self._dead += 1
            rows.remove(damaged)
        if not rows:
            return None
        first, last = rows[0][0], rows[-1][0]
        self.db.execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", (first, last))
        self._unsealed -= len(rows)
        encoded = sealing.encode([row[2] for row in rows], self._policy.format, self._policy.compression)
        self._sealed += len(rows)
        return self._batches.add(encoded, len(rows), first, last, rows[0][1])

    def sealed(self) -> SealedBatch | None:
        """Return the oldest sealed batch, if there is one.

        One that the disk has damaged goes to the dead letters, whole. One that was sealed in another format than is
        configured now is sealed again: its receiver may be another.
        """
        policy = self._policy
        while True:
            with self.db.guard():
                batch = self._batches.oldest()
            if batch is None:
                return None
            if not sealing.readable(batch.encoding):
                return batch  # the receiver may read it all the same
            if not sealing.is_sound(batch.id, batch.body, batch.encoding):
                self._bury_damaged(batch)
            elif sealing.is_as(batch.content_type, batch.encoding, policy.format, policy.compression):
                return batch
            else:
                self.unseal(batch)

    def _bury_damaged(self, batch: SealedBatch) -> None:
        with self._transaction():
            self._take_out(batch)
            self._declare(self._dead_letters.add_damaged_batch(batch, self.now()))
            self._dead += 1

    def remove(self, batch: SealedBatch, next_events: int = 0) -> None:
        """Delete a delivered batch with its events; if ``next_events`` wait, seal so many in the same transaction."""
        with self._transaction():
            self._take_out(batch)
            if next_events and self._unsealed >= next_events and not self._sealed:
                self._seal(next_events)
            # Asked of the file, not of the counts: another process may have put dead letters back.
            elif not self.db.one("SELECT EXISTS (SELECT 1 FROM event) OR EXISTS (SELECT 1 FROM batch)"):
                self._gaps.forget_delivered()
        if not self._unsealed:
            with self.db.guard():
                self.db.shrink()

    def split(self, batch: SealedBatch) -> None:
        """Replace a sealed batch of two or more events by two, each with half of them."""
        with self._transaction():
            if (created := self._take_out(batch)) is None:
                return
            bodies = self._bodies(batch)
            middle = len(bodies) // 2
            for half in (bodies[:middle], bodies[middle:]):
                first, last = (int(sealing.head(half[n]).sequence) for n in (0, -1))
                encoded = sealing.encode_again(half, batch.content_type, batch.encoding)
                self._batches.add(encoded, len(half), first, last, created)
                self._sealed += len(half)

    def unseal(self, batch: SealedBatch) -> None:
        """Turn a sealed batch into single events again; their age begins anew."""
        with self._transaction():
            if self._take_out(batch) is None:
                return
            for body in self._bodies(batch):
                head = sealing.head(body)
                event = Event(id=head.id, type=head.type, subject=head.subject, body=body)
                self._insert(int(head.sequence), event, self.now(), body)
            self._gaps.close(batch.first_seq, batch.last_seq)

    def bury(self, batch: SealedBatch, why: str) -> bool:
        """Move the one event of ``batch`` to the dead letters and declare it; False when they are full."""
        with self._transaction():
            if self._dead_letters.full():
                return False
            if (created := self._take_out(batch)) is not None:
                (body,) = self._bodies(batch)
                self._declare(self._dead_letters.add(body, created, self.now(), why))
                self._dead += 1
        return True

    @staticmethod
    def _bodies(batch: SealedBatch) -> list[bytes]:
        if not sealing.readable(batch.encoding):
            why = f"a batch was sealed as {batch.encoding}, and its package is not installed"
            raise SpoolFullError(why, "install it again", why)
        return sealing.decode(batch.body, batch.content_type, batch.encoding)

    def _take_out(self, batch: SealedBatch) -> float | None:
        created = self._batches.take_out(batch)
        if created is not None:
            self._sealed -= batch.events
        return created

    # Knowing --------------------------------------------------------------------------------------------------

    def levels(self) -> Levels:
        """Return what the file holds now; cheap, unless another process changed the file: then it is counted."""
        with self.db.guard():
            if self.db.changed_by_others() != self._version:
                self._count()
            event, batch = (self.db.execute(query).fetchone() for query in (
                "SELECT seq, CAST(COALESCE(created, 0) AS REAL) FROM event ORDER BY seq LIMIT 1",
                "SELECT first_seq, CAST(COALESCE(created, 0) AS REAL) FROM batch ORDER BY first_seq LIMIT 1"))
            last = self.db.last_sequence()
            lost = self._gaps.lost()
        here = [row for row in (event, batch) if row]
        return Levels(
            unsealed=self._unsealed, sealed=self._sealed, dead=self._dead, last=last,
            kept=min((row[0] for row in here), default=last + 1), oldest=min((row[1] for row in here), default=None),
            oldest_unsealed=event[1] if event else None, lost=lost)

    def last_sequence(self) -> int:
        """Return the last sequence that was given."""
        with self.db.guard():
            return self.db.last_sequence()

    def _count(self) -> None:
        """Count by the indexes; reads no bodies."""
        self._version = self.db.changed_by_others()
        self._unsealed = self.db.one("SELECT COUNT(*) FROM event")
        self._sealed = self.db.one("SELECT COALESCE(SUM(events), 0) FROM batch")
        self._dead = self.db.one("SELECT COUNT(*) FROM dead")

    def _save_clock(self) -> None:
        self._saved_at = self.now()
        self.db.remember("clock", self.now.reading())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self._unsealed, self._sealed, self._dead
        try:
            with self.db.guard(), self.db.transaction():
                yield
        except BaseException:
            self._unsealed, self._sealed, self._dead = before
            raise


def _row(sequence: int, event: Event, created: float, body: bytes) -> tuple[int, str, int, str, str, float, bytes]:
    return sequence, event.id, class_of(event.type), event.subject, event.type, created, body
