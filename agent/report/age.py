"""The spool's own clock and the sequence it has reached, both kept across restarts.

The wall clock of a box jumps: it starts in 1970 and is set when the network comes, or by hand to a wrong year. An
event's age decides whether it may be dropped, so it must not follow those jumps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.atomic import write_atomic
from agent.errors import SpoolError

# Numbers are promised to the disk so many at a time: one small write for this many events.
_RESERVED = 65536


class ClockReading(NamedTuple):
    """One moment by three clocks: the spool's, that since the box's start, and the wall clock; seconds.

    ``certain`` says whether a time service vouched for the wall clock then.
    """

    spool: float
    boot_id: str
    boottime: float
    wall: float
    certain: bool


class Clocks(NamedTuple):
    """The clocks of a box.

    Attributes:
        boot_id: Of this start of the box.
        boottime: Seconds since the box was started, suspend included.
        wall: Wall clock, seconds since the epoch.
        certain: Whether a time service vouches for the wall clock now.
    """

    boot_id: str
    boottime: Callable[[], float]
    wall: Callable[[], float]
    certain: Callable[[], bool]


class AgeClock:
    """Seconds that pass as they really pass, whatever is done to the wall clock.

    Within one start of the box the kernel's CLOCK_BOOTTIME counts, which also runs in suspend. Over a restart of the
    box the wall clock tells how long it was off, if a time service vouched for it before and does so after; else no
    time is counted, and events live longer than they should rather than shorter.

    Args:
        saved: The last reading that was kept, None for a new spool.
        clocks: Of the box.
    """

    def __init__(self, saved: ClockReading | None, clocks: Clocks) -> None:
        self._clocks = clocks
        began = clocks.wall()
        if saved is None:
            start = began
        elif saved.boot_id == clocks.boot_id:
            start = saved.spool + max(0.0, clocks.boottime() - saved.boottime)
        else:
            known = saved.certain and clocks.certain()
            start = saved.spool + (max(0.0, began - saved.wall) if known else 0.0)
        self._offset = start - clocks.boottime()

    def __call__(self) -> float:
        """Return the spool's time, seconds; it never goes back."""
        return self._offset + self._clocks.boottime()

    def reading(self) -> ClockReading:
        """Return what must be kept for the next run."""
        clocks = self._clocks
        return ClockReading(self(), clocks.boot_id, clocks.boottime(), clocks.wall(), clocks.certain())


class Mark(msgspec.Struct, frozen=True):
    """How far the sequence may have come.

    Attributes:
        reached: No sequence above this was ever given.
        kept: All below this had left the spool when the mark was written.
    """

    reached: int = 0
    kept: int = 1


class SequenceMark:
    """The file ``<spool>.mark``: it lets the sequence go on when the spool itself is lost.

    Args:
        path: Of the spool.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.mark")
        self.mark = self._read()

    def _read(self) -> Mark:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Mark)
        except (FileNotFoundError, msgspec.DecodeError):
            return Mark()  # it is written again before the next number is given
        except OSError as error:
            raise SpoolError(f"{self._path}: {error.strerror}", "check its owner and mode, and the disk") from error

    def reserve(self, needed: int, kept: int) -> None:
        """Make sure that ``needed`` and all numbers below it are marked as given.

        Raises:
            OSError: the mark cannot be written.
        """
        if needed > self.mark.reached:
            mark = Mark(needed + _RESERVED, kept)
            write_atomic(self._path, msgspec.json.encode(mark), 0o640)
            self.mark = mark
