"""Which frames calibrate INT8 and which ones judge it, and whether they are worth calibrating with.

A frame that calibrated must not judge, and neither must its twin: neighbours in a video are nearly the same picture. So
of a clip the last quarter, one block of time, is held out; of this device's own frames, which lie far apart, a quarter
by their content, so that a frame stays on its side when others come and go; and whatever looks like a calibration frame
or like another held-out one judges nothing. Works on values only; the frames on disk are ``reservoir``'s.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.building.frame_folder import ReservoirStatus, reservoirs, status_of, wipe
from agent.building.reservoir import Reservoir
from agent.errors import ModelError

__all__ = ["Reservoir", "ReservoirStatus", "Split", "check_variety", "reservoirs", "split", "status_of", "wipe"]

Frames = NDArray[np.uint8]
_CELLS = 16  # a thumbnail's cells each way
_SAME = 2.0  # grey levels of 255: frames of which no cell differs more are one picture (noise moves a cell by less)
_FLAT = 3.0  # grey levels: with less from end to end there is nothing in a row or column
_HELD_OUT = 4  # one of so many frames
_REMEDY = ("let the cameras see what they usually see for longer, or add `sets` with videos or pictures of it to the "
           "recipe's [calibration]")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Frames for the two purposes; none stands in both.

    Attributes:
        calibration: (n, H, W, 3) uint8 BGR.
        held_out: (m, H, W, 3) uint8 BGR; m may be 0.
        sha256: Of the content of both, 64 hex digits: the same frames on the same sides give the same hash.
        note: The same in words.
    """

    calibration: Frames
    held_out: Frames
    sha256: str
    note: str


def split(live: Frames, sets: Sequence[Frames], *, least: int, most: int) -> Split:
    """Divide frames into those that calibrate and those that judge. The same frames are always divided the same way.

    Live frames come first; clips fill up what they leave of ``most``, each in proportion to its length.

    Args:
        live: (n, H, W, 3) uint8, this device's own frames, any order; n may be 0.
        sets: The recipe's clips and pictures, (n, H, W, 3) each, frames in their order.
        least: With fewer calibration frames there is no INT8.
        most: At most so many frames on each side; more are thinned out evenly.

    Raises:
        ModelError: too few frames, no variety among them, or shapes that do not fit; with the numbers.
    """
    _check_shapes([live, *sets])
    own, own_held = _by_content(live)
    blocks = [_by_time(frames) if len(frames) >= _HELD_OUT else _by_content(frames) for frames in sets]
    own = _thinned(own, most)
    pool = np.concatenate([live[:0], *(frames for frames, _ in blocks)])
    filled = _thinned(pool, most - len(own))
    calibration = np.concatenate([own, filled])
    check_variety(calibration, least=least)
    candidates = np.concatenate([own_held, *(held for _, held in blocks)])
    held_out = _unlike(candidates, calibration)
    twins = len(candidates) - len(held_out)
    held_out = _thinned(held_out, most)
    digest = hashlib.sha256(repr((calibration.shape, held_out.shape)).encode())
    digest.update(np.ascontiguousarray(calibration).data)
    digest.update(np.ascontiguousarray(held_out).data)
    note = (f"{len(calibration)} frames calibrate ({len(own)} of this device, {len(filled)} of {len(sets)} sets); "
            f"{len(held_out)} are held out" + (f", {twins} more look like one of these" if twins else ""))
    return Split(calibration=calibration, held_out=held_out, sha256=digest.hexdigest(), note=note)


