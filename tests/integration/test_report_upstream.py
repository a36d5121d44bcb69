"""The uploader against real TLS servers on their bad days: nothing lost, nothing twice but under the same id."""

import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import formatdate

import pytest

from agent.errors import ConfigError, SpoolError
from agent.https import HttpsOptions, open_session
from agent.report.spool import SpoolFullError
from tests.helpers.delivery import Delivery, names, same_bytes_for_same_key, stored
from tests.helpers.live_spools import events_of
from tests.helpers.upstream_server import Answer, ScriptedUpstream, opener

trustme = pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")


@pytest.fixture
def parts():
    opened = []
    yield opened
    for part in reversed(opened):
        part.close()


def serve(parts, tmp_path, script=(), **options):
    server = ScriptedUpstream(tmp_path / "server", script, **options)
    parts.append(server)
    return server


def deliver(parts, tmp_path, server, url=None, factory=None, **policy):
    delivery = Delivery(tmp_path, url or server.url, factory or opener(server.certificates.ca_file), **policy)
    parts.append(delivery)
    return delivery


def test_all_is_delivered_once_in_order_with_the_promised_headers(parts, tmp_path):
    server = serve(parts, tmp_path)
    delivery = deliver(parts, tmp_path, server, factory=opener(server.certificates.ca_file, token="hush")).add(12).start()
    status = delivery.until_empty()
    assert stored(server) == names(12)
    assert server.duplicates == 0
    assert same_bytes_for_same_key(server) == 3
    headers = server.requests[0]
    assert headers["Content-Type"] == "application/cloudevents-batch+json"
    assert headers["Content-Encoding"] == "gzip"
    assert headers["User-Agent"] == "vedette/test"
    assert headers["Authorization"] == "Bearer hush"
    status = delivery.until(lambda now: now.state == "idle")
    assert (status.delivered_events, status.delivered_batches, status.attempts) == (12, 3, 3)
    assert status.last_ack_age_s is not None
    assert status.reason == ""
    assert status.next_try_in_s is None


@pytest.mark.parametrize("answer", [
    Answer(503), Answer(500, body=b"x" * 100), Answer(408), Answer(502, store=True), Answer(200, cut=True),
    Answer(200, cut=True, store=True), Answer(503, cut=True), Answer(garbage=b"\x16\x03\x01 what\r\n\r\n"),
    Answer(garbage=b"HTTP/1.1 \xff\r\n"), Answer(garbage=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", store=True),
], ids=str)
def test_what_passes_by_itself_is_tried_again(parts, tmp_path, answer):
    server = serve(parts, tmp_path, [answer, answer])
    delivery = deliver(parts, tmp_path, server).add(7).start()
    status = delivery.until_empty()
    assert stored(server) == names(7)
    assert same_bytes_for_same_key(server) == 2
    assert len(server.requests) == 4
    assert server.duplicates == (10 if answer.store else 0)
    assert status.attempts == 4


def test_answers_that_never_come_are_given_up_and_tried_again(parts, tmp_path):
    hang = threading.Event()
    server = serve(parts, tmp_path, [Answer(hang=hang)])
    delivery = deliver(parts, tmp_path, server, factory=opener(server.certificates.ca_file, read_timeout_s=0.3)).add(3)
    delivery.start()
    assert delivery.until(lambda now: now.reason).reason == "no answer in time"
    delivery.until_empty()
    hang.set()
    assert stored(server) == names(3)


def retry_after(parts, tmp_path, header, wall=time.time):
    server = serve(parts, tmp_path, [Answer(429, {"Retry-After": header})])
    delivery = deliver(parts, tmp_path, server).add(3)
    delivery.uploader._sender._wall = wall
    delivery.start()
    status = delivery.until(lambda now: now.state == "retrying")
    assert status.reason == "HTTP 429: too many requests"
    assert len(server.requests) == 1
    assert delivery.spool.depth == 3
    return status.next_try_in_s


def test_retry_after_in_seconds_wins_over_the_jitter(parts, tmp_path):
    assert 20 < retry_after(parts, tmp_path, "30") <= 30


def test_retry_after_as_a_date_wins_over_the_jitter(parts, tmp_path):
    assert 80 < retry_after(parts, tmp_path, formatdate(1763761606, usegmt=True), wall=lambda: 1763761516.0) <= 90


def test_retry_after_is_at_most_an_hour(parts, tmp_path):
    assert 3590 < retry_after(parts, tmp_path, "999999") <= 3600


@pytest.mark.parametrize("status", [401, 403, 404, 405, 410, 301, 308])
def test_what_must_be_mended_holds_and_deletes_nothing_and_ends_by_itself(parts, tmp_path, status):
    headers = {"Location": "https://127.0.0.1:9/"} if status < 400 else {}
    server = serve(parts, tmp_path, [Answer(status, headers, body=b"no")] * 2)
    delivery = deliver(parts, tmp_path, server).add(7).start()
    held = delivery.until(lambda now: now.state == "holding")
    assert held.reason.startswith(f"HTTP {status}: ")
    assert delivery.spool.depth == 7
    delivery.until_empty()
    assert stored(server) == names(7)
    assert server.duplicates == 0
    assert len(server.requests) == 4
    same_bytes_for_same_key(server)


def odd(*headers, status=b"308 Permanent Redirect"):
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"Content-Length: 0", b"", b""])


