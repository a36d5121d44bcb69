"""Slow, obvious decoders: one Python loop a rule, one box at a time. The truth that the fast heads are held against."""

import math
from dataclasses import dataclass

import numpy as np

from agent.inference.heads import HeadConfig
from agent.records import Detections, Placement


@dataclass(frozen=True)
class Box:
    xyxy: tuple[float, float, float, float]
    score: float
    class_id: int
    landmarks: tuple[tuple[float, float], ...] = ()

    def finite(self) -> bool:
        numbers = [*self.xyxy, self.score, *(number for point in self.landmarks for number in point)]
        return all(math.isfinite(number) for number in numbers)

    def empty(self) -> bool:
        return self.xyxy[2] <= self.xyxy[0] or self.xyxy[3] <= self.xyxy[1]


def _centred(x, y, width, height):
    half_width, half_height = np.float32(0.5) * width, np.float32(0.5) * height
    return x - half_width, y - half_height, x + half_width, y + half_height


def yolov5(output, config):
    for row in output:
        x, y, width, height, objectness = row[:5]
        points = row[5:5 + 2 * config.landmarks]
        classes = list(row[5 + 2 * config.landmarks:])
        if not objectness >= np.float32(config.score) or any(math.isnan(value) for value in classes):
            continue
        yield Box(_centred(x, y, width, height), objectness * max(classes), classes.index(max(classes)),
                  tuple(zip(points[0::2], points[1::2], strict=True)))


def yolov8(output, config):
    for column in range(output.shape[1]):
        x, y, width, height, *classes = output[:, column]
        if any(math.isnan(value) for value in classes):
            continue
        yield Box(_centred(x, y, width, height), max(classes), classes.index(max(classes)))


def end2end(output, config):
    for x1, y1, x2, y2, score, class_id in output:
        if math.isfinite(class_id) and 0 <= round(float(class_id)) < config.classes:
            yield Box((x1, y1, x2, y2), score, round(float(class_id)))


def centerface(heat, scale, offset, landmarks, config):
    _, height, width = heat.shape
    for y in range(height):
        for x in range(width):
            box_height, box_width = (4 * np.exp(scale[axis, y, x]) for axis in (0, 1))
            centre_y, centre_x = 4 * (y + offset[0, y, x] + 0.5), 4 * (x + offset[1, y, x] + 0.5)
            xyxy = _centred(centre_x, centre_y, box_width, box_height)
            points = tuple(
                (landmarks[2 * j + 1, y, x] * box_width + xyxy[0], landmarks[2 * j, y, x] * box_height + xyxy[1])
                for j in range(5)) if config.landmarks else ()
            yield Box(xyxy, heat[0, y, x], 0, points)


def overlap(a: Box, b: Box) -> float:
    """Return intersection over union."""
    ax1, ay1, ax2, ay2 = map(float, a.xyxy)
    bx1, by1, bx2, by2 = map(float, b.xyxy)
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared)


def suppressed(boxes: list[Box], iou: float) -> list[Box]:
    """Return what is left of ``boxes``, which are best first."""
    kept: list[Box] = []
    for box in boxes:
        if all(box.class_id != better.class_id or overlap(box, better) <= iou for better in kept):
            kept.append(box)
    return kept


def _placed(box: Box, placement: Placement) -> Box:
    def move(x, y):
        return (min(max((float(x) - placement.left) / placement.scale, 0), placement.width),
                min(max((float(y) - placement.top) / placement.scale, 0), placement.height))
    return Box((*move(*box.xyxy[:2]), *move(*box.xyxy[2:])), min(float(box.score), 1.0), box.class_id,
               tuple(move(*point) for point in box.landmarks))


def detect(kind: str, outputs, config: HeadConfig, placement: Placement) -> list[Box]:
    """Return the boxes of one frame (outputs without a batch axis), best first, in source pixels."""
    decoder = {"yolov5": yolov5, "yolov8": yolov8, "end2end": end2end, "centerface": centerface}[kind]
    with np.errstate(all="ignore"):
        boxes = list(decoder(*(np.asarray(output, np.float32) for output in outputs), config))
        boxes = [box for box in boxes
                 if box.score >= np.float32(config.score) and box.finite() and not box.empty()]
    boxes = sorted(boxes, key=lambda box: -box.score)[:config.max_candidates]  # stable: the model's order among equals
    if kind != "end2end":
        boxes = suppressed(boxes, config.iou)
    return [box for box in (_placed(box, placement) for box in boxes) if not box.empty()][:config.max_detections]


def assert_same(found: Detections, expected: list[Box], landmarks: int = 0) -> None:
    """Compare the two, to float32 precision."""
    np.testing.assert_array_equal(found.class_ids, [box.class_id for box in expected])
    np.testing.assert_allclose(found.scores, [box.score for box in expected], rtol=1e-6)
    np.testing.assert_allclose(
        found.xyxy, np.array([box.xyxy for box in expected], float).reshape(-1, 4), rtol=1e-5, atol=1e-2)
    assert (found.xyxy.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int32)
    if not landmarks:
        assert found.landmarks is None
        return
    assert found.landmarks is not None
    assert found.landmarks.dtype == np.float32
    points = np.array([box.landmarks for box in expected], float).reshape(-1, landmarks, 2)
    np.testing.assert_allclose(found.landmarks, points, rtol=1e-5, atol=1e-2)
