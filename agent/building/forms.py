"""The forms a model is built in, best first. Precision lives in the ONNX file, never in a builder's flags."""

from enum import Enum
from typing import Literal

Precision = Literal["auto", "int8", "fp16", "fp32"]
Runtime = Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
CPU = "CPUExecutionProvider"


class Form(str, Enum):
    """One strongly typed ONNX form of a model. Frames stay uint8 and outputs float32 in all of them.

    ``INT8_FP16``: convolutions INT8, the rest FP16, scales of the quantisation FP16 too. ``INT8_FP16_CASTS``: the same
    with FP32 scales, for builders that refuse FP16 ones. ``INT8_FP32``: convolutions INT8, the rest FP32.
    """

    INT8_FP16 = "int8-fp16"
    INT8_FP16_CASTS = "int8-fp16-casts"
    INT8_FP32 = "int8-fp32"
    FP16 = "fp16"
    FP32 = "fp32"

    def __str__(self) -> str:
        return self.value

    @property
    def precision(self) -> str:
        """``int8``, ``fp16`` or ``fp32``: what the convolutions compute in."""
        return self.value.partition("-")[0]


def ladder(runtime: Runtime, provider: str | None = None, precision: Precision = "auto") -> tuple[Form, ...]:
    """Return the forms worth trying, best first.

    ONNX Runtime's CPU provider computes FP16 by converting to FP32 and back, which is slower than FP32, and its CUDA
    provider runs Q/DQ convolutions in float; so neither has those rungs.

    Args:
        runtime: What runs the engine.
        provider: ONNX Runtime's execution provider; None = CPU.
        precision: Only this one, and below it FP32, to fall back to; ``auto`` = all.
    """
    if runtime != "onnxruntime":
        forms = tuple(Form)
    elif provider in {None, CPU}:
        forms = (Form.INT8_FP32, Form.FP32)
    else:
        forms = (Form.FP16, Form.FP32)
    return tuple(form for form in forms if precision in {"auto", form.precision} or form is Form.FP32)
