"""The spool on real SQLite files: durable, bounded, in order, numbered, and the same bytes on every retry."""

import hashlib
import json
import sqlite3
import threading
import time
from contextlib import contextmanager

import pytest

from agent.errors import ConfigError, SpoolError
from agent.report import sealing
from agent.report.age import Mark
from agent.report.inspection import Inspection
from agent.report.spool import Spool, SpoolFullError
from agent.report.spool_db import APPLICATION_ID, PAGE, SCHEMA, Database
from agent.report.spool_file import SpoolFile
from agent.report.spool_records import Pending
from tests.helpers.events import event
from tests.helpers.live_spools import SetClocks, drain, events_of, open_file, open_spool

MIB = 1024 * 1024


@contextmanager
def opened(folder, **options):
    spool = open_spool(folder / "spool.sqlite", **options)
    try:
        yield spool
    finally:
        spool.close()


def filled(spool, count, **options):
    for number in range(count):
        spool.append(event(number, **options))
    assert spool.flush(10)


def ids(events):
    return [one["id"] for one in events]


def numbers(events):
    return [int(one["sequence"]) for one in events]


def gaps(events):
    return [one["data"] for one in events if one["type"] == "gap"]


def names(count, run="run"):
    return [f"{run}-{number}" for number in range(count)]


def inner(spool) -> SpoolFile:
    return spool._store._file


# In and out ---------------------------------------------------------------------------------------------------


def test_appended_events_come_out_in_order_once_and_numbered(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 250)
        assert spool.depth == 250
        found = drain(spool)
        assert ids(found) == names(250)
        assert numbers(found) == list(range(1, 251))
        assert drain(spool) == []
        stats = spool.stats()
        assert (stats.depth, stats.pending, stats.appended, stats.committed, stats.acked) == (0, 0, 250, 250, 250)
        assert (stats.sequence, stats.dead, stats.evicted, stats.lost, stats.refused) == (250, 0, 0, {}, {})
        assert stats.oldest_age_s is None
        assert stats.commit.count >= 1


def test_the_sequence_goes_on_after_a_restart_and_a_drained_spool(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 3)
        assert numbers(drain(spool)) == [1, 2, 3]
    for start in (4, 6):
        with opened(tmp_path) as spool:
            filled(spool, 2)
            assert numbers(drain(spool)) == [start, start + 1]


