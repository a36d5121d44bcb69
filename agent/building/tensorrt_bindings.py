"""NVIDIA's Python bindings, ``tensorrt`` or ``tensorrt_rtx``, made safe to talk to: import, logger, progress.

TensorRT says what went wrong only in its log, and answers with None. So the log is kept, and every error shown to a
person carries its last words with a remedy where we know one. Nothing here runs before :func:`load_bindings` is called.
"""

import importlib
import re
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

from agent.building.child import Cancelled, Report
from agent.errors import EngineError, ModelError

Runtime = Literal["tensorrt", "tensorrt_rtx"]

# The libraries and the bindings come as packages of their own; the package that joins them is optional.
_MODULES = {"tensorrt": ("tensorrt", "tensorrt_bindings"), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_SYSTEM = ("take JetPack's own TensorRT: `apt install python3-libnvinfer`, and make the venv for the system's Python "
           "with --system-site-packages")
_SBSA = f"On JetPack 6 `pip uninstall tensorrt`, then {_SYSTEM}"
_GET = {
    "tensorrt": f"on a Jetson {_SYSTEM}; elsewhere set [engine] runtime to another one",
    "tensorrt_rtx": "install vedette with its extra: `pip install -e '.[rtx]'` in its checkout",
}
_KEPT = 40  # errors and warnings each, the last ones: the cause is among the last words before a None
_SHOWN = 300  # characters of one message

_REMEDIES = (
    # pip's `tensorrt` for aarch64 is made for Arm servers and, until JetPack 7.2, knows no Jetson GPU.
    (r"SM \d+ is not supported by this TensorRT",
     f"this TensorRT was not made for this GPU: `pip install tensorrt` brings the build for Arm servers. {_SBSA}"),
    (r"cudaError(NoDevice| 100\b)|no CUDA-capable device|CUDA initialization failure|driver version is insufficient",
     "check that the GPU's driver is loaded and not older than this TensorRT needs"),
    (r"within workspace limit|insufficient workspace|OutOfMemory|out of memory",
     "raise [build] workspace, choose a smaller [input] size, or end other programs that hold this memory"),
    (r"must have type FP8|zeroPoint|zero point|output types for operation: dequantize",
     "this TensorRT cannot build this kind of quantisation: build another form (--precision fp16)"),
    (r"Plugin not found|UNSUPPORTED_NODE|No importer registered|unsupported",
     "this TensorRT lacks that operator: export the model without it, or set [engine] runtime = onnxruntime"),
    (r"not registered|MODEL_DESERIALIZE_FAILED|null tensor|INVALID_GRAPH",
     "the file is damaged or badly exported: fetch or export it anew"),
)
_WORKSPACE = re.compile(r"within workspace limit|insufficient workspace|OutOfMemory|out of memory", re.IGNORECASE)
_LAYER = re.compile(r"^Name: .*LayerType: ")
_INPUT_TYPE = re.compile(r"Inputs: \[ *\{.*?Datatype: ([^,}]*)")
_COMPUTES = re.compile(r"LayerType: \w*(corr|conv|gemm|fusion)", re.IGNORECASE)
_ONNX_NAMES = re.compile(r"\[ONNX Layer: ([^\]\x1e]+)")
_WORDED = (("int8", "Int8"), ("fp16", "Half"), ("half", "Half"), ("fp32", "Float"), ("float", "Float"),
           ("bf16", "BFloat16"))


def load_bindings(runtime: Runtime) -> Any:
    """Return the imported module of ``runtime``.

    Raises:
        EngineError: it is not installed, or its libraries cannot be loaded; with how to get it.
    """
    problems: list[str] = []
    for name in _MODULES[runtime]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                problems.append(f"{name}: {error}")
        except (ImportError, OSError, RuntimeError) as error:  # a library is missing, or made for another driver
            problems.append(f"{name}: {error}")
        else:
            if hasattr(module, "Builder"):
                return module
            problems.append(f"{name}: holds no Builder ({getattr(module, '__file__', None) or 'a bare folder'})")
    what = f"cannot be imported: {problems[-1]}" if problems else "is not installed for this Python"
    raise EngineError(f"{runtime} {what}", _GET[runtime])


class Log:
    """What the library said since :meth:`clear`. Its threads call :meth:`add`, which never raises.

    Attributes:
        errors: The last error messages.
        warnings: The last warnings.
        layers: Of each layer of a finished plan its text; only filled when TensorRT is told to print them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.errors: deque[str] = deque(maxlen=_KEPT)
            self.warnings: deque[str] = deque(maxlen=_KEPT)
            self.layers: list[str] = []
            self._heard: list[str] | None = None

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Give a list that gets the errors and warnings of the block, as they come."""
        heard: list[str] = []
        self._heard = heard
        try:
            yield heard
        finally:
            self._heard = None

    def add(self, level: int, message: object) -> None:
        """Keep one message; ``level`` as in ILogger.Severity: 0 and 1 errors, 2 warning, 3 info, 4 verbose."""
        text = str(message)
        with self._lock:
            if level <= 2 and self._heard is not None:
                self._heard.append(text)
            if level <= 1:
                self.errors.append(text)
            elif level == 2:
                self.warnings.append(text)
            elif "LayerType: " in text:
                self.layers += [line for line in text.splitlines() if _LAYER.match(line)]

    def out_of_workspace(self) -> bool:
        """Tell whether a build failed for want of memory, which a smaller batch may cure."""
        return any(_WORKSPACE.search(text) for text in self.errors)

    def cancelled(self) -> bool:
        """Tell whether the builder says that it was stopped on demand."""
        return any("BuildCanceled" in text or "cancelled by user" in text.lower() for text in self.errors)

    def failed(self, what: str, details: list[str] | None = None) -> ModelError:
        """Return the error to raise: ``what``, then ``details`` or else the last words of the log, then a remedy."""
        # Newest first: the last message comes from what failed, earlier ones may be about what was done without.
        said = details or list(self.errors)[:-4:-1] or list(self.warnings)[:-3:-1]
        words = "; ".join(dict.fromkeys(" ".join(text.split())[:_SHOWN] for text in said))
        candidates = [*said, *self.errors]
        remedy = next((mend for text in candidates for pattern, mend in _REMEDIES
                       if re.search(pattern, text, re.IGNORECASE)),
                      "build another form (--precision), or set [engine] runtime = onnxruntime")
        return ModelError(f"{what}: {words or 'its log is silent about it'}", remedy)

    def heeded(self) -> list[str]:
        """Return errors and warnings that did not stop the build, each once, shortened, the errors first."""
        return list(dict.fromkeys(" ".join(text.split())[:_SHOWN] for text in [*self.errors, *self.warnings]))

    def inputs_at(self, convolutions: set[str]) -> dict[str, int] | None:
        """Count the types of the first inputs of the layers that hold ``convolutions``.

        TensorRT fuses layers; a built layer names the nodes of the ONNX file it stands for. A convolution that no
        layer names is counted as ``unknown``.

        Args:
            convolutions: Names of nodes of the ONNX file.

        Returns:
            Number of convolutions by type, for example ``{"Int8": 26, "Half": 2}``; None when nothing was printed.
        """
        if not self.layers:
            return None
        kinds: dict[str, str] = {}
        # Layers that only quantise before or add the bias behind name the convolution, too: those that compute win.
        for line in sorted(self.layers, key=lambda line: bool(_COMPUTES.search(line))):
            if found := _INPUT_TYPE.search(line):
                for name in convolutions & set(_ONNX_NAMES.findall(line)):
                    kinds[name] = _type_name(found[1])
        return dict(Counter(kinds.get(name, "unknown") for name in convolutions))


def _type_name(printed: str) -> str:
    """Return one word for a type that versions print as ``Int8`` or as ``Row major Int8 format``."""
    lowered = printed.lower()
    return next((word for part, word in _WORDED if part in lowered), printed.strip())


@cache
def logger_of(trt: Any) -> tuple[Any, Log]:
    """Return this process's logger for ``trt`` and where it writes.

    TensorRT keeps the first logger it sees for as long as the process lives and ignores every later one.
    """
    log = Log()

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: Any) -> None:  # an exception here would end the process
            log.add(int(severity), msg)

    return Logger(), log


