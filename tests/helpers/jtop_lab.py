"""The real service of jetson-stats over a made /sys, and what is tried with it there.

Two halves: what a test calls (:func:`missing`, :func:`venv`, :func:`tree`, :func:`play`), and the scenes, which run inside
the lab's namespaces with the Python of :func:`venv`: ``python -m tests.helpers.jtop_lab SCENE``. A scene prints one JSON object.
"""

import functools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
LAB = REPO.parent / "shared/lab"
VERSION = "7.2.2"
CURRENT = Path("/sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input")
NVPMODEL = """#!/bin/sh
state=/mnt/nvpmodel.state
[ -f $state ] || echo 1 > $state
case "$1" in
-p) printf 'POWER_MODEL: ID=0 NAME=15W\\nTPC_POWER_GATING TPC_PG_MASK 1\\nPOWER_MODEL: ID=1 NAME=25W\\nTPC_POWER_GATING TPC_PG_MASK 1\\n'
    printf 'POWER_MODEL: ID=2 NAME=MAXN_SUPER\\nTPC_POWER_GATING TPC_PG_MASK 0\\nPM_CONFIG: DEFAULT=25W(1)\\n' ;;
-q) read n < $state; set -- 15W 25W MAXN_SUPER; shift $n; printf 'NV Power Mode: %s\\n%s\\n' $1 $n ;;
-m) echo $2 > $state ;;
esac
"""
# As the lab's script starts it; here for a second start after a kill.
SERVICE = """
import os
from jtop.core import config
config.get_config_service = lambda *a, **k: os.environ["JTOP_CFG"]
from jtop.service import JtopServer
JtopServer(force=True).loop_for_ever()
"""


