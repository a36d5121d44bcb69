"""The demo's receiver: stores whole batches once, refuses what is none, and runs as a command."""

import gzip
import http.client
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.receiver import Receiver, make_certificates
from agent.https import HttpsOptions, open_session, tls_context

pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")


@pytest.fixture
def server(tmp_path):
    with Receiver(tmp_path) as running:
        yield running


def post(server, body, **headers):
    with open_session(HttpsOptions(ca_file=server.certificates.ca_file)) as session:
        return session.post(server.url, data=body, headers=headers).status_code


def batch(*names):
    return json.dumps([{"specversion": "1.0", "id": name, "type": "detection", "source": "x"} for name in names]).encode()


def test_events_are_stored_once(server):
    assert post(server, batch("a", "b"), **{"Idempotency-Key": "k"}) == 204
    assert post(server, gzip.compress(batch("b", "c")), **{"Content-Encoding": "gzip"}) == 204
    assert [event["id"] for event in server.events()] == ["a", "b", "c"]
    assert (server.received, server.duplicates, server.batches) == (3, 1, ["k", ""])


def test_a_restart_remembers(server, tmp_path):
    post(server, batch("a"))
    with Receiver(tmp_path) as again:
        assert again.received == 1
        assert post(again, batch("a", "b")) == 204
        assert (again.received, again.duplicates) == (2, 1)


@pytest.mark.parametrize(("body", "headers"), [
    (b"", {}), (b"{}", {}), (b"[1]", {}), (b'[{"id": "a"}]', {}), (b"[", {}), (b"\xff", {}),
    (batch("a")[:-1] + b', {"specversion": "1.0"}]', {}), (b"junk", {"Content-Encoding": "gzip"}),
    (gzip.compress(batch("a"))[:-9], {"Content-Encoding": "gzip"}),
    (gzip.compress(b"[" + b" " * 20_000_000 + b"]"), {"Content-Encoding": "gzip"})], ids=range(10))
def test_what_is_no_batch_is_refused_whole(server, body, headers):
    assert post(server, body, **headers) == 400
    assert server.received == 0
    assert server.events() == []


def test_a_body_that_is_too_large_is_refused_unread(server):
    context = tls_context(HttpsOptions(ca_file=server.certificates.ca_file))
    connection = http.client.HTTPSConnection(server.url.split("/")[2], context=context, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "99999999")
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    answer.close()
    connection.close()


def test_certificates_are_made_once_and_the_key_is_private(tmp_path):
    first = make_certificates(tmp_path)
    before = first.server_key.read_bytes()
    assert make_certificates(tmp_path) == first
    assert first.server_key.read_bytes() == before
    assert first.server_key.stat().st_mode & 0o077 == 0


def test_as_a_command(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", "from agent.cli.receiver import receiver; receiver()", "--listen", "127.0.0.1:0",
         "--folder", str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    try:
        shown = dict(process.stdout.readline().split() for _ in range(3))
        with open_session(HttpsOptions(ca_file=Path(shown["ca_file"]))) as session:
            assert session.post(shown["url"], data=batch("a")).status_code == 204
        assert json.loads((tmp_path / "out" / "events.ndjson").read_text())["id"] == "a"
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_an_ipv6_address_of_the_command_line(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "receiver", "--listen", "[::1]:0", "--folder", "up"], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        shown = dict(process.stdout.readline().split() for _ in range(3))
        assert shown["url"].startswith("https://[::1]:")
        assert shown["ca_file"] == str(tmp_path / "up/ca.pem")
        with open_session(HttpsOptions(ca_file=Path(shown["ca_file"]))) as session:
            assert session.post(shown["url"], data=batch("a")).status_code == 204
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
