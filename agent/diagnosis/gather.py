"""Gather the facts of this box. Each library is looked at by a child of its own: that it crashes or hangs is a fact."""

import importlib.machinery
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent import machine
from agent.atomic import sha256_of
from agent.building.prepare import prepared_models
from agent.building.recipe import Recipe, find_recipe, recipe_folders
from agent.config import Config
from agent.diagnosis.facts import Driver, Facts, Machine, OnnxRuntime, OpenCv, Package, StateDirectory, TensorRt, Wanted
from agent.errors import AgentError, ConfigError

TIMEOUT_S = 30.0
# On a board the builder of TensorRT 10.3 has been reported to take 2 GB before any layer: see docs/doctor.md.
BUILD_MEMORY = 2_500_000_000
_T = TypeVar("_T")


def gather(config: Config | ConfigError, file: Path | None, *, state_dir: Path | None = None,
           looking: Callable[[str], None] = lambda _: None, root: Path = machine.ROOT,
           timeout_s: float = TIMEOUT_S) -> Facts:
    """Return what is known about this box; takes seconds.

    Args:
        config: The configuration, or why there is none.
        file: Where it was read from; None = defaults.
        state_dir: Instead of the configuration's.
        looking: Told what is being looked at.
        root: What stands for ``/``.
        timeout_s: Longest time for one library.
    """
    usable = config if isinstance(config, Config) else Config()
    folder = state_dir or usable.state_dir
    box = _machine(root)
    ask = _Asker(looking, timeout_s, root)
    driver = ask("driver", Driver, lambda fault: Driver(fault=fault))
    roomy = box.memory_available is None or box.memory_available >= BUILD_MEMORY
    runtimes = [ask.package(name, f"{name}-build" if driver.usable and roomy else name, TensorRt)
                for name in ("tensorrt", "tensorrt_rtx")]
    return Facts(
        machine=box, wanted=_wanted(config, file, folder), state=_state_directory(folder), driver=driver,
        pycuda=ask.package("pycuda", "pycuda", Package), tensorrt=runtimes[0], tensorrt_rtx=runtimes[1],
        onnxruntime=_providers(ask, ask.package("onnxruntime", "onnxruntime", OnnxRuntime)),
        onnx=ask.package("onnx", "onnx", Package), cv2=ask.package("cv2", "cv2", OpenCv))


class _Asker:
    """Runs probes."""

    def __init__(self, looking: Callable[[str], None], timeout_s: float, root: Path) -> None:
        self._looking, self._timeout_s, self._root = looking, timeout_s, root

    def __call__(self, probe: str, kind: type[_T], failed: Callable[[str], _T], *arguments: str) -> _T:
        self._looking(" ".join((probe, *arguments)))
        command = [sys.executable, "-m", "agent.diagnosis.probe", probe, *arguments]
        reply = machine.ask(command, self._timeout_s)
        if reply is None:
            return failed("no process could be started for it")
        if reply.code != 0:
            return failed(how_it_ended(reply, self._timeout_s))
        try:
            return msgspec.json.decode(reply.out, type=kind)
        except msgspec.DecodeError as error:
            return failed(f"its process gave no answer ({error})")

    def package(self, module: str, probe: str, kind: type[_T]) -> _T:
        """Look at a package, and for further copies of it."""
        found: Any = self(probe, kind, lambda fault: kind(module=module, fault=fault))  # type: ignore[call-arg]
        first = found.file or next(iter(copies(module, sys.path)), None)
        others = tuple(path for path in (*copies(module, sys.path), *copies(module, system_places(self._root)))
                       if not _same(path, first))
        answer: _T = msgspec.structs.replace(found, file=first, others=tuple(dict.fromkeys(others)))
        return answer


def how_it_ended(reply: machine.Reply, timeout_s: float) -> str:
    """Say in a few words how a child without an answer ended: its limit, its signal, or its last exception."""
    if reply.code is None:
        return f"it hangs: no answer within {timeout_s:g} s"
    lines = [line for line in reply.err.splitlines() if line.strip()]
    if reply.code == -signal.SIGKILL:
        return "SIGKILL ended the process that looked at it: perhaps the memory ran out"
    if reply.code < 0:
        try:
            name = signal.Signals(-reply.code).name
        except ValueError:
            name = f"signal {-reply.code}"
        return f"it crashes: {name} ended the process that looked at it"
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback ")]
    after = [line for line in lines[starts[-1] + 1:] if not line.startswith(" ")] if starts else lines[-1:]
    return after[0] if after else f"its process ended with exit code {reply.code}"


