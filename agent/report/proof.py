"""The local half of the proof that nothing is lost: every number that was given is here, delivered, or declared lost.

The other half is the receiver's (docs/reports.md). Events leave in the order of their numbers, so all below the oldest
one that is still here are the receiver's to prove; a dead letter that was put back is older than that, and is known by
its ``dead_letter`` gap. From there to the last number that was given each must be an event that waits, in a batch, a
dead letter, or counted in a gap. Constant memory but for the sequences in sealed batches and the gaps.

While an agent runs, the numbers are read in one short transaction, which shows one state; bodies page by page, as they
then are. A check of all pages takes long and would hold back the agent's checkpoints: large files get it only when no
agent runs.
"""

import hashlib
import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from agent.errors import SpoolError
from agent.report import sealing
from agent.report.contents import Stored, Walk, head_of, members
from agent.report.inspection import Batch, DamagedError, Inspection, size_of
from agent.report.ranges import Ranges

# Checked page by page in less than a second, also on an eMMC.
_SMALL_BYTES = 32 * 1024 * 1024
_MOST_FINDINGS = 200
_TELL_EVERY = 1000


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What ``vedette spool verify --json`` prints.

    Attributes:
        proven: Whether nothing was found wrong.
        file: Path of the spool.
        agent_pid: Process that held it, null when none did.
        first: Lowest sequence that is looked at, null when all have left.
        last: The last sequence that was given.
        waiting: Events not yet in a batch.
        sealed: Events in sealed batches.
        batches: Sealed batches.
        dead: Dead letters.
        gaps: Gaps that are declared.
        declared: Sequences from ``first`` to ``last`` that are not here and that gaps declare.
        bodies: Bodies that were read and agree with their rows.
        pages: ``sound``, ``damaged``, or ``not checked`` because an agent runs and the file is large.
        findings: What is wrong, the first 200.
        more_findings: How many more there are.
    """

    proven: bool
    file: str
    agent_pid: int | None
    first: int | None
    last: int
    waiting: int
    sealed: int
    batches: int
    dead: int
    gaps: int
    declared: int
    bodies: int
    pages: str
    findings: list[str]
    more_findings: int


class _Gap(NamedTuple):
    """A declared gap that names sequences; ``events`` None = all of them at most."""

    first: int
    last: int
    events: int | None
    reason: str
    sequence: int


class Findings:
    """What is wrong; keeps the first 200 and counts the rest."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.more = 0

    def add(self, text: str) -> None:
        """Take one."""
        if len(self.kept) < _MOST_FINDINGS:
            self.kept.append(text)
        else:
            self.more += 1


