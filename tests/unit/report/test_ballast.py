"""Room kept for a full disk: real blocks, taken only where there is plenty."""

import os

import pytest

from agent.report import ballast
from agent.report.ballast import BALLAST_BYTES, Ballast

MIB = 1024 * 1024


@pytest.fixture
def disk(monkeypatch):
    """Return what sets the bytes that are free."""
    def free(size):
        real = os.statvfs_result((4096, 4096, 10**9, 10**9, size // 4096, 1, 1, 1, 0, 255))
        monkeypatch.setattr(ballast.os, "statvfs", lambda _: real)
    return free


def test_it_is_made_of_real_blocks_and_given_up_once(tmp_path, disk):
    disk(100 * MIB)
    room = Ballast(tmp_path / "spool.sqlite")
    assert not room.held
    assert not room.release()
    assert room.take()
    file = tmp_path / "spool.sqlite.ballast"
    assert file.stat().st_blocks * 512 >= BALLAST_BYTES
    inode = file.stat().st_ino
    assert room.take()
    assert file.stat().st_ino == inode  # not written again
    assert room.release()
    assert not file.exists()
    assert not room.release()


def test_one_with_holes_or_cut_short_is_none(tmp_path, disk):
    disk(100 * MIB)
    file = tmp_path / "spool.sqlite.ballast"
    with file.open("wb") as hollow:
        hollow.truncate(BALLAST_BYTES)
    room = Ballast(tmp_path / "spool.sqlite")
    assert not room.held
    assert not room.release()
    assert not file.exists()
    file.write_bytes(bytes(10))
    assert room.take()
    assert room.held


def test_it_is_taken_back_only_where_there_is_plenty(tmp_path, disk):
    room = Ballast(tmp_path / "spool.sqlite")
    disk(7 * MIB)
    assert not room.take()
    assert not room.held
    disk(9 * MIB)
    assert room.take()
    disk(0)
    assert room.take()  # it is there: no room is needed


def test_a_full_disk_is_told_from_a_full_spool(tmp_path, disk):
    room = Ballast(tmp_path / "spool.sqlite")
    disk(MIB // 2)
    assert room.disk_is_full()
    disk(2 * MIB)
    assert not room.disk_is_full()


def test_a_disk_that_lies_about_its_room_leaves_nothing_behind(tmp_path, disk, monkeypatch, caplog):
    disk(100 * MIB)

    def fsync(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ballast.os, "fsync", fsync)
    assert not Ballast(tmp_path / "spool.sqlite").take()
    assert list(tmp_path.iterdir()) == []
    assert "No space left" in caplog.text
