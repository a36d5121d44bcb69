"""Folders of wheels made by deploy/wheelhouse."""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/wheelhouse"


def run_wheelhouse(out: Path, *options: str, script: Path = SCRIPT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run deploy/wheelhouse under this Python."""
    return subprocess.run([sys.executable, script, out, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                          timeout=600, env={**os.environ, **(env or {})})


def make_wheelhouse(out: Path, *options: str, script: Path = SCRIPT) -> str:
    """Fill a folder; return what was said."""
    done = run_wheelhouse(out, *options, script=script)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def _index_answers() -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        return not subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest", scratch, "mdurl==0.1.2"],
                                  capture_output=True, check=False, timeout=120).returncode


def needs_index() -> None:
    """Skip the calling test where no package index answers pip."""
    if not _index_answers():
        pytest.skip("needs a package index: `pip download mdurl` failed")
