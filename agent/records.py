"""The nouns that travel between the parts: a frame, where it lies on the engine's canvas, what was found on it.

Records are frozen and checked once, at birth. Nothing here does I/O. Pixels are always uint8, BGR; boxes are
always float32 ``xyxy`` (left, top, right, bottom) in pixels of the source frame.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class SourceState(str, Enum):
    """What a source is doing now. Only ``LIVE`` frames are looked at by the engine."""

    CONNECTING = "connecting"
    LIVE = "live"
    FROZEN = "frozen"
    BLACK = "black"
    DOWN = "down"
    ENDED = "ended"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChange:
    """Something about a source that is reported once, as a ``source.state`` event.

    Attributes:
        source: Name of the source.
        state: State after the change (the same as before for a resolution change or a clock jump).
        reason: Why, in words an operator understands; never holds credentials.
        at: Wall-clock time, seconds since the epoch.
        since_s: Seconds the state before this one had lasted (monotonic clock).
    """

    source: str
    state: SourceState
    reason: str
    at: float
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a source frame lies on the engine's canvas: canvas = source * scale + (left, top).

    Attributes:
        scale: Canvas pixels per source pixel, the same in both directions.
        left: Padding left of the picture, canvas pixels.
        top: Padding above the picture, canvas pixels.
        width: Source width, pixels.
        height: Source height, pixels.
    """

    scale: float
    left: int
    top: int
    width: int
    height: int

    def to_source(self, points: Floats) -> Floats:
        """Return canvas points (..., 2) float32 as source pixels, clipped to the picture."""
        moved = (points - np.array([self.left, self.top], np.float32)) / np.float32(self.scale)
        clipped: Floats = np.clip(moved, 0, np.array([self.width, self.height], np.float32))
        return clipped


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canvas:
    """A frame as the engine takes it.

    Attributes:
        pixels: (height, width, 3) uint8, BGR, letterboxed, C-contiguous.
        placement: Where the frame lies on it.
        took_s: Seconds it took to lay it there.
    """

    pixels: Pixels
    placement: Placement
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One picture with its time.

    Attributes:
        source: Name of the source.
        seq: Number among all frames grabbed from this source since the agent started; never goes back.
        index: Number since the source was (re)opened, from 0; for a file, the picture's number in the clip.
        pixels: (H, W, 3) uint8, BGR.
        captured_ns: Monotonic clock when the frame was grabbed, nanoseconds.
        captured_at: Wall clock when the frame was grabbed, seconds since the epoch.
        canvas: The same picture on the engine's canvas; None when no engine was known yet.
    """

    source: str
    seq: int
    index: int
    pixels: Pixels
    captured_ns: int
    captured_at: float
    canvas: Canvas | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be (H, W, 3) uint8, got {self.pixels.shape} {self.pixels.dtype}")

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """The boxes of one frame, best score first.

    Attributes:
        xyxy: (n, 4) float32, pixels.
        scores: (n,) float32 in 0..1.
        class_ids: (n,) int32, index into the recipe's classes.
        landmarks: (n, k, 2) float32 pixels, or None when the head has none.
    """

    xyxy: Floats
    scores: Floats
    class_ids: Ints
    landmarks: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        shapes: list[tuple[str, NDArray[Any], tuple[int, ...]]] = [
            ("xyxy", self.xyxy, (n, 4)), ("scores", self.scores, (n,)), ("class_ids", self.class_ids, (n,))]
        if self.landmarks is not None:
            shapes.append(("landmarks", self.landmarks, (n, *self.landmarks.shape[1:])))
        for name, array, shape in shapes:
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {array.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def empty(landmarks: int = 0) -> "Detections":
        """Return no boxes (with room for ``landmarks`` points each)."""
        return Detections(
            xyxy=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), class_ids=np.zeros(0, np.int32),
            landmarks=np.zeros((0, landmarks, 2), np.float32) if landmarks else None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What the loop found on one frame; this is what an event is made of. Holds no pixels.

    Attributes:
        source: Name of the source.
        seq: The frame's number since the start (see :class:`Frame`).
        index: The frame's number since the source was opened.
        captured_at: Wall clock of the capture, seconds since the epoch.
        age_s: Seconds from the capture to the moment the detections were ready (monotonic clock).
        width: Source frame's width, pixels.
        height: Source frame's height, pixels.
        skipped: Frames of this source passed over since the one before this.
        detections: The boxes, in source pixels.
    """

    source: str
    seq: int
    index: int
    captured_at: float
    age_s: float
    width: int
    height: int
    skipped: int
    detections: Detections


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing to report, ready for the spool.

    Attributes:
        id: Unique for ever; given by us, never by the receiver.
        type: CloudEvents type, for example ``detection`` or ``source.state``.
        subject: The source (camera) it is about; empty for the device itself.
        body: The CloudEvents 1.0 JSON object, UTF-8 bytes, without its ``sequence``, which the spool adds; at most
            64 KiB with it.
    """

    id: str
    type: str
    subject: str
    body: bytes = field(repr=False)