class Progress:
    """From TensorRT's nested phases one number that never falls: thousandths of the whole.

    A phase's share is that of the step of its parent during which it runs; steps count alike. What ``report`` raises
    (a parent process that is gone, say) must not reach the library's threads: it is kept in ``failure`` and stops the
    build.
    """

    def __init__(self, what: str, report: Report, cancelled: Cancelled) -> None:
        self._what, self._report, self._cancelled = what, report, cancelled
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[str | None, int]] = {}
        self._done: Counter[str] = Counter()
        self._shown = -1
        self.steps = 0
        self.failure: OSError | ValueError | None = None

    def begin(self, phase: str, parent: str | None, total: int) -> None:
        """A phase of ``total`` steps starts within ``parent``."""
        with self._lock:
            self._phases[phase] = (parent, max(total, 1))
            self._done[phase] = 0

    def finish(self, phase: str) -> None:
        """A phase ends, whether all its steps were seen or not."""
        with self._lock:
            self._phases.pop(phase, None)

    def step(self, phase: str, index: int) -> bool:
        """Step ``index`` (from 0) of ``phase`` is done; False = stop the build."""
        with self._lock:
            self.steps += 1
            self._done[phase] = max(self._done[phase], index + 1)
            # The end is not shown before the plan is written.
            share = min(int(1000 * max((self._share(name) for name, (parent, _) in self._phases.items()
                                        if parent not in self._phases), default=0.0)), 999)
            try:
                if share > self._shown:
                    self._shown = share
                    self._report(self._what, share, 1000)
                return not (self.failure or self._cancelled())
            except (OSError, ValueError) as error:
                self.failure = error
                return False

    def _share(self, phase: str) -> float:
        below = sum(self._share(name) for name, (parent, _) in self._phases.items() if parent == phase)
        return min((self._done[phase] + min(below, 1.0)) / self._phases[phase][1], 1.0)


def monitor_of(trt: Any, progress: Progress) -> Any:
    """Return an IProgressMonitor that feeds ``progress``, or None for a TensorRT without that class."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.begin(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

    return Monitor()
