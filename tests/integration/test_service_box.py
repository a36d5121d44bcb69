"""The service on a real systemd, cgroup v2, as root installs it: every way to break it, and back.

One emulated machine for all, in this order: installed by script; broken in each way; upgraded; removed; the .deb. It is
a Jetson to the installer (its OpenCV with GStreamer is the system's), with a V4L2 camera that the kernel makes up, and it
reports to a receiver on this machine that asks for the token. All waits are long: it has no KVM.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agent.cli.receiver import Receiver, make_certificates
from tests.helpers import engines, media, systemd_box
from tests.helpers.systemd_box import ROOT, Box, Service

TOKEN = "a-token-of-this-test"
STATE = "/var/lib/vedette"
UNIT = "/etc/systemd/system/vedette.service.d"
PACKAGES = ("python3-opencv", "gstreamer1.0-plugins-good", "gstreamer1.0-plugins-base")
HANGS = {"inference": "inference", "postprocess": "postprocess", "writer": "spool", "decoder": "reader-camera", "device": "reader-camera"}

CONFIG = """
[device]
id = "box"
[source.camera]
url = "v4l2:///dev/video0"
width = 320
height = 180
read_timeout = "2s"
max_rate = "2fps"
[engine]
recipe = "small"
threads = 1
[upstream]
url = "{url}"
ca_file = "/etc/vedette/ca.pem"
token = "credential:upstream-token"
retry_min = "200ms"
retry_max = "2s"
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900),
              pytest.mark.skipif(bool(systemd_box.missing()), reason=systemd_box.missing() or "-")]


