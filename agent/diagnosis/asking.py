"""Ask a child process: that it crashes or hangs over what it looks at is a fact like any other."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from agent import machine
from agent.diagnosis.becoming import ROOTS
from agent.reading import read_small

_T = TypeVar("_T")
_RUN = Path("/run")
_MOST_SECRET = 65536


class Asker:
    """Runs probes, see :mod:`agent.diagnosis.probe`. Any thread may use it.

    Args:
        looking: Told what is being looked at.
        timeout_s: Longest time for one probe, unless it is given one of its own.
        root: What stands for ``/``.
        user: As whom those probes run that load libraries or read what others wrote; None: as who asks.

    Attributes:
        user: The same.
    """

    def __init__(self, looking: Callable[[str], None], timeout_s: float, root: Path, user: machine.User | None = None
                 ) -> None:
        self._looking, self._timeout_s, self._root = looking, timeout_s, root
        self.user = user

    def __call__(self, probe: str, kind: type[_T], failed: Callable[[str], _T], *arguments: str,
                 timeout_s: float | None = None, words: str = "") -> _T:
        """Return what the probe found; what ``failed`` makes of the reason where it found nothing."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        self._looking(words or " ".join((probe, *arguments)))
        reply = machine.ask([sys.executable, "-m", "agent.diagnosis.probe", probe, *arguments], limit_s,
                            None if probe in ROOTS else self.user)
        if reply is None:
            return failed("no process could be started for it")
        if reply.code != 0:
            return failed(how_it_ended(reply, limit_s))
        try:
            return msgspec.json.decode(reply.out, type=kind)
        except msgspec.DecodeError as error:
            return failed(f"its process gave no answer ({error})")


def how_it_ended(reply: machine.Reply, timeout_s: float) -> str:
    """Say in a few words how a child without an answer ended: its limit, its signal, or its last exception."""
    if reply.code is None:
        return f"it hangs: no answer within {timeout_s:g} s"
    lines = [line for line in reply.err.splitlines() if line.strip()]
    if reply.code == -signal.SIGKILL:
        return "SIGKILL ended the process that looked at it: perhaps the memory ran out"
    if reply.code < 0:
        try:
            name = signal.Signals(-reply.code).name
        except ValueError:
            name = f"signal {-reply.code}"
        return f"it crashes: {name} ended the process that looked at it"
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback ")]
    after = [line for line in lines[starts[-1] + 1:] if not line.startswith(" ")] if starts else lines[-1:]
    return after[0] if after else f"its process ended with exit code {reply.code}"


@contextmanager
def told(inquiry: msgspec.Struct, user: machine.User | None = None) -> Iterator[str]:
    """Yield the path of a file, readable by ``user`` (or this one) only, that holds ``inquiry``."""
    with _passed(msgspec.json.encode(inquiry), user) as name:
        yield name


@contextmanager
def handed(secret: Path, user: machine.User | None) -> Iterator[str]:
    """Yield the path of a copy of ``secret`` that ``user`` can read until the block ends; without one, its own path.

    Raises:
        OSError: it cannot be read, or is no secret (no regular file, or larger than 64 KiB).
    """
    if user is None:
        yield str(secret)
        return
    with _passed(read_small(secret, _MOST_SECRET, links=True).data, user) as name:
        yield name


@contextmanager
def _passed(content: bytes, user: machine.User | None) -> Iterator[str]:
    # In memory where only root may write, so that whoever it is for cannot put something else there.
    handle, name = tempfile.mkstemp(prefix="vedette-doctor-", dir=_RUN if user and os.access(_RUN, os.W_OK) else None)
    try:
        with os.fdopen(handle, "wb") as file:
            if user:
                os.fchown(handle, user.uid, user.gid)
            file.write(content)
        yield name
    finally:
        Path(name).unlink(missing_ok=True)
