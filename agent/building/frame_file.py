"""One kept frame as a file: a header that can be read alone, and the pixels, packed without loss.

Promises: what is unpacked is what was packed, bit by bit, or nothing. Opens no file by itself.
"""

import hashlib
import struct
import zlib
from typing import BinaryIO

import msgspec
import numpy as np

from agent.records import Pixels

_MAGIC = b"vedette calibration frame 1\n"
_START = struct.Struct(f">{len(_MAGIC)}s32sI")  # magic, SHA-256 of all that follows, length of the header
_LONGEST = 4096  # bytes of a header


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a frame.

    Attributes:
        height: Pixels.
        width: Pixels.
        source: Name of its source.
        at: When it was offered, seconds since the epoch.
        serial: How many frames had been offered by then.
    """

    height: int
    width: int
    source: str
    at: float
    serial: int


def longest(height: int, width: int) -> int:
    """Return the most bytes a frame's file can take: noise grows a little when packed."""
    raw = height * width * 3
    return raw + raw // 1000 + _LONGEST


def pack(canvas: Pixels, header: Header) -> bytes:
    """Return the file's content.

    Each pixel is written as its difference from its left neighbour: that packs a third better than the pixels do.

    Args:
        canvas: (H, W, 3) uint8.
        header: Goes before it.
    """
    change = canvas.copy()
    change[:, 1:] -= canvas[:, :-1]
    written = msgspec.json.encode(header)
    body = written + zlib.compress(change.tobytes(), 1)
    return _START.pack(_MAGIC, hashlib.sha256(body).digest(), len(written)) + body


def unpack(content: bytes, height: int, width: int) -> Pixels | None:
    """Return the picture, (H, W, 3) uint8, or None when the content is damaged or of another size."""
    try:
        magic, digest, length = _START.unpack_from(content)
        body = content[_START.size:]
        if magic != _MAGIC or hashlib.sha256(body).digest() != digest:
            return None
        header = msgspec.json.decode(body[:length], type=Header)
        pixels = zlib.decompressobj().decompress(body[length:], height * width * 3 + 1)
    except (struct.error, zlib.error, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if (header.height, header.width) != (height, width) or len(pixels) != height * width * 3:
        return None
    change = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    return np.cumsum(change, axis=1, dtype=np.uint8)


def read_header(file: BinaryIO) -> Header | None:
    """Return the header of an open file, or None when there is none; the pixels are not read, so not checked."""
    try:
        magic, _, length = _START.unpack(file.read(_START.size))
        return msgspec.json.decode(file.read(min(length, _LONGEST)), type=Header) if magic == _MAGIC else None
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError):
        return None