@pytest.mark.parametrize("location", [b"http://[bad", b"https://\xff\xfe/", b"https://127.0.0.1:99999999/"])
def test_a_redirect_to_nowhere_holds_like_any_other(parts, tmp_path, location):
    server = serve(parts, tmp_path, [Answer(garbage=odd(b"Location: " + location))] * 2)
    delivery = deliver(parts, tmp_path, server).add(3).start()
    held = delivery.until(lambda now: now.state == "holding")
    assert held.reason == "HTTP 308: redirects are not followed, check upstream.url"
    delivery.until_empty()
    assert stored(server) == names(3)


def test_an_answer_that_the_http_library_stumbles_over_is_tried_again(parts, tmp_path):
    """Seen of a session that looks at Location; any other header may do it one day."""
    server = serve(parts, tmp_path, [Answer(garbage=odd(b"Location: https://\xff/"))])
    delivery = deliver(parts, tmp_path, server, factory=opener(server.certificates.ca_file, follow_redirects=True))
    delivery.add(3).start()
    assert delivery.until(lambda now: now.reason).reason == "answer is not HTTP"
    delivery.until_empty()
    assert stored(server) == names(3)


def test_a_dead_upstream_is_waited_for(parts, tmp_path):
    first = ScriptedUpstream(tmp_path / "server")
    first.close()
    port = int(first.url.rsplit(":")[-1].strip("/"))
    delivery = deliver(parts, tmp_path, first).add(3).start()
    assert delivery.until(lambda now: now.state == "retrying").reason == "connection refused"
    server = serve(parts, tmp_path, port=port)
    delivery.until_empty()
    assert stored(server) == names(3)


def test_an_upstream_that_restarts_between_batches_is_found_again(parts, tmp_path):
    first = ScriptedUpstream(tmp_path / "server")
    delivery = deliver(parts, tmp_path, first).add(3).start()
    delivery.until_empty()
    port = int(first.url.rsplit(":")[-1].strip("/"))
    first.close()
    server = serve(parts, tmp_path, port=port)
    delivery.add(3)
    delivery.until_empty()
    assert stored(server) == names(6)


