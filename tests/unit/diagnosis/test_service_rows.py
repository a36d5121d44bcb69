"""Verdicts on the service, its user and its sandbox, one made fact at a time."""

import pytest
from msgspec.structs import replace

from agent.diagnosis.checks import checks
from agent.diagnosis.facts import StateDirectory, Wanted
from agent.diagnosis.rows import exit_code
from agent.diagnosis.sandbox_rows import allowed
from agent.diagnosis.service_facts import Needed, Node, Sandbox, Secret
from tests.unit.diagnosis.made import FACTS, NODES, SANDBOX, SERVICE, UNIT, around, rows, service, told
from tests.unit.diagnosis.test_checks import BARE

RUNNING = SERVICE.running
DEAD = replace(RUNNING, answers="nobody", said="no agent answers", version="", alive=None)


def unit(**changes):
    return service(unit=replace(UNIT, **changes))


def needed(key, path, access="yes", **more):
    return service(files=(*SERVICE.files, Needed(key=key, path=path, access=access, **more)))


def secret(**changes):
    return service(secrets=(replace(SERVICE.secrets[0], **changes),))


HIDDEN_CLIP = Needed(key="source.clip.url", path="/home/me/clip.mp4", access="yes", hidden="ProtectHome=yes")


@pytest.mark.parametrize(("facts", "name", "verdict", "fatal", "words"), [
    (FACTS, "service", "ok", False, ("enabled, active (running) for 2 h: 2 of 2 sources live",)),
    (unit(active_state="failed", sub_state="failed", result="watchdog"), "service", "fail", True, ("failed (failed, watchdog)", "journalctl -u vedette")),
    (unit(active_state="activating", sub_state="auto-restart", result="exit-code", exec_status=78), "service", "fail", True, ("exit code 78",)),
    (unit(active_state="inactive", sub_state="dead", main_pid=0), "service", "fail", True, ("does not run", "enable --now")),
    (unit(unit_file_state="masked", active_state="inactive"), "service", "fail", True, ("unmask",)),
    (unit(unit_file_state="disabled"), "service", "warn", False, ("next boot",)),
    (unit(restarts=4), "service", "warn", False, ("4 times",)),
    (unit(load_state="not-found"), "service", "ok", False, ("not installed; an agent runs all the same",)),
    (service(unit=None), "service", "unknown", False, ("no answer",)),
    (service(unit=None, systemd=False, running=DEAD), "service", "ok", False, ("no systemd runs here |",)),
    (service(last_end="watchdog", last_words="the watchdog ended it"), "last run", "warn", False, ("the watchdog ended it",)),
    (service(last_end="stopped", last_words="it was stopped"), "last run", "ok", False, ("it was stopped",)),
    (FACTS, "status socket", "ok", False, ("answers: running, pid 77",)),
    (service(running=replace(RUNNING, alive=False, stale="infer, silent for 31 s")), "status socket", "fail", True, ("stands still (infer, silent for 31 s)", "--bundle")),
    (service(running=replace(DEAD, answers="hangs", said="process 77 hangs", state="", pid=77)), "status socket", "fail", True, ("process 77 hangs | the watchdog restarts it",)),
    (service(running=replace(DEAD, answers="hangs", said="process 77 is stopped", state="stopped", pid=77)), "status socket", "fail", True, ("stopped | `sudo kill -CONT 77`", "restart")),
    (service(running=DEAD), "status socket", "fail", True, ("nobody answers", "restart")),
    (service(running=DEAD, unit=replace(UNIT, active_state="activating", sub_state="start")), "status socket", "warn", False, ("starting",)),
    (service(running=DEAD, unit=replace(UNIT, active_state="failed", main_pid=0)), "status socket", "ok", False, ("no agent runs",)),
    (service(running=replace(DEAD, answers="not permitted", said="not permitted")), "status socket", "unknown", False, ("usermod -aG vedette",)),
    (service(running=replace(DEAD, answers="another version", said="of another version")), "status socket", "unknown", False, ("same installation",)),
    (service(running=replace(RUNNING, version="0.5.0")), "version", "warn", False, ("0.5.0 runs, 0.6.0 is on the disk", "restart vedette")),
    (unit(need_reload=True), "unit files", "warn", False, ("daemon-reload",)),
    (unit(drop_ins=()), "unit files", "warn", False, ("50-box.conf is not there", "vedette-setup")),
    (service(account=None), "user", "fail", True, ("there is no user vedette",)),
    (service(sandbox=None), "sandbox", "unknown", False, ("did not say",)),
    (service(sandbox=replace(SANDBOX, devices=SANDBOX.devices[:2])), "devices", "fail", True, ("does not allow /dev/nvmap", "vedette-setup")),
    (service(sandbox=replace(SANDBOX, private_devices=True)), "devices", "fail", True, ("/dev/video0",)),
    (service(nodes=(*NODES[:2], replace(NODES[2], access="no"))), "devices", "fail", True, ("user vedette may not open /dev/video0", "to video")),
    (service(nodes=(*NODES, Node(path="/dev/video1", driver="video4linux", group="video", access="no"))), "devices", "ok", False, ("not needed: /dev/video1",)),
    (service(nodes=()), "devices", "ok", False, ("no camera and no GPU",)),
    (service(files=(*SERVICE.files, HIDDEN_CLIP)), "files", "fail", False, ("/home/me/clip.mp4", "ProtectHome=yes hides it", "/var/lib/vedette")),
    (needed("engine.recipes", "/home/me/recipes", hidden="ProtectHome=yes"), "files", "fail", True, ("engine.recipes",)),
    (needed("source.csi.url", "/tmp/argus_socket", hidden="PrivateTmp=yes"), "files", "fail", False, ("vedette-setup", "nvargus-daemon")),
    (needed("upstream.ca_file", "/etc/ca.pem", "no"), "files", "fail", True, ("user vedette may not read it", "chgrp")),
    (needed("upstream.ca_file", "/etc/ca.pem", "not there"), "files", "fail", True, ("is not there", "correct the path")),
    (needed("source.cam.url", "/dev/video9", "not there", write=True), "files", "ok", False, ()),
    (needed("configuration", "/etc/c.toml", "not known"), "files", "unknown", False, ("sudo",)),
    (FACTS, "credentials", "ok", False, ("is given token",)),
    (secret(loaded=False), "credentials", "fail", True, ("not given credential token", "vedette-setup")),
    (secret(there=False), "credentials", "fail", True, ("there is no /etc/vedette/credentials/token", "0600")),
    (secret(there=None), "credentials", "ok", False, ("token",)),
    (service(strangers=("/var/lib/vedette/engines (root)",)), "owner of its folders", "fail", False, ("engines (root)", "chown -R vedette: /var/lib/vedette")),
    (service(runtime_owner="root"), "owner of its folders", "warn", False, ("root's",)),
])
def test_verdict_cause_and_remedy(facts, name, verdict, fatal, words):
    found = told(facts, name)
    assert found[:2] == (verdict, fatal), found
    for word in words:
        assert word in found[2], found


