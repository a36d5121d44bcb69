"""Who goes when the spool is full or its events are too old: always the oldest of the least important.

Deletes rows of ``event`` within the transaction of whoever calls, and hands back what was lost as gaps. Does not
declare them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from agent.report import sealing
from agent.report.classes import NEVER, class_of
from agent.report.gaps import Gap, Reason
from agent.report.spool_db import Database
from agent.report.spool_records import Pending

# An event is taken only if it will fit, at the worst: a row that does not fit into the rest of a page takes a new
# one, so up to half of each page stays empty. Row and index entry add less than 200 bytes.
_PAGING = 2
_ROW_BYTES = 200
_STEP_ROWS = 256
# Of the room, how much more than needed is made at a time, so that not every commit must evict.
_SLACK = 256


class Room:
    """The bytes that events may take.

    Args:
        db: The spool's database.
        limit: Bytes of the file that may be in use after a commit.
        reserve: What must stay free for sealing when the file may not grow, bytes.

    Attributes:
        limit: The same, as it is now.
        frozen: Whether the file may not grow, because the disk is full.
    """

    def __init__(self, db: Database, limit: int, reserve: int) -> None:
        self._db, self._reserve = db, reserve
        self.limit = self._full_limit = limit
        self.frozen = False

    def freeze(self, frozen: bool) -> None:
        """Take only what the file has already, because the disk is full; or all again."""
        with self._db.guard():
            size = self._db.freeze(frozen)
        self.frozen = frozen
        self.limit = min(self._full_limit, size - min(self._reserve, size // 8)) if frozen else self._full_limit

    def make(self, rows: list[Pending]) -> Iterator[Gap]:
        """Make room for ``rows``, class by class: evict the oldest of it, then leave out the new ones of it.

        Args:
            rows: New events; those that must be left out are removed from the list.

        Yields:
            What was lost. New events never had a sequence, so such a gap names none.
        """
        reason: Reason = "disk_full" if self.frozen else "spool_full"
        for class_ in range(NEVER):
            while (short := self._short_of(rows)) > 0:
                gap = self._evict(reason, class_, short + self.limit // _SLACK)
                if gap is None:
                    break
                yield gap
            if short <= 0:
                return
            if dropped := [one.event for one in rows if class_of(one.event.type) == class_]:
                rows[:] = [one for one in rows if class_of(one.event.type) != class_]
                yield Gap(reason=reason, count=len(dropped), types=dict(Counter(event.type for event in dropped)),
                          since=sealing.time_of(dropped[0].body), until=sealing.time_of(dropped[-1].body))

    def _short_of(self, rows: Sequence[Pending]) -> int:
        needed = sum(len(one.event.body) + _ROW_BYTES for one in rows)
        return self._db.used() + _PAGING * needed - self.limit if rows else 0

    def _evict(self, reason: Reason, class_: int, size: int) -> Gap | None:
        """Delete the oldest events of a class, about ``size`` bytes of them."""
        rows, total = [], 0
        for row in self._db.execute(
                "SELECT seq, CAST(type AS TEXT), COALESCE(length(body), 0) FROM event WHERE class = ? ORDER BY seq"
                " LIMIT ?", (class_, _STEP_ROWS)):
            rows.append(row)
            total += row[2] + _ROW_BYTES
            if total >= size:
                break
        return self._drop(reason, class_, rows)

    def older(self, bound: float) -> Iterator[Gap]:
        """Delete events created before ``bound`` (spool's clock), at most a few hundred of each class."""
        for class_ in range(NEVER):
            rows = self._db.execute(
                "SELECT seq, CAST(type AS TEXT), CAST(COALESCE(created, 0) AS REAL) FROM event WHERE class = ?"
                " ORDER BY seq LIMIT ?", (class_, _STEP_ROWS)).fetchall()
            old = rows[:next((n for n, row in enumerate(rows) if row[2] >= bound), len(rows))]
            if gap := self._drop("max_age", class_, old):
                yield gap

    def _drop(self, reason: Reason, class_: int, rows: Sequence[Any]) -> Gap | None:
        """Delete the oldest events of a class, whose (seq, type, …) are given."""
        if not rows:
            return None
        first, last = rows[0][0], rows[-1][0]
        body = "SELECT CAST(COALESCE(body, '') AS BLOB) FROM event WHERE seq = ?"
        since, until = (sealing.time_of(self._db.one(body, (seq,))) for seq in (first, last))
        self._db.execute("DELETE FROM event WHERE class = ? AND seq <= ?", (class_, last))
        return Gap(reason=reason, count=len(rows), first=first, last=last, since=since, until=until,
                   types=dict(Counter(row[1] for row in rows)))
