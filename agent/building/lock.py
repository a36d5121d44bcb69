"""One process at a time in a folder: ``vedette run`` and ``vedette engines fetch`` may want the same file at once.

Who holds a lock leaves its pid in it, and touches it while its work goes forward (:func:`beat`), or that of another
whose lock it waits for. So who waits can say for whom, and gives up on one that hangs or was stopped.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from agent.errors import ModelError
from agent.machine import stopped

_LOOK_AGAIN_S = 0.2
_BEAT_S = 1.0
_PATIENCE_S = 600.0  # longer than a stretch of work without a beat; a download's first attempt is one


class _Here(threading.local):
    """The locks that this thread holds, and when it touches them next."""

    def __init__(self) -> None:
        self.held: list[FileIO] = []
        self.next_s = 0.0


_HERE = _Here()


@contextmanager
def alone_in(folder: Path, wait: Callable[[], None] | None = None, say: Callable[[str], None] | None = None
             ) -> Iterator[None]:
    """Create ``folder`` if need be and hold its lock; waits while another process holds it and works.

    Args:
        folder: Whose lock.
        wait: Called every 0.2 s while another holds the lock; what it raises ends the waiting.
        say: Told in words who is waited for, once for each.

    Raises:
        ModelError: the folder cannot be made or written, or the other has not shown a sign of work for ten minutes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileIO(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error.strerror}",
                         "let the agent's user own the state directory, or name another with --state-dir") from error
    with lock:
        _wait_for(lock, folder, wait or (lambda: None), say or (lambda _: None))
        with suppress(OSError):  # a full disk takes no pid; the lock holds all the same
            os.ftruncate(lock.fileno(), 0)
            os.pwrite(lock.fileno(), f"{os.getpid()}\n".encode(), 0)
        _HERE.held.append(lock)
        try:
            yield
        finally:
            _HERE.held.remove(lock)


def beat() -> None:
    """Show who waits for a lock of this thread that the work goes forward; cheap enough for every step of it."""
    if _HERE.held and (now_s := time.monotonic()) >= _HERE.next_s:
        _HERE.next_s = now_s + _BEAT_S
        for lock in _HERE.held:
            with suppress(OSError):
                os.utime(lock.fileno())


def taken(folder: Path) -> bool:
    """Tell whether some process holds the lock of ``folder`` now."""
    try:
        lock = FileIO(folder / ".lock")
    except OSError:
        return False
    with lock:
        return not _got(lock, fcntl.LOCK_SH)


def _wait_for(lock: FileIO, folder: Path, wait: Callable[[], None], say: Callable[[str], None]) -> None:
    """Take the lock; see :func:`alone_in`."""
    said, seen_ns, since_s = "", 0, 0.0
    while not _got(lock, fcntl.LOCK_EX):
        pid = os.pread(lock.fileno(), 32, 0).decode("ascii", "replace").strip()
        who = f"process {pid}" if pid else "another process"
        if seen_ns != (touched_ns := os.fstat(lock.fileno()).st_mtime_ns):
            if seen_ns:  # its work goes forward, and so does ours, for those who wait for a lock of this thread
                beat()
            seen_ns, since_s = touched_ns, time.monotonic()
        elif time.monotonic() - since_s > _PATIENCE_S:
            raise ModelError(f"{folder}: {who} holds its lock and has shown no sign of work for {_PATIENCE_S:g} s",
                             f"see what it does (`ps {pid or '-ef'}`), and end it if it hangs")
        does = "is stopped (SIGSTOP, or Ctrl-Z)" if pid.isdecimal() and stopped(int(pid)) else "works"
        words = f"waiting for {who}, which {does} in {folder}"
        if said != words:
            said = words
            say(words)
        wait()
        time.sleep(_LOOK_AGAIN_S)


def _got(lock: FileIO, kind: int) -> bool:
    """Take the lock of this kind unless that means waiting."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
