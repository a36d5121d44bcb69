"""A bounded, fair sample of this device's own frames on disk, for INT8 to learn its ranges from.

Every frame that is offered draws a random number, and the smallest numbers that fit into the byte budget stay. So each
frame ever offered has the same chance to be kept, as with Algorithm R; only the last frame before the budget is more
often a small one, because frames pack differently. The numbers are the names of the files: the folder is the index,
and nothing that a crash can lose makes the sample unfair. What has to be remembered beside it is the limit, the
smallest number ever turned away, and the count of offers, which only informs.

Never more bytes than the budget, whole blocks, a half-written file and the count included. Frames show what the cameras
saw: folders are 0700, files 0600, and a wipe leaves nothing. Offering never waits and never fails the caller.
"""

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.atomic import write_atomic
from agent.building.frame_file import Header, longest, pack, unpack
from agent.building.frame_folder import (
    ALL,
    BLOCK,
    STATE,
    ReservoirStatus,
    State,
    all_in,
    alone,
    blocks,
    explained,
    frames_in,
    headers_in,
    in_order,
    make_private,
    state_in,
    status_of,
    wipe,
)
from agent.errors import ConfigError
from agent.records import Pixels

_log = logging.getLogger(__name__)
_ROOM = 4 * BLOCK  # for the state, its successor while that is written, and the folder itself
_LAG = 256  # offers; so many may be forgotten when the process is killed


class Reservoir:
    """The sample of one recipe at one canvas size. Used by one thread; other processes may look or wipe meanwhile.

    Nothing is made on disk before the first offer.

    Args:
        folder: Its own folder, ``<state>/calibration/<recipe>/<H>x<W>``.
        height: Of the canvas, pixels.
        width: Of the canvas, pixels.
        max_bytes: Budget on disk, bytes. A lowered one takes effect at the first offer; a raised one fills up
            only with the rare frames that are still drawn, unless the sample is wiped.
        seed: Makes the draw repeatable, for tests.
        clock: Wall clock, seconds since the epoch.

    Raises:
        ConfigError: the budget does not hold one frame.
    """

    def __init__(self, folder: Path, *, height: int, width: int, max_bytes: int, seed: int | None = None,
                 clock: Callable[[], float] = time.time) -> None:
        least = _ROOM + blocks(longest(height, width))
        if max_bytes < least:
            raise ConfigError(f"calibration: {max_bytes} bytes do not hold one frame of {height}x{width} pixels",
                              f"allow at least {least} bytes, better {50 * least}")
        self._folder, self._height, self._width, self._max_bytes = folder, height, width, max_bytes
        self._random, self._clock = random.Random(seed), clock  # noqa: S311 -- a sample, no secret
        self._limit, self._offered, self._saved = ALL, 0, 0
        self._stamp: tuple[int, int] | None = None
        self._failing = False

    def offer(self, canvas: Pixels, source: str) -> bool:
        """Consider one frame; True when it was kept.

        A frame that is not drawn costs microseconds. One that is drawn costs some milliseconds and a few
        fsyncs, so do not call it in the inference thread, and leave seconds between two frames of a source.
        On a disk that cannot be written it says so once in the log and keeps nothing.

        Args:
            canvas: (H, W, 3) uint8 BGR, letterboxed.
            source: Name of the source.

        Raises:
            ValueError: the canvas has another shape or type.
        """
        if canvas.shape != (self._height, self._width, 3) or canvas.dtype != np.uint8:
            raise ValueError(f"expected ({self._height}, {self._width}, 3) uint8, got {canvas.shape} {canvas.dtype}")
        try:
            kept = self._offer(canvas, source)
        except OSError as error:
            if not self._failing:
                _log.warning("calibration frames cannot be kept in %s: %s", self._folder, error.strerror or error)
            self._failing = True
            return False
        self._failing = False
        return kept

    def frames(self) -> NDArray[np.uint8]:
        """Return what is kept, oldest first, as (n, H, W, 3) uint8; a damaged file is removed and left out.

        Raises:
            ModelError: the folder cannot be read.
        """
        with explained(self._folder):
            paths = in_order(self._folder)
            found = np.empty((len(paths), self._height, self._width, 3), np.uint8)
            count = 0
            for path in paths:
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    continue
                picture = unpack(content, self._height, self._width)
                if picture is None:
                    _log.warning("removed a damaged calibration frame: %s", path)
                    path.unlink(missing_ok=True)
                    continue
                found[count] = picture
                count += 1
        return found[:count]

    def status(self) -> ReservoirStatus:
        """Return what is kept, and the offers counted so far even if they are not on disk yet."""
        status = status_of(self._folder, self._max_bytes)
        return msgspec.structs.replace(status, offered=max(status.offered, self._offered if self._in_step() else 0))

    def wipe(self) -> int:
        """Remove everything, see :func:`agent.building.frame_folder.wipe`, and return how many frames that were."""
        return wipe(self._folder)

    def _offer(self, canvas: Pixels, source: str) -> bool:
        number = self._random.getrandbits(64)
        if self._in_step() and number >= self._limit and self._offered + 1 - self._saved < _LAG:
            self._offered += 1
            return False
        make_private(self._folder)
        with alone(self._folder, wait=False) as mine:
            if not mine:  # someone wipes; this frame is passed over
                return False
            if not self._in_step():
                self._load()
            self._offered += 1
            if number >= self._limit or self._file(number).exists():
                self._save()
                return False
            header = Header(height=self._height, width=self._width, source=source, at=self._clock(),
                            serial=self._offered)
            content = pack(canvas, header)
            if not self._make_room(number, len(content)):
                return False
            write_atomic(self._file(number), content, 0o600)
            return True

    def _make_room(self, number: int, size: int) -> bool:
        """Turn the largest numbers away until the rest fits; True when ``number`` is among the rest."""
        sizes = {int(path.stem, 16): blocks(path.stat().st_size) for path in frames_in(self._folder)}
        if size:
            sizes[number] = blocks(size)
        total, away = sum(sizes.values()), list[int]()
        for other in sorted(sizes, reverse=True):
            if total <= self._max_bytes - _ROOM:
                break
            total -= sizes[other]
            away.append(other)
        if away:
            self._limit = away[-1]
            self._save()  # before anything is removed: a kill in between leaves files that the limit condemns
            for other in away:
                self._file(other).unlink(missing_ok=True)
        return number not in away

    def _in_step(self) -> bool:
        """Tell whether what we remember is what the disk says: nobody wiped since."""
        return self._stamp is not None and self._stamp == self._stamp_now()

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            found = (self._folder / STATE).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _load(self) -> None:
        for path in all_in(self._folder):
            if path.suffix == ".part":  # left by a kill: whoever writes holds the lock, and we hold it
                path.unlink(missing_ok=True)
        state = state_in(self._folder)
        newest = max((header.serial for _, header in headers_in(self._folder)), default=0)
        self._limit, self._offered = int(state.limit, 16), max(state.offered, newest)
        for path in frames_in(self._folder):
            if int(path.stem, 16) >= self._limit:
                path.unlink(missing_ok=True)
        self._make_room(0, 0)
        self._save()

    def _save(self) -> None:
        state = State(offered=self._offered, limit=f"{self._limit:x}")
        write_atomic(self._folder / STATE, msgspec.json.encode(state), 0o600)
        self._stamp, self._saved = self._stamp_now(), self._offered

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:016x}.frame"
