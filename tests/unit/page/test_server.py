import http.client
import json
import logging
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import quote

import pytest

from agent.config import Config, Device, SourceSection, StatusSection
from agent.page import PAGE_THREADS, open_page
from tests.unit.page.test_address import free_port
from tests.unit.page.test_pictures import noise, seen
from tests.unit.test_status import snapshot


class Served:
    def __init__(self, tmp_path, listen=None):
        self.asked = 0
        self.port = free_port()
        self.config = Config(device=Device(runtime_dir=str(tmp_path)), source={"door": SourceSection(url="rtsp://x")},
                             status=StatusSection(listen=listen or f"127.0.0.1:{self.port}"))
        self.page = open_page(self.config, "box", self.snapshot, ["face"])
        self.token = (tmp_path / "page-token").read_text()
        self.thread = threading.Thread(target=self.page.serve, name="page")
        self.thread.start()

    def snapshot(self):
        self.asked += 1
        return snapshot()

    def get(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    def bearer(self, path):
        return self.get(path, Authorization=f"Bearer {self.token}")

    def raw(self, said, timeout_s=5.0):
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as client:
            client.sendall(said)
            with suppress(OSError):  # it may have refused and closed already
                client.shutdown(socket.SHUT_WR)
            try:
                return client.recv(65536)
            except ConnectionResetError:
                return b""


@pytest.fixture
def served(tmp_path):
    one = Served(tmp_path)
    yield one
    one.page.close()
    one.thread.join(5)
    assert not one.thread.is_alive()


@pytest.mark.parametrize("path", ["/", "/page.js", "/now.json", "/picture/door", "/nothing", "/?token=wrong-wrong-wrong", "/now.json?token="])
def test_without_the_token_there_is_nothing(served, path):
    code, headers, body = served.get(path)
    assert code == 401
    assert "Set-Cookie" not in headers
    assert b"running" not in body
    assert served.get(path, Authorization="Bearer wrong")[0] == 401
    assert served.get(path, Cookie="vedette-00000000=x")[0] == 401


def test_the_token_is_changed_for_a_cookie_and_leaves_the_address(served):
    code, headers, body = served.get(f"/?token={quote(served.token)}")
    assert code == 200
    assert b'content="0;url=/"' in body
    cookie = headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert served.token not in cookie
    for path in ("/", "/page.js", "/charts.js", "/now.json"):
        code, headers, body = served.get(path, Cookie=cookie.split(";")[0])
        assert (code, headers["Cache-Control"]) == (200, "no-store")
        assert served.token.encode() not in body
    assert served.get("/nothing", Cookie=cookie.split(";")[0])[0] == 404


def test_a_name_from_elsewhere_is_not_answered_even_with_the_token(served):
    assert served.get("/now.json", Host="evil.example", Authorization=f"Bearer {served.token}")[0] == 421
    assert served.get("/now.json", Host="192.0.2.7:8642", Authorization=f"Bearer {served.token}")[0] == 200


def test_numbers_pictures_and_charts(served):
    assert served.bearer("/picture/door")[0] == 204
    served.page.onlooker(*seen(noise(), 5, captured=time.monotonic()))
    code, headers, body = served.bearer("/picture/door")
    caption = json.loads(headers["Vedette-Caption"])
    assert (code, body[:2], caption["seq"], caption["boxes"][0][4]) == (200, b"\xff\xd8", 5, "face")
    assert served.bearer("/picture/door?after=5")[0] == 204
    assert served.bearer("/picture/elsewhere")[0] == 404
    now = json.loads(served.bearer("/now.json")[2])
    assert (now["state"], now["sources"][0]["name"]) == ("running", 'do"or')
    assert len(now["samples"]) >= 1
    assert json.loads(served.bearer("/now.json?after=1e18")[2])["samples"] == []
    assert served.bearer("/now.json?after=nonsense")[0] == 200


def test_many_who_ask_cost_four_snapshots_a_second(served):
    served.bearer("/now.json")
    before = served.asked
    for _ in range(20):
        served.bearer("/now.json")
    assert served.asked - before <= 12, "20 answers within a second or two"


@pytest.mark.parametrize(("said", "code"), [
    (b"", b""), (b"\x16\x03\x01\x02\x00\x01\x00", b"400"), (b"POST / HTTP/1.1\r\n\r\n", b"405"), (b"GET / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
    (b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"401"), (b"GET / HTTP/1.1\r\n\r\n", b"421")])
def test_garbage_is_refused_and_the_server_goes_on(served, said, code):
    assert served.raw(said)[9:12] == code
    assert served.bearer("/now.json")[0] == 200


def test_no_path_leads_out_of_the_folder(served):
    for path in ("/../token.py", "/%2e%2e/token.py", "/static/page.js", "/picture/../../page-token"):
        assert served.bearer(path)[0] == 404


def test_what_cannot_be_served_is_a_trouble_and_not_the_end(tmp_path, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = Config(device=Device(runtime_dir=str(tmp_path)), status=StatusSection(listen=f"127.0.0.1:{taken.getsockname()[1]}"))
        page = open_page(config, "box", snapshot, [])
    assert "in use" in page.trouble
    page.close()
    page.serve()
    page.onlooker(*seen(noise()))
    assert "mend:" in caplog.text
    assert open_page(Config(), "box", snapshot, []) is None


def test_a_host_that_can_be_no_name_is_a_trouble_that_is_not_tried_again(tmp_path):
    page = open_page(Config(device=Device(runtime_dir=str(tmp_path)), status=StatusSection(listen="a..b:8642")), "box", snapshot, [])
    assert "a..b" in page.trouble
    page.serve()  # ends by itself


def test_an_address_that_the_network_gives_later_is_served_then(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("agent.page.server._AGAIN_S", 0.05)
    port, real, tried = free_port(), socket.socket.bind, []

    def bind(self, place):  # the network gives it at the fourth try
        tried.append(place)
        real(self, place if len(tried) < 4 else ("127.0.0.1", place[1]))
    monkeypatch.setattr(socket.socket, "bind", bind)
    page = open_page(Config(device=Device(runtime_dir=str(tmp_path)), status=StatusSection(listen=f"192.0.2.1:{port}")), "box", snapshot, [])
    assert "192.0.2.1" in page.trouble
    thread = threading.Thread(target=page.serve, name="page")
    thread.start()
    deadline = time.monotonic() + 5
    while page.trouble and time.monotonic() < deadline:
        time.sleep(0.01)
    assert page.trouble == ""
    assert len(tried) == 4
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    assert connection.getresponse().status == 401
    connection.close()
    page.close()
    thread.join(5)
    assert not thread.is_alive()
    assert caplog.text.count("there is no page") == 1, "said once, however often it is tried"


def test_who_waits_for_an_address_can_be_closed(tmp_path):
    page = open_page(Config(device=Device(runtime_dir=str(tmp_path)), status=StatusSection(listen="192.0.2.1:8642")), "box", snapshot, [])
    thread = threading.Thread(target=page.serve, name="page")
    thread.start()
    page.close()
    thread.join(2)
    assert not thread.is_alive()


def test_a_page_that_others_can_reach_is_warned_of(tmp_path, caplog):
    port = free_port()
    with caplog.at_level(logging.WARNING):
        open_page(Config(device=Device(runtime_dir=str(tmp_path)), status=StatusSection(listen=f"0.0.0.0:{port}")), "box", snapshot, []).close()
    assert "plain HTTP" in caplog.text


def test_the_threads_are_named_so_that_a_defect_there_does_not_end_the_agent(served):
    names, waiting = set(), socket.create_connection(("127.0.0.1", served.port))
    deadline = time.monotonic() + 5
    while "page-client" not in names and time.monotonic() < deadline:
        names = {thread.name for thread in threading.enumerate()}
    waiting.close()
    assert names >= PAGE_THREADS
