"""Class-aware greedy non-maximum suppression in pure numpy, for boxes that are sorted already."""

import numpy as np
from numpy.typing import NDArray

from agent.records import Floats, Ints

_BLOCK = 128
_LATER = np.triu(np.ones((_BLOCK, _BLOCK), bool), 1)  # cut to size; making it anew takes longer than using it


def suppress(boxes: Floats, class_ids: Ints, iou: float) -> NDArray[np.intp]:
    """Return the indices of the boxes that no better kept box of their class overlaps by more than ``iou``.

    Works through blocks of the best boxes left: overlaps inside a block are resolved one by one, then its survivors
    clear the rest at once. So the cost is survivors times boxes, not boxes squared, at few calls.

    Args:
        boxes: (n, 4) float32 xyxy, finite, not empty, best first.
        class_ids: (n,) int32.
        iou: Intersection over union, 0..1.

    Returns:
        (kept,) ascending, hence best first.
    """
    wide = boxes.astype(np.float64)  # areas of float32 boxes neither overflow nor vanish
    left = np.arange(len(boxes))
    kept = [left[:0]]
    while left.size:
        block, left = left[:_BLOCK], left[_BLOCK:]
        block = block[_greedy(_overlaps(wide, class_ids, block, block, iou))]
        kept.append(block)
        if left.size:
            left = left[~_overlaps(wide, class_ids, block, left, iou).any(axis=0)]
    return np.concatenate(kept)


def _overlaps(boxes: NDArray[np.float64], class_ids: Ints, rows: NDArray[np.intp], columns: NDArray[np.intp],
              iou: float) -> NDArray[np.bool_]:
    """Return (rows, columns) of bool: same class and an overlap of more than ``iou``."""
    x1, y1, x2, y2 = boxes[rows].T[:, :, None]
    u1, v1, u2, v2 = boxes[columns].T
    shared = np.minimum(x2, u2)
    shared -= np.maximum(x1, u1)
    np.maximum(shared, 0, out=shared)
    height = np.minimum(y2, v2)
    height -= np.maximum(y1, v1)
    np.maximum(height, 0, out=height)
    shared *= height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)
    union -= shared
    union *= iou
    same: NDArray[np.bool_] = shared > union
    same &= class_ids[rows][:, None] == class_ids[columns]
    return same


def _greedy(overlaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (n,) of bool: kept when no kept box before it overlaps it; ``overlaps`` is (n, n)."""
    later = overlaps & _LATER[:len(overlaps), :len(overlaps)]
    gone = np.zeros(len(later), bool)
    for row in np.flatnonzero(later.any(axis=1)).tolist():
        if not gone[row]:
            gone |= later[row]
    return ~gone
