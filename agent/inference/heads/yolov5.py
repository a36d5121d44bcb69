"""YOLOv5 layout, [batch, boxes, 5 + 2 landmarks + classes]; YOLOv5-face is the same with 5 landmarks and 1 class.

A row is centre x, y, width, height, objectness, then x, y of each landmark, then class scores; pixels of the canvas,
scores already through the sigmoid. Its score is objectness times the best class. YOLOv3 and YOLOv7 exports share it.
"""

from collections.abc import Sequence

import numpy as np

from agent.inference.heads.candidates import Candidates, HeadConfig, Layout, Shape, corners
from agent.records import Floats


def _columns(config: HeadConfig) -> int:
    return 5 + 2 * config.landmarks + config.classes


def _expects(config: HeadConfig) -> str:
    points = f" + {config.landmarks} landmarks" if config.landmarks else ""
    return f"one output [batch, boxes, {_columns(config)}] (box + objectness{points} + {config.classes} classes)"


def _fits(shapes: Sequence[Shape], config: HeadConfig) -> bool:
    return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] in {-1, _columns(config)}


def _decode(outputs: Sequence[Floats], config: HeadConfig) -> Candidates:
    # A class score is at most 1, so objectness alone rules out nearly all rows before any is copied.
    rows = outputs[0][outputs[0][:, 4] >= config.score]
    classes = rows[:, 5 + 2 * config.landmarks:]
    scores = rows[:, 4] * classes.max(axis=1)
    good = scores >= config.score
    rows, classes = rows[good], classes[good]
    return Candidates(
        boxes=corners(rows[:, :2], rows[:, 2:4]), scores=scores[good],
        class_ids=classes.argmax(axis=1).astype(np.int32),
        landmarks=rows[:, 5:5 + 2 * config.landmarks].reshape(len(rows), config.landmarks, 2)
        if config.landmarks else None)


YOLOV5 = Layout(kind="yolov5", expects=_expects, fits=_fits, decode=_decode)
