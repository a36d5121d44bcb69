"""The events in a spool file, one after another, in constant memory; of a damaged file, those that can be read.

Promise: an event that is in the file all the while is yielded exactly once, in order of its sequence, though a running
agent moves events into batches meanwhile: every page of rows is read in a short transaction of its own, and an event
keeps its sequence wherever it goes.
"""

from collections.abc import Iterator
from typing import NamedTuple

from agent.errors import SpoolError
from agent.report import sealing
from agent.report.inspection import Batch, DamagedError, Inspection

# Rows read in one transaction: at 64 KiB an event, 16 MiB at most.
_PAGE_ROWS = 256
# How far to look for the next row that can be read; no box ever gives so many numbers.
_FURTHEST = 1 << 40
WAITING = "waiting"
DEAD = "dead"
_COLUMNS = {"event": "seq, id, type, subject, body, ''", "dead": "seq, id, type, subject, body, why"}


class Stored(NamedTuple):
    """One event.

    Attributes:
        sequence: Its number.
        id: As its row says, or its body where it is in a batch.
        type: Likewise.
        subject: Likewise.
        body: The whole CloudEvents object.
        where: ``waiting``, ``dead``, or the id of its batch.
        why: Why the upstream refused it, for a dead letter.
    """

    sequence: int
    id: str
    type: str
    subject: str
    body: bytes
    where: str
    why: str = ""


def upcoming(spool: Inspection, most: int, *, newest: bool = False) -> list[Stored]:
    """Return the next events to go out, in that order; with ``newest`` the last ones, the newest first.

    A batch that cannot be decoded is passed over.

    Raises:
        DamagedError: some pages cannot be read.
    """
    found: list[Stored] = []
    with spool.transaction():
        if newest:
            found += _rows(spool, "event", "ORDER BY seq DESC LIMIT ?", (most,))
            for batch in spool.batches(newest=True):
                if len(found) >= most:
                    break
                found += reversed(members(batch)[0])
            return found[:most]
        for batch in spool.batches():
            if len(found) >= most:
                break
            found += members(batch)[0]
        found += _rows(spool, "event", "ORDER BY seq LIMIT ?", (max(0, most - len(found)),))
    return found[:most]


def dead_letters(spool: Inspection, most: int, *, newest: bool = False) -> list[Stored]:
    """Return dead letters, the oldest first, or with ``newest`` the newest.

    Raises:
        DamagedError: some pages cannot be read.
    """
    with spool.transaction():
        return list(_rows(spool, "dead", f"ORDER BY seq {'DESC' if newest else ''} LIMIT ?", (most,)))


def members(batch: Batch) -> tuple[list[Stored], list[str]]:
    """Return the events of a batch, and what is wrong with those that cannot be read."""
    try:
        bodies = sealing.decode(batch.body, batch.content_type, batch.encoding)
    except SpoolError as error:
        return [], [error.what] * max(1, batch.events)
    except UnicodeDecodeError:
        return [], ["a sealed batch cannot be read: it is no UTF-8"] * max(1, batch.events)
    found, faults = [], []
    for body in bodies:
        head = head_of(body)
        if head is None or not head.sequence.isdecimal():
            faults.append("an event in it cannot be read")
        else:
            found.append(Stored(int(head.sequence), head.id, head.type, head.subject, body, batch.id))
    return found, faults


def head_of(body: bytes) -> sealing.Head | None:
    """Return what stands in an event's envelope, None where it is damaged."""
    try:
        return sealing.head(body)
    except (SpoolError, UnicodeDecodeError):
        return None