class _Counts:
    """What was counted on the way."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.last = self.waiting = self.sealed = self.batches = self.dead = self.gaps = self.declared = 0


def verify(spool: Inspection, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Proof:
    """Return what can be proven of ``spool``, and what not.

    Args:
        spool: The open file.
        progress: Called now and then with the bodies read and how many there are.
    """
    findings, counts = Findings(), _Counts()
    pages = _pages(spool, findings)
    try:
        with spool.transaction():
            _numbers(spool, counts, findings)
    except DamagedError as error:
        findings.add(f"the numbers cannot be read: {error.what}")
    bodies = _bodies(spool, counts, findings, progress)
    return Proof(
        proven=not findings.kept, file=str(spool.path), agent_pid=spool.agent_pid, first=counts.first,
        last=counts.last, waiting=counts.waiting, sealed=counts.sealed, batches=counts.batches, dead=counts.dead,
        gaps=counts.gaps, declared=counts.declared, bodies=bodies, pages=pages, findings=findings.kept,
        more_findings=findings.more)


def _pages(spool: Inspection, findings: Findings) -> str:
    if spool.agent_pid is not None and size_of(spool.path) > _SMALL_BYTES:
        return "not checked"
    try:
        with spool.guard():
            said = [row[0] for row in spool.execute("PRAGMA integrity_check")]
    except DamagedError as error:
        said = [error.what]
    if said == ["ok"]:
        return "sound"
    for line in said:
        findings.add(f"pages: {' '.join(str(line).split())}")
    return "damaged"


def _numbers(spool: Inspection, counts: _Counts, findings: Findings) -> None:
    """Check all that needs no body but those of sealed batches."""
    counts.last = spool.last_sequence()
    batches: list[list[int]] = []
    for batch in spool.batches():
        counts.batches += 1
        batches.append(_batch(batch, findings))
    counts.sealed = sum(map(len, batches))
    gaps = [_Gap._make(row) for row in spool.execute(
        "SELECT first, last, count, reason, seq FROM gap WHERE typeof(first) = 'integer' AND typeof(last) = 'integer'"
        " AND typeof(count) IN ('integer', 'null') ORDER BY first, last")]
    counts.gaps = spool.one("SELECT COUNT(*) FROM gap")
    for gap in gaps:
        if gap.last < gap.first or (gap.events is not None and gap.events > gap.last - gap.first + 1):
            findings.add(f"gap {gap.sequence} ({gap.reason}) counts {gap.events} events, more than "
                         f"{_numbers_of(gap.first, gap.last)} can hold")
    # One query for each class: the index gives its sequences in order, without a body.
    classes = [row[0] for row in spool.execute("SELECT DISTINCT class FROM event")]
    waiting = [spool.execute("SELECT seq FROM event WHERE class = ? ORDER BY seq", (class_,)) for class_ in classes]
    counts.waiting, counts.dead = (spool.one(f"SELECT COUNT(*) FROM {table}") for table in ("event", "dead"))  # noqa: S608 -- our own names
    declared = {gap.first for gap in gaps if gap.reason == "dead_letter"}
    for (sequence,) in spool.execute("SELECT seq FROM dead ORDER BY seq"):
        if sequence not in declared:
            findings.add(f"sequence {sequence} (dead): not declared")
            declared.add(sequence)
    here = _merged([
        *(_placed(rows, "waiting") for rows in waiting), *(((seq, "in a batch") for seq in found) for found in batches),
        _placed(spool.execute("SELECT seq FROM dead ORDER BY seq"), "dead")], findings)
    _compare(here, gaps, declared, counts, findings)


def _batch(batch: Batch, findings: Findings) -> list[int]:
    """Check one sealed batch and return its sequences, in order."""
    name = f"batch {batch.id[:12]}… ({_numbers_of(batch.first_seq, batch.last_seq)})"
    events, faults = members(batch)
    for fault in dict.fromkeys(faults):
        findings.add(f"{name}: {fault}")
    if not events:
        return []
    if hashlib.sha256(sealing.plain_of(batch.body, batch.encoding)).hexdigest() != batch.id:
        findings.add(f"{name}: its bytes are not those of its id")
    sequences = [one.sequence for one in events]
    if len(events) + len(faults) != batch.events:
        findings.add(f"{name}: holds {len(events)} events, its row says {batch.events}")
    if sorted(sequences) != sequences:
        findings.add(f"{name}: its events are not in order")
        sequences.sort()
    if (sequences[0], sequences[-1]) != (batch.first_seq, batch.last_seq):
        findings.add(f"{name}: really holds {_numbers_of(sequences[0], sequences[-1])}")
    return sequences


def _placed(rows: Iterable[tuple[object]], place: str) -> Iterator[tuple[int, str]]:
    for (sequence,) in rows:
        if not isinstance(sequence, int):
            raise DamagedError(f"a row of those that are {place} has no number")
        yield sequence, place


def _merged(streams: list[Iterable[tuple[int, str]]], findings: Findings) -> Iterator[int]:
    """Yield every sequence that is here once, in order."""
    before, where = -1, ""
    for sequence, place in heapq.merge(*streams):
        if sequence == before:
            findings.add(f"sequence {sequence} is there twice: {where} and {place}")
            continue
        before, where = sequence, place
        yield sequence


def _compare(here: Iterator[int], gaps: list[_Gap], dead: set[int], counts: _Counts, findings: Findings) -> None:
    """Check that what is not here is declared, and that the gaps count as much as is missing, no more and no less.

    ``dead`` are the sequences of all that ever was a dead letter: it may be older than what was delivered.
    """
    cover = Ranges((gap.first, gap.last) for gap in gaps)
    missing = [0] * len(cover.joined)
    expected: int | None = None
    for sequence in here:
        if expected is None:
            if sequence in dead:
                continue
            counts.first = sequence
        elif sequence > expected:
            _missing(cover.split(expected, sequence - 1), missing, findings)
        expected = sequence + 1
    if expected is None or counts.first is None:
        return
    if expected > counts.last + 1:
        findings.add(f"sequence {expected - 1} is higher than the last that was given, {counts.last}")
    _missing(cover.split(expected, counts.last), missing, findings)
    counts.declared = sum(missing)
    for number, (first, last) in enumerate(cover.joined):
        inside = gaps[bisect_left(gaps, (first,)):bisect_left(gaps, (last + 1,))]
        most = sum(gap.last - gap.first + 1 if gap.events is None else gap.events for gap in inside)
        if missing[number] > most:
            findings.add(f"{_numbers_of(first, last)}: {missing[number]} are not here, the gaps there count {most}")
        # Dead letters may be here or not; what lies below the oldest may have been delivered.
        least = sum(gap.events or 0 for gap in inside if gap.reason != "dead_letter")
        if first >= counts.first and missing[number] < least:
            findings.add(f"{_numbers_of(first, last)}: the gaps there count {least} lost, but only {missing[number]} "
                         "are not here")


def _missing(parts: Iterator[tuple[int, int, int | None]], missing: list[int], findings: Findings) -> None:
    for first, last, number in parts:
        if number is None:
            findings.add(f"{_numbers_of(first, last)}: neither here nor declared")
        else:
            missing[number] += last - first + 1


def _bodies(spool: Inspection, counts: _Counts, findings: Findings, progress: Callable[[int, int], None]) -> int:
    """Check that every row of an event and of a dead letter has the body it says; return how many have."""
    walk = Walk(spool, batches=False, dead=True)
    total, good = counts.waiting + counts.dead, counts.sealed
    try:
        for done, one in enumerate(walk):
            if done % _TELL_EVERY == 0:
                progress(done, total)
            fault = _fault(one)
            if fault:
                findings.add(f"sequence {one.sequence} ({one.where}): {fault}")
            else:
                good += 1
    except SpoolError as error:
        findings.add(f"the bodies cannot be read: {error.what}")
    progress(total, total)
    if walk.unreadable:
        findings.add(f"{walk.unreadable} events cannot be read: their pages are damaged")
    return good


def _fault(one: Stored) -> str:
    head = head_of(one.body)
    if head is None:
        return "its body cannot be read"
    said = (head.id, head.type, head.subject)
    if head.sequence != f"{one.sequence:012d}":
        return f"its body has the sequence {head.sequence[:40]}"
    return "" if said == (one.id, one.type, one.subject) else f"its body is that of another event, {head.id[:80]}"


def _numbers_of(first: int, last: int) -> str:
    return f"sequence {first}" if first == last else f"sequence {first}\u2013{last}"