def test_an_unknown_host_is_waited_for(parts, tmp_path, monkeypatch):
    def unknown(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    server = serve(parts, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", unknown)
        delivery = deliver(parts, tmp_path, server, url=server.url).add(3).start()
        assert delivery.until(lambda now: now.reason).reason == "host name not found"
    delivery.until_empty()


def test_an_untrusted_certificate_holds_until_the_ca_file_is_right(parts, tmp_path):
    server = serve(parts, tmp_path)
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    delivery = deliver(parts, tmp_path, server, factory=opener(ca_file)).add(3).start()
    held = delivery.until(lambda now: now.state == "holding")
    assert held.reason.startswith("certificate not trusted: ")
    assert held.reason.endswith("(set upstream.ca_file)")
    assert delivery.spool.depth == 3
    ca_file.write_bytes(server.certificates.ca_file.read_bytes())
    delivery.until_empty()
    assert stored(server) == names(3)


def test_a_missing_ca_file_holds_until_it_is_there(parts, tmp_path):
    server = serve(parts, tmp_path)
    ca_file = tmp_path / "ca.pem"
    delivery = deliver(parts, tmp_path, server, factory=opener(ca_file)).add(3).start()
    assert str(ca_file) in delivery.until(lambda now: now.state == "holding").reason
    ca_file.write_bytes(server.certificates.ca_file.read_bytes())
    delivery.until_empty()


def test_a_wrong_host_name_holds(parts, tmp_path):
    server = serve(parts, tmp_path)
    url = server.url.replace("127.0.0.1", "127.0.0.2")
    with socket.create_server(("127.0.0.2", 0)) as listener:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificates.server_cert, server.certificates.server_key)
        url = f"https://127.0.0.2:{listener.getsockname()[1]}/"

        def accept():
            try:
                with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True):
                    pass
            except OSError:
                pass

        accepting = threading.Thread(target=accept)
        accepting.start()
        delivery = deliver(parts, tmp_path, server, url=url, retry_max_s=60).add(3).start()
        held = delivery.until(lambda now: now.state == "holding")
        accepting.join(10)
    assert held.reason == "certificate is for another name (check upstream.url)"
    assert delivery.spool.depth == 3


