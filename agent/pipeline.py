"""The loop: newest frames in, results out. The work of two threads, which the supervisor starts; no I/O of its own.

``look`` (the inference thread) takes the newest frames, fairly, and runs the engine on them; the readers have laid
them on its canvas already.
``tell`` (the post-processing thread) turns raw outputs into detections and hands each result to ``deliver``.
While one batch is in the engine, the sources are told when the next one will be wanted, so that a fresh frame is
waiting just then: no frame is turned into pixels for nothing, and none grows old in a queue.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.capture.source import LatestFrame
from agent.inference.engine import Engine
from agent.meters import STAGES, Heartbeat, Histogram, SourceMeter
from agent.records import Canvas, Detections, Frame, Pixels, Placement, Result

Place = Callable[[Pixels, Pixels], Placement]
Head = Callable[[Sequence[NDArray[Any]], Sequence[Placement]], Sequence[Detections]]
_IDLE_S = 0.25
_ALIVE_NS = 1_000_000_000  # a source that gave no frame for so long is not waited for


@dataclass(slots=True, kw_only=True)
class Pace:
    """What the loop may do now.

    Attributes:
        rate: Frames per second for all sources together; None = as many as the engine takes.
        max_batch: Most frames in one engine call.
        batch_deadline_s: A batch that is not full waits this long for more.
    """

    rate: float | None = None
    max_batch: int = 1
    batch_deadline_s: float = 0.005


@dataclass(slots=True, kw_only=True)
class Lane:
    """One source as the loop sees it: its mailbox, its meter, its own limit."""

    slot: LatestFrame
    meter: SourceMeter
    max_rate: float | None = None

    @property
    def open_ns(self) -> int:
        """The moment from which another frame of this source may be taken."""
        return self.slot.last_taken_ns + int(1e9 / self.max_rate) if self.max_rate else 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """A batch that has been through the engine: frames with their skip counts, places on the canvas, raw outputs."""

    frames: Sequence[tuple[Frame, int]]
    placements: Sequence[Placement]
    outputs: Sequence[NDArray[Any]]


class Pipeline:
    """Takes frames from ``lanes``, runs ``engine`` and ``head``, and gives each result to ``deliver``.

    Args:
        lanes: One a source; all mailboxes share one condition.
        ready: That condition.
        engine: Loaded and warmed.
        place: Lays pixels on a canvas, see ``inference/letterbox.py``.
        head: Turns raw outputs into detections in source pixels.
        deliver: Called once a processed frame, from the post-processing thread; must not block on disk or network.
        pace: Limits; whoever holds it may change it between two batches.
        stop: Set it and both threads end; ``tell`` first finishes what ``look`` has begun.
    """

    def __init__(self, *, lanes: Sequence[Lane], ready: threading.Condition, engine: Engine, place: Place, head: Head,
                 deliver: Callable[[Result], None], pace: Pace, stop: threading.Event) -> None:
        self._lanes = lanes
        self._ready = ready
        self._engine = engine
        self._place = place
        self._head = head
        self._deliver = deliver
        self._pace = pace
        self._stop = stop
        self._batch = np.empty((engine.spec.max_batch, engine.spec.height, engine.spec.width, 3), np.uint8)
        self._done: queue.Queue[_Batch | None] = queue.Queue(maxsize=2)
        self._call_ns = 0
        self._open_ns = 0
        self._underway = 0
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
            with self._ready:
                self._ask(time.monotonic_ns(), 0)
            while not self._stop.is_set():
                self.looking.beat()
                began_ns = time.monotonic_ns()
                taken = self._take()
                if taken:
                    self.stages["wait"].record((time.monotonic_ns() - began_ns) / 1e9)
                    self._done.put(self._infer(taken))
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
            self._finish(batch)

    def idle(self) -> bool:
        """Tell whether no frame is waiting or under way; the end of finite sources."""
        with self._ready:
            return not self._underway and all(lane.slot.frame is None for lane in self._lanes)

    def _take(self) -> Sequence[tuple[Frame, int]]:
        """Wait up to a moment for frames; return (frame, skipped) of the sources that waited longest."""
        give_up_ns = time.monotonic_ns() + int(_IDLE_S * 1e9)
        first_ns = 0
        with self._ready:
            while not self._stop.is_set():
                now_ns = time.monotonic_ns()
                ripe = self._ripe(now_ns)
                first_ns = (first_ns or now_ns) if ripe else 0
                full_ns = first_ns + int(self._pace.batch_deadline_s * 1e9)
                if ripe and (len(ripe) >= self._enough(now_ns) or now_ns >= full_ns):
                    return self._serve(ripe, now_ns)
                if not ripe and now_ns >= give_up_ns:
                    break
                opening = [t for t in (self._open_ns, *(lane.open_ns for lane in self._lanes)) if t > now_ns]
                wake_ns = full_ns if ripe else min([*opening, give_up_ns])
                self._ready.wait((wake_ns - now_ns) / 1e9)
        return []

    def _ripe(self, now_ns: int) -> list[Lane]:
        """Return the lanes whose frame may be taken now, the one served longest ago first."""
        if now_ns < self._open_ns:
            return []
        ripe = [lane for lane in self._lanes if lane.slot.frame is not None and lane.open_ns <= now_ns]
        return sorted(ripe, key=lambda lane: lane.slot.last_taken_ns)

    def _enough(self, now_ns: int) -> int:
        """Return how many frames are worth no more waiting: a full batch, or one of each source that is alive."""
        return max(1, min(self._most, sum(_alive(lane, now_ns) for lane in self._lanes)))

    @property
    def _most(self) -> int:
        return min(self._pace.max_batch, len(self._batch))

    def _serve(self, ripe: Sequence[Lane], now_ns: int) -> Sequence[tuple[Frame, int]]:
        taken = [lane.slot.take(now_ns) for lane in ripe[:self._most]]
        self._underway += len(taken)
        self._ask(now_ns, len(taken))
        return taken

    def _ask(self, now_ns: int, count: int) -> None:
        """Say when the next frames are wanted; call with ``ready`` held.

        The source that was served longest ago is next in line, at the end of the engine call that now begins; those
        behind it one call later for each batch before them. A source that gives no frames takes no place in the line:
        its first one is welcome at once.
        """
        pace = self._pace
        period_ns = int(1e9 / pace.rate) if pace.rate else 0
        self._open_ns = max(self._open_ns, now_ns - period_ns) + count * period_ns
        place = 0
        for lane in sorted(self._lanes, key=lambda lane: lane.slot.last_taken_ns):
            free_ns = now_ns + self._call_ns
            if _alive(lane, now_ns):
                free_ns += self._call_ns * (place // self._most)
                place += 1
            wanted_ns = max(free_ns, self._open_ns, lane.open_ns)
            lane.slot.skip_reason = "pace" if wanted_ns > free_ns else "busy"
            lane.slot.want(wanted_ns)

    def _infer(self, taken: Sequence[tuple[Frame, int]]) -> _Batch:
        began_ns = time.monotonic_ns()
        for frame, _ in taken:
            self.stages["capture_age"].record((began_ns - frame.captured_ns) / 1e9)
        canvases = [self._laid(frame) for frame, _ in taken]
        batch = canvases[0].pixels[np.newaxis]
        if len(canvases) > 1:
            batch = np.stack([canvas.pixels for canvas in canvases], out=self._batch[: len(canvases)])
        placed_ns = time.monotonic_ns()
        outputs = self._engine.infer(batch)
        ended_ns = time.monotonic_ns()
        for canvas in canvases:
            self.stages["preprocess"].record(canvas.took_s)
        self.stages["infer"].record((ended_ns - placed_ns) / 1e9)
        spent_ns = ended_ns - began_ns
        self._call_ns = spent_ns if not self._call_ns else self._call_ns + (spent_ns - self._call_ns) // 8
        return _Batch(frames=taken, placements=[canvas.placement for canvas in canvases], outputs=outputs)

    def _laid(self, frame: Frame) -> Canvas:
        """Return the frame's canvas, made now if its reader did not know this engine's size yet."""
        canvas = frame.canvas
        return canvas if canvas and canvas.pixels.shape == self._batch.shape[1:] else self._lay(frame.pixels)

    def _lay(self, pixels: Pixels) -> Canvas:
        """Lay pixels on a canvas of the engine's; called by the readers, each in its own thread."""
        began_ns = time.monotonic_ns()
        canvas = np.empty(self._batch.shape[1:], np.uint8)
        placement = self._place(pixels, canvas)
        return Canvas(pixels=canvas, placement=placement, took_s=(time.monotonic_ns() - began_ns) / 1e9)

    def _finish(self, batch: _Batch) -> None:
        began_ns = time.monotonic_ns()
        found = self._head(batch.outputs, batch.placements)
        decoded_ns = time.monotonic_ns()
        meters = {lane.slot.source: lane.meter for lane in self._lanes}
        for (frame, skipped), detections in zip(batch.frames, found, strict=True):
            age_s = (decoded_ns - frame.captured_ns) / 1e9
            self.stages["latency"].record(age_s)
            meters[frame.source].did()
            self._deliver(Result(
                source=frame.source, seq=frame.seq, index=frame.index, captured_at=frame.captured_at, age_s=age_s,
                width=frame.width, height=frame.height, skipped=skipped, detections=detections))
        self.stages["postprocess"].record((decoded_ns - began_ns) / 1e9)
        self.stages["report"].record((time.monotonic_ns() - decoded_ns) / 1e9)
        with self._ready:
            self._underway -= len(batch.frames)


def _alive(lane: Lane, now_ns: int) -> bool:
    """Tell whether a source gives frames: one waits, or one was taken not long ago. Call with ``ready`` held."""
    return lane.slot.frame is not None or now_ns - lane.slot.last_taken_ns < _ALIVE_NS
