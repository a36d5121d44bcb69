"""INT8 done the wrong way, so that tests can show it is noticed: every operation, the head and its outputs included."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata


class _Frames(CalibrationDataReader):
    def __init__(self, name: str, frames: np.ndarray) -> None:
        self.waiting = [{name: frame[None]} for frame in frames]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.waiting.pop(0) if self.waiting else None


def quantise_everything(prepared: Path, target: Path, frames: np.ndarray) -> Path:
    """Write `target`: one scale for each whole tensor, weights too, in all operations that the quantiser knows.

    `prepared` takes uint8 NHWC frames; `frames` is (n, H, W, 3) uint8. Keeps all activations in memory: few frames.
    """
    model = onnx.load(str(prepared))
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, contextlib.redirect_stdout(io.StringIO()):
        source = Path(folder, "source.onnx")
        onnx.save(model, str(source))
        quantize_static(
            str(source), str(target), _Frames(model.graph.input[0].name, frames), quant_format=QuantFormat.QDQ,
            per_channel=False, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                           "AddQDQPairToWeight": True, "ForceQuantizeNoInputCheck": True})
    return target
