"""Results and changes of state as CloudEvents 1.0 JSON objects. Pure: no clock, no I/O, no state but a counter.

Every event has an id that is never used again, a body of at most 64 KiB (what every CloudEvents receiver must take:
CloudEvents 1.0, "Size Limits") and a time with microseconds. Its ``sequence`` is not given here but by the spool, in
the transaction that makes the event durable: so the sequence of a box has no holes but those that ``gap`` events
declare. Does not decide what is worth reporting.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

import msgspec
import numpy as np

from agent.records import Detections, Event, Result, SourceChange
from agent.report.gaps import Gap

MAX_BODY = 64 * 1024
DETECTION = "detection"
SOURCE_STATE = "source.state"
GAP = "gap"
HEARTBEAT = "heartbeat"
BUDGET_STEP = "budget.step"
# What the spool adds when it commits an event: its sequence, twelve digits or, one day, more.
_SEQUENCE_BYTES = 40
_MAX_OURS = MAX_BODY - _SEQUENCE_BYTES
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MAX_REASON = 1000


class EngineFacts(Protocol):
    """What an event tells about the engine; every description of a loaded engine has it."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        ...

    @property
    def identity(self) -> str:
        """Digest of everything the engine depends on."""
        ...

    @property
    def runtime(self) -> str:
        """What runs it, with its version."""
        ...

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16`` or ``int8``."""
        ...


class EngineTag(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine made a detection: :class:`EngineFacts` as they stand in the event."""

    name: str
    identity: str
    runtime: str
    precision: str


class FrameTag(msgspec.Struct, frozen=True, kw_only=True):
    """Which frame a detection is about; ``age_ms`` from capture to detections, ``skipped`` since the one before."""

    index: int
    seq: int
    width: int
    height: int
    age_ms: float
    skipped: int


