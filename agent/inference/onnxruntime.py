"""A prepared model on ONNX Runtime: on the CPU, or on exactly the execution provider that was asked for.

Promises: never another provider than the one asked for; every failure leaves as an ``EngineError`` with the model's
name and the runtime's own words; outputs belong to the caller. The model must be prepared (uint8 NHWC ``frames``, see
``vedette engines fetch``). ``onnxruntime`` is imported by the constructor, not by this module.
"""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import EngineError, missing_extra
from agent.inference.engine import EngineDescription, EngineSpec, Outputs, Pending, TensorSpec
from agent.records import Pixels

_CPU = "CPUExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
           "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
           "tensor(bool)": "bool"}
_REBUILD = "run `vedette engines fetch NAME` to check and prepare the model again"


class OnnxRuntimeEngine:
    """A loaded model; see :class:`agent.inference.engine.Engine`. Its ``start`` computes before it returns.

    Args:
        path: The prepared ONNX file.
        name: The recipe's name.
        identity: Identity of the prepared model, 16 hex digits.
        model_sha256: SHA-256 of the model as fetched.
        threads: CPU threads of one call; 0 = all cores but one, so that capture is not starved.
        provider: Execution provider that must be used; None = CPU.
        max_batch: Most frames in one call; a model with a fixed batch lowers it (see ``spec.max_batch``).
        precision: What the prepared file holds.

    Raises:
        EngineError: the package or the provider is missing, or the file cannot be loaded.
    """

    def __init__(self, path: Path, *, name: str, identity: str, model_sha256: str, threads: int = 0,
                 provider: str | None = None, max_batch: int = 1, precision: str = "fp32") -> None:
        self._what = f"engine {name} ({path})"
        self._threads = threads or max((os.cpu_count() or 2) - 1, 1)
        runtime = import_runtime()
        self._errors = runtime_errors()
        self._session = self._open(runtime, path, provider or _CPU)
        self._input, self.spec = read_spec(self._session, max_batch, self._what)
        in_use = self._session.get_providers()[0]
        self._has_arena, self._trims = in_use == _CPU, False
        self._description = EngineDescription(
            name=name, identity=identity, runtime=f"onnxruntime {runtime.__version__}", provider=in_use,
            precision=precision, threads=self._threads if in_use == _CPU else 0, model_sha256=model_sha256)

    def warm_up(self) -> None:
        """Run mid-grey frames, alone and as the largest batch: the first real one shall be no slower and no surprise.

        Raises:
            EngineError: the run fails or an output's first axis is not the batch.
        """
        for count in sorted({1, self.spec.max_batch}):
            outputs = self.start(np.full((count, self.spec.height, self.spec.width, 3), 127, np.uint8))()
            for spec, output in zip(self.spec.outputs, outputs, strict=True):
                if output.ndim < 1 or output.shape[0] != count:
                    raise EngineError(
                        f"{self._what}: output {spec.name!r} has shape {output.shape} for {count} frame(s)", _REBUILD)

    def start(self, batch: Pixels) -> Pending:
        """Run ``batch`` (n, height, width, 3) uint8 BGR, C-contiguous, 1 <= n <= ``spec.max_batch``.

        Returns:
            Gives one array an output, first axis n, owned by the caller.

        Raises:
            EngineError: the batch is not as above, or the run failed.
        """
        check_batch(batch, self.spec, self._what)
        options, self._trims = self._shrinking() if self._trims else None, False
        try:
            outputs: Outputs = self._session.run(None, {self._input: batch}, options)
        except self._errors as error:
            raise EngineError(f"{self._what}: the run failed: {error}", _REBUILD) from error
        return lambda: outputs

    def describe(self) -> EngineDescription:
        """Say what really runs."""
        return self._description

    def trim(self) -> None:
        """Let the next call give back what earlier, larger ones made the arena of the process grow by."""
        self._trims = self._has_arena

    def close(self) -> None:
        """Free the session; the engine is not used afterwards.

        The arena is the process's, not the session's: only a run that is asked to gives back what it has grown by:
        236 MB with CenterFace at 320 and batch 8, 224 MB at batch 1 afterwards, 79 MB after such a run
        (tests/integration/test_memory_given_back.py).
        """
        if self._session is not None and self._has_arena:
            one = np.zeros((1, self.spec.height, self.spec.width, 3), np.uint8)
            with suppress(*self._errors):  # an engine that fails is closed all the same
                self._session.run(None, {self._input: one}, self._shrinking())
        self._session = None

    @staticmethod
    def _shrinking() -> Any:
        options = import_runtime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def _open(self, runtime: Any, path: Path, provider: str) -> Any:
        check_provider(provider)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores that decode the cameras: with 2 threads on 2 busy cores a
        # call took 12 ms without spinning, 32 to 46 ms and twice the CPU time with it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        _share_arena(runtime)
        options.add_session_config_entry("session.use_env_allocators", "1")
        # One block planned ahead for all activations is no faster here and takes a tenth more memory (178 MB against
        # 161 for CenterFace at 640).
        options.enable_mem_pattern = False
        options.log_severity_level = 4  # what goes wrong arrives as an exception
        try:
            session = runtime.InferenceSession(str(path), options, providers=[provider])
        except self._errors as error:
            raise EngineError(f"{self._what}: cannot be loaded: {error}", _REBUILD) from error
        if (in_use := session.get_providers()[0]) != provider:
            raise EngineError(f"{self._what}: asked for {provider}, onnxruntime took {in_use}",
                              f"mend the driver or libraries of {provider}, or leave [engine] provider out for the CPU")
        return session


