"""Two clips, one real RTSP camera that is killed and comes back, one that never was there: nobody disturbs anybody."""

import socket
import time

import pytest

from agent.cli.receiver import Receiver
from tests.helpers import media
from tests.helpers.agent import Agent, source, source_named, upstream, write_config
from tests.helpers.rtsp import RtspCamera, free_port, need_rtsp

pytestmark = [pytest.mark.rtsp, pytest.mark.slow, pytest.mark.alone]
CLIPS = ("car", "street")


def rates(agent, seconds):
    """Frames seen and looked at per second for each clip, over a span of our own clock."""
    before, began = agent.snapshot(), time.monotonic()
    time.sleep(seconds)
    after, span = agent.snapshot(), time.monotonic() - began
    return {name: ((source_named(after, name).seen - source_named(before, name).seen) / span,
                   (source_named(after, name).processed - source_named(before, name).processed) / span) for name in CLIPS}


def test_a_camera_dies_and_returns_and_the_others_never_notice(tmp_path, fresh_state):
    need_rtsp()
    camera = RtspCamera(tmp_path / "camera", "--fps", "15")
    camera.start()
    try:
        with Receiver(tmp_path / "up") as receiver:
            config = write_config(
                tmp_path, source("car", f"{media.fetch(*media.CARPHONE).as_uri()}?loop=1", max_rate="10fps"),
                source("street", f"{media.fetch(*media.BIKES).as_uri()}?loop=1", max_rate="10fps"),
                source("yard", camera.url, read_timeout="2s", max_rate="10fps"),
                source("ghost", f"rtsp://127.0.0.1:{free_port()}/cam"), upstream(receiver), state=fresh_state)
            with Agent(config) as agent:
                agent.until(lambda s: source_named(s, "yard").processed > 5 and source_named(s, "car").processed > 5)
                calm = agent.snapshot()
                assert source_named(calm, "ghost").state == "down"
                assert "refused" in source_named(calm, "ghost").reason
                assert calm.exit_code() == 1
                before = rates(agent, 5)

                camera.kill()
                killed = time.monotonic()
                agent.until(lambda s: source_named(s, "yard").state == "down", 10, "the death is told")
                told_s = time.monotonic() - killed
                during = rates(agent, 8)
                gone = source_named(agent.snapshot(), "yard")
                assert gone.last_frame_age_s > 8

                camera.start()
                back = time.monotonic()
                agent.until(lambda s: source_named(s, "yard").state == "live", 10, "the camera is back")
                recovered_s = time.monotonic() - back
                seen = source_named(agent.snapshot(), "yard").processed
                agent.until(lambda s: source_named(s, "yard").processed > seen + 5, 10, "its frames are looked at again")
                after = rates(agent, 5)
                assert source_named(agent.snapshot(), "yard").reconnects == 1
                assert agent.stop() == 0, agent.said()
            changes = [(event["subject"], event["data"]["state"]) for event in receiver.events() if event["type"] == "source.state"]
    finally:
        camera.kill()
    print(f"\ndeath told after {told_s:.1f} s, recovered {recovered_s:.1f} s after its return; (seen, looked at) per second "
          f"before {before}, during {during}, after {after}")
    assert recovered_s <= 5
    for name in CLIPS:
        for now in (during, after):
            # What the clips' own pace gives is exact; how many frames the engine manages depends on the machine.
            assert now[name][0] == pytest.approx(before[name][0], rel=0.1), name
            assert now[name][1] > 0.5 * before[name][1], name
    assert [now for name, now in changes if name == "yard"] == ["live", "down", "live"]
    assert [now for name, now in changes if name == "ghost"] == ["down"]
    assert [now for name, now in changes if name in CLIPS] == ["live", "live"]


def test_a_host_that_accepts_and_never_answers_holds_nobody(tmp_path, fresh_state):
    """OpenCV opens one capture at a time in a process, unless it is told better."""
    need_rtsp()
    camera = RtspCamera(tmp_path / "camera", "--fps", "15")
    camera.start()
    try:
        with socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            mute.listen(50)
            config = write_config(
                tmp_path, source("a-mute", f"rtsp://127.0.0.1:{mute.getsockname()[1]}/cam", open_timeout="8s"), source("b-yard", camera.url),
                source("c-car", f"{media.fetch(*media.CARPHONE).as_uri()}?loop=1"), state=fresh_state)
            with Agent(config) as agent:
                agent.until(lambda s: s.ready and source_named(s, "c-car").processed > 5, 6, "the clip is not held")
                agent.until(lambda s: source_named(s, "b-yard").state == "live", 6, "the camera is not held")
                assert source_named(agent.snapshot(), "a-mute").state == "connecting"
                began, seen = time.monotonic(), source_named(agent.snapshot(), "c-car").seen
                told = agent.until(lambda s: source_named(s, "a-mute").state == "down", 12)
                # The clip, four seconds long, went round meanwhile without a pause.
                rate = (source_named(told, "c-car").seen - seen) / (time.monotonic() - began)
                assert rate == pytest.approx(30, rel=0.15)
                assert "no answer" in source_named(told, "a-mute").reason
                assert agent.stop() == 0
    finally:
        camera.kill()
