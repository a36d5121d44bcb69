"""The YOLOv8 layout with the best class already chosen, [batch, 6, boxes]: what engines on a GPU give.

Rows: centre x, y, width, height in pixels of the canvas, best score, index of its class. Known by the output's name
alone, for a YOLOv8 of two classes has the same shape.
"""

from collections.abc import Sequence

import numpy as np

from agent.inference.heads.candidates import Candidates, HeadConfig, Layout, Shape, corners
from agent.records import Floats

OUTPUT = "vedette_best"


def _expects(_config: HeadConfig) -> str:
    return f"one output {OUTPUT} [batch, 6, boxes]"


def _fits(shapes: Sequence[Shape], config: HeadConfig) -> bool:
    return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][1] in {-1, 6} and not config.landmarks


def _decode(outputs: Sequence[Floats], config: HeadConfig) -> Candidates:
    good = np.flatnonzero(outputs[0][4] >= config.score)
    rows = outputs[0][:, good]
    # A class that is no index (a number that is not finite, say) makes the score none, and the box is dropped.
    valid = (rows[5] >= 0) & (rows[5] < config.classes)
    return Candidates(
        boxes=corners(rows[:2].T, rows[2:4].T), scores=np.where(valid, rows[4], np.float32(np.nan)),
        class_ids=np.where(valid, rows[5], 0).astype(np.int32))


BEST = Layout(kind="yolov8", expects=_expects, fits=_fits, decode=_decode)
