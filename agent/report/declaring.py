"""Writes gaps into the spool: as events that go out like any other, and as rows that ``vedette spool verify`` reads.

Works within the transaction of whoever calls. Does not decide what is lost.
"""

from typing import Any

import msgspec

from agent.report import sealing
from agent.report.classes import class_of
from agent.report.gaps import Gap, can_merge, merged
from agent.report.spool_db import Database
from agent.report.spool_records import Declare


class Declarations:
    """The gaps of one spool.

    Args:
        db: Its database.
        make: Makes gap events.
    """

    def __init__(self, db: Database, make: Declare) -> None:
        self._db, self._make = db, make

    def declare(self, gap: Gap, created: float) -> bool:
        """Write ``gap``, into the event for the same reason that was never sealed if there is one.

        Losses that had a sequence and those that never had one stay apart: the range of a gap must hold its count.

        Returns:
            Whether it became an event of its own.
        """
        if gap.count and gap.reason != "dead_letter":
            self._db.execute("INSERT INTO lost VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET events = events + ?",
                             (gap.reason, gap.count, gap.count))
        found = self._open(gap) if can_merge(gap.reason) else None
        if found:
            sequence, name, data = found
            gap = merged(msgspec.json.decode(data, type=Gap), gap)
            event = self._make(gap, name)
            body = sealing.numbered(event.body, sequence)
            self._db.execute("UPDATE event SET body = ? WHERE seq = ?", (body, sequence))
        else:
            sequence, event = self._db.last_sequence() + 1, self._make(gap)
            self._db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)", (
                sequence, event.id, class_of(event.type), event.subject, event.type, created,
                sealing.numbered(event.body, sequence)))
        self._db.execute("INSERT OR REPLACE INTO gap VALUES (?, ?, ?, ?, ?, ?, ?)",
                         (sequence, event.id, gap.reason, gap.first, gap.last, gap.count, msgspec.json.encode(gap)))
        return not found

    def _open(self, gap: Gap) -> Any:
        """Return sequence, id and data of the gap event to which ``gap`` may still be added, if there is one."""
        return self._db.execute(
            "SELECT gap.seq, gap.id, data FROM gap JOIN event USING (seq) WHERE reason = ? AND (first IS NULL) = ?"
            " AND data != x'' ORDER BY gap.seq DESC", (gap.reason, gap.first is None)).fetchone()

    def close(self, first: int, last: int) -> None:
        """Add no more to the gap events of these sequences: they were sent, and may have arrived as they are."""
        self._db.execute("UPDATE gap SET data = x'' WHERE seq BETWEEN ? AND ?", (first, last))

    def forget_delivered(self) -> None:
        """Forget the rows of all gaps but those of dead letters, which may come again: the spool is empty."""
        self._db.execute("DELETE FROM gap WHERE first IS NULL OR first NOT IN (SELECT seq FROM dead)")

    def lost(self) -> dict[str, int]:
        """Return how many events were lost for ever, by reason."""
        return dict(self._db.execute("SELECT CAST(reason AS TEXT), CAST(events AS INTEGER) FROM lost").fetchall())
