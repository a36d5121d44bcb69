"""Is this picture news? Frozen, black, a new size, a clock that jumped: found from values, without I/O.

A camera's noise changes every picture, so only a frozen one repeats bit for bit. The common case costs a checksum of
1/256 of the pixels; the whole picture is summed only when that did not change. A single repeated or dark picture means
nothing: both states need time.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from agent.records import Pixels, SourceState

_STRIDE = 16
_BLACK_MEAN = 8.0
"""Mean of a black picture at most, of 255. Video black is 0 after conversion; sensor noise behind a lid adds a few."""
_BLACK_MAX = 40
"""Brightest sample of a black picture at most, of 255: one lit window at night is already no black picture."""
_CLOCK_JUMP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one look found.

    Attributes:
        state: LIVE, FROZEN or BLACK (black wins: a black substitute is frozen, too).
        reason: Why, in words.
        changes: Things to report once, such as ``resolution changed 640x360 → 1280x720``.
    """

    state: SourceState
    reason: str
    changes: tuple[str, ...] = ()


class Signature:
    """Tells whether a picture equals the one before, bit for bit (CRC-32: one in 4 billion errs)."""

    def __init__(self) -> None:
        self._sample: tuple[tuple[int, ...], int] | None = None
        self._whole: int | None = None

    def repeats(self, pixels: Pixels) -> bool:
        """Compare (H, W, 3) uint8 ``pixels`` with the picture before.

        The first repetition after a change is not yet seen: only then does the whole picture get summed.
        """
        sample = (pixels.shape, zlib.crc32(np.ascontiguousarray(pixels[::_STRIDE, ::_STRIDE]).data))
        if sample != self._sample:
            self._sample, self._whole = sample, None
            return False
        before, self._whole = self._whole, zlib.crc32(np.ascontiguousarray(pixels).data)
        return before == self._whole


def is_black(pixels: Pixels) -> bool:
    """Tell whether (H, W, 3) uint8 ``pixels`` show nothing; the thresholds stand at the module's head."""
    sample = pixels[::_STRIDE, ::_STRIDE]
    return bool(sample.max() <= _BLACK_MAX and sample.mean() <= _BLACK_MEAN and pixels.max() <= _BLACK_MAX)


class PictureHealth:
    """The memory that turns looks at single pictures into a state.

    Args:
        frozen_after_s: A live picture that repeats this long is FROZEN, seconds; 0 = never.
        black_after_s: A picture that is black this long is BLACK, seconds; 0 = never.
    """

    def __init__(self, frozen_after_s: float, black_after_s: float) -> None:
        self._frozen_after_s = frozen_after_s
        self._black_after_s = black_after_s
        self._signature = Signature()
        self._same_since_s = 0.0
        self._black_since_s: float | None = None
        self._size: tuple[int, int] | None = None
        self._offset_s: float | None = None

    def begin(self) -> None:
        """Start the times of repetition and blackness anew, because the source was opened anew.

        Size and clock are still compared with those of the last picture before.
        """
        self._signature = Signature()
        self._black_since_s = None

    def look(self, pixels: Pixels, now_s: float, wall_s: float, *, live: bool = True) -> Verdict:
        """Judge a picture.

        Args:
            pixels: (H, W, 3) uint8, BGR.
            now_s: Monotonic clock, seconds.
            wall_s: Wall clock at the same moment, seconds since the epoch.
            live: False for a finite source read at our pace: a still scene in it is no fault.
        """
        changes = (*self._size_change(pixels), *self._clock_change(now_s, wall_s))
        black = self._black_after_s > 0 and self._black_for(pixels, now_s) >= self._black_after_s
        frozen = live and self._frozen_after_s > 0 and self._same_for(pixels, now_s) >= self._frozen_after_s
        if black:
            return Verdict(state=SourceState.BLACK, changes=changes,
                           reason=f"the picture has been black for {self._black_after_s:g} s")
        if frozen:
            return Verdict(state=SourceState.FROZEN, changes=changes,
                           reason=f"the picture has not changed in a single bit for {self._frozen_after_s:g} s")
        return Verdict(state=SourceState.LIVE, reason="pictures arrive", changes=changes)

    def _same_for(self, pixels: Pixels, now_s: float) -> float:
        if not self._signature.repeats(pixels):
            self._same_since_s = now_s
        return now_s - self._same_since_s

    def _black_for(self, pixels: Pixels, now_s: float) -> float:
        if not is_black(pixels):
            self._black_since_s = None
            return -1.0
        if self._black_since_s is None:
            self._black_since_s = now_s
        return now_s - self._black_since_s

    def _size_change(self, pixels: Pixels) -> tuple[str, ...]:
        before, self._size = self._size, (pixels.shape[1], pixels.shape[0])
        if before is None or before == self._size:
            return ()
        return (f"resolution changed {before[0]}x{before[1]} → {self._size[0]}x{self._size[1]}",)

    def _clock_change(self, now_s: float, wall_s: float) -> tuple[str, ...]:
        before, self._offset_s = self._offset_s, wall_s - now_s
        if before is None or abs(self._offset_s - before) <= _CLOCK_JUMP_S:
            return ()
        return (f"clock jumped by {self._offset_s - before:+.0f} s",)
