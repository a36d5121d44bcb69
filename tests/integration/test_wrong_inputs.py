"""What people get wrong. Each: one clear message, the right exit code, no traceback, nothing lost."""

import os
import subprocess
import sys

import numpy as np
import pytest

from agent.cli.receiver import Receiver, make_certificates
from tests.helpers import media, onnx_models
from tests.helpers.agent import Agent, source, source_named, upstream, write_config, write_recipe


def vedette(*arguments, **more):
    return subprocess.run([sys.executable, "-m", "agent", *arguments], capture_output=True, text=True, check=False, timeout=120, **more)


def check_message(done, code, *words):
    said = done.stderr + done.stdout
    assert done.returncode == code, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    return said


def own_model(tmp_path, content: bytes | None, fresh_state):
    """A recipe of one's own whose model has this content (None: no such file)."""
    engine = write_recipe(tmp_path, "mine", "file:model.onnx")
    if content is not None:
        (tmp_path / "recipes/mine/model.onnx").write_bytes(content)
    return write_config(tmp_path, engine, source("car", media.fetch(*media.CARPHONE).as_uri()), state=fresh_state)


@pytest.mark.parametrize(("kind", "words"), [
    ("missing", ["model.onnx"]), ("empty", ["model.onnx", "empty"]), ("garbage", ["model.onnx", "ONNX"]),
    ("truncated", ["model.onnx"]), ("classifier", ["head"]),
])
def test_models_that_cannot_be_used(tmp_path, fresh_state, kind, words):
    good = media.fetch(*media.CENTERFACE).read_bytes()
    content = {"missing": None, "empty": b"", "garbage": b"this is no model " * 99, "truncated": good[: len(good) // 2],
               "classifier": onnx_models.classifier().SerializeToString()}[kind]
    done = vedette("run", "-c", str(own_model(tmp_path, content, fresh_state)))
    said = check_message(done, 2, *words)
    assert "mend:" in said


@pytest.mark.parametrize(("name", "content", "words"), [
    ("missing.mp4", None, "No such file"), ("empty.mp4", b"", "is empty"),
    ("corrupt.mp4", np.random.default_rng(1).bytes(50_000), "corrupt"), ("text.mp4", b"hello\n" * 100, "corrupt"),
])
def test_clips_that_cannot_be_read(tmp_path, fresh_state, name, content, words):
    clip = tmp_path / name
    if content is not None:
        clip.write_bytes(content)
    done = vedette("run", "-c", str(write_config(tmp_path, source("car", clip.as_uri()), state=fresh_state)))
    check_message(done, 2, str(clip), words)


def test_a_clip_that_is_cut_off_gives_what_it_has_and_says_so(tmp_path, fresh_state):
    import cv2

    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    for value in range(60):
        writer.write(np.full((48, 64, 3), value * 4, np.uint8))
    writer.release()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    config = write_config(tmp_path, source("cut", f"{cut.as_uri()}?pace=all"), state=fresh_state)
    with Agent(config) as agent:
        code = agent.wait()
        last = source_named(agent.last(), "cut")
    assert "Traceback" not in agent.said()
    assert last.processed > 10
    assert (code, last.state) in {(2, "down"), (0, "ended")}  # FFmpeg may mend the index and end where the data ends
    assert code == 0 or "breaks at frame" in agent.said()


def test_one_bad_clip_does_not_stop_the_good_one(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("bad", "file:///nonexistent.mp4"), source("good", f"{carphone.as_uri()}?pace=all"),
                          state=fresh_state)
    with Agent(config) as agent:
        assert agent.wait() == 1, agent.said()
        assert source_named(agent.last(), "good").processed == 120
        assert source_named(agent.last(), "bad").state == "down"


def test_a_password_that_is_not_there_is_that_sources_trouble_and_is_waited_for(tmp_path, fresh_state, carphone):
    missing = tmp_path / "late mount" / "door"
    config = write_config(tmp_path, source("good", f"{carphone.as_uri()}?loop=1"),
                          source("door", "rtsp://127.0.0.1:1/x", username="vt", password=f"file:{missing}", retry_max="1s"),
                          source("gate", "rtsp://127.0.0.1:1/y", username="vt", password="credential:gate"), state=fresh_state)
    with Agent(config) as agent:
        now = agent.until(lambda s: source_named(s, "good").processed and all(
            source_named(s, name).state == "down" for name in ("door", "gate")))
        assert f"source.door.password: secret '{missing}': No such file" in source_named(now, "door").reason
        assert "source.gate.password: " in source_named(now, "gate").reason
        missing.parent.mkdir()
        missing.write_text("S3cret-of-the-door")
        agent.until(lambda s: "127.0.0.1:1/x: no connection" in source_named(s, "door").reason)
        shown = vedette("status", "-c", str(config), "--json").stdout
        assert agent.stop() == 0
    assert "source door is down: source.door.password: secret" in agent.said()
    assert [text for text in (agent.said(), shown) if "S3cret" in text or "Traceback" in text] == []


@pytest.mark.parametrize(("part", "words"), [
    ('[budget]\nwattage = "9W"', ["budget.wattage", "unknown key"]), ('[budget]\nwatts = "-9W"', ["budget.watts", "-9W"]),
    ('[engine]\nrecipe = "nothing"', ["nothing"]), ('[engine]\nprovider = "CUDAExecutionProvider"', ["CUDAExecutionProvider"]),
])
def test_configurations_that_cannot_be_used(tmp_path, fresh_state, carphone, part, words):
    config = write_config(tmp_path, source("car", carphone.as_uri()), part, state=fresh_state)
    done = vedette("run", "-c", str(config))
    check_message(done, 2 if "provider" in part else 78, *words)


def test_usage_is_explained():
    check_message(vedette("fly"), 64, "fly")
    check_message(vedette("run", "--fast"), 64, "--fast")


def test_an_unreachable_upstream_is_said_and_nothing_is_lost(tmp_path, fresh_state, carphone):
    certificates = tmp_path / "tls"
    certificates.mkdir()
    part = f'[upstream]\nurl = "https://127.0.0.1:1/"\nca_file = "{make_certificates(certificates).ca_file}"\ndrain = "1s"'
    with Agent(write_config(tmp_path, source("car", f"{carphone.as_uri()}?pace=all"), part, state=fresh_state)) as agent:
        assert agent.wait() == 1, agent.said()
        last = agent.last()
    assert "connection refused" in agent.said()
    assert "they stay in the spool" in agent.said()
    assert last.spool.depth == last.spool.committed > 100
    assert "Traceback" not in agent.said()


def test_an_untrusted_certificate_holds_and_nothing_is_sent(tmp_path, fresh_state, carphone):
    with Receiver(tmp_path / "up") as receiver:
        (tmp_path / "other").mkdir()
        stranger = make_certificates(tmp_path / "other")
        part = f'[upstream]\nurl = "{receiver.url}"\nca_file = "{stranger.ca_file}"\ndrain = "1s"'
        config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), part, state=fresh_state)
        with Agent(config) as agent:
            held = agent.until(lambda s: s.upstream.state == "holding")
            assert "certificate not trusted" in held.upstream.reason
            status = vedette("status", "-c", str(config))
            check_message(status, 1, "holding", "certificate not trusted")
            assert agent.stop() == 1
        assert receiver.events() == []
    assert "Traceback" not in agent.said()


