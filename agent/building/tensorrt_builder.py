"""From a strongly typed ONNX file to a TensorRT plan: one path for ``tensorrt`` 10.x and 11.x and ``tensorrt_rtx``.

Runs in a child process of its own: the builder takes about a gigabyte and may be killed for it, which must not take
the agent along. Precision is in the ONNX file, so no precision flag is set. What a version may lack is asked for by
name (``hasattr``), never by version number; numbers of flags differ between versions and are never written down.
"""

import glob
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec

from agent.atomic import replacing
from agent.building.child import Cancelled, Report
from agent.building.tensorrt_bindings import Progress, Runtime, load_bindings, logger_of, monitor_of
from agent.building.tensorrt_timing import timing_cache
from agent.errors import EngineError, ModelError

__all__ = ["BuildSettings", "Built", "build", "clear_scraps", "load_bindings"]

_OLD = "JetPack 6 or newer brings one that fits; TensorRT 8 and JetPack 5 are out of scope"


class BuildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a plan is built.

    Attributes:
        runtime: ``tensorrt`` or ``tensorrt_rtx``.
        max_batch: Most frames in one call; 1 makes a plan of fixed shape, the fastest for one frame.
        workspace: Most bytes of scratch memory a layer may use; always set, for TensorRT's default is all there is.
        level: Optimisation level, 0 (quick) to 5 (thorough); None = TensorRT's own choice.
        timing_cache: File of measured layer times, made where missing; the caller keeps one for each TensorRT, GPU and
            power mode. None = none.
        verbose: Look into the built plan and fill ``Built.inputs_at``; costs time and memory.
    """

    runtime: Runtime
    max_batch: Annotated[int, msgspec.Meta(ge=1)]
    workspace: Annotated[int, msgspec.Meta(ge=1)]
    level: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    timing_cache: str | None = None
    verbose: bool = False


class Built(msgspec.Struct, frozen=True, kw_only=True, tag="built"):
    """What came out.

    Attributes:
        bytes: Size of the file.
        seconds: Wall time of the build.
        steps: Steps that the builder counted; 0 when it counts none.
        max_batch: Most frames in one call; lower than asked when the workspace was too small, 1 for a model of fixed
            batch, 0 where the engine has no limit of its own (ONNX Runtime with a symbolic batch).
        workspace: As asked, bytes; 0 where there is no such limit.
        runtime: The builder with its version, for example ``tensorrt 10.3.0``.
        inputs_at: Number of convolutions by the type of their input in the built plan, for example ``{"Int8": 26,
            "Half": 2}``; None when it was not asked for or the builder does not print it.
        warnings: What the builder complained about without failing.
    """

    bytes: int
    seconds: float
    steps: int
    max_batch: int
    workspace: int
    runtime: str
    inputs_at: dict[str, int] | None = None
    warnings: list[str] = []


def build(onnx_path: Path, target: Path, settings: BuildSettings, *, report: Report, cancelled: Cancelled) -> Built:
    """Build ``onnx_path`` and write the plan to ``target`` in one piece.

    When the workspace does not suffice the largest batch is halved, down to 1.

    Args:
        onnx_path: Strongly typed: what it says about types is what is built. One input, uint8 NHWC; its batch fixed
            or symbolic, its other sizes fixed.
        target: The plan; its folder exists.
        settings: See there.
        report: Called from TensorRT's threads with ``building …``, thousandths done and 1000; never falls within one
            phase.
        cancelled: Asked after each step; True ends the build.

    Returns:
        What was built.

    Raises:
        ModelError: the runtime is not installed; the file cannot be built, with TensorRT's own words; it was cancelled;
            the plan cannot be written.
    """
    started = time.monotonic()
    try:
        trt = load_bindings(settings.runtime)
    except EngineError as error:
        raise ModelError(error.what, error.remedy) from error
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise ModelError(f"{settings.runtime} {trt.__version__} knows no strongly typed networks", _OLD)
    if not onnx_path.is_file() or not onnx_path.stat().st_size:
        raise ModelError(f"{onnx_path}: missing or empty", "fetch or convert the model anew")
    clear_scraps(target)
    batch, steps = settings.max_batch, 0
    while True:
        attempt = _Attempt(trt, onnx_path, settings, batch)
        plan = attempt.run(report, cancelled)
        steps += attempt.steps
        if plan is not None:
            break
        batch = attempt.batch // 2
    try:
        with replacing(target) as file:
            file.write(plan)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error.strerror}", "make room on that disk") from error
    report(attempt.phase, 1000, 1000)
    lowered: list[str] = []
    if attempt.batch < settings.max_batch and not attempt.fixed:
        lowered.append(f"max_batch lowered from {settings.max_batch} to {attempt.batch}: a workspace of "
                       f"{_mib(settings.workspace)} is too small for more")
    return Built(
        bytes=plan.nbytes, seconds=time.monotonic() - started, steps=steps, max_batch=attempt.batch,
        workspace=settings.workspace, runtime=f"{settings.runtime} {trt.__version__}",
        inputs_at=attempt.inputs_at(), warnings=[*lowered, *attempt.warnings, *attempt.said.heeded()])


def clear_scraps(target: Path) -> None:
    """Delete what killed builds of ``target`` left beside it; the caller lets one build at a time write there."""
    for scrap in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        scrap.unlink(missing_ok=True)


class _Attempt:
    """One build with one largest batch. TensorRT may change a network while it builds, so each attempt parses anew."""

    def __init__(self, trt: Any, path: Path, settings: BuildSettings, batch: int) -> None:
        self.trt, self.path, self.settings, self.batch = trt, path, settings, batch
        self.logger, self.said = logger_of(trt)
        self.said.clear()
        self.phase = "building"
        self.fixed = False
        self.steps = 0
        self.warnings: list[str] = []
        self._convolutions: set[str] = set()

    def run(self, report: Report, cancelled: Cancelled) -> Any | None:
        """Return the plan (a buffer with ``nbytes``), or None when a smaller batch may help.

        Raises:
            ModelError: it failed for good, or was cancelled.
        """
        name, trt = self.path.name, self.trt
        try:
            builder = trt.Builder(self.logger)
        except (TypeError, RuntimeError) as error:  # the library gave NULL: no driver, no device, another SM
            raise self.said.failed(f"{name}: TensorRT's builder does not start ({error})") from error
        network = self._whole(builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)),
                              "create_network")
        parser = self._whole(trt.OnnxParser(network, self.logger), "OnnxParser")
        self._parse(parser, network)
        config = self._whole(builder.create_builder_config(), "create_builder_config")
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.settings.workspace)
        if self.settings.level is not None:
            config.builder_optimization_level = self.settings.level
        if self.settings.verbose:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._shape(builder, network, config)
        progress = Progress(self.phase, report, cancelled)
        monitor = monitor_of(trt, progress)
        if monitor is not None:
            config.progress_monitor = monitor
        if cancelled():
            raise _cancelled(name)
        with timing_cache(config, self.settings.timing_cache, self.said, self.warnings):
            plan = builder.build_serialized_network(network, config)
        self.steps = progress.steps
        return self._judged(plan, progress, cancelled)

    def _judged(self, plan: Any | None, progress: Progress, cancelled: Cancelled) -> Any | None:
        name = self.path.name
        if progress.failure is not None:
            raise ModelError(f"{name}: the build was stopped, for nobody listens: {progress.failure}",
                             "start it again") from progress.failure
        if cancelled() or self.said.cancelled():
            raise _cancelled(name)
        if plan is not None:
            return plan
        if self.batch > 1 and self.said.out_of_workspace():
            return None
        raise self.said.failed(f"{name}: TensorRT built nothing (max_batch {self.batch}, workspace "
                             f"{_mib(self.settings.workspace)})")

    def _parse(self, parser: Any, network: Any) -> None:
        name = self.path.name
        try:
            understood = parser.parse_from_file(str(self.path))
        except (RuntimeError, ValueError) as error:
            raise self.said.failed(f"{name}: TensorRT's parser failed ({error})") from error
        if not understood:
            found = [parser.get_error(index) for index in range(parser.num_errors)]
            details = [_described(flaw.node(), flaw.node_name(), flaw.node_operator(), flaw.desc())
                       for flaw in found]
            raise self.said.failed(f"{name}: TensorRT's parser refuses it", details)
        # Bytes that hold no graph at all count as understood.
        if not network.num_outputs:
            raise ModelError(f"{name}: no ONNX model, or one without outputs", "fetch or export it anew")
        if network.num_inputs != 1:
            raise ModelError(f"{name}: has {network.num_inputs} inputs, a prepared model has one",
                             "prepare it with `vedette engines fetch`")
        if self.settings.verbose:
            layers = [network.get_layer(index) for index in range(network.num_layers)]
            self._convolutions = {layer.name for layer in layers if layer.type == self.trt.LayerType.CONVOLUTION}

    def _shape(self, builder: Any, network: Any, config: Any) -> None:
        """Tell the batch. A fixed shape needs no profile, and gives a smaller and faster plan than a profile of 1."""
        tensor = network.get_input(0)
        batch, *rest = (int(size) for size in tuple(tensor.shape))
        if min(rest, default=-1) < 0:
            raise ModelError(f"{self.path.name}: input {tensor.name!r} has shape {[batch, *rest]}: only the first size "
                             "may be open", "prepare it with `vedette engines fetch`, which fixes height and width")
        if batch >= 0:
            self.batch, self.fixed = batch, True
        elif self.batch == 1:
            tensor.shape = (1, *rest)
        else:
            profile = self._whole(builder.create_optimization_profile(), "create_optimization_profile")
            profile.set_shape(tensor.name, (1, *rest), (self.batch, *rest), (self.batch, *rest))
            if config.add_optimization_profile(profile) < 0:
                raise self.said.failed(f"{self.path.name}: the profile for batches of 1 to {self.batch} is refused")
        if self.batch < self.settings.max_batch and not self.fixed:
            self.phase = f"building (batch {self.batch})"

    def inputs_at(self) -> dict[str, int] | None:
        """See :class:`Built`."""
        return self.said.inputs_at(self._convolutions) if self.settings.verbose else None

    def _whole(self, made: Any | None, call: str) -> Any:
        if made is None:
            raise self.said.failed(f"{self.path.name}: TensorRT's {call} gave nothing")
        return made


def _described(index: int, node: str, operator: str, text: str) -> str:
    if index < 0 and not node:
        return text
    return f"node {node or f'number {index}'} ({operator or 'unknown operator'}): {text}"


def _cancelled(name: str) -> ModelError:
    return ModelError(f"{name}: the build was cancelled")


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB" if count >= 1 << 20 else f"{count} bytes"
