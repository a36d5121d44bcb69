"""A real RTSP camera on loopback, through the bench script beside this repository."""

import socket
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "shared/lab/rtsp-camera"
_PROBE = 'import gi; gi.require_version("GstRtspServer", "1.0"); from gi.repository import GstRtspServer'


def need_rtsp() -> None:
    """Skip, loudly, where the bench cannot run."""
    if not SCRIPT.exists():
        pytest.skip(f"needs {SCRIPT}: the bench of RTSP cameras")
    if subprocess.run(["/usr/bin/python3", "-c", _PROBE], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"needs GStreamer's RTSP server: apt-get install $({SCRIPT} deps)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RtspCamera:
    """One camera process on a port of its own; ``url`` never holds the login."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self._options = ("--port", str(self.port), "--size", "320x180", *options)

    def _do(self, verb: str, *options: str) -> None:
        done = subprocess.run([SCRIPT, verb, self.folder, *options], capture_output=True, text=True, timeout=40,
                              check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        self._do("start", *self._options)

    def freeze(self) -> None:
        self._do("freeze")

    def thaw(self) -> None:
        self._do("thaw")

    def hang(self) -> None:
        self._do("hang")

    def resume(self) -> None:
        self._do("resume")

    def kill(self) -> None:
        self._do("kill")
