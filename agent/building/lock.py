"""One process at a time in a folder: ``vedette run`` and ``vedette engines fetch`` may want the same file at once."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agent.errors import ModelError

_LOOK_AGAIN_S = 0.2


@contextmanager
def alone_in(folder: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Create ``folder`` if need be and hold its lock; waits while another process holds it.

    Args:
        folder: Whose lock.
        wait: Called every 0.2 s while another holds the lock; what it raises ends the waiting.

    Raises:
        ModelError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("wb")
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error.strerror}",
                         "let the agent's user own the state directory, or name another with --state-dir") from error
    with lock:
        if wait is None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        else:
            while not _got(lock, fcntl.LOCK_EX):
                wait()
                time.sleep(_LOOK_AGAIN_S)
        yield


def taken(folder: Path) -> bool:
    """Tell whether some process holds the lock of ``folder`` now."""
    try:
        lock = (folder / ".lock").open("rb")
    except OSError:
        return False
    with lock:
        return not _got(lock, fcntl.LOCK_SH)


def _got(lock: BinaryIO, kind: int) -> bool:
    """Take the lock of this kind unless that means waiting."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
