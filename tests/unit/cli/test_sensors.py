"""`vedette sensors` as people and programs call it, with readers that say what the test wants."""

import json
import os
import signal
import subprocess
import sys

import pytest

from agent.cli import main
from agent.cli import sensors as command
from agent.power import choose
from tests.unit.power.test_choose import CPU, GPU, RAILS, ZONES, readers

ORIN = {"watts": 7.599, "measures": "VDD_IN", "rails": {"VDD_IN": 7.599, "VDD_SOC": 1.582}, "celsius": 52.25, "hottest": "tj", "zones": {"tj": 52.25, "cpu": 49.0},
        "gpu_load": 0.637, "alarms": ("VDD_IN over-current",), "events": {"oc1": 3}, "trouble": "zone cv0 is offline"}


@pytest.fixture
def box(monkeypatch, tmp_path):
    """Return a function that puts readers into the box; it returns them."""

    def be(**there):
        found = readers(**there)
        monkeypatch.setattr(command, "open_telemetry", lambda wanted, sysfs: choose.open_telemetry(wanted, sysfs, root=tmp_path, openers=found))
        monkeypatch.setattr(command, "_SETTLE_S", 0)
        return found

    return be


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f'[device]\nstate_dir = "{tmp_path}"\n[source.door]\nurl = "rtsp://camera/1"\n[budget]\ntelemetry = "rapl"\nsysfs = "{tmp_path}"\n')
    return str(path)


