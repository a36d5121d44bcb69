"""Just enough HTTP/1.1 for a page that is only read: a request's head in, an answer out, one a connection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

MOST_HEAD = 8192
_WORDS = {200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
          405: "Method Not Allowed", 421: "Misdirected Request", 431: "Request Header Fields Too Large",
          503: "Service Unavailable"}
# The browser is to load nothing from elsewhere, run only our script, show us in nobody's frame, and keep nothing.
_ALWAYS = {
    "Content-Security-Policy":
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Connection": "close",
}


class BadRequestError(Exception):
    """What came is no request that is answered.

    Args:
        code: HTTP status.
        why: A line for whoever asked.
    """

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A GET request; header names in lower case, of repeated headers and query keys the last."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back."""

    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return it as it goes over the wire."""
        lines = [f"HTTP/1.1 {self.code} {_WORDS[self.code]}", f"Content-Type: {self.kind}",
                 f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in {**_ALWAYS, **self.headers}.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self.body


def read(head: bytes) -> Request:
    """Read a request's head (without the empty line that ends it).

    Raises:
        BadRequestError: it is not one that is answered.
    """
    if len(head) > MOST_HEAD:
        raise BadRequestError(431, f"a request's head has at most {MOST_HEAD} bytes")
    first, *rest = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError(400, "this is no HTTP/1 request")
    if words[0] != "GET":
        raise BadRequestError(405, "the page is only read: GET")
    headers = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequestError(400, "a header is not well-formed")
        headers[name.lower()] = value.strip()
    try:
        url = urlsplit(words[1])
        query = {key: values[-1] for key, values in parse_qs(url.query, max_num_fields=8).items()}
    except ValueError:
        raise BadRequestError(400, "the address is not well-formed") from None
    return Request(path=unquote(url.path), query=query, headers=headers)
