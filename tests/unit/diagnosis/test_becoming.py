"""Root looks at cameras, models and libraries as the service's user: here `nobody`, really become."""

import base64
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from agent import machine
from agent.config import SourceSection
from agent.diagnosis import asking, becoming
from agent.diagnosis import gather_around as gathering
from agent.diagnosis.asking import Asker, handed, told
from agent.diagnosis.becoming import service_user
from agent.diagnosis.facts import Package
from agent.diagnosis.inquiries import SourceInquiry
from agent.diagnosis.service_facts import Running
from agent.units import Timeout

ROOT = Path(__file__).resolve().parents[3]
SECRET = "hunter2-and-more"
NOBODY = Running(socket="/run/x.sock", answers="nobody", said="no agent answers")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can become another user")


def found(_name):
    return pwd.getpwnam("nobody")


@pytest.fixture
def user(monkeypatch):
    monkeypatch.setattr(becoming, "_program", list)  # that it could be read is tested apart
    return service_user(found)


@pytest.fixture
def folder():
    """A folder that everybody may read, as pytest's own may not."""
    made = Path(tempfile.mkdtemp(prefix="vt-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def ask(user, folder, monkeypatch):
    """Runs probes as `nobody`, with a Python that everybody may run and modules of ``folder`` first."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = {path for path in sys.path if path.endswith("site-packages")}
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, (folder, ROOT, *packages))))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        reply = machine.ask([python, "-c", "import agent.diagnosis.probe"], 20, user)
        if reply and reply.code == 0:
            monkeypatch.setattr(asking.sys, "executable", python)
            return Asker(lambda _: None, 30, Path("/"), user)
    pytest.skip(f"needs a {name} that every user may run")


def test_the_user_with_all_its_groups(user):
    entry = pwd.getpwnam("nobody")
    assert (user.uid, user.gid, user.name, user.home) == (entry.pw_uid, entry.pw_gid, "nobody", entry.pw_dir)
    assert user.gid in user.groups
    assert 0 not in user.groups


def test_nobody_is_become_where_there_is_no_account_or_no_right(monkeypatch):
    monkeypatch.setattr(becoming, "_program", list)

    def missing(name):
        raise KeyError(name)

    assert service_user(missing) is None
    assert service_user(lambda _: pwd.getpwnam("root")) is None
    monkeypatch.setattr(becoming.os, "geteuid", lambda: 1000)
    assert service_user(found) is None


def test_a_program_that_the_user_cannot_read_stays_roots(tmp_path, folder, monkeypatch):
    (tmp_path / "a").touch()
    (folder / "a").touch()
    monkeypatch.setattr(becoming, "_program", lambda: [str(folder / "a")])
    assert service_user(found) is not None
    monkeypatch.setattr(becoming, "_program", lambda: [str(folder / "a"), str(tmp_path / "a")])
    assert service_user(found) is None, "pytest's folder is root's alone"


def test_what_is_handed_over_can_be_read_by_that_user_only_and_is_gone_afterwards(tmp_path, user):
    (tmp_path / "secret").write_text(SECRET)
    other = machine.User(uid=65533, gid=65533, groups=(65533,), name="other", home="/")
    with handed(tmp_path / "secret", user) as copy, told(SourceInquiry(name="a", url="rtsp://x/1"), user) as file:
        assert machine.ask(["cat", copy], 5, user).out == SECRET
        assert "rtsp://x/1" in machine.ask(["cat", file], 5, user).out
        assert machine.ask(["cat", copy], 5, other).out == ""
        assert machine.ask(["cat", str(tmp_path / "secret")], 5, user).out == "", "the secret itself stays root's"
        assert [Path(path).stat().st_mode & 0o777 for path in (copy, file)] == [0o600] * 2
    assert not Path(copy).exists()
    assert not Path(file).exists()
    with handed(tmp_path / "secret", None) as same:
        assert same == str(tmp_path / "secret")


def test_a_library_is_loaded_as_that_user(ask, folder):
    (folder / "onnx.py").write_text("import os\n__version__ = f'{os.getuid()} {os.getgid()} {os.getgroups()} {os.access(\"/etc/shadow\", os.R_OK)}'\n")
    seen = ask("onnx", Package, lambda fault: Package(module="onnx", fault=fault))
    assert (seen.fault, seen.version) == (None, f"{ask.user.uid} {ask.user.gid} {list(ask.user.groups)} False")


def test_the_users_own_process_is_the_first_to_go_when_memory_runs_out(ask, folder):
    (folder / "onnx.py").write_text("__version__ = open('/proc/self/oom_score_adj').read().strip()")
    assert ask("onnx", Package, lambda fault: Package(module="onnx", fault=fault)).version == "1000"


def test_root_keeps_the_disk_and_the_sensors(monkeypatch, user):
    asked = {}
    monkeypatch.setattr(asking.machine, "ask", lambda command, _, who: asked.update({command[3]: who}))
    ask = Asker(lambda _: None, 30, Path("/"), user)
    for probe in ("disk", "upstream", "sensors", "jtop", "source", "store", "model", "provider", "cv2", "driver", "tensorrt-build"):
        ask(probe, str, str)
    assert {probe for probe, who in asked.items() if who is None} == {"disk", "upstream", "sensors", "jtop"}


def owner_of(port):
    """Return the user whose socket has that local port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return next(int(line.split()[7]) for line in lines if line.split()[1].endswith(f":{port:04X}"))


class Camera:
    """Takes an RTSP client, asks for its password and turns it away."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.said, self.owners = self.listener.getsockname()[1], "", set()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, (_, port) = self.listener.accept()
                self.owners.add(owner_of(port))
                with client, contextlib.suppress(OSError):
                    while text := client.recv(4096).decode():
                        self.said += text
                        number = text.partition("CSeq: ")[2].split()[0]
                        client.sendall(f'RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'.encode())


def test_a_camera_is_opened_as_that_user_with_a_password_that_is_roots(ask, tmp_path):
    pytest.importorskip("cv2", reason="needs OpenCV: install the extra cpu")
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    camera = Camera()
    section = SourceSection(url=f"rtsp://127.0.0.1:{camera.port}/1", username="viewer", password=f"file:{tmp_path}/secret", open_timeout=Timeout(5), read_timeout=Timeout(2))
    with contextlib.closing(camera.listener):
        seen = gathering._source("door", section, ask, NOBODY, None)
    assert camera.owners == {ask.user.uid}
    assert base64.b64encode(f"viewer:{SECRET}".encode()).decode() in camera.said
    assert seen.fault
    assert SECRET not in repr(seen)


def test_a_secret_that_cannot_be_used_is_told_by_its_own_name(ask, tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("empty", "is empty"), ("large", "is larger than 65536 bytes"), ("pipe", "is no regular file")):
        seen = gathering._source("door", SourceSection(url="rtsp://127.0.0.1:9/1", username="u", password=f"file:{tmp_path}/{name}"), ask, NOBODY, None)
        assert f"secret {tmp_path}/{name}" in seen.fault
        assert said in seen.fault


def test_the_state_directory_is_read_as_that_user(ask, folder):
    """A link to what only root may read leads nowhere, and a pipe is given up."""
    os.mkfifo(folder / "x.json")
    assert Asker(lambda _: None, 3, Path("/"), ask.user)("model", bool | str, str, str(folder), "0" * 64, "") == "it hangs: no answer within 3 s"
    assert subprocess.run(["id", "-u"], capture_output=True, check=True).stdout == b"0\n", "this process is still root's"
