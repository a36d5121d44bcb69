"""Who goes when there is no room: the oldest of the least important, never the most important, always told."""

import time

import pytest

from agent.report.room import NEVER, class_of
from agent.report.spool_db import PAGE, SpoolFullError
from agent.report.spool_records import Pending
from tests.helpers.events import event
from tests.helpers.live_spools import SetClocks, open_file

MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path):
    made = open_file(tmp_path / "spool.sqlite", max_bytes=MIB)
    yield made
    made.db.close()


def put(file, numbers, kind="detection", size=20_000, created=1.8e9):
    appended = time.monotonic() - (file.now() - created)
    return file.commit([Pending(event(number, kind=kind, size=size), appended) for number in numbers])


def there(file, kind):
    return [int(row[0].split("-")[1]) for row in file.db.execute("SELECT id FROM event WHERE type = ? ORDER BY seq", (kind,))]


def gaps(file):
    return [row[0] for row in file.db.execute("SELECT data FROM gap ORDER BY seq")]


@pytest.mark.parametrize(("type_", "class_"), [
    ("detection", 0), ("source.state", 1), ("budget.step", 1), ("something.new", 1), ("watermark.identified", 2),
    ("update.outcome", NEVER), ("gap", NEVER)])
def test_how_important(type_, class_):
    assert class_of(type_) == class_


def test_the_oldest_of_the_least_important_go_first(file):
    put(file, [1], "source.state")
    put(file, [2], "watermark.identified")
    put(file, [3], "update.outcome")
    for number in range(4, 100, 4):
        put(file, range(number, number + 4))
    left = there(file, "detection")
    assert left == list(range(left[0], 100))
    assert left[0] > 40
    assert (there(file, "source.state"), there(file, "watermark.identified"), there(file, "update.outcome")) == ([1], [2], [3])
    (gap,) = gaps(file)
    lost = left[0] - 4
    first_left = file.db.one("SELECT MIN(seq) FROM event WHERE type = 'detection'")
    # Its own sequence lies in the range that it declares by then.
    assert b'"count":%d,"first":4,"last":%d,"types":{"detection":%d}' % (lost, first_left - 1, lost) in gap
    assert file.levels().lost == {"spool_full": lost}


@pytest.mark.parametrize(("old", "new"), [
    ("source.state", "watermark.identified"), ("detection", "update.outcome"), ("watermark.identified", "update.outcome")])
def test_what_is_more_important_takes_the_place_of_what_is_less(file, old, new):
    for number in range(0, 40, 4):
        put(file, range(number, number + 4), old)
    before = there(file, old)
    for number in range(100, 124, 4):
        put(file, range(number, number + 4), new)
    assert there(file, new) == list(range(100, 124))
    left = there(file, old)
    assert len(left) < len(before)
    assert left == before[len(before) - len(left):]


def test_what_is_less_important_than_all_there_is_left_out_and_told(file):
    for number in range(0, 24, 4):
        put(file, range(number, number + 4), "watermark.identified")
    before = there(file, "watermark.identified")
    while not there(file, "gap") and not gaps(file):
        assert put(file, range(100, 106)) in range(7)
    assert there(file, "watermark.identified") == before
    assert b'"reason":"spool_full"' in gaps(file)[0]


def test_the_most_important_are_refused_rather_than_lost(file):
    number = 0
    while number < 200:
        try:
            put(file, [number], "update.outcome")
        except SpoolFullError:
            break
        number += 1
    assert 20 < number < 200
    assert there(file, "update.outcome") == list(range(number))
    assert file.levels().unsealed == number


def test_a_frozen_file_grows_no_more_and_says_why(file):
    for number in range(0, 12, 4):
        put(file, range(number, number + 4))
    file.room.freeze(frozen=True)
    size = file.db.path.stat().st_size
    for number in range(100, 200, 4):
        put(file, range(number, number + 4))
    file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert file.db.path.stat().st_size <= max(size, MIB + PAGE)
    assert set(file.levels().lost) == {"disk_full"}
    file.room.freeze(frozen=False)
    assert not file.room.frozen
    before = file.levels().unsealed
    put(file, [300], size=100)
    assert file.levels().unsealed == before + 1


def test_too_old_events_go_but_the_most_important_stay(tmp_path):
    box = SetClocks()
    file = open_file(tmp_path / "spool.sqlite", clocks=box)
    put(file, range(600), size=10, created=100.5)
    put(file, range(1000, 1010), "update.outcome", size=10, created=100.5)
    put(file, range(2000, 2010), size=10, created=200.5)
    assert file.evict_older(100.0) == 0
    rounds = []
    while lost := file.evict_older(150.0):
        rounds.append(lost)
    assert sum(rounds) == 600
    assert max(rounds) <= 256
    assert there(file, "detection") == list(range(2000, 2010))
    assert there(file, "update.outcome") == list(range(1000, 1010))
    (gap,) = gaps(file)
    assert b'"reason":"max_age","count":600,"first":1,"last":600' in gap
    file.db.close()
