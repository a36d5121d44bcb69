"""`vedette config check` finds what `vedette run` would refuse, and leaves no trace."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from agent.cli.config import config as command
from agent.cli.receiver import make_certificates
from agent.config import load
from agent.errors import EXIT_CONFIG, ConfigError
from tests.helpers.agent import write_config, write_recipe


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A folder with all that a configuration may name, all of it well; relative paths start here."""
    for variable in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    made = make_certificates(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"not looked into")
    write_recipe(tmp_path, "mine", "file:model.onnx")
    (tmp_path / "recipes/mine/model.onnx").write_bytes(b"not looked into")
    (tmp_path / "token").write_text("geheim")
    (tmp_path / "dull").write_text("no certificate")
    (tmp_path / "umlaut").write_text("gehöim")
    monkeypatch.chdir("/")
    source = f'[source.door]\nurl = "{(tmp_path / "clip.mp4").as_uri()}"\n'
    good = (f'[engine]\nrecipe = "mine"\nrecipes = ["recipes"]\n[upstream]\nurl = "https://h/x"\nca_file = "ca.pem"\n'
            f'client_cert = "{made.server_cert.name}"\nclient_key = "file:{made.server_key.name}"\ntoken = "file:token"')
    return lambda *parts: write_config(tmp_path, source, good, *parts)


def check(path):
    done = CliRunner().invoke(command, ["check", "--json", "-c", str(path)])
    assert done.exception is None or isinstance(done.exception, ConfigError), done.exception
    faults = json.loads(done.stdout)
    assert bool(faults) == isinstance(done.exception, ConfigError)
    assert all(fault["remedy"] for fault in faults)
    return [fault["what"] for fault in faults]


def test_all_is_well_and_nothing_is_made(box, tmp_path):
    path = box()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert check(path) == []
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(("part", "words"), [
    ('[engine]\nrecipe = "nothing"', ["'nothing'"]),
    ('[engine]\nrecipe = "yolo"', ["recipe yolo: its model", "model.onnx", "No such file"]),
    ('[engine]\nrecipes = ["recipes", "none"]', ["engine.recipes", "/none", "No such file"]),
    ('[engine]\nrecipes = ["recipes", "token"]', ["engine.recipes", "a file, not a folder"]),
    ("[engine]\nsize = [100, 64]", ["engine.size", "multiples of 32"]),
    ("[budget]\nsizes = [[64, 64]]", ["budget.sizes", "[64, 64] is not smaller than the canvas of the engine, [64, 64]"]),
    ("[engine]\nsize = [128, 128]\n[budget]\nsizes = [[100, 64]]", ["budget.sizes", "recipe mine", "multiples of 32"]),
    ('[budget]\nsysfs = "none"', ["budget.sysfs", "/none", "No such file"]),
    ('[budget]\ntelemetry = "sysfs"\nsysfs = "token"', ["budget.sysfs", "a file, not a folder"]),
    ('[budget]\ntelemetry = "rapl"\nsysfs = "/nowhere"', ["budget.sysfs", "/nowhere", "No such file"]),
    ('[engine]\nprovider = "NoSuchProvider"', ["'NoSuchProvider'"]),
    ('[device]\nstate_dir = "token/state"', ["state directory", "/token is not a directory"]),
    ('[device]\nstate_dir = "token"', ["state directory", "/token is not a directory"]),
    (f'[status]\nsocket = "{"x" * 108}"', ["longer than 107 bytes"]),
    ('[upstream]\nca_file = "none.pem"', ["upstream.ca_file", "No such file"]),
    ('[upstream]\nca_file = "recipes"', ["upstream.ca_file", "a folder, not a file"]),
    ('[upstream]\nca_file = "dull"', ["CA file", "not a PEM certificate"]),
    ('[upstream]\nclient_cert = "dull"', ["client certificate", "unusable"]),
    ('[upstream]\nclient_key = "file:none.key"', ["upstream.client_key", "No such file"]),
    ('[upstream]\nclient_key = "credential:key"', ["not started by systemd"]),
    ('[upstream]\ntoken = "file:umlaut"', ["bearer token", "no HTTP header"]),
    ('[upstream]\ntoken = "file:none"', ["secret", "/none"]),
    ('[source.yard]\nurl = "file:///"', ["no absolute path"]),
    ('[source.yard]\nurl = "file:///usr"', ["source.yard.url", "a folder, not a file"]),
    ('[source.yard]\nurl = "images:///none"', ["source.yard.url", "No such file"]),
    ('[source.yard]\nurl = "rtsp://h/"\nusername = "x"\npassword = "file:none"', ["secret", "/none"]),
])
def test_each_fault_is_found(box, part, words):
    (fault,) = check(box(part))
    for word in words:
        assert word in fault