class Walk:
    """All events, lowest sequence first.

    Args:
        spool: The open file.
        waiting: Whether to take the events that are in no batch.
        batches: Whether to take those in sealed batches.
        dead: Whether to take the dead letters.

    Attributes:
        unreadable: Events (or, where not even their number is known, sequences) that could not be read so far.
    """

    def __init__(self, spool: Inspection, *, waiting: bool = True, batches: bool = True, dead: bool = False) -> None:
        self.unreadable = 0
        self._spool = spool
        self._tables = [name for name, wanted in (("event", waiting), ("dead", dead)) if wanted]
        self._with_batches = batches
        self._bad_batches: set[int] = set()
        self._decoded: dict[int, list[Stored]] = {}  # the batches of the last page: they may go on in the next

    def __iter__(self) -> Iterator[Stored]:
        """Yield them."""
        after: int | None = -1
        while after is not None:
            rows, after = self._page(after)
            yield from rows

    def _page(self, after: int) -> tuple[list[Stored], int | None]:
        """Return the events after a sequence, and the sequence up to which they are complete, None for all."""
        with self._spool.transaction():
            parts = [self._rows_after(table, after) for table in self._tables]
            upto = min((end for _, end in parts if end is not None), default=None)
            found = [one for rows, _ in parts for one in rows]
            if self._with_batches:
                found += self._in_batches(after, upto)
        found = [one for one in found if after < one.sequence and (upto is None or one.sequence <= upto)]
        return sorted(found, key=lambda one: one.sequence), upto

    def _rows_after(self, table: str, after: int) -> tuple[list[Stored], int | None]:
        rows: list[Stored] = []
        try:
            with self._spool.guard():
                for row in _rows(self._spool, table, "WHERE seq > ? ORDER BY seq LIMIT ?", (after, _PAGE_ROWS)):
                    rows.append(row)  # noqa: PERF402 -- what came before a fault must be kept
        except DamagedError:
            return rows, rows[-1].sequence if rows else self._beyond(table, after)
        return rows, rows[-1].sequence if len(rows) == _PAGE_ROWS else None

    def _beyond(self, table: str, after: int) -> int | None:
        """Return the lowest sequence behind which rows of ``table`` can be read again, None for nowhere."""
        low, step = after, 1
        while not self._readable(table, low + step):
            low, step = low + step, 2 * step
            if step > _FURTHEST:
                self._miss(table, after, low)
                return None
        high = low + step
        while high - low > 1:  # nothing can be read after low, but after high
            middle = (low + high) // 2
            low, high = (low, middle) if self._readable(table, middle) else (middle, high)
        self._miss(table, after, high)
        return high

    def _readable(self, table: str, after: int) -> bool:
        try:
            with self._spool.guard():
                for _ in _rows(self._spool, table, "WHERE seq > ? ORDER BY seq LIMIT 1", (after,)):
                    pass
        except DamagedError:
            return False
        return True

    def _miss(self, table: str, after: int, upto: int) -> None:
        """Count what lies in between: by the index, which has no bodies, or else the numbers."""
        try:
            with self._spool.guard():
                index = "event INDEXED BY event_by_class" if table == "event" else table
                count = self._spool.one(f"SELECT COUNT(*) FROM {index} WHERE seq > ? AND seq <= ?",  # noqa: S608 -- our own names
                                        (after, upto))
                self.unreadable += max(1, count)
        except DamagedError:
            self.unreadable += 1 if upto > after + _FURTHEST // 2 else upto - after

    def _in_batches(self, after: int, upto: int | None) -> list[Stored]:
        try:
            with self._spool.guard():
                wanted = self._spool.execute(
                    "SELECT n, events FROM batch WHERE last_seq > ? AND first_seq <= ?",
                    (after, upto if upto is not None else (1 << 62))).fetchall()
        except DamagedError:
            wanted = [(0, 1)]  # how many there are cannot be told
        self._decoded = {n: self._decoded[n] if n in self._decoded else self._decode(n, events) for n, events in wanted}
        return [one for found in self._decoded.values() for one in found]

    def _decode(self, n: int, events: int) -> list[Stored]:
        found: list[Stored] = []
        faults = [""] * events
        try:
            with self._spool.guard():
                for batch in self._spool.batches("WHERE n = ?", (n,)):
                    found, faults = members(batch)
        except DamagedError:
            pass
        if n not in self._bad_batches:
            self.unreadable += len(faults)
            if faults:
                self._bad_batches.add(n)
        return found


def _rows(spool: Inspection, table: str, where: str, values: tuple[int, ...]) -> Iterator[Stored]:
    query = f"SELECT {_COLUMNS[table]} FROM {table} {where}"  # noqa: S608 -- our own names
    for seq, name, type_, subject, body, why in spool.execute(query, values):
        # In a damaged row anything may stand.
        raw = body if isinstance(body, bytes) else b""
        yield Stored(seq, str(name), str(type_), str(subject), raw, DEAD if table == "dead" else WAITING, str(why))
