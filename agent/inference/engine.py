"""The seam between the loop and whatever runs the model. Implementations live beside this file.

The input contract is the same for all: uint8 NHWC BGR, letterboxed; scaling, mean, channel order and layout are
folded into the model when it is prepared, so the loop never touches a float on the way in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from agent.records import Pixels

Outputs = Sequence[NDArray[Any]]
Pending = Callable[[], Outputs]
"""A call under way: calling it waits and returns one array an output, first axis the batch, owned by the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name and shape of one output; -1 stands for a size known only at run time (the batch, say)."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What an engine takes and gives.

    Attributes:
        height: Canvas height, pixels.
        width: Canvas width, pixels.
        max_batch: Most frames in one call; 1 for a model with a fixed batch of 1.
        outputs: In the model's own order.
        depth: Calls that may be under way at once. 1: ``start`` has done all the work when it returns. 2: copies and
            computing of neighbouring batches overlap.
    """

    height: int
    width: int
    max_batch: int
    outputs: tuple[TensorSpec, ...]
    depth: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDescription:
    """What really runs, for status and events; nothing here is what was merely asked for.

    Attributes:
        name: The recipe's name.
        identity: First 16 hex digits of the SHA-256 over everything the engine depends on.
        runtime: ``onnxruntime`` with its version, and so on.
        provider: The execution provider or device in use, for example ``CPUExecutionProvider``.
        precision: ``fp32``, ``fp16``, ``int8``; of an engine from the store its form, for example ``int8-fp16``.
        threads: CPU threads one call uses; 0 when it runs elsewhere.
        model_sha256: SHA-256 of the model file as fetched.
    """

    name: str
    identity: str
    runtime: str
    provider: str
    precision: str
    threads: int
    model_sha256: str


class Engine(Protocol):
    """A loaded, warmed model. One thread starts calls; one, perhaps another, waits for them, in the same order."""

    spec: EngineSpec

    def start(self, batch: Pixels) -> Pending:
        """Begin a run of ``batch`` (n, height, width, 3) uint8 BGR, n <= max_batch; it is the caller's again on return.

        Blocks while ``spec.depth`` earlier calls have not been waited for.

        Raises:
            EngineError: the run failed or could not begin. Waiting may raise it, too; what an earlier run gave is never
                returned in its place.
        """
        ...

    def describe(self) -> EngineDescription:
        """Say what really runs."""
        ...

    def close(self) -> None:
        """Free the device; the engine is not used afterwards."""
        ...


def infer(engine: Engine, batch: Pixels) -> Outputs:
    """Run ``batch`` and wait.

    Raises:
        EngineError: the run failed.
    """
    return engine.start(batch)()