def copies(module: str, folders: Sequence[str]) -> list[str]:
    """Return where in ``folders`` there is a package or an extension module called ``module``, in their order."""
    endings = ("", ".py", *importlib.machinery.EXTENSION_SUFFIXES)
    found = [Path(folder or ".", module + ending) for folder in folders for ending in endings]
    return [str(path / "__init__.py" if path.is_dir() else path) for path in found
            if path.is_file() or (path / "__init__.py").is_file()]


def system_places(root: Path) -> list[str]:
    """Return the folders in which Debian and Ubuntu keep packages for their own Python."""
    return [str(path) for path in sorted(root.glob("usr/lib/python3*/dist-packages"))]


def _same(path: str, first: str | None) -> bool:
    return first is not None and Path(path).resolve().parent == Path(first).resolve().parent


def _providers(ask: _Asker, found: OnnxRuntime) -> OnnxRuntime:
    tried: dict[str, str | None] = {}
    for name in found.providers:
        if name != "AzureExecutionProvider":  # it calls servers and computes nothing here
            tried[name] = ask("provider", str | None, lambda fault: fault, name)  # type: ignore[arg-type]
    return msgspec.structs.replace(found, providers=tried)


def _machine(root: Path) -> Machine:
    release, memory, mode, cpu = machine.l4t(root), machine.memory(root), machine.power_mode(), machine.cpu_model(root)
    return Machine(
        architecture=machine.architecture(), python=platform.python_version(), prefix=sys.prefix, isolated=_isolated(),
        jetson=machine.is_jetson(root), board=machine.board(root), l4t=release, jetpack=machine.jetpack(release),
        power_mode=str(mode) if mode else None, cpu=str(cpu) if cpu else None,
        memory_total=memory.total if memory else None, memory_available=memory.available if memory else None)


def _isolated() -> bool:
    """Tell whether this Python is of a virtual environment that hides the system's packages."""
    try:
        text = Path(sys.prefix, "pyvenv.cfg").read_text("utf-8")
    except OSError:
        return False
    return "include-system-site-packages=true" not in text.replace(" ", "").lower()


def _state_directory(folder: Path) -> StateDirectory:
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
    except OSError as error:
        return StateDirectory(path=str(folder), fault=f"cannot be looked at: {error.strerror}",
                              remedy="run this as the agent's user, or check the owner and mode of its parents")
    fault = (f"{there} is no directory" if not there.is_dir() else
             None if os.access(there, os.W_OK | os.X_OK) else
             f"{'it' if there == folder else there} cannot be written to by this user")
    return StateDirectory(path=str(folder), free=free, fault=fault, remedy=(
        "run this as the agent's user, or set [device] state_dir to a directory that it may write to" if fault else ""))


def _wanted(config: Config | ConfigError, file: Path | None, state_dir: Path) -> Wanted:
    name = str(file) if file else None
    if isinstance(config, ConfigError):
        return Wanted(file=name, fault=config.what, remedy=config.remedy)
    engine = config.engine
    asked = Wanted(file=name, recipe=engine.recipe, runtime=engine.runtime, provider=engine.provider)
    try:
        recipe = find_recipe(engine.recipe, recipe_folders(config.own_recipes))
        return msgspec.structs.replace(asked, model=_model(recipe, state_dir))
    except AgentError as error:
        return msgspec.structs.replace(asked, fault=error.what, remedy=error.remedy)


def _model(recipe: Recipe, state_dir: Path) -> str:
    if recipe.needs_model:
        return "needs your model"
    wanted = recipe.model.sha256
    if wanted is None and recipe.own_model is not None:
        try:
            wanted = sha256_of(recipe.own_model)
        except OSError:
            return "needs preparing"
    ready = any(prepared.model_sha256 == wanted for prepared in prepared_models(recipe, state_dir))
    return "ready" if ready else "needs preparing"
