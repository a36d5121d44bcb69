"""The spool and real processes: killed while it writes, and wanted by two at a time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from agent.errors import SpoolError
from tests.helpers.live_spools import drain, open_spool

WRITER = """
import sys
from pathlib import Path
from tests.helpers.events import event
from tests.helpers.live_spools import open_spool
spool = open_spool(Path(sys.argv[1]), max_bytes=64 * 2**20, commit_interval_s=0.001)
number = 0
while True:
    for _ in range(int(sys.argv[3])):
        spool.append(event(number, run=sys.argv[2], size=300))
        number += 1
    if spool.flush(20):
        print(spool.stats().committed, flush=True)
"""


def start(path, run, group=20):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), run, str(group)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_what_was_reported_committed_survives_sigkill(tmp_path):
    """Each run is killed at another moment; what is found is a prefix at least as long as what it reported."""
    path = tmp_path / "spool.sqlite"
    reported = {}
    for round_ in range(10):
        run = f"run{round_}"
        child = start(path, run, group=(1, 7, 40)[round_ % 3])
        assert int(child.stdout.readline()) > 0
        time.sleep(0.01 * round_)  # what is swept here is the moment of the kill
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split("\n")
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        # The last line may be cut by the kill.
        reported[run] = max([int(line) for line in rest[:-1] if line], default=1)
    found = {}
    with open_spool(path, max_bytes=64 * 2**20) as spool:
        depth = spool.depth
        events = drain(spool, 1000)
        assert spool.depth == 0
    assert depth == len(events)
    assert [int(one["sequence"]) for one in events] == list(range(1, depth + 1))
    for one in events:
        if one["type"] == "gap":  # there were kills
            assert one["data"]["reason"] == "unclean_stop"
        else:
            run, number = one["id"].split("-")
            found.setdefault(run, []).append(int(number))
    assert len(events) - sum(map(len, found.values())) == 1  # ten kills, one gap, as none was sent meanwhile
    assert list(found) == list(reported)
    for run, numbers in found.items():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= reported[run]


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path):
    path = tmp_path / "spool.sqlite"
    child = start(path, "first")
    try:
        assert child.stdout.readline()
        with pytest.raises(SpoolError, match=f"in use by process {child.pid}\\n") as caught:
            open_spool(path, max_bytes=64 * 2**20)
        assert "state_dir" in caught.value.remedy
    finally:
        child.kill()
        child.stdout.close()
        child.wait()
    with open_spool(path, max_bytes=64 * 2**20) as spool:
        assert spool.depth > 0
        assert path.with_name("spool.sqlite.lock").read_text() == f"{os.getpid()}\n"