def check_variety(frames: Frames, *, least: int = 1) -> None:
    """Refuse frames that INT8 would learn the wrong ranges from.

    A quarter of ``least``, and two at least, must be pictures of their own: not one flat colour (between the bands of
    a letterbox, too), and different from each other somewhere in a grey thumbnail of 16 x 16 cells.

    Args:
        frames: (n, H, W, 3) uint8.
        least: So many frames are needed.

    Raises:
        ModelError: too few, or no variety; with the numbers.
    """
    _check_shapes([frames])
    if len(frames) < least:
        raise ModelError(f"{len(frames)} calibration frames are too few: {least} are needed", _REMEDY)
    thumbnails = _thumbnails(frames)
    telling = [thumbnail for thumbnail in thumbnails if not _is_flat(thumbnail)]
    wanted = max(2, -(-least // 4))
    different: list[NDArray[np.float32]] = []
    for thumbnail in telling:
        if len(different) < wanted and _is_new(thumbnail, different):
            different.append(thumbnail)
    if len(different) < wanted:
        raise ModelError(
            f"the {len(frames)} calibration frames show no variety: {len(different)} different pictures, {wanted} are "
            f"needed ({len(frames) - len(telling)} are of one flat colour; frames count as one picture when no cell of "
            f"a {_CELLS}x{_CELLS} thumbnail differs by more than {_SAME:g} of 255)", _REMEDY)


def _check_shapes(groups: Sequence[Frames]) -> None:
    wanted = next((group.shape[1:] for group in groups if group.ndim == 4), None)
    for group in groups:
        fits = group.ndim == 4 and group.shape[3] == 3 and group.dtype == np.uint8 and group.shape[1:] == wanted
        if not fits or min(group.shape[1:3]) < _CELLS:
            expected = f"(n, {wanted[0]}, {wanted[1]}, 3)" if wanted else "(n, height, width, 3)"
            raise ModelError(
                f"calibration frames of shape {group.shape} {group.dtype}, not {expected} uint8 of {_CELLS} pixels "
                "or more each way", "letterbox all of them onto the engine's canvas")


def _by_time(frames: Frames) -> tuple[Frames, Frames]:
    first_held = len(frames) - len(frames) // _HELD_OUT
    return frames[:first_held], frames[first_held:]


def _by_content(frames: Frames) -> tuple[Frames, Frames]:
    """Divide by a hash of each frame, and put them in its order: what comes later never moves a frame across."""
    digests = [hashlib.sha256(np.ascontiguousarray(frame).data).digest() for frame in frames]
    order = sorted(range(len(frames)), key=digests.__getitem__)
    held = [index for index in order if digests[index][0] % _HELD_OUT == 0]
    return frames[[index for index in order if digests[index][0] % _HELD_OUT]], frames[held]


def _thinned(frames: Frames, most: int) -> Frames:
    if len(frames) <= most:
        return frames
    return frames[[(2 * index + 1) * len(frames) // (2 * most) for index in range(most)]]


def _unlike(candidates: Frames, calibration: Frames) -> Frames:
    """Return those of ``candidates`` that look like no frame of ``calibration`` and like none before them."""
    seen = list(_thumbnails(calibration))
    kept = []
    for index, thumbnail in enumerate(_thumbnails(candidates)):
        if _is_new(thumbnail, seen):
            seen.append(thumbnail)
            kept.append(index)
    return candidates[kept]


def _is_new(thumbnail: NDArray[np.float32], seen: Sequence[NDArray[np.float32]]) -> bool:
    return not seen or bool((np.abs(np.stack(seen) - thumbnail).max(axis=(1, 2)) > _SAME).all())


def _is_flat(thumbnail: NDArray[np.float32]) -> bool:
    """Tell whether all rows, or all columns, are of one grey: one colour, perhaps between a letterbox's bands."""
    return any(bool((np.ptp(thumbnail, axis=axis) < _FLAT).all()) for axis in (0, 1))


def _thumbnails(frames: Frames) -> NDArray[np.float32]:
    """Return (n, 16, 16) float32: the mean grey of each cell, 0..255. One frame at a time, for the memory's sake."""
    height, width = frames.shape[1:3]
    rows, columns = (np.arange(_CELLS) * side // _CELLS for side in (height, width))
    area = np.outer(np.diff(rows, append=height), np.diff(columns, append=width)) * 3
    found = np.empty((len(frames), _CELLS, _CELLS), np.float32)
    for index, frame in enumerate(frames):
        grey = frame.sum(axis=2, dtype=np.uint32)
        found[index] = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1) / area
    return found