@pytest.mark.parametrize("format_", ["cloudevents", "json", "ndjson"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_batch_is_what_the_format_says_and_its_id_its_hash(tmp_path, format_, compression):
    with opened(tmp_path, format=format_, compression=compression) as spool:
        filled(spool, 3)
        batch = spool.seal(10, 0)
        plain = sealing.plain_of(batch.body, batch.encoding)
        assert batch.id == hashlib.sha256(plain).hexdigest()
        assert batch.encoding == {"gzip": "gzip", "none": ""}[compression]
        if format_ == "ndjson":
            assert (batch.content_type, plain.count(b"\n"), plain[-1:]) == ("application/x-ndjson", 3, b"\n")
            assert [json.loads(line)["id"] for line in plain.splitlines()] == names(3)
        else:
            assert batch.content_type == {"json": "application/json",
                                          "cloudevents": "application/cloudevents-batch+json"}[format_]
            assert ids(json.loads(plain)) == names(3)
        assert (batch.events, batch.first_seq, batch.last_seq) == (3, 1, 3)


def test_a_sealed_batch_is_the_same_after_more_events_and_a_restart(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 10)
        first = spool.seal(4, 0)
        filled(spool, 5, run="more")
        assert spool.seal(100, 0) == first
    with opened(tmp_path) as spool:
        assert spool.seal(100, 0) == first
        assert spool.depth == 15


def test_a_batch_sealed_in_another_format_than_is_configured_now_is_sealed_again(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 10)
        spool.split(spool.seal(8, 0))
    with opened(tmp_path, format="ndjson", compression="none") as spool:
        again = spool.seal(100, 0)
        assert (again.content_type, again.encoding, again.events) == ("application/x-ndjson", "", 10)
        assert ids(events_of(again)) == names(10)


def test_a_batch_waits_to_be_full_or_old(tmp_path):
    box = SetClocks()
    with opened(tmp_path, clocks=box) as spool:
        assert spool.seal(4, 5) is None
        filled(spool, 3)
        assert spool.seal(4, 5) is None
        box.pass_(4.9)
        assert spool.seal(4, 5) is None
        assert spool.stats().oldest_age_s == pytest.approx(4.9, abs=0.2)
        box.pass_(0.2)
        batch = spool.seal(4, 5)
        assert batch.events == 3
        assert spool.stats().oldest_age_s == pytest.approx(5.1, abs=0.2)
        spool.ack(batch)
        filled(spool, 4)
        assert spool.seal(4, 5).events == 4


def test_a_batch_never_passes_its_bytes(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        filled(spool, 8, size=30_000)
        sizes = []
        while batch := spool.seal(100, 0):
            sizes.append(len(sealing.plain_of(batch.body, batch.encoding)))
            spool.ack(batch)
        assert len(sizes) > 1
        assert max(sizes) <= MIB // 8 + 2


def test_group_commit_waits_for_its_interval_or_its_number(tmp_path):
    with opened(tmp_path, commit_interval_s=60, commit_events=3) as spool:
        commits = []
        commit = spool._store.commit
        spool._store.commit = lambda group, gaps: (commits.append(len(group)), commit(group, gaps))
        for number in range(3):
            spool.append(event(number))
        deadline = time.monotonic() + 10
        while spool.stats().committed < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        spool.append(event(3))
        assert spool.flush(10)
        assert commits == [3, 1]


def test_closing_commits_what_waits_and_refuses_what_comes_after(tmp_path):
    with opened(tmp_path, commit_interval_s=60) as spool:
        spool.append(event(0))
    spool.append(event(1))
    assert spool.stats().refused == {"closed": 1}
    with opened(tmp_path) as spool:
        assert ids(drain(spool)) == ["run-0"]


def test_an_acknowledgement_seals_the_next_batch_if_it_is_full(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 7)
        spool.ack(spool.seal(3, 0), 3)
        assert spool._store.levels.sealed == 3
        batch = spool.seal(100, 0)
        assert ids(events_of(batch)) == names(7)[3:6]
        spool.ack(batch, 3)
        assert spool._store.levels.sealed == 0
        assert ids(drain(spool)) == ["run-6"]


# Bounds and gaps ----------------------------------------------------------------------------------------------


def test_over_its_bound_the_oldest_go_and_one_gap_says_which(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        for number in range(2000):
            spool.append(event(number, size=1000))
            if number % 200 == 0:
                assert spool.flush(10)
        assert spool.flush(10)
        stats = spool.stats()
        assert (tmp_path / "spool.sqlite").stat().st_size <= MIB
        assert stats.evicted > 1000
        found = drain(spool, 32)
    (gap,) = gaps(found)
    kept = [one for one in found if one["type"] != "gap"]
    assert ids(kept) == names(2000)[-len(kept):]  # the newest, without a hole
    missing = set(range(1, stats.sequence + 1)) - set(numbers(found))
    assert gap["reason"] == "spool_full"
    assert gap["count"] == len(missing) == stats.evicted == 2000 - len(kept)
    assert (gap["first"], gap["last"]) == (min(missing), max(missing))
    assert gap["types"] == {"detection": len(missing)}
    assert stats.lost == {"spool_full": len(missing)}


def test_the_least_important_goes_first_whatever_its_age(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        for number, kind in enumerate(["update.outcome", "watermark.identified", "source.state", "budget.step", "strange"]):
            spool.append(event(number, kind=kind, run="first"))
        for number in range(1200):
            spool.append(event(number, size=1000))
            if number % 100 == 0:
                assert spool.flush(10)
        assert spool.flush(10)
        found = drain(spool)
        assert spool.stats().evicted > 0
    assert ids(found)[:5] == names(5, "first")
    assert gaps(found)[0]["types"] == {"detection": spool.stats().evicted}


def test_among_the_more_important_the_middle_class_goes_before_the_upper(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        for number in range(800):
            spool.append(event(number, size=1000, kind="source.state" if number % 3 else "watermark.identified"))
            if number % 50 == 0:
                assert spool.flush(10)
        assert spool.flush(10)
        kinds = [one["type"] for one in drain(spool)]
        assert kinds.count("watermark.identified") == 267
        assert 0 < kinds.count("source.state") < 533


def test_a_new_event_never_pushes_out_what_is_more_important_than_itself(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        number = 0
        while not spool.stats().evicted:
            filled(spool, 10, size=1000, kind="watermark.identified", run=f"mark{number}")
            number += 1
        before = spool.stats().evicted
        spool.append(event(0, run="least", size=60_000))
        assert spool.flush(10)
        assert spool.stats().evicted == before + 1
        found = drain(spool)
    assert "least-0" not in ids(found)
    evicted, left_out = gaps(found)
    assert (evicted["types"], evicted["count"]) == ({"watermark.identified": before}, before)
    assert (left_out["types"], left_out["count"], left_out["first"]) == ({"detection": 1}, 1, None)
    assert numbers(found)[-1] == spool.stats().sequence == number * 10 + 2  # the detection never had a number


def test_what_is_never_evicted_stays(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        filled(spool, 100, size=1000, kind="update.outcome")
        for number in range(1500):
            spool.append(event(number, size=1000, run="many"))
            if number % 100 == 0:
                assert spool.flush(10)
        assert spool.flush(10)
        kinds = [one["type"] for one in drain(spool)]
        assert kinds.count("update.outcome") == 100
        assert kinds.count("gap") == 1


def test_a_gap_that_was_sealed_is_followed_by_another(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        found = []
        for part in range(2):
            for number in range(1200):
                spool.append(event(number, size=1000, run=f"part{part}"))
                if number % 100 == 0:
                    assert spool.flush(10)
            assert spool.flush(10)
            found += drain(spool)
        one, other = gaps(found)
        assert one["count"] + other["count"] == spool.stats().lost["spool_full"]
        assert one["last"] < other["first"]
        missing = set(range(1, spool.stats().sequence + 1)) - set(numbers(found))
        assert len(missing) == one["count"] + other["count"]


def test_what_is_too_old_goes_and_is_declared(tmp_path):
    box = SetClocks()
    with opened(tmp_path, clocks=box, max_age_s=100) as spool:
        filled(spool, 5)
        sealed = spool.seal(2, 0)
        box.pass_(60)
        filled(spool, 3, run="later")
        box.pass_(60)
        found = drain(spool)
    assert ids(found)[:2] == ids(events_of(sealed)) == names(2)  # it is being tried, and may have arrived
    assert ids(found)[2:5] == names(3, "later")
    (gap,) = gaps(found)
    assert (gap["reason"], gap["count"], gap["first"], gap["last"]) == ("max_age", 3, 3, 5)
    assert spool.stats().lost == {"max_age": 3}


def test_the_wall_clock_ages_nothing(tmp_path):
    box = SetClocks()
    with opened(tmp_path, clocks=box, max_age_s=100) as spool:
        filled(spool, 2)
        box.wall += 10 * 365 * 86400
        filled(spool, 1, run="forward")
        box.wall -= 30 * 365 * 86400
        filled(spool, 1, run="back")
        assert ids(drain(spool)) == ["run-0", "run-1", "forward-0", "back-0"]
        assert spool.seal(10, 0) is None


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_time_that_a_box_is_off_counts_only_when_a_time_service_vouches_for_both_ends(tmp_path, before, after):
    """Else a box that ran in 1970 and is set by its network after the next start would drop all that it has."""
    box = SetClocks()
    box.certain = before
    with opened(tmp_path, clocks=box, max_age_s=100) as spool:
        filled(spool, 1)
    box.boot, box.up, box.certain = "c" * 32, 10.0, after
    box.wall += 1000
    with opened(tmp_path, clocks=box, max_age_s=100) as spool:
        found = drain(spool)
        assert [one["type"] for one in found] == (["gap"] if before and after else ["detection"])


def test_a_full_ring_refuses_declares_and_never_waits_for_the_disk(tmp_path):
    with opened(tmp_path, ring_bytes=5000) as spool:
        with spool._store._disk:  # the disk hangs
            for number in range(100):
                spool.append(event(number))
            accepted = spool.stats().appended
            assert spool.stats().refused == {"memory_full": 100 - accepted}
            assert 0 < accepted < 100
            assert not spool.flush(0.05)
        assert spool.flush(10)
        spool.append(event(100))
        assert spool.flush(10)
        found = drain(spool)
    assert [one["id"] for one in found if one["type"] != "gap"] == [*names(accepted), "run-100"]
    (gap,) = gaps(found)
    assert (gap["reason"], gap["count"], gap["first"]) == ("memory_full", 100 - accepted, None)
    assert numbers(found) == list(range(1, accepted + 3))  # what was refused never had a number


def test_a_gap_event_that_was_sent_is_never_rewritten(tmp_path):
    """It may have arrived: another version of it under the same id would be taken for the same."""
    box = SetClocks()
    with opened(tmp_path, clocks=box, max_age_s=100) as spool:
        filled(spool, 2)
        box.pass_(200)
        spool._store.tend()
        sent = events_of(spool.seal(10, 0))
    with opened(tmp_path, clocks=box, max_age_s=100, format="ndjson") as spool:  # so its batch is taken apart
        filled(spool, 1, run="later")
        assert spool._store.use(SpoolFile.sealed) is None
        box.pass_(200)
        spool._store.tend()
        found = drain(spool)
    assert found[0] == sent[0]
    assert [gap["count"] for gap in gaps(found)] == [2, 1]


# Splitting and burying ----------------------------------------------------------------------------------------


def test_a_split_batch_becomes_two_halves_that_last(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 7)
        whole = spool.seal(5, 0)
        spool.split(whole)
        first = spool.seal(5, 0)
        assert ids(events_of(first)) == names(2)
        assert (first.first_seq, first.last_seq, first.events) == (1, 2, 2)
        assert first.id != whole.id
    with opened(tmp_path) as spool:
        assert spool.depth == 7
        assert spool.seal(5, 0) == first
        assert ids(drain(spool)) == names(7)


def test_a_buried_event_leaves_the_queue_and_is_declared(tmp_path):
    with opened(tmp_path, max_dead=1) as spool:
        filled(spool, 3)
        assert spool.bury(spool.seal(1, 0), "HTTP 400: batch refused")
        assert not spool.bury(spool.seal(1, 0), "another")
        stats = spool.stats()
        assert (stats.dead, stats.depth, stats.lost) == (1, 3, {})
        found = drain(spool)
    assert numbers(found) == [2, 3, 4]
    (gap,) = gaps(found)
    assert (gap["reason"], gap["first"], gap["last"], gap["count"]) == ("dead_letter", 1, 1, 1)
    assert gap["detail"] == "HTTP 400: batch refused"
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        row = db.execute("SELECT seq, id, type, why, body FROM dead").fetchone()
    db.close()
    assert row[:4] == (1, "run-0", "detection", "HTTP 400: batch refused")
    assert json.loads(row[4])["sequence"] == "000000000001"


def test_a_dead_letter_put_back_by_another_process_goes_out_under_its_number(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 2)
        spool.bury(spool.seal(1, 0), "why")
        drain(spool)
        with sqlite3.connect(tmp_path / "spool.sqlite") as db:
            db.execute("INSERT INTO event SELECT seq, id, 0, subject, type, created, body FROM dead")
            db.execute("DELETE FROM dead")
        db.close()
        spool._store.tend()
        assert (spool.depth, spool.stats().dead) == (1, 0)
        assert numbers(drain(spool)) == [1]
        filled(spool, 1, run="next")
        assert numbers(drain(spool)) == [4]


# Faults -------------------------------------------------------------------------------------------------------


def test_a_run_that_did_not_end_well_is_declared_by_the_next(tmp_path):
    file = open_file(tmp_path / "spool.sqlite")
    file.commit([Pending(event(0), time.monotonic())])
    file.db.close()  # without end(): killed
    with opened(tmp_path) as spool:
        found = drain(spool)
    (gap,) = gaps(found)
    assert (gap["reason"], gap["count"], gap["first"]) == ("unclean_stop", None, None)
    assert numbers(found) == [1, 2]
    with opened(tmp_path) as spool:
        assert drain(spool) == []


def test_what_does_not_fit_the_disk_stays_in_memory_until_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.report.spool._RETRY_S", 0.01)
    broken = threading.Event()
    commit = SpoolFile.commit

    def full(self, *args):
        if not broken.is_set():
            raise SpoolFullError("full", "", "the disk is full")
        return commit(self, *args)

    monkeypatch.setattr(SpoolFile, "commit", full)
    with opened(tmp_path) as spool:
        spool.append(event(0))
        assert not spool.flush(0.1)
        assert spool.stats().failed_commits >= 1
        assert spool.stats().pending == 1
        assert spool.stuck == "the disk is full"
        assert spool.crash is None
        broken.set()
        assert spool.flush(10)
        assert ids(drain(spool)) == ["run-0"]
        assert not spool.stuck


def test_sqlites_own_full_error_changes_nothing_and_ends(tmp_path):
    file = open_file(tmp_path / "spool.sqlite", max_bytes=MIB)
    file.room.limit = 10 * MIB  # so that it does not evict
    with pytest.raises(SpoolFullError):
        file.commit([Pending(event(n, size=8000), time.monotonic()) for n in range(200)])
    assert (file.levels().unsealed, file.levels().last) == (0, 0)
    file.commit([Pending(event(0), time.monotonic())])
    assert (file.levels().unsealed, file.levels().last) == (1, 1)
    file.db.close()


def test_a_failing_disk_is_a_crash_for_the_supervisor(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_value))

    def fail(*_):
        raise SpoolError(f"{tmp_path}: disk I/O error", "check the disk")

    with opened(tmp_path) as spool:
        monkeypatch.setattr(SpoolFile, "commit", fail)
        spool.append(event(0))
        assert not spool.flush(10)
        spool._writer.join(10)
        assert isinstance(spool.crash, SpoolError)
        assert str(tmp_path) in spool.crash.what
        assert seen == [spool.crash]


def test_garbage_in_place_of_the_file_is_set_aside_and_the_sequence_goes_on(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 5)
        drain(spool)
    (tmp_path / "spool.sqlite").write_bytes(b"no database at all" * 1000)
    with opened(tmp_path) as spool:
        (name,) = spool.stats().set_aside
        assert (tmp_path / name).read_bytes().startswith(b"no database")
        filled(spool, 1)
        found = drain(spool)
    (gap,) = gaps(found)
    assert gap["reason"] == "spool_reset"
    assert gap["count"] is None
    assert gap["first"] <= 6 <= gap["last"]
    assert name in gap["detail"]
    assert numbers(found) == [gap["last"] + 1, gap["last"] + 2]


@pytest.mark.parametrize("change", [f"PRAGMA user_version = {SCHEMA + 1}", f"PRAGMA application_id = {APPLICATION_ID + 1}"])
def test_a_file_of_another_version_or_application_is_set_aside_whole(tmp_path, change):
    with opened(tmp_path) as spool:
        filled(spool, 2)
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute(change)
    db.close()
    with opened(tmp_path) as spool:
        (name,) = spool.stats().set_aside
        assert gaps(drain(spool))[0]["reason"] == "spool_reset"
    with sqlite3.connect(tmp_path / name) as db:
        assert db.execute("SELECT COUNT(*) FROM event").fetchone() == (2,)
    db.close()


def test_a_file_damaged_while_in_use_is_replaced_and_events_go_on(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 3)
        batch = spool.seal(1, 0)
        inner(spool).db.execute("DROP TABLE event")
        spool.append(event(7, run="after"))
        assert spool.flush(10)
        spool.ack(batch)  # of the old file: it is gone, and no batch of the new one is touched
        found = drain(spool)
        assert len(spool.stats().set_aside) == 1
    (gap,) = gaps(found)
    assert (gap["reason"], gap["first"], gap["last"]) == ("spool_reset", 1, 3)
    assert ids(found)[-1] == "after-7"
    assert numbers(found) == [4, 5]


def test_an_event_damaged_on_the_disk_goes_aside_alone(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 5)
        inner(spool).db.execute("UPDATE event SET body = substr(body, 1, 20) || x'00' || substr(body, 22) WHERE seq = 3")
        found = drain(spool)
        assert spool.stats().dead == 1
    assert numbers(found) == [1, 2, 4, 5, 6]
    assert (gaps(found)[0]["reason"], gaps(found)[0]["first"]) == ("dead_letter", 3)


def test_a_batch_damaged_on_the_disk_goes_aside_alone(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 20)
        spool.seal(5, 0)
        inner(spool).db.execute("UPDATE batch SET body = CAST(substr(body, 1, 60) || x'00' || substr(body, 62) AS BLOB)")
        found = drain(spool)
        assert (spool.stats().dead, spool.depth, spool.stats().set_aside) == (1, 0, ())
    (gap,) = gaps(found)
    assert (gap["reason"], gap["first"], gap["last"], gap["count"]) == ("dead_letter", 1, 5, 5)
    assert numbers(found) == list(range(6, 22))


def test_a_batch_whose_compression_is_no_longer_installed_is_sent_as_it_is(tmp_path, monkeypatch):
    pytest.importorskip("zstandard", reason="needs the package zstandard: pip install -e '.[dev]'")
    with opened(tmp_path, compression="zstd") as spool:
        filled(spool, 4)
        sealed = spool.seal(4, 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with opened(tmp_path) as spool:
        assert spool.seal(4, 0) == sealed
        with pytest.raises(SpoolFullError, match="package is not installed"):
            spool.split(sealed)
        assert spool.depth == 4


def test_a_spool_that_vanished_while_the_agent_was_stopped_is_declared(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 5)
    (tmp_path / "spool.sqlite").unlink()
    with opened(tmp_path) as spool:
        found = drain(spool)
    (gap,) = gaps(found)
    assert (gap["reason"], gap["first"], gap["count"]) == ("spool_reset", 1, None)
    assert gap["last"] >= 5
    assert numbers(found) == [gap["last"] + 1]


def test_a_fresh_file_that_was_never_begun_is_still_declared(tmp_path):
    """As a crash, or a full disk, between making it and its first commit leaves it."""
    with opened(tmp_path) as spool:
        filled(spool, 5)
    (tmp_path / "spool.sqlite").unlink()
    Database(tmp_path / "spool.sqlite", MIB).close()
    with opened(tmp_path) as spool:
        assert gaps(drain(spool))[0]["reason"] == "spool_reset"


def test_no_number_is_given_that_is_not_marked_before(tmp_path):
    """Whoever gives it: events, gaps of buried letters, a reset's own gap."""
    with opened(tmp_path) as spool:
        mark = spool._store._mark
        filled(spool, 1)
        mark.mark = Mark(reached=5, kept=1)
        filled(spool, 20)
        assert mark.mark.reached >= 21
        mark.mark = Mark(reached=21, kept=1)
        for _ in range(20):
            spool.bury(spool.seal(1, 0), "no")
        assert spool.stats().sequence == 41
        assert mark.mark.reached >= 41
        mark.reserve(mark.mark.reached + 1, spool._store.levels.kept)
        assert mark.mark.kept == spool._store.levels.kept > 1
    (tmp_path / "spool.sqlite").write_bytes(b"garbage" * 1000)
    with opened(tmp_path) as spool:
        assert spool._store._mark.mark.reached > spool.stats().sequence


def test_a_batch_of_the_file_before_is_not_taken_for_one_of_this(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 2)
        old = spool.seal(2, 0)
        inner(spool).db.execute("DROP TABLE event")
        filled(spool, 2, run="new")
        new = spool.seal(10, 0)
        assert (old.n, old.id != new.id) == (new.n, True)
        spool.ack(old)
        assert spool.seal(10, 0) == new


def test_a_transaction_that_fails_changes_no_figure(tmp_path, monkeypatch):
    with opened(tmp_path) as spool:
        filled(spool, 4)
        batch = spool.seal(4, 0)
        before = spool._store.levels
        monkeypatch.setattr(sealing, "encode_again", lambda *_: (_ for _ in ()).throw(SpoolFullError("full", "", "the disk is full")))
        with pytest.raises(SpoolFullError):
            spool.split(batch)
        spool._store.tend()
        assert spool._store.levels == before


def test_dead_letters_have_a_bound_of_bytes_too(tmp_path):
    with opened(tmp_path, max_bytes=MIB) as spool:
        filled(spool, 3, size=30_000)
        assert spool.bury(spool.seal(1, 0), "no")
        assert spool.bury(spool.seal(1, 0), "no")
        assert not spool.bury(spool.seal(1, 0), "no")


def test_a_dead_letter_that_is_put_back_does_not_go_at_once_because_it_is_old(tmp_path):
    with opened(tmp_path, max_age_s=3600) as spool:
        filled(spool, 3)
        spool.bury(spool.seal(1, 0), "no")
        drain(spool)
        inner(spool).db.execute("UPDATE dead SET created = created - 1e6, buried = buried - 1e6")
        with Inspection(tmp_path / "spool.sqlite", writing=True) as command:
            assert command.retry_dead(None) == ["run-0"]
        assert spool._store.tend() is False
        assert ids(drain(spool)) == ["run-0"]


def test_a_dead_letters_gap_is_remembered_for_as_long_as_it_may_come_again(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 3)
        spool.bury(spool.seal(1, 0), "no")
        drain(spool)
        rows = inner(spool).db.execute("SELECT reason, first FROM gap").fetchall()
    assert rows == [("dead_letter", 1)]


def test_what_could_not_be_declared_is_declared_later(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.report.spool._RETRY_S", 0.01)
    with opened(tmp_path, ring_bytes=3000) as spool:
        with spool._store._disk:
            for number in range(60):
                spool.append(event(number))
        broken, commit = threading.Event(), SpoolFile.commit

        def full(self, *args):
            if not broken.is_set():
                raise SpoolFullError("full", "", "the disk is full")
            return commit(self, *args)

        monkeypatch.setattr(SpoolFile, "commit", full)
        spool.append(event(60))
        assert not spool.flush(0.1)
        broken.set()
        deadline = time.monotonic() + 10
        while not spool.stats().lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert spool.stats().lost == {"memory_full": sum(spool.stats().refused.values())}


def test_closed_while_stuck_says_that_it_did_not_end_well(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.report.spool._RETRY_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(SpoolFile, "commit", lambda *_: (_ for _ in ()).throw(SpoolFullError("full", "", "the disk is full")))
        with opened(tmp_path) as spool:
            spool.append(event(0))
    with opened(tmp_path) as spool:
        assert [gap["reason"] for gap in gaps(drain(spool))] == ["unclean_stop"]


def test_much_that_is_too_old_goes_step_by_step(tmp_path):
    box = SetClocks()
    with opened(tmp_path, clocks=box, max_age_s=100) as spool:
        filled(spool, 3000)
        box.pass_(200)
        assert spool._store.tend()
        assert 0 < spool.depth < 3000 or spool.stats().evicted >= 256
        deadline = time.monotonic() + 10
        while spool.stats().evicted < 3000 and time.monotonic() < deadline:
            spool._store.tend()
        assert spool.stats().lost == {"max_age": 3000}
        assert [gap["count"] for gap in gaps(drain(spool))] == [3000]


def test_a_file_deleted_under_the_agent_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.report.spool._UPKEEP_S", 0.01)
    with opened(tmp_path) as spool:
        filled(spool, 2)
        (tmp_path / "spool.sqlite").unlink()
        deadline = time.monotonic() + 10
        while not spool.stats().set_aside and time.monotonic() < deadline:
            time.sleep(0.02)
        filled(spool, 1, run="after")
        found = drain(spool)
    assert (gaps(found)[0]["reason"], gaps(found)[0]["last"]) == ("spool_reset", 2)
    assert numbers(found) == [3, 4]
    assert (tmp_path / "spool.sqlite").is_file()


def test_only_the_newest_files_set_aside_stay(tmp_path):
    for _ in range(5):
        (tmp_path / "spool.sqlite").write_bytes(b"garbage" * 100)
        with opened(tmp_path):
            pass
    assert len(list(tmp_path.glob("spool.sqlite.bad-*"))) == 3


def test_a_missing_folder_and_a_tiny_bound_are_named(tmp_path):
    with pytest.raises(SpoolError, match="No such file"), opened(tmp_path / "missing"):
        pass
    with pytest.raises(ConfigError, match=r"spool\.max_bytes"), opened(tmp_path, max_bytes=1000):
        pass


# The file -----------------------------------------------------------------------------------------------------


def test_settings_of_the_file(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 1)
        ask = inner(spool).db.one
        assert ask("PRAGMA journal_mode") == "wal"
        assert ask("PRAGMA synchronous") == 2
        assert ask("PRAGMA auto_vacuum") == 2
        assert ask("PRAGMA wal_autocheckpoint") == 128
        assert ask("PRAGMA page_size") == PAGE
        assert ask("PRAGMA max_page_count") == 16 * MIB // PAGE
        assert (ask("PRAGMA user_version"), ask("PRAGMA application_id")) == (SCHEMA, APPLICATION_ID)


def test_the_file_shrinks_after_an_outage_and_the_journal_stays_small(tmp_path):
    with opened(tmp_path, max_bytes=64 * MIB) as spool:
        for number in range(3000):
            spool.append(event(number, size=4000))
            if number % 300 == 0:
                assert spool.flush(20)
        assert spool.flush(20)
        assert (tmp_path / "spool.sqlite-wal").stat().st_size < 3 * MIB
        before = inner(spool).db.one("PRAGMA page_count")
        drain(spool, 1000)
        for number in range(5):
            filled(spool, 1, run=f"later{number}")
            drain(spool)
        assert inner(spool).db.one("PRAGMA page_count") < before / 2


def test_stats_do_not_wait_for_a_hanging_disk(tmp_path):
    with opened(tmp_path) as spool:
        filled(spool, 2)
        with spool._store._disk:
            assert spool.stats().depth == 2


def test_counting_at_start_reads_an_index_and_no_bodies(tmp_path):
    with opened(tmp_path) as spool:
        plan = inner(spool).db.execute("EXPLAIN QUERY PLAN SELECT COUNT(*) FROM event").fetchall()
        assert "COVERING INDEX event_by_class" in str(plan)


def test_classes_are_kept_for_who_must_choose(tmp_path):
    with opened(tmp_path) as spool:
        kinds = ["detection", "source.state", "budget.step", "watermark.identified", "gap", "update.outcome"]
        for number, kind in enumerate(kinds):
            spool.append(event(number, kind=kind))
        assert spool.flush(10)
        rows = inner(spool).db.execute("SELECT class, type, subject FROM event ORDER BY seq").fetchall()
        assert rows == list(zip([0, 1, 1, 2, 3, 3], kinds, ["door"] * 6, strict=True))


def test_the_spool_is_a_context_manager_that_lets_go(tmp_path):
    with open_spool(tmp_path / "spool.sqlite") as spool:
        assert isinstance(spool, Spool)
    with open_spool(tmp_path / "spool.sqlite"):
        pass
