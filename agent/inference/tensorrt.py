"""A built plan on TensorRT or TensorRT-RTX, one path for both: tensors by name, copies beside computing.

Promises: every ``None`` and ``False`` of TensorRT becomes an ``EngineError`` with the logger's words; shapes are
checked against the plan's profile before it computes; what a call gives was computed for that call, or it raises. A
plan is only valid for the very TensorRT and GPU it was built with: the store sees to that, and one that does not load
says so. ``tensorrt`` is imported by the constructor, not by this module.
"""

import importlib
import logging
import threading
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agent.errors import EngineError
from agent.inference.device import CudaDevice
from agent.inference.engine import EngineDescription, EngineSpec, Outputs, Pending, TensorSpec
from agent.inference.onnxruntime import check_batch
from agent.inference.staging import DEPTH, Slot, Staging
from agent.records import Pixels

_LOG = logging.getLogger(__name__)
_REBUILD = "run `vedette engines build NAME` again on this device; if it stays, look at `vedette doctor`"
_SYSTEMS_OWN = ("use JetPack's own TensorRT: `apt install python3-libnvinfer` and a virtual environment made with "
                "--system-site-packages, without pip's tensorrt in it")
_PATIENCE_S = 10.0


class TensorRtEngine:
    """A loaded plan; see :class:`agent.inference.engine.Engine`. After a failed run every further one fails.

    Args:
        path: The plan.
        runtime: Which TensorRT built it.
        name: The recipe's name.
        identity: The plan's identity, 16 hex digits.
        form: The form it was built from, for example ``int8-fp16``.
        model_sha256: SHA-256 of the model as fetched.
        device: The GPU; stays the caller's and is not closed here.
        max_batch: Most frames in one call; the plan may allow fewer.
        trt: The bindings' module, for tests; None imports it.

    Raises:
        EngineError: the bindings or memory are missing, the plan does not load, or it is no plan of a prepared model.

    Attributes:
        device_bytes: Device memory that the engine takes: measured, or what TensorRT tells where that is more.
    """

    def __init__(self, path: Path, *, runtime: Literal["tensorrt", "tensorrt_rtx"], name: str, identity: str, form: str,
                 model_sha256: str, device: CudaDevice, max_batch: int = 1, trt: Any = None) -> None:
        self._what = f"engine {name} ({path})"
        self._device = device
        self._failed = ""
        self._closed = False
        self._lock = threading.Lock()
        trt = _import_bindings(runtime) if trt is None else trt
        self._log = _logger(trt)
        self._staging: Staging | None = None
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = None
        with device.current():
            before = device.memory()[0]
            try:
                self._load(trt, path)
                self.spec = self._read_spec(trt, max_batch)
                staging = self._staging = Staging(
                    device, height=self.spec.height, width=self.spec.width, max_batch=self._rows(self.spec.max_batch),
                    outputs=self.spec.outputs, rebinds=True)
            except EngineError as error:
                self._let_go()
                raise EngineError(f"{self._what}: {error.what}", error.remedy) from error
            told = _activation_bytes(self._engine) + staging.device_bytes
            self.device_bytes = max(before - device.memory()[0], told)
        self._description = EngineDescription(
            name=name, identity=identity, runtime=f"{runtime} {trt.__version__}", provider=device.facts().name,
            precision=form, threads=0, model_sha256=model_sha256)

    def warm_up(self) -> None:
        """Run mid-grey frames, alone and as the largest batch, in every set of buffers.

        Raises:
            EngineError: a run fails.
        """
        for count in sorted({1, self.spec.max_batch}):
            for _ in range(DEPTH):
                self.start(np.full((count, self.spec.height, self.spec.width, 3), 127, np.uint8))()

    def start(self, batch: Pixels) -> Pending:
        """Queue a run of ``batch`` (n, height, width, 3) uint8 BGR, C-contiguous, 1 <= n <= ``spec.max_batch``.

        Raises:
            EngineError: the batch is not as above, or this or an earlier run failed. Waiting may raise it, too.
        """
        check_batch(batch, self.spec, self._what)
        staging = self._staging
        slot = staging.take() if staging else None
        if staging is None or slot is None:
            raise EngineError(f"{self._what}: is closed", "this is a defect: report it with this line")
        try:
            self._check_earlier()
            with self._device.current():
                self._queue(staging, slot, batch)
        except EngineError as error:
            staging.give_back(slot)
            raise self._fail(error) from error
        count = len(batch)
        return lambda: self._wait(staging, slot, count)

    def describe(self) -> EngineDescription:
        """Say what really runs."""
        return self._description

    def close(self) -> None:
        """Wait for calls under way, then free everything, the last first; may be called again."""
        with self._lock:
            staging = self._staging
            if self._closed or staging is None:
                return
            self._closed = True
        if not staging.end(_PATIENCE_S):
            _LOG.warning("%s: closed with a call whose outputs nobody fetched", self._what)
        with self._device.current():
            try:
                staging.computing.synchronise()
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Free in reverse order: a context must not outlive its buffers' last use, nor an engine its runtime."""
        self._context = None
        self._engine = None
        self._runtime = None
        if self._staging:
            self._staging.release()

    def _load(self, trt: Any, path: Path) -> None:
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise EngineError(f"cannot be read: {error.strerror}", _REBUILD) from error
        self._log.take()
        try:
            self._runtime = trt.Runtime(self._log.native)
        except TypeError as error:  # how the bindings put a null pointer from C++
            raise self._refused("TensorRT's runtime cannot be made") from error
        self._engine = self._made(self._runtime.deserialize_cuda_engine(plan), "the plan does not load")
        # One context for both sets of buffers: two would let neighbours compute at the same time, which gains nothing
        # on a GPU that one batch keeps busy, and cost the activations' memory twice.
        self._context = self._made(self._engine.create_execution_context(), "no execution context")

    def _made(self, what: Any, problem: str) -> Any:
        if what is None:
            raise self._refused(problem)
        return what

    def _refused(self, problem: str) -> EngineError:
        words = self._log.take()
        remedy = _SYSTEMS_OWN if "is not supported by this TensorRT release" in words else _REBUILD
        return EngineError(f"{problem}: {words or 'TensorRT gave no reason'}", remedy)

    def _read_spec(self, trt: Any, max_batch: int) -> EngineSpec:
        # No local names for TensorRT's objects here: a traceback would keep an engine alive longer than its runtime.
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in inputs]
        shape = tuple(self._engine.get_tensor_shape(inputs[0])) if len(inputs) == 1 else ()
        if len(shape) != 4 or shape[3] != 3 or min(shape[1:]) < 1 or (
                self._engine.get_tensor_dtype(inputs[0]) != trt.DataType.UINT8) or not self._outputs:
            raise EngineError(f"is no plan of a prepared model: its tensors are {', '.join(names)}",
                              _REBUILD)
        self._input = inputs[0]
        self._fixed = int(shape[0]) if shape[0] > 0 else None
        self._least = 1
        if self._fixed is None:
            least, _, most = self._engine.get_tensor_profile_shape(self._input, 0)
            self._least, max_batch = int(least[0]), min(max_batch, int(most[0]))
        else:
            max_batch = min(max_batch, self._fixed)
        rows = self._rows(max_batch)
        if not self._context.set_input_shape(self._input, (rows, *shape[1:])):
            raise self._refused(f"the shape {(rows, *shape[1:])} is refused")
        return EngineSpec(height=int(shape[1]), width=int(shape[2]), max_batch=max_batch, depth=DEPTH,
                          outputs=tuple(self._output(trt, name, rows) for name in self._outputs))

    def _output(self, trt: Any, name: str, rows: int) -> TensorSpec:
        shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
        if not shape or min(shape) < 1 or shape[0] != rows or (
                self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE):
            raise EngineError(f"output {name!r} has the shape {shape} for {rows} frame(s)",
                              "export the model with outputs of fixed size, one row a frame")
        try:
            kind = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
        except TypeError as error:  # bfloat16, say
            raise EngineError(f"output {name!r} is of a type that numpy lacks: {error}",
                              "export the model with float32 outputs") from error
        return TensorSpec(name=name, shape=(self._fixed or -1, *shape[1:]), dtype=kind.name)

    def _rows(self, count: int) -> int:
        """Frames that really run for ``count``: what the plan cannot do less than is filled up with old pixels."""
        return self._fixed or max(count, self._least)

    def _queue(self, staging: Staging, slot: Slot, batch: Pixels) -> None:
        # The context is never put into a variable: the traceback of a failure would keep it beyond its runtime.
        spec = self.spec
        staging.fill(slot, batch)
        shape = (self._rows(len(batch)), spec.height, spec.width, 3)
        if not self._context.set_input_shape(self._input, shape):
            raise self._refused(f"the shape {shape} is refused")
        addresses = [(self._input, slot.frames), *zip(self._outputs, slot.outputs, strict=True)]
        for name, address in addresses:
            if not self._context.set_tensor_address(name, address):
                raise self._refused(f"the address of {name!r} is refused")
        staging.before_computing(slot)
        if not self._context.execute_async_v3(staging.computing.handle):
            raise self._refused("the run cannot be queued")
        staging.after_computing(slot, len(batch))

    def _wait(self, staging: Staging, slot: Slot, count: int) -> Outputs:
        try:
            with self._device.current():
                return staging.collect(slot, count)
        except EngineError as error:
            raise self._fail(error) from error

    def _check_earlier(self) -> None:
        if self._failed:
            raise EngineError(f"a run failed earlier: {self._failed}", _REBUILD)

    def _fail(self, error: EngineError) -> EngineError:
        self._failed = self._failed or error.what
        return EngineError(f"{self._what}: {error.what}", error.remedy)