class Guarded(Receiver):
    """Takes events with the right token only."""

    refused = 0

    def respond(self, request, body):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refused += 1
            request.send_error(401)
            return
        super().respond(request, body)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("receiver")
    with Guarded(folder, certificates=make_certificates(folder, "10.0.2.2")) as running:
        yield running


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Source tree and wheelhouse of this version and of the next one."""
    here, wheels = tmp_path_factory.mktemp("trees"), media.cache_folder() / "box-wheels"
    found = []
    for name, version in (("now", None), ("next", "99.1.0")):
        tree = here / name
        tree.mkdir()
        for part in ("agent", "engines", "deploy", "systemd", "docs", "pyproject.toml", "README.md", "LICENSE"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, tree / part, **({"ignore": shutil.ignore_patterns("__pycache__")} if (ROOT / part).is_dir() else {}))
        if version:
            init = tree / "agent/__init__.py"
            init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
        subprocess.run([sys.executable, tree / "deploy/wheelhouse", wheels, "--python", "3.11", "--arch", "x86_64", "--jetson"], check=True,
                       capture_output=True, timeout=300)
        shutil.copytree(wheels, here / f"{name}-wheels")
        found.append((tree, here / f"{name}-wheels"))
    return found


def files_of(folder, where, *parts):
    for part in parts or (".",):
        for path in ([folder / part] if (folder / part).is_file() else (folder / part).rglob("*")):
            if path.is_file():
                yield f"{where}/{path.relative_to(folder)}", path


@pytest.fixture(scope="module")
def box(trees):
    (now, now_wheels), (later, later_wheels) = trees
    made = Box(Path(tempfile.mkdtemp(prefix="vt-svc-", dir=systemd_box.SHM)))
    try:
        made.create(PACKAGES, dict([*files_of(now, "/opt/now", "agent", "deploy", "systemd"), *files_of(now_wheels, "/opt/now-wheels"),
                                    *files_of(later, "/opt/next", "agent", "deploy", "systemd"),
                                    *files_of(later_wheels, "/opt/next-wheels")]))
        made.boot()
        made.put({"/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n", "/etc/modules-load.d/vivid.conf": "vivid\n",
                  "/etc/modprobe.d/vivid.conf": "options vivid n_devs=1\n", "/opt/test/hanging_agent.py": ROOT / "tests/helpers/hanging_agent.py",
                  "/opt/test/leaky_agent.py": ROOT / "tests/helpers/leaky_agent.py"})
        made.run("modprobe", "vivid", "n_devs=1")
        made.run("useradd", "stranger")
        made.run("useradd", "warden")
        yield made
    finally:
        made.delete()
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def before(box):
    """All files of the box before anything was installed."""
    return listing(box)


@pytest.fixture(scope="module")
def service(box, before, receiver, tmp_path_factory):
    """Installed by the script with a configuration, a recipe and a credential that lay there already; it runs."""
    here = tmp_path_factory.mktemp("etc")
    (here / "model.onnx").write_bytes(engines.detector())
    box.put({"/etc/vedette/config.toml": CONFIG.format(url=receiver.url.replace("127.0.0.1", "10.0.2.2")),
             "/etc/vedette/ca.pem": receiver.certificates.ca_file, "/etc/vedette/credentials/upstream-token": TOKEN,
             "/etc/vedette/engines/small/model.onnx": here / "model.onnx",
             "/etc/vedette/engines/small/recipe.toml": engines.RECIPE.format(name="small", model="file:model.onnx")})
    said = box.run("sh", "/opt/now/deploy/install.sh", "--offline", "/opt/now-wheels", timeout_s=600)
    running = Service(box)
    assert running.state == "active", said
    box.run("usermod", "-aG", "vedette", "warden")
    return running


def listing(box):
    said = box.run("find", "/", "-xdev", "(", "-path", "/tmp", "-o", "-path", "/var/tmp", "-o", "-path", "/var/log", "-o", "-path", "/var/cache", "-o",
                   "-path", "/opt/now*", "-o", "-path", "/opt/next*", "-o", "-path", "/opt/deb*", "-o", "-path", "/var/lib/systemd", "-o", "-path",
                   "/run", ")", "-prune", "-o", "-print")
    return {line for line in said.splitlines() if "__pycache__" not in line}


def as_user(box, user, command):
    return box.run("su", user, "-s", "/bin/sh", "-c", f"{command}; echo rc=$?", check=False)


def delivered(receiver):
    """Sequences that have arrived, and those that were declared as lost."""
    events = receiver.events()
    numbers = {int(event["sequence"]) for event in events if "sequence" in event}
    gaps = [event["data"] for event in events if event["type"] == "gap" and event["data"]["last"] is not None]
    lost = {number for gap in gaps for number in range(gap["first"], gap["last"] + 1)}
    return numbers, lost


def committed(box):
    """The highest sequence that is on the disk, whether the agent runs or not."""
    return json.loads(box.run("vedette", "spool", "status", "--json"))["sequence"]


def is_whole(box):
    return "proven" in box.run("vedette", "spool", "verify", check=False)


def drop_in(service, text, name="60-test.conf"):
    service.box.put({f"{UNIT}/{name}": f"[Service]\n{text}\n"})
    service.box.run("systemctl", "daemon-reload")


def drop_out(service, name="60-test.conf"):
    service.box.run("rm", "-f", f"{UNIT}/{name}")
    service.box.run("systemctl", "daemon-reload")
    service.box.run("systemctl", "restart", "vedette", timeout_s=200)


def test_installed_it_is_ready_and_reports_what_its_camera_sees(service, receiver):
    shown = service.shown("ActiveState", "SubState", "StatusText", "UnitFileState", "NRestarts", "User")
    assert (shown["ActiveState"], shown["SubState"], shown["UnitFileState"], shown["NRestarts"]) == ("active", "running", "enabled", "0"), shown
    assert "1 of 1 sources live" in shown["StatusText"], shown
    service.until(lambda: any(event["type"] == "detection" for event in receiver.events()), 60, "detections arrive")
    assert receiver.refused == 0, "the credential is the token"


def test_it_runs_without_privileges_within_the_promised_sandbox(service):
    said = service.box.run("cat", f"/proc/{service.pid}/status")
    values = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert values["CapBnd"].strip("0") == ""
    assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")
    assert "0" not in values["Uid"].split()
    rated = service.box.run("systemd-analyze", "security", "--no-pager", "vedette.service")
    assert float(re.search(r"Overall exposure level for \S+: ([\d.]+)", rated)[1]) <= 2.0
    assert "synchronised" in service.status()["upstream"]["clock"], "adjtimex may be asked"


def test_its_lines_in_the_journal_have_fields(service):
    lines = [json.loads(line) for line in service.journal(output="json").splitlines()]
    assert any(line.get("VEDETTE_SOURCE") == "camera" and line.get("MESSAGE_ID") for line in lines)
    assert any(line.get("VEDETTE_STAGE") for line in lines)
    assert TOKEN not in service.journal(output="json")


def test_members_of_its_group_may_ask_it_and_nobody_else(service):
    assert as_user(service.box, "warden", "vedette status --check").splitlines()[-1] in {"rc=0", "rc=1"}
    refused = as_user(service.box, "stranger", "vedette status")
    assert "rc=0" not in refused
    assert "ermission" in refused
    assert "rc=0" not in as_user(service.box, "warden", "cat /etc/vedette/credentials/upstream-token")


def test_killed_it_comes_back_with_its_spool_whole(service):
    pid, had = service.pid, committed(service.box)
    service.box.run("systemctl", "kill", "-s", "KILL", "vedette")
    service.until_ready(not_pid=pid)
    assert service.shown("NRestarts")["NRestarts"] == "1"
    assert committed(service.box) >= had
    assert is_whole(service.box)


def test_stopped_by_a_signal_the_watchdog_ends_it(service):
    drop_in(service, "WatchdogSec=12")
    service.box.run("systemctl", "restart", "vedette", timeout_s=200)
    pid, since = service.until_ready(), service.now()
    service.box.run("kill", "-STOP", str(pid))
    service.until_ready(not_pid=pid)
    assert "Watchdog timeout" in service.journal(since)
    assert "watchdog" in service.box.run("vedette", "status").split("last run", 1)[1].splitlines()[0]


@pytest.fixture(scope="module")
def breakable(service):
    """It runs with parts that hang when a file appears."""
    service.box.run("mkdir", "-p", "/run/hang")
    drop_in(service, "WatchdogSec=12\nExecStart=\nExecStart=/opt/vedette/current/bin/python /opt/test/hanging_agent.py /run/hang 10 run")
    service.box.run("systemctl", "restart", "vedette", timeout_s=200)
    yield service
    drop_out(service)


@pytest.mark.parametrize("stage", HANGS)
def test_a_stage_that_hangs_trips_the_watchdog(breakable, stage):
    service = breakable
    pid, since = service.until_ready(), service.now()
    service.box.run("touch", f"/run/hang/{stage}")
    service.until_ready(180, not_pid=pid)
    said = service.journal(since)
    assert f"{HANGS[stage]} has not moved for" in said
    assert "Watchdog timeout" in said
    assert is_whole(service.box)


def test_memory_without_end_is_cut_off_and_the_spool_is_whole(service):
    drop_in(service, "MemoryHigh=infinity\nMemoryMax=300M\nMemorySwapMax=0\nExecStart=\nExecStart=/opt/vedette/current/bin/python /opt/test/leaky_agent.py 20 run")
    service.box.put({"/etc/vedette/conf.d/10-off.toml": '[budget]\npolicy = "off"\n'})
    pid, killed = service.pid, service.box.killed()
    service.box.run("systemctl", "restart", "--no-block", "vedette")
    service.until(lambda: service.box.killed() > killed, 120, "the kernel kills it")
    service.box.run("rm", "/etc/vedette/conf.d/10-off.toml")
    drop_out(service)
    service.until_ready(not_pid=pid)
    assert is_whole(service.box)
    assert "memory ran out" in service.box.run("vedette", "status", check=False) + service.box.run("cat", f"{STATE}/runs.json")


def test_a_configuration_that_cannot_be_used_is_not_tried_again_and_again(service):
    service.box.put({"/etc/vedette/conf.d/10-wrong.toml": "[engine]\nthreads = 'many'\n"})
    service.box.run("systemctl", "restart", "vedette", check=False, timeout_s=120)
    service.until(lambda: service.state == "failed", 30, "it gives up")
    assert service.shown("ExecMainStatus")["ExecMainStatus"] == "78"
    assert "threads" in service.journal()
    assert as_user(service.box, "root", "vedette status --check").splitlines()[-1] == "rc=2"
    service.box.run("rm", "/etc/vedette/conf.d/10-wrong.toml")
    service.box.run("systemctl", "restart", "vedette", timeout_s=200)
    assert service.state == "active"


def test_a_network_that_is_gone_fills_the_spool_and_one_that_is_back_drains_it(service, receiver):
    pid = service.pid
    service.box.link("down")
    service.until(lambda: service.status()["spool"]["depth"] > 20, 120, "the spool fills")
    arrived = receiver.received
    service.box.link("up")
    service.until(lambda: service.status()["spool"]["depth"] < 5, 120, "the spool drains")
    assert receiver.received > arrived
    assert service.pid == pid, "no reason to end"


def test_a_reboot_brings_it_back(service):
    had = committed(service.box)
    service.box.reboot()
    service.until_ready()
    assert committed(service.box) >= had


def test_a_power_cut_loses_nothing_that_was_committed(service, receiver):
    service.box.link("down")
    service.until(lambda: service.status()["spool"]["depth"] > 10, 120, "there is something to lose")
    had = committed(service.box)
    service.box.power_cut()
    service.box.boot()
    service.until_ready()
    assert is_whole(service.box)
    service.until(lambda: service.status()["spool"]["depth"] < 5, 120, "the spool drains")
    numbers, lost = delivered(receiver)
    missing = set(range(1, had + 1)) - numbers - lost
    assert not missing, f"of {had}: {sorted(missing)[:20]}"


def test_an_upgrade_keeps_state_and_a_failed_one_leaves_the_old_version_running(service):
    box, had = service.box, committed(service.box)
    settings = box.run("sha256sum", "/etc/vedette/config.toml")
    damaged = box.run("sh", "-c", "cp -r /opt/next-wheels /opt/next-damaged; for w in /opt/next-damaged/click*; do echo >> $w; done; "
                      "sh /opt/next/deploy/install.sh --offline /opt/next-damaged; echo rc=$?")
    assert "rc=1" in damaged
    assert service.status()["version"] != "99.1.0"
    box.run("sh", "/opt/next/deploy/install.sh", "--offline", "/opt/next-wheels", timeout_s=600)
    assert service.state == "active"
    assert service.status()["version"] == "99.1.0"
    assert committed(box) >= had
    assert box.run("sha256sum", "/etc/vedette/config.toml") == settings
    # Back to a version that does not get ready any more: the new one is put back.
    old = next(name for name in box.run("ls", "/opt/vedette/versions").split() if not name.startswith("99."))
    box.run("sh", "-c", f"cd /opt/vedette/versions/{old}/lib/python3*/site-packages/agent && echo 'raise SystemExit(70)' > supervisor.py")
    said = box.run("sh", "-c", "sh /opt/vedette/current/share/vedette/install.sh --rollback; echo rc=$?", timeout_s=300)
    assert "rc=1" in said, said
    service.until_ready()
    assert service.status()["version"] == "99.1.0"


def test_purged_it_leaves_nothing(service, before):
    box = service.box
    box.run("sh", "-c", f"rm -rf {UNIT}; cp /opt/vedette/current/share/vedette/install.sh /tmp")
    box.run("sh", "/opt/next/deploy/install.sh", "--uninstall")
    kept = listing(box) - before
    assert {f"{STATE}/spool.sqlite", "/etc/vedette/config.toml"} <= kept
    assert not any(path.startswith(("/opt/vedette", "/usr/local/bin/vedette", "/usr/local/lib/systemd")) for path in kept), kept
    box.run("sh", "/opt/next/deploy/install.sh", "--uninstall", "--purge")
    assert listing(box) ^ before <= {"/etc/group-", "/etc/gshadow-", "/etc/passwd-", "/etc/shadow-", "/etc/.pwd.lock"}
