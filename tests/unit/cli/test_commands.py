"""Exit codes and messages of the command line, whatever happens to its output or to its imports."""

import os
import subprocess
import sys

import pytest

from agent.cli import main
from agent.cli.options import load_or_default
from agent.errors import ConfigError

MAIN = "import sys; from agent.cli import main; sys.exit(main())"


def vedette(*arguments, code=MAIN, **more):
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False, timeout=60, **{**dict(capture_output=True, text=True), **more})


@pytest.mark.parametrize("arguments", [["engines", "list"], ["engines", "list", "--json"], ["--help"], ["engines", "show", "centerface"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_fault(tmp_path, arguments, unbuffered):
    read, write = os.pipe()
    os.close(read)
    try:
        done = vedette(*arguments, *(["--state-dir", str(tmp_path)] if len(arguments) > 1 else []), capture_output=False, stdout=write,
                       stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_device_is_one_message(unbuffered):
    with open("/dev/full", "wb") as full:
        done = vedette("engines", "list", capture_output=False, stdout=full, stderr=subprocess.PIPE,
                       env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (2, "vedette: standard output: No space left on device\n")


def test_an_error_that_nobody_reads_keeps_its_exit_code():
    with open("/dev/full", "wb") as full:
        assert vedette("engines", "show", "gone", capture_output=False, stdout=full, stderr=full).returncode == 78


def test_no_standard_output_at_all():
    done = vedette(code="import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'agent', 'engines', 'list'])")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["click", "agent.errors", "agent.cli.engines"])
def test_ctrl_c_during_an_import_is_no_traceback(module):
    code = f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
""" + MAIN
    done = vedette("engines", "list", code=code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_defect_is_not_taken_for_trouble_with_printing(monkeypatch):
    def broken(_path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.cli.engines.load_or_default", broken)
    with pytest.raises(OSError, match="No space"):
        main(["engines", "list"])


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--help"], 0, "status"), (["--version"], 0, "vedette"), (["engines", "--help"], 0, "fetch"), (["fly"], 64, "fly"), ([], 64, "Usage")])
def test_help_and_wrong_usage(capsys, arguments, code, words):
    assert main(arguments) == code
    said = capsys.readouterr()
    assert words in said.out + said.err


@pytest.mark.parametrize("arguments", [["status"], ["engines", "list"]])
def test_a_configuration_that_is_named_must_be_there(tmp_path, capsys, monkeypatch, arguments):
    gone = tmp_path / "gone.toml"
    assert main([*arguments, "-c", str(gone)]) == 78
    assert str(gone) in capsys.readouterr().err
    monkeypatch.setenv("VEDETTE_CONFIG", str(gone))
    assert main(arguments) == 78


def test_the_usual_place_may_be_empty_but_not_faulty(tmp_path, monkeypatch):
    usual = tmp_path / "config.toml"
    monkeypatch.setattr("agent.cli.options.DEFAULT_PATH", usual)
    assert load_or_default(None).source == {}
    usual.write_text("[source")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_or_default(None)
