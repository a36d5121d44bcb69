"""One request to the upstream, and what its answer means. The only place where reports touch the HTTP library.

Promises: never raises for what the other side or the network does; never follows a redirect; reads an answer only as
far as a connection needs it to be used again.
"""

import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.clock import Trust
from agent.errors import AgentError
from agent.report.credentials import Credentials
from agent.report.sealing import Encoded
from agent.report.spool import SealedBatch
from agent.report.verdict import Kind, Verdict, failure, verdict

if TYPE_CHECKING:
    import requests

_ANSWER_BYTES = 64 * 1024
_LEAST_S = 0.001
_SAID_BYTES = 1024
_SAID_LETTERS = 300


class Sender:
    """Posts bodies to one address.

    Args:
        url: Where to; may not be shown.
        credentials: Makes the sessions.
        user_agent: ``vedette/<version>``.
        trust: How far the wall clock can be believed.
        wall: Wall clock, for a ``Retry-After`` that is a date.

    Attributes:
        attempts: Requests made.
    """

    def __init__(self, url: str, credentials: Credentials, user_agent: str, trust: Callable[[], Trust],
                 wall: Callable[[], float] = time.time) -> None:
        self._url, self._credentials, self._user_agent = url, credentials, user_agent
        self._trust, self._wall = trust, wall
        self.attempts = 0

    def send(self, request: SealedBatch | Encoded, timeout_s: float | None = None) -> tuple[Verdict, int]:
        """Post ``request``, for ``timeout_s`` at most if it is given; return the verdict and the body's bytes sent."""
        import requests  # noqa: PLC0415 -- only a box with an upstream pays for it

        self.attempts += 1
        headers = {"Content-Type": request.content_type, "Idempotency-Key": request.id, "User-Agent": self._user_agent}
        if request.encoding:
            headers["Content-Encoding"] = request.encoding
        try:
            session = self._credentials.session()
        except AgentError as error:
            return Verdict(Kind.HOLD, error.what), 0
        body = io.BytesIO(request.body)  # its position says how much was sent before a connection broke
        try:
            with session.post(self._url, data=body, headers=headers, stream=True, allow_redirects=False,
                              timeout=None if timeout_s is None else max(_LEAST_S, timeout_s)) as answer:
                result = verdict(answer.status_code, answer.headers.get("Retry-After"), self._wall())
                if result.kind is Kind.ACK:
                    _read(answer)
                elif result.kind in {Kind.HALVE, Kind.REJECT}:
                    result = replace(result, said=_words(answer))
        except requests.exceptions.RequestException as error:
            result = _no_answer(error, self._trust())
        except ValueError:  # the library's parsers let some of theirs through, UnicodeDecodeError among them
            result = Verdict(Kind.RETRY, "answer is not HTTP")
        return result, body.tell()


def _read(answer: "requests.Response") -> None:
    """Read a short answer to its end, so that the connection can be used again and a cut one is noticed."""
    size = 0
    for chunk in answer.iter_content(4096):
        size += len(chunk)
        if size > _ANSWER_BYTES:
            return


def _words(answer: "requests.Response") -> str:
    """Return the beginning of what the receiver says about a refusal, as one line of plain text; empty for none."""
    from requests import exceptions  # noqa: PLC0415 -- see send

    if "html" in answer.headers.get("Content-Type", ""):
        return ""  # a page of the web server in front; the status says as much
    try:
        start = next(answer.iter_content(_SAID_BYTES), b"")
    except exceptions.RequestException:
        return ""
    text = "".join(letter if letter.isprintable() else " " for letter in start.decode("utf-8", "replace"))
    return " ".join(text.split())[:_SAID_LETTERS]


def _no_answer(error: "requests.exceptions.RequestException", trust: Trust) -> Verdict:
    from requests import exceptions  # noqa: PLC0415 -- see send

    if isinstance(error, exceptions.InvalidURL | exceptions.InvalidSchema):
        return Verdict(Kind.HOLD, "upstream.url or upstream.proxy is no usable address")
    if isinstance(error, exceptions.ConnectTimeout):
        return Verdict(Kind.RETRY, "no connection in time")
    if isinstance(error, exceptions.Timeout):
        return Verdict(Kind.RETRY, "no answer in time")
    result = failure(error, trust)
    if isinstance(error, exceptions.ProxyError):
        return Verdict(Kind.RETRY, f"proxy: {result.reason}")
    return result
