"""End-to-end layout, [batch, boxes, 6]: x1, y1, x2, y2, score, class; pixels of the canvas.

The model has suppressed overlaps itself (YOLOv10, exports with NMS inside), so only the score is looked at. Rows
whose class number is none of the recipe's are padding and no boxes.
"""

from collections.abc import Sequence

import numpy as np

from agent.inference.engine import EngineSpec
from agent.inference.heads.candidates import Candidates, HeadConfig, Layout, Shape
from agent.records import Floats

_MOST_ROWS = 1000


def _expects(_config: HeadConfig) -> str:
    return "one output [batch, boxes, 6] (x1, y1, x2, y2, score, class; no landmarks)"


def _fits(shapes: Sequence[Shape], config: HeadConfig) -> bool:
    return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] in {-1, 6} and not config.landmarks


def looks_final(rows: int, spec: EngineSpec) -> bool:
    """Tell whether so many rows can be the boxes left by a model, rather than all cells of its grids.

    Six columns are also what YOLOv5 gives with one class and transposed YOLOv8 with two; those have one row (or
    three, one an anchor) for each cell at strides 8, 16 and 32.
    """
    cells = sum((spec.height // stride) * (spec.width // stride) for stride in (8, 16, 32))
    return 0 < rows <= _MOST_ROWS and rows not in {cells, 3 * cells}


def _decode(outputs: Sequence[Floats], config: HeadConfig) -> Candidates:
    rows = outputs[0][outputs[0][:, 4] >= config.score]
    classes = np.rint(rows[:, 5])
    known = (classes >= 0) & (classes < config.classes)
    rows = rows[known]
    return Candidates(boxes=rows[:, :4], scores=rows[:, 4], class_ids=classes[known].astype(np.int32))


END2END = Layout(kind="end2end", expects=_expects, fits=_fits, decode=_decode, overlapping=False)
