"""INT8 in the ONNX file: Q/DQ pairs around the convolutions of the body, with scales from this device's own frames.

Runs in the child process only. The quantiser and its calibrators are ONNX Runtime's; this module prepares the graph for
them, feeds them one frame at a time and chooses what is left in float. Two flavours of one form, because two kinds of
runtime read Q/DQ differently (docs/engines.md has the measurements):

``tensorrt``: symmetric int8, a pair on what each convolution reads and on its weights, nothing on what it gives. All
zero points are 0 and biases stay float: TensorRT's parser takes no others.
``cpu``: uint8 with a zero point, and the operations between the convolutions in INT8, too. ONNX Runtime's CPU provider
has kernels for that and not for the other, which takes it twice as long as float. The stem stays in float: with so few
channels its convolutions are slower in INT8.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import version_converter
from onnxruntime.capi import onnxruntime_pybind11_state as native
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from agent.building import heads_of
from agent.building.agreement import largest_difference
from agent.building.child import Cancelled, Report
from agent.building.jobs import Method
from agent.errors import ModelError

Flavour = Literal["tensorrt", "cpu"]

LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, AssertionError, AttributeError,
    LookupError, RuntimeError, TypeError, ValueError)
"""What onnx and ONNX Runtime raise on models they cannot handle; they share no base but Exception."""

SCRAPS = ".quantise-"
"""Prefix of the scratch folders, in the target's folder; a killed child leaves its own behind."""

