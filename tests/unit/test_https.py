"""The session factory against real TLS servers: whom it trusts, and that the environment has no say."""

import io
import logging
import os
import socket
import ssl
import threading

import pytest

from agent.errors import ConfigError
from agent.https import HttpsOptions, open_session, tls_context
from tests.helpers.upstream_server import (
    DRIP_S,
    DRIPS,
    Answer,
    RawServer,
    ScriptedUpstream,
    drip,
    only_tls_1_1,
    opener,
    server_context,
    slowly,
)

requests = pytest.importorskip("requests", reason="needs requests: pip install -e .")
trustme = pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")


@pytest.fixture
def server(tmp_path):
    running = ScriptedUpstream(tmp_path / "server")
    yield running
    running.close()


def post(session, url):
    with session:
        return session.post(url, data=b"[]", allow_redirects=False)


def test_own_authority_is_trusted(server):
    assert post(opener(server.certificates.ca_file)(), server.url).status_code == 204


def test_without_ca_file_the_private_authority_is_not_trusted(server):
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        post(opener(None)(), server.url)


def test_ca_file_replaces_all_other_authorities(server, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    assert len(tls_context(HttpsOptions(ca_file=other)).get_ca_certs()) == 1
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        post(opener(other)(), server.url)


def test_requests_adds_no_authorities_of_its_own(server):
    session = opener(server.certificates.ca_file)()
    context = session.get_adapter(server.url).poolmanager.connection_pool_kw["ssl_context"]
    assert post(session, server.url).status_code == 204
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_environment_ca_neither_breaks_nor_widens_trust(server, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, str(tmp_path / "nonsense.pem"))
    assert post(opener(server.certificates.ca_file)(), server.url).status_code == 204
    monkeypatch.setenv(name, str(server.certificates.ca_file))
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        post(opener(other)(), server.url)


def test_proxy_variables_are_ignored(server, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(opener(server.certificates.ca_file)(), server.url).status_code == 204


def test_netrc_is_ignored(server, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password leak\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    post(opener(server.certificates.ca_file)(), server.url)
    assert "Authorization" not in server.requests[0]


def test_configured_proxy_is_used(server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(requests.exceptions.ProxyError):
        post(opener(server.certificates.ca_file, proxy=f"http://127.0.0.1:{port}")(), server.url)


def test_wrong_host_name_is_refused(tmp_path):
    from agent.cli.receiver import Certificates

    authority = trustme.CA()
    issued = authority.issue_cert("elsewhere.example")
    files = Certificates(ca_file=tmp_path / "ca", server_cert=tmp_path / "cert", server_key=tmp_path / "key")
    authority.cert_pem.write_to_path(str(files.ca_file))
    issued.cert_chain_pems[0].write_to_path(str(files.server_cert))
    issued.private_key_pem.write_to_path(str(files.server_key))
    server = ScriptedUpstream(tmp_path / "server", certificates=files)
    try:
        with pytest.raises(requests.exceptions.SSLError, match="mismatch"):
            post(opener(files.ca_file)(), server.url)
    finally:
        server.close()


def test_tls_1_1_server_is_refused(tmp_path):
    server = ScriptedUpstream(tmp_path / "server", tweak=only_tls_1_1)
    try:
        with pytest.raises(requests.exceptions.SSLError):
            post(opener(server.certificates.ca_file)(), server.url)
        # The same server does answer a client that takes old versions: what refuses is our own floor.
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(server.certificates.ca_file)
        only_tls_1_1(old)
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":")[-1].strip("/"))), 5) as plain, \
                old.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            assert secure.version() == "TLSv1.1"
    finally:
        server.close()


def test_client_certificate_and_token_are_sent(tmp_path):
    authority = trustme.CA()
    ca_file, cert, key = (tmp_path / name for name in ("client-ca.pem", "client.pem", "client.key"))
    authority.cert_pem.write_to_path(str(ca_file))
    client = authority.issue_cert("box-1")
    client.cert_chain_pems[0].write_to_path(str(cert))
    client.private_key_pem.write_to_path(str(key))
    server = ScriptedUpstream(tmp_path / "server", client_ca=ca_file)
    try:
        with pytest.raises(requests.exceptions.RequestException):
            post(opener(server.certificates.ca_file)(), server.url)
        session = opener(server.certificates.ca_file, client_cert=cert, client_key=key, token="secret")()
        assert post(session, server.url).status_code == 204
        assert server.requests[0]["Authorization"] == "Bearer secret"
    finally:
        server.close()


def test_plain_http_is_impossible():
    with open_session(HttpsOptions()) as session, pytest.raises(requests.exceptions.InvalidSchema):
        session.get("http://127.0.0.1:9/")


