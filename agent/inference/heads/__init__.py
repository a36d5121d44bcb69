"""From raw outputs to detections: one head a file, chosen by name or recognised by the shapes of the outputs.

Heads are pure: arrays in, arrays out. They know nothing of labels, engines or cameras. A number that is not finite
never becomes a box and never raises.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference.engine import EngineSpec
from agent.inference.heads.best import BEST, OUTPUT
from agent.inference.heads.candidates import HeadConfig, Layout, Shape, rank
from agent.inference.heads.centerface import CENTERFACE
from agent.inference.heads.end2end import END2END, looks_final
from agent.inference.heads.nms import suppress
from agent.inference.heads.yolov5 import YOLOV5
from agent.inference.heads.yolov8 import YOLOV8
from agent.records import Detections, Floats, Placement

__all__ = ["Head", "HeadConfig", "make_head"]

_LAYOUTS = (YOLOV5, YOLOV8, END2END, CENTERFACE)


class Head:
    """Turns the raw outputs of a batch into detections; made by :func:`make_head`.

    Attributes:
        kind: ``yolov5``, ``yolov8``, ``end2end`` or ``centerface``.
    """

    def __init__(self, layout: Layout, config: HeadConfig) -> None:
        self.kind = layout.kind
        self._layout = layout
        self._config = config

    def __call__(self, outputs: Sequence[NDArray[Any]], placements: Sequence[Placement]) -> list[Detections]:
        """Return the detections of each frame in source pixels, best score first.

        Boxes are clipped to the picture, and dropped where nothing of them lies inside; scores are capped at 1
        (a quantised sigmoid can end a little above).

        Args:
            outputs: One array an output, float16 or float32, in the model's order; first axis n.
            placements: How each of the n frames lies on the canvas.

        Raises:
            ModelError: the arrays have other shapes than the head was made for.
            ValueError: outputs and placements differ in number.
        """
        shapes = [output.shape for output in outputs]
        if not self._layout.fits(shapes, self._config):
            raise ModelError(
                f"the model gave outputs {_written(shapes)}; its head {self.kind} expects "
                f"{self._layout.expects(self._config)}", "correct head.kind, classes and landmarks in the recipe")
        if any(shape[0] != len(placements) for shape in shapes):
            raise ValueError(f"{len(placements)} placements for outputs {_written(shapes)}")
        # Wild outputs may overflow on their way; what is not finite afterwards is dropped, so no warning is due.
        with np.errstate(over="ignore", invalid="ignore"):
            return [self._frame([np.asarray(output[number], np.float32) for output in outputs], placement)
                    for number, placement in enumerate(placements)]

    def _frame(self, outputs: Sequence[Floats], placement: Placement) -> Detections:
        config = self._config
        found = rank(self._layout.decode(outputs, config), config.max_candidates)
        if not len(found.scores):
            return Detections.empty(config.landmarks)
        if self._layout.overlapping:
            found = found.take(suppress(found.boxes, found.class_ids, config.iou))
        boxes = placement.to_source(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))[:config.max_detections]
        return Detections(
            xyxy=boxes[inside], scores=np.minimum(found.scores[inside], np.float32(1)),
            class_ids=found.class_ids[inside],
            landmarks=None if found.landmarks is None else placement.to_source(found.landmarks[inside]))


def make_head(config: HeadConfig, spec: EngineSpec) -> Head:
    """Return the head that ``config`` names or, where it names none, the only one that the outputs fit.

    Raises:
        ModelError: no head of that name, outputs that do not fit it, or outputs that fit none or several.
    """
    shapes = [output.shape for output in spec.outputs]
    if [output.name for output in spec.outputs] == [OUTPUT] and BEST.fits(shapes, config):
        return Head(BEST, config)
    seen = (f"the model has outputs {', '.join(f'{o.name} {_written([o.shape])}' for o in spec.outputs)} and the "
            f"recipe {config.classes} classes and {config.landmarks} landmarks")
    kinds = ", ".join(layout.kind for layout in _LAYOUTS)
    if config.kind is not None:
        named = next((layout for layout in _LAYOUTS if layout.kind == config.kind), None)
        if named is None:
            raise ModelError(f"there is no head {config.kind!r}", f"set head.kind in the recipe to one of {kinds}")
        if not named.fits(shapes, config):
            raise ModelError(f"head {named.kind} expects {named.expects(config)}; {seen}",
                             "correct head.kind, classes or landmarks in the recipe, or use a detection export")
        return Head(named, config)
    fitting = _recognise(shapes, config, spec)
    if len(fitting) == 1:
        return Head(fitting[0], config)
    if fitting:
        fit = " and ".join(layout.kind for layout in fitting)
        raise ModelError(f"{seen}, which fits the heads {fit}", "name the right one as head.kind in the recipe")
    expected = "".join(f"\n  {layout.kind}: {layout.expects(config)}" for layout in _LAYOUTS)
    raise ModelError(f"{seen}, which no head fits{_transposed(shapes, config)}; heads expect{expected}",
                     "correct classes or landmarks in the recipe, name head.kind where a size is unknown, or use a "
                     "detection export (not a classifier, segmentation or pose model)")


def _recognise(shapes: Sequence[Shape], config: HeadConfig, spec: EngineSpec) -> list[Layout]:
    """Return the layouts that fit without guessing: an unknown size (now 0) is no proof of anything."""
    known = [tuple(max(size, 0) for size in shape) for shape in shapes]
    return [layout for layout in _LAYOUTS
            if layout.fits(known, config) and (layout is not END2END or looks_final(known[0][1], spec))]


def _transposed(shapes: Sequence[Shape], config: HeadConfig) -> str:
    if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] == 4 + config.classes:
        return " (it may be a transposed yolov8 output: export it as [batch, 4 + classes, boxes])"
    return ""


def _written(shapes: Sequence[Shape]) -> str:
    return ", ".join(f"[{', '.join('?' if size < 0 else str(size) for size in shape)}]" for shape in shapes)
