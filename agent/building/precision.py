"""From one prepared FP32 model to all the forms that are asked for: precision is written into the ONNX file itself.

No builder flag says what a layer computes in; the file does, so that the same call builds with every TensorRT from 10.0
on. Runs in the child process only. Casting to FP16 is ONNX Runtime's converter; this module refuses what it would cut
silently, puts the nodes in order again and checks the result.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.transformers import float16

from agent.atomic import replacing, sha256_of, write_atomic
from agent.building.child import Cancelled, Report
from agent.building.forms import Form
from agent.building.heads_of import head_convs, sort_nodes
from agent.building.jobs import CONVERSION, QuantiseSettings
from agent.building.quantising import LIBRARY_ERRORS, SCRAPS, QuantiseReport, opset_of, quantise, scratch, simplify
from agent.errors import ModelError

__all__ = ["QuantiseReport", "QuantiseSettings", "check_opset", "head_convs", "quantise", "read_report",
           "to_fp16", "write_forms"]

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_LARGEST = 65504.0  # of FP16
_SCALE_ERROR = 1 / 16  # relative; one INT8 step in 127 is 1/127, so more would cut off values that were measured
_LIMITS = {"Clip", "Max", "Min", "Pad", "Where"}  # a bound or mask beyond FP16's range means the same when cut
_OPSETS = (((10, 0), 9, 20), ((10, 9), 9, 22), ((10, 13), 9, 24))  # from this version on, the next: not known
_RTX = ((1, 7), 9, 26)
_KEPT = 4  # calibrated models in the cache


class _Cached(msgspec.Struct, frozen=True, kw_only=True):
    """``<key>.json`` beside ``<key>.onnx``; written last, so that it vouches for a whole file."""

    sha256: str
    report: QuantiseReport


def check_opset(model: onnx.ModelProto | Path, tensorrt: tuple[int, ...] | None, rtx: bool = False) -> None:
    """Refuse a model whose opset this TensorRT's parser is known not to read; between known versions the older's.

    Args:
        model: A model or its file.
        tensorrt: The builder's version; None or a newer one than is known = its parser decides.
        rtx: The version is TensorRT-RTX's, which counts by itself.

    Raises:
        ModelError: too old or too new; names the opset and the limit.
    """
    if tensorrt is None:
        return
    opset = opset_of(onnx.load(str(model), load_external_data=False) if isinstance(model, Path) else model)
    rows = (_RTX,) if rtx else _OPSETS
    since, oldest, newest = next((row for row in reversed(rows) if tensorrt[:2] >= row[0]), rows[0])
    known = tensorrt[:2] == since or since != rows[-1][0]
    name = f"TensorRT{'-RTX' if rtx else ''} {'.'.join(map(str, tensorrt))}"
    if opset < oldest:
        raise ModelError(f"opset {opset} is too old for {name}, which reads {oldest} and later",
                         "export the model at opset 17")
    if opset > newest and known:
        raise ModelError(f"opset {opset} is too new for {name}, which reads up to {newest}",
                         "export the model at opset 17")


def to_fp16(source: Path, target: Path, *, casts: bool = False) -> None:
    """Write the model with FP16 inside; inputs and outputs keep their types.

    Args:
        source: A prepared model, or its INT8 form of the flavour ``tensorrt``.
        target: The file to write; replaced in one piece.
        casts: Keep the scales of Q/DQ pairs FP32, with a Cast before and behind each. Without it they become FP16,
            which is standard ONNX from opset 19; TensorRT's parser takes it at 13, too.

    Raises:
        ModelError: a weight is beyond FP16's range, a scale cannot be written in FP16, or the model cannot be cast.
    """
    try:
        model = onnx.load(str(source))
        if not any(node.op_type in _QDQ for node in model.graph.node):
            with scratch(target.parent) as folder:
                model, _ = simplify(model, None, folder)
        _check_constants(model, scales=not casts)
        kinds = _kinds(model)
        blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *(_QDQ if casts else ())]
        model = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
        sort_nodes(model.graph)  # the converter puts its Casts at the end
        del model.graph.value_info[:]  # and leaves types there that are no longer true
        if kinds != _kinds(model):
            raise ModelError(f"{source.name}: casting it to FP16 changed its inputs or outputs", "ask for fp32")
        if casts or opset_of(model) >= 19:
            onnx.checker.check_model(model, full_check=True)
        write_atomic(target, model.SerializeToString())
    except OSError as error:
        raise ModelError(f"{target.parent}: {error.strerror or error}", "make room on that disk") from error
    except LIBRARY_ERRORS as error:
        raise ModelError(f"{source.name}: cannot be cast to FP16: {type(error).__name__}: {str(error)[:300]}",
                         "ask for fp32, or export the model at opset 17") from error


def write_forms(prepared: Path, folder: Path, forms: Sequence[Form], frames: NDArray[np.uint8] | None,
                settings: QuantiseSettings, *, cache: Path | None = None, report: Report = lambda *_: None,
                cancelled: Cancelled = lambda: False) -> dict[Form, Path | str]:
    """Write ``<form>.onnx`` for each form; one calibration serves all that are INT8.

    Args:
        prepared: The prepared FP32 model. It is the form ``fp32`` itself: linked, or copied where links are refused.
        folder: Where to write; it must exist, and be this process's alone: scraps of killed ones are removed.
        forms: In any order.
        frames: (n, H, W, 3) uint8 to calibrate with; None = no INT8.
        settings: How to quantise.
        cache: A folder for calibrated models, found again by the content of all that they were made from; bounded.
        report: Told (phase, done, total); total is None where it is not known.
        cancelled: Asked between steps and before each frame.

    Returns:
        For each form its file, or why there is none, in words.

    Raises:
        ModelError: cancelled.
    """
    for scrap in folder.glob(f"{SCRAPS}*"):
        shutil.rmtree(scrap, ignore_errors=True)
    base = folder / f"{Form.INT8_FP32}.onnx"
    refusal = ""
    if any(form.precision == "int8" for form in forms):
        refusal = _calibrate(prepared, base, frames, settings, cache=cache, report=report, cancelled=cancelled)
    written: dict[Form, Path | str] = {}
    for form in forms:
        if cancelled():
            raise ModelError("cancelled")
        report("convert", len(written), len(forms))
        is_int8 = form.precision == "int8"
        if is_int8 and not refusal and settings.flavour == "cpu" and form is not Form.INT8_FP32:
            written[form] = "quantised for the CPU, which does not compute in FP16"
            continue
        try:
            written[form] = refusal if is_int8 and refusal else _write(form, base if is_int8 else prepared, folder)
        except ModelError as error:
            written[form] = error.what
    report("convert", len(forms), len(forms))
    return written


def _calibrate(prepared: Path, base: Path, frames: NDArray[np.uint8] | None, settings: QuantiseSettings, *,
               cache: Path | None, report: Report, cancelled: Cancelled) -> str:
    """Write ``base``, from the cache if it is there; return why that failed, or nothing."""
    if frames is None or not len(frames):
        return "no calibration frames"
    try:
        key = _key(prepared, frames, settings)
        if cache is None or not _take(cache, key, base):
            done = quantise(prepared, base, frames, method=settings.method, percentile=settings.percentile,
                            exclude=settings.exclude, flavour=settings.flavour, report=report, cancelled=cancelled)
            entry = _Cached(sha256=sha256_of(base), report=done)
            write_atomic(base.with_suffix(".json"), msgspec.json.encode(entry))
            if cache is not None:
                _keep(cache, key, base)
    except OSError as error:
        return f"{error.filename or base.parent}: {error.strerror or error}"
    except ModelError as error:  # if it was cancelled, the caller sees that for itself
        return error.what
    return ""


def read_report(folder: Path) -> QuantiseReport | None:
    """Return what :func:`write_forms` quantised into ``folder``; None when it did not."""
    try:
        return msgspec.json.decode((folder / f"{Form.INT8_FP32}.json").read_bytes(), type=_Cached).report
    except (OSError, msgspec.MsgspecError):
        return None


def _write(form: Form, source: Path, folder: Path) -> Path:
    target = folder / f"{form}.onnx"
    if form is Form.FP32:
        try:
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system, or one without links
                _copy(source, target)
        except OSError as error:
            raise ModelError(f"{target}: {error.strerror or error}", "make room on that disk") from error
    elif form is not Form.INT8_FP32:
        to_fp16(source, target, casts=form is Form.INT8_FP16_CASTS)
    return target


def _key(prepared: Path, frames: NDArray[np.uint8], settings: QuantiseSettings) -> str:
    """Return 64 hex digits over all that a calibrated model depends on."""
    content = hashlib.sha256(f"{frames.shape}".encode())
    for frame in frames:
        content.update(frame.tobytes())
    parts = {"conversion": CONVERSION, "prepared": sha256_of(prepared), "frames": content.hexdigest(),
             "settings": msgspec.to_builtins(settings), "onnx": onnx.__version__, "runtime": onnxruntime.__version__}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _take(cache: Path, key: str, base: Path) -> bool:
    """Copy a cached model to ``base`` and its entry beside it; False when there is no whole one."""
    try:
        content = (cache / f"{key}.json").read_bytes()
        if sha256_of(cache / f"{key}.onnx") != msgspec.json.decode(content, type=_Cached).sha256:
            return False
    except (OSError, msgspec.MsgspecError):
        return False
    _copy(cache / f"{key}.onnx", base)
    write_atomic(base.with_suffix(".json"), content)
    return True


def _keep(cache: Path, key: str, base: Path) -> None:
    """Put ``base`` into the cache and throw the oldest out."""
    cache.mkdir(parents=True, exist_ok=True)
    _copy(base, cache / f"{key}.onnx")
    _copy(base.with_suffix(".json"), cache / f"{key}.json")
    entries = sorted(cache.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in entries[_KEPT:]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, replacing(target) as writer:
        shutil.copyfileobj(reader, writer)


def _check_constants(model: onnx.ModelProto, *, scales: bool) -> None:
    """Refuse constants that FP16 cannot hold; the converter would change them without a word.

    Raises:
        ModelError: names the tensor and the value.
    """
    users: dict[str, list[tuple[str, int]]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            users.setdefault(name, []).append((node.op_type, place))
    for name, values in _constants(model.graph):
        used = users.get(name, [])
        size = np.abs(values[np.isfinite(values)].astype(np.float64))
        if not size.size:
            continue
        if any(kind in _QDQ and place == 1 for kind, place in used):
            written = size.astype(np.float16).astype(np.float64)
            wrong = size[~(np.abs(written - size) <= _SCALE_ERROR * size)]
            if scales and wrong.size:
                raise ModelError(f"the scale {wrong.min():.3g} of {name!r} cannot be written in FP16",
                                 "the form with FP32 scales can hold it")
        elif size.max() > _LARGEST and any(kind not in _LIMITS for kind, _ in used):
            raise ModelError(f"the constant {name!r} holds {size.max():.6g}, beyond FP16's {_LARGEST:g}",
                             "ask for fp32, or export the model with smaller weights")


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield name and values of the FP32 initialisers, and of what Constant nodes give."""
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.t.data_type == onnx.TensorProto.FLOAT:
                yield node.output[0], numpy_helper.to_array(attribute.t)


def _kinds(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(value.name, value.type.tensor_type.elem_type) for value in (*model.graph.input, *model.graph.output)]
