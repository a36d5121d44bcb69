"""Local cameras (V4L2, CSI) through a GStreamer pipeline that OpenCV runs.

On a Jetson JPEG is decoded and colours are turned by hardware (nvv4l2decoder, nvvidconv). A read may block for ever,
whatever the pipeline's own timeouts say (measured with OpenCV 4.6): the deadline is the reader's, outside.
"""

import ctypes
import os
import re
import time
from collections.abc import Callable
from fractions import Fraction

from agent.capture.address import DeviceAddress, SensorAddress
from agent.capture.opencv import grab_in_time, retrieved
from agent.capture.quiet import load_cv2
from agent.errors import SourceError
from agent.records import Pixels

cv2 = load_cv2()

# The newest frame only: an appsink that queues would let the delay grow.
_SINK = "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
_CHECK = ("check that it is plugged in, not used by another program, that the agent's user is in the group video, and "
          "that it has this size and rate: v4l2-ctl --list-formats-ext")
_ELEMENTS = ("`sudo apt install gstreamer1.0-plugins-base gstreamer1.0-plugins-good`; a Jetson's own (nv…) are in "
             "`nvidia-l4t-gstreamer`; then restart the agent")
_PLAIN = re.compile(r"[A-Za-z0-9_./:+@-]+")


def pipeline(camera: SensorAddress | DeviceAddress, *, jetson: bool, width: int | None = None,
             height: int | None = None, rate: float | None = None) -> str:
    """Return the pipeline for a camera in gst-launch's notation.

    Args:
        camera: Which one.
        jetson: Use the Jetson's own elements.
        width: Width asked of the camera, pixels.
        height: Height asked of it, pixels.
        rate: Frames per second asked of it.

    Raises:
        SourceError: a CSI camera away from a Jetson, or a device path with characters that gst-launch would read
            as something else.
    """
    wanted = "".join(f",{key}={value}" for key, value in (("width", width), ("height", height)) if value)
    if rate:
        fraction = Fraction(rate).limit_denominator(1001)  # 29.97 is 30000/1001
        wanted += f",framerate={fraction.numerator}/{fraction.denominator}"
    if isinstance(camera, SensorAddress):
        if not jetson:
            raise SourceError(f"csi://{camera.sensor}: CSI cameras are read through a Jetson's camera stack, and this "
                              "is no Jetson", "use v4l2:///dev/video0 here")
        source = f"nvarguscamerasrc sensor-id={int(camera.sensor)} ! video/x-raw(memory:NVMM),format=NV12{wanted}"
        return f"{source} ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! {_SINK}"
    if not _PLAIN.fullmatch(camera.device):
        raise SourceError(f"{camera.device!r} is not a device file", "write it like v4l2:///dev/video0")
    source = f'v4l2src device="{camera.device}"'
    if not camera.mjpeg:
        return f"{source} ! video/x-raw{wanted} ! videoconvert ! {_SINK}"
    if jetson:
        decoder = "nvv4l2decoder mjpeg=1 ! nvvidconv ! video/x-raw,format=BGRx"
        return f"{source} ! image/jpeg{wanted} ! {decoder} ! videoconvert ! {_SINK}"
    return f"{source} ! image/jpeg{wanted} ! jpegdec ! videoconvert ! {_SINK}"


def unknown_elements(text: str) -> list[str]:
    """Return the elements of a pipeline that GStreamer does not know; empty where it cannot be asked."""
    try:
        library = ctypes.CDLL("libgstreamer-1.0.so.0", os.RTLD_NOLOAD | os.RTLD_LAZY)  # OpenCV loaded it
    except OSError:
        return []
    if not library.gst_init_check(None, None, None):
        return []
    find, let_go = library.gst_element_factory_find, library.gst_object_unref
    find.argtypes, find.restype, let_go.argtypes = [ctypes.c_char_p], ctypes.c_void_p, [ctypes.c_void_p]
    missing = []
    for part in text.split(" ! "):
        name = part.split()[0]
        if "/" in name:  # a filter, video/x-raw
            continue
        if factory := find(name.encode()):
            let_go(factory)
        else:
            missing.append(name)
    return missing


class GStreamerSource:
    """A running pipeline that ends in an appsink.

    Args:
        what: The source's address, for messages.
        text: The pipeline.
        read_timeout_s: A read that takes this long means a dead camera, seconds.
        device: The camera's device file; None = it has none.
        clock: Monotonic seconds.

    Raises:
        SourceError: the device cannot be opened, this OpenCV has no GStreamer, or the pipeline does not start.
    """

    live = True

    def __init__(self, what: str, text: str, *, read_timeout_s: float, device: str | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        if device is not None:
            _try(device, what)
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError(f"{what}: this OpenCV ({cv2.__version__}) has no GStreamer",
                              "pip's OpenCV has none: install the system's python3-opencv, uninstall opencv-python* "
                              "from the venv, and make the venv with --system-site-packages")
        if missing := unknown_elements(text):  # found later, GStreamer would write of its own what it thinks of that
            raise SourceError(f"{what}: GStreamer has no element {', '.join(missing)} here", _ELEMENTS)
        self._what = what
        self._read_timeout_s = read_timeout_s
        self._clock = clock
        self._next = 0
        self._capture = cv2.VideoCapture(text, cv2.CAP_GSTREAMER)
        if not self._capture.isOpened():
            raise SourceError(f"{what}: the camera did not start with: {text}", _CHECK)

    def grab(self) -> int:
        """Hold the next frame; see :class:`agent.capture.source.Source`."""
        grab_in_time(self._capture, self._what, self._read_timeout_s, self._clock,
                     "check the camera's cable and power supply")
        index, self._next = self._next, self._next + 1
        return index

    def retrieve(self) -> Pixels:
        """Return the held frame."""
        return retrieved(self._capture, f"{self._what}, frame {self._next - 1}")

    def close(self) -> None:
        """Stop the pipeline."""
        self._capture.release()


def _try(device: str, what: str) -> None:
    """Open the device file and close it again: of a camera that is not there GStreamer gives no reason."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError as error:
        raise SourceError(f"{what}: {device} is not there", "plug the camera in, or correct the address: "
                          "`v4l2-ctl --list-devices` shows what there is") from error
    except PermissionError as error:
        raise SourceError(f"{what}: {device} cannot be opened: {error.strerror}", "the agent's user must be in the "
                          "group video, and its unit must allow the device: `sudo vedette-setup`, then restart it"
                          ) from error
    except OSError as error:
        raise SourceError(f"{what}: {device} cannot be opened: {error.strerror}", _CHECK) from error
