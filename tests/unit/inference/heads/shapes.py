"""Engine specs and heads for these tests."""

from agent.inference.engine import EngineSpec, TensorSpec
from agent.inference.heads import HeadConfig


def spec(*shapes: tuple[int, ...], height: int = 640, width: int = 640) -> EngineSpec:
    return EngineSpec(height=height, width=width, max_batch=4, outputs=tuple(
        TensorSpec(name=f"out{number}", shape=shape, dtype="float32") for number, shape in enumerate(shapes)))


def config(**changes) -> HeadConfig:
    return HeadConfig(**{"kind": None, "classes": 80, "score": 0.25, "iou": 0.45, **changes})
