"""Certificates, keys, authorities and tokens that are rotated under a running delivery: none of it is noticed upstream."""

import threading
from datetime import datetime, timedelta, timezone

import pytest
import requests

from agent.cli.receiver import Certificates
from agent.config import UpstreamSection
from agent.https import HttpsOptions, open_session
from agent.report.credentials import Credentials
from agent.secrets import read_secret
from tests.helpers.delivery import Delivery, names, stored
from tests.helpers.upstream_server import ScriptedUpstream

trustme = pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")


def put(path, content):
    """Write a file as a careful rotation does: all at once."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)


class Identities:
    """A server authority and a client authority, of one generation."""

    def __init__(self, folder, name):
        self.name, self.servers, self.clients = name, trustme.CA(), trustme.CA()
        self.client_ca = folder / f"{name}-client-ca.pem"
        self.clients.cert_pem.write_to_path(str(self.client_ca))
        issued = self.servers.issue_cert("127.0.0.1")
        self.certificates = Certificates(ca_file=folder / f"{name}-ca.pem", server_cert=folder / f"{name}-server.pem",
                                         server_key=folder / f"{name}-server.key")
        put(self.certificates.ca_file, self.servers.cert_pem.bytes())
        put(self.certificates.server_cert, issued.cert_chain_pems[0].bytes())
        put(self.certificates.server_key, issued.private_key_pem.bytes())

    def client(self):
        issued = self.clients.issue_cert("box-1", common_name=self.name)
        return issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()


class Box:
    """The files of one box, and a delivery that uses them."""

    def __init__(self, folder, identities):
        self.ca, self.cert, self.key, self.token = (folder / name for name in ("box-ca.pem", "box.pem", "box.key", "token"))
        self.trusting(identities)
        self.become(identities)
        put(self.token, b"first\n")

    def trusting(self, *all_of):
        put(self.ca, b"".join(one.servers.cert_pem.bytes() for one in all_of))

    def become(self, identities):
        for path, content in zip((self.cert, self.key), identities.client(), strict=True):
            put(path, content)

    def open(self):
        return open_session(HttpsOptions(ca_file=self.ca, client_cert=self.cert, client_key=self.key,
                                         token=read_secret(f"file:{self.token}"), connect_timeout_s=5, read_timeout_s=5,
                                         follow_redirects=False))

    def delivery(self, folder, server):
        # A held delivery would be tried again after five minutes: what goes on sooner goes on because of the files.
        return Delivery(folder, server.url, self.open, files=[self.ca, self.cert, self.key, self.token],
                        client_cert=self.cert, retry_max_s=300)


@pytest.fixture
def stage(tmp_path):
    """Return (box, server, delivery, old, new); the delivery has started and delivered five events."""
    old, new = Identities(tmp_path, "old"), Identities(tmp_path, "new")
    box = Box(tmp_path, old)
    server = ScriptedUpstream(tmp_path / "server", certificates=old.certificates, client_ca=old.client_ca)
    delivery = box.delivery(tmp_path, server).add(5).start()
    delivery.until_empty()
    assert server.clients == ["old"]
    yield box, server, delivery, old, new
    delivery.close()
    server.close()


def held(caplog):
    return [record.getMessage() for record in caplog.records if "holding" in record.getMessage()]


def keep_delivering(delivery, until):
    """Add events one by one, waiting for each, until a condition holds."""
    for _ in range(2000):
        delivery.add(1).until_empty()
        if until():
            return
        threading.Event().wait(0.02)
    raise AssertionError("the rotation was never noticed")


def test_a_rotation_of_all_that_identifies_both_sides_holds_and_loses_nothing(stage, tmp_path, caplog):
    """New authorities are trusted beside the old ones, then everyone changes, then the old ones are revoked."""
    box, server, delivery, old, new = stage
    both = tmp_path / "both-client-ca.pem"
    both.write_bytes(old.client_ca.read_bytes() + new.client_ca.read_bytes())
    server.rotate(old.certificates, both)
    box.trusting(old, new)
    box.become(new)
    keep_delivering(delivery, lambda: server.clients[-1] == "new")
    server.rotate(new.certificates, new.client_ca)  # the old client certificate would now be refused
    box.trusting(new)
    delivery.add(20).until_empty()
    assert stored(server) == names(delivery.made)
    assert server.duplicates == 0
    assert held(caplog) == []
    assert delivery.uploader.status().buried == 0
    assert delivery.uploader.status().canaries == 0


def test_a_receiver_that_changed_first_is_waited_for_and_the_new_files_end_the_wait_at_once(stage, caplog):
    box, server, delivery, _old, new = stage
    server.rotate(new.certificates, new.client_ca)
    delivery.add(7).until(lambda now: now.state == "holding")
    assert "certificate not trusted" in held(caplog)[0]
    box.trusting(new)
    delivery.until(lambda now: now.state == "holding" and "certificate not trusted" not in now.reason)  # ours is refused now
    assert delivery.spool.depth == 7
    box.become(new)
    delivery.until_empty()
    assert server.clients[-1] == "new"
    assert stored(server) == names(12)
    assert server.duplicates == 0


@pytest.mark.parametrize("broken", ["ca", "cert", "key", "token"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nhalf"])
def test_broken_new_files_do_not_end_what_works(stage, caplog, broken, content):
    box, server, delivery, _old, _new = stage
    path = getattr(box, broken)
    if broken == "token" and content:
        content = b"two\nlines"
    path.unlink() if content is None else put(path, content)
    keep_delivering(delivery, lambda: delivery.uploader._credentials.trouble)
    delivery.add(5).until_empty()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "the old ones are kept" in told[0]
    assert str(path) in told[0] or broken in {"key", "token"}
    assert stored(server) == names(delivery.made)
    assert delivery.uploader.status().state in {"idle", "sending"}


def test_a_key_that_does_not_belong_yet_is_waited_for(stage, caplog):
    box, server, delivery, old, _new = stage
    cert, key = old.client()
    put(box.cert, cert)
    keep_delivering(delivery, lambda: delivery.uploader._credentials.trouble)
    assert "unusable" in delivery.uploader._credentials.trouble
    put(box.key, key)
    keep_delivering(delivery, lambda: not delivery.uploader._credentials.trouble)
    assert held(caplog) == []
    assert stored(server) == names(delivery.made)


def test_a_rotated_token_is_read_again(stage, caplog):
    box, server, delivery, _old, _new = stage
    server.judge = lambda _events, headers: 0 if headers["Authorization"] == "Bearer second" else 401
    delivery.add(3).until(lambda now: now.state == "holding")
    put(box.token, b"second\n")
    delivery.until_empty()
    assert stored(server) == names(8)
    assert "first" not in caplog.text
    assert "second" not in caplog.text.replace("seconds", "")


def test_an_ending_certificate_is_told_though_there_is_nothing_to_send(tmp_path, caplog):
    end = datetime.now(timezone.utc) + timedelta(days=5)
    cert = tmp_path / "box.pem"
    cert.write_bytes(trustme.CA().issue_cert("box-1", not_after=end).cert_chain_pems[0].bytes())
    delivery = Delivery(tmp_path, "https://127.0.0.1:9/", lambda: None, client_cert=cert).start()
    status = delivery.until(lambda now: now.certificate_expires_in_s is not None)
    delivery.close()
    assert status.state == "idle"
    assert status.attempts == 0
    assert "upstream: client certificate expires in 4 days" in caplog.text


def test_the_assembled_uploader_follows_its_files(tmp_path):
    """The configuration's own way: a token that changes after the start is sent with the next session."""
    from agent import assembly
    from agent.meters import Heartbeat
    from tests.helpers.live_spools import open_spool

    identities = Identities(tmp_path, "old")
    box = Box(tmp_path, identities)
    server = ScriptedUpstream(tmp_path / "server", certificates=identities.certificates, client_ca=identities.client_ca)
    section = UpstreamSection(
        url=server.url, ca_file=str(box.ca), client_cert=str(box.cert), client_key=f"file:{box.key}", token=f"file:{box.token}")
    with open_spool(tmp_path / "spool.sqlite") as spool:
        made = assembly.uploader(section, spool, threading.Event(), Heartbeat("uploader", 60), canary=lambda: b"{}")
        credentials = made._credentials
        assert isinstance(credentials, Credentials)
        assert credentials._files == (box.ca, box.cert, box.key, box.token)
        first = credentials.session()
        assert first.headers["Authorization"] == "Bearer first"
        put(box.token, b"second\n")
        credentials._look_at = 0.0
        assert credentials.session().headers["Authorization"] == "Bearer second"
        assert made.status().certificate_expires_in_s > 0
        odd = requests.Response()
        odd.status_code, odd.headers["Location"] = 308, "https://elsewhere.example/"
        assert odd.is_redirect
        assert credentials.session().get_redirect_target(odd) is None
        credentials.close()
    server.close()
