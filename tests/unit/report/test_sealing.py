"""The bytes of requests: fixed, reversible, and named by their hash."""

import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError, SpoolError
from agent.report import sealing

FORMATS = ["cloudevents", "json", "ndjson"]
BODIES = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=30) | st.integers(), max_size=4).map(
    lambda made: json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")), min_size=1, max_size=9)
TWO = [b'{"id":"a"}', b'{"id":"b"}']


@pytest.fixture(params=["gzip", "zstd", "none"])
def compression(request):
    if request.param == "zstd" and importlib.util.find_spec("zstandard") is None:
        pytest.skip("needs the package zstandard: pip install zstandard")
    return request.param


@pytest.mark.parametrize("format_", FORMATS)
@given(bodies=BODIES)
def test_what_is_encoded_can_be_decoded_and_encoded_again(format_, bodies):
    for compression in ("gzip", "none"):
        made = sealing.encode(bodies, format_, compression)
        assert sealing.decode(made.body, made.content_type, made.encoding) == bodies
        assert sealing.encode_again(bodies, made.content_type, made.encoding) == made


@pytest.mark.parametrize(("format_", "content_type", "plain"), [
    ("cloudevents", "application/cloudevents-batch+json", b'[{"id":"a"},{"id":"b"}]'),
    ("json", "application/json", b'[{"id":"a"},{"id":"b"}]'),
    ("ndjson", "application/x-ndjson", b'{"id":"a"}\n{"id":"b"}\n')])
def test_the_id_is_the_hash_of_the_plain_body_whatever_the_compression(format_, content_type, plain, compression):
    made = sealing.encode(TWO, format_, compression)
    assert made.content_type == content_type
    assert made.encoding == {"gzip": "gzip", "zstd": "zstd", "none": ""}[compression]
    assert made.id == hashlib.sha256(plain).hexdigest()
    assert sealing.plain_of(made.body, made.encoding) == plain
    assert sealing.decode(made.body, made.content_type, made.encoding) == TWO


def test_the_same_events_make_the_same_bytes_in_another_process(compression):
    script = ("import sys; from agent.report import sealing;"
              f"sys.stdout.write(sealing.encode({TWO * 50!r}, 'cloudevents', {compression!r}).body.hex())")
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True)
    assert bytes.fromhex(done.stdout) == sealing.encode(TWO * 50, "cloudevents", compression).body


def test_gzip_carries_no_time():
    assert sealing.encode(TWO, "json", "gzip").body[4:8] == bytes(4)  # RFC 1952, MTIME


@pytest.mark.parametrize("harm", [
    lambda body: body[:-9], lambda body: b"junk" + body, lambda body: body[:12] + b"\xff\xff\xff" + body[15:],
    lambda body: b""])
def test_damaged_bytes_are_told_as_such(harm, compression):
    made = sealing.encode(TWO * 9, "cloudevents", compression)
    with pytest.raises(SpoolError, match="cannot be read"):
        sealing.decode(harm(made.body), made.content_type, made.encoding)


def test_zstd_without_its_package_is_a_clear_fault(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="zstandard") as caught:
        sealing.check_compression("zstd")
    assert "gzip" in caught.value.remedy
    sealing.check_compression("gzip")
    sealing.check_compression("none")
    with pytest.raises(SpoolError, match="cannot be read"):
        sealing.plain_of(b"", "zstd")


def test_the_sequence_is_the_last_attribute_and_has_twelve_digits_or_more():
    assert sealing.numbered(b'{"id":"a"}', 7) == b'{"id":"a","sequence":"000000000007"}'
    assert sealing.head(sealing.numbered(b'{"id":"a","type":"t"}', 10**13)) == sealing.Head("a", "t", "1" + "0" * 13)


def test_a_body_that_is_no_event_is_told_as_such():
    assert sealing.time_of(b'{"time":"2026-01-01T00:00:00Z"}') == "2026-01-01T00:00:00Z"
    assert sealing.time_of(b"{}") is None
    assert sealing.time_of(b"\xff") is None
    for body in (b"{}", b"[", b'{"id":"a","type":"t"}', gzip.compress(b"")):
        with pytest.raises(SpoolError, match="an event in the spool"):
            sealing.head(body)
