"""What an answer, or none, means for the batch that was sent. Pure.

Promise: ACK only on 2xx. RETRY for what passes by itself (the network, a busy or broken server), HOLD for what someone
must mend (credentials, certificates, the address), HALVE for a body that is too large, REJECT for one that the
receiver does not understand, whoever is to blame for it (see :mod:`agent.report.rejection`); only ACK deletes.
Reasons are short, and hold no address, no secret and nothing the receiver wrote.
"""

import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

from agent.clock import Trust, words

LONGEST_RETRY_AFTER_S = 3600.0
_PASSING = frozenset({408, 425, 429})
_REJECTIONS = frozenset({400, 415, 422})
_TOO_LARGE = 413
_REMEDIES = {
    401: "token or certificate refused",
    403: "token or certificate refused",
    404: "nothing there, check upstream.url",
    405: "takes no POST, check upstream.url",
}


class Kind(Enum):
    """What to do with the batch."""

    ACK = "ack"
    RETRY = "retry"
    HOLD = "hold"
    HALVE = "halve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why.

    Attributes:
        kind: What to do.
        reason: Why, in words for an operator.
        wait_s: How long to wait before the next attempt where the receiver said so, seconds.
        status: The HTTP status; 0 when there was no answer.
        said: What the receiver wrote about a refusal, one line of plain text. It stays with the dead letter; no log
            and no status has it.
    """

    kind: Kind
    reason: str = ""
    wait_s: float | None = None
    status: int = 0
    said: str = ""


def verdict(status: int, retry_after: str | None, now: float) -> Verdict:
    """Judge an HTTP status.

    Args:
        status: As received.
        retry_after: The ``Retry-After`` header: seconds or an HTTP date (RFC 9110, 10.2.3); looked at for RETRY only.
        now: Wall clock, seconds since the epoch.
    """
    if 200 <= status <= 299:
        return Verdict(Kind.ACK, status=status)
    wait_s = None
    if status in _PASSING or 500 <= status <= 599:
        kind, text, wait_s = Kind.RETRY, _phrase(status), _wait_s(retry_after, now)
    elif status == _TOO_LARGE:
        kind, text = Kind.HALVE, "too large for the receiver"
    elif status in _REJECTIONS:
        kind, text = Kind.REJECT, _phrase(status)
    elif 300 <= status <= 399:
        kind, text = Kind.HOLD, "redirects are not followed, check upstream.url"
    else:
        kind, text = Kind.HOLD, _REMEDIES.get(status) or _phrase(status)
    return Verdict(kind, f"HTTP {status}: {text}", wait_s, status)


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase.lower()
    except ValueError:
        return "unknown status"


def _wait_s(retry_after: str | None, now: float) -> float | None:
    """Return the wait the header asks for, at most an hour; None for none, garbage and times gone by."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:9])
    else:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return None
    return min(wait_s, LONGEST_RETRY_AFTER_S) if wait_s > 0 else None


def failure(error: BaseException, trust: Trust = "unknown") -> Verdict:
    """Judge an exception that came instead of an answer.

    What the HTTP library raises wraps what really happened, often several times; the innermost known cause counts.

    Args:
        error: As raised.
        trust: How far this box's clock can be believed: a wrong one makes good certificates look bad.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Verdict(Kind.HOLD, _certificate(cause, trust))
    for cause in causes:
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return Verdict(Kind.RETRY, "connection cut")
        if isinstance(cause, ssl.SSLError):
            alert = getattr(cause, "reason", None) or "unknown"
            return Verdict(Kind.HOLD, f"TLS refused: {alert.lower().replace('_', ' ')}")
    for kind, reason in (
            (socket.gaierror, "host name not found"), (ConnectionRefusedError, "connection refused"),
            (ConnectionResetError, "connection cut"), (BrokenPipeError, "connection cut"),
            (http.client.RemoteDisconnected, "connection cut"), (http.client.IncompleteRead, "connection cut"),
            (http.client.HTTPException, "answer is not HTTP"), (TimeoutError, "no answer in time")):
        if any(isinstance(cause, kind) for cause in causes):
            return Verdict(Kind.RETRY, reason)
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror and cause.errno:
            return Verdict(Kind.RETRY, cause.strerror.lower())
    return Verdict(Kind.RETRY, "connection failed")


def _certificate(error: ssl.SSLCertVerificationError, trust: Trust) -> str:
    message = str(getattr(error, "verify_message", "") or "verification failed").rstrip(".")
    if "mismatch" in message:
        return "certificate is for another name (check upstream.url)"
    if "expired" in message or "not yet valid" in message:
        return f"certificate not trusted: {message} ({words(trust) or 'check the clock'})"
    return f"certificate not trusted: {message} (set upstream.ca_file)"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and all it wraps: as argument, as ``reason``, as cause or as context."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (*current.args, getattr(current, "reason", None), current.__cause__, current.__context__)
        waiting += [one for one in inner if isinstance(one, BaseException)]
