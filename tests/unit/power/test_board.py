"""The board that is not there: its physics, its files, and what it takes for busy."""

import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.power.board import RAILS, ZONES, Busy, SimulatedBoard, busy_cores, machine_busy, process_busy, tree_busy
from agent.power.sysfs import SysfsTelemetry
from tests.helpers.orin_tree import build, put

SPIN = "import time\nend = time.monotonic() + {s}\nwhile time.monotonic() < end: pass"


def test_our_own_reader_sees_what_the_board_shows(tmp_path):
    board = SimulatedBoard(tmp_path / "sys")
    telemetry = SysfsTelemetry(tmp_path / "sys")
    reading = telemetry.sample()
    assert reading.watts == pytest.approx(5.0, abs=0.005)
    assert reading.measures == "VDD_IN"
    assert tuple(reading.rails) == RAILS
    assert tuple(reading.zones) == ZONES
    assert reading.celsius == pytest.approx(25 + 2.4 * 5)
    assert (reading.alarms, reading.trouble, reading.gpu_load) == ((), "", None)
    for _ in range(3):
        board.step(2.0, 0.2)
        reading = telemetry.sample()
        assert reading.watts == pytest.approx(board.watts, abs=0.005)
        assert reading.celsius == pytest.approx(board.celsius, abs=0.001)
        assert reading.rails["VDD_CPU_GPU_CV"] + reading.rails["VDD_SOC"] < reading.watts


def test_it_has_the_rails_and_zones_of_the_labs_tree(tmp_path):
    lab = SysfsTelemetry(build(tmp_path / "lab", "nx")).sample()
    SimulatedBoard(tmp_path / "sys")
    ours = SysfsTelemetry(tmp_path / "sys").sample()
    assert ours.rails.keys() == lab.rails.keys()
    assert ours.measures == lab.measures
    assert ours.zones.keys() <= lab.zones.keys()


@pytest.mark.parametrize("dt_s", [0.05, 0.1, 0.5])
def test_power_lags_and_heat_follows_whatever_the_step(tmp_path, dt_s):
    board = SimulatedBoard(tmp_path, watts_per_core=2.5, resistance=2.0, capacity=10.0)
    for _ in range(round(0.5 / dt_s)):
        board.step(4.0, dt_s)
    assert board.watts == pytest.approx(5 + 10 * (1 - math.exp(-1)))
    for _ in range(round(20 / dt_s)):
        board.step(4.0, dt_s)
    assert board.watts == pytest.approx(15.0)
    # 35 degrees at rest, 55 in the end, with 20 s; the 0.5 s of lag delay it by as much.
    assert board.celsius == pytest.approx(55 - 20 * math.exp(-20 / 20), abs=0.3)
    for _ in range(50):
        board.step(0.0, 4.0)
    assert board.watts == pytest.approx(5.0)
    assert board.celsius == pytest.approx(35.0, abs=0.01)


def test_a_hot_day_and_an_impossible_load(tmp_path):
    board = SimulatedBoard(tmp_path, ambient=45.0, idle_watts=7.0)
    assert board.celsius == pytest.approx(45 + 2.4 * 7)
    board.step(-3.0, 1.0)
    assert board.watts == 7.0
    board.ambient = 25.0
    board.step(0.0, 1e6)
    assert board.celsius == pytest.approx(25 + 2.4 * 7)


def test_a_reader_never_sees_an_empty_or_half_a_file(tmp_path):
    board = SimulatedBoard(tmp_path)
    stop = threading.Event()

    def play():
        n = 0
        while not stop.is_set():
            n += 1
            board.step(float(n % 8), 5.0)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        telemetry = SysfsTelemetry(tmp_path)
        current = tmp_path / "bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input"
        seen = set()
        for _ in range(1500):
            text = current.read_text("ascii")
            assert text.endswith("\n")
            assert 1000 <= int(text) <= 5000
            reading = telemetry.sample()
            assert reading.trouble == ""
            assert reading.watts is not None
            seen.add(reading.watts)
    finally:
        stop.set()
        thread.join()
    assert len(seen) >= 5, "it saw nothing change"


