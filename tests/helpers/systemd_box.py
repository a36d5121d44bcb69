"""A throw-away virtual machine with a real systemd and cgroup v2, in which the agent runs as a unit.

It has no KVM, so all in it takes some ten times as long. What the agent needs is put on its disk before it boots, from
the very environment the tests run in: its Debian 12 has Python 3.11 as well. Over its network that would take 100 s.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT.parent / "shared/lab/systemd-box"
SHM = Path("/dev/shm")
ROOM_BYTES = 3 << 30  # a new box: 1.2 GB of packages while it is made, then the disk, 0.7 GB
SITE, CODE = "/opt/site", "/opt/vedette"


class BoxError(AssertionError):
    """A command of the box, or in it, failed."""


def missing() -> str:
    """Return what the box lacks on this machine, in words; empty when it can be made."""
    if not SCRIPT.is_file():
        return f"needs the lab: {SCRIPT}"
    if os.geteuid():
        return "needs root, to make the box's disk"
    if sys.version_info[:2] != (3, 11):
        return "needs Python 3.11, which the box has: what is installed here is put into it"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacks = [name for name in ("mmdebstrap", "mke2fs", "debugfs", "depmod", "cpio", "ssh", "qemu-system-x86_64") if not shutil.which(name, path=path)]
    if lacks or os.uname().machine != "x86_64":
        return f"needs {', '.join(lacks) or 'an x86-64 machine'}: `deploy/dev/setup packages all` installs what Debian has"
    if not SHM.is_dir() or shutil.disk_usage(SHM).free < ROOM_BYTES:
        return f"needs {ROOM_BYTES >> 30} GiB in {SHM}"
    return ""


class Box:
    """One box in ``folder``, which must be new and short: the sockets of ssh lie in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, include: Sequence[str] = (), files: dict[str, Path] | None = None) -> None:
        """Make it, with Debian packages more, and with files on its disk: path in the box -> path here.

        Without ``files`` it gets what the agent needs, in SITE.
        """
        more = ["--include", ",".join(include)] if include else []
        self._call("create", "--work-dir", str(SHM), *more, str(self.folder))
        commands = self.folder / "put"
        commands.write_text("\n".join(_writes(dict(_installed()) if files is None else files)) + "\n")
        done = subprocess.run(["debugfs", "-w", "-f", commands, self.folder / "disk"], capture_output=True, text=True, check=False,
                              env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}, timeout=120)
        trouble = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")]
        if done.returncode or trouble:
            raise BoxError(f"debugfs: {trouble[:5]}")

    def boot(self) -> None:
        # Without xsave there is no AVX, whose fused multiply-add is emulated digit by digit: 4.6 s a frame, not 0.26 s.
        self._call("boot", "--append", "noxsave", str(self.folder))

    def reboot(self) -> None:
        self._call("reboot", str(self.folder))

    def power_cut(self) -> None:
        """Take its power away: nothing is flushed."""
        self._call("power-cut", str(self.folder))

    def link(self, state: str) -> None:
        """Plug its uplink ``up`` or ``down``; `run` does not go through it."""
        self._call("link", str(self.folder), state)

    def delete(self) -> None:
        self._call("delete", str(self.folder))

    def run(self, *words: str, give: bytes = b"", check: bool = True, timeout_s: float = 120.0) -> str:
        """Run a command as root and return what it printed, both streams together."""
        done = subprocess.run([sys.executable, SCRIPT, "run", self.folder, "--", *words], input=give, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False, timeout=timeout_s)
        said = done.stdout.decode(errors="replace")
        if check and done.returncode:
            raise BoxError(f"{' '.join(words)}: exit code {done.returncode}\n{said}")
        return said

    def put(self, what: dict[str, Path | str]) -> None:
        """Copy files or folders, or write texts: path in the box -> path here, or the text."""
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, source in what.items():
                if isinstance(source, Path):
                    tar.add(source, name, filter=lambda each: None if "__pycache__" in each.name else each)
                else:
                    entry = tarfile.TarInfo(name)
                    entry.size = len(source.encode())
                    tar.addfile(entry, BytesIO(source.encode()))
        self.run("tar", "-x", "--no-same-owner", "-C", "/", give=packed.getvalue())

    def killed(self) -> int:
        """Return how many processes of units the kernel has killed for their memory since the boot."""
        return int(re.search(r"^oom_kill (\d+)", self.run("cat", "/sys/fs/cgroup/system.slice/memory.events"), re.MULTILINE)[1])

    def _call(self, *words: str) -> None:
        done = subprocess.run([sys.executable, SCRIPT, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise BoxError(f"systemd-box {words[0]}: {done.stdout}{done.stderr}")


class Unit:
    """The agent as a unit of its own, with nothing to swap to and a hard limit; ended by the end of the block."""

    def __init__(self, box: Box, name: str, *, config: str, memory_max: int, state: str, program: str = "-m agent") -> None:
        self.box, self.name = box, name
        self.folder, self.config, self.state = f"/opt/run/{name}", f"/opt/run/{name}/config.toml", f"/opt/run/{name}/state"
        device = f'[device]\nid = "{name}"\nstate_dir = "{self.state}"\nruntime_dir = "{self.folder}"\n'
        box.put({self.config: device + config})
        box.run("cp", "-r", state, self.state)
        box.run("systemd-run", "--quiet", "--unit", name, *(f"--property={each}" for each in (
            f"MemoryMax={memory_max}", "MemoryHigh=infinity", "MemorySwapMax=0", "Type=exec", f"WorkingDirectory={CODE}",
            f"Environment=PYTHONPATH={SITE}:{CODE} MALLOC_ARENA_MAX=1")), "/usr/bin/python3", *program.split(), "run", "-c", self.config)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.box.run("systemctl", "stop", self.name, check=False)
        self.box.run("systemctl", "reset-failed", self.name, check=False)

    def status(self) -> dict | None:
        """Return what the agent says of itself; None when it does not answer."""
        said = self.box.run("curl", "-s", "-m", "10", "--unix-socket", f"{self.folder}/status.sock", "http://agent/status", check=False)
        return json.loads(said) if said.startswith("{") else None

    def shown(self) -> dict[str, str]:
        """Return what systemd says of it: ActiveState, Result, ExecMainCode, ExecMainStatus."""
        said = self.box.run("systemctl", "show", self.name, "-p", "ActiveState,Result,ExecMainCode,ExecMainStatus")
        return dict(line.split("=", 1) for line in said.split())

    def memory(self) -> dict[str, int]:
        """Return memory.current, memory.peak and the counters of memory.events of its control group; it must live."""
        folder = f"/sys/fs/cgroup/system.slice/{self.name}.service"
        said = self.box.run("sh", "-c", f"cd {folder} && echo current $(cat memory.current); echo peak $(cat memory.peak); cat memory.events")
        return {name: int(value) for name, value in (line.split() for line in said.splitlines())}

    def said(self) -> str:
        """Return its part of the journal."""
        return self.box.run("journalctl", "--no-pager", "-o", "cat", "-u", self.name)

    def until(self, condition, timeout_s: float, what: str) -> dict:
        """Wait until condition(status) holds; fail with the journal when it does not, or the unit has ended."""
        deadline, status = time.monotonic() + timeout_s, None
        while time.monotonic() < deadline:
            status = self.status()
            if status is not None and condition(status):
                return status
            assert self.shown()["ActiveState"] == "active", f"{what}: it has ended\n{self.said()}"
            time.sleep(0.5)
        raise AssertionError(f"not within {timeout_s} s: {what}\n{status}\n{self.said()}")

    def wait(self, timeout_s: float) -> dict[str, str]:
        """Wait until it has ended by itself; return what systemd says of that."""
        deadline = time.monotonic() + timeout_s
        while (shown := self.shown())["ActiveState"] in {"active", "activating", "deactivating"}:
            assert time.monotonic() < deadline, f"it did not end within {timeout_s} s\n{self.said()}"
            time.sleep(0.5)
        return shown


def _installed() -> Iterator[tuple[str, Path]]:
    """Yield path in the box, path here of all that `vedette[cpu]` needs to run."""
    project = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["project"]
    wanted, known = [*project["dependencies"], *project["optional-dependencies"]["cpu"]], set[str]()
    while wanted:
        name = re.match(r"[\w.-]+", wanted.pop())[0].lower()
        if name in known:
            continue
        known.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # one for another Python
            continue
        wanted += [line for line in package.requires or [] if "extra ==" not in line]
        for file in package.files or []:
            if file.parts[0] != ".." and file.suffix != ".pyc":
                yield f"{SITE}/{file}", Path(package.locate_file(file))


def _writes(files: dict[str, Path]) -> Iterator[str]:
    """Yield commands of debugfs that write them, folders first."""
    folders = {str(folder) for name in files for folder in Path(name).parents} - {"/", "/opt"}
    yield from (f'mkdir "{folder}"' for folder in sorted(folders))
    yield from (f'write "{source}" "{name}"' for name, source in sorted(files.items()))


# `vedette doctor` without the libraries, each of which costs an emulated machine ten seconds: rows that are not ok, and
# those of the service.
DOCTOR = """
import sys
from agent.cli.options import load_or_default
from agent.config import DEFAULT_PATH
from agent.diagnosis import checks, gather
from agent.errors import ConfigError
gather._Asker.package = lambda self, module, probe, kind: kind(module=module, fault="not looked at")
try:
    config = load_or_default(None)
except ConfigError as error:
    config = error
for section in checks.checks(gather.gather(config, DEFAULT_PATH)):
    for row in section.rows:
        if section.name in {"configuration", "sources", "upstream", "service", "sandbox"} and (
                row.verdict != "ok" or row.name in {"service", "status socket"}):
            print(row.verdict, f"{row.name}: {row.found}", f"[{row.remedy}]" if row.remedy else "")
"""


class Service:
    """The installed service of a box: `vedette.service`, asked as an operator asks it."""

    def __init__(self, box: Box) -> None:
        self.box = box

    def shown(self, *names: str) -> dict[str, str]:
        """Return properties that systemd keeps of it."""
        said = self.box.run("systemctl", "show", "vedette.service", *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    @property
    def state(self) -> str:
        return self.shown("ActiveState")["ActiveState"]

    @property
    def pid(self) -> int:
        return int(self.shown("MainPID")["MainPID"])

    def status(self) -> dict | None:
        """Return what the agent says of itself; None when it does not answer."""
        said = self.box.run("curl", "-s", "-m", "10", "--unix-socket", "/run/vedette/status.sock", "http://agent/status", check=False)
        return json.loads(said) if said.startswith("{") else None

    def told(self, when: str, *, doctor: bool = False) -> str:
        """Print and return what `vedette status` and `status --check` say, and the rows of `vedette doctor` about it."""
        script = "vedette status 2>&1 | head -n 24; echo; vedette status --check 2>&1; echo rc=$?"
        if doctor:
            script += "; echo; PYTHONDONTWRITEBYTECODE=1 /opt/vedette/current/bin/python - 2>&1"
        said = self.box.run("sh", "-c", script, give=DOCTOR.encode() if doctor else b"", check=False)
        print(f"--- {when}\n{said}")
        return said

    def journal(self, since: str = "", output: str = "cat") -> str:
        """Return its part of the journal, since a moment of :meth:`now`."""
        # Not by a cursor: across several journal files journalctl skips lines behind it.
        after = [f"--since=@{since}"] if since else []
        return self.box.run("journalctl", "--no-pager", "-o", output, "-u", "vedette.service", *after)

    def now(self) -> str:
        """Return the box's time in seconds since the epoch."""
        return self.box.run("date", "+%s").strip()

    def until(self, condition, timeout_s: float, what: str):
        """Wait until condition() holds and return what it returned; fail with the journal's end when it does not."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.5)
        tail = "\n".join(self.journal().splitlines()[-40:])
        raise AssertionError(f"not within {timeout_s} s: {what}\n{self.shown('ActiveState', 'SubState', 'Result', 'StatusText')}\n{tail}")

    def until_ready(self, timeout_s: float = 120.0, not_pid: int = 0) -> int:
        """Wait until it is active with a process other than ``not_pid``; return that process's id."""
        def ready():
            said = self.shown("ActiveState", "MainPID")
            return said["ActiveState"] == "active" and said["MainPID"] not in {"0", str(not_pid)} and int(said["MainPID"])
        return self.until(ready, timeout_s, "it is ready")
