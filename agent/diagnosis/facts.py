"""The facts about a box that its diagnosis is made from. What is not known is None; nothing here is a judgement."""

import msgspec

from agent.diagnosis.around import Around
from agent.diagnosis.service_facts import Service


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One Python package, as a child process met it.

    Attributes:
        module: Name it is imported by.
        missing: There is none on the module path.
        fault: Why it is there and yet cannot be used: its import error, or how the child that imported it ended.
        file: Where it was imported from.
        version: Its own word.
        others: Further copies: behind the first one on the module path, or the system's that this Python does not see.
    """

    module: str
    missing: bool = False
    fault: str | None = None
    file: str | None = None
    version: str | None = None
    others: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """It was imported."""
        return not self.missing and self.fault is None


class TensorRt(Package, frozen=True, kw_only=True):
    """TensorRT or TensorRT-RTX.

    Attributes:
        library: The shared library behind the module, its path.
        library_version: Four parts, as the library itself says; None where it does not.
        builds: A network of one layer could be built for this machine; None = not tried.
        said: What the runtime's logger reported as errors meanwhile.
        sms: Compute capabilities that the bindings list, "86"; empty where they list none.
    """

    library: str | None = None
    library_version: str | None = None
    builds: bool | None = None
    said: tuple[str, ...] = ()
    sms: tuple[str, ...] = ()


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """The CUDA driver and its first device, asked through the driver's own library.

    Attributes:
        missing: There is no ``libcuda.so.1``.
        fault: What failed, with the driver's word for it, or how the child that asked ended.
        version: The newest CUDA it can serve, "12.6".
        devices: How many there are.
        sm: Compute capability of the first, "8.7".
        sm_count: Its multiprocessors.
        integrated: It shares its memory with the processor (Jetson).
        context: Its primary context could be retained.
        free: Device memory in bytes, free and (``total``) in all.
    """

    missing: bool = False
    fault: str | None = None
    version: str | None = None
    devices: int | None = None
    name: str | None = None
    sm: str | None = None
    sm_count: int | None = None
    integrated: bool | None = None
    context: bool = False
    free: int | None = None
    total: int | None = None

    @property
    def usable(self) -> bool:
        """There is a device and work can be given to it."""
        return self.fault is None and self.context


class OnnxRuntime(Package, frozen=True, kw_only=True):
    """ONNX Runtime.

    Attributes:
        packages: Installed distributions that all bring this module.
        providers: What it lists, each with the reason why a session with it failed, or None where that worked.
    """

    packages: tuple[str, ...] = ()
    providers: dict[str, str | None] = {}


class OpenCv(Package, frozen=True, kw_only=True):
    """OpenCV. ``gstreamer`` and ``ffmpeg``: built with it; None where it does not say."""

    gstreamer: bool | None = None
    ffmpeg: bool | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The box and its Python. Sizes are bytes; ``isolated`` = a virtual environment that hides system packages."""

    architecture: str
    python: str
    prefix: str
    isolated: bool
    jetson: bool = False
    board: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None
    cpu: str | None = None
    memory_total: int | None = None
    memory_available: int | None = None


class StateDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """The state directory. ``fault``: why nothing can be kept there; ``free``: bytes on its disk.

    ``unsure``: the fault is that of whoever asks; another user may well write there.
    """

    path: str
    free: int | None = None
    fault: str | None = None
    remedy: str = ""
    unsure: bool = False


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration asks for.

    Attributes:
        file: The configuration that was read; None = defaults.
        fault: Why configuration or recipe cannot be used; ``remedy`` how to mend it.
        unsure: Whoever asks may not read the configuration; the service may.
        model: "ready", "needs preparing" or "needs your model"; None where the recipe cannot be used.
    """

    file: str | None = None
    recipe: str = ""
    runtime: str = "onnxruntime"
    provider: str | None = None
    model: str | None = None
    fault: str | None = None
    remedy: str = ""
    unsure: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All of them. ``around`` and ``service`` None: they were not looked at."""

    machine: Machine
    wanted: Wanted
    state: StateDirectory
    driver: Driver
    pycuda: Package
    tensorrt: TensorRt
    tensorrt_rtx: TensorRt
    onnxruntime: OnnxRuntime
    onnx: Package
    cv2: OpenCv
    around: Around | None = None
    service: Service | None = None
