"""Gathering facts of the service: a systemctl that says what is made up, real files, and agents that answer, hang or are of another version."""

import os
import socket
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from agent import asking
from agent import unit as units
from agent.config import Config, EngineSection, SourceSection, UpstreamSection
from agent.diagnosis.accounts import access, account
from agent.diagnosis.running import ask_agent
from agent.diagnosis.service import gather_service, given_credentials, hidden_by, sandbox_of
from agent.diagnosis.service_facts import Account, Running, Sandbox
from agent.runs import STOPPED, Run
from tests.unit.test_status import snapshot

SHOWN = """LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
Result=success
MainPID=77
NRestarts=2
StatusText=1 of 1 sources live
NeedDaemonReload=no
FragmentPath=/etc/systemd/system/vedette.service
DropInPaths=/etc/systemd/system/vedette.service.d/50-box.conf
User=nobody
SupplementaryGroups=
DevicePolicy=closed
DeviceAllow=char-video4linux rw
DeviceAllow=/dev/nvmap rwm
PrivateDevices=no
ProtectHome=yes
PrivateTmp=yes
LoadCredential=[unprintable]
LoadCredential=token:/etc/vedette/credentials/token
LoadCredential=cam:/etc/vedette/credentials/cam
"""

NOBODY = Running(socket="/nowhere/status.sock", answers="nobody")
BOX = Account(name="box", uid=4242, gids=(4242, 4300), groups=("box",))


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """Return a function that makes ``systemctl`` print something, on a box whose root is a folder."""
    root, tools = tmp_path / "root", tmp_path / "tools"
    (root / "run/systemd/system").mkdir(parents=True)
    tools.mkdir()
    monkeypatch.setattr(units, "_BOOTED", root / "run/systemd/system")
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)

    def says(text, code=0):
        tool = tools / "systemctl"
        (tools / "said").write_text(text)
        tool.write_text(f"#!/bin/sh\ncat {tools}/said; exit {code}\n")
        tool.chmod(0o755)
        return root

    return says


def test_unit_and_sandbox_are_read_from_systemd(systemd, tmp_path):
    root = systemd(SHOWN)
    config = Config(
        source={"clip": SourceSection(url="file:///home/me/clip.mp4"), "cam": SourceSection(url="v4l2:///dev/video0", username="u", password="credential:cam"),
                "csi": SourceSection(url="csi://0")},
        engine=EngineSection(recipes=["/etc/own"]), upstream=UpstreamSection(url="https://x/", token="credential:fleet", ca_file="/etc/ca.pem"))
    found = gather_service(config, Path("/etc/vedette/config.toml"), tmp_path / "state", NOBODY, root)
    assert found.unit.restarts == 2
    assert found.user == "nobody"
    assert found.account.uid == account("nobody").uid
    assert found.sandbox == Sandbox(device_policy="closed", devices=(("char-video4linux", "rw"), ("/dev/nvmap", "rwm")), protect_home="yes", private_tmp=True,
                                    credentials=("token", "cam"))
    assert {one.key: (one.hidden, one.write) for one in found.files} == {
        "configuration": ("", False), "device.state_dir": ("PrivateTmp=yes" if str(tmp_path).startswith("/tmp") else "", True), "engine.recipes": ("", False),
        "upstream.ca_file": ("", False), "source.clip.url": ("ProtectHome=yes", False), "source.cam.url": ("", True), "source.csi.url": ("PrivateTmp=yes", True)}
    assert {one.key: one.loaded for one in found.secrets} == {"upstream.token": False, "source.cam.password": True}


def test_credentials_stand_in_the_units_text_alone():
    """systemd 252 prints ``LoadCredential=[unprintable]`` when asked to show them."""
    assert given_credentials("[Service]\nLoadCredential=a:/x\nSetCredential=a:\\n\n LoadCredentialEncrypted=b:/y\nLoadCredential=a:/x\n#LoadCredential=c:/z\n") == ("a", "b")
    assert given_credentials("LoadCredential=a:/x\nLoadCredential=\nLoadCredential=b:/x") == ("b",)
    assert given_credentials("LoadCredential=[unprintable]") == ()


def test_a_unit_that_is_not_there_and_a_systemd_that_fails(systemd, tmp_path):
    root = systemd("LoadState=not-found\nActiveState=inactive\nSubState=dead\n")
    found = gather_service(Config(), None, tmp_path, NOBODY, root)
    assert (found.systemd, found.unit.installed, found.sandbox) == (True, False, None)
    assert gather_service(Config(), None, tmp_path, NOBODY, systemd("", 1)).unit is None
    assert not gather_service(Config(), None, tmp_path, NOBODY, tmp_path / "no-root").systemd


