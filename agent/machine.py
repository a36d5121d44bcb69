"""What the machine is: board, JetPack, power mode, processor, memory. Facts that need no library and no driver.

An engine's identity, the choice of a runtime and ``vedette doctor`` all ask the same questions, so they are answered
once, here. What cannot be known is None, never a guess. Nothing under ``/sys`` is read: that belongs to ``power``.
Every reader takes ``root``, the folder that stands for ``/``.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/")
LEAST_DISK = 200_000_000
"""Bytes: with less free on its disk a box needs a hand."""
_TIMEOUT_S = 5.0
_MOST_SAID = 64 << 20
_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_MODE = re.compile(r"^NV Power Mode:[ \t]*(\S.*?)\s*$(?:\s*^(\d+)\s*$)?", re.MULTILINE)
# Lowest release of L4T that belongs to each JetPack, newest first, by branch of L4T. A branch or a release before the
# first one of its branch is unknown. Releases between two entries belong to the earlier entry.
_JETPACKS = (
    ((39, 2, 2), "7.2.2"), ((39, 2, 1), "7.2.1"), ((39, 2, 0), "7.2"),
    ((38, 4, 0), "7.1"), ((38, 2, 0), "7.0"),
    ((36, 5, 2), "6.2.3"), ((36, 4, 5), "6.2.x"), ((36, 4, 4), "6.2.1"), ((36, 4, 3), "6.2"), ((36, 4, 0), "6.1"),
    ((36, 3, 0), "6.0"),
    ((35, 2, 1), "5.1.x"),
)
_NEWEST = {39: (39, 2, 2), 38: (38, 4, 0), 36: (36, 5, 2), 35: (35, 6, 5)}
# What decides which kernels a runtime picks on a processor, as /proc/cpuinfo spells it.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMode:
    """The mode that ``nvpmodel`` reports.

    Attributes:
        name: As the board calls it, e.g. "MAXN_SUPER".
        number: Its id on this board and release, None when not told. Ids mean something else on another board.
    """

    name: str
    number: int | None

    def __str__(self) -> str:
        """Return name and id as one word for people and identities: ``25W (1)``."""
        return self.name if self.number is None else f"{self.name} ({self.number})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuModel:
    """The processor, as far as kernels are chosen by it.

    Attributes:
        name: Model name, or "implementer 0x41 part 0xd42" where the kernel gives no name (Arm).
        flags: Those of its instruction sets that matter for inference and that are there, sorted.
    """

    name: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        """Return name and instruction sets on one line."""
        return " ".join((self.name, *self.flags))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The machine's memory in bytes: all of it, and what can be had without swapping."""

    total: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """As whom a command runs: the numbers of the user, its group and all its groups, and its home."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a command left behind.

    Attributes:
        code: Its exit code, negative for the signal that ended it, None when it was stopped at its time limit.
        out: Its standard output.
        err: Its standard error.
    """

    code: int | None
    out: str
    err: str


def ask(command: Sequence[str], timeout_s: float, user: User | None = None) -> Reply | None:
    """Run ``command`` for at most ``timeout_s`` seconds, as ``user`` if root gives one; None: it cannot be started.

    Its output goes to files, not pipes: what it leaves running when it is stopped cannot hold us up. More than 64 MiB
    of it are not read.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/",
                                     start_new_session=True, **_as(user))
        except OSError:
            return None
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if child.poll() is None:  # also when we are interrupted
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(_MOST_SAID).decode("utf-8", "replace"))
    return Reply(code=code, out=texts[0], err=texts[1])


def _as(user: User | None) -> dict[str, Any]:
    """Return what Popen needs to start a child as ``user``."""
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": user.groups,
            "env": {**os.environ, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}}


def l4t(root: Path = ROOT) -> str | None:
    """Return the release of Jetson Linux, e.g. "36.4.3"; None on anything else."""
    text = _text(root / "etc/nv_tegra_release")
    found = _L4T.search(text) if text else None
    return f"{found[1]}.{found[2]}" if found else None


def jetpack(release: str | None) -> str | None:
    """Return the JetPack that a release of Jetson Linux belongs to, e.g. "6.2"; None for one this table lacks."""
    if release is None or not re.fullmatch(r"\d+(\.\d+){1,3}", release):
        return None
    numbers = (*map(int, release.split(".")), 0, 0)[:3]
    newest = _NEWEST.get(numbers[0])
    if newest is None or numbers > newest:
        return None
    return next((name for least, name in _JETPACKS if least <= numbers and least[0] == numbers[0]), None)


def board(root: Path = ROOT) -> str | None:
    """Return the board's name from its device tree; None where there is none (x86)."""
    text = _text(root / "proc/device-tree/model")
    return (text.replace("\0", "").strip() or None) if text else None


def is_jetson(root: Path = ROOT) -> bool:
    """Tell whether this is a Jetson: it runs Jetson Linux, or its board says so (a container lacks the former)."""
    return l4t(root) is not None or re.search("jetson|tegra", board(root) or "", re.IGNORECASE) is not None


def power_mode(search: str | None = None, *, timeout_s: float = _TIMEOUT_S) -> PowerMode | None:
    """Ask ``nvpmodel -q`` for the power mode; None where there is no such tool or it gives no answer.

    Args:
        search: Where the tool is looked for, as in ``$PATH``, which is the default.
        timeout_s: Longest wait for its answer.
    """
    tool = shutil.which("nvpmodel", path=search)
    if tool is None:
        return None
    reply = ask([tool, "-q"], timeout_s)
    found = _MODE.search(reply.out) if reply is not None and reply.code == 0 else None
    return PowerMode(name=found[1], number=int(found[2]) if found[2] else None) if found else None


def cpu_model(root: Path = ROOT) -> CpuModel | None:
    """Return the processor of this machine (the first kind, where there are several); None when unknown."""
    text = _text(root / "proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in (text or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name")
    if not name and {"CPU implementer", "CPU part"} <= fields.keys():
        name = f"implementer {fields['CPU implementer']} part {fields['CPU part']}"
    if not name:
        return None
    there = {*fields.get("flags", "").split(), *fields.get("Features", "").split()}
    return CpuModel(name=" ".join(name.split()), flags=tuple(sorted(there.intersection(_FLAGS))))


def memory(root: Path = ROOT) -> Memory | None:
    """Return total and available memory in bytes; None when unknown."""
    sizes = {key: int(kib) * 1024 for key, kib in
             re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB$", _text(root / "proc/meminfo") or "", re.MULTILINE)}
    return (Memory(total=sizes["MemTotal"], available=sizes["MemAvailable"])
            if {"MemTotal", "MemAvailable"} <= sizes.keys() else None)


def stopped(pid: int, root: Path = ROOT) -> bool:
    """Tell whether a process is stopped, by SIGSTOP, Ctrl-Z or a debugger; False where that cannot be seen."""
    stat = _text(root / f"proc/{pid}/stat") or ""
    return stat.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def architecture() -> str:
    """Return the machine's architecture as the kernel calls it: ``x86_64``, ``aarch64``."""
    return os.uname().machine


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
