"""The pipeline's text, and the same text run for real by the system's OpenCV where that has GStreamer."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.capture import gstreamer
from agent.capture.address import DeviceAddress, SensorAddress
from agent.capture.gstreamer import GStreamerSource, pipeline
from agent.errors import SourceError

VIDEO0 = DeviceAddress(device="/dev/video0", mjpeg=False)
VIDEO1 = DeviceAddress(device="/dev/video1", mjpeg=True)
SINK = "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
SYSTEM_PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("camera", "how", "text"), [
    (VIDEO0, {"jetson": False}, f'v4l2src device="/dev/video0" ! video/x-raw ! videoconvert ! {SINK}'),
    (VIDEO0, {"jetson": True, "width": 1280, "height": 720, "rate": 29.97},
     f'v4l2src device="/dev/video0" ! video/x-raw,width=1280,height=720,framerate=2997/100 ! videoconvert ! {SINK}'),
    (VIDEO1, {"jetson": False, "rate": 30.0},
     f'v4l2src device="/dev/video1" ! image/jpeg,framerate=30/1 ! jpegdec ! videoconvert ! {SINK}'),
    (VIDEO1, {"jetson": True},
     ('v4l2src device="/dev/video1" ! image/jpeg ! nvv4l2decoder mjpeg=1 ! nvvidconv ! video/x-raw,format=BGRx ! '
      f"videoconvert ! {SINK}")),
    (SensorAddress(sensor=1), {"jetson": True, "width": 1920, "height": 1080, "rate": 30.0},
     ("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=30/1 ! "
      f"nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! {SINK}")),
])
def test_pipeline_text(camera, how, text):
    assert pipeline(camera, **how) == text


def test_csi_needs_a_jetson():
    with pytest.raises(SourceError, match="no Jetson"):
        pipeline(SensorAddress(sensor=0), jetson=False)


@pytest.mark.parametrize("device", ['/dev/video0" ! filesink location="/x', "/dev/a b", "/dev/a!b", "/dev/a\nb", ""])
def test_no_element_can_be_smuggled_in(device):
    with pytest.raises(SourceError, match="not a device file"):
        pipeline(DeviceAddress(device=device, mjpeg=False), jetson=True)


def test_opencv_without_gstreamer_says_what_to_install():
    import cv2
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("needs an OpenCV without GStreamer: pip install opencv-python-headless")
    with pytest.raises(SourceError, match="has no GStreamer") as caught:
        GStreamerSource("v4l2:///dev/video0", pipeline(VIDEO0, jetson=False), read_timeout_s=2)
    assert "system's python3-opencv" in caught.value.remedy


def test_of_a_camera_that_is_not_there_no_opencv_is_blamed(monkeypatch):
    monkeypatch.setattr(gstreamer.cv2.videoio_registry, "hasBackend", lambda _: False)
    with pytest.raises(SourceError, match="/dev/video99 is not there"):
        GStreamerSource("v4l2:///dev/video99", "", read_timeout_s=2, device="/dev/video99")


PROBE = "import cv2, sys; sys.exit(0 if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER) else 3)"
REAL = """
import sys
from agent.capture.address import DeviceAddress
from agent.capture.gstreamer import GStreamerSource, pipeline
from agent.errors import SourceError
source, _, tail = pipeline(DeviceAddress(device="/dev/video0", mjpeg={mjpeg}), jetson=False, width=320, height=240,
                           rate=25.0).partition(" ! ")
test = "videotestsrc is-live=true num-buffers=30"
if {mjpeg}:
    test += " ! video/x-raw,width=320,height=240,framerate=25/1 ! jpegenc"
source = GStreamerSource("a test picture", test + " ! " + tail, read_timeout_s=5.0)
assert [source.grab() for _ in range(5)] == list(range(5))
pixels = source.retrieve()
assert pixels.shape == (240, 320, 3) and pixels.dtype == "uint8" and pixels.std() > 20, pixels.shape
try:
    for _ in range(60): source.grab()
except SourceError as error:
    assert "the stream broke off" in error.what, error
else:
    sys.exit("a pipeline that ended went on")
source.close()
try:
    GStreamerSource("v4l2:///dev/video99", pipeline(DeviceAddress(device="/dev/video99", mjpeg=False), jetson=False),
                    read_timeout_s=5.0)
except SourceError as error:
    assert "did not start" in error.what, error
else:
    sys.exit("a missing camera opened")
"""
GONE = """
import sys
from agent.capture.opening import SourceOptions, open_source
from agent.errors import SourceError
try:
    open_source(SourceOptions(name="door", url="v4l2://{device}"))
except SourceError as error:
    print(error)
else:
    sys.exit("it opened")
"""


LACKING = """
from agent.capture.gstreamer import GStreamerSource
from agent.errors import SourceError
try:
    GStreamerSource("door", "videotestsrc ! nvv4l2decoder mjpeg=1 ! nvvidconv ! video/x-raw,format=BGRx ! appsink", read_timeout_s=2.0)
except SourceError as error:
    print(error)
"""


def run_by_system(code):
    if not Path(SYSTEM_PYTHON).exists() or Path(sys.executable).resolve() == Path(SYSTEM_PYTHON):
        pytest.skip(f"needs {SYSTEM_PYTHON}: run on Debian or Ubuntu")
    if subprocess.run([SYSTEM_PYTHON, "-c", PROBE], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the system's OpenCV with GStreamer: apt-get install python3-opencv gstreamer1.0-plugins-good")
    return subprocess.run([SYSTEM_PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("mjpeg", [False, True], ids=["raw", "mjpeg"])
def test_pipeline_runs_in_the_systems_opencv(mjpeg):
    done = run_by_system(REAL.format(mjpeg=mjpeg))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("device", "words", "mend"), [
    ("/dev/video99", "v4l2:///dev/video99: /dev/video99 is not there", "--list-devices"),
    ("/dev/fd", "/dev/fd cannot be opened: Is a directory", "plugged in"),
    ("/dev/null", "/dev/null: the camera did not start with", "plugged in")])
def test_what_cannot_be_opened_is_said_by_us_and_nobody_else_writes(device, words, mend):
    done = run_by_system(GONE.format(device=device))
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout
    assert mend in done.stdout


def test_an_element_that_is_not_installed_is_named_and_no_camera_is_blamed():
    done = run_by_system(LACKING)
    assert (done.returncode, done.stderr) == (0, "")
    assert "door: GStreamer has no element nvv4l2decoder, nvvidconv here" in done.stdout
    assert "apt install gstreamer1.0-plugins-base" in done.stdout


def test_a_device_that_may_not_be_opened_names_the_group(monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(gstreamer.os, "open", refused)
    monkeypatch.setattr(gstreamer.cv2.videoio_registry, "hasBackend", lambda _: True)
    with pytest.raises(SourceError, match="/dev/video0 cannot be opened: Operation not permitted") as caught:
        GStreamerSource("v4l2:///dev/video0", "", read_timeout_s=2, device="/dev/video0")
    assert "group video" in caught.value.remedy
