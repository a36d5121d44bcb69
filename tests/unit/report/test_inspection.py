"""What `vedette spool` reads: figures, events in order, dead letters, and the proof, also of wrong and damaged files."""

import fcntl
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import SpoolError
from agent.report.contents import Walk, dead_letters, upcoming
from agent.report.figures import figures
from agent.report.inspection import Inspection, holder
from agent.report.proof import verify
from agent.report.ranges import Ranges
from tests.helpers.spools import by_hand, fill, numbered, pending, put_batch, put_dead, put_event, put_gap, spool_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.sqlite"


def proof_of(path):
    with Inspection(path) as spool:
        return verify(spool)


def names(folder):
    return sorted(one.name for one in folder.iterdir())


# Opening ---------------------------------------------------------------------------------------------------


def wrong_files(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no database at all, but long enough to be one")
    (tmp_path / "folder").mkdir()
    for name, application, schema in (("foreign", 7, 2), ("newer", 0x56444554, 3), ("older", 0, 1)):
        db = sqlite3.connect(tmp_path / name)
        db.executescript(f"CREATE TABLE t (a); PRAGMA application_id = {application}; PRAGMA user_version = {schema};")
        db.close()


@pytest.mark.parametrize(("name", "says"), [
    ("missing", "no such file"), ("empty", "empty, no spool"), ("text", "no database"), ("folder", "not a file"),
    ("foreign", "another application (id 0x00000007)"), ("newer", "newer version (schema 3, this one knows 2)"), ("older", "older version (schema 1")])
@pytest.mark.parametrize("writing", [False, True])
def test_what_is_no_spool_is_said_and_left_as_it_is(tmp_path, name, says, writing):
    wrong_files(tmp_path)
    before = names(tmp_path)
    with pytest.raises(SpoolError) as error:
        Inspection(tmp_path / name, writing=writing)
    assert says in error.value.what
    assert error.value.remedy
    assert names(tmp_path) == before


def open_up(path):
    """Let every user get at a test's folder."""
    for folder in itertools.takewhile(lambda folder: folder != Path(tempfile.gettempdir()), path.parents):
        folder.chmod(folder.stat().st_mode | 0o755)


def test_what_may_not_be_read_is_said(path):
    fill(path).chmod(0)
    open_up(path)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(SpoolError, match="permission denied"):
            Inspection(path)
    finally:
        if root:
            os.seteuid(0)


def test_looking_makes_no_file_and_changes_none(path):
    fill(path)
    before, content = names(path.parent), path.read_bytes()
    with Inspection(path) as spool:
        figures(spool)
        list(Walk(spool, dead=True))
        verify(spool)
    assert (names(path.parent), path.read_bytes()) == (before, content)


def test_the_journal_of_a_killed_agent_is_read_and_kept(path):
    code = (f"import os, sys; sys.path.insert(0, {os.getcwd()!r})\n"
            "from pathlib import Path\nfrom tests.helpers.spools import *\n"
            f"file = SpoolFile(Path({str(path)!r}), FilePolicy(max_bytes=8 << 20), EventFactory('test', 'gaps', '1').gap, CLOCKS)\n"
            "file.commit([pending(n) for n in range(1, 8)]); os._exit(0)")
    subprocess.run([sys.executable, "-c", code], check=True)
    journal = path.with_name("spool.sqlite-wal")
    before = path.read_bytes(), journal.read_bytes()
    assert journal.stat().st_size
    with Inspection(path) as spool:
        assert figures(spool).waiting == 7
    assert (path.read_bytes(), journal.read_bytes()) == before


def test_an_agent_that_starts_while_a_still_file_is_read_is_noticed(path):
    fill(path)

    def look():
        with Inspection(path) as spool, spool_file(path) as agent:
            agent.commit([pending(99)])
            figures(spool)

    with pytest.raises(SpoolError, match="an agent opened it"):
        look()


def test_who_holds_the_lock_is_told_without_taking_it(path):
    assert holder(path) is None
    with path.with_name("spool.sqlite.lock").open("w") as lock:
        assert holder(path) is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert holder(path) == os.getpid()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert holder(path) is None


def test_root_leaves_nothing_behind_that_the_owner_cannot_open(path):
    if os.geteuid() != 0:
        pytest.skip("needs root: run the tests as root")
    fill(path)
    open_up(path)
    path.parent.chmod(0o777)
    os.chown(path, 65534, 65534)
    keep = sqlite3.connect(path)  # a journal stays as long as someone is there
    with Inspection(path, writing=True) as spool:
        assert os.geteuid() == 65534
        spool.retry_dead(None)
        for name in ("spool.sqlite-wal", "spool.sqlite-shm"):
            assert path.with_name(name).stat().st_uid == 65534
    keep.close()
    assert (os.geteuid(), os.getegid()) == (0, 0)


# Figures ---------------------------------------------------------------------------------------------------


def test_figures_of_a_spool_that_has_seen_much(path):
    with spool_file(path) as file:
        file.commit([pending(number) for number in range(1, 13)] + [pending(13, "source.state"), pending(14, "watermark.identified")])
        file.remove(file.seal(3))
        assert file.bury(file.seal(1), "HTTP 422: no")
        file.seal(4)
    (path.parent / "spool.sqlite.bad-20260101T000000Z").write_bytes(b"x" * 10)
    (path.parent / "spool.sqlite.bad-20260101T000000Z-wal").write_bytes(b"x" * 5)
    (path.parent / "spool.sqlite.ballast").write_bytes(b"x" * 7)
    with Inspection(path) as spool:
        found = figures(spool)
    assert (found.waiting, found.sealed, found.batches, found.sequence, found.agent_pid) == (7, 4, 1, 15, None)
    assert {kind.type: (kind.class_, kind.waiting, kind.sealed) for kind in found.types} == {
        "detection": (0, 4, 4), "source.state": (1, 1, 0), "watermark.identified": (2, 1, 0), "gap": (3, 1, 0)}
    assert found.dead == {"HTTP 422: no": 1}
    assert [(gap.reason, gap.first, gap.last, gap.count) for gap in found.undelivered_gaps] == [("dead_letter", 4, 4, 1)]
    assert (found.file_bytes, found.ballast_bytes) == (path.stat().st_size, 7)
    assert [(one.name, one.bytes) for one in found.set_aside] == [("spool.sqlite.bad-20260101T000000Z", 15)]
    assert found.oldest_age_s is not None


def test_a_gap_is_undelivered_in_a_batch_and_delivered_after_it(path):
    with by_hand(path) as db:
        put_gap(db, 9, 1, 3, 3)
        db.execute("DELETE FROM event")
        put_batch(db, [8, 9, 10])
    db.close()
    with Inspection(path) as spool:
        assert not figures(spool).undelivered_gaps, "the events of this batch are detections"
    db = sqlite3.connect(path)
    with db:
        db.execute("DELETE FROM batch")
        from agent.report import sealing
        made = sealing.encode([numbered(9, "gap").body], "ndjson", "gzip")
        db.execute("INSERT INTO batch VALUES (1, ?, ?, 'gzip', 1, 9, 9, 0, ?)", (made.id, made.content_type, made.body))
    db.close()
    with Inspection(path) as spool:
        assert [gap.sequence for gap in figures(spool).undelivered_gaps] == [9]


# Events ----------------------------------------------------------------------------------------------------


def test_the_next_events_are_those_of_batches_then_the_oldest(path):
    with spool_file(path) as file:
        file.commit([pending(number) for number in range(1, 11)])
        assert file.bury(file.seal(1), "no")
        file.seal(4)
    with Inspection(path, writing=True) as spool:
        assert spool.retry_dead(None) == ["run-1"]
        assert [one.sequence for one in upcoming(spool, 7)] == [2, 3, 4, 5, 1, 6, 7], "a sealed batch goes first"
        assert [one.sequence for one in upcoming(spool, 3)] == [2, 3, 4]
        assert [one.sequence for one in upcoming(spool, 9, newest=True)] == [11, 10, 9, 8, 7, 6, 1, 5, 4]
        assert not dead_letters(spool, 5)


@pytest.mark.parametrize("parts", [{"dead": True}, {}, {"waiting": False, "batches": False, "dead": True}])
def test_the_walk_yields_each_event_once_in_order_over_many_pages(path, parts):
    with by_hand(path) as db:
        for sequence in range(1, 1001):
            put_dead(db, sequence) if sequence % 97 == 0 else put_event(db, sequence)
        for first in range(2000, 2600, 100):
            put_batch(db, list(range(first, first + 100)))
        put_event(db, 3000)
    db.close()
    expected = set()
    if parts.get("waiting", True):
        expected |= {number for number in range(1, 1001) if number % 97} | set(range(2000, 2600)) | {3000}
    if parts.get("dead"):
        expected |= set(range(97, 1001, 97))
    with Inspection(path) as spool:
        walk = Walk(spool, **parts)
        got = list(walk)
    assert [one.sequence for one in got] == sorted(expected)
    assert all(json.loads(one.body)["sequence"] == f"{one.sequence:012d}" for one in got)
    assert walk.unreadable == 0


def test_the_walk_misses_nothing_while_an_agent_seals(path):
    with spool_file(path) as file:
        file.commit([pending(number) for number in range(1, 1201)])
        with Inspection(path) as spool:
            got = []
            for one in Walk(spool):
                got.append(one.sequence)
                if len(got) == 100:
                    for _ in range(3):
                        file.seal(300)
    assert got == list(range(1, 1201))


# Dead letters ----------------------------------------------------------------------------------------------


def test_dead_letters_go_back_under_their_old_sequence_while_the_agent_runs(path):
    with spool_file(path) as file:
        file.commit([pending(number) for number in range(1, 6)])
        for _ in range(3):
            assert file.bury(file.seal(1), "HTTP 422")
        with Inspection(path, writing=True) as spool:
            assert spool.retry_dead(["run-2", "run-9"]) == ["run-2"]
            assert spool.drop_dead(["run-3"]) == ["run-3"]
            assert verify(spool).findings == []
        assert (file.levels().unsealed, file.levels().dead, file.levels().lost) == (6, 1, {"dead_letter": 1})
        batch = file.seal(1)
        assert (batch.first_seq, batch.events) == (2, 1)
        file.remove(batch)
    with Inspection(path) as spool:
        assert [one.id for one in dead_letters(spool, 9)] == ["run-1"]
        assert verify(spool).findings == []


def test_treating_dead_letters_waits_for_its_turn(path):
    with by_hand(path) as db:
        put_dead(db, 1)
    held = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    held.execute("BEGIN IMMEDIATE")
    with Inspection(path, writing=True) as spool:
        timer = threading.Timer(0.3, lambda: held.execute("COMMIT"))
        timer.start()
        assert spool.drop_dead(None) == ["run-1"]
        timer.join()
    held.close()
    db.close()


# The proof -------------------------------------------------------------------------------------------------


def test_a_spool_the_agent_made_is_proven_after_all_it_does(path):
    with spool_file(path, max_bytes=1024 * 1024) as file:
        for start in range(0, 6000, 200):  # many more than fit
            file.commit([pending(start + number, "source.state" if number % 50 == 0 else "detection", size=200) for number in range(200)])
        assert file.levels().lost["spool_full"] > 1000
        file.remove(file.seal(32))
        assert file.bury(file.seal(1), "HTTP 400")
        file.split(file.seal(8))
        with Inspection(path) as spool:
            proof = verify(spool)
    assert proof.findings == []
    assert proof.proven
    assert proof.pages == "sound"
    assert proof.declared > 0
    assert (proof.batches, proof.dead, proof.bodies) == (2, 1, proof.waiting + proof.sealed + proof.dead)


def test_an_empty_spool_is_proven(path):
    with spool_file(path) as file:
        file.commit([pending(1)])
        file.remove(file.seal(9))
    proof = proof_of(path)
    assert (proof.proven, proof.first, proof.last) == (True, None, 1)


def broken(db, how):
    for sequence in range(1, 21):
        put_event(db, sequence)
    db.execute("UPDATE sqlite_sequence SET seq = 20")
    how(db)


def sealed(db, sequences=(1, 2, 3), **changes):
    db.execute("DELETE FROM event WHERE seq <= 3")
    put_batch(db, list(sequences), **changes)


CASES = {
    "a hole": (lambda db: db.execute("DELETE FROM event WHERE seq BETWEEN 8 AND 11"), "sequence 8\u201311: neither here nor declared"),
    "a hole of one": (lambda db: db.execute("DELETE FROM event WHERE seq = 8"), "sequence 8: neither here nor declared"),
    "the newest gone": (lambda db: db.execute("DELETE FROM event WHERE seq > 17"), "sequence 18\u201320: neither here nor declared"),
    "a number never given": (lambda db: put_event(db, 23) or db.execute("UPDATE sqlite_sequence SET seq = 20"),
                             "sequence 23 is higher than the last that was given, 20"),
    "half declared": (lambda db: (db.execute("DELETE FROM event WHERE seq BETWEEN 8 AND 11"), put_gap(db, 21, 10, 11, 2)),
                      "sequence 8\u20139: neither here nor declared"),
    "declared too few": (lambda db: (db.execute("DELETE FROM event WHERE seq BETWEEN 8 AND 11"), put_gap(db, 21, 8, 11, 3)),
                         "sequence 8\u201311: 4 are not here, the gaps there count 3"),
    "declared too many": (lambda db: (db.execute("DELETE FROM event WHERE seq = 8"), put_gap(db, 21, 8, 11, 3)),
                          "sequence 8\u201311: the gaps there count 3 lost, but only 1 are not here"),
    "a gap that cannot be": (lambda db: put_gap(db, 21, 8, 9, 3), "gap 21 (spool_full) counts 3 events, more than sequence 8\u20139 can hold"),
    "twice": (lambda db: put_batch(db, [1, 2, 3]), "sequence 2 is there twice: in a batch and waiting"),
    "dead and waiting": (lambda db: (put_dead(db, 5), put_gap(db, 21, 5, 5, 1, "dead_letter")), "sequence 5 is there twice: dead and waiting"),
    "dead, not declared": (lambda db: (db.execute("DELETE FROM event WHERE seq = 5"), put_dead(db, 5)), "sequence 5 (dead): not declared"),
    "a batch's hash": (lambda db: sealed(db, name="0" * 64), "batch 000000000000… (sequence 1\u20133): its bytes are not those of its id"),
    "a batch's count": (lambda db: sealed(db, events=4), "holds 3 events, its row says 4"),
    "a batch's ends": (lambda db: sealed(db, first=2), "(sequence 2\u20133): really holds sequence 1\u20133"),
    "a batch's order": (lambda db: sealed(db, sequences=(2, 1, 3), first=1), "its events are not in order"),
    "a batch that is noise": (lambda db: sealed(db, body=b"noise"), "a sealed batch cannot be read"),
    "no JSON": (lambda db: db.execute("UPDATE event SET body = x'7b' WHERE seq = 6"), "sequence 6 (waiting): its body cannot be read"),
    "another's body": (lambda db: db.execute("UPDATE event SET id = 'other' WHERE seq = 6"), "sequence 6 (waiting): its body is that of another event, run-6"),
    "another's sequence": (lambda db: db.execute("UPDATE event SET body = ? WHERE seq = 6", (numbered(7).body,)),
                           "sequence 6 (waiting): its body has the sequence 000000000007"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_found_and_named(path, case):
    how, says = CASES[case]
    with by_hand(path) as db:
        broken(db, how)
    db.close()
    proof = proof_of(path)
    assert not proof.proven
    assert any(says in finding for finding in proof.findings), proof.findings


WELL = {
    "a declared hole": lambda db: (db.execute("DELETE FROM event WHERE seq BETWEEN 8 AND 11"), put_gap(db, 21, 8, 11, 4)),
    "declared around what stayed": lambda db: (db.execute("DELETE FROM event WHERE seq IN (8, 11)"), put_gap(db, 21, 8, 11, 2)),
    "declared without a count": lambda db: (db.execute("DELETE FROM event WHERE seq BETWEEN 8 AND 11"), put_gap(db, 21, 8, 12, None)),
    "declared twice over": lambda db: (db.execute("DELETE FROM event WHERE seq IN (8, 9, 10)"), put_gap(db, 21, 8, 10, 2), put_gap(db, 22, 9, 9, 1, "max_age")),
    "a dead letter": lambda db: (db.execute("DELETE FROM event WHERE seq = 5"), put_dead(db, 5), put_gap(db, 21, 5, 5, 1, "dead_letter")),
    "a dropped dead letter": lambda db: (db.execute("DELETE FROM event WHERE seq = 5"), put_gap(db, 21, 5, 5, 1, "dead_letter")),
    "a dead letter put back long after": lambda db: (db.execute("DELETE FROM event WHERE seq BETWEEN 2 AND 9"), put_gap(db, 21, 1, 1, 1, "dead_letter")),
    "lost without numbers": lambda db: put_gap(db, 21, None, None, 9, "memory_full"),
    "the oldest delivered": lambda db: db.execute("DELETE FROM event WHERE seq < 9"),
}


@pytest.mark.parametrize("case", WELL)
def test_what_is_well_is_proven(path, case):
    with by_hand(path) as db:
        broken(db, WELL[case])
    db.close()
    proof = proof_of(path)
    assert proof.findings == []
    assert proof.proven


def test_findings_are_bounded_and_counted(path):
    with by_hand(path) as db:
        for sequence in range(1, 1001, 2):
            put_event(db, sequence)
        db.execute("UPDATE sqlite_sequence SET seq = 1000")
    db.close()
    proof = proof_of(path)
    assert (len(proof.findings), proof.more_findings) == (200, 300)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=9), st.integers(0, 60), st.integers(0, 20))
def test_ranges_cut_as_sets_would(spans, first, length):
    ranges = Ranges(sorted((start, start + more) for start, more in spans))
    covered = {number for start, more in spans for number in range(start, start + more + 1)}
    last = first + length
    parts = list(ranges.split(first, last))
    assert [number for start, end, _ in parts for number in range(start, end + 1)] == list(range(first, last + 1))
    for start, end, number in parts:
        inside = [one in covered for one in range(start, end + 1)]
        assert all(inside) if number is not None else not any(inside)


# Damage ----------------------------------------------------------------------------------------------------


def damaged(path, pages):
    """Zero pages in the middle of a spool of 600 large events."""
    fill(path, 600, max_bytes=16 * 1024 * 1024)
    size = sqlite3.connect(path).execute("PRAGMA page_size").fetchone()[0]
    count = path.stat().st_size // size
    with path.open("r+b") as file:
        for page in pages(count):
            file.seek(page * size)
            file.write(bytes(size))
    return count


@pytest.mark.parametrize("pages", [lambda count: [count // 2], lambda count: [count // 3, count // 2, count - 2], lambda count: range(12, count)])
def test_of_a_damaged_file_all_that_can_be_read_is_read(path, pages):
    damaged(path, pages)
    with Inspection(path) as spool:
        walk = Walk(spool, dead=True)
        got = [one.sequence for one in walk]
        proof = verify(spool)
    assert got == sorted(set(got))
    assert set(got) < set(range(1, 601))
    assert walk.unreadable == 600 - len(got)
    assert proof.pages == "damaged"
    assert not proof.proven
    assert any("cannot be read: their pages are damaged" in finding for finding in proof.findings)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_damage_ends_in_anything_but_findings_or_one_error(tmp_path_factory, seed):
    import random

    draw = random.Random(seed)
    path = tmp_path_factory.mktemp("s") / "spool.sqlite"
    with by_hand(path) as db:
        for sequence in range(1, 200):
            put_dead(db, sequence) if sequence % 50 == 0 else put_event(db, sequence)
        put_batch(db, list(range(200, 230)))
    db.close()
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 20, 2000))):
        content[draw.randrange(100, len(content))] = draw.randrange(256)
    path.write_bytes(content)
    for work in (lambda spool: list(Walk(spool, dead=True)), verify, figures, lambda spool: upcoming(spool, 50), lambda spool: dead_letters(spool, 9)):
        try:
            with Inspection(path) as spool:
                work(spool)
        except SpoolError:
            pass


# While the agent runs --------------------------------------------------------------------------------------


def test_a_working_spool_is_proven_at_every_moment(path):
    """One thread appends more than fits, one delivers and buries, and from outside letters are put back and dropped."""
    from agent.report.events import EventFactory
    from agent.report.spool import Spool
    from agent.report.spool_records import FilePolicy
    from tests.helpers.events import event

    stop = threading.Event()

    def append(spool):
        number = 0
        while not stop.is_set():
            for _ in range(200):
                number += 1
                spool.append(event(number, kind="source.state" if number % 9 == 0 else "detection", size=300))
            spool.flush(5)

    def deliver(spool):
        count = 0
        while not stop.is_set():
            count += 1
            batch = spool.seal(1 if count % 7 == 0 else 16, 0)
            if batch is None:
                continue
            if batch.events == 1:
                spool.bury(batch, "HTTP 422")
            elif count % 5 == 0:
                spool.split(batch)
            else:
                spool.ack(batch)

    with Spool(path, FilePolicy(max_bytes=1024 * 1024, max_dead=50), EventFactory("test", "gaps", "1").gap, commit_events=64) as spool:
        threads = [threading.Thread(target=work, args=(spool,)) for work in (append, deliver)]
        for thread in threads:
            thread.start()
        try:
            proofs, held = [], set()
            # At least until events had to be given up; the test's own time limit ends it otherwise.
            while len(proofs) < 12 or "spool_full" not in spool.stats().lost:
                turn = len(proofs)
                with Inspection(path, writing=True) as outside:
                    (outside.retry_dead if turn % 2 else outside.drop_dead)([one.id for one in dead_letters(outside, 5)])
                with Inspection(path) as outside:
                    held.add(outside.agent_pid)
                    proofs.append(verify(outside))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert held == {os.getpid()}
    assert [finding for proof in proofs for finding in proof.findings] == []
    assert proofs[-1].last > proofs[0].last
    with Inspection(path) as outside:
        assert verify(outside).findings == []
        assert figures(outside).lost["spool_full"] > 0
