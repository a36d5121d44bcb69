"""Gather the facts of this box. Each library is looked at by a child of its own: that it crashes or hangs is a fact."""

import importlib.machinery
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent import machine
from agent.building.recipe import Recipe, find_recipe, recipe_folders
from agent.config import DEFAULT_PATH, Config
from agent.diagnosis.asking import Asker
from agent.diagnosis.becoming import service_user
from agent.diagnosis.facts import Driver, Facts, Machine, OnnxRuntime, OpenCv, Package, StateDirectory, TensorRt, Wanted
from agent.diagnosis.gather_around import gather_around
from agent.diagnosis.running import ask_agent
from agent.diagnosis.service import gather_service
from agent.errors import AgentError, ConfigError

TIMEOUT_S = 30.0
# On a board the builder of TensorRT 10.3 has been reported to take 2 GB before any layer: see docs/doctor.md.
BUILD_MEMORY = 2_500_000_000
_T = TypeVar("_T")


def gather(config: Config | ConfigError, file: Path | None, *, state_dir: Path | None = None,
           left: Config | None = None, looking: Callable[[str], None] = lambda _: None, root: Path = machine.ROOT,
           timeout_s: float = TIMEOUT_S) -> Facts:
    """Return what is known about this box; takes seconds, minutes where much hangs.

    Args:
        config: The configuration, or why there is none.
        file: Where it was read from; None = defaults.
        state_dir: Instead of the configuration's.
        left: What of a configuration that cannot be used tells where its agent is.
        looking: Told what is being looked at.
        root: What stands for ``/``.
        timeout_s: Longest time for one library.
    """
    usable = config if isinstance(config, Config) else left or Config()
    folder = state_dir or usable.state_dir
    box = _machine(root)
    ask = _Asker(looking, timeout_s, root, service_user())
    driver = ask("driver", Driver, lambda fault: Driver(fault=fault))
    roomy = box.memory_available is None or box.memory_available >= BUILD_MEMORY
    own = file in {None, DEFAULT_PATH} or usable.socket_path == Config().socket_path
    running, snapshot = ask_agent(usable.socket_path, service=own)
    runtimes = [ask.package(name, f"{name}-build" if driver.usable and roomy else name, TensorRt)
                for name in ("tensorrt", "tensorrt_rtx")]
    state, known = _state_directory(folder), config if isinstance(config, Config) else None
    service = gather_service(known, file, folder, running, root)
    around = gather_around(usable, folder, ask, running, snapshot, usable=known is not None, free=state.free, root=root)
    return Facts(
        machine=box, wanted=_wanted(config, file, folder, ask), state=state, driver=driver, around=around,
        service=service, pycuda=ask.package("pycuda", "pycuda", Package),
        tensorrt=runtimes[0], tensorrt_rtx=runtimes[1],
        onnxruntime=_providers(ask, ask.package("onnxruntime", "onnxruntime", OnnxRuntime)),
        onnx=ask.package("onnx", "onnx", Package), cv2=ask.package("cv2", "cv2", OpenCv))


class _Asker(Asker):
    """Runs probes, those of packages above all."""

    def package(self, module: str, probe: str, kind: type[_T]) -> _T:
        """Look at a package, and for further copies of it."""
        found: Any = self(probe, kind, lambda fault: kind(module=module, fault=fault))  # type: ignore[call-arg]
        first = found.file or next(iter(copies(module, sys.path)), None)
        others = tuple(path for path in (*copies(module, sys.path), *copies(module, system_places(self._root)))
                       if not _same(path, first))
        answer: _T = msgspec.structs.replace(found, file=first, others=tuple(dict.fromkeys(others)))
        return answer


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
        return StateDirectory(path=str(folder), fault=f"cannot be looked at: {error.strerror}", unsure=True,
                              remedy="run this as the agent's user, or check the owner and mode of its parents")
    fault = (f"{there} is no directory" if not there.is_dir() else
             None if os.access(there, os.W_OK | os.X_OK) else
             f"{'it' if there == folder else there} cannot be written to by this user")
    return StateDirectory(path=str(folder), free=free, fault=fault, unsure=there.is_dir(), remedy=(
        "run this as the agent's user, or set [device] state_dir to a directory that it may write to" if fault else ""))


def _wanted(config: Config | ConfigError, file: Path | None, state_dir: Path, ask: Asker) -> Wanted:
    name = str(file) if file else None
    if isinstance(config, ConfigError):
        return Wanted(file=name, fault=config.what, remedy=config.remedy,
                      unsure=isinstance(config.__cause__, PermissionError))
    engine = config.engine
    asked = Wanted(file=name, recipe=engine.recipe, runtime=engine.runtime, provider=engine.provider)
    try:
        recipe = find_recipe(engine.recipe, recipe_folders(config.own_recipes))
        return msgspec.structs.replace(asked, model=_model(recipe, state_dir, ask))
    except AgentError as error:
        return msgspec.structs.replace(asked, fault=error.what, remedy=error.remedy)


def _model(recipe: Recipe, state_dir: Path, ask: Asker) -> str:
    if recipe.needs_model:
        return "needs your model"
    ready = ask("model", bool, lambda _: False, str((state_dir / "engines" / recipe.name).absolute()),
                recipe.model.sha256 or "", str(recipe.own_model.absolute() if recipe.own_model else ""), words="model")
    return "ready" if ready else "needs preparing"
