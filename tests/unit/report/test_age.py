"""The spool's clock over all that is done to a box's clocks, and the mark of its sequence."""

import stat

import pytest

from agent.errors import SpoolError
from agent.report.age import AgeClock, ClockReading, SequenceMark
from tests.helpers.live_spools import SetClocks


def test_a_new_spool_starts_at_the_wall_clock_and_never_follows_it():
    box = SetClocks(wall=1000.0)
    now = AgeClock(None, box.clocks())
    assert now() == 1000.0
    box.wall = 1.8e9
    assert now() == 1000.0
    box.pass_(5)
    assert now() == 1005.0
    box.wall = 0.0
    assert now() == 1005.0


def test_within_one_boot_the_time_between_two_runs_counts_whatever_the_wall_clock_says():
    box = SetClocks()
    saved = AgeClock(None, box.clocks()).reading()
    box.pass_(100)
    box.wall -= 1e9
    assert AgeClock(saved, box.clocks())() == saved.spool + 100


@pytest.mark.parametrize(("certain", "off_s", "counted"), [(True, 3600.0, 3600.0), (True, -3600.0, 0.0), (False, 3600.0, 0.0)])
def test_over_a_reboot_a_trusted_wall_clock_tells_how_long_it_was(certain, off_s, counted):
    box = SetClocks()
    saved = AgeClock(None, box.clocks()).reading()
    again = SetClocks(wall=box.wall + off_s, boot="c" * 32)
    again.up, again.certain = 3.0, certain
    now = AgeClock(saved, again.clocks())
    assert now() == saved.spool + counted
    again.pass_(10)
    assert now() == saved.spool + counted + 10


def test_a_boottime_that_went_back_counts_nothing():
    box = SetClocks()
    saved = ClockReading(5000.0, box.boot, box.up + 50, box.wall, True)
    assert AgeClock(saved, box.clocks())() == 5000.0


def test_a_mark_is_kept_and_written_once_for_many_numbers(tmp_path):
    path = tmp_path / "spool.sqlite"
    mark = SequenceMark(path)
    assert (mark.mark.reached, mark.mark.kept) == (0, 1)
    mark.reserve(10, 1)
    file = tmp_path / "spool.sqlite.mark"
    written, reached = file.stat().st_ino, mark.mark.reached
    assert reached >= 10
    for needed in (10, 11, reached):
        mark.reserve(needed, 5)
    assert file.stat().st_ino == written
    mark.reserve(reached + 1, 7)
    assert file.stat().st_ino != written
    again = SequenceMark(path).mark
    assert again.reached > reached
    assert again.kept == 7
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize("content", [b"", b"{", b'{"reached":"x"}', b"\xff\x00"])
def test_a_damaged_mark_is_as_good_as_none(tmp_path, content):
    (tmp_path / "spool.sqlite.mark").write_bytes(content)
    assert SequenceMark(tmp_path / "spool.sqlite").mark.reached == 0


def test_a_mark_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "spool.sqlite.mark").mkdir()
    with pytest.raises(SpoolError, match=r"spool\.sqlite\.mark"):
        SequenceMark(tmp_path / "spool.sqlite")
