"""Every status and every kind of failure has one meaning, and only 2xx ever deletes."""

import errno
import http.client
import socket
import ssl
from email.utils import formatdate

import pytest

from agent.report.verdict import Kind, failure, verdict

NOW = 1763761516.0
RETRIED = {408, 425, 429} | set(range(500, 600))
EXPECTED = {
    **dict.fromkeys(range(200, 300), Kind.ACK), **dict.fromkeys(RETRIED, Kind.RETRY), 413: Kind.HALVE,
    **dict.fromkeys((400, 415, 422), Kind.REJECT)}


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status(status):
    expected = EXPECTED.get(status, Kind.HOLD)
    found = verdict(status, None, NOW)
    assert found.kind is expected
    assert found.status == status
    assert found.wait_s is None
    assert bool(found.reason) == (expected is not Kind.ACK)
    assert expected is Kind.ACK or found.reason.startswith(f"HTTP {status}: ")


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 999])
def test_impossible_statuses_hold(status):
    assert verdict(status, None, NOW).kind is Kind.HOLD


@pytest.mark.parametrize(("status", "words"), [
    (401, "token or certificate refused"),
    (403, "token or certificate refused"), (404, "upstream.url"), (301, "upstream.url"), (413, "too large")])
def test_reasons_say_what_to_mend(status, words):
    assert words in verdict(status, None, NOW).reason


@pytest.mark.parametrize(("header", "wait_s"), [
    (None, None), ("", None), ("7", 7), (" 7 ", 7), ("0", None), ("-5", None), ("1e3", None), ("86400", 3600),
    ("9" * 5000, 3600), ("soon", None), ("\u0661", None),
    (formatdate(NOW + 90, usegmt=True), 90), (formatdate(NOW - 90, usegmt=True), None),
    (formatdate(NOW + 9e6, usegmt=True), 3600), ("Mon, 99 Foo 2025", None)])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status, header, wait_s):
    assert verdict(status, header, NOW).wait_s == wait_s


@pytest.mark.parametrize("status", [200, 401, 302, 400, 413])
def test_retry_after_is_for_retries_only(status):
    assert verdict(status, "7", NOW).wait_s is None


def certificate_error(message):
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = message
    return error


@pytest.mark.parametrize(("cause", "kind", "words"), [
    (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Kind.RETRY, "connection refused"),
    (ConnectionResetError(errno.ECONNRESET, "x"), Kind.RETRY, "connection cut"),
    (BrokenPipeError(), Kind.RETRY, "connection cut"),
    (http.client.RemoteDisconnected("x"), Kind.RETRY, "connection cut"),
    (http.client.IncompleteRead(b""), Kind.RETRY, "connection cut"),
    (http.client.BadStatusLine("secret"), Kind.RETRY, "answer is not HTTP"),
    (socket.gaierror(-2, "x"), Kind.RETRY, "host name not found"),
    (OSError(errno.ENETUNREACH, "Network is unreachable"), Kind.RETRY, "network is unreachable"),
    (ssl.SSLEOFError(8, "x"), Kind.RETRY, "connection cut"), (TimeoutError("x"), Kind.RETRY, "no answer in time"),
    (ssl.SSLError(1, "x"), Kind.HOLD, "TLS refused"),
    (certificate_error("self-signed certificate"), Kind.HOLD, "set upstream.ca_file"),
    (certificate_error("Hostname mismatch, certificate is not valid for 'x'."), Kind.HOLD, "another name"),
    (certificate_error("certificate has expired"), Kind.HOLD, "check the clock"),
    (ValueError("secret"), Kind.RETRY, "connection failed")])
@pytest.mark.parametrize("wrap", ["bare", "argument", "cause", "reason"])
def test_failures_are_known_however_they_are_wrapped(cause, kind, words, wrap):
    error = cause
    if wrap == "argument":
        error = RuntimeError("https://user:secret@host/", RuntimeError(cause))
    elif wrap == "cause":
        error = RuntimeError("secret")
        error.__cause__ = cause
    elif wrap == "reason":
        error = RuntimeError("secret")
        error.reason = cause
    found = failure(error)
    assert found.kind is kind
    assert words in found.reason
    assert "secret" not in found.reason


@pytest.mark.parametrize(("trust", "words"), [
    ("implausible", "(the box's clock is not set)"), ("unsynchronised", "(the box's clock is not synchronised)"),
    ("synchronised", "(check the clock)"), ("unknown", "(check the clock)")])
@pytest.mark.parametrize("message", ["certificate is not yet valid", "certificate has expired"])
def test_a_wrong_clock_is_blamed_for_a_certificate_out_of_its_time(message, trust, words):
    assert failure(certificate_error(message), trust).reason == f"certificate not trusted: {message} {words}"


def test_a_wrong_clock_is_not_blamed_for_an_unknown_authority():
    assert "clock" not in failure(certificate_error("self-signed certificate"), "implausible").reason


def test_errors_in_a_circle_end():
    one, two = RuntimeError(), RuntimeError()
    one.__cause__, two.__cause__ = two, one
    assert failure(one).kind is Kind.RETRY
