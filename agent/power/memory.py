"""How much memory the agent takes, what it may take, and how hard the kernel has to look for more. Reads only.

On a board whose GPU shares the machine's memory (Jetson) what the GPU holds is missing from ``available``, but it is
in no process's resident memory: it must be given as ``device``, or the total is too low. Swapped pages (JetPack
compresses them into memory with zram) are resident no longer, and are told apart for that reason.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# A cgroup of version 1 without a limit says the largest multiple of a page below 2**63.
_NO_LIMIT = 1 << 62
_READ_BYTES = 1 << 16  # of files the kernel makes up: the longest, memory.stat, has some 2 kB
_DIGITS = 20  # of 2**64
_V2 = ("memory.current", "inactive_file", ("memory.max", "memory.high"))
_V1 = ("memory.usage_in_bytes", "total_inactive_file", ("memory.limit_in_bytes",))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """The memory at one moment; sizes in bytes, None = unknown.

    Attributes:
        at_s: When it was read, seconds of the monotonic clock.
        resident: Resident memory of this process.
        children: Resident memory of all its descendants (engine builds). Pages they share with this process count
            twice; after exec these are little more than code.
        device: Memory on the device, as the caller gave it; None = unknown, or there is no device.
        swapped: What of this process is swapped out.
        available: What the machine can still give without swapping. On a Jetson this is what the GPU can get as well.
        limit: Most that the control group with the least room may take; None = there is no limit.
        limit_of: The file that says so; empty without a limit.
        used: What that control group takes, less the file cache that the kernel drops first (``inactive_file``):
            everything in the group counts, not the agent alone. Device memory of an integrated GPU may be missing.
        events: The counters of that group (of our own one if there is no limit): ``high``, ``max``, ``oom``,
            ``oom_kill``. ``high`` and ``max`` also count when no more was needed than to drop file cache.
        pressure: Share of the last ten seconds in which at least one task waited for memory, percent: of our control
            group, or of the machine where the group is not asked.
        pressure_full: The same, all tasks at once.
    """

    at_s: float
    resident: int | None = None
    children: int | None = None
    device: int | None = None
    swapped: int | None = None
    available: int | None = None
    limit: int | None = None
    limit_of: str = ""
    used: int | None = None
    events: Mapping[str, int] = field(default_factory=dict)
    pressure: float | None = None
    pressure_full: float | None = None

    @property
    def own(self) -> int | None:
        """Resident memory of this process and device memory, bytes: what the budget is about; None when unknown.

        Children that build an engine are not in it: they come and go, and have limits of their own.
        """
        return None if self.resident is None else self.resident + (self.device or 0)

    @property
    def total(self) -> int | None:
        """Resident memory of this process and its descendants, and device memory, bytes; None when unknown.

        An unknown device counts as none: where there is one the caller must give its figure.
        """
        if self.resident is None or self.children is None:
            return None
        return self.resident + self.children + (self.device or 0)


@dataclass(frozen=True, slots=True)
class _Group:
    """What one control group says of itself; bytes."""

    limit: int
    limit_of: str
    used: int | None

    @property
    def room(self) -> int:
        return self.limit - (self.used or 0)


class MemoryWatch:
    """Reads the memory's figures; 0.1 ms of a processor a time on a machine with 70 processes. One thread uses it.

    Args:
        proc: Where procfs is.
        cgroup: Where the control groups are: version 2, or version 1 with its controllers as folders.
        clock: Seconds, monotonic.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup"), *,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = str(proc)
        self._cgroup = str(cgroup)
        self._clock = clock
        self._strangers: set[str] = set()
        self._ours: set[str] = set()
        self._named = ""
        self._folders: tuple[bool, list[str]] = (True, [])

    def read(self, device: int | None) -> MemoryReading:
        """Return the figures of now; never raises, what cannot be read is None.

        Args:
            device: Bytes that the engine takes on the device; None where there is none, or nobody knows.
        """
        own, machine = _fields(self._proc + "/self/status"), _fields(self._proc + "/meminfo")
        v2, folders = self._groups()
        group = min((found for folder in folders for found in [_group(folder, v2)] if found),
                    key=lambda found: found.room, default=None)
        counted = os.path.dirname(group.limit_of) if group else folders[0] if folders else ""  # noqa: PTH120 -- a str
        some, full = _pressure(folders[0] + "/memory.pressure") if v2 and folders else (None, None)
        if some is None:
            some, full = _pressure(self._proc + "/pressure/memory")
        return MemoryReading(
            at_s=self._clock(), resident=_kib(own, "VmRSS"), children=self._children(_number(own.get("Pid"))),
            device=device, swapped=_kib(own, "VmSwap"), available=_kib(machine, "MemAvailable"),
            limit=group.limit if group else None, limit_of=group.limit_of if group else "",
            used=group.used if group else None, events=_events(counted, v2) if counted else {},
            pressure=some, pressure_full=full)

    def _children(self, pid: int | None) -> int | None:
        """Return the resident bytes of all descendants.

        Only processes not seen before are asked for their parent, so a machine with many costs little more than the
        list of them. ``task/*/children`` would be shorter, but not every kernel has it (CONFIG_PROC_CHILDREN).
        """
        try:
            there = {name for name in os.listdir(self._proc) if name.isdecimal()}  # noqa: PTH208 -- half the time
        except OSError:
            return None
        if pid is None:
            return None
        self._ours &= there
        self._strangers &= there
        parents = {name: _parent(f"{self._proc}/{name}/stat") for name in there - self._ours - self._strangers}
        parents.pop(str(pid), None)
        while found := {name for name, parent in parents.items() if parent == str(pid) or parent in self._ours}:
            self._ours |= found
            for name in found:
                del parents[name]
        # One that could not be read has just ended, or belongs to another user: it is asked again.
        self._strangers |= {name for name, parent in parents.items() if parent}
        return sum(_statm(f"{self._proc}/{name}/statm") for name in self._ours)

    def _groups(self) -> tuple[bool, list[str]]:
        """Return whether they are of version 2, and the folders of our control group and its ancestors, nearest first.

        A path that leads nowhere is one of the host, seen from a container: there the mounted root is our own group.
        """
        named = _text(self._proc + "/self/cgroup")
        if named != self._named or not self._folders[1]:
            self._named = named
            paths = {}
            for line in named.splitlines():
                number, _, rest = line.partition(":")
                controllers, _, path = rest.partition(":")
                paths.update({"": path} if number == "0" else dict.fromkeys(controllers.split(","), path))
            v2 = "memory" not in paths
            self._folders = v2, _chain(self._cgroup + ("" if v2 else "/memory"), paths.get("" if v2 else "memory"))
        return self._folders