def check_batch(batch: Pixels, spec: EngineSpec, what: str) -> None:
    """Check that ``batch`` is what an engine with ``spec`` takes; ``what`` names the engine.

    Raises:
        EngineError: it is not.
    """
    if (batch.dtype != np.uint8 or batch.shape[1:] != (spec.height, spec.width, 3)
            or not 1 <= len(batch) <= spec.max_batch or not batch.flags.c_contiguous):
        raise EngineError(
            f"{what}: takes 1 to {spec.max_batch} contiguous frames ({spec.height}, {spec.width}, 3) uint8; "
            f"got {batch.shape} {batch.dtype}", "this is a defect: report it with this line")


def read_spec(session: Any, max_batch: int, what: str, depth: int = 1) -> tuple[str, EngineSpec]:
    """Return the input's name and what a session of a prepared model takes and gives.

    Raises:
        EngineError: the model is not prepared.
    """
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or shape[3] != 3 or inputs[0].type != "tensor(uint8)" or not (
            isinstance(shape[1], int) and isinstance(shape[2], int)) or shape[0] == 0:
        seen = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise EngineError(f"{what}: is no prepared model: its input is {seen or 'missing'}", _REBUILD)
    return inputs[0].name, EngineSpec(
        height=shape[1], width=shape[2], max_batch=1 if isinstance(shape[0], int) else max_batch, depth=depth,
        outputs=tuple(
            TensorSpec(name=value.name, dtype=_DTYPES.get(value.type, value.type),
                       shape=tuple(size if isinstance(size, int) else -1 for size in value.shape))
            for value in session.get_outputs()))


def check_provider(name: str) -> None:
    """Check, without loading anything else, that the execution provider ``name`` is there.

    Raises:
        EngineError: the package is missing, or it has no such provider.
    """
    available = import_runtime().get_available_providers()
    if name not in available:
        raise EngineError(f"provider {name!r} is not in this onnxruntime; it has {', '.join(available)}",
                          "correct [engine] provider, or install the onnxruntime package that has it")


@cache
def _share_arena(runtime: Any) -> None:
    """Let the CPU arena of this process grow by what is asked for instead of doubling.

    The same speed and 12 MB less for CenterFace at 640 (149 against 161 MB). ONNX Runtime takes it once a process.
    """
    memory = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    grow_as_requested, default = 1, -1
    runtime.create_and_register_allocator(memory, runtime.OrtArenaCfg(0, grow_as_requested, default, default))


def import_runtime() -> Any:
    """Import ONNX Runtime.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import onnxruntime  # noqa: PLC0415 -- 0.2 s and 57 MB that only those who run a model pay
    except ImportError as error:
        raise EngineError(f"onnxruntime cannot be imported: {error}", missing_extra("cpu")) from error
    onnxruntime.disable_telemetry_events()  # a camera's box talks to its own upstream only
    return onnxruntime


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: its exceptions have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # noqa: PLC0415 -- see above

    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
