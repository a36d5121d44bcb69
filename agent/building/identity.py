"""Everything a built engine depends on, as one record and one hash: what differs in any of it is another engine.

TensorRT's plans are tied to the exact version of the library, the GPU model with its number of multiprocessors, and the
clocks they were timed at; ONNX Runtime's optimised models to its version and the processor's instruction set.
"""

import hashlib

import msgspec

from agent.building.forms import Form
from agent.building.recipe import Recipe


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine is built and run on; empty or 0 = there is none, or it is unknown.

    Attributes:
        runtime: ``tensorrt 10.3.0.26``, ``onnxruntime 1.23.2``.
        provider: ONNX Runtime's execution provider.
        cpu: Model and instruction sets; only where the CPU runs the engine.
        threads: CPU threads of one call; only where the CPU runs the engine.
        gpu: Name of the GPU.
        sm: Compute capability, ``8.7``.
        sm_count: Multiprocessors.
        cuda: Version of CUDA the driver supports.
        driver: Version of the driver, where it can be read.
        l4t: Jetson Linux release.
        power_mode: The nvpmodel mode the engine is tuned in.
    """

    runtime: str
    provider: str = ""
    cpu: str = ""
    threads: int = 0
    gpu: str = ""
    sm: str = ""
    sm_count: int = 0
    cuda: str = ""
    driver: str = ""
    l4t: str = ""
    power_mode: str = ""


class Parts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that an engine depends on but its form.

    Attributes:
        recipe: Its name.
        recipe_sha256: Of what the recipe says about input, head, classes, precision, calibration and gate.
        model_sha256: Of the model as fetched.
        prepared: Identity of the prepared model.
        conversion: Version of our own conversion steps.
        platform: What it runs on.
        max_batch: Largest batch of the profile.
        workspace: Scratch memory the builder may plan with, bytes.
        level: The builder's optimisation level; None = its default.
        precision: ``auto``, or the only one that was wanted.
    """

    recipe: str
    recipe_sha256: str
    model_sha256: str
    prepared: str
    conversion: int
    platform: Platform
    max_batch: int = 1
    workspace: int = 0
    level: int | None = None
    precision: str = "auto"

    @property
    def base(self) -> str:
        """First 16 hex digits of the SHA-256 over all parts."""
        return _hash(self)

    def identity(self, form: Form) -> str:
        """Return the identity of the engine in this form, 16 hex digits."""
        return _hash([self, form])


def timing_key(platform: Platform) -> str:
    """Return what measured layer times belong to: the TensorRT, the GPU and its clocks."""
    return _hash(msgspec.structs.replace(platform, cpu="", threads=0, provider=""))


def recipe_sha256(recipe: Recipe) -> str:
    """Hash what decides how an engine comes out and whether it is kept; a new summary rebuilds nothing."""
    # The head names a file of class names only; the names are what the outputs are read by.
    return _hash([recipe.input, recipe.head, recipe.classes, recipe.precision, recipe.calibration, recipe.gate])


def differences(old: Parts, new: Parts) -> list[str]:
    """Return in words what changed between two sets of parts: ``runtime tensorrt 10.3.0.26 → 10.7.0.23``."""
    as_dict = msgspec.structs.asdict
    before, after = ({**as_dict(parts), **as_dict(parts.platform)} for parts in (old, new))
    return [f"{key} {_word(before[key])} → {_word(after[key])}"
            for key in before if key != "platform" and before[key] != after[key]]


def _word(value: object) -> str:
    return "none" if value is None or value == "" else str(value)


def _hash(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
