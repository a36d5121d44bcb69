"""`vedette demo` as a process: told to stop, without a reader, with an --out that cannot be written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import media


@pytest.fixture
def started(out, tmp_path):
    """Starts the demo on a long clip, its temporary files in a folder of their own, in a poisoned current directory."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cwd/agent").mkdir(parents=True)
    (tmp_path / "cwd/agent/__init__.py").write_text("raise SystemExit('the wrong package was run')")
    processes = []

    def start(*, stdout=subprocess.PIPE):
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.path.remove(''); from agent.cli import main; sys.exit(main())",
             "demo", "--out", str(out), "--clip", str(media.fetch(*media.CARPHONE))], stdout=stdout, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path / "cwd", env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"})
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def children(process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def until_running(process) -> int:
    """Read until the agent has looked at frames; return the agent's process id."""
    for line in process.stdout:
        if line.startswith("running"):
            (child,) = children(process)
            return child
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_takes_the_agent_along_and_tidies_up(started, tmp_path, number):
    process = started()
    child = until_running(process)
    process.send_signal(number)
    said, errors = process.communicate(timeout=25)
    assert (process.returncode, errors) == (0, "")
    assert "looked at" in said, "what was found until then is shown"
    assert not Path(f"/proc/{child}").exists()
    assert "stopping: SIGTERM" in (tmp_path / "out/agent.log").read_text(), "it did not wait for the clip's end"
    assert not list((tmp_path / "tmp").glob("vedette-*"))


def test_a_reader_that_goes_ends_it(started, tmp_path):
    process = started()
    child = until_running(process)
    process.stdout.close()
    assert process.wait(25) == 0
    assert process.stderr.read() == ""
    assert not Path(f"/proc/{child}").exists()
    assert "stopping: SIGTERM" in (tmp_path / "out/agent.log").read_text(), "it did not wait for the clip's end"
    assert not list((tmp_path / "tmp").glob("vedette-*"))


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null", "{file}", "{file}/x"])
def test_an_out_that_cannot_be_written_is_one_message(tmp_path, place):
    (tmp_path / "file").touch()
    where = place.format(file=tmp_path / "file")
    done = subprocess.run([sys.executable, "-m", "agent", "demo", "--out", where], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in {2, 64}
    assert "Traceback" not in done.stderr
    assert where in done.stderr
    if place != "{file}":  # that one click refuses: it is a file
        assert "choose another --out" in done.stderr


def test_an_agent_that_does_not_stop_is_killed(monkeypatch):
    from agent.cli import demo

    deaf = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"],
                            stdout=subprocess.PIPE)
    with deaf:
        deaf.stdout.readline()
        monkeypatch.setattr(demo, "_STOP_S", 0.2)
        assert demo.end(deaf) == -signal.SIGKILL
