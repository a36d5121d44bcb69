"""The loop: newest frames in, results out. The work of two threads, which the supervisor starts; no I/O of its own.

``look`` (the inference thread) takes the newest frames, fairly, and runs the engine on them; the readers have laid
them on its canvas already.
``tell`` (the post-processing thread) waits for outputs, makes detections of them and hands each result to ``deliver``.
Between two batches another engine may take the place of the one that runs (``swap``); no frame is lost by it.
While one batch is in the engine, the sources are told when the next one will be wanted, so that a fresh frame is
waiting just then: no frame is turned into pixels for nothing, and none grows old in a queue.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agent.inference.engine import Engine, EngineDescription, Outputs, Pending
from agent.meters import STAGES, Heartbeat, Histogram
from agent.records import Canvas, Detections, Frame, Pixels, Placement, Result
from agent.schedule import Lane, Pace, Schedule

Place = Callable[[Pixels, Pixels], Placement]
Head = Callable[[Outputs, Sequence[Placement]], Sequence[Detections]]
Deliver = Callable[[Result, EngineDescription], None]
Onlooker = Callable[[Frame, Result], None]
_IDLE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """An engine with what belongs to it.

    Attributes:
        engine: Loaded and warmed.
        place: Lays pixels on its canvas, see ``inference/letterbox.py``.
        head: Turns its raw outputs into detections in source pixels.
    """

    engine: Engine
    place: Place
    head: Head


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """A batch in the engine, or through it: frames with their skip counts, places on the canvas, outputs to come."""

    model: Model
    frames: Sequence[tuple[Frame, int]]
    placements: Sequence[Placement]
    pending: Pending
    began_ns: int
    ended_ns: int | None  # None: the engine works on while other batches begin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Retired:
    """Stands in the queue behind the last batch of an engine that was swapped out."""

    engine: Engine
    closed: threading.Event


class Pipeline:
    """Takes frames from ``lanes``, runs ``model`` on them, and gives each result to ``deliver``.

    Args:
        lanes: One a source; all mailboxes share one condition.
        ready: That condition.
        model: What runs first; the pipeline closes it when it is swapped out, and at the end (:meth:`close`).
        deliver: Called once a processed frame with what found it, from the post-processing thread; must not block on
            disk or network.
        pace: Limits; whoever holds it may change it between two batches.
        stop: Set it and both threads end; ``tell`` first finishes what ``look`` has begun.
    """

    def __init__(self, *, lanes: Sequence[Lane], ready: threading.Condition, model: Model, deliver: Deliver, pace: Pace,
                 stop: threading.Event) -> None:
        self._schedule = Schedule(lanes, ready, pace)
        self._meters = {lane.slot.source: lane.meter for lane in lanes}
        self._deliver = deliver
        self._stop = stop
        self._model, self._batch = model, _canvases(model)
        self._next: tuple[Model | None, threading.Event] | None = None
        self._vacant = False  # the engine was closed, and no other one has come yet
        self._seen: tuple[str, Canvas] | None = None
        self._done: queue.Queue[_Batch | _Retired | None] = queue.Queue(maxsize=2)
        self._ended_ns = 0
        self.onlooker: Onlooker | None = None
        """Called with each frame that was looked at and its result, after it is delivered; must not block."""
        self.narrow = False
        """Set it and a batch begins only when the one before is told: fewer frames are held, and fewer served."""
        self.stages: Mapping[str, Histogram] = {name: Histogram() for name in STAGES}
        self.looking = Heartbeat("inference", limit_s=30.0)
        self.telling = Heartbeat("postprocess", limit_s=30.0)
        for lane in lanes:
            lane.slot.lay = self._lay

    def look(self) -> None:
        """Run the inference thread until ``stop``.

        Raises:
            EngineError: a run failed; the supervisor then ends the process.
        """
        try:
            with self._schedule.ready:
                self._schedule.ask(self._most, time.monotonic_ns(), 0)
            while not self._stop.is_set():
                self.looking.beat()
                self._change()
                if self._vacant:
                    self._schedule.rest(_IDLE_S)
                    continue
                if self.narrow and self._schedule.underway:
                    self._schedule.wait_until_told(_IDLE_S)
                    continue
                began_ns = time.monotonic_ns()
                taken = self._schedule.take(len(self._batch), self._stop)
                if taken:
                    self.stages["wait"].record((time.monotonic_ns() - began_ns) / 1e9)
                    self._done.put(self._begin(taken))
        finally:
            self._done.put(None)

    def tell(self) -> None:
        """Run the post-processing thread until ``look`` has ended and its last batch is delivered."""
        while True:
            self.telling.beat()
            try:
                batch = self._done.get(timeout=_IDLE_S)
            except queue.Empty:
                continue
            if batch is None:
                return
            if isinstance(batch, _Retired):
                batch.engine.close()
                batch.closed.set()
            else:
                self._finish(batch)

    @property
    def model(self) -> Model:
        """What runs now."""
        return self._model

    @property
    def seen(self) -> tuple[str, Canvas] | None:
        """The source whose frame the engine looked at last, and its canvas."""
        return self._seen

    def pace(self, rate: float | None, max_batch: int, shares: Mapping[str, float | None]) -> None:
        """Set what the loop may do from the next batch on.

        Args:
            rate: Frames per second of all sources together; None = any, 0 = pause.
            max_batch: Most frames in one call.
            shares: Frames per second of each source that is named; None = any, 0 = it is shed.
        """
        schedule = self._schedule
        with schedule.ready:
            before = (schedule.pace.rate, [lane.share for lane in schedule.lanes])
            schedule.pace.rate, schedule.pace.max_batch = rate, max_batch
            for lane in schedule.lanes:
                lane.share = shares.get(lane.slot.source)
                if (rate == 0 or lane.share == 0) and lane.slot.clear():
                    lane.meter.skip("paused" if rate == 0 else "shed")
            if before != (rate, [lane.share for lane in schedule.lanes]):
                schedule.ask(self._most, time.monotonic_ns(), 0)

    def swap(self, model: Model) -> threading.Event:
        """Let ``model``, loaded and warmed, take over between two batches; return what is set when the old is closed.

        A model that waits for its turn and is overtaken by another is closed at once.
        """
        return self._give(model)

    def unload(self) -> threading.Event:
        """Close the engine behind its last batch; return what is set then. No frame is looked at until :meth:`swap`."""
        return self._give(None)

    def _give(self, model: Model | None) -> threading.Event:
        closed = threading.Event()
        with self._schedule.ready:
            overtaken, self._next = self._next, (model, closed)
            self._schedule.ready.notify_all()
        if overtaken:
            if overtaken[0]:
                overtaken[0].engine.close()
            overtaken[1].set()
        return closed

    def close(self) -> None:
        """Close the engine, and the one that waits to take over; call when both threads have ended."""
        for model in (self._next[0] if self._next else None, None if self._vacant else self._model):
            if model:
                model.engine.close()

    def idle(self) -> bool:
        """Tell whether no frame is waiting or under way; the end of finite sources."""
        with self._schedule.ready:
            return not self._schedule.underway and all(lane.slot.frame is None for lane in self._schedule.lanes)

    @property
    def _most(self) -> int:
        return min(self._schedule.pace.max_batch, len(self._batch))

    def _change(self) -> None:
        """Take the next engine, if there is one; ``tell`` closes the old one behind its last batch."""
        with self._schedule.ready:
            if not self._next:
                return
            (model, closed), self._next = self._next, None
            old, was_vacant, self._vacant = self._model, self._vacant, model is None
            if model:
                self._model, self._batch = model, _canvases(model)
            self._schedule.call_ns = 0
        if was_vacant:
            closed.set()
        else:
            self._done.put(_Retired(engine=old.engine, closed=closed))

    def _begin(self, taken: Sequence[tuple[Frame, int]]) -> _Batch:
        began_ns = time.monotonic_ns()
        for frame, _ in taken:
            self.stages["capture_age"].record((began_ns - frame.captured_ns) / 1e9)
        canvases = [self._laid(frame) for frame, _ in taken]
        batch = canvases[0].pixels[np.newaxis]
        if len(canvases) > 1:
            batch = np.stack([canvas.pixels for canvas in canvases], out=self._batch[: len(canvases)])
        placed_ns = time.monotonic_ns()
        pending = self._model.engine.start(batch)
        ended_ns = time.monotonic_ns() if self._model.engine.spec.depth == 1 else None
        for canvas in canvases:
            self.stages["preprocess"].record(canvas.took_s)
        self._seen = (taken[-1][0].source, canvases[-1])
        if ended_ns:
            self._took(placed_ns, ended_ns, placed_ns - began_ns)
        return _Batch(model=self._model, frames=taken, placements=[canvas.placement for canvas in canvases],
                      pending=pending, began_ns=placed_ns, ended_ns=ended_ns)

    def _took(self, began_ns: int, ended_ns: int, before_ns: int = 0) -> None:
        """Learn how long a call kept the engine busy; one that began while another ran counts from that one's end."""
        alone_ns = ended_ns - max(began_ns, self._ended_ns)
        self._ended_ns = ended_ns
        self.stages["infer"].record(alone_ns / 1e9)
        spent_ns, known_ns = alone_ns + before_ns, self._schedule.call_ns
        # One call that took far longer (the process was stopped, the machine stood still) says little about the next.
        self._schedule.call_ns = spent_ns if not known_ns else known_ns + (min(spent_ns, 4 * known_ns) - known_ns) // 8

    def _laid(self, frame: Frame) -> Canvas:
        """Return the frame's canvas, made now if its reader did not know this engine's size yet."""
        canvas = frame.canvas
        return canvas if canvas and canvas.pixels.shape == self._batch.shape[1:] else self._lay(frame.pixels)

    def _lay(self, pixels: Pixels) -> Canvas:
        """Lay pixels on a canvas of the engine's; called by the readers, each in its own thread."""
        began_ns = time.monotonic_ns()
        canvas = np.empty(self._batch.shape[1:], np.uint8)
        placement = self._model.place(pixels, canvas)
        return Canvas(pixels=canvas, placement=placement, took_s=(time.monotonic_ns() - began_ns) / 1e9)

    def _finish(self, batch: _Batch) -> None:
        outputs = batch.pending()
        began_ns = time.monotonic_ns()
        if batch.ended_ns is None:
            self._took(batch.began_ns, began_ns)
        found = batch.model.head(outputs, batch.placements)
        decoded_ns = time.monotonic_ns()
        what = batch.model.engine.describe()
        for (frame, skipped), detections in zip(batch.frames, found, strict=True):
            age_s = (decoded_ns - frame.captured_ns) / 1e9
            self.stages["latency"].record(age_s)
            self._meters[frame.source].did()
            result = Result(
                source=frame.source, seq=frame.seq, index=frame.index, captured_at=frame.captured_at, age_s=age_s,
                width=frame.width, height=frame.height, skipped=skipped, detections=detections)
            self._deliver(result, what)
            if self.onlooker:
                self.onlooker(frame, result)
        self.stages["postprocess"].record((decoded_ns - began_ns) / 1e9)
        self.stages["report"].record((time.monotonic_ns() - decoded_ns) / 1e9)
        self._schedule.told(len(batch.frames))


def _canvases(model: Model) -> Pixels:
    spec = model.engine.spec
    return np.empty((spec.max_batch, spec.height, spec.width, 3), np.uint8)
