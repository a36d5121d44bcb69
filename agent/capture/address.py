"""Source URLs, taken apart and checked, so that a typing error is found before anything is opened.

It looks at the text only: whether the file or camera is there shows when it is opened.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from agent.errors import ConfigError
from agent.redact import redact

# A paced source sleeps at most one period in a read, and that must stay below every reader's deadline.
LOWEST_RATE = 1.0
HIGHEST_RATE = 1000.0
# What udev makes: /dev/video0, /dev/v4l/by-id/usb-046d_C920-video-index0, /dev/v4l/by-path/…:1.0-video-index0.
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_./:+@-]+", re.ASCII)
_SENSOR = re.compile(r"[0-9]{1,2}")
_POSSIBLE = {
    "loop": "write loop=0 or loop=1",
    "pace": "write pace=realtime or pace=all",
    "fps": f"write a number from {LOWEST_RATE:g} to {HIGHEST_RATE:g}, for example fps=2",
    "format": "write format=raw or format=mjpeg",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAddress:
    """A video file. ``realtime``: frames come at the clip's own rate, as from a camera."""

    path: Path
    loop: bool
    realtime: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderAddress:
    """A folder of pictures, shown at ``rate`` frames per second or, with None, as fast as they are taken."""

    path: Path
    loop: bool
    rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAddress:
    """An RTSP stream; the URL holds no user and no password."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorAddress:
    """A CSI camera, by its number."""

    sensor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAddress:
    """A V4L2 camera; ``mjpeg``: it is asked for JPEG pictures, which fit more frames through USB."""

    device: str
    mjpeg: bool


Address = ClipAddress | FolderAddress | StreamAddress | SensorAddress | DeviceAddress


def parse(url: str) -> Address:
    """Take a source URL apart.

    Raises:
        ConfigError: an unknown scheme or query key, a bad value, a missing part, or a login inside the URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _bad(url, str(error), "write it like rtsp://host:554/path") from error
    if "@" in parts.netloc:
        raise _bad(url, "user or password inside the address", "move them to `username` and `password`")
    if parts.fragment:
        raise _bad(url, "a # in the address", "write it as %23")
    if parts.scheme not in _KINDS:
        raise _bad(url, f"{parts.scheme or 'no'} scheme is not known",
                   "use rtsp://, v4l2://, csi://, file:// or images://")
    return _KINDS[parts.scheme](url, parts)


def _stream(url: str, parts: SplitResult) -> StreamAddress:
    if not parts.hostname:
        raise _bad(url, "no host", "write it like rtsp://host:554/path")
    return StreamAddress(url=url)


def _clip(url: str, parts: SplitResult) -> ClipAddress:
    query = _query(url, parts, {"loop": "[01]", "pace": "realtime|all"})
    return ClipAddress(path=_path(url, parts), loop=query.get("loop") == "1", realtime=query.get("pace") != "all")


def _folder(url: str, parts: SplitResult) -> FolderAddress:
    query = _query(url, parts, {"loop": "[01]", "fps": r"\d+(\.\d+)?"})
    rate = float(query["fps"]) if "fps" in query else None
    if rate is not None and not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise _bad(url, f"fps={query['fps']} is not possible", _POSSIBLE["fps"])
    return FolderAddress(path=_path(url, parts), loop=query.get("loop") == "1", rate=rate)


def _sensor(url: str, parts: SplitResult) -> SensorAddress:
    _query(url, parts, {})
    if not _SENSOR.fullmatch(parts.netloc) or parts.path not in {"", "/"}:
        raise _bad(url, "not a camera's number", "write it like csi://0")
    return SensorAddress(sensor=int(parts.netloc))


def _device(url: str, parts: SplitResult) -> DeviceAddress:
    query = _query(url, parts, {"format": "raw|mjpeg"})
    device = str(_path(url, parts))
    if not _DEVICE.fullmatch(device):
        raise _bad(url, "not a device file", "write it like v4l2:///dev/video0")
    return DeviceAddress(device=device, mjpeg=query.get("format") == "mjpeg")


_KINDS: dict[str, Callable[[str, SplitResult], Address]] = {
    "rtsp": _stream, "rtsps": _stream, "file": _clip, "images": _folder, "csi": _sensor, "v4l2": _device}


def _query(url: str, parts: SplitResult, known: dict[str, str]) -> dict[str, str]:
    """Return the query as a dictionary; ``known`` gives each key's pattern."""
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError as error:
        raise _bad(url, f"the part behind the ? is malformed: {error}", "write it like ?key=value&key=value") from error
    query: dict[str, str] = {}
    for key, value in pairs:
        if key not in known:
            raise _bad(url, f"unknown key {key!r}", f"known here: {', '.join(known) or 'none'}")
        if key in query:
            raise _bad(url, f"{key} is given twice", "keep one of them")
        if not re.fullmatch(known[key], value, re.ASCII):
            raise _bad(url, f"{key}={value} is not possible", _POSSIBLE[key])
        query[key] = value
    return query


def _path(url: str, parts: SplitResult) -> Path:
    if parts.netloc or not parts.path.startswith("/") or parts.path == "/" or "%00" in parts.path:
        raise _bad(url, "no absolute path", f"write it with three slashes, like {parts.scheme}:///srv/clip.mp4")
    return Path(unquote(parts.path))


def _bad(url: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(redact(f"source address {url}: {problem}"), remedy)
