"""How far an engine's answers are those of the reference: boxes matched, outputs compared. Pure functions of arrays.

A box whose score lies at the threshold flickers with the last bit of a weight, and that is no fault. So both sides are
decoded with a threshold lower by the drift that is allowed, and only boxes clearly on one side of it count as lost or
extra.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.building.gate import Agreement
from agent.records import Detections

LEAST_IOU = 0.5
_PERCENTILE = 99.9  # of the differences: one pixel in a thousand may be off, as where an edge moves by a hair


def agree(reference: Sequence[Detections], found: Sequence[Detections], *, threshold: float, score_drift: float,
          output_difference: float, batch: int = 1, batch_difference: float | None = None) -> Agreement:
    """Compare the boxes of each frame.

    A box of the reference at ``threshold`` or above is matched by a box of the same class with an IoU of at least 0.5
    and a score of at least ``threshold - score_drift``. A box of the engine at ``threshold + score_drift`` or above
    that matches none of the reference's, the weak ones included, is extra. Matching is one to one and greedy, the best
    IoU first: not always the largest possible number of pairs, but after NMS boxes of a class hardly overlap.

    Args:
        reference: Boxes of each frame, decoded at ``threshold - score_drift``.
        found: Those of the engine for the same frames, decoded likewise.
        threshold: The recipe's score.
        score_drift: That of the recipe's ``[gate]``.
        output_difference: What :func:`output_difference` said of the raw outputs; passed on.
        batch: Frames in the largest batch compared with the same frames one by one; passed on.
        batch_difference: How far that differed; passed on.

    Raises:
        ValueError: not the same number of frames on both sides.
    """
    matched = extra = changed = boxes = 0
    ious: list[float] = []
    drifts: list[float] = []
    landmarks: list[float] = []
    for ours, theirs in zip(map(_canonical, reference), map(_canonical, found), strict=True):
        strong, weak = ours.scores >= threshold, ours.scores < threshold
        usable = theirs.scores >= threshold - score_drift
        iou, same = _iou(ours.xyxy, theirs.xyxy), ours.class_ids[:, None] == theirs.class_ids[None]
        pairs = _pairs(iou, same & strong[:, None] & usable)
        free = usable & ~_chosen(len(theirs), (theirs_index for _, theirs_index in pairs))
        lost = strong & ~_chosen(len(ours), (ours_index for ours_index, _ in pairs))
        others = _pairs(iou, lost[:, None] & free)
        free &= ~_chosen(len(theirs), (theirs_index for _, theirs_index in others))
        clear = free & (theirs.scores >= threshold + score_drift)
        weak &= ours.scores >= threshold - score_drift
        excused = _pairs(iou, same & weak[:, None] & clear)
        boxes, matched, changed = boxes + int(strong.sum()), matched + len(pairs), changed + len(others)
        extra += int(clear.sum()) - len(excused)
        ious += [float(iou[pair]) for pair in pairs]
        drifts += [abs(float(ours.scores[a]) - float(theirs.scores[b])) for a, b in pairs]
        landmarks += _landmark_errors(ours, theirs, pairs)
    return Agreement(
        frames=len(reference), reference_boxes=boxes, matched=matched, extra=extra, class_changed=changed,
        mean_iou=math.fsum(ious) / len(ious) if ious else None,
        score_drift_mean=math.fsum(drifts) / len(drifts) if drifts else None,
        score_drift_max=max(drifts, default=None), output_difference=output_difference,
        batch=batch, batch_difference=batch_difference, landmark_pairs=len(landmarks),
        landmark_error_mean=float(np.mean(landmarks)) if landmarks else None)


def output_difference(reference: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float:
    """Return the largest difference of any output: the 99.9th percentile of |a - b| / the range of the reference.

    An output that is constant in the reference is measured against its magnitude, or against 1 where it is all zero.
    Where one output holds pixels and scores, this sees the pixels: boxes, not this, must speak for the scores.

    Args:
        reference: One array an output, of all frames, in the model's order.
        found: The same of the engine.

    Returns:
        0 for a perfect copy; infinity where shapes or the number of outputs differ, where a value is not finite, or
        where there is no output.
    """
    if len(reference) != len(found) or not reference:
        return math.inf
    return max(_difference(np.asarray(ours, np.float64), np.asarray(theirs, np.float64))
               for ours, theirs in zip(reference, found, strict=True))


def _difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return math.inf
    if not ours.size:
        return 0.0
    extent = float(np.ptp(ours)) or float(np.abs(ours).max()) or 1.0
    return float(np.percentile(np.abs(ours - theirs), _PERCENTILE)) / extent


def _canonical(boxes: Detections) -> Detections:
    """Return the boxes in an order that depends on nothing but what they are, so that ties always end alike."""
    order = np.lexsort((*boxes.xyxy.T, boxes.class_ids, -boxes.scores))
    return Detections(xyxy=boxes.xyxy[order], scores=boxes.scores[order], class_ids=boxes.class_ids[order],
                      landmarks=None if boxes.landmarks is None else boxes.landmarks[order])


def _landmark_errors(ours: Detections, theirs: Detections, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Return, of each pair, the mean distance of landmarks / the diagonal of our box; infinity where theirs lack."""
    if ours.landmarks is None or not ours.landmarks.shape[1]:
        return []
    if theirs.landmarks is None or theirs.landmarks.shape[1:] != ours.landmarks.shape[1:]:
        return [math.inf] * len(pairs)
    rows, columns = [a for a, _ in pairs], [b for _, b in pairs]
    sides = (ours.xyxy[rows, 2:] - ours.xyxy[rows, :2]).astype(np.float64)
    apart = ours.landmarks[rows].astype(np.float64) - theirs.landmarks[columns]
    errors: NDArray[np.float64] = np.hypot(apart[..., 0], apart[..., 1]).mean(-1) / np.hypot(sides[:, 0], sides[:, 1])
    return [float(error) for error in errors]


def _iou(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, m) overlaps, 0..1; not a number, so never enough, where a box has no area or is not finite."""
    a, b = ours.astype(np.float64)[:, None], theirs.astype(np.float64)[None]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
        shared = np.clip(sides, 0, None).prod(-1)
        union = np.clip(a[..., 2:] - a[..., :2], 0, None).prod(-1) + np.clip(b[..., 2:] - b[..., :2], 0, None).prod(-1)
        iou: NDArray[np.float64] = shared / (union - shared)
    return iou


def _pairs(iou: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (row, column) of the allowed pairs at 0.5 or above, one to one, the best first."""
    rows, columns = np.nonzero(allowed & (iou >= LEAST_IOU))
    pairs: list[tuple[int, int]] = []
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    for index in np.lexsort((columns, rows, -iou[rows, columns])):
        row, column = int(rows[index]), int(columns[index])
        if row not in taken_rows and column not in taken_columns:
            pairs.append((row, column))
            taken_rows.add(row)
            taken_columns.add(column)
    return pairs


def _chosen(count: int, indices: Iterable[int]) -> NDArray[np.bool_]:
    chosen = np.zeros(count, np.bool_)
    chosen[list(indices)] = True
    return chosen


def largest_difference(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float:
    """Return the largest difference of any value as a share of its output's range: for graphs that must be the same.

    Infinite when shapes, or the places of values that are not finite, differ.
    """
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.ptp(a), np.abs(a).max(), 1e-12)))
    return worst
