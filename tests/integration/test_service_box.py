"""The service on a real systemd and cgroup v2, as an operator installs it: every way to break it, and back.

Two emulated machines at once. In the first it is installed by the .deb, broken in each way, and purged. In the second the
script installs, upgrades, rolls back and removes it meanwhile, for pip takes minutes there. Both are Jetsons to their
installers (the system's OpenCV, with GStreamer). The first has a V4L2 camera that its kernel makes up, and reports to a
receiver on this machine that asks for the token. What `vedette status` said of each breakage is printed: `-rP` shows it.
"""

import json
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.cli.receiver import Receiver, make_certificates
from tests.helpers import engines, packages, systemd_box
from tests.helpers.systemd_box import ROOT, Box, Service

TOKEN = "a-token-of-this-test"
STATE = "/var/lib/vedette"
UNIT = "/etc/systemd/system/vedette.service.d"
PACKAGES = ("python3-opencv", "gstreamer1.0-plugins-good", "gstreamer1.0-plugins-base")
NEXT = "99.1.0"
HANGS = {"inference": "inference", "postprocess": "postprocess", "writer": "spool", "decoder": "reader-camera", "device": "reader-camera"}
PYTHON = "/opt/vedette/current/bin/python"
RUNS = '[engine]\nrecipe = "small"\nthreads = 1\n'
CAMERA = """
[source.camera]
url = "v4l2:///dev/video0"
width = 320
height = 180
read_timeout = "2s"
max_rate = "2fps"
"""
UPSTREAM = """
[upstream]
url = "{url}"
ca_file = "/etc/vedette/ca.pem"
token = "credential:{token}"
retry_min = "200ms"
retry_max = "2s"
"""
PICTURES = '[source.pictures]\nurl = "images:///opt/test/pictures?loop=1&fps=1"\n'
# Names of backups that usermod and its like leave behind.
LEFT = {"/etc/group-", "/etc/gshadow-", "/etc/passwd-", "/etc/shadow-", "/etc/.pwd.lock", "/etc/subuid-", "/etc/subgid-"}