_LIMIT = 1e-4  # share of an output's range by which the simplified graph may differ
_OPSETS = (19, 13)  # FP16 scales are standard from 19, scales per channel from 13
_LEAST_RANGE = 254 * 2.0 ** -20  # smaller scales than 2**-20 lose more than 1/30 when written as FP16
_METHODS = {"percentile": CalibrationMethod.Percentile, "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy}
_BETWEEN = ("Relu", "Clip", "Add", "Mul", "Sigmoid", "Concat", "Split", "MaxPool", "Resize")
_SHOWN = 300  # characters of a library's own words


class QuantiseReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was quantised.

    Attributes:
        convolutions: Number of Conv nodes of the main graph.
        quantised: How many of them read Q/DQ pairs now.
        excluded: Names of those left in float on purpose.
        method: How ranges were chosen from the frames.
        flavour: For which kind of runtime.
        frames: How many frames were used.
        note: How the graph was simplified before, in words.
    """

    convolutions: int
    quantised: int
    excluded: tuple[str, ...]
    method: Method
    flavour: Flavour
    frames: int
    note: str


def quantise(prepared: Path, target: Path, frames: NDArray[np.uint8], *, method: Method = "percentile",
             percentile: float = 99.99, exclude: Sequence[str] | None = None, flavour: Flavour = "tensorrt",
             report: Report = lambda *_: None, cancelled: Cancelled = lambda: False) -> QuantiseReport:
    """Write the INT8 form with FP32 elsewhere. Holds the activations of one frame at a time.

    Args:
        prepared: A prepared model: uint8 NHWC input, float32 inside.
        target: The file to write; scratch files are made in its folder and removed. Not atomic.
        frames: (n, H, W, 3) uint8 letterboxed frames to calibrate with.
        method: How ranges are chosen; see docs/licences-and-patents.md before choosing ``entropy``.
        percentile: Share of values inside the range, in percent; for that method only.
        exclude: Names of convolutions, or of their outputs, to leave in float; None = those of the head.
        flavour: See above.
        report: Told ("calibrate", frames done, frames).
        cancelled: Asked before each frame.

    Raises:
        ModelError: cancelled, no frames, an unknown name, or the model cannot be quantised.
    """
    if not len(frames):
        raise ModelError("there are no calibration frames", "let the cameras run for a while, or name some pictures")
    with scratch(target.parent) as folder:
        try:
            original = onnx.load(str(prepared))
            left_out = heads_of.resolve(original, exclude)
            model, note = simplify(original, frames, folder)
            add_pre_process_metadata(model)
            source = folder / "simplified.onnx"
            onnx.save(model, str(source))
            present = {node.name for node in model.graph.node}
            left_out = tuple(name for name in left_out if name in present)
            if flavour == "cpu":
                left_out = tuple(dict.fromkeys([*heads_of.stem(model), *left_out]))
            convs = {node.name for node in model.graph.node if node.op_type == "Conv"}
            if not convs.difference(left_out):
                raise _none_left(prepared, len(convs))
            reader = _Frames(model.graph.input[0].name, frames, report, cancelled)
            symmetric = flavour == "tensorrt"
            kept = left_out if symmetric else heads_of.tail(model, left_out)
            with contextlib.redirect_stdout(io.StringIO()):  # it prints a line a frame
                quantize_static(str(source), str(folder / "quantised.onnx"), reader, nodes_to_exclude=list(kept),
                                calibrate_method=_METHODS[method], **_choices(symmetric, percentile))
            done = onnx.load(str(folder / "quantised.onnx"))
            total, quantised = _count(done)
            (folder / "quantised.onnx").replace(target)
        except OSError as error:
            raise ModelError(f"{target.parent}: {error.strerror or error}", "make room on that disk") from error
        except LIBRARY_ERRORS as error:
            raise ModelError(f"{prepared.name}: cannot be quantised: {type(error).__name__}: {str(error)[:_SHOWN]}",
                             "ask for another precision, or export the model at opset 17") from error
    if not quantised:
        raise _none_left(prepared, total)
    return QuantiseReport(convolutions=total, quantised=quantised, excluded=left_out, method=method, flavour=flavour,
                          frames=len(frames), note=note)


def simplify(model: onnx.ModelProto, frames: NDArray[np.uint8] | None, folder: Path) -> tuple[onnx.ModelProto, str]:
    """Return the model with BatchNormalization and the like folded into convolutions, at opset 19 or later, and a note.

    Between a convolution and a Q/DQ pair nothing can be folded any more, so it is done before, by ONNX Runtime. What
    comes out must agree with what went in, on noise and on the first of ``frames`` (n, H, W, 3), if any; a step whose
    result does not is left out, and the note says so. Scratch files go to ``folder``.
    """
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim][1:]
    noise = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    probe = noise if frames is None else np.concatenate([frames[:1], noise])
    expected = [_outputs(model, frame[None]) for frame in probe]

    def same(candidate: onnx.ModelProto) -> bool:
        return all(largest_difference(one, _outputs(candidate, frame[None])) <= _LIMIT
                   for one, frame in zip(expected, probe, strict=True))

    notes = []
    folded = _folded(model, folder)
    if folded is not None and same(folded):
        model = folded
    else:
        notes.append("left unfolded: folding would change it")
    opset = opset_of(model)
    for wanted in (wanted for wanted in _OPSETS if wanted > opset):
        try:
            raised = version_converter.convert_version(model, wanted)
            if same(raised):
                notes.append(f"raised from opset {opset} to {wanted}")
                return raised, ", ".join(notes)
        except LIBRARY_ERRORS as error:
            notes.append(f"cannot be raised to opset {wanted}: {str(error)[:80]}")
    return model, ", ".join(notes)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that ``model`` uses; 0 when it names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    """Hands ONNX Runtime one frame at a time, which it asks for in strides of one: so it keeps one frame's values.

    The frame with the most contrast comes first: it sets the width of the histograms' bins, and a dark one would make
    them so narrow that brighter frames need millions of them.
    """

    def __init__(self, name: str, frames: NDArray[np.uint8], report: Report, cancelled: Cancelled) -> None:
        self._name, self._frames, self._report, self._cancelled = name, frames, report, cancelled
        self._order = sorted(range(len(frames)), key=lambda index: -float(frames[index].std()))
        self._next, self._end = 0, len(frames)

    def __len__(self) -> int:
        return len(self._frames)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        if self._next >= self._end:
            self._report("calibrate", self._end, len(self._frames))
            return None
        if self._cancelled():
            raise ModelError("cancelled")
        index = self._order[self._next]
        self._next += 1
        return {self._name: self._frames[index:index + 1]}


def _none_left(prepared: Path, convolutions: int) -> ModelError:
    return ModelError(f"{prepared.name}: none of its {convolutions} convolutions can be quantised",
                      "ask for another precision, or leave fewer of them out")


def _choices(symmetric: bool, percentile: float) -> dict[str, Any]:
    """Return the quantiser's settings; symmetric = the flavour ``tensorrt``."""
    return {
        "quant_format": QuantFormat.QDQ, "per_channel": True, "weight_type": QuantType.QInt8,
        "activation_type": QuantType.QInt8 if symmetric else QuantType.QUInt8,
        "op_types_to_quantize": ["Conv"] if symmetric else ["Conv", *_BETWEEN],
        "extra_options": {
            "ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not symmetric,
            "AddQDQPairToWeight": symmetric, "CalibPercentile": percentile, "CalibStridedMinMax": 1,
            "MinimumRealRange": _LEAST_RANGE, "OpTypesToExcludeOutputQuantization": ["Conv"] if symmetric else []}}


def _folded(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto | None:
    """Return what ONNX Runtime's basic optimiser makes of the model; None when that needs other operators."""
    target = folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(str(target))
    used = {node.domain for node in folded.graph.node}
    if used - {node.domain for node in model.graph.node}:
        return None
    kept = [entry for entry in folded.opset_import if entry.domain in used | {""}]  # it names all that it knows
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    heads_of.name_nodes(folded)
    return folded


def _outputs(model: onnx.ModelProto, batch: NDArray[np.uint8]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: batch})
    return outputs


def _count(model: onnx.ModelProto) -> tuple[int, int]:
    """Return how many Convs there are, and how many of them have quantised weights."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    return len(convs), sum(makers.get(node.input[1]) == "DequantizeLinear" for node in convs)


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Make a folder for scratch files, the libraries' own included, and remove it."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=SCRAPS, dir=parent) as name:
        tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before
