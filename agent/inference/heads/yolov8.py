"""YOLOv8 and YOLO11 layout, [batch, 4 + classes, boxes]: centre x, y, width, height and class scores in rows.

Pixels of the canvas, scores already through the sigmoid, no objectness, no landmarks. The transposed layout
[batch, boxes, 4 + classes] is not taken: nothing tells it from a YOLOv5 output with one class less.
"""

from collections.abc import Sequence

import numpy as np

from agent.inference.heads.candidates import Candidates, HeadConfig, Layout, Shape, corners
from agent.records import Floats


def _expects(config: HeadConfig) -> str:
    return f"one output [batch, {4 + config.classes}, boxes] (box + {config.classes} classes, no landmarks)"


def _fits(shapes: Sequence[Shape], config: HeadConfig) -> bool:
    return (len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][1] in {-1, 4 + config.classes}
            and not config.landmarks)


def _decode(outputs: Sequence[Floats], config: HeadConfig) -> Candidates:
    # The maximum runs along contiguous rows; transposing 8400 x 84 numbers would cost more than all that follows.
    classes = outputs[0][4:]
    best = classes[0] if len(classes) == 1 else classes.max(axis=0)
    good = np.flatnonzero(best >= config.score)
    box = outputs[0][:4, good].T
    return Candidates(
        boxes=corners(box[:, :2], box[:, 2:]), scores=best[good],
        class_ids=classes[:, good].argmax(axis=0).astype(np.int32))


YOLOV8 = Layout(kind="yolov8", expects=_expects, fits=_fits, decode=_decode)
