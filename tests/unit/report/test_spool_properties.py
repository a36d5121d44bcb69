"""Random lives of a spool's file: whatever is done in whatever order, nothing is lost that is not declared.

The rules do what the writer, the uploader, the command line, the disk, the clock and a power cut do; after each of them
the file is read as a stranger would, and the books must balance: each event is delivered, in the file, a dead letter, or
counted in a gap, and never two of these.
"""

import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.records import Event
from agent.report import sealing
from agent.report.inspection import Inspection
from agent.report.room import NEVER, class_of
from agent.report.spool_db import SpoolFullError
from agent.report.spool_records import FilePolicy, Pending, SealedBatch
from agent.report.store import Store
from tests.helpers.events import event
from tests.helpers.live_spools import SetClocks, events_of, factory

MAX_BYTES = 1024 * 1024
MAX_AGE_S = 600.0
GROUP_BYTES = MAX_BYTES // 8
UNSEQUENCED = 200  # what an event of the helper takes beside its padding
KINDS = ["detection", "source.state", "budget.step", "watermark.identified", "update.outcome", "something.new"]
SIZES = st.one_of(st.integers(0, 3000), st.integers(20_000, 64 * 1024 - UNSEQUENCED))
# The most important are kept whatever happens, so a file full of nothing else takes no more: rare, as in life.
ANY_KIND = st.sampled_from([kind for kind in KINDS for _ in range(1 if class_of(kind) == NEVER else 5)])


