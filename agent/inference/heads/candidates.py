"""What all heads share: their settings, what one looks like from outside, and ranked candidates.

Everything here is about one frame and in canvas pixels; source pixels, suppression and batches are the caller's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.records import Floats, Ints

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """What a recipe says about its head.

    Attributes:
        kind: Name of the head; None = recognise it from the shapes of the outputs.
        classes: Number of classes.
        score: Boxes below this score are dropped; above 0, at most 1.
        iou: A box that overlaps a better one of its class by more than this is dropped.
        landmarks: Points a box has.
        max_candidates: As many best boxes enter the suppression of overlaps.
        max_detections: As many best boxes a frame can have.
    """

    kind: str | None
    classes: int
    score: float
    iou: float
    landmarks: int = 0
    max_candidates: int = 1000
    max_detections: int = 300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Boxes of one frame above the score threshold.

    Attributes:
        boxes: (n, 4) float32 xyxy, canvas pixels.
        scores: (n,) float32.
        class_ids: (n,) int32.
        landmarks: (n, k, 2) float32, canvas pixels, or None.
    """

    boxes: Floats
    scores: Floats
    class_ids: Ints
    landmarks: Floats | None = None

    def take(self, which: NDArray[Any]) -> "Candidates":
        """Return those that ``which`` (an index or boolean array) picks, in its order."""
        return Candidates(
            boxes=self.boxes[which], scores=self.scores[which], class_ids=self.class_ids[which],
            landmarks=None if self.landmarks is None else self.landmarks[which])


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One kind of raw output.

    Attributes:
        kind: Its name in a recipe.
        expects: Says in words what outputs it wants for these settings.
        fits: Tells whether outputs of these shapes (batch first, -1 = unknown) can be its own.
        decode: Turns one frame's float32 outputs (no batch axis) into candidates; it may leave non-finite ones in.
        overlapping: Whether overlapping boxes still have to be suppressed.
    """

    kind: str
    expects: Callable[[HeadConfig], str]
    fits: Callable[[Sequence[Shape], HeadConfig], bool]
    decode: Callable[[Sequence[Floats], HeadConfig], Candidates]
    overlapping: bool = True


def corners(centres: Floats, sizes: Floats) -> Floats:
    """Return (n, 4) xyxy of boxes given as centres (n, 2) x, y and sizes (n, 2) width, height."""
    half = sizes * np.float32(0.5)
    return np.concatenate([centres - half, centres + half], axis=1)


def rank(found: Candidates, limit: int) -> Candidates:
    """Return the ``limit`` best finite, non-empty boxes, best first; equal scores stay in the model's order."""
    finite = np.isfinite(found.scores) & np.isfinite(found.boxes).all(axis=1)
    finite &= (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    if found.landmarks is not None:
        finite &= np.isfinite(found.landmarks).all(axis=(1, 2))
    if not finite.all():
        found = found.take(finite)
    if len(found.scores) > limit:
        found = found.take(_highest(found.scores, limit))
    return found.take(np.argsort(-found.scores, kind="stable"))


def _highest(scores: Floats, limit: int) -> NDArray[np.intp]:
    """Return the indices of the ``limit`` highest, the first of equal ones (argpartition picks any of them)."""
    lowest = np.partition(scores, -limit)[-limit]
    above = np.flatnonzero(scores > lowest)
    level = np.flatnonzero(scores == lowest)[:limit - len(above)]
    return np.concatenate([above, level])
