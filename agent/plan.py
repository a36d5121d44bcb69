"""What is to be built for this box: a recipe, a runtime and limits, and the identity that follows from them."""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from agent import machine
from agent.building.child import Limits
from agent.building.forms import CPU, Form, Precision, Runtime, ladder
from agent.building.gate import Tolerance
from agent.building.identity import Parts, Platform, differences, recipe_sha256
from agent.building.jobs import CONVERSION
from agent.building.prepare import Prepared
from agent.building.recipe import Recipe
from agent.config import Config
from agent.errors import EngineError
from agent.fingerprint import platform
from agent.inference.onnxruntime import check_provider
from agent.loading import EngineFile

QUICK = 0
"""The builder's optimisation level of the quick tier."""
_CPU_SPEEDUP = 1.7
_QUICK_RUNS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be built, for what, and within which limits.

    Attributes:
        recipe: Which model.
        prepared: Its prepared form, the reference.
        platform: What the engine will run on.
        runtime: What runs the engine.
        provider: ONNX Runtime's execution provider; None = CPU.
        threads: CPU threads of one call; 0 = all cores but one.
        max_batch: Most frames in one call.
        precision: ``auto``, or the only one wanted.
        workspace: Most scratch memory a TensorRT layer may use, bytes.
        level: Optimisation level of TensorRT's builder; None = its default.
        memory: Cap on a child's resident memory, bytes.
        wall_s: Longest time a child may take.
        runs: Timed calls of each engine in a trial.
    """

    recipe: Recipe
    prepared: Prepared
    platform: Platform
    runtime: Runtime
    provider: str | None = None
    threads: int = 0
    max_batch: int = 1
    precision: Precision = "auto"
    workspace: int = 1 << 30
    level: int | None = None
    memory: int | None = None
    wall_s: float = 3600.0
    runs: int = 200

    @property
    def batch(self) -> int:
        """Most frames in one call that the model allows."""
        return self.max_batch if self.prepared.dynamic_batch else 1

    @property
    def on_tensorrt(self) -> bool:
        """Tell whether a plan is built, rather than an ONNX file optimised."""
        return self.runtime != "onnxruntime"

    @property
    def on_cpu(self) -> bool:
        """Tell whether the CPU runs the engine."""
        return self.runtime == "onnxruntime" and self.provider in {None, CPU}

    @property
    def parts(self) -> Parts:
        """What the engine's identity is made of."""
        return Parts(
            recipe=self.recipe.name, recipe_sha256=recipe_sha256(self.recipe), model_sha256=self.prepared.model_sha256,
            prepared=self.prepared.identity, conversion=CONVERSION, platform=self.platform, max_batch=self.batch,
            workspace=self.workspace if self.on_tensorrt else 0, level=self.level, precision=self.precision)

    @property
    def cannot_run(self) -> str:
        """Why engines can be built here but not run; empty when they can."""
        return "this machine has no CUDA device" if self.on_tensorrt and not self.platform.gpu else ""

    def file(self, path: Path, form: Form, max_batch: int = 0) -> EngineFile:
        """Return what it takes to load an engine of this plan."""
        return EngineFile(
            path=str(path), name=self.recipe.name, identity=self.parts.identity(form),
            model_sha256=self.prepared.model_sha256, form=form, runtime=self.runtime, provider=self.provider,
            threads=self.threads, max_batch=min(max_batch or self.batch, self.batch))

    @property
    def tolerance(self) -> Tolerance:
        """What the gate lets pass: the recipe's limits; INT8 on a CPU must be worth it."""
        gate = self.recipe.gate
        return gate if gate.speedup else msgspec.structs.replace(gate, speedup=_CPU_SPEEDUP if self.on_cpu else 1.0)

    def limits(self, nice: int = 10) -> Limits:
        """Return what a child may take."""
        return Limits(wall_s=self.wall_s, memory_bytes=self.memory, nice=nice)

    def quick(self) -> "Plan":
        """Return the plan of the quick tier: built as fast as the builder can."""
        return replace(self, level=QUICK, runs=_QUICK_RUNS)

    @property
    def quick_forms(self) -> tuple[Form, ...]:
        """The forms of the quick tier: float ones, for they need no calibration."""
        return tuple(form for form in ladder(self.runtime, self.provider, self.precision) if form.precision != "int8")


def misfit(parts: Parts) -> list[str]:
    """Return in words why an engine of these parts does not fit this machine; empty when it does."""
    try:
        return differences(parts, _as_here(parts))
    except EngineError as error:
        return [f"cannot be told: {error.what}"]


def may_fit(parts: Parts) -> bool:
    """Tell whether an engine fits, or it cannot be told now: a runtime that is not installed, a GPU nobody may ask."""
    try:
        return not differences(parts, _as_here(parts))
    except EngineError:
        return True


def _as_here(parts: Parts) -> Parts:
    """Return the parts with this machine's platform in them.

    Raises:
        EngineError: it cannot be told, for something that was there when the engine was built cannot be asked.
    """
    kind = parts.platform.runtime.partition(" ")[0]
    runtime: Runtime = "tensorrt" if kind == "tensorrt" else "tensorrt_rtx" if kind == "tensorrt_rtx" else "onnxruntime"
    here = platform(runtime, parts.platform.provider or None, parts.platform.threads)
    for key, what in (("gpu", "the GPU"), ("power_mode", "the power mode"), ("l4t", "Jetson Linux")):
        if getattr(parts.platform, key) and not getattr(here, key):
            raise EngineError(f"{what} cannot be asked here ({getattr(parts.platform, key)} when it was built)",
                              "`vedette doctor` says more")
    return msgspec.structs.replace(parts, platform=here, conversion=CONVERSION)


def plan_for(config: Config, recipe: Recipe, prepared: Prepared) -> Plan:
    """Return the plan that the configuration asks for, on this machine.

    Raises:
        EngineError: the runtime is not installed, or has not the provider.
    """
    if config.engine.runtime == "onnxruntime" and config.engine.provider:
        check_provider(config.engine.provider)
    engine, build = config.engine, config.build
    memory = machine.memory()
    return Plan(
        recipe=recipe, prepared=prepared, platform=platform(engine.runtime, engine.provider, engine.threads),
        runtime=engine.runtime, provider=engine.provider, threads=engine.threads, max_batch=engine.max_batch,
        precision=engine.precision, workspace=int(build.workspace), level=build.level, wall_s=build.wall,
        memory=int(build.memory) if build.memory else memory.total * 3 // 4 if memory else None)
