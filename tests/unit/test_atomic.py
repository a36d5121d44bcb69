import hashlib
import subprocess
import sys

import pytest

from agent.atomic import replacing, sha256_of, write_atomic


def test_replaces_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def fail_in_the_middle():
        with replacing(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_kill_in_the_middle_keeps_the_old_file(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"old")
    code = f"""
import os, signal
from pathlib import Path
from agent.atomic import replacing
with replacing(Path({str(path)!r})) as file:
    file.write(b"half"); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.read_bytes() == b"old"
