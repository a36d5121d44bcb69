"""The units as they are shipped: what systemd says of them, and that docs/security.md explains each line of the sandbox."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.runs import last_end

ROOT = Path(__file__).resolve().parents[2]
UNITS = ("vedette.service", "vedette-tune.service")
LIMIT = 2.0
ANALYZE = shutil.which("systemd-analyze")
SANDBOX = "# Sandbox"

needs_systemd = pytest.mark.skipif(not ANALYZE, reason="needs systemd-analyze (Debian package systemd)")


def lines(unit, section):
    """All `Key=value` of a section, in order; a key may come more than once."""
    text = (ROOT / "systemd" / unit).read_text().replace("\\\n", "")
    return [line for line in re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)[1].splitlines()
            if line and not line.startswith("#")]


def sandbox(unit):
    text = (ROOT / "systemd" / unit).read_text()
    part = text[text.index(SANDBOX):]
    return [line for line in part.partition("\n[")[0].splitlines() if line and not line.startswith("#")]


def explained(heading):
    """The first column of the table below a heading of docs/security.md."""
    text = (ROOT / "docs/security.md").read_text()
    part = text[text.index(f"{heading}\n"):]
    table = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)[0].splitlines()[2:]
    return [re.match(r"\| `(.*?)` \|", row)[1] for row in table]


@pytest.fixture
def shipped(tmp_path):
    """A folder with the units, whose program is there."""
    program = tmp_path / "vedette"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS:
        (tmp_path / unit).write_text((ROOT / "systemd" / unit).read_text().replace("/opt/vedette/current/bin/vedette", str(program)))
    return tmp_path


def rating(path):
    said = subprocess.run([ANALYZE, "security", "--offline=true", "--no-pager", path], capture_output=True, text=True, check=True).stdout
    return float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong_with_it(shipped, unit):
    done = subprocess.run([ANALYZE, "verify", "--man=no", shipped / unit], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if unit in line or str(shipped) in line]
    assert (done.returncode, said) == (0, [])


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_its_exposure_is_as_low_as_promised(shipped, unit):
    assert rating(shipped / unit) <= LIMIT


@needs_systemd
def test_what_vedette_setup_adds_on_a_jetson_does_not_raise_it(shipped):
    more = ["MemoryHigh=1G", "MemoryMax=2G", "LoadCredential=token:/etc/vedette/credentials/token", "BindReadOnlyPaths=/tmp:/run/vedette-host-tmp",
            *(f"DeviceAllow=/dev/{node} rw" for node in ("nvmap", "nvhost-ctrl-gpu", "nvgpu/igpu0/ctrl", "nvidia0", "nvsciipc"))]
    unit = shipped / UNITS[0]
    unit.write_text(unit.read_text().replace("[Install]", "\n".join([*more, "", "[Install]"])))
    assert rating(unit) <= LIMIT


@needs_systemd
def test_the_rating_sees_a_line_that_is_missing(shipped):
    unit = shipped / UNITS[0]
    unit.write_text(unit.read_text().replace("ProtectSystem=strict\n", ""))
    assert rating(unit) > LIMIT


def test_the_document_names_the_rating():
    assert f"rates it **{LIMIT}**" in " ".join((ROOT / "docs/security.md").read_text().split())


def test_every_line_of_the_sandbox_is_explained_in_order():
    assert explained("## The sandbox, line by line") == sandbox(UNITS[0])


def test_builds_run_in_the_same_sandbox():
    assert sandbox(UNITS[1]) == sandbox(UNITS[0])


def test_what_is_said_to_be_left_out_is_not_set():
    set_here = sandbox(UNITS[0])
    for line in explained("### What was left out, and why"):
        assert line not in set_here, line
        assert not line.endswith("=") or not any(each.startswith(line) for each in set_here), line


@pytest.mark.parametrize("line", [
    "Type=notify", "NotifyAccess=main", "ExecStart=/opt/vedette/current/bin/vedette run", "WatchdogSec=30", "Restart=always",
    "RestartPreventExitStatus=64 78", "User=vedette", "Group=vedette", "StateDirectory=vedette", "RuntimeDirectory=vedette", "OOMPolicy=continue",
    "KillMode=mixed", "LimitCORE=0"])
def test_the_service_has_what_is_promised(line):
    assert line in lines(UNITS[0], "Service")


def test_nothing_is_required_or_waited_for():
    keys = {line.partition("=")[0] for line in lines(UNITS[0], "Unit")}
    assert not keys & {"Requires", "Requisite", "BindsTo", "PartOf", "Wants", "Upholds"}
    after = next(line for line in lines(UNITS[0], "Unit") if line.startswith("After="))
    assert "online" not in after
    assert "time-sync" not in after
    assert "StartLimitIntervalSec=0" in lines(UNITS[0], "Unit")


def test_a_build_takes_what_nobody_else_wants_and_leaves_the_socket_alone():
    said = lines(UNITS[1], "Service")
    assert {"Type=oneshot", "Nice=19", "CPUSchedulingPolicy=idle", "IOSchedulingClass=idle", "User=vedette", "StateDirectory=vedette"} <= set(said)
    assert not any(line.startswith("RuntimeDirectory=") for line in said), "systemd would remove the service's when it ends"


BOOT = "5c3b6a1e-1f0a-4a53-9a53-0d9d7c1f2e3d"


@pytest.fixture
def stop_post(tmp_path):
    """Run ExecStopPost's shell line as systemd does, with a `sleep` that is only noted; return what lies there then.

    It returns the seconds too, None where it did not sleep. What the kernel tells is a folder of ours, with the files of
    the control group that are given.
    """
    line = next(line for line in lines(UNITS[0], "Service") if line.startswith("ExecStopPost="))
    script = re.fullmatch(r"ExecStopPost=-/bin/sh -c '(.*)'", line)[1].replace("$$", "$")
    script = script.replace("/sys/fs/cgroup", f"{tmp_path}/cgroup").replace("/proc/self/cgroup", f"{tmp_path}/groups").replace("/proc/sys", f"{tmp_path}/sys")
    (tmp_path / "groups").write_text("0::/the-unit\n")
    state = tmp_path / "state"
    for folder in (state, tmp_path / "tools", tmp_path / "cgroup/the-unit", tmp_path / "sys/kernel/random"):
        folder.mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text(f"{BOOT}\n")
    (tmp_path / "tools/sleep").write_text(f"#!/bin/sh\necho $1 > {tmp_path}/slept\n")
    (tmp_path / "tools/sleep").chmod(0o755)

    def run(result, code, status, **group):
        for name, text in group.items():
            (tmp_path / "cgroup/the-unit" / name.replace("_", ".")).write_text(text)
        values = {"PATH": f"{tmp_path}/tools:/usr/bin:/bin", "STATE_DIRECTORY": str(state), "SERVICE_RESULT": result, "EXIT_CODE": code, "EXIT_STATUS": status}
        done = subprocess.run(["/bin/sh", "-c", script], env=values, check=True, timeout=5, capture_output=True, text=True)
        assert not done.stderr
        slept = tmp_path / "slept"
        return {path.name: path.read_text().removesuffix("\n") for path in state.iterdir()}, float(slept.read_text()) if slept.exists() else None

    run.state = state
    return run


def test_how_a_run_ended_is_written_where_the_next_one_looks(stop_post):
    assert stop_post("watchdog", "killed", "ABRT") == ({"last-end": f"watchdog killed ABRT {BOOT}"}, None)


def test_systemd_has_no_code_for_what_never_became_a_process(stop_post):
    assert stop_post("resources", "", "") == ({"last-end": f"resources {BOOT}"}, None)
    assert last_end(stop_post.state / "last-end")[0] == f"resources {BOOT}"


def test_a_process_that_never_began_waits_and_keeps_the_word_on_the_run_before(stop_post):
    stop_post("watchdog", "killed", "ABRT")
    assert stop_post("exit-code", "exited", "1") == (
        {"last-end": f"watchdog killed ABRT {BOOT}", "last-start": f"exit-code exited 1 {BOOT}"}, 10)
    assert stop_post("exit-code", "exited", "70")[0]["last-start"] == f"exit-code exited 70 {BOOT}", "the last of them counts"


@pytest.mark.parametrize("code", ["64", "78"])
def test_one_that_systemd_does_not_start_again_is_not_waited_for(stop_post, code):
    stop_post("watchdog", "killed", "ABRT")
    assert stop_post("exit-code", "exited", code) == (
        {"last-end": f"watchdog killed ABRT {BOOT}", "last-start": f"exit-code exited {code} {BOOT}"}, None)


def test_one_that_was_stopped_before_it_began_is_not_waited_for(stop_post):
    stop_post("watchdog", "killed", "ABRT")
    assert stop_post("success", "killed", "TERM") == ({"last-end": f"watchdog killed ABRT {BOOT}"}, None)


EVENTS = "low 0\nhigh {high}\nmax 0\noom 0\noom_kill {kills}\noom_group_kill 0\n"
PRESSURE = "some avg10=43.29 avg60={some} avg300=4.75 total=14793889\nfull avg10=43.29 avg60={full} avg300=4.75 total=14793889\n"


@pytest.mark.parametrize(("ended", "events", "pressure", "word"), [
    (("signal", "killed", "KILL"), {"kills": 1}, {}, "oom-kill killed KILL"),
    (("signal", "killed", "KILL"), {}, {}, "signal killed KILL"),
    # A build was killed, hours ago:
    (("signal", "killed", "SEGV"), {"kills": 1}, {}, "signal killed SEGV"),
    (("watchdog", "killed", "KILL"), {"kills": 1}, {}, "watchdog killed KILL"),
    (("timeout", "killed", "KILL"), {"kills": 1}, {}, "timeout killed KILL"),
    (("watchdog", "killed", "ABRT"), {"high": 13492}, {"some": "18.93"}, "watchdog killed ABRT memory-high"),  # as measured
    (("watchdog", "killed", "KILL"), {"high": 25}, {"some": "100.00"}, "watchdog killed KILL memory-high"),
    (("watchdog", "killed", "ABRT"), {"high": 13492}, {"some": "9.99"}, "watchdog killed ABRT"),  # files it read: reclaimed with ease
    (("watchdog", "killed", "ABRT"), {}, {"some": "90.00"}, "watchdog killed ABRT"),  # the box has no memory, this unit took what it may
    (("signal", "killed", "SEGV"), {"high": 13492}, {"some": "90.00"}, "signal killed SEGV"),
])
def test_the_kernel_is_asked_what_it_did_about_memory(stop_post, ended, events, pressure, word):
    group = {"memory_events": EVENTS.format(**{"high": 0, "kills": 0, **events}), "memory_pressure": PRESSURE.format(**{"some": "0.00", "full": "0.00", **pressure})}
    assert stop_post(*ended, **group)[0] == {"last-end": f"{word} {BOOT}"}
    assert last_end(stop_post.state / "last-end")[0] == f"{word} {BOOT}", "the next run understands it"


def test_a_kernel_that_does_not_tell_of_pressure_names_nothing(stop_post):
    assert stop_post("watchdog", "killed", "ABRT", memory_events=EVENTS.format(high=9999, kills=0))[0] == {"last-end": f"watchdog killed ABRT {BOOT}"}
