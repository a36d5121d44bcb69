"""Rotated files are used at once, broken ones never end what works, and an ending certificate is told in time."""

import logging
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from agent.errors import ConfigError
from agent.report.credentials import Credentials

trustme = pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")

DAY = 86400.0
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class Session:
    def __init__(self, content):
        self.content, self.closed = content, False

    def close(self):
        self.closed = True


class Box:
    """A file, a clock and a factory that reads the file; a file that says "broken" does not work."""

    def __init__(self, folder, **options):
        self.file, self.now, self.opened = folder / "file", 0.0, 0
        self.file.write_text("one")
        self.credentials = Credentials(self.open, [self.file], clock=lambda: self.now, **options)

    def open(self):
        self.opened += 1
        try:
            content = self.file.read_text()
        except OSError as error:
            raise ConfigError(f"{self.file}: {error.strerror}") from error
        if "broken" in content:
            raise ConfigError(f"{self.file} is {content}", "mend it")
        return Session(content)

    def later(self, seconds=1.0):
        self.now += seconds
        return self.credentials


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


def test_one_session_serves_as_long_as_its_files_stay(box):
    first = box.credentials.session()
    for _ in range(100):
        assert box.later().session() is first
    assert box.opened == 1


def test_a_changed_file_is_used_and_the_old_session_is_closed(box):
    first = box.credentials.session()
    box.file.write_text("two2")
    fresh = box.later().session()
    assert fresh.content == "two2"
    assert first.closed
    assert not fresh.closed


def test_files_are_looked_at_once_a_second(box, monkeypatch):
    box.credentials.session()
    box.later().changed()
    looks = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path: looks.append(path) or real(path))
    for _ in range(100):
        box.later(0.01).session()
    assert 1 <= len(looks) <= 2


