"""What power cuts, bad flash and people do to the spool's files: it always opens, and what it gives is what it took."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from agent.errors import SpoolError
from agent.report import sealing
from agent.report.spool_db import _CHECKPOINT_PAGES, PAGE, SCHEMA
from agent.report.spool_records import Pending
from tests.helpers.events import event
from tests.helpers.live_spools import drain, events_of, open_file, open_spool

SEEDS = range(4)
CASES = 90  # of each seed
FRAME = PAGE + 24
# A process writes commits of random sizes, tells each and waits for leave to go on; it is killed with a long journal.
WRITER = """
import random, sys
from pathlib import Path
from tests.helpers.live_spools import open_file
from tests.integration.test_spool_damage import pending
file, rng, last = open_file(Path(sys.argv[1])), random.Random(int(sys.argv[2])), 0
while True:
    group = [pending(last + n) for n in range(1, rng.choice((1, 2, 7, 40)) + 1)]
    file.commit(group)
    last += len(group)
    print(last, flush=True)
    sys.stdin.readline()
"""


def pending(number):
    return Pending(event(number, size=number * 37 % 900), time.monotonic())


def body_of(number):
    return sealing.numbered(pending(number).event.body, number)


def killed(folder, seed):
    """Return the file of a killed writer and the sequences at which its commits ended."""
    path = folder / "spool.sqlite"
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(seed)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    ends = [0]
    while True:
        ends.append(int(child.stdout.readline()))
        # A journal that was folded in already is not what a power cut tears: it was on the disk before.
        if len(ends) > 40 + 10 * seed and 0.7 * _CHECKPOINT_PAGES < live(path) // FRAME < _CHECKPOINT_PAGES:
            break
        child.stdin.write("on\n")
        child.stdin.flush()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    return path, ends


def live(path):
    """Return how many bytes of the journal count: frames with the salt of its header (fileformat2.html, 4.1)."""
    try:
        content = path.with_name("spool.sqlite-wal").read_bytes()
    except FileNotFoundError:
        return 0
    end = 32
    while content[end + 8:end + 16] == content[16:24] and end + FRAME <= len(content):
        end += FRAME
    return end


def copied(path, folder):
    folder.mkdir()
    for suffix in ("", "-wal", ".mark"):
        if (found := path.with_name(path.name + suffix)).exists():
            shutil.copy(found, folder)
    return folder / path.name


def harm(path, rng):
    """Tear, flip or zero the tail of a file's journal, or a part of it; return what was done."""
    wal, end = path.with_name("spool.sqlite-wal"), live(path)
    content = bytearray(wal.read_bytes())
    start = end - 1 - rng.randrange(end if rng.random() < 0.7 else end // 8)
    length = rng.choice((1, 8, 512, 4096, len(content)))
    end = min(len(content), start + length)
    kind = rng.choice(("torn", "flipped", "zeroed", "noise"))
    if kind == "torn":
        del content[start:]
    elif kind == "flipped":
        content[start] ^= 1 << rng.randrange(8)
    elif kind == "zeroed":
        content[start:end] = bytes(end - start)
    else:
        content[start:end] = rng.randbytes(end - start)
    wal.write_bytes(content)
    return f"{kind} at {start} for {end - start}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_harmed_journal_gives_an_exact_prefix_of_what_was_committed(tmp_path, seed):
    path, ends = killed(tmp_path, seed)
    rng, kept = random.Random(seed), set()
    for case in range(CASES):
        copy = copied(path, tmp_path / str(case))
        told = f"seed {seed}, case {case}: {harm(copy, rng)}"
        file = open_file(copy)
        rows = file.db.execute("SELECT seq, type, body FROM event ORDER BY seq").fetchall()
        found = [row for row in rows if row[1] != "gap"]
        last = len(found)
        assert found == [(n, "detection", body_of(n)) for n in range(1, last + 1)], told
        assert last in ends, told
        assert [row[0] for row in rows] == list(range(1, last + 2)), told  # the gap: this start came after a kill
        file.commit([Pending(event(5000, run="after"), time.monotonic())])
        sealed = file.seal(10_000)
        assert events_of(sealed)[-1] == {**events_of(sealed)[-1], "id": "after-5000", "sequence": f"{last + 2:012}"}, told
        file.db.close()
        check = sqlite3.connect(copy)
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",), told
        check.close()
        kept.add(last)
        shutil.rmtree(copy.parent)
    assert len(kept) > 5  # the harm was felt


def filled(path, count=300):
    """Write a spool, closed well, with batches sealed and not."""
    with open_spool(path) as spool:
        for number in range(1, count + 1):
            spool.append(event(number, size=number * 37 % 900))
        assert spool.flush(10)
        spool.ack(spool.seal(20, 0))
        spool.seal(20, 0)
    return path


def bodies(spool):
    """Take everything out without reading it: a flipped bit in a body is nobody's to find."""
    found = []
    while batch := spool.seal(50, 0):
        found.append(batch)
        spool.ack(batch)
    return found


def lives(path):
    """Open, take everything out, write, take that out; return what was set aside and the events of the last batch."""
    with open_spool(path, run="second") as spool:
        bodies(spool)
        spool.append(event(1, run="after"))
        assert spool.flush(10)
        last = drain(spool)
        assert [one["id"] for one in last if one["type"] != "gap"] == ["after-1"]
        return spool.stats().set_aside, spool.stats().sequence


def resets(path, **options):
    """Return the ``spool_reset`` gaps that the next run sends."""
    with open_spool(path, run="second", **options) as spool:
        return [one["data"] for one in drain(spool) if one["type"] == "gap" and one["data"]["reason"] == "spool_reset"]


@pytest.mark.slow
def test_harmed_pages_are_read_or_set_aside_but_never_a_crash(tmp_path):
    good = filled(tmp_path / "good.sqlite")
    outcomes = set()
    for seed in range(120):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        path = folder / "spool.sqlite"
        content = bytearray(good.read_bytes())
        for _ in range(rng.choice((1, 4, 30, 300))):
            content[rng.randrange(len(content) if rng.random() < 0.7 else 8192 * 6)] = rng.randrange(256)
        path.write_bytes(content)
        shutil.copy(good.with_name("good.sqlite.mark"), folder / "spool.sqlite.mark")
        try:
            aside, _ = lives(path)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        assert all((folder / name).exists() for name in aside), f"seed {seed}"
        outcomes.add(bool(aside))
        shutil.rmtree(folder)
    assert outcomes == {False, True}


def test_a_harmed_journal_that_was_folded_in_already_is_read_or_set_aside_but_never_a_crash(tmp_path):
    """No power cut does that, bad flash does: the file may then be newer than what is left of its journal."""
    path = tmp_path / "spool.sqlite"
    file, last = open_file(path), 0
    while live(path) // FRAME < _CHECKPOINT_PAGES:
        file.commit([pending(last + n) for n in range(1, 41)])
        last += 40
    for seed in range(60):
        copy = copied(path, tmp_path / str(seed))
        told = f"seed {seed}: {harm(copy, random.Random(seed))}"
        try:
            aside, _ = lives(copy)
        except Exception as error:
            raise AssertionError(f"{told}: {error!r}") from error
        assert all(copy.with_name(name).exists() for name in aside), told
        shutil.rmtree(copy.parent)
    file.db.close()


def test_files_cut_at_any_length_are_set_aside_kept_and_declared(tmp_path):
    good = filled(tmp_path / "good.sqlite")
    content = good.read_bytes()
    rng = random.Random(7)
    for case, length in enumerate([2, 15, 16, 99, 100, 4096, 8192, *(rng.randrange(len(content)) for _ in range(20))]):
        folder = tmp_path / str(case)
        folder.mkdir()
        path = folder / "spool.sqlite"
        path.write_bytes(content[:length])
        shutil.copy(good.with_name("good.sqlite.mark"), folder / "spool.sqlite.mark")
        aside, sequence = lives(path)
        assert aside, length
        assert path.with_name(aside[0]).stat().st_size >= min(length, PAGE), length
        assert sequence > 300, length


def text(path):
    path.write_text("not a database at all\n" * 100)


def other_application(path):
    db = sqlite3.connect(path)
    db.executescript("PRAGMA application_id = 0x12345678; CREATE TABLE bookmark (url TEXT);")
    db.close()


def newer_schema(path):
    filled(path)
    path.with_name("spool.sqlite.mark").unlink()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()


@pytest.mark.parametrize("make", [text, other_application, newer_schema])
def test_a_file_that_is_no_spool_of_ours_is_set_aside_kept_and_declared(tmp_path, make):
    path = tmp_path / "spool.sqlite"
    make(path)
    before = path.read_bytes()
    (gap,) = resets(path)
    (aside,) = tmp_path.glob("spool.sqlite.bad-*")
    assert aside.read_bytes() == before
    assert aside.name in gap["detail"]
    assert (gap["count"], gap["first"], gap["last"]) == (None, None, None)  # no mark: nobody knows what was in it


@pytest.mark.parametrize("left", [None, b"", b"S"])  # SQLite takes a file of one byte for an empty one
def test_a_file_that_is_gone_or_empty_is_declared_by_its_mark(tmp_path, left):
    path = filled(tmp_path / "spool.sqlite")
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    (gap,) = resets(path)
    assert gap["count"] is None
    assert gap["first"] == 1
    assert gap["last"] >= 300
    with open_spool(path) as spool:
        assert spool.stats().sequence > gap["last"]


def test_an_empty_file_of_a_box_that_never_wrote_is_just_used(tmp_path):
    (tmp_path / "spool.sqlite").write_bytes(b"")
    assert resets(tmp_path / "spool.sqlite") == []


def test_a_folder_in_its_place_is_a_clear_error(tmp_path):
    path = tmp_path / "spool.sqlite"
    path.mkdir()
    with pytest.raises(SpoolError) as caught:
        open_spool(path)
    assert str(path) in caught.value.what
    assert caught.value.remedy
    path.rmdir()
    open_spool(path).close()  # the lock was given back


@pytest.mark.parametrize("instead", [None, text, other_application])
def test_a_file_deleted_or_replaced_while_running_is_noticed_and_declared(tmp_path, instead):
    path = tmp_path / "spool.sqlite"
    with open_spool(path) as spool:
        for number in range(5):
            spool.append(event(number))
        assert spool.flush(10)
        if instead:
            other = path.with_name("other")
            instead(other)
            other.replace(path)
        else:
            path.unlink()
        spool._store.tend()  # the writer does so every few seconds
        spool.append(event(9))
        assert spool.flush(10)
        found = drain(spool)
        assert [one["type"] for one in found] == ["gap", "detection"]
        assert found[0]["data"] == {**found[0]["data"], "reason": "spool_reset", "first": 1, "last": 5, "count": None}
        assert [int(one["sequence"]) for one in found] == [6, 7]
    with open_spool(path) as spool:
        assert spool.stats().sequence == 7


def test_the_journal_of_another_database_beside_a_fresh_file_does_no_harm(tmp_path):
    path, _ = killed(tmp_path, 1)
    other = tmp_path / "other"
    for name, before in (("none", lambda _: None), ("empty", lambda path: path.write_bytes(b"")),
                         ("new", lambda path: open_spool(path).close())):
        folder = other / name
        folder.mkdir(parents=True)
        before(folder / "spool.sqlite")
        shutil.copy(path.with_name("spool.sqlite-wal"), folder / "spool.sqlite-wal")
        lives(folder / "spool.sqlite")
