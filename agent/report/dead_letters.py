"""Events that can never be delivered, kept for a person. Works within the transaction of whoever calls."""

from agent.report import sealing
from agent.report.gaps import Gap
from agent.report.spool_db import Database
from agent.report.spool_records import SealedBatch

_DAMAGED = "damaged on this box's disk"


class DeadLetters:
    """The dead letters of one spool.

    Args:
        db: Its database.
        max_events: Most of them, of those that the upstream refused.
        max_bytes: Most bytes of their bodies.
    """

    def __init__(self, db: Database, max_events: int, max_bytes: int) -> None:
        self._db, self._max_events, self._max_bytes = db, max_events, max_bytes

    def full(self) -> bool:
        """Tell whether there is no room for another."""
        count, size = self._db.execute("SELECT COUNT(*), COALESCE(SUM(length(body)), 0) FROM dead").fetchone()
        return bool(count >= self._max_events or size >= self._max_bytes)

    def add(self, body: bytes, created: float, now: float, why: str) -> Gap:
        """Keep an event that the upstream refused, and return what must be declared."""
        head, at = sealing.head(body), sealing.time_of(body)
        sequence = int(head.sequence)
        self._db.execute("INSERT INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                         (sequence, head.id, head.type, head.subject, created, now, why, body))
        return Gap(reason="dead_letter", count=1, first=sequence, last=sequence, types={head.type: 1},
                   since=at, until=at, detail=why)

    def add_damaged_batch(self, batch: SealedBatch, now: float) -> Gap:
        """Keep a batch whose bytes are not what they were, as one letter of the type ``batch``."""
        self._db.execute("INSERT INTO dead VALUES (?, ?, 'batch', '', ?, ?, ?, ?)",
                         (batch.first_seq, batch.id, now, now, _DAMAGED, batch.body))
        return Gap(reason="dead_letter", count=batch.events, first=batch.first_seq, last=batch.last_seq,
                   detail=f"a batch, {_DAMAGED}")

    def add_damaged(self, sequence: int, now: float) -> Gap:
        """Move an event that is no JSON any more here: it would make its whole batch unreadable."""
        self._db.execute("INSERT INTO dead SELECT seq, id, type, subject, created, ?, ?, body FROM event WHERE seq = ?",
                         (now, _DAMAGED, sequence))
        self._db.execute("DELETE FROM event WHERE seq = ?", (sequence,))
        return Gap(reason="dead_letter", count=1, first=sequence, last=sequence, detail=_DAMAGED)
