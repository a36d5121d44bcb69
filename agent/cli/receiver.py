"""A small HTTPS receiver of CloudEvents batches, for the demo and the tests: events become lines of a file.

Promises: answers 204 only when every event of a batch is on the file; an id that was seen before is counted, not
stored again; a body that is too large or no batch is refused whole. It is no product: it checks no token, and keeps
all ids in memory.
"""

import gzip
import io
import logging
import socket
import ssl
import threading
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.atomic import write_atomic
from agent.errors import ConfigError, missing_extra

_LOG = logging.getLogger(__name__)
_BODY_BYTES = 16 * 1024 * 1024
_STALL_S = 30
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM files of a server and of the authority that a client must trust to reach it."""

    ca_file: Path
    server_cert: Path
    server_key: Path


def make_certificates(folder: Path, host: str = "127.0.0.1") -> Certificates:
    """Return the certificates in ``folder``, made for ``host`` and localhost if they are not there yet.

    Raises:
        ConfigError: the package that makes them is not installed.
        OSError: ``folder`` cannot be written.
    """
    made = Certificates(ca_file=folder / "ca.pem", server_cert=folder / "server.pem", server_key=folder / "server.key")
    if all(path.exists() for path in (made.ca_file, made.server_cert, made.server_key)):
        return made
    try:
        import trustme
    except ImportError as error:
        raise ConfigError("trustme is not installed, so no certificates can be made",
                          missing_extra("fleet")) from error
    authority = trustme.CA()
    server = authority.issue_cert(*dict.fromkeys((host, "127.0.0.1", "::1", "localhost")))
    write_atomic(made.ca_file, authority.cert_pem.bytes())
    write_atomic(made.server_cert, b"".join(part.bytes() for part in server.cert_chain_pems))
    write_atomic(made.server_key, server.private_key_pem.bytes(), 0o600)
    return made


class Envelope(msgspec.Struct, frozen=True):
    """What an event must have to be stored."""

    id: str
    specversion: str


class Receiver(AbstractContextManager["Receiver"]):
    """A running receiver; it listens when the constructor returns, and until its ``with`` block is left.

    Args:
        folder: Gets ``events.ndjson`` and, when ``certificates`` is None, the certificates. A line that is no event
            (a crash cut it short, say) is moved to ``events.ndjson.bad``.
        host: Address to listen on, IPv4 or IPv6.
        port: 0 takes a free one.
        certificates: Who it says it is.
        client_ca: Authority that clients' certificates must come from; None asks for none.

    Attributes:
        url: Where to post to.
        file: The stored events, one a line.
        received: Events stored, those of an earlier run on the same folder included.
        duplicates: Events that came again and were not stored again.
        batches: Idempotency keys in the order of arrival.

    Raises:
        OSError: the address is taken, or the folder cannot be written.
        ConfigError: as for :func:`make_certificates`.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0,
                 certificates: Certificates | None = None, client_ca: Path | None = None) -> None:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.certificates = certificates or make_certificates(folder, host)
        self.file = folder / "events.ndjson"
        self.duplicates = 0
        self.batches: list[str] = []
        self._lock = threading.Lock()
        _set_damage_aside(self.file)
        self._ids = {event["id"] for event in self.events()}
        context = self._context(client_ca)
        self._server = (_Server6 if ":" in host else _Server)((host, port), _handler(self))
        # The handshake happens in the connection's own thread, not in the one that accepts.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://{f'[{host}]' if ':' in host else host}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="receiver", daemon=True)
        self._thread.start()

    def _context(self, client_ca: Path | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates.server_cert, self.certificates.server_key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def received(self) -> int:
        """Events stored."""
        return len(self._ids)

    def events(self) -> list[dict[str, Any]]:
        """Return all stored events, oldest first."""
        with self._lock:  # never half of what is being written
            text = self.file.read_bytes() if self.file.exists() else b""
        return [msgspec.json.decode(line) for line in text.splitlines()]

    def store(self, body: bytes, key: str) -> HTTPStatus:
        """Store a decoded body and return the status to answer."""
        try:
            raws = msgspec.json.decode(body, type=list[msgspec.Raw])
            ids = [event.id for event in msgspec.json.decode(body, type=list[Envelope])]
        except msgspec.DecodeError:
            return HTTPStatus.BAD_REQUEST
        with self._lock:
            self.batches.append(key)
            fresh = {name: msgspec.json.format(bytes(raw), indent=-1)  # however it came, it becomes one line
                     for name, raw in zip(ids, raws, strict=True) if name not in self._ids}
            self.duplicates += len(ids) - len(fresh)
            with self.file.open("ab") as lines:
                lines.writelines(raw + b"\n" for raw in fresh.values())
            self._ids.update(fresh)
        return HTTPStatus.NO_CONTENT

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer one request whose (still encoded) body was read."""
        plain = _decoded(body, request.headers.get("Content-Encoding", "identity"))
        status = (HTTPStatus.BAD_REQUEST if plain is None
                  else self.store(plain, request.headers.get("Idempotency-Key", "")))
        request.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            request.send_header("Content-Length", "0")
        request.end_headers()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.close()


def _set_damage_aside(file: Path) -> None:
    """Move the lines of ``file`` that are no events to ``<file>.bad``, and end the last one."""
    if not file.exists():
        return
    text = file.read_bytes()
    whole, damaged = [], []
    for line in text.splitlines():
        try:
            msgspec.json.decode(line, type=Envelope)
        except msgspec.DecodeError:
            damaged.append(line + b"\n")
        else:
            whole.append(line + b"\n")
    if damaged:
        aside = file.with_name(f"{file.name}.bad")
        with aside.open("ab") as lines:
            lines.writelines(damaged)
        _LOG.warning("%s: %d damaged line(s), set aside in %s", file, len(damaged), aside)
    if (mended := b"".join(whole)) != text:
        write_atomic(file, mended)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away or does not trust us is its own concern."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _STALL_S

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > _BODY_BYTES:
                self.close_connection = True
                self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            receiver.respond(self, self.rfile.read(int(length)))

        def log_message(self, *_: Any) -> None:
            """Keep the terminal clean."""

    return Handler


def _decoded(body: bytes, encoding: str) -> bytes | None:
    """Return the body without its gzip, None when it is damaged or grows past the bound."""
    if encoding != "gzip":
        return body
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            plain = file.read(_BODY_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        return None
    return plain if len(plain) <= _BODY_BYTES else None


@click.command()
@click.option("--listen", default="127.0.0.1:8443", show_default=True, metavar="HOST:PORT", help="0 takes a free port.")
@click.option("--folder", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Gets events.ndjson and the certificates.")
def receiver(listen: str, folder: Path) -> None:
    """Take events over HTTPS and write them to a file, one a line, until Ctrl-C. For trying things out only."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise click.BadParameter(f"{listen!r} is not HOST:PORT with a port of 0 to {_LAST_PORT}", param_hint="--listen")
    try:
        running = Receiver(folder, host.removeprefix("[").removesuffix("]"), int(port))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {listen} or write to {folder}: {error}") from error
    click.echo(f"url     {running.url}\nca_file {running.certificates.ca_file}\nevents  {running.file}")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo(f"{running.received} events, {running.duplicates} duplicates")
    finally:
        running.close()
