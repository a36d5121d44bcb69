"""build_engines.sh: which vedette it takes, what it hands on, and what it says where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "build_engines.sh"
TELL = '#!/bin/sh\nprintf "%s" "${0##*/}"\nprintf " <%s>" "$@"\nexit 7\n'


def program(path: Path, text: str = TELL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path):
    """A checkout (with a blank in its name) that has nothing but the script, and a PATH with no Python on it."""
    (tmp_path / "check out").mkdir()
    shutil.copy(SCRIPT, tmp_path / "check out")
    for tool in ("dirname", "readlink", "cat"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def run(tree: Path, *arguments: str, script: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(["/bin/sh", str(script or tree / "check out/build_engines.sh"), *arguments], check=False, capture_output=True, text=True,
                          timeout=30, cwd="/", env={"PATH": str(tree / "bin")})


@pytest.mark.parametrize(("arguments", "handed_on"), [
    ([], "<--all>"), (["--help"], "<--all> <--help>"), (["--precision", "fp16"], "<--all> <--precision> <fp16>"),
    (["centerface"], "<centerface>"), (["my recipe", "--quick"], "<my recipe> <--quick>")])
def test_arguments_are_handed_on_and_so_is_the_exit_code(tree, arguments, handed_on):
    program(tree / "bin/vedette")
    done = run(tree, *arguments)
    assert (done.stdout, done.returncode, done.stderr) == (f"vedette <engines> <build> {handed_on}", 7, "")


def test_the_checkouts_own_comes_before_the_path(tree):
    program(tree / "bin/vedette", "#!/bin/sh\necho wrong\n")
    program(tree / "check out/.venv/bin/vedette", TELL.replace("exit 7", "exit 0"))
    assert run(tree).stdout == "vedette <engines> <build> <--all>"
    (tree / "link.sh").symlink_to(tree / "check out/build_engines.sh")
    assert run(tree, script=tree / "link.sh").stdout == "vedette <engines> <build> <--all>"


def test_without_the_command_python_runs_the_checkout(tree):
    program(tree / "bin/python3", '#!/bin/sh\n[ "$3" = --version ] && exit 0\n' + TELL.replace("#!/bin/sh\n", 'printf "%s " "$PYTHONPATH"\n'))
    assert run(tree, "--quick").stdout == f"{tree}/check out python3 <-m> <agent> <engines> <build> <--all> <--quick>"


@pytest.mark.parametrize("python", [None, "#!/bin/sh\necho 'No module named click' >&2\nexit 1\n"])
def test_without_anything_it_says_how_to_install(tree, python):
    if python:
        program(tree / "bin/python3", python)
    done = run(tree)
    assert (done.stdout, done.returncode) == ("", 127)
    assert "vedette is not installed" in done.stderr
    assert f"cd '{tree}/check out' && python3 -m venv --system-site-packages .venv" in done.stderr
    assert "click" not in done.stderr


def test_it_may_be_run():
    assert os.access(SCRIPT, os.X_OK)
