import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.address import (
    ClipAddress,
    DeviceAddress,
    FolderAddress,
    SensorAddress,
    StreamAddress,
    parse,
)
from agent.capture.opening import SourceOptions, check_url
from agent.errors import ConfigError


@pytest.mark.parametrize(("url", "address"), [
    ("file:///a/clip.mp4", ClipAddress(path=Path("/a/clip.mp4"), loop=False, realtime=True)),
    ("file:///a/my%20clip.mp4?loop=1&pace=all", ClipAddress(path=Path("/a/my clip.mp4"), loop=True, realtime=False)),
    ("images:///pics", FolderAddress(path=Path("/pics"), loop=False, rate=None)),
    ("images:///pics?loop=1&fps=2.5", FolderAddress(path=Path("/pics"), loop=True, rate=2.5)),
    ("rtsp://cam/live?channel=1&subtype=0", StreamAddress(url="rtsp://cam/live?channel=1&subtype=0")),
    ("csi://0", SensorAddress(sensor=0)),
    ("v4l2:///dev/video0", DeviceAddress(device="/dev/video0", mjpeg=False)),
    ("v4l2:///dev/v4l/by-id/usb-046d_C920-video-index0?format=mjpeg",
     DeviceAddress(device="/dev/v4l/by-id/usb-046d_C920-video-index0", mjpeg=True)),
])
def test_good_addresses(url, address):
    assert parse(url) == address


@pytest.mark.parametrize(("url", "says"), [
    ("file:///a.mp4?loop=2", "loop=2"), ("file:///a.mp4?pace=foo", "pace=foo"), ("file:///a.mp4?speed=2", "'speed'"),
    ("file:///a.mp4?loop=1&loop=0", "twice"), ("file:///a.mp4?loop", "malformed"), ("file://a.mp4", "absolute"),
    ("file:///", "absolute"), ("file:///a%00b", "absolute"), ("file:///a#b.mp4", "#"),
    ("images:///pics?fps=0", "fps=0"), ("images:///pics?fps=nan", "fps=nan"), ("images:///p?fps=9999", "fps=9999"),
    ("images:///pics?fps=٣", "fps="), ("rtsp:///live", "no host"), ("rtsp://cam:port/live", "Port"),
    ("rtsp://[::1/live", "IPv6"), ("csi://x", "number"), ("csi://", "number"), ("csi://0?mode=1", "'mode'"),
    ("v4l2:///dev/video0 ! filesink", "device"), ('v4l2:///dev/video0"%20!%20filesink', "device"),
    ("v4l2:///etc/passwd", "device"), ("v4l2:///dev/video0?format=h264", "format=h264"),
    ("http://cam/", "http scheme"), ("clip.mp4", "no scheme"),
])
def test_bad_addresses_name_the_fault_and_the_remedy(url, says):
    with pytest.raises(ConfigError) as caught:
        check_url(url)
    assert says in caught.value.what
    assert caught.value.remedy


def test_login_in_an_address_is_refused_without_repeating_it():
    with pytest.raises(ConfigError) as caught:
        check_url("rtsp://root:hunter2@cam/live")
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=60), st.sampled_from(["", "rtsp://", "file:///", "images:///", "csi://", "v4l2:///dev/"]))
def test_no_text_whatever_breaks_the_check(text, prefix):
    with contextlib.suppress(ConfigError):
        check_url(prefix + text)


def test_password_is_not_in_the_repr():
    assert "hunter2" not in repr(SourceOptions(name="a", url="rtsp://cam/live", username="u", password="hunter2"))


def test_checking_needs_no_opencv():
    code = ("import sys; from agent.capture.opening import check_url; check_url('v4l2:///dev/video0'); "
            "sys.exit('cv2' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