@pytest.mark.parametrize("part", [
    '[budget]\nsysfs = "recipes"', '[budget]\ntelemetry = "nvml"\nsysfs = "none"', '[budget]\ntelemetry = "off"\nsysfs = "none"',
    '[budget]\ntelemetry = "sysfs"', "[engine]\nsize = [128, 128]\n[budget]\nsizes = [[64, 64]]",
])
def test_a_budget_that_is_well_is_said_to_be(box, part):
    assert check(box(part)) == []


def test_faults_are_told_all_at_once(box):
    part = '[upstream]\nca_file = "none.pem"\ntoken = "file:none"\n[engine]\nrecipe = "nothing"\nprovider = "NoSuchProvider"'
    assert len(check(box(part))) == 4


def test_a_model_that_is_a_folder_is_said(box, tmp_path):
    path = box()
    (tmp_path / "recipes/mine/model.onnx").unlink()
    (tmp_path / "recipes/mine/model.onnx").mkdir()
    (fault,) = check(path)
    assert "a folder, not a file" in fault


def test_a_state_directory_that_this_user_may_not_write_is_found(box, tmp_path, monkeypatch):
    path = box('[device]\nstate_dir = "locked/state"')
    (tmp_path / "locked").mkdir(mode=0o555)
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != str(tmp_path / "locked"))  # root may write anywhere
    (fault,) = check(path)
    assert "/locked cannot be written" in fault


def test_the_command_line_says_it_and_shows_no_secret(box):
    path = box('[source.yard]\nurl = "rtsp://h/a?token=geheim"', '[upstream]\nurl = "https://h/x?api_key=geheim"')
    for arguments, code, word in ((["check"], 0, "well"), (["show"], 0, "token=***"), (["show", "--json"], 0, "api_key=***")):
        done = subprocess.run([sys.executable, "-m", "agent", "config", *arguments, "-c", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert word in done.stdout
        assert "geheim" not in done.stdout + done.stderr
    assert load(path).upstream.url == "https://h/x?api_key=geheim"
    path = box('[engine]\nrecipe = "nothing"')
    done = subprocess.run([sys.executable, "-m", "agent", "config", "check", "-c", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_CONFIG
    assert "fault: no recipe is called 'nothing'" in done.stdout
    assert "1 fault" in done.stderr


def test_an_expired_client_certificate_is_found_before_the_upstream_refuses_it(box):
    from datetime import datetime, timedelta, timezone

    import trustme

    def faults(not_after):
        path = box('[upstream]\nclient_cert = "client.pem"\nclient_key = "file:client.pem"')
        trustme.CA().issue_cert("box", not_after=not_after).private_key_and_cert_chain_pem.write_to_path(path.parent / "client.pem")
        return check(path)

    assert faults(datetime.now(timezone.utc) + timedelta(days=2)) == []
    (fault,) = faults(datetime(2026, 1, 2, tzinfo=timezone.utc))
    assert "client.pem: expired on 2026-01-02" in fault


def test_a_compression_whose_package_is_missing_is_named(box, monkeypatch):
    from agent.cli.config import _upstream_faults
    from agent.config import UpstreamSection

    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    (fault,) = _upstream_faults(UpstreamSection(compression="zstd"))
    assert "zstandard is not installed" in fault.what
    assert not list(_upstream_faults(UpstreamSection()))