def test_the_table_says_what_each_reader_says_and_marks_the_one_in_use(box, config, capsys):
    box(sysfs=ORIN, nvml=GPU)
    assert main(["sensors", "-c", config, "--telemetry", "auto"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("telemetry auto: sysfs 1.0, power 7.60 W (VDD_IN), temperature 52.2 °C (tj)\n  zone cv0 is offline\n")
    rows = [" ".join(line.split()) for line in said.splitlines()]
    for row in ("* sysfs 1.0 power 7.60 W (VDD_IN)", "temperature 52.2 °C (tj)", "GPU load 64%", "rails VDD_IN 7.599 W, VDD_SOC 1.582 W",
                "zones tj 52.2 °C, cpu 49.0 °C", "alarms VDD_IN over-current", "counters oc1 3", "trouble zone cv0 is offline",
                "nvml 1.0 power 90.00 W (GPU)", "temperature unknown", "GPU load unknown", "rapl not there no rapl here"):
        assert row in rows, row
    assert said.count("*") == 1


@pytest.mark.parametrize(("there", "wanted", "code", "head"), [
    ({"sysfs": RAILS}, "auto", 0, "telemetry auto: sysfs 1.0, power 6.00 W (VDD_IN), temperature unknown"),
    ({"sysfs": ZONES}, "auto", 0, "telemetry auto: sysfs 1.0, power unknown, temperature 40.0 °C"),
    ({"nvml": {"trouble": "lost"}}, "auto", 1, "telemetry auto: nvml 1.0, power unknown, temperature unknown\n  nvml: lost"),
    ({}, "auto", 1, "telemetry auto: none, power unknown, temperature unknown\n  no sensors here"),
    ({"sysfs": RAILS}, "off", 1, "telemetry off: none, power unknown, temperature unknown\n  telemetry is off"),
    ({"sysfs": RAILS}, "nvml", 1, "telemetry nvml: none, power unknown, temperature unknown\n  no nvml here"),
    ({"sysfs": RAILS, "nvml": GPU}, "nvml", 0, "telemetry nvml: nvml 1.0, power 90.00 W (GPU), temperature unknown"),
    ({"sysfs": RAILS, "rapl": CPU}, None, 0, "telemetry rapl: rapl 1.0, power 30.00 W (CPU packages), temperature unknown"),
])
def test_head_and_exit_code(box, config, capsys, there, wanted, code, head):
    found = box(**there)
    assert main(["sensors", "-c", config, *(["--telemetry", wanted] if wanted else [])]) == code
    assert capsys.readouterr().out.startswith(head)
    for reader in found.values():
        assert reader.opened == reader.closed, "what was opened is closed"


def test_json_has_unknown_as_null(box, config, capsys):
    box(sysfs=ORIN, nvml={"trouble": "lost"})
    assert main(["sensors", "-c", config, "--telemetry", "auto", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["wanted"], value["name"], value["reading"]["watts"], value["reading"]["zones"]) == ("auto", "sysfs 1.0", 7.599, {"tj": 52.25, "cpu": 49.0})
    by_kind = {reader["kind"]: reader for reader in value["readers"]}
    assert list(by_kind) == list(choose.KINDS)
    assert [kind for kind, reader in by_kind.items() if reader["chosen"]] == ["sysfs"]
    assert by_kind["nvml"]["reading"]["watts"] is None
    assert by_kind["nvml"]["reading"]["trouble"] == "lost"
    assert (by_kind["rapl"]["reading"], by_kind["rapl"]["why"]) == (None, "no rapl here")


def test_the_second_look_is_shown(box, config, capsys, monkeypatch):
    found = box(rapl={"trouble": "one look at a counter is no power"})

    def sleep(_):
        assert found["rapl"].asked == 1
        found["rapl"].reading = CPU

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert main(["sensors", "-c", config]) == 0
    assert "30.00 W" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [True, False])
def test_watching_prints_again_until_ctrl_c_and_ends_with_the_last_code(box, config, capsys, monkeypatch, as_json):
    found = box(rapl=CPU)
    left = iter([None, None, {"trouble": "gone"}, KeyboardInterrupt])  # the first is the settling

    def sleep(_):
        now = next(left)
        if now is KeyboardInterrupt:
            raise now
        found["rapl"].reading = now or found["rapl"].reading

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert main(["sensors", "-c", config, "--watch", *(["--json"] if as_json else [])]) == 1
    said = capsys.readouterr().out
    assert said.count('{"wanted"' if as_json else "telemetry rapl: ") == 3
    assert found["rapl"].opened == found["rapl"].closed


@pytest.mark.parametrize("arguments", [["--of", "1"], ["--idle", "3"], ["--ambient", "20"], ["--telemetry", "tea"], ["--simulate", "x", "--idle", "0"]])
def test_arguments_that_do_not_go_together(box, arguments):
    box()
    assert main(["sensors", *arguments]) == 64


@pytest.mark.parametrize("where", ["/sys", "/sys/class/hwmon", "/proc/self", "mine"])
def test_a_board_is_played_only_in_a_folder_of_its_own(tmp_path, capsys, where):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    folder = where if where.startswith("/") else str(tmp_path / where)
    assert main(["sensors", "--simulate", folder]) == 2
    words = capsys.readouterr().err
    assert ("belongs to the kernel" if where.startswith("/") else "has other things in it: letter.txt") in words


def test_a_board_that_follows_a_process_that_is_not_there(tmp_path, capsys):
    assert main(["sensors", "--simulate", str(tmp_path / "board"), "--of", str(2**22 + 1)]) == 2
    assert "there is no process" in capsys.readouterr().err
    assert not (tmp_path / "board").exists()


@pytest.mark.slow
def test_a_simulated_board_gives_power_that_follows_the_load(tmp_path):
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    lines = []
    try:
        process = subprocess.Popen([sys.executable, "-m", "agent", "sensors", "--simulate", str(tmp_path / "board"), "--of", str(burner.pid)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            while len([line for line in lines if "busy cores" in line]) < 3:
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr.read()
            seen = subprocess.run([sys.executable, "-m", "agent", "sensors", "-c", str(config_for(tmp_path)), "--json"], capture_output=True, text=True, check=False, timeout=30)
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
    finally:
        burner.kill()
        burner.wait()
    watts = [float(line.split()[1]) for line in lines if "busy cores" in line]
    assert watts[-1] > 5.2, lines
    assert lines[:3] == ["[budget]\n", 'telemetry = "sysfs"\n', f'sysfs = "{tmp_path / "board"}"\n']
    assert (process.returncode, errors) == (0, "")
    assert "stand still from now on" in rest
    value = json.loads(seen.stdout)
    assert seen.returncode == 0, seen.stderr
    assert value["name"].startswith("sysfs")
    assert value["reading"]["watts"] > 5.2, "5 W without work, 2.5 W more for each busy core"
    assert value["reading"]["celsius"] > 25


def config_for(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f'[source.door]\nurl = "rtsp://camera/1"\n[budget]\ntelemetry = "sysfs"\nsysfs = "{tmp_path / "board"}"\n')
    return path
