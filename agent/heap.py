"""How much memory this process holds, and two hints to glibc's allocator that keep a long-lived agent small."""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_M_ARENA_MAX = -8  # malloc.h of glibc


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def keep_one() -> None:
    """Let all threads share one heap; call before they start.

    glibc gives each thread its own, and frames made in one and freed in another leave holes in all of them: 5 to 13 MB
    more at 640 pixels, for no speed that could be measured.
    """
    if hasattr(_libc(), "mallopt"):
        _libc().mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what is free to the system: loading an engine leaves 14 MB behind that frames would only add to."""
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE_BYTES