def test_devices_of_the_gpu_count_only_where_the_gpu_is_asked_for_or_a_csi_camera():
    blocked = replace(SERVICE, sandbox=replace(SANDBOX, devices=SANDBOX.devices[:1]))
    assert told(replace(FACTS, service=blocked), "devices")[0] == "fail"
    calm = replace(FACTS, service=blocked, wanted=BARE.wanted)
    assert told(calm, "devices")[0] == "ok"
    csi = around(sources=(replace(FACTS.around.sources[0], url="csi://0"),))
    assert told(replace(calm, around=csi.around), "devices")[0] == "fail"


@pytest.mark.parametrize(("sandbox", "seen"), [
    (Sandbox(), [True, True]),
    (Sandbox(device_policy="closed"), [False, False]),
    (Sandbox(devices=(("char-nv*", "rw"),)), [True, False]),
    (Sandbox(device_policy="closed", devices=(("/dev/video0", "r"), ("/dev/nvmap", "rw"))), [True, False]),
    (Sandbox(private_devices=True), [False, False]),
])
def test_what_the_unit_allows(sandbox, seen):
    nodes = (Node(path="/dev/nvmap", driver="nvmap"), Node(path="/dev/video0", driver="video4linux"))
    assert [allowed(node, sandbox) for node in nodes] == seen


def test_where_nothing_is_installed_there_is_no_sandbox_to_judge():
    facts = service(unit=replace(UNIT, load_state="not-found"), running=DEAD)
    assert "sandbox" not in {section.name for section in checks(facts)}
    assert exit_code(checks(facts)) == 0


def test_whatever_is_wrong_has_a_remedy():
    for facts in (unit(active_state="failed"), service(account=None), secret(loaded=False), unit(drop_ins=()), service(running=replace(DEAD, answers="odd", said="x"))):
        bad = [row for row in rows(facts).values() if row.verdict in {"warn", "fail"}]
        assert bad
        assert all(row.remedy for row in bad)


def test_secrets_are_judged_by_the_first_that_is_missing():
    both = service(secrets=(*SERVICE.secrets, Secret(key="source.door.password", name="cam", loaded=False, file="/etc/vedette/credentials/cam", there=True)))
    assert "source.door.password: the unit is not given credential cam" in told(both, "credentials")[2]


def test_who_may_not_see_what_the_service_may_is_told_so_and_nothing_is_called_broken():
    state = StateDirectory(path="/var/lib/vedette", fault="it cannot be written to by this user", unsure=True, remedy="run it as another")
    assert told(replace(FACTS, state=state), "state directory")[:2] == ("ok", False)
    doubt = replace(FACTS, state=state, service=replace(SERVICE, files=(Needed(key="device.state_dir", path="/var/lib/vedette", access="not known"),)))
    assert told(doubt, "state directory")[:2] == ("unknown", False)
    assert told(replace(FACTS, state=state, service=None), "state directory")[:2] == ("fail", True)
    assert told(replace(FACTS, state=replace(state, unsure=False)), "state directory")[:2] == ("fail", True), "no directory for anyone"
    closed = replace(FACTS, wanted=Wanted(file="/etc/vedette/config.toml", fault="cannot be read: Permission denied", unsure=True), around=replace(FACTS.around, sources=None))
    assert told(closed, "configuration")[:2] == ("unknown", False)
    assert exit_code(checks(closed)) == 0