def test_environment_cannot_redirect_or_break_the_delivery(parts, tmp_path, monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "nonsense"))
    for name in ("HTTPS_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = serve(parts, tmp_path)
    deliver(parts, tmp_path, server).add(3).start().until_empty()
    assert stored(server) == names(3)


def test_a_restart_between_sealing_and_answer_sends_the_same_batch_again(parts, tmp_path):
    server = serve(parts, tmp_path, [Answer(503, store=True)])
    first = Delivery(tmp_path, server.url, opener(server.certificates.ca_file), retry_min_s=60, retry_max_s=60).add(3)
    first.start().until(lambda now: now.state == "retrying")
    first.close()
    second = deliver(parts, tmp_path, server)
    second.made = 3
    second.add(2).start().until_empty()
    assert stored(server) == names(5)
    assert server.batches[0] == server.batches[1]
    assert server.duplicates == 3
    same_bytes_for_same_key(server)


def test_stop_ends_a_long_wait_at_once_and_drain_delivers_the_rest(parts, tmp_path):
    server = serve(parts, tmp_path, [Answer(401)])
    delivery = deliver(parts, tmp_path, server, retry_max_s=300, batch_interval_s=300).add(7).start()
    delivery.until(lambda now: now.state == "holding")
    delivery.stop.set()
    delivery.thread.join(5)
    assert not delivery.thread.is_alive()
    assert delivery.uploader.drain(10)
    assert stored(server) == names(7)


def test_drain_gives_up_when_its_time_cannot_be_kept(parts, tmp_path):
    server = serve(parts, tmp_path, [Answer(503, {"Retry-After": "60"})] * 9)
    delivery = deliver(parts, tmp_path, server).add(3)
    assert not delivery.uploader.drain(20)
    assert len(server.requests) == 1
    assert delivery.spool.depth == 3


def test_drain_waits_no_longer_for_an_answer_than_it_has(parts, tmp_path):
    hang = threading.Event()
    server = serve(parts, tmp_path, [Answer(hang=hang)] * 9)
    delivery = deliver(parts, tmp_path, server, factory=opener(server.certificates.ca_file, read_timeout_s=300)).add(3)
    assert not delivery.uploader.drain(0.5)
    hang.set()


def test_without_an_address_nothing_is_sent(parts, tmp_path):
    def never():
        raise AssertionError("no session is needed")

    delivery = Delivery(tmp_path, None, never).add(3).start()
    parts.append(delivery)
    assert delivery.uploader.status().state == "off"
    delivery.stop.set()
    delivery.thread.join(5)
    assert not delivery.uploader.drain(1)
    assert delivery.spool.depth == 3


def test_a_full_disk_is_waited_for_and_a_failing_one_ends_the_thread(parts, tmp_path, monkeypatch):
    server = serve(parts, tmp_path)
    delivery = deliver(parts, tmp_path, server).add(3)
    ack = delivery.spool.ack
    full = [True]

    def stubborn(batch, next_events=0):
        if full:
            full.pop()
            raise SpoolFullError("full", "", "the disk is full")
        ack(batch, next_events)

    monkeypatch.setattr(delivery.spool, "ack", stubborn)
    delivery.uploader._step(0)
    assert delivery.uploader.status().reason == "the spool cannot be written: the disk is full"
    assert delivery.uploader.drain(10)
    assert stored(server) == names(3)
    assert server.duplicates == 3
    delivery.add(1)

    def failing(*_):
        raise SpoolError("spool.sqlite: disk I/O error")

    monkeypatch.setattr(delivery.spool, "seal", failing)
    with pytest.raises(SpoolError):
        delivery.uploader.run()


def test_changes_are_logged_once_without_secret_address_or_body(parts, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server = serve(parts, tmp_path, [Answer(503)] * 4 + [Answer(401, body=b"hush")] * 3)
    url = server.url.replace("https://", "https://user:hush@") + "hush?key=hush"
    delivery = deliver(parts, tmp_path, server, url=url).add(3).start()
    delivery.until_empty()
    delivery.close()
    parts.remove(delivery)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("agent")]
    assert [line.split(" after")[0] for line in lines] == [
        "upstream: retrying: HTTP 503: service unavailable",
        "upstream: holding: HTTP 401: token or certificate refused", "upstream: delivering again"]
    assert "hush" not in " ".join(lines)
    assert "hush" not in str(delivery.uploader.status())


def test_the_heartbeat_goes_on_while_waiting(parts, tmp_path):
    server = serve(parts, tmp_path, [Answer(503, {"Retry-After": "60"})])
    delivery = deliver(parts, tmp_path, server).add(3).start()
    delivery.until(lambda now: now.state == "retrying")
    before = delivery.heartbeat._last
    delivery.until(lambda _: delivery.heartbeat._last > before)


def test_a_proxy_that_refuses_is_named(parts, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://user:hush@127.0.0.1:{closed.getsockname()[1]}"
    server = serve(parts, tmp_path)
    delivery = deliver(parts, tmp_path, server, factory=opener(server.certificates.ca_file, proxy=proxy)).add(1).start()
    assert delivery.until(lambda now: now.reason).reason == "proxy: connection refused"


NGINX = """
daemon off; pid nginx.pid; error_log error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {cert}; ssl_certificate_key {key};
        ssl_client_certificate {client_ca}; ssl_verify_client on; ssl_protocols TLSv1.3;
        location / {{ proxy_pass {behind}; }}
    }}
}}
"""


def certificate(folder, authority, *, days=90):
    """Return the files of a client certificate that ends in so many days."""
    now = datetime.now(timezone.utc)
    issued = authority.issue_cert("box-1", not_before=now - timedelta(days=400), not_after=now + timedelta(days=days))
    cert, key = folder / "client.pem", folder / "client.key"
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(cert))
    return cert, key


@pytest.mark.slow
def test_nginx_with_client_certificates_end_to_end(parts, tmp_path):
    """Without a certificate, and with an expired one, nginx answers 400 to everything: held, nothing is deleted."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not nginx:
        pytest.skip("needs nginx: apt install nginx-light")
    behind = serve(parts, tmp_path)
    authority = trustme.CA()
    client_ca = tmp_path / "client-ca.pem"
    authority.cert_pem.write_to_path(str(client_ca))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "nginx"
    folder.mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(
        port=port, cert=behind.certificates.server_cert, key=behind.certificates.server_key, client_ca=client_ca,
        behind=behind.url))
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    options = {"ca_file": behind.certificates.ca_file, "connect_timeout_s": 2, "read_timeout_s": 5}
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"

    def factory():
        with_certificate = {"client_cert": cert, "client_key": key} if cert.exists() else {}
        return open_session(HttpsOptions(**options, **with_certificate))

    try:
        delivery = deliver(parts, tmp_path, behind, url=f"https://127.0.0.1:{port}/events", factory=factory, files=[cert, key],
                           client_cert=cert, retry_max_s=300).add(12).start()
        held = delivery.until(lambda now: now.state == "holding")
        assert held.reason.startswith("HTTP 400: bad request, to a canary too: client certificate not accepted")
        certificate(tmp_path, authority, days=-3)
        held = delivery.until(lambda now: "expired" in now.reason)
        assert held.state == "holding"
        assert "client certificate expired 3 days ago" in held.reason
        assert delivery.spool.depth == 12
        assert behind.received == 0
        certificate(tmp_path, authority)
        status = delivery.until_empty()
        assert stored(behind) == names(12)
        assert behind.duplicates == 0
        assert status.buried == 0
        assert status.certificate_expires_in_s > 80 * 86400
    finally:
        process.terminate()
        process.wait(10)


def test_a_bad_session_factory_error_is_shown_not_raised(parts, tmp_path):
    def broken():
        raise ConfigError("client key /k: unusable", "mend it")

    delivery = Delivery(tmp_path, "https://127.0.0.1:9/", broken, retry_max_s=60).add(1).start()
    parts.append(delivery)
    assert delivery.until(lambda now: now.state == "holding").reason == "client key /k: unusable"


# What a receiver refuses ------------------------------------------------------------------------------------------


def refusing(*poison, status=400):
    """Return a judge that refuses every request with one of these events in it."""
    return lambda events, _headers: status if {one["id"] for one in events} & set(poison) else 0


@pytest.mark.parametrize("status", [400, 415, 422])
def test_one_poison_event_is_set_aside_and_declared_and_all_others_arrive(parts, tmp_path, status):
    server = serve(parts, tmp_path)
    server.judge = refusing("run-7", status=status)
    delivery = deliver(parts, tmp_path, server, batch_events=16).add(40).start()
    after = delivery.until_empty()
    assert stored(server) == [name for name in names(40) if name != "run-7"]
    assert server.duplicates == 0
    assert (after.buried, after.canaries) == (1, 3)
    assert delivery.spool.stats().dead == 1
    gaps = [one["data"] for one in server.delivered() if one["type"] == "gap"]
    assert [(gap["reason"], gap["first"], gap["last"], gap["count"]) for gap in gaps] == [("dead_letter", 8, 8, 1)]
    same_bytes_for_same_key(server)


def test_everything_refused_holds_and_nothing_is_deleted(parts, tmp_path):
    server = serve(parts, tmp_path)
    server.judge = lambda _events, _headers: 400
    delivery = deliver(parts, tmp_path, server).add(12).start()
    held = delivery.until(lambda now: now.state == "holding" and now.canaries > 3)
    assert "to a canary too" in held.reason
    assert (held.buried, delivery.spool.depth) == (0, 12)
    server.judge = None
    delivery.until_empty()
    assert stored(server) == names(12)


def test_a_restart_while_the_poison_is_sought_goes_on_with_the_halves(parts, tmp_path):
    server = serve(parts, tmp_path)
    refuse = refusing("run-5")
    server.judge = lambda events, headers: refuse(events, headers) or (503 if len(events) < 8 and events[0]["type"] != "heartbeat" else 0)
    first = Delivery(tmp_path, server.url, opener(server.certificates.ca_file), batch_events=8, retry_min_s=60, retry_max_s=60).add(8)
    first.start().until(lambda now: now.state == "retrying")
    first.close()
    assert stored(server) == []
    server.judge = refuse
    second = deliver(parts, tmp_path, server, batch_events=8)
    half = second.spool.seal(8, 0)
    assert [one["id"] for one in events_of(half)] == names(4)
    second.start().until_empty()
    assert stored(server) == [name for name in names(8) if name != "run-5"]
    assert second.spool.stats().dead == 1
    assert second.uploader.status().buried == 1


def test_too_large_is_halved_until_it_fits(parts, tmp_path):
    server = serve(parts, tmp_path)
    server.judge = lambda events, _headers: 413 if len(events) > 3 else 0
    status = deliver(parts, tmp_path, server, batch_events=16).add(40).start().until_empty()
    assert stored(server) == names(40)
    assert (status.buried, status.canaries, server.duplicates) == (0, 0, 0)


def test_full_dead_letters_hold(parts, tmp_path):
    server = serve(parts, tmp_path)
    server.judge = refusing("run-1", "run-3")
    delivery = deliver(parts, tmp_path, server, spool={"max_dead": 1}).add(5).start()
    held = delivery.until(lambda now: now.state == "holding")
    assert held.reason.endswith("the dead letters are full: vedette spool export, then retry-dead or drop-dead")
    assert stored(server) == ["run-0", "run-2"]
    server.judge = None
    delivery.until_empty()
    assert stored(server) == ["run-0", "run-2", "run-3", "run-4"]


@pytest.mark.parametrize("where", ["header", "body"])
def test_an_answer_that_drips_is_given_up_and_the_batch_goes_out_again(parts, tmp_path, where):
    server = serve(parts, tmp_path, [Answer(drip=where, store=True)])
    factory = opener(server.certificates.ca_file, read_timeout_s=600, total_timeout_s=0.4)
    delivery = deliver(parts, tmp_path, server, factory=factory).add(3).start()
    assert delivery.until(lambda now: now.reason).reason == "no answer in time"
    delivery.until_empty()
    assert stored(server) == names(3)
    assert server.duplicates == 3
    assert same_bytes_for_same_key(server) == 1


def test_drain_is_not_held_up_by_a_server_that_drips(parts, tmp_path):
    server = serve(parts, tmp_path, [Answer(drip="body")] * 9)
    delivery = deliver(parts, tmp_path, server, factory=opener(server.certificates.ca_file, read_timeout_s=600)).add(3)
    assert not delivery.uploader.drain(0.4)
    assert delivery.spool.depth == 3


@pytest.mark.parametrize(("trust", "words"), [("implausible", "the box's clock is not set"), ("synchronised", "check the clock")])
def test_a_wrong_clock_is_named_when_the_receivers_certificate_is_out_of_its_time(parts, tmp_path, trust, words):
    authority, now = trustme.CA(), datetime.now(timezone.utc)
    issued = authority.issue_cert("127.0.0.1", not_before=now + timedelta(days=1), not_after=now + timedelta(days=9))
    server = ScriptedUpstream(tmp_path / "server")
    parts.append(server)
    issued.cert_chain_pems[0].write_to_path(str(server.certificates.server_cert))
    issued.private_key_pem.write_to_path(str(server.certificates.server_key))
    authority.cert_pem.write_to_path(str(server.certificates.ca_file))
    server.rotate(server.certificates, None)
    held = deliver(parts, tmp_path, server, trust=trust, retry_max_s=60).add(1).start().until(lambda now: now.state == "holding")
    assert held.reason == f"certificate not trusted: certificate is not yet valid ({words})"
    assert held.clock == trust