def test_a_real_machines_files_are_not_written_over(tmp_path):
    put(tmp_path, "fs/cgroup/x", "")
    with pytest.raises(AgentError, match="real machine"):
        SimulatedBoard(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_for_people(tmp_path):
    put(tmp_path, "file", "")
    with pytest.raises(AgentError, match="cannot write") as caught:
        SimulatedBoard(tmp_path / "file")
    assert caught.value.remedy


def test_busy_cores_are_time_taken_by_time_passed():
    assert busy_cores(Busy(at_s=10, cpu_s=5), Busy(at_s=12, cpu_s=8)) == 1.5
    assert busy_cores(Busy(at_s=10, cpu_s=5), Busy(at_s=12, cpu_s=4)) == 0.0
    assert busy_cores(Busy(at_s=10, cpu_s=5), Busy(at_s=10, cpu_s=6)) == 0.0


def test_a_process_tree_counts_its_children_dead_or_alive(tmp_path):
    def process(pid, parent, times, name="a b) S 1"):
        put(tmp_path, f"{pid}/stat", f"{pid} ({name}) S {parent} 1 1 0 -1 4194560 9 8 7 6 {' '.join(map(str, times))} 20 0 1 0 55")

    tick = os.sysconf("SC_CLK_TCK")
    process(10, 1, (100, 20, 3, 4))
    process(11, 10, (1000, 0, 0, 0))
    process(12, 11, (0, 5000, 0, 0))
    process(13, 1, (70000, 0, 0, 0))
    put(tmp_path, "14/stat", "rubbish")
    put(tmp_path, "uptime", "1 2")
    assert tree_busy(10, tmp_path).cpu_s == pytest.approx(6127 / tick)
    assert tree_busy(12, tmp_path).cpu_s == pytest.approx(5000 / tick)
    assert tree_busy(99, tmp_path) is None


def test_the_machines_work_leaves_out_idling_and_waiting(tmp_path):
    put(tmp_path, "stat", "cpu  100 20 3 99999 88888 40 500 0 0 0\ncpu0 1 1 1 1 1 1 1 0 0 0")
    assert machine_busy(tmp_path).cpu_s == pytest.approx(663 / os.sysconf("SC_CLK_TCK"))
    put(tmp_path, "stat", "cpu x")
    with pytest.raises(AgentError, match="does not tell"):
        machine_busy(tmp_path)
    assert machine_busy(Path("/proc")).cpu_s > 0


def test_a_real_process_with_a_busy_child_is_one_core():
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {SPIN.format(s=0.8)!r}]); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)
        before = tree_busy(process.pid)
        time.sleep(1.2)
        after = tree_busy(process.pid)
    finally:
        process.kill()
        process.wait()
    took = after.cpu_s - before.cpu_s
    assert 0.1 <= took <= 1.0, "about half a second of the child's, after its end"
    assert tree_busy(process.pid) is None


def test_what_others_take_comes_on_top(tmp_path):
    board = SimulatedBoard(tmp_path / "sys", lag_s=0.01)
    board.extra_watts = 3.0
    board.step(1.0, 1.0)
    assert board.watts == pytest.approx(5.0 + 2.5 + 3.0)
    board.extra_watts = 0.0
    board.step(1.0, 1.0)
    assert board.watts == pytest.approx(7.5)


def test_silent_sensors_are_unknown_until_they_speak_again(tmp_path):
    board = SimulatedBoard(tmp_path / "sys")
    telemetry = SysfsTelemetry(tmp_path / "sys")
    assert telemetry.sample().watts is not None
    board.silent = True
    board.step(1.0, 0.1)
    board.step(1.0, 0.1)
    reading = telemetry.sample()
    assert (reading.watts, reading.celsius) == (None, None)
    assert "curr1_input" in reading.trouble
    board.silent = False
    board.step(1.0, 0.1)
    reading = telemetry.sample()
    assert reading.watts == pytest.approx(board.watts, abs=0.005)
    assert (reading.celsius, reading.trouble) == (pytest.approx(board.celsius, abs=0.001), "")


def test_the_time_of_one_process_is_told_finely():
    begin, own = process_busy(os.getpid()), time.process_time()
    deadline = time.process_time() + 0.003
    while time.process_time() < deadline:
        pass
    end = process_busy(os.getpid())
    assert end.cpu_s - begin.cpu_s == pytest.approx(time.process_time() - own, abs=0.002)
    assert begin.cpu_s == pytest.approx(own, abs=0.05), "of the whole process, threads included"


def test_a_process_that_is_gone_has_no_time():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process_busy(child.pid) is None
