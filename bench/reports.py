"""Events as a camera makes them: twelve things that walk about, through the real factory. For the spool's bench."""

import uuid
from collections.abc import Iterator

import numpy as np

from agent.inference.engine import EngineDescription
from agent.records import Detections, Event, Result
from agent.report.events import EventFactory

TRACKS = 12
_LABELS = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
_WIDTH, _HEIGHT, _FPS = 1280, 720, 10
_ENGINE = EngineDescription(name="yolo", identity="4f1c2a9be07d3358", runtime="onnxruntime 1.23.2",
                            provider="CPUExecutionProvider", precision="fp32", threads=1, model_sha256="0" * 64)


def factory() -> EventFactory:
    """Return a factory as the agent has it."""
    return EventFactory("box-3f9a1c0b7d52", uuid.uuid4().hex, "0.0.0", boot_id=uuid.uuid4().hex)


def walking(events: EventFactory, sources: int = 1) -> Iterator[Event]:
    """Yield ``detection`` events for ever, ten a second of each source, the sources in turn.

    Boxes move by a random walk of some pixels and breathe, scores waver, and they come best score first as a head
    gives them: so a box is not always at the same place of the list.
    """
    rng = np.random.default_rng(0)
    centre = rng.uniform((0, 0), (_WIDTH, _HEIGHT), (sources, TRACKS, 2))
    extent = rng.uniform(30, 300, (sources, TRACKS, 2))
    score = rng.uniform(0.4, 0.95, (sources, TRACKS))
    class_ids = rng.integers(0, len(_LABELS), (sources, TRACKS)).astype(np.int32)
    seq = 0
    while True:
        for source in range(sources):
            centre[source] = np.clip(centre[source] + rng.normal(0, 4, (TRACKS, 2)), 0, (_WIDTH, _HEIGHT))
            extent[source] = np.clip(extent[source] * rng.normal(1, 0.02, (TRACKS, 2)), 20, 400)
            score[source] = np.clip(score[source] + rng.normal(0, 0.02, TRACKS), 0.25, 0.99)
            best = np.argsort(-score[source])
            corners = np.concatenate([centre[source] - extent[source] / 2, centre[source] + extent[source] / 2], axis=1)
            found = Detections(
                xyxy=np.clip(corners, 0, (_WIDTH, _HEIGHT) * 2)[best].astype(np.float32),
                scores=score[source][best].astype(np.float32), class_ids=class_ids[source][best])
            at = 1.8e9 + seq / _FPS + rng.normal(0, 2e-3)
            yield events.detection(Result(
                source=f"camera{source}", seq=seq * 3, index=seq * 3, captured_at=at,
                age_s=float(rng.uniform(0.03, 0.05)), width=_WIDTH, height=_HEIGHT, skipped=2, detections=found),
                _LABELS, _ENGINE)
        seq += 1