class _Log:
    """TensorRT's logger of this process: a second one would be ignored by TensorRT."""

    def __init__(self, trt: Any) -> None:
        severity = trt.ILogger.Severity
        levels = {severity.INTERNAL_ERROR: logging.ERROR, severity.ERROR: logging.ERROR,
                  severity.WARNING: logging.WARNING}
        kept: deque[str] = deque(maxlen=6)

        class Native(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:  # must never raise: TensorRT calls it from C++
                level = levels.get(severity)
                if level == logging.ERROR:
                    kept.append(msg)
                if level is not None:
                    _LOG.log(level, "TensorRT: %s", msg)

        self.native = Native()
        self._kept = kept

    def take(self) -> str:
        """Return the errors since the last call, joined."""
        words = " | ".join(self._kept)
        self._kept.clear()
        return words


@cache
def _logger(trt: Any) -> _Log:
    return _Log(trt)


def _activation_bytes(engine: Any) -> int:
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    return int(size)


def _import_bindings(runtime: str) -> Any:
    try:
        return importlib.import_module(runtime)
    except ImportError as error:
        remedy = ("pip install tensorrt_rtx_cu13_bindings with its libs" if runtime == "tensorrt_rtx" else
                  f"on a Jetson: {_SYSTEMS_OWN}")
        raise EngineError(f"{runtime} cannot be imported: {error}", remedy) from error