def _chain(root: str, path: str | None) -> list[str]:
    if path is None:
        return []
    parts = [part for part in path.split("/") if part]
    if ".." in parts or not os.path.isdir("/".join([root, *parts])):  # noqa: PTH112 -- a str
        parts = []
    return ["/".join([root, *parts[:n]]) for n in range(len(parts), -1, -1)]


def _group(folder: str, v2: bool) -> _Group | None:
    """Return the figures of a group that has a limit; None for one without."""
    current, cache, limits = _V2 if v2 else _V1
    known = [(limit, f"{folder}/{name}") for name in limits
             if (limit := _number(_text(f"{folder}/{name}"))) is not None and limit < _NO_LIMIT]
    if not known:
        return None
    limit, limit_of = min(known)
    taken, dropped = _number(_text(f"{folder}/{current}")), _number(_pairs(f"{folder}/memory.stat").get(cache))
    return _Group(limit, limit_of, None if taken is None or dropped is None else max(0, taken - dropped))


def _events(folder: str, v2: bool) -> dict[str, int]:
    """Return the counters of version 2; of version 1 what means the same, by the names of version 2."""
    if v2:
        found = {name: _number(text) for name, text in _pairs(folder + "/memory.events").items()}
        return {name: number for name, number in found.items()
                if number is not None and name in {"high", "max", "oom", "oom_kill"}}
    found = {"max": _number(_text(folder + "/memory.failcnt")),
             "oom_kill": _number(_pairs(folder + "/memory.oom_control").get("oom_kill"))}
    return {name: number for name, number in found.items() if number is not None}


def _pressure(path: str) -> tuple[float | None, float | None]:
    """Return ``avg10`` of the lines ``some`` and ``full`` of a file of pressure stall information, percent."""
    found: dict[str, float] = {}
    for line in _text(path).splitlines():
        kind, _, rest = line.partition(" avg10=")
        try:
            share = float(rest.partition(" ")[0])
        except ValueError:
            continue
        if 0 <= share <= 100:
            found[kind] = share
    return found.get("some"), found.get("full")


def _parent(path: str) -> str:
    """Return the parent's process id; empty when unknown. The name before it may hold spaces and brackets."""
    rest = _text(path).rpartition(")")[2].split()
    return rest[1] if len(rest) > 1 else ""


def _statm(path: str) -> int:
    """Return the resident bytes of a process; 0 when it has ended: then it has none."""
    sizes = _text(path).split()
    return (_number(sizes[1]) or 0) * _PAGE_BYTES if len(sizes) > 1 else 0


def _fields(path: str) -> dict[str, str]:
    return {key: value.strip() for key, colon, value in (line.partition(":") for line in _text(path).splitlines())
            if colon}


def _pairs(path: str) -> dict[str, str]:
    return {key: value for key, space, value in (line.partition(" ") for line in _text(path).splitlines()) if space}


def _kib(fields: Mapping[str, str], name: str) -> int | None:
    number, _, unit = fields.get(name, "").partition(" ")
    size = _number(number)
    return size * 1024 if size is not None and unit == "kB" else None


def _number(text: str | None) -> int | None:
    """Return a count that is not negative; None for ``max``, nothing and nonsense."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def _text(path: str) -> str:
    """Return a small file's text; empty when it cannot be read. Raw calls: pathlib takes five times as long."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return ""
    try:
        return os.read(file, _READ_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(file)