class LivesOfASpool(RuleBasedStateMachine):
    """The model is a ledger of ids; the file is the real one."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.path = self.folder / "spool.sqlite"
        self.box = SetClocks()
        self.runs = self.made = 0
        self.pending: list[Event] = []
        self.committed: dict[str, str] = {}  # id -> type, of events that are no gaps
        self.delivered: dict[int, dict] = {}  # sequence -> event, as the receiver got it
        self.retried: set[int] = set()
        self.last_in_order = 0
        self.seen: dict[str, bytes] = {}  # batch id -> its bytes
        self.batch: SealedBatch | None = None
        self.store = self.open()

    def open(self) -> Store:
        self.runs += 1
        return Store(self.path, FilePolicy(max_bytes=MAX_BYTES, max_dead=3), factory(f"gaps{self.runs}").gap,
                     max_age_s=MAX_AGE_S, clocks=self.box.clocks())

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    # What the threads of the agent do ---------------------------------------------------------------------------

    @rule(kind=ANY_KIND, size=SIZES, count=st.integers(1, 12))
    def append(self, kind, size, count):
        for _ in range(count):
            self.append_one(kind, size)

    def append_one(self, kind, size):
        self.made += 1
        self.pending.append(event(self.made, kind=kind, size=size))

    @rule()
    def commit(self):
        group: list[Event] = []
        for one in self.pending:
            if group and sum(len(other.body) for other in [*group, one]) > GROUP_BYTES:
                break
            group.append(one)
        try:
            self.store.commit([Pending(one, time.monotonic()) for one in group], ())
        except SpoolFullError:
            return  # they wait; a refused commit changed nothing, as the invariants now see
        del self.pending[:len(group)]
        self.committed |= {one.id: one.type for one in group}

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), size=st.integers(10_000, 50_000))
    def a_busy_hour(self, kinds, size):
        """More than half of the room at once, so that full files are common."""
        for number in range(400_000 // size):
            self.append_one(kinds[number % len(kinds)], size)
        for _ in range(8):
            self.commit()

    @rule(most=st.integers(1, 40))
    def seal(self, most):
        try:
            self.batch = self.store.next_batch(most)
        except SpoolFullError:
            return
        if self.batch is not None:
            ids = [one["id"] for one in events_of(self.batch)]
            assert len(ids) == len(set(ids)) == self.batch.events

    def take_batch(self) -> SealedBatch:
        batch, self.batch = self.batch, None
        assert batch is not None
        return batch

    @precondition(lambda self: self.batch)
    @rule()
    def ack(self):
        batch = self.take_batch()
        self.store.use(lambda file: file.remove(batch))
        for one in events_of(batch):
            sequence = int(one["sequence"])
            assert sequence not in self.delivered
            if sequence not in self.retried:
                assert sequence > self.last_in_order
                self.last_in_order = sequence
            self.delivered[sequence] = one

    @precondition(lambda self: self.batch and self.batch.events > 1)
    @rule()
    def split(self):
        batch = self.take_batch()
        try:
            self.store.use(lambda file: file.split(batch))
        except SpoolFullError:
            return
        first = self.store.use(lambda file: file.sealed())
        assert (first.first_seq, first.events) == (batch.first_seq, batch.events // 2)

    @precondition(lambda self: self.batch and self.batch.events == 1)
    @rule()
    def bury(self):
        batch, before = self.take_batch(), self.store.levels.dead
        try:
            buried = self.store.use(lambda file: file.bury(batch, "HTTP 422"))
        except SpoolFullError:
            return
        assert self.store.levels.dead == before + buried
        assert buried or before == 3 or len(batch.body) > 1000

    @precondition(lambda self: self.batch)
    @rule()
    def unseal(self):
        batch = self.take_batch()
        try:
            self.store.use(lambda file: file.unseal(batch))
        except SpoolFullError:
            return
        left = self.store.use(lambda file: file.sealed())
        assert left is None or left.id != batch.id

    # What happens to it -----------------------------------------------------------------------------------------

    @rule()
    def retry_dead(self):
        with Inspection(self.path, writing=True) as spool:
            self.retried |= {row[0] for row in spool.execute("SELECT seq FROM dead")}
            spool.retry_dead(None)
        self.store.use(lambda _: None)

    @rule(seconds=st.sampled_from([1.0, 100.0, 400.0, 700.0]))
    def time_passes(self, seconds):
        self.box.pass_(seconds)
        self.tend()

    @rule(seconds=st.floats(-1e9, 1e9))
    def the_clock_is_set(self, seconds):
        self.box.wall += seconds

    @rule(frozen=st.booleans())
    def the_disk_is_full_or_free(self, frozen):
        self.store.use(lambda file: file.room.freeze(frozen))

    def tend(self):
        try:
            self.store.tend()
        except SpoolFullError:
            return

    @rule()
    def restart(self):
        sealed = self.store.use(lambda file: file.sealed())
        self.store.end()
        self.store.close()
        self.store, self.batch = self.open(), None
        assert self.store.use(lambda file: file.sealed()) == sealed
        self.committed_again(clean=True)

    @rule()
    def power_cut(self):
        """Put the files back as they were before a close could fold the journal in."""
        sealed = self.store.use(lambda file: file.sealed())
        saved = {path: path.read_bytes() for path in self.folder.glob("spool.sqlite*") if path.suffix != ".ballast"}
        self.store.close()
        for path, content in saved.items():
            if not path.name.endswith("-shm"):
                path.write_bytes(content)
        self.pending.clear()
        self.store, self.batch = self.open(), None
        assert self.store.use(lambda file: file.sealed()) == sealed
        self.committed_again(clean=False)

    def committed_again(self, *, clean):
        """A start declares an unclean stop, and only then."""
        gaps = [one for one in self.in_file().values() if one["type"] == "gap" and one["id"].startswith(f"gaps{self.runs}-")]
        assert all(one["data"]["reason"] == "unclean_stop" for one in gaps)
        assert not (gaps and clean)
        last_word = [one["data"] for one in self.in_file().values() if one["type"] == "gap"
                     and one["data"]["reason"] == "unclean_stop"]
        assert last_word or clean

    # The books --------------------------------------------------------------------------------------------------

    def in_file(self) -> dict[int, dict]:
        """Return what waits, by sequence: events and those in batches."""
        return {int(one["sequence"]): one for one in self.rows("event") + self.in_batches()}

    def rows(self, table) -> list[dict]:
        found = self.store._file.db.execute(f"SELECT seq, body FROM {table} ORDER BY seq").fetchall()
        made = [sealing.msgspec.json.decode(body) for _, body in found]
        assert [int(one["sequence"]) for one in made] == [seq for seq, _ in found]
        return made

    def in_batches(self) -> list[dict]:
        found = []
        for row in self.store._file.db.execute(f"SELECT {', '.join(SealedBatch._fields)} FROM batch ORDER BY first_seq"):
            batch = SealedBatch(*row)
            assert self.seen.setdefault(batch.id, batch.body) == batch.body
            events = events_of(batch)
            sequences = [int(one["sequence"]) for one in events]
            assert sequences == sorted(set(sequences))
            assert (batch.events, batch.first_seq, batch.last_seq) == (len(events), sequences[0], sequences[-1])
            found += events
        return found

    @invariant()
    def the_books_balance(self):
        if not hasattr(self, "store"):
            return
        waiting, batched, dead = self.rows("event"), self.in_batches(), self.rows("dead")
        everywhere = [*waiting, *batched, *dead, *self.delivered.values()]
        ids = [one["id"] for one in everywhere]
        assert len(ids) == len(set(ids)), "something is in two places"
        events = {one["id"]: one["type"] for one in everywhere if one["type"] != "gap"}
        assert events.items() <= self.committed.items()
        gone = Counter(self.committed.values()) - Counter(events.values())
        declared = [one["data"] for one in everywhere if one["type"] == "gap"]
        losses = [gap for gap in declared if gap["reason"] not in {"dead_letter", "unclean_stop"}]
        self.check_counts(gone, losses)
        self.check_sequence({int(one["sequence"]) for one in everywhere}, losses)
        levels = self.store.levels
        assert (levels.unsealed, levels.sealed, levels.dead) == (len(waiting), len(batched), len(dead))
        assert self.path.stat().st_size <= MAX_BYTES
        assert all(class_of(type_) < NEVER for type_ in gone)
        assert {one["sequence"] for one in dead} <= {
            f"{gap['first']:012}" for gap in declared if gap["reason"] == "dead_letter"}

    def check_counts(self, gone, losses):
        """What is gone is declared: as many of each type in the gaps, and by reason in the totals of the file."""
        types: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for gap in losses:
            assert gap["count"] == sum(gap["types"].values())
            types.update(gap["types"])
            reasons[gap["reason"]] += gap["count"]
        assert types == gone
        assert reasons == self.store.levels.lost

    def check_sequence(self, known, losses):
        """A receiver's own check: what is missing of 1..last lies in declared ranges, and is no more than their count."""
        last = self.store.levels.last
        assert max(known, default=0) <= last
        missing = set(range(1, last + 1)) - known
        ranges = [gap for gap in losses if gap["first"] is not None]
        covered = {sequence for gap in ranges for sequence in range(gap["first"], gap["last"] + 1)}
        assert missing <= covered
        assert len(missing) <= sum(gap["count"] for gap in ranges)
        for gap in ranges:
            assert {gap["first"], gap["last"]} <= missing


LivesOfASpool.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestLivesOfASpool = pytest.mark.slow(LivesOfASpool.TestCase)
