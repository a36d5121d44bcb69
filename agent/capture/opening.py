"""From a source's options to an open source: one function, one adapter for each kind of address.

Adapters are imported when their kind is opened, so checking an address needs no OpenCV.
"""

from dataclasses import dataclass, field
from pathlib import Path

from agent.capture.address import ClipAddress, DeviceAddress, FolderAddress, SensorAddress, StreamAddress, parse
from agent.capture.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """All that is needed to open one source.

    Attributes:
        name: The source's name.
        url: Address without user and password, as in the configuration.
        username: User for the stream, or None.
        password: The secret itself, or None.
        open_timeout_s: Opening may take this long, seconds.
        read_timeout_s: A read that takes this long means a dead source, seconds.
        width: Capture width asked of v4l2 and csi cameras, pixels.
        height: Capture height asked of v4l2 and csi cameras, pixels.
        rate: Capture rate asked of v4l2 and csi cameras, frames per second.
    """

    name: str
    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0
    width: int | None = None
    height: int | None = None
    rate: float | None = None


def check_url(url: str) -> None:
    """Check a source's address without opening it.

    Raises:
        ConfigError: it cannot be used as it stands; says which part and how to write it.
    """
    parse(url)


def on_jetson() -> bool:
    """Tell whether this is a Jetson: L4T, its Linux, leaves this file on every one."""
    return Path("/etc/nv_tegra_release").exists()


def open_source(options: SourceOptions) -> Source:
    """Open the source; blocks until it is open or failed.

    Raises:
        ConfigError: the address cannot be used as it stands.
        SourceError: it cannot be opened now; a SourceGoneError where trying again is useless.
    """
    match parse(options.url):
        case ClipAddress() as clip:
            from agent.capture.opencv import ClipSource  # noqa: PLC0415  (needs OpenCV; checking an address does not)
            return ClipSource(clip)
        case StreamAddress() as stream:
            from agent.capture.opencv import StreamSource  # noqa: PLC0415  (as above)
            return StreamSource(stream, username=options.username, password=options.password,
                                open_timeout_s=options.open_timeout_s, read_timeout_s=options.read_timeout_s)
        case FolderAddress() as folder:
            from agent.capture.images import FolderSource  # noqa: PLC0415  (as above)
            return FolderSource(folder)
        case SensorAddress() | DeviceAddress() as camera:
            from agent.capture.gstreamer import GStreamerSource, pipeline  # noqa: PLC0415  (as above)
            text = pipeline(camera, jetson=on_jetson(), width=options.width, height=options.height, rate=options.rate)
            device = camera.device if isinstance(camera, DeviceAddress) else None
            return GStreamerSource(options.url, text, read_timeout_s=options.read_timeout_s, device=device)