@functools.cache
def missing():
    """Return why the lab cannot be used here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root: private mount and process namespaces"
    if not (LAB / "jtop_on_tree.sh").exists():
        return f"needs the lab, {LAB}/jtop_on_tree.sh"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True, check=False)
    return f"needs the right to unshare: {tried.stderr.strip()}" if tried.returncode else ""


@functools.cache
def venv():
    """Return the folder of a virtual environment with jetson-stats, made once; None when it cannot be had."""
    place = REPO / f".cache/jtop-{VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}"
    if (place / "ready").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    # Never from source: as root that would install and start a systemd unit.
    for command in ([sys.executable, "-m", "venv", place],
                    [place / "bin/pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:", f"jetson-stats=={VERSION}"]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
    (place / "ready").touch()
    return place


def tree(folder, board):
    """Write the /sys of a board, ``nx`` or ``agx``, to ``folder``; return it."""
    subprocess.run([sys.executable, LAB / "make_orin_tree.py", folder, board], check=True)
    return folder


def play(scene, sys_tree, folder, *, nvpmodel=False, timeout_s=50):
    """Run a scene over the tree; return what it printed."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{packages}", "SCENE_FOLDER": str(folder)}
    if nvpmodel:
        (folder / "nvpmodel").write_text(NVPMODEL)
        environment["NVPMODEL"] = str(folder / "nvpmodel")
    done = subprocess.run([LAB / "jtop_on_tree.sh", venv(), sys_tree, venv() / "bin/python", "-m", "tests.helpers.jtop_lab", scene],
                          env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def _service():
    """Return the process ids of the service and its helpers, children last."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"JtopServer" in (folder / "cmdline").read_bytes().split(b"\0", 3)[2]:
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return sorted(found)


def _signal(number):
    pids = _service()
    assert len(pids) >= 3, pids
    for pid in pids:
        os.kill(pid, number)


def _start():
    subprocess.Popen([sys.executable, "-c", SERVICE], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _until(telemetry, wanted, timeout_s=30.0):
    """Sample every 20 ms until ``wanted(reading)``; return the reading and how long it took. No sample may take 50 ms."""
    began = time.monotonic()
    while True:
        before = time.monotonic()
        reading = telemetry.sample()
        # CPU time of this thread would be fairer on a busy machine, but waiting is just what it must not do.
        assert time.monotonic() - before < 0.05, "sample() waited"
        if wanted(reading):
            return reading, time.monotonic() - began
        assert time.monotonic() - began < timeout_s, reading
        time.sleep(0.02)


def _known(reading):
    return reading.watts is not None


def _unknown(reading):
    return reading.watts is None and reading.celsius is None and reading.gpu_load is None and not reading.rails and not reading.zones


def _said(reading):
    return {name: getattr(reading, name) for name in reading.__slots__ if name not in {"events", "alarms"}}


def scene_read(telemetry):
    """Read a board by jtop and by sysfs, change a current, read again."""
    from agent.power.sysfs import SysfsTelemetry

    sysfs = SysfsTelemetry(Path("/sys"))
    first, first_s = _until(telemetry, _known)
    out = {"jtop": _said(first), "sysfs": _said(sysfs.sample()), "first_s": first_s, "name": telemetry.name, "late_s": time.monotonic() - first.at_s}
    CURRENT.write_text("4000\n")
    changed, out["seen_s"] = _until(telemetry, lambda reading: reading.watts != first.watts)
    return {**out, "jtop_after": _said(changed), "sysfs_after": _said(sysfs.sample())}


def scene_killed(telemetry):
    """Kill the service, start it again."""
    _until(telemetry, _known)
    _signal(signal.SIGKILL)
    lost, lost_s = _until(telemetry, _unknown)
    time.sleep(2.0)
    still = telemetry.sample()
    _start()
    _, back_s = _until(telemetry, _known)
    return {"lost": _said(lost), "lost_s": lost_s, "still": _said(still), "back_s": back_s}


def scene_halved(telemetry):
    """Freeze only the part of the service that samples: its manager still answers, with the last sample."""
    _until(telemetry, _known)
    # The last child is the sampling process; the manager was forked before it.
    os.kill(_service()[-1], signal.SIGSTOP)
    lost, lost_s = _until(telemetry, _unknown)
    time.sleep(2.5)  # the client hands the old sample on every three intervals
    out = {"lost_s": lost_s, "lost": _said(lost), "still": _said(telemetry.sample())}
    os.kill(_service()[-1], signal.SIGCONT)
    return {**out, "back_s": _until(telemetry, _known)[1]}


def scene_mismatch(telemetry_of):
    """The client believes that it is of another release."""
    from agent.power.jtop_client import start_method_kept

    with start_method_kept():
        import jtop
    sys.modules[jtop.jtop.__module__].get_var = lambda _pattern: "4.3.2"
    reading, _ = _until(telemetry_of(), lambda seen: seen.trouble and "gave nothing" not in seen.trouble)
    return _said(reading)


def scene_frozen(telemetry):
    """Freeze the service, let it go on; and leave a process while it is frozen."""
    _until(telemetry, _known)
    child = subprocess.Popen([sys.executable, "-m", "tests.helpers.jtop_lab", "connect"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"connected\n"
    _signal(signal.SIGSTOP)
    lost, lost_s = _until(telemetry, _unknown)
    began = time.monotonic()
    child.communicate(timeout=20)
    left_s = time.monotonic() - began
    time.sleep(1.0)
    later = telemetry.sample()
    _signal(signal.SIGCONT)
    return {"lost": _said(lost), "lost_s": lost_s, "later": _said(later), "left_s": left_s, "left": child.returncode,
            "back_s": _until(telemetry, _known)[1]}


def scene_connect(telemetry):
    """Connect, and leave when standard input ends."""
    _until(telemetry, _known)
    print("connected", flush=True)
    sys.stdin.read()
    return {}


def scene_stranger(telemetry_of):
    """Ask as a user who is not in the group."""
    from agent.power import jtop  # noqa: F401 -- nobody may not read the repository

    os.setresgid(65534, 65534, 65534)
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
    return _said(_until(telemetry_of(), lambda seen: seen.trouble and "gave nothing" not in seen.trouble)[0])


def scene_traces(telemetry_of):
    """What is left of the client in the process: start method, log handlers, children, threads."""
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    signals = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    telemetry = telemetry_of()
    _until(telemetry, _known)
    out = {"method": multiprocessing.get_start_method(allow_none=True), "threads": sorted(t.name for t in threading.enumerate()),
           "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(),
           "same": handlers == logging.getLogger().handlers and level == logging.getLogger().level
           and signals == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]}
    telemetry.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    return {**out, "after": [t.name for t in threading.enumerate()]}


def scene_modes(telemetry):
    """Set a power mode, crash, set another, put back; ask for what cannot be."""
    from agent.power.actuator import ActuatorError, PowerActuator

    state = Path(os.environ["SCENE_FOLDER"]) / "power.json"
    out = {"set": PowerActuator("15W", None, state, telemetry).apply(), "tool": Path("/mnt/nvpmodel.state").read_text().strip(),
           "state": json.loads(state.read_bytes())}
    again = PowerActuator("15W", None, state, telemetry)
    out |= {"again": again.apply(), "kept": json.loads(state.read_bytes()), "back": again.restore(),
            "tool_after": Path("/mnt/nvpmodel.state").read_text().strip(), "left": state.exists(), "errors": []}
    for mode, clocks in (("40W", None), ("MAXN_SUPER", None), (None, True)):
        try:
            PowerActuator(mode, clocks, state, telemetry).apply()
        except ActuatorError as error:
            out["errors"].append(str(error))
    return {**out, "touched": state.exists()}


def scene_cost(telemetry):
    """CPU time of the adapter, sampled at its own pace for 20 s."""
    _until(telemetry, _known)
    cpu, began = time.process_time(), time.monotonic()
    while time.monotonic() - began < 20:
        time.sleep(0.5)
        telemetry.sample()
    return {"percent": 100 * (time.process_time() - cpu) / (time.monotonic() - began)}


if __name__ == "__main__":
    from agent.power.jtop import JtopTelemetry

    wanted = globals()[f"scene_{sys.argv[1]}"]
    print(json.dumps(wanted(JtopTelemetry if "telemetry_of" in wanted.__code__.co_varnames else JtopTelemetry())))
