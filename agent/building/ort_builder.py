"""ONNX Runtime's "build": the graph as its optimiser leaves it, saved, so that loading need not optimise it again.

It is saved at full optimisation, layouts that fit this processor included. Measured on x86 (one thread, CenterFace at
320x320): loading takes 6.7 ms instead of 15.9, running and results are the same; saved one level lower it would be
portable, and loading 11.8 ms. So the file belongs to this processor and this version of ONNX Runtime, and the engine's
identity must hold both.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.atomic import fsync_dir
from agent.building.tensorrt_builder import Built, clear_scraps
from agent.errors import ModelError, missing_extra

_CPU = "CPUExecutionProvider"
_LIMIT = 1e-3  # share of an output's range; the same optimiser ran for both, so on a CPU the outputs are equal
_SHOWN = 300  # characters of the runtime's own words
_REMEDY = "choose another form with --precision, or take another version of onnxruntime"
_ROOM = 2  # times the source: with less free, what failed while or after it was written failed for want of room


def build_ort(onnx_path: Path, target: Path, *, provider: str | None, threads: int,
              report: Callable[[str, int, int | None], None], cancelled: Callable[[], bool]) -> Built:
    """Optimise ``onnx_path`` for ``provider`` and write it to ``target`` in one piece, once it is seen to be right.

    Args:
        onnx_path: A model of one uint8 input (batch or 1, height, width, 3).
        target: An ONNX file that only this version of ONNX Runtime on this kind of processor should load; its folder
            exists.
        provider: The execution provider, and no other one; None = CPU.
        threads: CPU threads; 0 = all cores but one.
        report: Told each of the four steps.
        cancelled: Asked before each step.

    Returns:
        What was built; ``workspace`` is 0, ``max_batch`` 0 for a symbolic batch, which has no limit of its own.

    Raises:
        ModelError: ONNX Runtime or the provider is missing, the file cannot be loaded or written, what was saved does
            not load or gives other outputs, or it was cancelled.
    """
    started = time.monotonic()
    runtime = _import_runtime()
    wanted, name = provider or _CPU, onnx_path.name
    if wanted not in runtime.get_available_providers():
        raise ModelError(f"provider {wanted!r} is not in this onnxruntime; it has "
                         f"{', '.join(runtime.get_available_providers())}",
                         "correct [engine] provider, or install the onnxruntime package that has it")
    threads = threads or max((os.cpu_count() or 2) - 1, 1)
    clear_scraps(target)
    scrap = target.with_name(f".{target.name}.{os.getpid()}.part")

    def step(number: int) -> None:
        if cancelled():
            raise ModelError(f"{name}: the build was cancelled")
        report("optimising", number, 4)

    try:
        step(0)
        source = _session(runtime, onnx_path, wanted, threads, source=onnx_path, scrap=scrap)
        step(1)
        picture, batch = _picture(source, name)
        expected = _run(source, picture, name)
        del source  # two loaded models at once are two times the memory
        step(2)
        found = _run(_session(runtime, scrap, wanted, threads, source=onnx_path, scrap=scrap), picture, name)
        if (difference := _difference(expected, found)) > _LIMIT:
            raise ModelError(f"{name}: what onnxruntime saved gives outputs that differ by {min(difference, 1):.2g} of "
                             "their range from those of the model it was made from", _REMEDY)
        step(3)
        size = _put(scrap, target)
    finally:
        scrap.unlink(missing_ok=True)
    report("optimising", 4, 4)
    return Built(bytes=size, seconds=time.monotonic() - started, steps=4, max_batch=batch, workspace=0,
                 runtime=f"onnxruntime {runtime.__version__}")


def _import_runtime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 -- a missing package must become a clear answer
    except ImportError as error:
        raise ModelError(f"onnxruntime cannot be imported: {error}", missing_extra("cpu")) from error
    onnxruntime.disable_telemetry_events()  # a camera's box talks to its own upstream only
    return onnxruntime


def _session(runtime: Any, path: Path, provider: str, threads: int, *, source: Path, scrap: Path) -> Any:
    """Load ``path``: the source, which is saved to ``scrap`` then, or that scrap."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cameras need those cores
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    if path == source:
        options.optimized_model_filepath = str(scrap)
    try:
        session = runtime.InferenceSession(str(path), options, providers=[provider])
    except _runtime_errors() as error:
        if (free := _too_little_room(scrap, source)) is not None:  # its own words speak of protobuf
            raise ModelError(f"{source.name}: onnxruntime cannot save it: the disk is full: {free / 1e6:.1f} MB free",
                             "make room on that disk") from error
        what = "optimise and save it" if path == source else "load what it saved itself"
        raise ModelError(f"{source.name}: onnxruntime cannot {what}: {str(error)[:_SHOWN]}", _REMEDY) from error
    if (in_use := session.get_providers()[0]) != provider:
        raise ModelError(f"{path.name}: asked for {provider}, onnxruntime took {in_use}",
                         f"mend the driver or libraries of {provider}, or leave [engine] provider out for the CPU")
    return session


def _too_little_room(scrap: Path, source: Path) -> int | None:
    """Return the free bytes of the scrap's disk, where it was begun and they are few."""
    if not scrap.exists():
        return None  # it failed before it wrote
    free = shutil.disk_usage(scrap.parent).free
    return free if free < _ROOM * source.stat().st_size else None


def _picture(session: Any, name: str) -> tuple[NDArray[np.uint8], int]:
    """Return a random picture that fits the model, and its fixed batch (0 = symbolic)."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or inputs[0].type != "tensor(uint8)" or not all(isinstance(size, int) for size in shape[1:]):
        seen = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise ModelError(f"{name}: is no prepared model: its input is {seen or 'missing'}",
                         "prepare it with `vedette engines fetch`")
    batch = shape[0] if isinstance(shape[0], int) else 0
    return np.random.default_rng(0).integers(0, 256, (batch or 1, *shape[1:]), np.uint8), batch


def _run(session: Any, picture: NDArray[np.uint8], name: str) -> list[NDArray[Any]]:
    try:
        outputs: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: picture})
    except _runtime_errors() as error:
        raise ModelError(f"{name}: onnxruntime cannot run it: {str(error)[:_SHOWN]}", _REMEDY) from error
    return outputs


def _difference(expected: list[NDArray[Any]], found: list[NDArray[Any]]) -> float:
    """Return the largest difference as a share of each output's range; infinite when shapes or gaps differ."""
    worst = 0.0
    if len(expected) != len(found):
        return float("inf")
    for one, other in zip(expected, found, strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)))
    return worst


def _put(scrap: Path, target: Path) -> int:
    """Make the scrap the target, durably; return its size in bytes."""
    try:
        with scrap.open("rb+") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        scrap.replace(target)
        fsync_dir(target.parent)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error.strerror}", "make room on that disk") from error
    return size


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: its exceptions have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # noqa: PLC0415 -- see _import_runtime()

    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