@pytest.mark.parametrize("how", ["replaced", "linked", "mode", "removed", "same size"])
def test_every_way_of_changing_a_file_is_seen(box, tmp_path, how):
    box.credentials.session()
    assert not box.later().changed()
    other = tmp_path / "other"
    if how == "replaced":
        other.write_text("two")
        other.replace(box.file)
    elif how == "linked":
        other.write_text("one")
        box.file.unlink()
        box.file.symlink_to(other)
    elif how == "mode":
        box.file.chmod(0o600)
    elif how == "removed":
        box.file.unlink()
    else:
        status = box.file.stat()
        box.file.write_text("eno")
        os.utime(box.file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert box.later().changed()


def test_broken_new_files_keep_the_old_session_and_are_told_once(box, caplog):
    first = box.credentials.session()
    box.file.write_text("broken")
    for _ in range(5):
        assert box.later().session() is first
    assert box.opened == 2  # tried once
    assert box.credentials.trouble == f"{box.file} is broken"
    box.file.write_text("broken again")
    assert box.later().session() is first
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    box.file.write_text("well")
    assert box.later().session().content == "well"
    assert box.credentials.trouble == ""
    assert first.closed


def test_a_file_that_is_gone_keeps_the_old_session(box):
    first = box.credentials.session()
    box.file.unlink()
    assert box.later().session() is first
    assert not first.closed


def test_without_an_old_session_broken_files_are_an_error_until_they_change(box):
    box.file.write_text("broken")
    for _ in range(2):
        with pytest.raises(ConfigError, match="broken"):
            box.credentials.session()
    assert not box.later().changed()
    box.file.write_text("one")
    assert box.later().changed()
    assert box.credentials.session().content == "one"
    assert not box.later().changed()


def test_doubted_files_are_read_again_though_they_did_not_change(box):
    first = box.credentials.session()
    box.credentials.doubt()
    assert not box.later().changed()  # so that a held delivery is not hurried
    assert box.credentials.session() is not first
    box.credentials.doubt()
    box.file.write_text("broken")
    assert box.credentials.session().content == "one"


def test_closing_ends_the_session_and_the_next_request_opens_one(box):
    first = box.credentials.session()
    box.credentials.close()
    assert first.closed
    assert box.credentials.session() is not first


def test_a_change_while_the_files_are_read_is_not_missed(box):
    real = box.open

    def slow():
        session = real()
        box.file.write_text("changed meanwhile")
        return session

    box.credentials._open_session = slow
    box.credentials.session()
    box.credentials._open_session = real
    assert box.later().session().content == "changed meanwhile"


# The certificate's end


def certificate(folder, days, *, chain_days=None):
    authority = trustme.CA()
    files = folder / "client.pem"
    made = [authority.issue_cert("box", not_after=NOW + timedelta(days=one)) for one in (days, chain_days) if one is not None]
    files.write_bytes(b"".join(one.cert_chain_pems[0].bytes() for one in made) + made[0].private_key_pem.bytes())
    return files


def watching(folder, days, trust="synchronised", **options):
    wall = [NOW.timestamp()]
    box = Box(folder, client_cert=certificate(folder, days, **options), trust=lambda: trust, wall=lambda: wall[0])
    box.wall = wall
    return box


def live(box, days):
    """Let hours pass; watch every one of them."""
    for _ in range(int(days * 24)):
        box.now += 3600
        box.wall[0] += 3600
        box.credentials.watch()


@pytest.mark.parametrize(("days", "chain_days", "expected"), [(90, None, 90), (90, 10, 10), (10, 90, 10), (-1, None, -1)])
def test_the_first_end_in_the_chain_counts(tmp_path, days, chain_days, expected):
    box = watching(tmp_path, days, chain_days=chain_days)
    assert box.credentials.expires_in_s() is None  # nothing was read yet
    box.credentials.session()
    assert box.credentials.expires_in_s() == pytest.approx(expected * DAY, abs=1)
    box.wall[0] += 3600
    assert box.credentials.expires_in_s() == pytest.approx(expected * DAY - 3600, abs=1)


def test_the_end_is_told_once_a_day_from_thirty_days_on_and_when_it_has_come(tmp_path, caplog):
    box = watching(tmp_path, 33)
    live(box, 3)
    assert caplog.records == []
    live(box, 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"upstream: client certificate expires in {days} days (2026-04-03): renew {tmp_path / 'client.pem'}" for days in (29, 28)]
    caplog.clear()
    live(box, 27.9)
    assert len(caplog.records) == 28
    caplog.clear()
    live(box, 1)
    assert "client certificate expired 0 days ago (2026-04-03)" in caplog.text
    assert len(caplog.records) == 1


def test_a_renewed_certificate_ends_the_warnings(tmp_path, caplog):
    box = watching(tmp_path, 5)
    box.credentials.session()
    live(box, 1)
    assert caplog.records
    certificate(tmp_path, 90)
    box.file.write_text("rotated")
    box.later(2).session()
    caplog.clear()
    live(box, 3)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    assert box.credentials.expires_in_s() > 80 * DAY


@pytest.mark.parametrize(("trust", "words"), [("implausible", ", or the box's clock is not set"),
                                              ("unsynchronised", ", or the box's clock is not synchronised"),
                                              ("unknown", "")])
def test_a_clock_that_cannot_be_trusted_is_told_with_the_end(tmp_path, caplog, trust, words):
    box = watching(tmp_path, 2, trust)
    live(box, 0.1)
    assert f"expires in 1 day (2026-03-03){words}: renew" in caplog.text


def test_what_may_be_wrong_with_the_credentials(tmp_path, box):
    assert box.credentials.blame() == "client certificate missing (set upstream.client_cert)"
    good = watching(tmp_path, 90).credentials
    good.session()
    assert good.blame() == "client certificate not accepted"
    ended = watching(tmp_path, -3).credentials
    ended.session()
    assert ended.blame() == "client certificate expired 3 days ago (2026-02-26)"


@pytest.mark.parametrize("content", [None, b"", b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_cannot_be_read_has_no_known_end(tmp_path, caplog, content):
    box = Box(tmp_path, client_cert=tmp_path / "client.pem")
    if content is not None:
        (tmp_path / "client.pem").write_bytes(content)
    box.later(100).watch()
    assert box.credentials.expires_in_s() is None
    assert caplog.records == []


def test_no_secret_is_logged(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    box = watching(tmp_path, 5)
    box.file.write_text("hush")
    box.credentials.session()
    box.file.write_text("hush hush")
    box.later().session()
    live(box, 1)
    assert caplog.records
    assert "hush" not in caplog.text


def test_without_a_client_certificate_its_reader_is_not_loaded():
    code = ("import sys; from agent.report.credentials import Credentials; one = Credentials(lambda: type('S', (), {'close': lambda s: 0})());"
            "one.session(); one.watch(); sys.exit('cryptography' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
