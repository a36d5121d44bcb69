"""``python -m agent.diagnosis.probe NAME``: look at one library from inside a process that may crash or hang over it.

Prints one line of JSON: a fact of ``agent.diagnosis.facts``. Whatever the library prints goes to standard error.
An exception that a library is not known to raise ends the process; its last line is what the parent then tells.
"""

import ctypes
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from agent.diagnosis.facts import Driver, OnnxRuntime, OpenCv, Package, TensorRt

# The second name is the bindings alone, which is what some installations bring.
_MODULES = {"tensorrt": ("tensorrt", "tensorrt_bindings"), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_LIBRARIES = {"tensorrt": "libnvinfer.so", "tensorrt_rtx": "libtensorrt_rtx.so"}
_WORKSPACE = 1 << 24
_ATTRIBUTES = {"sm_count": 16, "integrated": 18, "major": 75, "minor": 76}  # CUdevice_attribute, cuda.h


def _field(number: int, value: int | bytes) -> bytes:
    """Write one protobuf field; everything in the model below is shorter than 128."""
    return bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value


def _model() -> bytes:
    """Return the smallest ONNX model, one Identity of float32 [1], so that no `onnx` is needed to try a provider."""
    shape = _field(2, _field(1, _field(1, 1)))
    kind = _field(2, _field(1, _field(1, 1) + shape))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = (_field(1, node) + _field(2, b"g") + _field(11, _field(1, b"x") + kind)
             + _field(12, _field(1, b"y") + kind))
    return _field(1, 7) + _field(7, graph) + _field(8, _field(2, 13))


def _import(*names: str) -> ModuleType | str | None:
    """Return the first module of ``names`` that is there; what its import says where that fails; None for none."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                return f"{error}"
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
    return None


def _package(name: str, module: ModuleType | str | None) -> dict[str, Any]:
    if isinstance(module, ModuleType):
        return {"module": name, "file": module.__file__, "version": str(getattr(module, "__version__", "")) or None}
    return {"module": name, "missing": module is None, "fault": module}


def probe_package(name: str, imported: str | None = None) -> Package:
    """Import ``name`` (or its part ``imported``) and say where it is."""
    module = _import(imported or name)
    found = _package(name, module)
    if isinstance(module, ModuleType) and found["version"] is None:
        found["version"] = _distribution(name)
    return Package(**found)


def probe_tensorrt(name: str, *, build: bool) -> TensorRt:
    """Import TensorRT, ask its library for its version, and build a network of one layer if ``build``."""
    module = _import(*_MODULES[name])
    found = _package(name, module)
    if not isinstance(module, ModuleType):
        return TensorRt(**found)
    library = _mapped(_LIBRARIES[name])
    builds, said = _build(module) if build else (None, ())
    listed = dir(getattr(module, "ComputeCapability", None))
    sms = sorted((word[2:] for word in listed if re.fullmatch(r"SM\d+", word)), key=int)
    return TensorRt(**found, library=library, library_version=_library_version(library), builds=builds, said=said,
                    sms=tuple(sms))


def _mapped(name: str) -> str | None:
    """Return the path of the library ``name`` that this process has loaded."""
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        path = line.partition("/")[2]
        if path.rpartition("/")[2].startswith(name):
            return f"/{path}"
    return None


def _library_version(path: str | None) -> str | None:
    if path is None:
        return None
    library = ctypes.CDLL(path)
    parts = [getattr(library, f"getInferLib{part}Version", None) for part in ("Major", "Minor", "Patch", "Build")]
    return ".".join(str(part()) for part in parts if part) if all(parts) else None


def _build(trt: Any) -> tuple[bool, tuple[str, ...]]:
    """Build one ReLU; return whether that worked and the errors the logger was told."""
    said: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
                said.append(message)

    log = Log()
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # how the bindings say that the library gave no builder
        return False, (*said, str(error))
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    layer = network.add_activation(network.add_input("x", trt.float32, (1, 4)), trt.ActivationType.RELU)
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    config.builder_optimization_level = 0
    return builder.build_serialized_network(network, config) is not None, tuple(said)


def probe_driver() -> Driver:
    """Ask the CUDA driver for its first device, and for that device's primary context."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        missing = "cannot open shared object file" in str(error)
        return Driver(missing=missing, fault=None if missing else str(error))
    found: dict[str, Any] = {}
    try:
        _ask_driver(cuda, found)
    except _CudaError as error:
        found["fault"] = str(error)
    return Driver(**found)


class _CudaError(Exception):
    """A call into the driver failed."""


def _ask_driver(cuda: ctypes.CDLL, found: dict[str, Any]) -> None:
    """Fill ``found``, so that what was learnt before a failure is kept."""
    number, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()

    def call(name: str, *arguments: Any) -> None:
        code = getattr(cuda, name)(*arguments)
        if code:
            word = ctypes.c_char_p()
            cuda.cuGetErrorName(code, ctypes.byref(word))
            raise _CudaError(f"{name}: {(word.value or b'error').decode()} ({code})")

    call("cuDriverGetVersion", ctypes.byref(number))
    found["version"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(number))
    found["devices"] = number.value
    if not number.value:
        return
    call("cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), device)
    found["name"] = name.value.decode("utf-8", "replace")
    values = {}
    for attribute, code in _ATTRIBUTES.items():
        call("cuDeviceGetAttribute", ctypes.byref(number), code, device)
        values[attribute] = number.value
    found |= {"sm": f"{values['major']}.{values['minor']}", "sm_count": values["sm_count"],
              "integrated": bool(values["integrated"])}
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    found["context"] = True
    call("cuCtxPushCurrent_v2", context)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    found |= {"free": free.value, "total": total.value}
    # The process ends now and its context with it.


def probe_onnxruntime() -> OnnxRuntime:
    """Import ONNX Runtime and list its providers, none of them tried."""
    module = _import("onnxruntime")
    found = _package("onnxruntime", module)
    if not isinstance(module, ModuleType):
        return OnnxRuntime(**found)
    packages = sorted({entry.metadata["Name"] for entry in importlib.metadata.distributions()
                       if re.match(r"onnxruntime(-|_|$)", entry.metadata["Name"] or "")})
    return OnnxRuntime(**found, packages=tuple(packages),
                       providers=dict.fromkeys(module.get_available_providers(), None))


def probe_provider(name: str) -> str | None:
    """Run the smallest model with the provider ``name``; return why that failed, None when it worked."""
    runtime: Any = importlib.import_module("onnxruntime")
    numpy: Any = importlib.import_module("numpy")
    session = runtime.InferenceSession(_model(), providers=[name])  # its exceptions end the process: that is the answer
    if session.get_providers()[0] != name:
        return "a session falls back to another provider: a library that it needs cannot be loaded"
    session.run(None, {"x": numpy.zeros(1, numpy.float32)})
    return None


def probe_cv2() -> OpenCv:
    """Import OpenCV and read how it was built."""
    module = _import("cv2")
    found = _package("cv2", module)
    if not isinstance(module, ModuleType):
        return OpenCv(**found)
    built = dict(re.findall(r"^\s+(GStreamer|FFMPEG):\s+(YES|NO)\b", module.getBuildInformation(), re.MULTILINE))
    return OpenCv(**found, gstreamer=_yes(built.get("GStreamer")), ffmpeg=_yes(built.get("FFMPEG")))


def _yes(word: str | None) -> bool | None:
    return None if word is None else word == "YES"


def _distribution(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _later(module: str, name: str) -> Callable[..., object]:
    """Return a probe whose module is imported when it is called: each child loads what it needs and no more."""

    def probe(*arguments: str) -> object:
        found: object = getattr(importlib.import_module(f"agent.diagnosis.{module}"), name)(*arguments)
        return found

    return probe


PROBES: dict[str, Callable[..., object]] = {
    "tensorrt": lambda: probe_tensorrt("tensorrt", build=False),
    "tensorrt-build": lambda: probe_tensorrt("tensorrt", build=True),
    "tensorrt_rtx": lambda: probe_tensorrt("tensorrt_rtx", build=False),
    "tensorrt_rtx-build": lambda: probe_tensorrt("tensorrt_rtx", build=True),
    "driver": probe_driver,
    "pycuda": lambda: probe_package("pycuda", "pycuda.driver"),
    "onnxruntime": probe_onnxruntime,
    "provider": probe_provider,
    "onnx": lambda: probe_package("onnx"),
    "cv2": probe_cv2,
    "source": _later("probe_source", "probe_source"),
    "upstream": _later("probe_upstream", "probe_upstream"),
    **{name: _later("probe_box", f"probe_{name}") for name in ("disk", "model", "store", "sensors", "jtop")},
}


def main() -> None:
    """Run the probe that the arguments name and print what it found."""
    with suppress(OSError):  # where memory runs out, this process goes and not the agent beside it
        Path("/proc/self/oom_score_adj").write_text("1000", "utf-8")
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print on standard output is no answer
    found = PROBES[sys.argv[1]](*sys.argv[2:])
    os.write(answer, msgspec.json.encode(found) + b"\n")
    sys.stderr.flush()
    os._exit(0)  # no teardown: it is where half-broken drivers crash, after all is said


if __name__ == "__main__":
    main()
