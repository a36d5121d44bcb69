import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from agent import asking
from agent.cli import main
from agent.cli import page as module


@pytest.fixture(autouse=True)
def agent(monkeypatch):
    """An agent that serves the page."""
    said = SimpleNamespace(page="127.0.0.1:8642", problems=[])
    monkeypatch.setattr(module, "look", lambda _: said)
    return said


@pytest.fixture
def config(tmp_path):
    def write(status):
        (tmp_path / "config.toml").write_text(f'[device]\nruntime_dir = "{tmp_path}"\n[status]\n{status}\n')
        return str(tmp_path / "config.toml")
    return write


def test_the_address_with_its_token_and_the_way_there(config, tmp_path, capsys):
    (tmp_path / "page-token").write_text("t0ken")
    assert main(["page", "-c", config('listen = "127.0.0.1:8642"')]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "http://127.0.0.1:8642/?token=t0ken"
    assert "ssh -L 8642:127.0.0.1:8642 " in lines[1]
    assert lines[2].endswith("http://localhost:8642/?token=t0ken")


def test_a_page_for_everyone_is_warned_of(config, tmp_path, capsys):
    (tmp_path / "page-token").write_text("t0ken")
    assert main(["page", "--json", "-c", config('listen = "0.0.0.0:8642"')]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["token"], said["loopback"], said["listen"]) == ("t0ken", False, "0.0.0.0:8642")
    assert "0.0.0.0" not in said["url"]
    assert main(["page", "-c", config('listen = "0.0.0.0:8642"')]) == 0
    assert "Plain HTTP" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["link", "pipe", "giant", "words"])
def test_what_the_agents_user_put_there_is_not_shown_to_root(config, tmp_path, capsys, kind):
    path = tmp_path / "page-token"
    match kind:
        case "link":
            (tmp_path / "other").write_text("hidden")
            path.symlink_to("other")
        case "pipe":
            os.mkfifo(path)
        case "giant":
            path.write_text("hidden" * 100)
        case _:
            path.write_text("hidden \x1b[2J")
    assert main(["page", "-c", config('listen = "127.0.0.1:8642"')]) != 0
    said = capsys.readouterr()
    assert "page-token" in said.err
    assert "hidden" not in said.out + said.err


@pytest.mark.parametrize(("status", "code", "words"), [
    ("", 78, "listen is not set"), ('listen = "127.0.0.1:8642"', 2, "no agent serves the page"),
    ('listen = "127.0.0.1:8642"\ntoken = "file:missing"', 78, "No such file")])
def test_why_there_is_none(config, capsys, status, code, words):
    assert main(["page", "-c", config(status)]) == code
    said = capsys.readouterr().err
    assert words in said
    assert "mend:" in said


def test_the_token_is_given_to_nobody_while_the_agent_does_not_serve_the_page(config, tmp_path, capsys, agent, monkeypatch):
    (tmp_path / "page-token").write_text("t0ken")
    agent.page, agent.problems = "", ["the disk is full", "there is no page: 127.0.0.1:8642: Address already in use"]
    assert main(["page", "-c", config('listen = "127.0.0.1:8642"')]) == 2
    said = capsys.readouterr()
    assert (said.out, "Address already in use" in said.err) == ("", True)


@pytest.mark.parametrize(("halted", "says"), [(None, "no agent answers"), (True, "is stopped (by SIGSTOP, or by a debugger)"), (False, "hangs")])
def test_nor_while_no_agent_answers_and_it_is_said_why(config, tmp_path, capsys, monkeypatch, halted, says):
    (tmp_path / "page-token").write_text("t0ken")
    monkeypatch.setattr(module, "look", lambda place: asking.look(place, 0.2))
    listener = socket.socket(socket.AF_UNIX)
    if halted is not None:
        monkeypatch.setattr(asking, "stopped", lambda _: halted)
        listener.bind(str(tmp_path / "status.sock"))
        listener.listen()
    with listener:
        assert main(["page", "-c", config('listen = "127.0.0.1:8642"')]) == 2
    said = capsys.readouterr()
    assert (said.out, says in said.err, "mend:" in said.err) == ("", True, True)


def test_a_tokens_credential_is_named_not_read(config, capsys):
    assert main(["page", "-c", config('listen = "127.0.0.1:8642"\ntoken = "credential:page"')]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "http://127.0.0.1:8642/"
    assert "/etc/vedette/credentials/page" in said.err


def test_asking_loads_neither_numpy_nor_opencv(config, tmp_path):
    (tmp_path / "page-token").write_text("t0ken")
    code = ("import sys; from types import SimpleNamespace as S; from agent.cli import main; from agent.cli import page; page.look = lambda _: S(page='x', problems=[]); code = main(['page', '-c', sys.argv[1]]); "
            "heavy = {'numpy', 'cv2', 'rich', 'requests', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy; sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, config('listen = "127.0.0.1:8642"')], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
