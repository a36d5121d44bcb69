"""Two hints to glibc's memory allocator that keep a long-lived agent small. Do nothing where it is another libc."""

import ctypes
from functools import cache
from typing import Any

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
