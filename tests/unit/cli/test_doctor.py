"""`vedette doctor` as people and programs call it."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.cli import doctor as command
from agent.diagnosis.facts import OpenCv
from agent.errors import AgentError, ConfigError
from tests.unit.diagnosis.made import FACTS, around
from tests.unit.diagnosis.test_checks import BARE, JETPACK6, PIPS


@pytest.fixture
def box(monkeypatch):
    """Return a function that makes the box look like the given facts."""
    seen = {}

    def be(facts):
        monkeypatch.setattr(command, "gather", lambda config, file, **rest: seen.update(config=config, file=file, **rest) or facts)
        return seen

    return be


def call(*arguments):
    return command.doctor.main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(("facts", "code", "verdict"), [
    (BARE, 0, "well"), (JETPACK6, 0, "well"),
    (replace(BARE, machine=replace(BARE.machine, memory_available=1)), 1, "degraded"),
    (replace(JETPACK6, tensorrt=PIPS), 2, "cannot work"),
])
def test_exit_code_and_verdict_of_a_box(box, tmp_path, capsys, facts, code, verdict):
    box(facts)
    assert call("--json") == code
    value = json.loads(capsys.readouterr().out)
    assert value["verdict"] == verdict
    assert [section["name"] for section in value["sections"]] == ["configuration", "machine", "device", "engines", "pictures"]
    assert value["facts"]["machine"]["architecture"] == facts.machine.architecture
    assert call() == code
    assert f"This box: {verdict}." in capsys.readouterr().out


def test_problems_come_first_in_words_the_fatal_ones_before_all(box, capsys):
    box(replace(JETPACK6, tensorrt=PIPS, cv2=replace(BARE.cv2, gstreamer=False), machine=replace(JETPACK6.machine, memory_available=900_000_000)))
    call()
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split()[:2] for line in lines if line.startswith(("fail ", "warn "))]
    assert heads == [["fail", "[engine]"], ["fail", "TensorRT:"], ["fail", "GStreamer:"], ["warn", "memory:"]]
    joined = " ".join(" ".join(lines).split())
    assert "Target GPU SM 87 is not supported by this TensorRT release" in joined
    assert "mend: `pip uninstall`" in joined


def test_secrets_of_addresses_are_never_printed(box, capsys):
    facts = replace(BARE, cv2=OpenCv(module="cv2", fault="cannot open rtsp://admin:hunter2@cam/1"))
    box(facts)
    call()
    call("--json")
    out = capsys.readouterr().out
    assert "hunter2" not in out
    assert "***" in out


def test_what_a_library_says_is_no_markup(box, capsys):
    box(replace(BARE, cv2=OpenCv(module="cv2", fault="[red]odd[/red] [/]")))
    assert call() == 2
    assert "[red]odd[/red] [/]" in capsys.readouterr().out


def test_a_configuration_that_cannot_be_used_is_a_row_and_the_box_is_looked_at_all_the_same(box, tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text("[engine]\nnme = 1\n[status]\nsocket = '/elsewhere/s'")
    seen = box(BARE)
    call("--config", str(file), "--state-dir", str(tmp_path))
    assert isinstance(seen["config"], ConfigError)
    assert seen["file"] == file
    assert seen["state_dir"] == tmp_path
    assert seen["left"].socket_path == Path("/elsewhere/s"), "the same agent is asked as by `vedette status`"
    file.write_text('[engine]\nrecipe = "yolo"\n[source.door]\nurl = "rtsp://camera/1"\n')
    call("--config", str(file))
    assert seen["config"].engine.recipe == "yolo"


def test_the_real_command_on_this_box_imports_no_runtime_itself(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: install the extra cpu")
    code = ("import sys; from agent.cli.doctor import doctor; code = doctor.main(sys.argv[1:], standalone_mode=False);"
            "heavy = {'numpy', 'cv2', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx_bindings', 'pycuda'} & set(sys.modules);"
            "assert not heavy, heavy; sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, "--json", "--state-dir", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    value = json.loads(done.stdout)
    rows = {row["name"]: row for section in value["sections"] for row in section["rows"]}
    assert done.returncode == {"well": 0, "degraded": 1, "cannot work": 2}[value["verdict"]]
    assert rows["provider CPUExecutionProvider"]["verdict"] == "ok"
    assert rows["recipe"]["verdict"] == "warn"


def test_a_row_of_what_is_around_is_shown_within_100_columns(box, capsys):
    box(FACTS)
    assert call() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    heads = [line.strip() for line in lines if line and not line.startswith(" ")]
    assert heads[1:] == ["configuration", "machine", "device", "engines", "engine store", "pictures", "sources", "upstream", "sensors", "service", "sandbox"]
    assert any(line.startswith("  source door") and " ok " in line for line in lines)


def test_what_could_not_be_found_out_comes_with_its_remedy_after_all_that_is_wrong(box, capsys):
    unsure = replace(FACTS.around.sources[1], width=None, fault="only root may read its password", unsure=True, remedy="run it with sudo")
    box(around(sources=(FACTS.around.sources[0], unsure), clock="unsynchronised"))
    assert call() == 1
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["This", "warn", "unknown"]
    assert "mend: run it with sudo" in lines[-1]


def test_the_json_tells_rows_in_the_four_words(box, capsys):
    box(around(clock="implausible"))
    assert call("--json") == 1
    value = json.loads(capsys.readouterr().out)
    assert {row["verdict"] for section in value["sections"] for row in section["rows"]} == {"ok", "fail"}
    assert value["facts"]["around"]["sensors"]["watts"] == 5.1
    assert value["facts"]["service"]["unit"]["main_pid"] == 77


@pytest.mark.parametrize("words", [("--bundle",), ("--bundle", "mine.tar.gz"), ("--bundle=mine.tar.gz", "--json")])
def test_a_bundle_is_written_and_its_content_listed(box, tmp_path, monkeypatch, capsys, words):
    box(FACTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call(*words) == 0
    said = capsys.readouterr()
    file, = tmp_path.glob("*.tar.gz")
    assert file.name == "mine.tar.gz" if "mine" in " ".join(words) else file.name.startswith("vedette-doctor-2")
    listing = said.err if "--json" in words else said.out
    assert file.name in listing
    with tarfile.open(file) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        written = json.loads(archive.extractfile(next(name for name in archive.getnames() if name.endswith("/doctor.json"))).read())
    assert all(f"  {name} " in listing for name in names)
    assert written["verdict"] == "well"
    if "--json" in words:
        assert json.loads(said.out) == written


def test_a_bundle_in_a_folder_of_others_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "gather", None)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(AgentError, match="you may not write into"):
        call("--bundle", str(tmp_path / "x.tar.gz"))


def test_a_bundle_that_cannot_be_written_is_an_error_before_anything_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "gather", None)
    with pytest.raises(AgentError, match="cannot be written"):
        call("--bundle", str(tmp_path / "none/x.tar.gz"))
