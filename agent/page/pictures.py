"""The newest frame of each source that was looked at, as a JPEG with its boxes; only while somebody looks.

The loop's part is a dictionary look-up and, for a source that is watched, keeping a reference to one frame. Scaling and
encoding happen in the thread of whoever asks, at most four times a second for each source, however many ask.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from agent.capture.jpeg import picture
from agent.records import Frame, Result

_WATCHED_S = 5.0
_EVERY_S = 0.25
_BEST_OF_S = 60.0
_MOST_BOXES = 60


class Box(msgspec.Struct, frozen=True, array_like=True):
    """One detection: corners in 0..1 of width and height, label, score."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str
    score: float


class Caption(msgspec.Struct, frozen=True, kw_only=True):
    """What goes with a picture: ``sharpness`` in 0..1 of the best in the last minute, ``seen`` all detections."""

    seq: int
    age_s: float
    latency_ms: float
    width: int
    height: int
    sharpness: float
    seen: int
    boxes: list[Box]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture ready to be sent; ``captured`` by the monotonic clock."""

    jpeg: bytes
    captured: float
    caption: Caption

    def caption_now(self, now: float) -> bytes:
        """Return the caption as ASCII JSON with the picture's age at ``now``."""
        caption = msgspec.structs.replace(self.caption, age_s=round(max(now - self.captured, 0.0), 3))
        return _ascii(msgspec.json.encode(caption))


class _Watch:
    """One source that is watched."""

    def __init__(self) -> None:
        self.asked = -_WATCHED_S
        self.newest: tuple[Frame, Result] | None = None
        self.lock = threading.Lock()  # of all below
        self.shown: Shown | None = None
        self.made_at = -_EVERY_S
        self.sharpness: deque[tuple[float, float]] = deque()


class Pictures:
    """Pictures of ``sources``; ``onlooker`` is called by the loop, all else by the server.

    Args:
        sources: Their names.
        classes: What a detection's class is called.
        clock: Monotonic seconds.
    """

    def __init__(self, sources: Iterable[str], classes: Sequence[str], clock: Callable[[], float] = time.monotonic
                 ) -> None:
        self._watches = {name: _Watch() for name in sources}
        self._classes = classes
        self._clock = clock

    def onlooker(self, frame: Frame, result: Result) -> None:
        """Keep the frame if its source is watched."""
        watch = self._watches.get(frame.source)
        if watch and self._clock() - watch.asked < _WATCHED_S:
            watch.newest = (frame, result)

    def forget(self) -> None:
        """Let go of what nobody looks at any more."""
        for watch in self._watches.values():
            if self._clock() - watch.asked >= _WATCHED_S:
                watch.newest = watch.shown = None

    def ask(self, source: str) -> Shown | None:
        """Return the newest picture, and watch the source for the next seconds; None when there is none yet.

        Raises:
            KeyError: there is no such source.
        """
        watch = self._watches[source]
        watch.asked = self._clock()
        with watch.lock:
            if self._clock() - watch.made_at >= _EVERY_S and (newest := watch.newest):
                watch.newest, watch.made_at = None, self._clock()
                watch.shown = self._make(watch, *newest)
            return watch.shown

    def _make(self, watch: _Watch, frame: Frame, result: Result) -> Shown:
        made, now = picture(frame.pixels), self._clock()
        watch.sharpness.append((now, made.sharpness))
        while watch.sharpness[0][0] < now - _BEST_OF_S:
            watch.sharpness.popleft()
        best = max(value for _, value in watch.sharpness)
        found = result.detections
        width, height = float(result.width), float(result.height)
        boxes = [Box(round(float(x1) / width, 4), round(float(y1) / height, 4), round(float(x2) / width, 4),
                     round(float(y2) / height, 4), self._classes[class_id], round(float(score), 3))
                 for (x1, y1, x2, y2), class_id, score in zip(
                     found.xyxy[:_MOST_BOXES], found.class_ids[:_MOST_BOXES], found.scores[:_MOST_BOXES], strict=True)]
        return Shown(jpeg=made.jpeg, captured=frame.captured_ns / 1e9, caption=Caption(
            seq=frame.seq, age_s=0.0, latency_ms=round(result.age_s * 1e3, 1), width=result.width, height=result.height,
            sharpness=round(made.sharpness / best, 3) if best > 0 else 0.0, seen=len(found), boxes=boxes))


def _ascii(encoded: bytes) -> bytes:
    """Return JSON with all beyond ASCII escaped: it goes into a header."""
    return json.dumps(json.loads(encoded), separators=(",", ":")).encode()
