"""Batches: from the bodies of events to the bytes of one request, and back. Pure.

Promise: the same events in the same format make the same bytes and the same id, whenever and wherever they are made.
"""

import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from agent.errors import ConfigError, SpoolError, missing_extra

Format = Literal["cloudevents", "json", "ndjson"]
Compression = Literal["gzip", "zstd", "none"]

# zlib's default: 2 % more bytes than level 9 for half of the time.
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3


_FORMATS: dict[str, Format] = {"application/cloudevents-batch+json": "cloudevents", "application/json": "json",
                               "application/x-ndjson": "ndjson"}
_COMPRESSIONS: dict[str, Compression] = {"gzip": "gzip", "zstd": "zstd", "": "none"}
_TYPES = {format_: content_type for content_type, format_ in _FORMATS.items()}


class Encoded(NamedTuple):
    """The bytes of a request.

    Attributes:
        id: SHA-256 of the body before compression, 64 hex digits: what a receiver can check, whatever encoding it
            came in; the same on every retry and after a restart.
        content_type: Media type of the body.
        encoding: Its content encoding, empty for none.
        body: The encoded bytes.
    """

    id: str
    content_type: str
    encoding: str
    body: bytes


class Head(msgspec.Struct, frozen=True):
    """What the spool reads of an event's body."""

    id: str
    type: str
    sequence: str
    subject: str = ""


class _Time(msgspec.Struct, frozen=True):
    time: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")] | None = None


def check_compression(compression: str) -> None:
    """Raise ConfigError when ``compression`` needs a package that is not installed."""
    if compression == "zstd" and importlib.util.find_spec("zstandard") is None:
        raise ConfigError('upstream.compression = "zstd": the package zstandard is not installed',
                          f'{missing_extra("zstd")}, or use "gzip"')


def encode(bodies: Sequence[bytes], format_: Format, compression: Compression) -> Encoded:
    """Return the request that carries ``bodies``, each a JSON object in UTF-8 without line breaks."""
    plain = b"".join(body + b"\n" for body in bodies) if format_ == "ndjson" else b"[" + b",".join(bodies) + b"]"
    name = hashlib.sha256(plain).hexdigest()
    if compression == "none":
        return Encoded(name, _TYPES[format_], "", plain)
    if compression == "gzip":
        return Encoded(name, _TYPES[format_], "gzip", gzip.compress(plain, _GZIP_LEVEL, mtime=0))
    return Encoded(name, _TYPES[format_], "zstd", _zstandard().ZstdCompressor(level=_ZSTD_LEVEL).compress(plain))


def plain_of(body: bytes, encoding: str) -> bytes:
    """Return a request's body before its compression.

    Raises:
        SpoolError: the bytes are damaged, or the package that can read them is missing.
    """
    if encoding == "zstd":
        return _unzstd(body)
    if encoding != "gzip":
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(error) from error


def readable(encoding: str) -> bool:
    """Tell whether bytes of this encoding can be read here."""
    return encoding != "zstd" or importlib.util.find_spec("zstandard") is not None


def is_sound(name: str, body: bytes, encoding: str) -> bool:
    """Tell whether a request is still what it was when it got its id ``name``: a disk can flip bits."""
    try:
        return hashlib.sha256(plain_of(body, encoding)).hexdigest() == name
    except SpoolError:
        return False


def encode_again(bodies: Sequence[bytes], content_type: str, encoding: str) -> Encoded:
    """Return a request that carries ``bodies`` in the same way as an earlier one."""
    return encode(bodies, _FORMATS[content_type], _COMPRESSIONS[encoding])


def is_as(content_type: str, encoding: str, format_: Format, compression: Compression) -> bool:
    """Tell whether a request is of this format and compression."""
    return (_FORMATS.get(content_type), _COMPRESSIONS.get(encoding)) == (format_, compression)


def decode(body: bytes, content_type: str, encoding: str) -> list[bytes]:
    """Return the bodies of the events in a request.

    Raises:
        SpoolError: the bytes are damaged, or the package that can read them is missing.
    """
    plain = plain_of(body, encoding)
    if content_type == _TYPES["ndjson"]:
        return plain.splitlines()
    try:
        return [bytes(raw) for raw in msgspec.json.decode(plain, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(error) from error


def head(body: bytes) -> Head:
    """Return what stands in the envelope of one event that was given its sequence.

    Raises:
        SpoolError: it is no such event.
    """
    try:
        return msgspec.json.decode(body, type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpoolError(f"an event in the spool cannot be read: {error}",
                         "`vedette spool verify` says which; export the others and move the file away") from error


def time_of(body: bytes) -> str | None:
    """Return an event's time, None when it has none that is RFC 3339 in UTC."""
    try:
        return msgspec.json.decode(body, type=_Time).time
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def is_whole(body: bytes) -> bool:
    """Tell whether a body is still the event that was written: a disk can flip bits."""
    try:
        msgspec.json.decode(body, type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return b"\n" not in body


def numbered(body: bytes, sequence: int) -> bytes:
    """Return an event's body with its sequence as the last attribute."""
    return body[:-1] + b',"sequence":"%012d"}' % sequence


def _unzstd(body: bytes) -> bytes:
    try:
        zstandard = _zstandard()
    except ImportError as error:
        raise _damaged(error) from error
    try:
        plain: bytes = zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as error:
        raise _damaged(error) from error
    return plain


def _zstandard() -> Any:
    import zstandard  # noqa: PLC0415 -- an extra

    return zstandard


def _damaged(error: Exception) -> SpoolError:
    return SpoolError(f"a sealed batch cannot be read: {error}",
                      "`vedette spool verify` says which; export the others and move the file away")
