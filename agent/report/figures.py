"""What is in a spool file, in figures, for ``vedette spool status``. Reads few bodies: those of sealed batches."""

from collections import Counter

import msgspec

from agent.report.classes import class_of
from agent.report.contents import members
from agent.report.inspection import Inspection, beside, size_of
from agent.report.spool_db import set_asides


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """How many events of one type there are; class 0 is given up first, class 3 never."""

    type: str
    class_: int = msgspec.field(name="class")
    waiting: int
    sealed: int


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """A gap whose ``gap`` event has not been delivered yet; null where no numbers were given, or are known."""

    sequence: int
    reason: str
    first: int | None
    last: int | None
    count: int | None


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """A file that could not be used and was kept beside the spool, its journal included in ``bytes``."""

    name: str
    bytes: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What ``vedette spool status --json`` prints.

    Attributes:
        file: Path of the spool.
        agent_pid: Process that holds it, null when none does.
        waiting: Events not yet in a batch.
        sealed: Events in sealed batches.
        batches: Sealed batches.
        unreadable_batches: Of these, those that cannot be decoded.
        types: Events by type and class.
        file_bytes: Size of the file.
        journal_bytes: Size of its write-ahead journal.
        ballast_bytes: Room kept for a full disk.
        oldest_age_s: Age of the oldest event by the spool's clock, null when there is none or the clock is not known.
        sequence: The last one that was given, 0 before the first.
        dead: Dead letters, by reason.
        undelivered_gaps: Gaps declared and not yet delivered.
        lost: Events lost for ever, by reason, as long as this file has existed.
        set_aside: Files set aside, oldest first.
    """

    file: str
    agent_pid: int | None
    waiting: int
    sealed: int
    batches: int
    unreadable_batches: int
    types: list[Kind]
    file_bytes: int
    journal_bytes: int
    ballast_bytes: int
    oldest_age_s: float | None
    sequence: int
    dead: dict[str, int]
    undelivered_gaps: list[Declared]
    lost: dict[str, int]
    set_aside: list[Aside]


def figures(spool: Inspection) -> Figures:
    """Return what there is in ``spool``.

    Raises:
        DamagedError: some pages cannot be read.
    """
    path = spool.path
    with spool.transaction():
        waiting = _waiting(spool)
        sealed, unreadable, in_batches = _sealed(spool)
        gaps = [Declared(sequence=row[0], reason=row[1], first=row[2], last=row[3], count=row[4])
                for row in spool.execute("SELECT gap.seq, reason, first, last, count, event.seq FROM gap"
                                         " LEFT JOIN event USING (seq) ORDER BY gap.seq")
                if row[5] is not None or row[0] in in_batches]
        oldest = spool.one("SELECT MIN(created) FROM (SELECT * FROM (SELECT created FROM event ORDER BY seq LIMIT 1)"
                           " UNION ALL SELECT created FROM batch) WHERE typeof(created) = 'real'")
        return Figures(
            file=str(path), agent_pid=spool.agent_pid, waiting=sum(waiting.values()), sealed=sum(sealed.values()),
            batches=spool.one("SELECT COUNT(*) FROM batch"), unreadable_batches=unreadable,
            types=[Kind(type=type_, class_=class_of(type_), waiting=waiting[type_], sealed=sealed[type_])
                   for type_ in sorted({*waiting, *sealed}, key=lambda name: (class_of(name), name))],
            file_bytes=size_of(path), journal_bytes=size_of(beside(path, "-wal")),
            ballast_bytes=size_of(beside(path, ".ballast")),
            oldest_age_s=_age_s(spool, oldest),
            sequence=spool.last_sequence(),
            dead={str(why): count for why, count in spool.execute(
                "SELECT why, COUNT(*) FROM dead GROUP BY why ORDER BY 2 DESC, 1")},
            undelivered_gaps=gaps, lost=dict(spool.execute("SELECT reason, events FROM lost").fetchall()),
            set_aside=[Aside(name=one.name, bytes=size_of(one) + size_of(beside(one, "-wal")))
                       for one in set_asides(path)])


def _waiting(spool: Inspection) -> Counter[str]:
    """Count by type. Detections, which may be a million, by the index on their class, which holds no bodies."""
    found = Counter({"detection": int(spool.one("SELECT COUNT(*) FROM event WHERE class = 0"))})
    for type_, count in spool.execute("SELECT type, COUNT(*) FROM event WHERE class > 0 GROUP BY type"):
        found[str(type_)] += count
    return +found


def _sealed(spool: Inspection) -> tuple[Counter[str], int, set[int]]:
    """Return the events in batches by type, how many batches cannot be decoded, and which ``gap`` events are there."""
    found, unreadable, gaps = Counter[str](), 0, set[int]()
    for batch in spool.batches():
        events, faults = members(batch)
        unreadable += bool(faults)
        found.update(one.type for one in events)
        found["unreadable"] += len(faults)
        gaps.update(one.sequence for one in events if one.type == "gap")
    return +found, unreadable, gaps


def _age_s(spool: Inspection, created: float | None) -> float | None:
    """Return how old what was created then is by the spool's clock, None where that cannot be told."""
    now = spool.now()
    return None if created is None or now is None else max(0.0, now - created)
