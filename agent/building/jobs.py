"""What the building child can be asked besides preparing, and what it answers. Imports no runtime and no numpy."""

from typing import Literal

import msgspec

from agent.building.forms import Form
from agent.building.tensorrt_builder import BuildSettings

CONVERSION = 1
"""Part of every identity: raise it whenever what the conversion writes changes."""

Method = Literal["percentile", "minmax", "entropy"]


class QuantiseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How activations are calibrated.

    Attributes:
        method: Of calibration.
        percentile: Share of the values, in percent, that the INT8 range covers; for ``percentile`` only.
        exclude: Names of convolutions kept in float instead of the head found in the graph.
        flavour: ``tensorrt`` or ``cpu``; see :mod:`agent.building.quantising`.
    """

    method: Method = "percentile"
    percentile: float = 99.99
    exclude: tuple[str, ...] | None = None
    flavour: Literal["tensorrt", "cpu"] = "tensorrt"


class ConvertJob(msgspec.Struct, frozen=True, kw_only=True, tag="convert"):
    """Write a prepared model in several forms.

    Attributes:
        prepared: The prepared FP32 ONNX file.
        folder: Where ``<form>.onnx`` are written.
        forms: Which.
        frames: ``.npy`` file of calibration frames (n, height, width, 3) uint8 BGR; None = no INT8 form can be made.
        settings: Of the calibration.
        cache: Folder of calibrated models by the hash of what they were made from; None = none is kept.
        tensorrt: Version (four parts) of the TensorRT that is to parse the result; None = none.
        rtx: That is a TensorRT-RTX.
        head: The recipe's ``head.kind`` where the engine will run on a GPU; see :mod:`agent.building.tail`.
        classes: The recipe's; 0 = the outputs stay as they are.
    """

    prepared: str
    folder: str
    forms: list[Form]
    frames: str | None
    settings: QuantiseSettings
    cache: str | None
    tensorrt: tuple[int, ...] | None = None
    rtx: bool = False
    head: str | None = None
    classes: int = 0


class Converted(msgspec.Struct, frozen=True, kw_only=True, tag="converted"):
    """The forms that were written, by name, and why others were not."""

    files: dict[Form, str]
    failures: dict[Form, str]


class BuildJob(msgspec.Struct, frozen=True, kw_only=True, tag="build"):
    """Build one engine from one form.

    Attributes:
        onnx: The form.
        target: The engine file to write.
        tensorrt: How; None = ONNX Runtime's optimised model for ``provider`` and ``threads``.
    """

    onnx: str
    target: str
    tensorrt: BuildSettings | None
    provider: str | None = None
    threads: int = 0
