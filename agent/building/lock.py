"""One process at a time in a folder: ``vedette run`` and ``vedette engines fetch`` may want the same file at once."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import ModelError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Create ``folder`` if need be and hold its lock; waits while another process holds it.

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
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def taken(folder: Path) -> bool:
    """Tell whether some process holds the lock of ``folder`` now."""
    try:
        lock = (folder / ".lock").open("rb")
    except OSError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