def test_without_a_usable_configuration_its_file_and_the_state_directory_are_looked_at_all_the_same(systemd, tmp_path):
    found = gather_service(None, tmp_path / "c.toml", tmp_path, NOBODY, systemd(SHOWN))
    assert found.files[0].access in {"no", "not there"}, "which of them hangs on the folders above"
    assert [one.key for one in found.files] == ["configuration", "device.state_dir"]


def test_device_nodes_with_their_drivers(systemd, tmp_path):
    root = systemd(SHOWN)
    (root / "proc").mkdir()
    (root / "proc/devices").write_text("Character devices:\n  0 nothing\n 81 video4linux\n\nBlock devices:\n  0 ramdisk\n")
    for name in ("video0", "nvmap", "nvgpu/igpu0/ctrl", "dri/renderD128", "ttyS0"):
        (root / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / name).touch(0o600)
    found = gather_service(None, None, tmp_path, NOBODY, root)
    assert {node.path for node in found.nodes} == {"/dev/video0", "/dev/nvmap", "/dev/nvgpu/igpu0/ctrl", "/dev/dri/renderD128"}
    assert {node.driver for node in found.nodes} == {"nothing"}, "a file's device number is 0"
    assert {node.access for node in found.nodes} == {"no"}


def test_files_of_others_in_the_state_directory(systemd, tmp_path):
    state = tmp_path / "state"
    (state / "engines/x").mkdir(parents=True)
    found = gather_service(Config(), None, state, NOBODY, systemd(SHOWN.replace("User=nobody", "User=root")))
    if os.geteuid() == 0:
        assert found.strangers == ()
        assert len(gather_service(Config(), None, state, NOBODY, systemd(SHOWN)).strangers) == 3


@pytest.mark.parametrize(("run", "word", "ended"), [
    (None, "", ""), ({"ended": STOPPED, "words": "it was stopped"}, "", STOPPED), ({}, "watchdog killed ABRT", "watchdog"), ({}, "", "unknown")])
def test_how_the_last_run_ended(tmp_path, run, word, ended):
    if run is not None:
        (tmp_path / "runs.json").write_bytes(msgspec.json.encode([Run(began_at=1.0, began_s=1.0, boot="b", **run)]))
    if word:
        (tmp_path / "last-end").write_text(word)
    assert gather_service(None, None, tmp_path, NOBODY, tmp_path / "root").last_end == ended
    assert (tmp_path / "last-end").exists() == bool(word), "nothing is changed"


def test_a_start_that_failed_after_the_last_run(tmp_path):
    (tmp_path / "runs.json").write_bytes(msgspec.json.encode([Run(began_at=1.0, began_s=1.0, boot="b", ended=STOPPED)]))
    (tmp_path / "last-start").write_text("exit-code exited 70")
    found = gather_service(None, None, tmp_path, NOBODY, tmp_path / "root")
    assert (found.last_end, found.last_words) == ("no-start", "it never began its work: it ended with exit code 70, a defect of the program")


@pytest.mark.parametrize(("path", "sandbox", "why"), [
    ("/home/me/a", {"protect_home": "yes"}, "ProtectHome=yes"), ("/home/me/a", {"protect_home": "read-only"}, ""), ("/home/me/a", {}, ""),
    ("/root/a", {"protect_home": "tmpfs"}, "ProtectHome=tmpfs"), ("/srv/../home/a", {"protect_home": "yes"}, "ProtectHome=yes"),
    ("/homes/a", {"protect_home": "yes"}, ""), ("/var/tmp/a", {"private_tmp": True}, "PrivateTmp=yes"), ("/srv/a", {"inaccessible": ("-/srv",)}, "InaccessiblePaths"),
    ("/tmp/argus_socket", {"private_tmp": True}, "PrivateTmp=yes"), ("/tmp/argus_socket", {"private_tmp": True, "binds": (("/tmp", "/run/host-tmp"),)}, ""),
    ("/tmp/other", {"private_tmp": True, "binds": (("/tmp", "/run/host-tmp"),)}, "PrivateTmp=yes"), ("/home/me/a", {"protect_home": "tmpfs", "binds": (("/home/me", "/home/me"),)}, "")])
def test_paths_that_the_unit_hides(path, sandbox, why):
    assert hidden_by(Path(path), Sandbox(**sandbox)) == why


def test_a_link_into_a_home_is_hidden_too(tmp_path):
    (tmp_path / "clip").symlink_to("/home/me/clip.mp4")
    assert hidden_by(tmp_path / "clip", Sandbox(protect_home="yes")) == "ProtectHome=yes"


def test_nothing_said_is_no_sandbox():
    assert sandbox_of({"BindReadOnlyPaths": ["/tmp:/run/vedette-host-tmp:rbind", "-/srv"]}).binds == (("/tmp", "/run/vedette-host-tmp"), ("/srv", "/srv"))
    assert sandbox_of({}) == Sandbox()