class Box(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One detection: ``box`` is left, top, right, bottom in pixels of the frame, to a tenth; ``landmarks`` x, y."""

    label: str
    class_id: int
    score: float
    box: list[float]
    landmarks: list[list[float]] | None = None


class DetectionData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Data of a ``detection`` event; ``truncated`` boxes, those of the lowest scores, did not fit into 64 KiB."""

    frame: FrameTag
    engine: EngineTag
    detections: list[Box]
    truncated: int = 0


class SourceStateData(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``source.state`` event; the state before lasted ``previous_s`` seconds."""

    state: str
    reason: str
    previous_s: float
    agent: str


class HeartbeatData(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``heartbeat`` event, which asks whether the upstream takes any event of this box."""

    agent: str


class WorkingPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop may do: engine tier, frames in a call, frames per second (null = no limit, 0 = paused)."""

    tier: str
    batch: int
    rate: float | None


class BudgetReading(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured then, null = unknown: watts (``measures`` says of what), degrees Celsius, bytes."""

    watts: float | None
    measures: str
    celsius: float | None
    memory: int | None


class BudgetStepData(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``budget.step`` event.

    ``kind``: ``step`` the governor changed what the loop may do; ``memory`` something was given up or taken back;
    ``blind``, ``seeing`` a sensor that a limit needs was lost, or is back; ``limits`` other limits hold now; ``leak``
    memory grows steadily.
    """

    kind: str
    before: WorkingPoint
    after: WorkingPoint
    reason: str
    reading: BudgetReading
    agent: str


Data = DetectionData | SourceStateData | BudgetStepData | Gap | HeartbeatData


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The envelope, in the JSON format of CloudEvents 1.0, with two extensions of ours.

    ``bootid`` names the start of the box (32 hex digits): within one, times of a wrong clock can be put in order.
    ``clock`` is there only when the box's clock was not to be trusted, and says why.
    """

    specversion: str
    id: str
    source: str
    type: str
    subject: str = ""
    time: str
    datacontenttype: str
    bootid: str = ""
    clock: str = ""
    data: Data


class EventFactory:
    """Makes the events of one run of the agent. Any thread may call it.

    Args:
        device: Name of the box; part of every event's ``source``.
        run_id: Never used by any run of any box before: ``uuid.uuid4().hex``.
        version: The agent's version, told in ``source.state`` events.
        boot_id: Of this start of the box.
        distrust: Tells why the wall clock is not to be trusted now, empty when it is.
        wall: Wall clock, seconds since the epoch; for what is not about a frame.
    """

    def __init__(self, device: str, run_id: str, version: str, *, boot_id: str = "",
                 distrust: Callable[[], str] = str, wall: Callable[[], float] = time.time) -> None:
        self._source = f"urn:vedette:{device}"
        self._run_id = run_id
        self._version = version
        self._boot_id = boot_id
        self._distrust = distrust
        self._wall = wall
        self._made = 0
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder().encode

    def detection(self, result: Result, labels: Sequence[str], engine: EngineFacts) -> Event:
        """Return a ``detection`` event; boxes are taken best score first, as they come.

        Args:
            result: What was found on one frame.
            labels: Name of each class id; a class without a name is called by its number.
            engine: What found it.
        """
        frame = FrameTag(
            index=result.index, seq=result.seq, width=result.width, height=result.height,
            age_ms=round(result.age_s * 1e3, 1), skipped=result.skipped)
        boxes = _boxes(result.detections, labels)
        tag = EngineTag(name=engine.name, identity=engine.identity, runtime=engine.runtime, precision=engine.precision)
        name, kept = self._next(), len(boxes)
        while True:
            data = DetectionData(frame=frame, engine=tag, detections=boxes[:kept], truncated=len(boxes) - kept)
            event = self._event(name, DETECTION, result.source, result.captured_at, data)
            if len(event.body) <= _MAX_OURS or not kept:
                return event
            kept = min(kept - 1, kept * _MAX_OURS // len(event.body))

    def source_state(self, change: SourceChange) -> Event:
        """Return a ``source.state`` event."""
        # A path that is no UTF-8 comes as lone surrogates, which JSON cannot carry.
        reason = change.reason[:_MAX_REASON].encode("utf-8", "replace").decode("utf-8")
        data = SourceStateData(state=change.state.value, reason=reason, previous_s=round(change.since_s, 3),
                               agent=self._version)
        return self._event(self._next(), SOURCE_STATE, change.source, change.at, data)

    def budget_step(self, kind: str, *, before: WorkingPoint, after: WorkingPoint, reason: str, reading: BudgetReading,
                    at: float) -> Event:
        """Return a ``budget.step`` event; ``at`` is its time, seconds since the epoch."""
        data = BudgetStepData(kind=kind, before=before, after=after, reason=reason[:_MAX_REASON], reading=reading,
                              agent=self._version)
        return self._event(self._next(), BUDGET_STEP, "", at, data)

    def gap(self, gap: Gap, name: str | None = None) -> Event:
        """Return a ``gap`` event; ``name`` is the id of the event that this one takes the place of."""
        return self._event(name or self._next(), GAP, "", self._wall(), gap)

    def heartbeat(self) -> Event:
        """Return a ``heartbeat`` event; it never goes into the spool, so it has no sequence."""
        return self._event(self._next(), HEARTBEAT, "", self._wall(), HeartbeatData(agent=self._version))

    def _next(self) -> str:
        with self._lock:
            self._made += 1
            return f"{self._run_id}-{self._made}"

    def _event(self, name: str, kind: str, subject: str, at: float, data: Data) -> Event:
        body = self._encode(CloudEvent(
            specversion="1.0", id=name, source=self._source, type=kind, subject=subject, time=rfc3339(at),
            datacontenttype="application/json", bootid=self._boot_id, clock=self._distrust(), data=data))
        return Event(id=name, type=kind, subject=subject, body=body)


def rfc3339(at: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, always with six decimals."""
    moment = _EPOCH + timedelta(microseconds=round(at * 1e6))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _boxes(found: Detections, labels: Sequence[str]) -> list[Box]:
    corners, scores = _rounded(found.xyxy, 1), _rounded(found.scores, 4)
    points = None if found.landmarks is None else _rounded(found.landmarks, 1)
    return [
        Box(label=labels[class_id] if class_id < len(labels) else str(class_id), class_id=class_id,
            score=scores[n], box=corners[n], landmarks=None if points is None else points[n])
        for n, class_id in enumerate(found.class_ids.tolist())]


def _rounded(values: Any, decimals: int) -> Any:
    """Return float32 values as lists of doubles that print with ``decimals`` digits."""
    return np.round(values.astype(np.float64), decimals).tolist()