def test_the_http_library_logs_no_address(server, caplog):
    """Of a header that is none it would log the whole URL and a traceback; at debug level, every request's."""
    caplog.set_level(logging.DEBUG)
    server.script.append(Answer(garbage=b"HTTP/1.1 204 Odd\r\n: nameless\r\n\r\n"))
    with opener(server.certificates.ca_file)() as session:
        assert session.post(f"{server.url}?key=hush", data=b"[]").status_code == 204
    assert caplog.text == ""


def test_every_request_has_a_timeout(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}/"
        with open_session(HttpsOptions(connect_timeout_s=0.2, read_timeout_s=0.2)) as session, \
                pytest.raises(requests.exceptions.Timeout):
            session.get(url)


@pytest.mark.parametrize("content", [None, b"", b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
@pytest.mark.parametrize("option", ["ca_file", "client_cert"])
def test_bad_files_are_named(tmp_path, option, content):
    path = tmp_path / f"{option}.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        open_session(HttpsOptions(**{option: path}))
    assert str(path) in caught.value.what
    assert caught.value.remedy


def test_key_that_does_not_belong_or_is_encrypted_is_named(tmp_path):
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    authority = trustme.CA()
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    client = authority.issue_cert("box-1")
    client.cert_chain_pems[0].write_to_path(str(cert))
    authority.issue_cert("box-2").private_key_pem.write_to_path(str(key))
    with pytest.raises(ConfigError, match=r"client\.key"):
        open_session(HttpsOptions(client_cert=cert, client_key=key))
    locked = load_pem_private_key(client.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    key.write_bytes(locked)
    with pytest.raises(ConfigError, match=r"client\.key"):
        open_session(HttpsOptions(client_cert=cert, client_key=key))


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user: root reads every file")
def test_unreadable_file_is_named(tmp_path):
    path = tmp_path / "ca.pem"
    path.touch(0o000)
    with pytest.raises(ConfigError, match="Permission denied"):
        open_session(HttpsOptions(ca_file=path))


def test_bad_token_is_refused_without_showing_it():
    with pytest.raises(ConfigError) as caught:
        open_session(HttpsOptions(token="se\ncret"))
    assert "cret" not in str(caught.value).replace("secret", "")


def test_options_do_not_print_secrets(tmp_path):
    shown = repr(HttpsOptions(token="hush", proxy="http://user:hush@proxy:1"))
    assert "hush" not in shown


ODD_LOCATIONS = [b"http://[bad", b"https://\xff\xfe/", b"https://127.0.0.1:99999999/", b"//", b""]


@pytest.mark.parametrize("location", ODD_LOCATIONS)
def test_a_session_without_redirects_does_not_look_at_where_one_goes(server, location):
    server.script.append(Answer(garbage=b"HTTP/1.1 308 Odd\r\nLocation: " + location + b"\r\nContent-Length: 2\r\n\r\nno"))
    with opener(server.certificates.ca_file)() as session:
        assert session.post(server.url, data=b"[]").status_code == 308
    assert len(server.requests) == 1


def test_a_session_without_redirects_leaves_the_body_of_one_unread(server):
    size, sent = 64 * 2**20, [0]

    def serve(connection):
        request = b""
        while not request.endswith(b"[]"):
            request += connection.recv(65536)
        connection.sendall(b"HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1:9/\r\nContent-Length: %d\r\n\r\n" % size)
        while sent[0] < size:
            connection.sendall(bytes(2**16))
            sent[0] += 2**16

    lavish = RawServer(serve, server_context(server.certificates))
    try:
        with opener(server.certificates.ca_file)() as session, \
                session.post(f"https://{lavish.address}/", data=b"[]", stream=True, allow_redirects=False) as answer:
            assert answer.status_code == 301
    finally:
        lavish.close()
    assert sent[0] < size / 2  # what the kernels' buffers took


def test_other_sessions_follow_redirects(server):
    """As downloads of models need it."""
    server.script.append(Answer(307, {"Location": "/elsewhere"}))
    with opener(server.certificates.ca_file, follow_redirects=True)() as session:
        assert session.post(server.url, data=b"[]").status_code == 204
    assert len(server.requests) == 2


# The bound of a whole request: every byte comes in time, the answer does not. Unbounded, each of these would end well
# after DRIPS * DRIP_S seconds, or wait for ever.
BOUND_S = 0.4
assert BOUND_S < DRIPS * DRIP_S / 2
TOO_LATE = (requests.exceptions.Timeout, requests.exceptions.ConnectionError)


def patient(ca_file, **options):
    return opener(ca_file, connect_timeout_s=600.0, read_timeout_s=600.0, **options)()


def timed_out(error):
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


@pytest.mark.parametrize("where", ["header", "body"])
def test_an_answer_that_drips_is_cut_and_the_session_goes_on(server, where):
    server.script.append(Answer(drip=where))
    with patient(server.certificates.ca_file, total_timeout_s=BOUND_S) as session:
        with pytest.raises(TOO_LATE) as caught:
            session.post(server.url, data=b"[]")
        assert timed_out(caught.value)
        for _ in range(2):  # on a new connection, then on the same one
            assert session.post(server.url, data=b"[]").status_code == 204


@pytest.mark.parametrize("where", ["header", "body"])
def test_without_a_bound_of_the_whole_slow_answers_arrive(server, where):
    """As downloads of models need it."""
    server.script.append(Answer(drip=where))
    with opener(server.certificates.ca_file, read_timeout_s=DRIP_S * 20)() as session:
        assert session.post(server.url, data=b"[]").status_code == 200


def test_a_requests_own_timeout_bounds_the_whole(server):
    server.script.append(Answer(drip="body"))
    with patient(server.certificates.ca_file) as session, pytest.raises(TOO_LATE):
        session.post(server.url, data=b"[]", timeout=BOUND_S)


def test_the_shorter_bound_counts(server):
    server.script.extend([Answer(drip="body")] * 2)
    for total_s, own_s in ((BOUND_S, 600), (600, BOUND_S)):
        with patient(server.certificates.ca_file, total_timeout_s=total_s) as session, pytest.raises(TOO_LATE):
            session.post(server.url, data=b"[]", timeout=own_s)


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize("reads", [0, 32])
def test_a_server_that_hardly_reads_is_cut(server, reads, as_stream):
    """It takes a part of the body now and then, so that no single wait is long."""
    size, taken = 32 * 2**20, [0]

    def serve(connection):
        while not mute.ended.wait(DRIP_S):
            for _ in range(reads):
                taken[0] += len(connection.recv(65536))

    mute = RawServer(serve, server_context(server.certificates))
    try:
        with patient(server.certificates.ca_file, total_timeout_s=BOUND_S) as session, pytest.raises(TOO_LATE) as caught:
            session.post(f"https://{mute.address}/", data=io.BytesIO(bytes(size)) if as_stream else bytes(size))
        assert timed_out(caught.value)
        assert taken[0] < size * 3 / 4
    finally:
        mute.close()


def test_a_handshake_that_drips_is_cut(server):
    def serve(connection):
        connection.sendall(b"\x16\x03\x03\x3f\xff")
        slowly(connection.sendall)

    dripping = RawServer(serve)
    try:
        with patient(server.certificates.ca_file, total_timeout_s=BOUND_S) as session, pytest.raises(TOO_LATE) as caught:
            session.post(f"https://{dripping.address}/", data=b"[]")
        assert timed_out(caught.value)
    finally:
        dripping.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_drips_is_cut(server, scheme, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificates.ca_file))  # where OpenSSL finds the system's authorities
    finished = []

    def serve(connection):
        connection.recv(4096)
        finished.append(drip(connection.sendall, "header"))

    proxy = RawServer(serve, server_context(server.certificates) if scheme == "https" else None)
    try:
        with patient(server.certificates.ca_file, proxy=f"{scheme}://{proxy.address}", total_timeout_s=BOUND_S) as session, \
                pytest.raises(TOO_LATE) as caught:
            session.post(server.url, data=b"[]")
        assert timed_out(caught.value)
    finally:
        proxy.close()
    assert finished == [False]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_bounded_request_goes_through_a_proxy(server, scheme, monkeypatch):
    """The same machinery on a good day: a tunnel, then TLS inside it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificates.ca_file))

    def serve(connection):
        head = connection.recv(4096)
        assert head.startswith(b"CONNECT 127.0.0.1:")
        with socket.create_connection(("127.0.0.1", int(head.split()[1].rpartition(b":")[2])), 5) as onward:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(onward, connection))
            back.start()
            pump(connection, onward)
            back.join()

    def pump(start, end):
        try:
            while data := start.recv(4096):
                end.sendall(data)
            end.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    proxy = RawServer(serve, server_context(server.certificates) if scheme == "https" else None)
    try:
        with opener(server.certificates.ca_file, proxy=f"{scheme}://{proxy.address}", total_timeout_s=20.0)() as session:
            assert session.post(server.url, data=b"[]").status_code == 204
    finally:
        proxy.close()


def test_no_cookie_is_kept(tmp_path):
    """A session lives for weeks: what a receiver sets again and again would fill its own limit for headers."""
    from tests.helpers.upstream_server import Answer, ScriptedUpstream, opener

    with ScriptedUpstream(tmp_path, [Answer(204, {"Set-Cookie": f"n{n}=1"}) for n in range(3)]) as server:
        session = opener(server.certificates.ca_file)()
        for _ in range(3):
            assert session.post(server.url, data=b"[]").status_code == 204
        session.close()
        assert not [request for request in server.requests if "Cookie" in request]
