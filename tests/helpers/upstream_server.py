"""A real TLS receiver whose first answers are scripted: what a fleet's upstream does on its bad days."""

import ssl
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from agent.cli.receiver import Certificates, Receiver
from agent.https import HttpsOptions, open_session


@dataclass(frozen=True)
class Answer:
    """One scripted answer; ``store`` keeps the events before answering, as a server that dies late does."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    store: bool = False
    body: bytes = b""
    cut: bool = False  # half of the announced body, then the connection goes
    garbage: bytes = b""  # sent instead of HTTP
    hang: threading.Event | None = None  # waited for before anything is sent


class ScriptedUpstream(Receiver):
    """Gives the scripted answers in turn, then behaves."""

    def __init__(self, folder: Path, script: Iterable[Answer] = (), *, port: int = 0,
                 certificates: Certificates | None = None, client_ca: Path | None = None,
                 tweak: Callable[[ssl.SSLContext], None] | None = None) -> None:
        self.script = deque(script)
        self.requests: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self._tweak = tweak
        super().__init__(folder, port=port, certificates=certificates, client_ca=client_ca)

    def _context(self, client_ca: Path | None) -> ssl.SSLContext:
        context = super()._context(client_ca)
        if self._tweak:
            self._tweak(context)
        return context

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        self.requests.append(dict(request.headers.items()))
        self.bodies.append(body)
        if not self.script:
            super().respond(request, body)
            return
        answer = self.script.popleft()
        if answer.hang:
            answer.hang.wait(20)
        if answer.store:
            self.store_encoded(request, body)
        if answer.garbage:
            request.wfile.write(answer.garbage)
            request.close_connection = True
            return
        request.send_response(answer.status)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(1000 if answer.cut else len(answer.body)))
        request.end_headers()
        request.wfile.write(b"x" * 100 if answer.cut else answer.body)
        request.close_connection = request.close_connection or answer.cut

    def store_encoded(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        import gzip

        self.store(gzip.decompress(body), request.headers["Idempotency-Key"])


def only_tls_1_1(context: ssl.SSLContext) -> None:
    """Make a server speak nothing newer than TLS 1.1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")


def opener(ca_file: Path | None, **options: object) -> Callable[[], object]:
    """Return a session factory with short timeouts."""
    values = {"connect_timeout_s": 2.0, "read_timeout_s": 2.0, **options}
    return lambda: open_session(HttpsOptions(ca_file=ca_file, **values))
