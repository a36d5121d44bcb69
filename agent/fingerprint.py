"""What this box is, as far as an engine depends on it: gathered from the system, the GPU and the runtime in use."""

from typing import Any

from agent import machine
from agent.building.forms import CPU, Runtime
from agent.building.identity import Platform
from agent.errors import EngineError


def platform(runtime: Runtime, provider: str | None, threads: int) -> Platform:
    """Return what an engine of ``runtime`` is built and run on here; GPU fields are empty where there is no GPU.

    Raises:
        EngineError: the runtime is not installed.
    """
    on_cpu = runtime == "onnxruntime" and provider in {None, CPU}
    cpu = machine.cpu_model()
    gpu = None if on_cpu else _gpu()
    mode = machine.power_mode()
    return Platform(
        runtime=runtime_version(runtime), provider=(provider or CPU) if runtime == "onnxruntime" else "",
        cpu=(str(cpu) if cpu else machine.architecture()) if on_cpu else "", threads=threads if on_cpu else 0,
        gpu=gpu.name if gpu else "", sm=gpu.sm if gpu else "", sm_count=gpu.sm_count if gpu else 0,
        cuda=(gpu.driver_cuda or "") if gpu else "", driver=(gpu.driver or "") if gpu else "", l4t=machine.l4t() or "",
        power_mode=str(mode) if mode else "")


def runtime_version(runtime: Runtime) -> str:
    """Return ``tensorrt 10.3.0.26``, for example.

    Raises:
        EngineError: the runtime is not installed.
    """
    if runtime != "onnxruntime":
        from agent.building.tensorrt_bindings import load_bindings  # noqa: PLC0415 -- loads the whole library

        return f"{runtime} {load_bindings(runtime).__version__}"
    # Not from the packages' metadata: of two packages installed over each other only the module tells which it is.
    from agent.inference.onnxruntime import import_runtime  # noqa: PLC0415 -- 0.2 s that only builders and runners pay

    return f"{runtime} {import_runtime().__version__}"


def _gpu() -> Any:
    from agent.inference.device import facts  # noqa: PLC0415 -- needs pycuda

    try:
        return facts()
    except EngineError:
        return None
