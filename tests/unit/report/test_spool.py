"""The spool on real SQLite files: durable, bounded, in order, and the same bytes on every retry."""

import gzip
import hashlib
import json
import sqlite3
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError, SpoolError
from agent.report.spool import Spool, SpoolFullError
from agent.report.spool_file import SCHEMA, Pending, SpoolFile
from tests.helpers.events import event

MIB = 1024 * 1024


class Wall:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextmanager
def opened(folder, **options):
    spool = Spool(folder / "spool.sqlite", **{"max_bytes": 16 * MIB, "commit_interval_s": 0.01, **options})
    try:
        yield spool
    finally:
        spool.close()


def filled(spool, count, **options):
    for number in range(count):
        spool.append(event(number, **options))
    assert spool.flush(10)


def ids(batch):
    assert batch.encoding == "gzip"
    array = gzip.decompress(batch.body)
    assert batch.id == hashlib.sha256(array).hexdigest()
    found = [one["id"] for one in json.loads(array)]
    assert len(found) == batch.events == batch.last_seq - batch.first_seq + 1
    return found


def drained(spool, max_events=100):
    found = []
    while batch := spool.seal(max_events, 0):
        found += ids(batch)
        spool.ack(batch)
    return found


def names(count):
    return [f"run-{number}" for number in range(count)]


def test_appended_events_come_out_in_order_once(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 250)
        assert spool.depth == 250
        assert drained(spool) == names(250)
        assert drained(spool) == []
        stats = spool.stats()
        assert (stats.depth, stats.pending, stats.appended, stats.committed, stats.acked) == (0, 0, 250, 250, 250)
        assert stats.oldest_age_s is None
        assert stats.commit.count >= 1
        assert not stats.refused


