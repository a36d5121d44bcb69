"""Lay a picture of any size on the engine's canvas: scaled to fit, centred, grey bands around it.

Writes into the canvas it is given and allocates no pixels itself; in the loop that canvas is a new one for each frame,
made and filled in the reader's thread (docs/adr/0005). The bands are filled each time (3 µs at 320x320, 10 µs at
640x640), so that a canvas may come from anywhere without anyone remembering what it held. Bilinear also when shrinking
much: area averaging took 7 to 13 times as long on 720p and 1080p (but for exact halves). OpenCV is imported by the
constructor, not by this module.
"""

import numpy as np

from agent.errors import EngineError, SourceError, missing_extra
from agent.records import Pixels, Placement


class Letterbox:
    """The canvas's geometry.

    Args:
        height: Canvas height, pixels.
        width: Canvas width, pixels.
        pad: Grey value 0..255 of the bands.

    Raises:
        EngineError: OpenCV is not installed.
    """

    def __init__(self, height: int, width: int, pad: int = 114) -> None:
        try:
            import cv2  # noqa: PLC0415 -- where it is missing the agent says so; without it even `import` would fail
        except ImportError as error:
            raise EngineError(f"OpenCV cannot be loaded: {error}", "on a Jetson install the system's python3-opencv, "
                              "elsewhere " + missing_extra("cpu")) from error
        self._cv2 = cv2
        self._height = height
        self._width = width
        self._pad = pad

    def place(self, pixels: Pixels, out: Pixels) -> Placement:
        """Lay ``pixels`` (h, w, 3) uint8 on ``out`` (height, width, 3) uint8, a view into a contiguous buffer.

        The side that does not fill the canvas is rounded to whole pixels, so a point comes back to within half a
        canvas pixel of where it was.

        Raises:
            SourceError: the picture is empty.
            ValueError: ``out`` is no canvas of this size.
        """
        if out.shape != (self._height, self._width, 3) or out.dtype != np.uint8:
            raise ValueError(f"out must be ({self._height}, {self._width}, 3) uint8, got {out.shape} {out.dtype}")
        height, width = pixels.shape[:2]
        if not height or not width:
            raise SourceError(f"an empty picture came: {width}x{height} pixels", "check the source's settings")
        scale = min(self._height / height, self._width / width)
        wide = min(max(round(width * scale), 1), self._width)
        high = min(max(round(height * scale), 1), self._height)
        left, top = (self._width - wide) // 2, (self._height - high) // 2
        region = out[top:top + high, left:left + wide]
        if (high, wide) == (height, width):
            np.copyto(region, pixels)
        else:
            self._cv2.resize(pixels, (wide, high), dst=region, interpolation=self._cv2.INTER_LINEAR)
        out[:top] = self._pad
        out[top + high:] = self._pad
        out[top:top + high, :left] = self._pad
        out[top:top + high, left + wide:] = self._pad
        return Placement(scale=scale, left=left, top=top, width=width, height=height)
