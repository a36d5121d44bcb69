"""The folder in which a reservoir keeps its frames: what stands in it, what that weighs, and how it is emptied.

Other processes may look or wipe while the agent writes: whoever changes something holds the folder's lock, and a file
that is gone between two steps is no error.
"""

import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent.atomic import fsync_dir
from agent.building.frame_file import Header, read_header
from agent.errors import ModelError

BLOCK = 4096
"""Bytes; disks give whole blocks."""
ALL = 1 << 64
"""One more than the largest number drawn."""
STATE = "sample.json"
_NAME = re.compile(r"[0-9a-f]{16}\.frame")


class ReservoirStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a reservoir holds.

    Attributes:
        frames: Frames kept.
        bytes: What they and their index take on disk, whole blocks.
        max_bytes: The budget.
        offered: Frames offered since the last wipe; at most 256 behind after a kill.
        oldest: When the oldest frame was offered, seconds since the epoch; None when there is none.
        newest: The same of the newest.
        sources: Frames kept of each source.
    """

    frames: int
    bytes: int
    max_bytes: int
    offered: int
    oldest: float | None
    newest: float | None
    sources: dict[str, int]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered beside the frames.

    Attributes:
        offered: Frames offered since the last wipe.
        limit: Only smaller numbers are kept. As hex: JSON's readers agree on 53 bits only.
    """

    offered: int = 0
    limit: str = f"{ALL:x}"


def reservoirs(root: Path) -> list[Path]:
    """Return the folders below ``<state>/calibration`` that hold, or held, frames: ``<recipe>/<H>x<W>``."""
    return sorted(path for path in root.glob("*/*x*") if path.is_dir() and re.fullmatch(r"\d+x\d+", path.name))


def status_of(folder: Path, max_bytes: int) -> ReservoirStatus:
    """Return what the reservoir in ``folder`` holds, without reading pictures or changing anything.

    Raises:
        ModelError: the folder cannot be read.
    """
    with explained(folder):
        headers = [header for _, header in headers_in(folder)]
        taken = sum(blocks(size) for size in map(_size, all_in(folder)))
        offered = max([state_in(folder).offered, *(header.serial for header in headers)])
    times = [header.at for header in headers]
    return ReservoirStatus(
        frames=len(headers), bytes=taken + (BLOCK if taken else 0), max_bytes=max_bytes, offered=offered,
        oldest=min(times, default=None), newest=max(times, default=None),
        sources=dict(sorted(Counter(header.source for header in headers).items())))


def wipe(folder: Path) -> int:
    """Remove every file in ``folder``, half-written ones too, and return how many frames were among them.

    Waits while a frame is being written. The empty folder stays.

    Raises:
        ModelError: something cannot be removed.
    """
    frames = 0
    with explained(folder):
        if not folder.is_dir():
            return 0
        with alone(folder, wait=True):
            for path in all_in(folder):
                frames += bool(_NAME.fullmatch(path.name))
                path.unlink(missing_ok=True)
            fsync_dir(folder)
    return frames


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into a ModelError that names ``folder``."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{folder}: calibration frames cannot be read or removed: {error.strerror or error}",
                         "run this as the agent's user or as root") from error


@contextmanager
def alone(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock the folder itself, so that a wipe leaves no lock file; yields False when it is taken and not waited for."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def make_private(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, for the owner's eyes only."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    if not missing and folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def all_in(folder: Path) -> list[Path]:
    """Return all files of a folder, which may be missing."""
    try:
        return sorted(path for path in folder.iterdir() if not path.is_dir())
    except FileNotFoundError:
        return []


def frames_in(folder: Path) -> list[Path]:
    """Return the frames' files by their numbers."""
    return [path for path in all_in(folder) if _NAME.fullmatch(path.name)]


def in_order(folder: Path) -> list[Path]:
    """Return the frames' files, oldest first; those whose header cannot be read come last, to be found damaged."""
    read = sorted(headers_in(folder), key=lambda item: (item[1].at, item[1].serial, item[0]))
    known = {path: None for path, _ in read}
    return [*known, *(path for path in frames_in(folder) if path not in known)]


def headers_in(folder: Path) -> Iterator[tuple[Path, Header]]:
    """Yield the frames' files whose header can be read."""
    for path in frames_in(folder):
        try:
            with path.open("rb") as file:
                header = read_header(file)
        except FileNotFoundError:  # wiped, or turned away, meanwhile
            continue
        if header is not None:
            yield path, header


def state_in(folder: Path) -> State:
    """Return what is remembered, or what holds before the first offer when that is missing or damaged."""
    try:
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=State)
        return state if 0 < int(state.limit, 16) <= ALL else State()
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return State()  # frames already there stay; the largest numbers go as room runs out


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def blocks(size: int) -> int:
    """Return the bytes that a file of ``size`` bytes takes on disk."""
    return -(-size // BLOCK) * BLOCK