# accounts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    """A file below folders that everyone may pass; the owner and group can only be changed by root."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    file = tmp_path / "inner/file"
    file.parent.mkdir()
    file.touch()
    for folder in (file.parent, *file.parent.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            if not folder.is_relative_to("/tmp"):
                pytest.skip(f"{folder} is closed to others")
            folder.chmod(0o755)
    return file


@pytest.mark.parametrize(("owner", "group", "mode", "read", "write"), [
    (4242, 0, 0o600, "yes", "yes"), (0, 4300, 0o640, "yes", "no"), (0, 4300, 0o660, "yes", "yes"), (0, 0, 0o644, "yes", "no"), (0, 0, 0o640, "no", "no"),
    (4242, 4300, 0o077, "no", "no"), (0, 4300, 0o607, "no", "no"),
])
def test_access_is_told_from_owner_group_and_mode(file, owner, group, mode, read, write):
    os.chown(file, owner, group)
    file.chmod(mode)
    assert (access(BOX, file), access(BOX, file, write=True)) == (read, write)


def test_a_closed_folder_above_closes_all_below(file):
    file.chmod(0o666)
    file.parent.chmod(0o700)
    assert access(BOX, file) == "no"
    assert access(Account(name="root", uid=0, gids=(0,), groups=()), file, write=True) == "yes"
    assert access(BOX, file.parent.parent / "none") == "not there"


def test_links_are_followed_to_what_is_opened(file):
    file.chmod(0o600)
    link = file.parent / "link"
    link.symlink_to(file)
    assert access(BOX, link) == "no"


def test_an_access_list_makes_a_refusal_doubtful(file, monkeypatch):
    file.chmod(0o600)
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"] if Path(path) == file else [])
    assert access(BOX, file) == "not known"


def test_an_account_has_its_groups_and_those_of_the_unit():
    assert account("no-such-user-here") is None
    assert 0 in account("nobody", ["root", "no-such-group"]).gids


# the agent behind the socket ----------------------------------------------------------------------------------------


class MadeAgent:
    """Answers on a unix socket with what it is given, page by page; silent for None."""

    def __init__(self, path, pages):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.pages, self.kept = pages, []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            self.kept.append(client)
            page = client.recv(4096).decode().partition(" ")[2].split(" ")[0]  # empty: only who listens was of interest
            if self.pages.get(page) is not None:
                code, body = self.pages[page]
                client.sendall(b"HTTP/1.0 %d X\r\n\r\n%s" % (code, body))
                client.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes who waits there; what is accepted after the closing would stay open
        self.thread.join(5)
        for one in (self.listener, *self.kept):
            one.close()


@pytest.fixture
def agent(tmp_path):
    made = []

    def start(pages):
        path = tmp_path / f"{len(made)}.sock"
        made.append(MadeAgent(path, pages))
        return path

    yield start
    for one in made:
        one.close()


def test_an_agent_that_answers(agent):
    status = msgspec.json.encode(snapshot(version="1.2", pid=7, heartbeats={"infer": 31.0, "spool": 0.1}))
    running, seen = ask_agent(agent({"/status": (200, status), "/health/live": (200, b"yes")}))
    assert (running.answers, running.version, running.pid, running.alive, running.stale) == ("answers", "1.2", 7, True, "")
    assert seen.pid == 7
    running, _ = ask_agent(agent({"/status": (200, status), "/health/live": (503, b"no")}))
    assert (running.alive, running.stale) == (False, "infer, silent for 31 s")


def test_an_agent_that_hangs_one_of_another_version_and_none(agent, tmp_path):
    running, _ = ask_agent(agent({}))
    assert (running.answers, running.pid, running.state) == ("hangs", os.getpid(), "")
    assert f"process {os.getpid()} hangs" in running.said
    running, seen = ask_agent(agent({"/status": (200, b'{"version": "9.0", "schema": 7}')}))
    assert (running.answers, running.version, seen) == ("another version", "9.0", None)
    assert ask_agent(tmp_path / "none.sock")[0].answers == "nobody"
    (tmp_path / "plain").touch()
    assert ask_agent(tmp_path / "plain")[0].answers == "nobody"
    assert ask_agent(agent({"/status": (200, b"")}))[0].answers in {"odd", "another version"}


def test_an_agent_that_is_stopped_is_said_to_be_in_the_words_of_the_status(agent, monkeypatch):
    monkeypatch.setattr(asking, "stopped", lambda pid: pid == os.getpid())
    path = agent({})
    running, _ = ask_agent(path)
    assert (running.pid, running.state) == (os.getpid(), "stopped")
    assert running.said == asking.look(asking.Place(path), 0.2).why
