"""Ask the upstream inside a child process: looking up a name may take longer than anything that bounds it.

What is posted is an empty batch, in the way the agent posts its events: it delivers nothing, and yet its answer says
whether address, certificates and token are taken. Nothing is sent before the server's certificate was verified.
"""

import http.client
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import msgspec

from agent import __version__
from agent.clock import trust
from agent.diagnosis.around import Certificate, Upstream
from agent.diagnosis.inquiries import UpstreamInquiry
from agent.errors import AgentError
from agent.https import HttpsOptions, open_session, tls_context
from agent.redact import redact
from agent.report.credentials import Credentials, certificate_end
from agent.report.sealing import encode
from agent.report.sender import Sender
from agent.secrets import read_secret

_PORT = 443


def probe_upstream(file: str) -> Upstream:
    """Do what the :class:`UpstreamInquiry` in ``file`` asks."""
    asked = msgspec.json.decode(Path(file).read_bytes(), type=UpstreamInquiry)
    parts = urlsplit(asked.url)
    way = urlsplit(asked.proxy) if asked.proxy else parts
    found = Upstream(url=redact(asked.url), proxy=redact(asked.proxy or ""), host=way.hostname or "",
                     token=asked.token_file is not None, certificates=tuple(_own(asked)))
    try:
        rows = socket.getaddrinfo(way.hostname, way.port or _PORT, type=socket.SOCK_STREAM)
    except OSError as error:
        return _with(found, name_fault=(error.strerror or str(error)).lower())
    found = _with(found, addresses=tuple(dict.fromkeys(str(row[4][0]) for row in rows)))
    try:
        options = _options(asked)
        tls_context(options)
    except AgentError as error:
        return _with(found, secrets_fault=error.what, remedy=error.remedy)
    version, server = _server(parts.hostname or "", parts.port or _PORT, options)
    if server is not None:
        found = _with(found, certificates=(*found.certificates, server))
    return _posted(_with(found, tls=version), asked, options)


def _with(found: Upstream, **changes: Any) -> Upstream:
    return msgspec.structs.replace(found, **changes)


def _options(asked: UpstreamInquiry) -> HttpsOptions:
    ca_file, cert, key = (Path(name) if name else None for name in (asked.ca_file, asked.client_cert, asked.client_key))
    return HttpsOptions(
        ca_file=ca_file, client_cert=cert, client_key=key, proxy=asked.proxy, follow_redirects=False,
        token=read_secret(f"file:{asked.token_file}") if asked.token_file else None,
        connect_timeout_s=asked.connect_timeout_s, read_timeout_s=asked.read_timeout_s,
        total_timeout_s=asked.connect_timeout_s + asked.read_timeout_s)


def _posted(found: Upstream, asked: UpstreamInquiry, options: HttpsOptions) -> Upstream:
    """Post the empty batch."""
    credentials = Credentials(lambda: open_session(options))
    sender = Sender(asked.url, credentials, f"vedette/{__version__} doctor", trust)
    began_s = time.monotonic()
    try:
        batch = encode([], cast("Literal['cloudevents', 'json', 'ndjson']", asked.format),
                       cast("Literal['gzip', 'zstd', 'none']", asked.compression))
        result, _ = sender.send(batch)
    except AgentError as error:
        return _with(found, secrets_fault=error.what, remedy=error.remedy)
    finally:
        credentials.close()
    return _with(found, status=result.status, kind=result.kind.value, reason=result.reason,
                 took_s=time.monotonic() - began_s)


def _own(asked: UpstreamInquiry) -> list[Certificate]:
    """Look at the files of this box."""
    found = []
    if asked.ca_file:
        found.append(_authorities(asked.ca_file))
    if asked.client_cert:
        end = certificate_end(Path(asked.client_cert))
        found.append(Certificate(role="client", file=asked.client_cert, ends=end,
                                 fault="cannot be read" if end is None else None))
    return found


def _authorities(file: str) -> Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        said = getattr(error, "reason", None) or error.strerror or str(error)
        return Certificate(role="ca", file=file, fault=str(said))
    ends = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in context.get_ca_certs()]
    if not ends:  # a server's own certificate, trusted as it is, is no authority
        end = certificate_end(Path(file))
        return Certificate(role="ca", file=file, ends=end, fault="cannot be read" if end is None else None)
    now = time.time()
    return Certificate(role="ca", file=file, ends=max(ends), count=len(ends), ended=sum(end <= now for end in ends))


def _server(host: str, port: int, options: HttpsOptions) -> tuple[str | None, Certificate | None]:
    """Return the TLS version and the server's certificate; neither where no verified connection can be made."""
    proxy = urlsplit(options.proxy or "")
    if proxy.scheme == "https":
        return None, None
    timeout_s = options.connect_timeout_s
    to = (proxy.hostname or "", proxy.port or 80) if options.proxy else (host, port)
    connection = http.client.HTTPSConnection(*to, timeout=timeout_s, context=tls_context(options))
    if options.proxy:
        connection.set_tunnel(host, port)
    try:
        connection.connect()
        peer = cast("ssl.SSLSocket", connection.sock)
        shown = cast("dict[str, Any]", peer.getpeercert() or {})
        return peer.version(), Certificate(role="server", ends=ssl.cert_time_to_seconds(shown["notAfter"]))
    except (OSError, http.client.HTTPException, KeyError, ValueError):
        return None, None  # the request that follows says why
    finally:
        connection.close()
