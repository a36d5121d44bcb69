"""A folder of pictures as a source, in the order of their names. Pictures that come later are not seen."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agent.capture.address import FolderAddress
from agent.capture.pacing import Pacer
from agent.capture.quiet import load_cv2
from agent.errors import EndOfStreamError, SourceError, SourceGoneError
from agent.records import Pixels

cv2 = load_cv2()

_log = logging.getLogger(__name__)
# Path and time of change of the bad pictures in the log: a loop passes them over again and again, and opens the folder
# anew when none is good. Kept for the process, one entry a picture.
_told: dict[Path, int | None] = {}
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class FolderSource:
    """The pictures of one folder, in turn.

    Args:
        address: The folder, and how to show it.
        clock: Monotonic seconds.
        sleep: Waits that many seconds.

    Raises:
        SourceGoneError: no folder, or no picture in it, and it is not to be looped.
        SourceError: the same for a looped one, which is tried again.
    """

    def __init__(self, address: FolderAddress, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self.live = address.rate is not None
        self._folder = address.path
        self._loop = address.loop
        self._error = SourceError if address.loop else SourceGoneError
        self._pacer = Pacer(address.rate, clock, sleep) if address.rate is not None else None
        self._pictures = self._list()
        self._next = 0
        self._good = 0
        self._held: Pixels | None = None

    def grab(self) -> int:
        """Hold the next readable picture; see :class:`agent.capture.source.Source`."""
        if self._pacer is not None:
            self._pacer.wait()
        while True:
            if self._next == len(self._pictures):
                self._turn_over()
            index, self._next = self._next, self._next + 1
            try:
                self._held = _read(self._pictures[index])
            except SourceError as error:
                _tell_once(self._pictures[index], error.what)
                continue
            self._good += 1
            return index

    def retrieve(self) -> Pixels:
        """Return the held picture, which is given away by this."""
        pixels, self._held = self._held, None
        if pixels is None:
            raise SourceError(f"folder {self._folder}: no picture is held")
        return pixels

    def close(self) -> None:
        """Forget the held picture."""
        self._held = None

    def _list(self) -> list[Path]:
        try:
            pictures = sorted(path for path in self._folder.iterdir() if path.suffix.lower() in _SUFFIXES)
        except OSError as error:
            raise self._error(f"folder {self._folder} cannot be read: {error.strerror}", "correct the path in `url`"
                              ) from error
        if not pictures:
            raise self._error(f"folder {self._folder} holds no picture", f"put {', '.join(sorted(_SUFFIXES))} files "
                              "into it")
        return pictures

    def _turn_over(self) -> None:
        """Begin again with the first picture of a looped folder."""
        if not self._good:
            raise self._error(f"folder {self._folder}: none of its {len(self._pictures)} pictures can be read",
                              "check the files and their modes")
        if not self._loop:
            raise EndOfStreamError(f"folder {self._folder} ended after {self._good} picture(s)")
        self._next = self._good = 0


def _tell_once(path: Path, what: str) -> None:
    """Log what is wrong with a picture, unless that was done since it last changed."""
    try:
        changed: int | None = path.stat().st_mtime_ns
    except OSError:
        changed = None
    if path not in _told or _told[path] != changed:
        _told[path] = changed
        _log.warning("%s; passed over", what)


def _read(path: Path) -> Pixels:
    """Decode one picture to (H, W, 3) uint8 BGR, turned as its EXIF says."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels: Pixels | None = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except OSError as error:
        raise SourceError(f"picture {path} cannot be read: {error.strerror}") from error
    except cv2.error as error:
        raise SourceError(f"picture {path}: {error}") from error
    if pixels is None:
        raise SourceError(f"picture {path} cannot be decoded")
    return pixels
