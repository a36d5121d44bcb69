"""The spool on a disk that is really full: a small tmpfs that someone else fills to the last byte, and empties again."""

import os
import subprocess
import time
from contextlib import contextmanager

import pytest

from agent.report.ballast import BALLAST_BYTES
from tests.helpers import fault_table
from tests.helpers.events import event
from tests.helpers.live_spools import drain, events_of, open_spool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounting a small tmpfs to fill it up")
MIB = 1024 * 1024


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"needs the right to mount: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk, name="others"):
    """Take every free block of the disk."""
    with (disk / name).open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0


def until(condition, what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def quick(path, **options):
    """A spool that looks after itself every 50 ms instead of every 5 s."""
    from agent.report import spool as module

    before = module._UPKEEP_S, module._RETRY_S
    module._UPKEEP_S = module._RETRY_S = 0.05
    try:
        with open_spool(path, max_bytes=64 * MIB, **options) as spool:
            yield spool
    finally:
        module._UPKEEP_S, module._RETRY_S = before


def append(spool, count, run, flush=True, **options):
    for number in range(count):
        spool.append(event(number, run=run, **options))
        if number % 100 == 99 and flush:
            spool.flush(5)
    return not flush or spool.flush(10)


def account(found, ledger, spool, how_often):
    """Everything in the ledger came out or is declared; returns the declared gaps."""
    stats = spool.stats()
    received = [int(one["sequence"]) for one in found]
    assert received == sorted(set(received))
    gaps = [one["data"] for one in found if one["type"] == "gap"]
    missing = set(range(1, stats.sequence + 1)) - set(received)
    assert all(any(gap["first"] <= number <= gap["last"] for gap in gaps if gap["first"]) for number in missing)
    lost = ledger - {one["id"] for one in found}
    declared = sum(gap["count"] for gap in gaps if gap["count"])
    fault_table.ROWS.append(fault_table.Row("disk full, nobody drains", "tmpfs of 24 MiB filled to 0 blocks", how_often, stats.sequence,
                                            len(lost) - declared, 0, declared))
    assert len(lost) == declared == sum(stats.lost.values())
    return gaps


def test_on_a_full_disk_new_events_are_taken_and_the_queue_is_drained(disk):
    ledger = set()
    with quick(disk / "spool.sqlite") as spool:
        until((disk / "spool.sqlite.ballast").exists, "no ballast")
        assert append(spool, 1500, "before", size=1000)
        fill(disk)
        assert append(spool, 3000, "during", size=1000)
        ledger |= {f"before-{n}" for n in range(1500)} | {f"during-{n}" for n in range(3000)}
        stats = spool.stats()
        assert stats.disk_full
        assert not (disk / "spool.sqlite.ballast").exists()
        assert not stats.refused
        fill(disk, "still")
        found = []
        for _ in range(20):
            batch = spool.seal(32, 0)
            found += events_of(batch)
            spool.ack(batch)
        for name in ("others", "still"):
            (disk / name).unlink()
        until(lambda: not spool.stats().disk_full, "still lives on the ballast")
        assert (disk / "spool.sqlite.ballast").stat().st_size == BALLAST_BYTES
        assert append(spool, 100, "after")
        ledger |= {f"after-{n}" for n in range(100)}
        found += drain(spool)
        gaps = account(found, ledger, spool, "once")
        assert {gap["reason"] for gap in gaps} == {"disk_full"}
        assert {one["id"] for one in found} >= {f"during-{n}" for n in range(2900, 3000)} | {f"after-{n}" for n in range(100)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [200, 5000, 60_000])
def test_full_again_and_again_nothing_goes_undeclared(disk, size):
    ledger, found = set(), []
    with quick(disk / "spool.sqlite") as spool:
        for round_ in range(6):
            until(lambda: (disk / "spool.sqlite.ballast").exists() and not spool.stats().disk_full, "no ballast")
            fill(disk)
            count = 600_000 // (size + 200)
            append(spool, count, f"round{round_}", size=size)
            ledger |= {f"round{round_}-{n}" for n in range(count)}
            for _ in range(3):
                if batch := spool.seal(32, 0):
                    found += events_of(batch)
                    spool.ack(batch)
            (disk / "others").unlink()
            assert spool.flush(20)
        found += drain(spool)
        account(found, ledger, spool, f"6 times, {size} B")


def test_a_start_on_a_full_disk_watches_on_and_writes_when_there_is_room(disk):
    fill(disk)
    with quick(disk / "spool.sqlite") as spool:
        assert spool.stuck
        append(spool, 50, "waits", flush=False)
        assert not spool.flush(0.3)
        assert spool.seal(10, 0) is None
        (disk / "others").unlink()
        assert spool.flush(20)
        assert not spool.stuck
        assert [one["id"] for one in drain(spool)] == [f"waits-{n}" for n in range(50)]


def test_a_restart_on_a_full_disk_goes_on_where_it_was(disk):
    with quick(disk / "spool.sqlite") as spool:
        until((disk / "spool.sqlite.ballast").exists, "no ballast")
        append(spool, 200, "before")
    fill(disk)
    with quick(disk / "spool.sqlite") as spool:
        assert not spool.stuck
        append(spool, 100, "after")
        assert [one["id"] for one in drain(spool)] == [f"before-{n}" for n in range(200)] + [f"after-{n}" for n in range(100)]
