"""From an engine file to a loaded, warmed engine, whatever runtime it is for. Imports that runtime only."""

import logging
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agent.building.forms import CPU, Form, Runtime
from agent.errors import EngineError
from agent.heap import give_back
from agent.inference.engine import Engine

_LOG = logging.getLogger(__name__)
_SHOWN = 300  # characters of a runtime's own words


class EngineFile(msgspec.Struct, frozen=True, kw_only=True):
    """An engine on the disk, and what it takes to load it.

    Attributes:
        path: The plan, or the ONNX file.
        name: The recipe's name.
        identity: 16 hex digits.
        model_sha256: Of the model as fetched.
        form: What it computes in.
        runtime: What runs it.
        provider: ONNX Runtime's execution provider; None = CPU.
        threads: CPU threads of one call; 0 = all cores but one.
        max_batch: Most frames in one call.
    """

    path: str
    name: str
    identity: str
    model_sha256: str
    form: Form
    runtime: Runtime
    provider: str | None = None
    threads: int = 0
    max_batch: int = 1


def load_engine(file: EngineFile) -> Engine:
    """Load and warm it.

    Raises:
        EngineError: it cannot be loaded, is not what was asked for, or its first run fails.
    """
    path = Path(file.path)
    if file.runtime != "onnxruntime":
        from agent.inference.tensorrt import TensorRtEngine  # noqa: PLC0415 -- needs TensorRT

        plan = TensorRtEngine(
            path, runtime=file.runtime, name=file.name, identity=file.identity, form=str(file.form),
            model_sha256=file.model_sha256, max_batch=file.max_batch, device=_device())
        return _warmed(plan)
    if file.provider == "CUDAExecutionProvider":
        return _on_cuda(file)
    from agent.inference.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415 -- see above

    loaded = OnnxRuntimeEngine(
        path, name=file.name, identity=file.identity, model_sha256=file.model_sha256, threads=file.threads,
        provider=file.provider or CPU, max_batch=file.max_batch, precision=str(file.form))
    return _warmed(loaded)


def import_libraries(file: EngineFile) -> None:
    """Import what loading ``file`` will, so that what is measured from now on is the engine's own memory.

    Raises:
        EngineError: something is not installed.
    """
    if file.runtime == "onnxruntime":
        from agent.inference.onnxruntime import import_runtime  # noqa: PLC0415 -- see load_engine

        import_runtime()


class _Warms(Engine, Protocol):
    def warm_up(self) -> None: ...


def _warmed(engine: _Warms) -> Engine:
    """Warm an engine up; close it, and so free what it took, when that fails."""
    give_back()  # what loading leaves behind, before the first run asks for memory of its own
    try:
        engine.warm_up()
    except EngineError:
        engine.close()
        raise
    return engine


def _on_cuda(file: EngineFile) -> Engine:
    """Load with biases fused into the convolutions; without, where cuDNN cannot run the model so.

    cuDNN 9.19 under ONNX Runtime 1.31 refuses CenterFace's transposed convolutions with a fused bias.
    """
    from agent.inference.ort_cuda import OrtCudaEngine  # noqa: PLC0415 -- needs pycuda

    def load(options: dict[str, str]) -> Engine:
        return _warmed(OrtCudaEngine(
            Path(file.path), name=file.name, identity=file.identity, model_sha256=file.model_sha256,
            precision=str(file.form), max_batch=file.max_batch, device=_device(), options=options))

    try:
        return load({})
    except EngineError as error:
        _LOG.info("%s: once more without fused biases: %s", file.name, error.what[:_SHOWN])
        return load({"fuse_conv_bias": "0"})


def free_device_bytes() -> int:
    """Return the free memory of the GPU, bytes.

    Raises:
        EngineError: there is no usable GPU.
    """
    device = _device()
    with device.current():
        return int(device.memory()[0])


@cache
def _device() -> Any:
    """Return the GPU; one for the process, for its context is the process's."""
    from agent.inference.device import CudaDevice  # noqa: PLC0415 -- needs pycuda

    return CudaDevice()