def test_a_missing_authority_file_is_named(tmp_path, fresh_state, carphone):
    part = '[upstream]\nurl = "https://127.0.0.1:1/"\nca_file = "/nonexistent/ca.pem"'
    config = write_config(tmp_path, source("car", f"{carphone.as_uri()}?loop=1"), part, state=fresh_state)
    check_message(vedette("config", "check", "-c", str(config)), 0, "warning: upstream.ca_file: /nonexistent/ca.pem")


def test_a_read_only_state_directory_is_named(tmp_path, carphone):
    # /proc takes no directories from anyone, root included.
    config = write_config(tmp_path, source("car", carphone.as_uri()), state="/proc/vedette")
    check_message(vedette("run", "-c", str(config)), 78, "/proc/vedette", "state_dir")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a read-only file system: run the suite as root")
def test_a_state_directory_on_a_read_only_mount_is_named(tmp_path, carphone):
    place = tmp_path / "ro"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        config = write_config(tmp_path, source("car", carphone.as_uri()), state=place)
        check_message(vedette("run", "-c", str(config)), 2, str(place), "Read-only file system", "state directory", "tried again")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_config_check_finds_them_before_the_start(tmp_path, fresh_state, carphone):
    config = write_config(tmp_path, source("gone", "file:///nonexistent.mp4"), source("car", carphone.as_uri()), state=fresh_state)
    check_message(vedette("config", "check", "-c", str(config)), 0, "warning: source.gone.url", "/nonexistent.mp4")
    (tmp_path / "conf.d/00.toml").unlink()
    check_message(vedette("config", "check", "-c", str(config)), 0, "well")
    assert upstream is not None
    shown = vedette("config", "show", "-c", str(config))
    check_message(shown, 0, "[source.car]", 'read_timeout = "5s"', "[upstream]")
