"""A real TLS receiver whose first answers are scripted: what a fleet's upstream does on its bad days."""

import json
import socket
import ssl
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from agent.cli.receiver import Certificates, Receiver
from agent.https import HttpsOptions, open_session
from agent.report.sealing import decode

DRIPS = 40
DRIP_S = 0.05


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
    drip: str = ""  # "header" or "body": that comes a byte at a time, DRIPS bytes in all


class ScriptedUpstream(Receiver):
    """Gives the scripted answers in turn, then what ``judge(events, headers)`` says (0: behave), then behaves.

    Attributes:
        requests: Headers of each request.
        bodies: Their bodies as they came.
        clients: Common names of the client certificates they came with.
    """

    def __init__(self, folder: Path, script: Iterable[Answer] = (), *, port: int = 0,
                 certificates: Certificates | None = None, client_ca: Path | None = None,
                 tweak: Callable[[ssl.SSLContext], None] | None = None) -> None:
        self.script = deque(script)
        self.requests: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.clients: list[str] = []
        self.judge: Callable[[list[dict], dict[str, str]], int] | None = None
        self._rotations = 0
        self._tweak = tweak
        super().__init__(folder, port=port, certificates=certificates, client_ca=client_ca)

    def _context(self, client_ca: Path | None) -> ssl.SSLContext:
        context = super()._context(client_ca)
        if self._tweak:
            self._tweak(context)
        return context

    def rotate(self, certificates: Certificates, client_ca: Path) -> None:
        """Be someone else and take other clients from the next connection on; those that stand are cut when used."""
        self.certificates = certificates
        self._server.socket._context = self._context(client_ca)
        self._rotations += 1

    def delivered(self) -> list[dict]:
        """Return the stored events that are no canaries."""
        return [one for one in self.events() if one.get("type") != "heartbeat"]

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        request.rotations = getattr(request, "rotations", self._rotations)
        if request.rotations != self._rotations:
            request.close_connection = True
            return
        self.requests.append(dict(request.headers.items()))
        self.bodies.append(body)
        subject = (request.connection.getpeercert() or {}).get("subject", ())
        self.clients.append(dict(pair for part in subject for pair in part).get("commonName", ""))
        events = [json.loads(one) for one in self.decoded(request, body)] if self.judge else []
        if not self.script and self.judge and (status := self.judge(events, self.requests[-1])):
            request.send_response(status)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if not self.script:
            super().respond(request, body)
            return
        answer = self.script.popleft()
        if answer.hang:
            answer.hang.wait(20)
        if answer.store:
            self.store_encoded(request, body)
        if answer.drip:
            drip(request.wfile.write, answer.drip)
            request.close_connection = True
            return
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

    def decoded(self, request: BaseHTTPRequestHandler, body: bytes) -> list[bytes]:
        return decode(body, request.headers["Content-Type"], request.headers.get("Content-Encoding", ""))

    def store_encoded(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        import gzip

        self.store(gzip.decompress(body), request.headers["Idempotency-Key"])


def drip(send: Callable[[bytes], object], where: str) -> bool:
    """Send a good answer, its header or its body slowly; tell whether the other side was there until its end."""
    try:
        if where == "header":
            send(b"HTTP/1.1 200 OK\r\nX: ")
            slowly(send)
            send(b"\r\nContent-Length: 0\r\n\r\n")
        else:
            send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % DRIPS)
            slowly(send)
    except OSError:
        return False
    return True


def slowly(send: Callable[[bytes], object]) -> None:
    for _ in range(DRIPS):
        send(b"x")
        time.sleep(DRIP_S)


class RawServer:
    """Takes one connection after the other and does with each what it was told; for what no HTTP server does."""

    def __init__(self, serve: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> None:
        self._serve, self._context = serve, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.ended = threading.Event()  # for what waits in ``serve``
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                plain = self._listener.accept()[0]
            except OSError:
                return
            try:
                with plain, (self._context.wrap_socket(plain, server_side=True) if self._context else plain) as connection:
                    connection.settimeout(20)
                    self._serve(connection)
            except OSError:
                pass  # the client has gone, which is its right

    def close(self) -> None:
        self.ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    return context


def only_tls_1_1(context: ssl.SSLContext) -> None:
    """Make a server speak nothing newer than TLS 1.1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")


def opener(ca_file: Path | None, **options: object) -> Callable[[], object]:
    """Return a session factory with short timeouts, for reports."""
    values = {"connect_timeout_s": 2.0, "read_timeout_s": 2.0, "follow_redirects": False, **options}
    return lambda: open_session(HttpsOptions(ca_file=ca_file, **values))