@settings(deadline=None, max_examples=15)
@given(steps=st.lists(st.sampled_from(["append", "append", "flush", "seal", "ack", "reopen"]), max_size=30))
def test_any_sequence_of_steps_delivers_every_event_once_and_in_order(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool")
    options = {"max_bytes": 16 * MIB, "commit_interval_s": 0.001}
    spool = Spool(folder / "spool.sqlite", **options)
    made, got, sent = 0, [], None
    try:
        for step in [*steps, "flush"]:
            if step == "append":
                spool.append(event(made))
                made += 1
            elif step == "flush":
                assert spool.flush(10)
                assert spool.depth == made - len(got)
            elif step == "seal":
                again = spool.seal(3, 0)
                assert sent is None or again == sent
                sent = again
            elif step == "ack" and sent:
                spool.ack(sent)
                got += ids(sent)
                sent = None
            elif step == "reopen":
                spool.close()
                spool = Spool(folder / "spool.sqlite", **options)
        assert got + drained(spool) == names(made)
    finally:
        spool.close()


def test_a_sealed_batch_is_the_same_after_more_events_and_a_restart(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 10)
        first = spool.seal(4, 0)
        filled(spool, 5, run="more")
        second = spool.seal(100, 0)
        assert (second.id, second.body) == (first.id, first.body)
    with opened(tmp_path) as spool:
        third = spool.seal(100, 0)
        assert (third.id, third.body) == (first.id, first.body)
        assert spool.depth == 15
        spool.ack(third)
        assert ids(spool.seal(3, 0)) == ["run-4", "run-5", "run-6"]


def test_a_batch_waits_to_be_full_or_old(tmp_path):
    wall = Wall()
    with opened(tmp_path, clock=wall) as spool:
        assert spool.seal(4, 5) is None
        filled(spool, 3)
        assert spool.seal(4, 5) is None
        wall.now += 4.9
        assert spool.seal(4, 5) is None
        assert spool.stats().oldest_age_s == pytest.approx(4.9)
        wall.now += 0.2
        batch = spool.seal(4, 5)
        assert batch.events == 3
        assert spool.stats().oldest_age_s == pytest.approx(5.1)
        spool.ack(batch)
        filled(spool, 4)
        assert spool.seal(4, 5).events == 4


def test_a_clock_set_back_does_not_hold_events(tmp_path):
    wall = Wall()
    with opened(tmp_path, clock=wall) as spool:
        filled(spool, 1)
        wall.now -= 900
        assert spool.stats().oldest_age_s == 0
        assert spool.seal(4, 5).events == 1


def test_a_batch_never_passes_its_bytes(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        filled(spool, 8, size=30_000)
        sizes = []
        while batch := spool.seal(100, 0):
            sizes.append(len(gzip.decompress(batch.body)))
            spool.ack(batch)
        assert len(sizes) > 1
        assert max(sizes) <= MIB // 8 + 2


def test_numbers_are_never_used_again(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 3)
        last = spool.seal(100, 0)
        spool.ack(last)
    with opened(tmp_path) as spool:
        filled(spool, 1)
        assert spool.seal(100, 0).first_seq == last.last_seq + 1


def test_a_full_ring_refuses_and_counts_and_never_waits_for_the_disk(tmp_path):
    with opened(tmp_path, ring_bytes=5000) as spool:
        with spool._disk:  # the disk hangs
            for number in range(100):
                spool.append(event(number))
            refused = spool.stats().refused
            accepted = spool.stats().appended
            assert refused == {"memory_full": 100 - accepted}
            assert 0 < accepted < 100
            assert not spool.flush(0.05)
        assert spool.flush(10)
        assert drained(spool) == names(accepted)
        spool.append(event(100))
        assert spool.flush(10)
        assert spool.stats().appended == accepted + 1


def test_a_full_spool_refuses_counts_drains_and_takes_again(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        number = 0
        while not spool.stats().refused:
            spool.append(event(number, size=4000))
            assert spool.flush(10)
            number += 1
        accepted = spool.stats().appended
        assert spool.stats().refused == {"spool_full": 1}
        assert accepted > 100
        assert (tmp_path / "spool.sqlite").stat().st_size <= MIB
        assert drained(spool, 32) == names(accepted)
        spool.append(event(7, run="later"))
        assert spool.flush(10)
        assert drained(spool) == ["later-7"]


@pytest.mark.parametrize("size", [0, 700, 1200, 5000, 60_000])
def test_a_spool_filled_in_a_rush_never_loses_what_it_took_and_can_be_drained(tmp_path, size):
    with opened(tmp_path, max_bytes=2 * MIB) as spool:
        number = 0
        while spool.stats().refused.get("spool_full", 0) < 20:
            spool.append(event(number, size=size))
            number += 1
            if number % 500 == 0:
                assert spool.flush(10)
        assert spool.flush(10)
        assert (tmp_path / "spool.sqlite").stat().st_size <= 2 * MIB
        accepted = spool.stats().appended
        assert len(drained(spool, 1000)) == accepted == spool.stats().committed


def test_what_does_not_fit_the_disk_stays_in_memory_until_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.report.spool._RETRY_S", 0.01)
    broken = threading.Event()
    insert = SpoolFile.insert

    def full(self, pending):
        if not broken.is_set():
            raise SpoolFullError("full", "", "the disk is full")
        insert(self, pending)

    monkeypatch.setattr(SpoolFile, "insert", full)
    with opened(tmp_path) as spool:
        spool.append(event(0))
        assert not spool.flush(0.1)
        assert spool.stats().failed_commits >= 1
        assert spool.stats().pending == 1
        assert spool.crash is None
        broken.set()
        assert spool.flush(10)
        assert drained(spool) == ["run-0"]


def test_sqlites_own_full_error_changes_nothing_and_ends(tmp_path):
    file = SpoolFile(tmp_path / "spool.sqlite", MIB)
    file._db.execute("PRAGMA max_page_count = 20").fetchall()
    with pytest.raises(SpoolFullError):
        file.insert([Pending(event(n, size=4000), 0.0, 0.0) for n in range(100)])
    assert file.counts() == (0, 0)
    file.insert([Pending(event(0), 0.0, 0.0)])
    assert file.counts() == (1, 0)
    file.close()


def test_a_failing_disk_is_a_crash_for_the_supervisor(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_value))
    with opened(tmp_path) as spool:
        spool._file._db.execute("DROP TABLE event")
        spool.append(event(0))
        assert not spool.flush(10)
        spool._writer.join(10)
        assert isinstance(spool.crash, SpoolError)
        assert str(tmp_path) in spool.crash.what
        assert seen == [spool.crash]


def test_closing_commits_what_waits_and_refuses_what_comes_after(tmp_path):
    with opened(tmp_path, commit_interval_s=60) as spool:
        spool.append(event(0))
    spool.append(event(1))
    assert spool.stats().refused == {"closed": 1}
    with opened(tmp_path) as spool:
        assert drained(spool) == ["run-0"]


def test_group_commit_waits_for_its_interval_or_its_number(tmp_path):
    with opened(tmp_path, commit_interval_s=60, commit_events=3) as spool:
        commits = []
        insert = spool._file.insert
        spool._file.insert = lambda pending: (commits.append(len(pending)), insert(pending))
        for number in range(3):
            spool.append(event(number))
        with spool._ready:
            assert spool._ready.wait_for(lambda: spool._committed == 3, 10)
        spool.append(event(3))
        assert spool.flush(10)
        assert commits == [3, 1]


def test_settings_of_the_file(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 1)
        ask = spool._file._one
        assert ask("PRAGMA journal_mode") == "wal"
        assert ask("PRAGMA synchronous") == 2
        assert ask("PRAGMA auto_vacuum") == 2
        assert ask("PRAGMA wal_autocheckpoint") == 128
        assert ask("PRAGMA max_page_count") == 16 * MIB // 4096
        assert ask("PRAGMA user_version") == SCHEMA


def test_the_file_shrinks_after_an_outage_and_the_journal_stays_small(tmp_path):
    with opened(tmp_path, max_bytes=64 * MIB) as spool:
        for number in range(3000):
            spool.append(event(number, size=4000))
            if number % 300 == 0:
                assert spool.flush(20)
        assert spool.flush(20)
        assert (tmp_path / "spool.sqlite-wal").stat().st_size < 3 * MIB
        before = spool._file._one("PRAGMA page_count")
        drained(spool, 1000)
        for number in range(5):
            filled(spool, 1, run=f"later{number}")
            drained(spool)
        assert spool._file._one("PRAGMA page_count") < before / 2


def test_stats_do_not_wait_for_a_hanging_disk(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 2)
        with spool._disk:
            assert spool.stats().depth == 2


def test_counting_at_start_reads_an_index_and_no_bodies(tmp_path):
    with opened(tmp_path) as spool:
        plan = spool._file._db.execute("EXPLAIN QUERY PLAN SELECT COUNT(*) FROM event").fetchall()
        assert "COVERING INDEX event_by_class" in str(plan)


def test_classes_are_kept_for_who_must_choose(tmp_path):
    with opened(tmp_path) as spool:
        for number, kind in enumerate(["detection", "source.state", "gap"]):
            spool.append(event(number, kind=kind))
        assert spool.flush(10)
        rows = spool._file._db.execute("SELECT class, subject FROM event ORDER BY seq").fetchall()
        assert rows == [(0, "door"), (1, "door"), (2, "door")]


def test_garbage_in_place_of_the_file_is_named(tmp_path):
    (tmp_path / "spool.sqlite").write_bytes(b"no database at all" * 1000)
    with pytest.raises(SpoolError, match="not a database") as caught, opened(tmp_path):
        pass
    assert "move it away" in caught.value.remedy
    (tmp_path / "spool.sqlite").unlink()
    with opened(tmp_path):  # the lock was let go
        pass


def test_a_newer_schema_is_left_alone(tmp_path):
    with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    with pytest.raises(SpoolError, match="newer version"), opened(tmp_path):
        pass


def test_a_missing_folder_and_a_tiny_bound_are_named(tmp_path):
    with pytest.raises(SpoolError, match="No such file"), opened(tmp_path / "missing"):
        pass
    with pytest.raises(ConfigError, match=r"spool\.max_bytes"), opened(tmp_path, max_bytes=1000):
        pass