lacks = systemd_box.missing() or packages.missing()
pytestmark = [pytest.mark.slow, pytest.mark.box, pytest.mark.timeout(1500), pytest.mark.skipif(bool(lacks), reason=lacks or "-")]


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
def make_box(tmp_path_factory):
    """Return what makes and boots a Jetson with files on its disk; deleted at the end, even where it never came up."""
    made = []
    here = tmp_path_factory.mktemp("boxes")
    (here / "model.onnx").write_bytes(engines.detector())
    pictures = engines.pictures(here / "pictures", 4)

    def make(files, config):
        box = Box(Path(tempfile.mkdtemp(prefix="vt-svc-", dir=systemd_box.SHM)))
        made.append(box)
        box.create(PACKAGES, files)
        box.boot()
        box.put({"/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n", "/etc/modules-load.d/vivid.conf": "vivid\n",
                 "/etc/modprobe.d/vivid.conf": "options vivid n_devs=1\n", "/opt/test/pictures": pictures,
                 "/opt/test/hanging_agent.py": ROOT / "tests/helpers/hanging_agent.py",
                 "/opt/test/leaky_agent.py": ROOT / "tests/helpers/leaky_agent.py"})
        before = listing(box)
        box.put({"/etc/vedette/config.toml": config, "/etc/vedette/engines/small/model.onnx": here / "model.onnx",
                 "/etc/vedette/engines/small/recipe.toml": engines.RECIPE.format(name="small", model="file:model.onnx")})
        return box, before

    yield make
    for box in made:
        box.delete()
        shutil.rmtree(box.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def story(make_box):
    """What happens in the second machine, one step after the other: futures of what each step saw."""
    files = {}
    for where, number in (("now", packages.version()), ("next", NEXT)):
        tree, wheels = packages.tree(number), packages.wheelhouse(number, jetson=True)
        files |= dict([*files_of(tree, f"/opt/{where}", "agent", "deploy", "systemd"), *files_of(wheels, f"/opt/{where}-wheels")])
    with ThreadPoolExecutor(1) as machine:
        told = Story(make_box, files)
        yield {name: machine.submit(getattr(told, name)) for name in ("install", "damaged", "upgrade", "fails", "back", "uninstall", "purge")}
        told.over = True


class Story:
    """The life of an installation by script; each step returns what the tests look at."""

    over = False

    def __init__(self, make_box, files):
        self.make_box, self.files = make_box, files

    def script(self, *words, of="/opt/next/deploy/install.sh"):
        assert not self.over, "the tests have ended"
        said = self.box.run("sh", "-c", f"sh {of} {' '.join(words)}; echo rc=$?", timeout_s=1200)
        print(f"--- install.sh {' '.join(words)}\n{said}")
        return said

    def seen(self, said):
        status = self.service.status()
        sums = self.box.run("sh", "-c", "sha256sum /etc/vedette/config.toml /etc/vedette/engines/small/*")
        return said, self.service.state, status and status["version"], committed(self.box), sums

    def install(self):
        self.box, self.before = self.make_box(self.files, f"[device]\nid = 'second'\n{PICTURES}{RUNS}")
        self.service = Service(self.box)
        return self.seen(self.script("--offline", "/opt/now-wheels", of="/opt/now/deploy/install.sh"))

    def damaged(self):
        self.box.run("sh", "-c", "cp -r /opt/next-wheels /opt/next-damaged; for wheel in /opt/next-damaged/click*; do echo >> $wheel; done")
        return self.seen(self.script("--offline", "/opt/next-damaged"))

    def upgrade(self):
        return self.seen(self.script("--offline", "/opt/next-wheels"))

    def fails(self):
        """Go to a version that starts, and does not get ready."""
        old = next(name for name in self.box.run("ls", "/opt/vedette/versions").split() if not name.startswith(NEXT))
        code = f"/opt/vedette/versions/{old}/lib/python3.11/site-packages/agent/supervisor.py"
        self.box.run("sh", "-c", f"cp {code} /tmp/whole.py; echo 'raise SystemExit(70)' > {code}")
        found = self.seen(self.script("--rollback", of="/opt/vedette/current/share/vedette/install.sh"))
        told = self.service.told("an upgrade has failed")
        self.box.run("mv", "/tmp/whole.py", code)
        return (*found, told)

    def back(self):
        return self.seen(self.script("--rollback", of="/opt/vedette/current/share/vedette/install.sh"))

    def uninstall(self):
        self.script("--uninstall")
        return listing(self.box) - self.before

    def purge(self):
        self.script("--uninstall", "--purge")
        return listing(self.box) ^ self.before


@pytest.fixture(scope="module")
def before():
    """The first machine's files before anything was installed."""
    return set()


@pytest.fixture(scope="module")
def service(request, make_box, before, receiver):
    """Installed by the .deb, with a configuration, a recipe and a credential that lay there already; it runs."""
    if any("story" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("story")  # it takes longest: it must begin first
    deb = packages.deb(jetson=True)
    url = receiver.url.replace("127.0.0.1", "10.0.2.2")
    box, files = make_box({"/opt/deb/vedette.deb": deb}, f"[device]\nid = 'box'\n{CAMERA}{RUNS}{UPSTREAM.format(url=url, token='upstream-token')}")
    before |= files
    box.put({"/etc/vedette/ca.pem": receiver.certificates.ca_file, "/etc/vedette/credentials/upstream-token": TOKEN})
    box.run("modprobe", "vivid", "n_devs=1")
    said = box.run("dpkg", "-i", "/opt/deb/vedette.deb", timeout_s=600)
    running = Service(box)
    assert running.state == "active", said
    box.run("useradd", "stranger")
    box.run("useradd", "-G", "vedette", "warden")
    return running


def files_of(folder, where, *parts):
    for part in parts or (".",):
        for path in (folder / part).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{where}/{path.relative_to(folder)}", path


def listing(box):
    left_out = ("/tmp", "/var/tmp", "/var/log", "/var/cache", "/opt/now*", "/opt/next*", "/opt/deb*", "/var/lib/systemd", "/var/lib/dpkg", "/run")
    said = box.run("find", "/", "-xdev", "(", *" -o ".join(f"-path {path}" for path in left_out).split(), ")", "-prune", "-o", "-print")
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


def drop_in(service, text):
    service.box.put({f"{UNIT}/60-test.conf": f"[Service]\n{text}\n"})
    service.box.run("systemctl", "daemon-reload")


def drop_out(service):
    service.box.run("sh", "-c", f"rm -f {UNIT}/60-test.conf; systemctl daemon-reload; systemctl restart vedette", timeout_s=200)


def test_installed_by_the_deb_it_is_ready_and_reports_what_its_camera_sees(service, receiver):
    shown = service.shown("ActiveState", "SubState", "UnitFileState", "NRestarts")
    assert (shown["ActiveState"], shown["SubState"], shown["UnitFileState"], shown["NRestarts"]) == ("active", "running", "enabled", "0"), shown
    service.until(lambda: "1 of 1 sources live" in service.shown("StatusText")["StatusText"], 60, "its camera is live")
    service.until(lambda: any(event["type"] == "detection" for event in receiver.events()), 60, "detections arrive")
    assert receiver.refused == 0, "the credential is the token"
    service.until(lambda: service.status()["state"] == "running", 60, "all is well")
    assert "VEDETTE OK" in service.told("in good order")


@pytest.fixture(scope="module")
def doctor(service):
    """What the whole `vedette doctor --json` says of a configuration that asks for two things the unit does not give; a future."""
    text = service.box.run("cat", "/etc/vedette/config.toml").replace("upstream-token", "forgotten")
    service.box.put({"/etc/vedette/wrong.toml": f'{text}\n[source.clip]\nurl = "file:///home/somebody/clip.mp4"\n'})
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(service.box.run, "sh", "-c", "vedette doctor --json -c /etc/vedette/wrong.toml 2>/dev/null; rm /etc/vedette/wrong.toml", timeout_s=600)


@pytest.mark.usefixtures("doctor")
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


def test_a_network_that_is_gone_fills_the_spool_and_one_that_is_back_drains_it(service, receiver):
    pid = service.pid
    service.box.link("down")
    service.until(lambda: service.status()["spool"]["depth"] > 20, 120, "the spool fills")
    # A request that was under way waits for its answer as long as [upstream] timeout allows.
    service.until(lambda: service.status()["state"] == "degraded", 60, "it says so")
    told, arrived = service.told("the network is down", doctor=True), receiver.received
    service.box.link("up")
    service.until(lambda: service.status()["spool"]["depth"] < 5, 120, "the spool drains")
    assert receiver.received > arrived
    assert service.pid == pid, "no reason to end"
    assert "VEDETTE WARNING" in told
    assert "upstream is retrying" in told
    service.told("the network is back")


def test_doctor_finds_what_the_unit_hides_and_nothing_else_of_it(doctor):
    report = json.loads(doctor.result(600))
    rows = {row["name"]: row for section in report["sections"] if section["name"] in {"service", "sandbox"} for row in section["rows"]}
    verdicts = {name: row["verdict"] for name, row in rows.items()}
    assert verdicts.pop("files") == "fail", rows
    assert verdicts.pop("credentials") == "fail", rows
    assert set(verdicts.values()) == {"ok"}, rows
    assert "/home/somebody/clip.mp4" in rows["files"]["found"]
    assert "ProtectHome" in rows["files"]["found"]
    assert "credential forgotten" in rows["credentials"]["found"] or "/forgotten" in rows["credentials"]["found"]


def test_doctor_knows_which_credentials_the_unit_is_given(service):
    assert "credentials" not in service.told("doctor again", doctor=True), "that row is ok, so it is not printed"


def test_killed_it_comes_back_with_its_spool_whole(service):
    pid, had = service.pid, committed(service.box)
    service.box.run("systemctl", "kill", "-s", "KILL", "vedette")
    service.told("SIGKILL, at once")
    service.until_ready(not_pid=pid)
    assert service.shown("NRestarts")["NRestarts"] == "1"
    assert committed(service.box) >= had
    assert is_whole(service.box)
    assert "by signal (killed KILL)" in service.told("SIGKILL, afterwards", doctor=True)


def test_stopped_by_a_signal_the_watchdog_ends_it(service):
    """With the limit it is shipped with, 30 s."""
    pid, since = service.until_ready(), service.now()
    service.box.run("kill", "-STOP", str(pid))
    told = service.told("SIGSTOP, while it stands", doctor=True)
    service.until_ready(180, not_pid=pid)
    assert "Watchdog timeout (limit 30s)" in service.journal(since)
    assert "VEDETTE CRITICAL" in told
    assert "watchdog" in service.told("SIGSTOP, afterwards").split("last run", 1)[1].splitlines()[0]


@pytest.fixture(scope="module")
def breakable(service):
    """It runs with parts that hang when a file appears."""
    service.box.run("mkdir", "-p", "/run/hang")
    drop_in(service, f"WatchdogSec=12\nExecStart=\nExecStart={PYTHON} /opt/test/hanging_agent.py /run/hang 10 run")
    service.box.run("systemctl", "restart", "vedette", timeout_s=200)
    yield service
    # By now the package may be gone.
    service.box.run("sh", "-c", f"rm -f {UNIT}/60-test.conf; systemctl daemon-reload; systemctl try-restart vedette", check=False, timeout_s=200)


@pytest.mark.parametrize("stage", HANGS)
def test_a_stage_that_hangs_trips_the_watchdog(breakable, stage):
    service, silent = breakable, f"{HANGS[stage]} has not moved for"
    pid, since = service.until_ready(), service.now()
    service.box.run("touch", f"/run/hang/{stage}")
    service.until(lambda: silent in service.journal(since), 120, "it is found out")
    told = service.told(f"{stage} hangs, found out")
    service.until_ready(180, not_pid=pid)
    assert "Watchdog timeout" in service.journal(since)
    assert silent in told or "the watchdog ended it" in told, "unless it ended before the answer"
    assert "the watchdog ended it" in service.told(f"{stage} hangs, afterwards")
    assert is_whole(service.box)


def test_memory_without_end_is_cut_off_and_the_spool_is_whole(service):
    drop_in(service, f"MemoryHigh=infinity\nMemoryMax=300M\nMemorySwapMax=0\nExecStart=\nExecStart={PYTHON} /opt/test/leaky_agent.py 20 run")
    service.box.put({"/etc/vedette/conf.d/10-off.toml": '[budget]\npolicy = "off"\n'})
    pid, killed = service.pid, service.box.killed()
    service.box.run("systemctl", "restart", "--no-block", "vedette")
    service.until(lambda: service.box.killed() > killed, 120, "the kernel kills it")
    told = service.told("memory without end")
    service.box.run("rm", "/etc/vedette/conf.d/10-off.toml")
    drop_out(service)
    service.until_ready(not_pid=pid)
    assert is_whole(service.box)
    assert "memory ran out" in told + service.told("memory without end, mended") + service.box.run("cat", f"{STATE}/runs.json")


def test_a_configuration_that_cannot_be_used_is_not_tried_again_and_again(service):
    service.box.put({"/etc/vedette/conf.d/10-wrong.toml": "[engine]\nthreads = 'many'\n"})
    service.box.run("systemctl", "restart", "vedette", check=False, timeout_s=120)
    service.until(lambda: service.state == "failed", 30, "it gives up")
    assert service.shown("ExecMainStatus")["ExecMainStatus"] == "78"
    assert "threads" in service.journal()
    assert "rc=2" in service.told("a configuration that cannot be used", doctor=True)
    service.box.run("rm", "/etc/vedette/conf.d/10-wrong.toml")
    service.box.run("systemctl", "restart", "vedette", timeout_s=200)
    assert service.state == "active"
    service.told("the configuration is mended")


def test_stopped_while_events_wait_it_has_not_failed(service):
    service.box.link("down")
    service.until(lambda: service.status()["spool"]["depth"] > 5, 120, "events wait")
    service.box.run("systemctl", "stop", "vedette", timeout_s=120)
    shown, told = service.shown("ActiveState", "Result", "ExecMainStatus"), service.told("stopped", doctor=True)
    service.box.link("up")
    service.box.run("systemctl", "start", "vedette", timeout_s=200)
    assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success"), shown
    assert "rc=2" in told


def test_a_reboot_brings_it_back(service):
    had = committed(service.box)
    service.box.reboot()
    service.told("right after the reboot")
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
    service.told("after a power cut")
    numbers, lost = delivered(receiver)
    missing = set(range(1, had + 1)) - numbers - lost
    assert not missing, f"of {had}: {sorted(missing)[:20]}"


def test_purged_the_package_leaves_nothing(service, before):
    box = service.box
    box.run("userdel", "stranger")
    box.run("userdel", "warden")
    box.run("dpkg", "-r", "vedette", timeout_s=300)
    kept = listing(box) - before
    assert {f"{STATE}/spool.sqlite", "/etc/vedette/config.toml"} <= kept
    assert not any(path.startswith(("/opt/vedette", "/usr/bin/vedette")) for path in kept), kept
    box.run("dpkg", "-P", "vedette", timeout_s=300)
    assert listing(box) ^ before <= LEFT


@pytest.mark.long
def test_the_script_installs_without_a_network(story):
    said, state, version, _, _ = story["install"].result()
    assert "rc=0" in said
    assert (state, version) == ("active", packages.version())


@pytest.mark.long
def test_an_upgrade_from_a_damaged_wheelhouse_leaves_the_old_version_running(story):
    said, state, version, _, _ = story["damaged"].result()
    assert "rc=1" in said
    assert (state, version) == ("active", packages.version())


@pytest.mark.long
def test_an_upgrade_keeps_state_and_configuration(story):
    _, _, _, had, settings = story["damaged"].result()
    said, state, version, has, kept = story["upgrade"].result()
    assert "rc=0" in said, said
    assert (state, version) == ("active", NEXT)
    assert has >= had
    assert kept == settings


@pytest.mark.long
def test_a_version_that_does_not_get_ready_gives_way_to_the_one_before(story):
    said, state, version, _, _, told = story["fails"].result()
    assert "rc=1" in said
    assert (state, version) == ("active", NEXT), said
    assert NEXT in told
    assert "it never began its work: it ended with exit code 70" in " ".join(told.split())


@pytest.mark.long
def test_a_rollback_goes_back_to_the_version_before(story):
    said, state, version, _, _ = story["back"].result()
    assert "rc=0" in said, said
    assert (state, version) == ("active", packages.version())


@pytest.mark.long
def test_uninstalled_it_keeps_state_and_settings_and_purged_nothing(story):
    kept = story["uninstall"].result()
    assert {f"{STATE}/spool.sqlite", "/etc/vedette/config.toml"} <= kept
    assert not any(path.startswith(("/opt/vedette", "/usr/local/bin/vedette", "/usr/local/lib/systemd")) for path in kept), kept
    assert story["purge"].result() <= LEFT
