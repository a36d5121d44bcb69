"""A throw-away aarch64 Debian, run by qemu-user in a chroot: the devices' own wheels and Python, without their kernel.

It has no systemd. All in it takes some fifty times as long, and about 2 s a frame.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT.parent / "shared/lab/arm64-box"
SHM = Path("/dev/shm")
ROOM_BYTES = 3 << 30  # 1.2 GB without a cache while it is made; the box with all wheels 1 GB
# Next of kin to an Orin's cores. With QEMU's own choice, which has SVE as well, an inference now and then took over a
# minute instead of 2 s; why was not found out.
CPU = "cortex-a76"
_SOURCES = re.compile(r"^\s*(?:URIs:|deb(?:\s+\[[^]]*\])?)\s*(\S+/debian)/?(?:\s|$)", re.MULTILINE)


class Arm64BoxError(AssertionError):
    """A command of the box, or in it, failed."""


def missing() -> str:
    """Return what the box lacks on this machine, in words; empty when it can be made."""
    if not SCRIPT.is_file():
        return f"needs the lab: {SCRIPT}"
    if os.geteuid():
        return "needs root, for a chroot"
    if os.uname().machine != "x86_64":
        return "needs an x86-64 machine"
    lacks = [name for name in ("mmdebstrap", "qemu-aarch64-static", "arch-test") if not shutil.which(name)]
    if lacks or not Path("/usr/lib/binfmt.d/qemu-aarch64.conf").exists():
        return f"needs {', '.join(lacks) or 'qemu-user-static'}: `deploy/dev/setup packages all` installs what Debian has"
    return ""


@contextmanager
def booted() -> Iterator["Arm64Box"]:
    """Make and boot a box, one at a time on this machine: the end of one takes the interpreter from another being made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "arm64-box.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A short path, for the agent's socket is asked from outside.
        folder = Path(tempfile.mkdtemp(prefix="a64-", dir=SHM if _in_memory() else None))
        box = Arm64Box(folder / "box")
        try:
            box.create()
            box.boot()
            yield box
        finally:
            box.delete()
            folder.rmdir()


def _in_memory() -> bool:
    """Tell whether a box can be in memory, where it is made and deleted sooner than on a busy disk."""
    return SHM.is_dir() and shutil.disk_usage(SHM).free >= ROOM_BYTES and not os.statvfs(SHM).f_flag & os.ST_NOEXEC


class Arm64Box:
    """One box in ``folder``; files can be read and written below it while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self) -> None:
        """Make it: 4 s from the lab's cache, else some 3 to 5 minutes."""
        # The lab's own search for the archive ends it without a word where /etc/apt/sources.list is missing.
        lists = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
        found = _SOURCES.search("\n".join(path.read_text() for path in lists if path.is_file()))
        mirror = ["--mirror", found[1]] if found else []
        self._call("create", *mirror, timeout_s=900, env={**os.environ, **({"TMPDIR": str(SHM)} if _in_memory() else {})})

    def boot(self) -> None:
        self._call("boot")

    def delete(self) -> None:
        self._call("delete")

    def command(self, *words: str) -> list[str]:
        """Return what to start here so that it runs in the box; signals reach it as they do any child."""
        return [str(SCRIPT), "run", str(self.folder), "--", "env", f"QEMU_CPU={CPU}", *words]

    def run(self, *words: str, codes: tuple[int, ...] = (0,), timeout_s: float = 120.0) -> str:
        """Run a command as root and return what it wrote to standard output."""
        done = subprocess.run(self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s)
        if done.returncode not in codes:
            raise Arm64BoxError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def path(self, inside: str | Path) -> Path:
        """Return where a path in the box is, seen from here."""
        return self.folder / str(inside).lstrip("/")

    def _call(self, verb: str, *words: str, timeout_s: float = 60, env: dict[str, str] | None = None) -> None:
        done = subprocess.run([SCRIPT, verb, self.folder, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=timeout_s, env=env)
        if done.returncode:
            raise Arm64BoxError(f"arm64-box {verb}: exit code {done.returncode} {done.stdout}{done.stderr}")


if __name__ == "__main__":  # fills the lab's cache beside other work; a test that needs it meanwhile waits for the lock
    if lacking := missing():
        print(f"arm64-box: {lacking}")
    else:
        with booted():
            print("arm64-box: in the cache")
