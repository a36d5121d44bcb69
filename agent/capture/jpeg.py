"""A frame as a small JPEG for people, and how sharp it is. Not part of the loop: called when somebody looks."""

from typing import NamedTuple

from agent.capture.quiet import load_cv2
from agent.records import Pixels

_QUALITY = 75
_WIDEST = 960
_CROP = 960


class Picture(NamedTuple):
    """A JPEG, and the variance of the Laplacian of the frame's middle: it grows with sharpness."""

    jpeg: bytes
    sharpness: float


def picture(pixels: Pixels) -> Picture:
    """Encode (H, W, 3) uint8 BGR ``pixels``, at most 960 pixels wide.

    The sharpness is measured before scaling, which would hide what the last turn of a focus ring does, and only in
    the middle, which keeps it cheap.
    """
    cv2 = load_cv2()
    height, width = pixels.shape[:2]
    top, left = max(height - _CROP, 0) // 2, max(width - _CROP, 0) // 2
    grey = cv2.cvtColor(pixels[top:top + _CROP, left:left + _CROP], cv2.COLOR_BGR2GRAY)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    if width > _WIDEST:
        pixels = cv2.resize(pixels, (_WIDEST, max(round(height * _WIDEST / width), 1)), interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return Picture(jpeg.tobytes() if done else b"", sharpness)
