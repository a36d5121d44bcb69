"""A fetched ONNX file turned into a prepared one; runs in the child process only.

It measures what it wrote: on random frames the prepared model must give what the original gives on the same frames
prepared by numpy. Outputs may differ by 1e-4 of their range; by more only where the layers that take the frames agree
that closely, for then the input is right and what follows makes much of rounding, as a sort does. Anything else is
refused.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from agent.atomic import write_atomic
from agent.building import graph
from agent.building.agreement import largest_difference
from agent.building.prepare import Job, Outcome
from agent.building.recipe_tables import InputTable
from agent.errors import ModelError

_LIMIT = 1e-4  # share of an output's range; a folded convolution differs by rounding only, about 1e-6
_SHOWN = 300  # characters of a runtime's own words

Outputs = list[NDArray[Any]]


def prepare_model(job: Job) -> Outcome:
    """Prepare ``job.model``, measure the result and write ``job.target`` in one piece.

    Raises:
        ModelError: the file is no usable model, or it cannot run at this size.
    """
    path = Path(job.model)
    original = _load(path)
    try:
        graph.tidy(original)
        name, declared = graph.image_input(original)
        frames = np.random.default_rng(0).integers(0, 256, (2, job.height, job.width, 3), np.uint8)
        reference = copy.deepcopy(original)
        graph.set_size(reference, name, job.height, job.width)
        expected = _expected(reference, frames, job, declared)
        prepared, outcome = _fold(original, reference, job, frames, expected)
    except ModelError as error:
        raise ModelError(f"{path.name}: {error.what}", error.remedy) from error
    try:
        write_atomic(Path(job.target), prepared)
    except OSError as error:
        raise ModelError(f"{job.target}: cannot be written: {error.strerror}", "make room on that disk") from error
    return outcome


def _load(path: Path) -> Any:
    """Return the model, or say what is wrong with the file in words that do not need protobuf knowledge."""
    remedy = "fetch or export it anew and compare its size"
    try:
        with path.open("rb") as file:
            start = file.read(256)
        if not start:
            raise ModelError(f"{path}: the file is empty", remedy)
        if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
            raise ModelError(f"{path}: this is a text file that starts with {start[:40].decode()!r}, no ONNX model",
                             "a Git LFS pointer or an error page? fetch the file itself")
        return onnx.load(str(path))
    except DecodeError as error:
        raise ModelError(f"{path}: no ONNX model, or cut short at {path.stat().st_size} bytes", remedy) from error
    except (OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: cannot be read: {error}",
                         "check its owner and mode; weights in separate files must lie beside it") from error


def _expected(reference: Any, frames: NDArray[np.uint8], job: Job, declared: tuple[int, int] | None) -> list[Outputs]:
    """Return the original model's outputs on each frame alone."""
    size = (job.height, job.width)
    remedy = "name a size the model can take, or export it with dynamic height and width"
    if declared is not None and declared != size:
        remedy = f"it declares {list(declared)}: try [input] size = {list(declared)}, or export it with a dynamic size"
    try:
        outputs = [_run(reference.SerializeToString(), _by_hand(frame[None], job.input)) for frame in frames]
    except _runtime_errors() as error:
        raise ModelError(f"the model does not run at {size[0]}x{size[1]}: {str(error)[:_SHOWN]}", remedy) from error
    for index, output in enumerate(outputs[0]):
        if output.ndim < 1 or output.shape[0] != 1:
            name = reference.graph.output[index].name
            raise ModelError(
                f"output {name!r} has shape {output.shape}: its first axis is not the batch",
                "export the model without collecting the boxes of all pictures in one list")
    return outputs


def _by_hand(frames: NDArray[np.uint8], wanted: InputTable) -> NDArray[np.float32]:
    """Prepare frames as the recipe says it, step by step: the definition that folding must agree with."""
    ordered = frames[..., ::-1] if wanted.colour == "rgb" else frames
    values = (ordered * np.float64(wanted.scale) - np.array(wanted.mean)) / np.array(wanted.std)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


def _fold(original: Any, reference: Any, job: Job, frames: NDArray[np.uint8], expected: list[Outputs]
          ) -> tuple[bytes, Outcome]:
    """Fold; if what comes out is wrong, put the input's steps before the model instead.

    Raises:
        ModelError: that is wrong, too.
    """
    for fold in (True, False):
        model = copy.deepcopy(original)
        report = graph.fold_input(model, job.input, job.height, job.width, fold=fold)
        alone = [_run(model.SerializeToString(), frame[None]) for frame in frames]
        difference = max(map(largest_difference, expected, alone))
        right = difference <= _LIMIT or _first_layers_agree(model, reference, report, job, frames)
        if right or not report.folded:
            break
    if not right:
        raise ModelError(f"once prepared, its outputs differ by {min(difference, 1.0):.2g} of their range",
                         "does it draw random numbers? Export it for inference, with dropout and noise left out")
    together = _batch_of_two(model, frames, alone)
    batch = None if together else 1
    graph.set_batch(model, batch)
    graph.set_outputs(model, _shapes(model.SerializeToString(), [*alone, *([together] if together else [])]), batch)
    return model.SerializeToString(), Outcome(
        dynamic_batch=batch is None, folded=report.folded, max_difference=min(difference, 1.0), note=report.note)


def _first_layers_agree(model: Any, reference: Any, report: Any, job: Job, frames: NDArray[np.uint8]) -> bool:
    """Compare what the input's consumers give.

    Outputs behind a sort (NMS, TopK) may jump by a rounding error; the layers that folding touched cannot.
    """
    found: list[Outputs] = []
    for graph_of, batch in ((reference, _by_hand(frames[:1], job.input)), (model, frames[:1])):
        probed = copy.deepcopy(graph_of)
        del probed.graph.output[:]
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in report.first_layers)
        try:
            found.append(_run(probed.SerializeToString(), batch))
        except _runtime_errors():  # a layer inside a loop or branch cannot be looked at
            return False
    return largest_difference(*found) <= _LIMIT


def _batch_of_two(model: Any, frames: NDArray[np.uint8], alone: list[Outputs]) -> Outputs | None:
    """Return the outputs of two frames in one call, or None when the model cannot do that rightly."""
    try:
        together = _run(model.SerializeToString(), frames)
    except _runtime_errors():
        return None
    apart = [np.concatenate(pair) for pair in zip(*alone, strict=True)] if _alike(*alone) else None
    return together if apart and largest_difference(apart, together) <= _LIMIT else None


def _alike(one: Outputs, other: Outputs) -> bool:
    return all(a.shape == b.shape for a, b in zip(one, other, strict=True))


def _shapes(prepared: bytes, runs: list[Outputs]) -> list[list[int | None]]:
    """Return the outputs' shapes: what the runtime infers, else what all runs agreed on, else None."""
    shapes: list[list[int | None]] = []
    for index, inferred in enumerate(_session(prepared).get_outputs()):
        seen = [run[index].shape for run in runs]
        sizes: list[int | None] = []
        for axis, size in enumerate(seen[0]):
            agreed = size if size and all(shape[axis] == size for shape in seen) else None
            known = inferred.shape[axis] if len(inferred.shape) == len(seen[0]) else None
            sizes.append(known if isinstance(known, int) else agreed)
        shapes.append(sizes)
    return shapes


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(model: bytes, batch: NDArray[Any]) -> Outputs:
    session = _session(model)
    outputs: Outputs = session.run(None, {session.get_inputs()[0].name: batch})
    return outputs


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: its exceptions have no common base of their own."""
    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
