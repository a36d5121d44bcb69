"""What this box knows about time: which boot this is, how long it lasts, and whether the wall clock can be believed.

Promises: reads only, needs no privilege, never raises for a kernel that tells nothing. A clock is only called wrong for
a reason that can be named; where the kernel may not be asked (a sandbox that forbids adjtimex) it is ``unknown``, which
counts as trusted. Does not set a clock and does not ask a time server.
"""

import ctypes
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Trust = Literal["synchronised", "unsynchronised", "implausible", "unknown"]

# 2025-11-01T00:00:00Z. No box can run this source before it was written, so a clock that says so was never set: a
# Jetson without a battery starts in 1970 or at its image's date. A constant, not a file's time: those are copied,
# squashed and rounded on the way to a box, and two boxes with one version must judge alike.
BUILD_FLOOR = 1761955200.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NO_BOOT_ID = uuid.uuid4().hex
# From linux/timex.h: the status bit of an unsynchronised clock, and adjtimex(2)'s return value that says the same.
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
# A time service slews a clock by far less than this between two looks; what moves it more has set it.
_JUMP_S = 1.0


class _Timeval(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2); ``modes`` 0 asks and changes nothing."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("constant", ctypes.c_long),
        ("precision", ctypes.c_long), ("tolerance", ctypes.c_long), ("time", _Timeval), ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long), ("jitter", ctypes.c_long), ("shift", ctypes.c_int), ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long), ("calcnt", ctypes.c_long), ("errcnt", ctypes.c_long), ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int), ("reserved", ctypes.c_int * 11))


def boot_id(path: Path = _BOOT_ID) -> str:
    """Return the kernel's id of this boot, 32 hex digits; random, and fixed for the process, where there is none."""
    try:
        return uuid.UUID(path.read_text("ascii").strip()).hex
    except (OSError, ValueError):
        return _NO_BOOT_ID


def boottime() -> float:
    """Return seconds since the boot, time asleep included; it never jumps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def trust(wall: Callable[[], float] = time.time, kernel: Callable[[], tuple[int, int] | None] | None = None) -> Trust:
    """Return how far the wall clock can be believed, read afresh.

    ``unsynchronised`` is the kernel's word: no time service has set it since the boot, or none has confirmed it for so
    long that it may be off by 16 s (NTP_PHASE_LIMIT; about nine hours at the 500 ppm that the kernel assumes).

    Args:
        wall: Wall clock, seconds since the epoch.
        kernel: Returns adjtimex's (state, status); None when it may not be asked.
    """
    if wall() < BUILD_FLOOR:
        return "implausible"
    answer = (kernel or _adjtimex)()
    if answer is None:
        return "unknown"
    state, status = answer
    return "unsynchronised" if state == _TIME_ERROR or status & _STA_UNSYNC else "synchronised"


def untrusted(how: Trust) -> bool:
    """Tell whether a time read from this clock may be wrong."""
    return how in {"unsynchronised", "implausible"}


def words(how: Trust) -> str:
    """Return what is wrong with the clock as an operator reads it; empty when nothing is known to be."""
    return {"implausible": "the box's clock is not set", "unsynchronised": "the box's clock is not synchronised"
            }.get(how, "")


class RecentTrust:
    """:func:`trust`, asked at most every ``keep_s`` seconds: cheap enough for every event. Any thread may call it.

    Args:
        read: What is asked.
        keep_s: Seconds an answer is good for, unless the wall clock is set meanwhile.
        clock: Monotonic clock, seconds.
        wall: Wall clock, seconds since the epoch.
    """

    def __init__(self, read: Callable[[], Trust] = trust, keep_s: float = 10.0,
                 clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._read, self._keep_s, self._clock, self._wall = read, keep_s, clock, wall
        self._known: tuple[float, float, Trust] | None = None

    def __call__(self) -> Trust:
        """Return the trust of at most ``keep_s`` ago."""
        now, known = self._clock(), self._known
        behind = self._wall() - now
        if known is None or now - known[0] >= self._keep_s or abs(behind - known[1]) > _JUMP_S:
            known = self._known = (now, behind, self._read())
        return known[2]

    def distrust(self) -> str:
        """Return why the clock is not to be trusted, as an event tells it; empty when it is."""
        how = self()
        return how if untrusted(how) else ""


def _adjtimex() -> tuple[int, int] | None:
    """Ask the kernel; None where a sandbox or another kernel does not let us."""
    try:
        ask = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    asked = _Timex()
    state = int(ask(ctypes.byref(asked)))
    return None if state < 0 else (state, int(asked.status))
