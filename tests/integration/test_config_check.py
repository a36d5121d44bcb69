"""`vedette config check` calls a fault what `vedette run` ends on, a warning what it starts with; it leaves no trace."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec

import pytest
import trustme
from click.testing import CliRunner

from agent.cli.config import config as command
from agent.cli.receiver import make_certificates
from agent.config import load
from agent.errors import EXIT_CONFIG, EXIT_DOWN, EXIT_OK
from tests.helpers.agent import Agent, write_config, write_recipe


@pytest.fixture
def box(tmp_path, monkeypatch, fresh_state, carphone):
    """A folder with all that a configuration may name, all of it well; relative paths start here."""
    for variable in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    made = make_certificates(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(carphone)
    write_recipe(tmp_path, "mine", "file:model.onnx")
    (tmp_path / "token").write_text("geheim")
    (tmp_path / "dull").write_text("no certificate")
    (tmp_path / "umlaut").write_text("gehöim")
    (tmp_path / "long").write_text("a token that nobody guesses")
    old = trustme.CA().issue_cert("box", not_after=datetime(2026, 1, 2, tzinfo=timezone.utc))
    old.private_key_and_cert_chain_pem.write_to_path(tmp_path / "old.pem")
    monkeypatch.chdir("/")
    source = f'[source.door]\nurl = "{(tmp_path / "clip.mp4").as_uri()}?loop=1"\n'
    good = (f'[engine]\nrecipes = ["recipes"]\n[upstream]\nurl = "https://127.0.0.1:1/x"\nca_file = "ca.pem"\ndrain = "0s"\n'
            f'client_cert = "{made.server_cert.name}"\nclient_key = "file:{made.server_key.name}"\ntoken = "file:token"')
    return lambda *parts: write_config(tmp_path, source, good, *parts, state=fresh_state)


def check(path):
    """Return what is found, as (fault or warning, words)."""
    done = CliRunner().invoke(command, ["check", "--json", "-c", str(path)], standalone_mode=False)
    assert done.exception is None, done.exception
    found = json.loads(done.stdout)
    assert done.return_value == (EXIT_CONFIG if any(each["kind"] == "fault" for each in found) else EXIT_OK)
    assert all(each["remedy"] for each in found)
    return [(each["kind"], each["what"]) for each in found]


def test_all_is_well_and_nothing_is_made(box, tmp_path):
    path = box('[status]\nlisten = "127.0.0.1:8642"')
    before = {file: file.lstat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert check(path) == []
    assert {file: file.lstat().st_mtime_ns for file in tmp_path.rglob("*")} == before


FAULTS = [
    ('[engine]\nrecipe = "nothing"', ["'nothing'"]),
    ('[engine]\nrecipe = "mine"', ["recipe mine: its model", "model.onnx", "No such file"]),
    ("[engine]\nsize = [100, 64]", ["engine.size", "multiples of 32"]),
    ('[engine]\nprovider = "NoSuchProvider"', ["'NoSuchProvider'"]),
    pytest.param('[engine]\nruntime = "tensorrt"', ["tensorrt is not installed"],
                 marks=pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here: run it where it is not")),
    ('[device]\nstate_dir = "token/state"', ["state directory", "/token is not a directory"]),
    ('[device]\nstate_dir = "token"', ["state directory", "/token is not a directory"]),
    (f'[status]\nsocket = "{"x" * 108}"', ["longer than 107 bytes"]),
    ('[upstream]\nclient_key = "credential:key"', ["not started by systemd"]),
    ('[upstream]\ntoken = "file:none"', ["secret", "/none"]),
    ('[source.yard]\nurl = "file:///"', ["no absolute path"]),
    ('[source.yard]\nurl = "v4l2:///usr"', ["not a device file"]),
    ('[source.door]\nurl = "file:///none.mp4"', ["source.door.url", "No such file"]),  # all there is, and not looped
    ('[source.door]\nurl = "images:///none"', ["source.door.url", "No such file"]),
]
WARNINGS = [
    ("[budget]\nsizes = [[320, 320]]", ["budget.sizes", "[320, 320] is not smaller than the canvas of the engine, [320, 320]"]),
    ("[budget]\nsizes = [[100, 64]]", ["budget.sizes", "recipe centerface", "multiples of 32"]),
    ('[engine]\nrecipes = ["recipes", "none"]', ["engine.recipes", "/none", "No such file"]),
    ('[engine]\nrecipes = ["recipes", "token"]', ["engine.recipes", "a file, not a folder"]),
    ('[budget]\nsysfs = "none"', ["budget.sysfs", "/none", "No such file"]),
    ('[budget]\ntelemetry = "sysfs"\nsysfs = "token"', ["budget.sysfs", "a file, not a folder"]),
    ('[budget]\ntelemetry = "rapl"\nsysfs = "/nowhere"', ["budget.sysfs", "/nowhere", "No such file"]),
    ('[source.yard]\nurl = "v4l2:///dev/video99"', ["source.yard.url", "/dev/video99", "No such file"]),
    ('[source.door]\nurl = "v4l2:///dev/video99"', ["source.door.url", "/dev/video99", "No such file"]),  # all there is
    ('[source.door]\nurl = "file:///none.mp4?loop=1"', ["source.door.url", "No such file"]),
    ('[source.yard]\nurl = "file:///none.mp4"', ["source.yard.url", "No such file"]),
    ('[source.yard]\nurl = "file:///usr"', ["source.yard.url", "a folder, not a file"]),
    ('[source.yard]\nurl = "images:///none"', ["source.yard.url", "No such file"]),
    ('[source.yard]\nurl = "rtsp://127.0.0.1:1/"\nusername = "x"\npassword = "file:none"', ["source.yard.password", "/none"]),
    ('[source.yard]\nurl = "rtsp://127.0.0.1:1/"\nusername = "x"\npassword = "credential:x"', ["not started by systemd"]),
    ('[upstream]\nca_file = "none.pem"', ["upstream.ca_file", "No such file"]),
    ('[upstream]\nca_file = "recipes"', ["upstream.ca_file", "a folder, not a file"]),
    ('[upstream]\nca_file = "dull"', ["CA file", "not a PEM certificate"]),
    ('[upstream]\nclient_cert = "none.pem"', ["upstream.client_cert", "No such file"]),
    ('[upstream]\nclient_cert = "dull"', ["client certificate", "unusable"]),
    ('[upstream]\nclient_cert = "old.pem"\nclient_key = "file:old.pem"', ["old.pem: expired on 2026-01-02"]),
    ('[upstream]\nclient_key = "file:none.key"', ["upstream.client_key", "No such file"]),
    ('[upstream]\ntoken = "file:umlaut"', ["bearer token", "no HTTP header"]),
    ('[status]\nlisten = "127.0.0.1:8642"\ntoken = "file:none"', ["secret", "/none"]),
    ('[status]\nlisten = "127.0.0.1:8642"\ntoken = "file:token"', ["status.token has fewer than 16 characters"]),
]


@pytest.mark.parametrize(("part", "words"), FAULTS)
def test_a_fault_is_what_a_run_ends_on(box, part, words):
    path = box(part)
    ((kind, what),) = check(path)
    assert kind == "fault"
    assert all(word in what for word in words), what
    done = subprocess.run([sys.executable, "-m", "agent", "run", "-c", str(path)], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode in {EXIT_DOWN, EXIT_CONFIG}, done.stderr


@pytest.mark.parametrize(("part", "words"), WARNINGS)
def test_a_warning_is_what_a_run_starts_with(box, part, words):
    path = box(part)
    ((kind, what),) = check(path)
    assert kind == "warning"
    assert all(word in what for word in words), what
    with Agent(path) as agent:
        agent.until(lambda snapshot: snapshot.engine is not None)
        agent.stop()
        assert "Traceback" not in agent.said()


@pytest.mark.parametrize("part", [
    '[budget]\nsysfs = "recipes"', '[budget]\ntelemetry = "nvml"\nsysfs = "none"', '[budget]\ntelemetry = "off"\nsysfs = "none"',
    '[budget]\ntelemetry = "sysfs"', "[engine]\nsize = [128, 128]\n[budget]\nsizes = [[64, 64]]",
    '[status]\nlisten = "127.0.0.1:8642"\ntoken = "file:long"', '[status]\ntoken = "file:none"',
])
def test_what_is_well_is_said_to_be(box, part):
    assert check(box(part)) == []


def test_without_an_upstream_nothing_of_its_section_is_used(tmp_path, box):
    path = box('[upstream]\nca_file = "none.pem"\ntoken = "file:none"')
    text = (tmp_path / "conf.d/01.toml").read_text()
    (tmp_path / "conf.d/01.toml").write_text(text.replace('url = "https://127.0.0.1:1/x"', ""))
    assert check(path) == []


def test_faults_are_told_all_at_once(box):
    part = '[upstream]\nca_file = "none.pem"\n[source.yard]\nurl = "v4l2:///dev/video99"\n[engine]\nrecipe = "nothing"\nprovider = "NoSuchProvider"'
    assert [kind for kind, _ in check(box(part))] == ["fault", "fault", "warning", "warning"]


def test_a_model_that_is_a_folder_is_said(box, tmp_path):
    (tmp_path / "recipes/mine/model.onnx").mkdir()
    (found,) = check(box('[engine]\nrecipe = "mine"'))
    assert found[0] == "fault"
    assert "a folder, not a file" in found[1]


def test_a_runtime_without_a_device_is_a_fault(box, monkeypatch):
    monkeypatch.setattr("agent.fingerprint.runtime_version", lambda _: "tensorrt 10.3")
    monkeypatch.setattr("agent.fingerprint._gpu", lambda: None)
    assert check(box('[engine]\nruntime = "tensorrt"')) == [("fault", "engine.runtime = 'tensorrt': this machine has no CUDA device")]


def test_a_state_directory_that_this_user_may_not_write_is_found(box, tmp_path, monkeypatch):
    path = box('[device]\nstate_dir = "locked/state"')
    (tmp_path / "locked").mkdir(mode=0o555)
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != str(tmp_path / "locked"))  # root may write anywhere
    (found,) = check(path)
    assert found[0] == "fault"
    assert "/locked cannot be written" in found[1]


def vedette_config(*arguments):
    return subprocess.run([sys.executable, "-m", "agent", "config", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_command_line_says_it_and_shows_no_secret(box):
    path = box('[source.yard]\nurl = "rtsp://h/a?token=geheim"', '[upstream]\nurl = "https://h/x?api_key=geheim"')
    for arguments, code, word in ((["check"], 0, ": well; 2 source(s)"), (["show"], 0, "token=***"), (["show", "--json"], 0, "api_key=***")):
        done = vedette_config(*arguments, "-c", path)
        assert done.returncode == code, done.stderr
        assert word in done.stdout
        assert "geheim" not in done.stdout + done.stderr
    assert load(path).upstream.url == "https://h/x?api_key=geheim"


def test_the_command_line_tells_faults_from_warnings(box):
    camera = '[source.yard]\nurl = "v4l2:///dev/video99"'
    done = vedette_config("check", "-c", box(camera))
    assert done.returncode == EXIT_OK, done.stderr
    warning, mend, well = done.stdout.splitlines()
    assert warning == "warning: source.yard.url: /dev/video99: No such file or directory"
    assert mend == "  mend: plug the camera in, or correct the address"
    assert "can be started, and will be degraded; 2 source(s)" in well
    done = vedette_config("check", "-c", box(camera, '[engine]\nrecipe = "nothing"'))
    assert done.returncode == EXIT_CONFIG
    assert done.stdout.startswith("fault: no recipe is called 'nothing'")
    assert "warning: source.yard.url" in done.stdout
    assert "can be started" not in done.stdout
    assert done.stderr == ""


def test_a_client_certificate_that_lasts_is_well(box, tmp_path):
    made = trustme.CA().issue_cert("box", not_after=datetime.now(timezone.utc) + timedelta(days=2))
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    assert check(box('[upstream]\nclient_cert = "client.pem"\nclient_key = "file:client.pem"')) == []


def test_a_compression_whose_package_is_missing_is_named(box, monkeypatch):
    from agent.cli.config import _upstream_faults
    from agent.config import UpstreamSection

    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    (fault,) = _upstream_faults(UpstreamSection(compression="zstd"))
    assert "zstandard is not installed" in fault.what
    assert not list(_upstream_faults(UpstreamSection()))
