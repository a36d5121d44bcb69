"""One way to make an HTTPS session, for reports and downloads alike: our TLS settings and nothing from the environment.

Promises: certificates are always verified, against the configured authority alone where there is one; TLS 1.2 at
least; every request has a timeout between two bytes and, where it is asked for, one for the whole; proxy, ``.netrc``
and CA variables of the environment are not looked at; redirects are followed only where that is asked for, and then
to https only; what happens on the way is not logged. Does not retry.
"""

import logging
import math
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigError, unusable

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsOptions:
    """How to reach a server.

    Attributes:
        ca_file: PEM file with the only authorities that are trusted; None: the system's store.
        client_cert: PEM certificate of this box (chain allowed), for mutual TLS.
        client_key: PEM key of ``client_cert``, not encrypted; None: it stands in the same file.
        token: Bearer token, sent with every request.
        proxy: ``http://host:port`` to tunnel through, or ``https:`` with a certificate that the system's authorities
            vouch for; None: go directly.
        connect_timeout_s: Seconds until a connection must stand.
        read_timeout_s: Seconds between two bytes of an answer, at most.
        total_timeout_s: Seconds from a request's start to its answer's last byte, at most, however slowly the other
            side reads or writes; None: no such bound. Looking up the name is not bounded, and each address of a name
            gets ``connect_timeout_s`` of its own.
        follow_redirects: Go where a redirect points; else it is an answer like any other.
    """

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    total_timeout_s: float | None = None
    follow_redirects: bool = True


def open_session(options: HttpsOptions) -> "requests.Session":
    """Return a session that does what ``options`` say; nothing is sent yet.

    A ``timeout`` given with a request, one number of seconds, bounds that request as a whole. A session with bounds is
    for one request at a time.

    Raises:
        ConfigError: a PEM file is missing, unreadable or no good (names the file), or the token is no token.
    """
    if options.token is not None and not (options.token.isascii() and options.token.isprintable()):
        raise ConfigError("the bearer token holds characters that no HTTP header can carry",
                          "write the token alone, ASCII, on one line, into its file")
    from http.cookiejar import DefaultCookiePolicy  # noqa: PLC0415 -- with `requests`, which brings it

    import requests  # noqa: PLC0415 -- 60 ms that only those who talk to a server pay

    logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)  # its lines hold whole URLs
    session = requests.Session() if options.follow_redirects else _session_without_redirects()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # kept for weeks, they would grow without bound
    session.adapters.clear()  # no plain http:// either
    session.mount("https://", _adapter(tls_context(options), options))
    if options.proxy is not None:
        session.proxies = {"https": options.proxy}
    if options.token is not None:
        session.headers["Authorization"] = f"Bearer {options.token}"
    return session


def _session_without_redirects() -> "requests.Session":
    """Return a session that takes no answer for a redirect.

    ``allow_redirects=False`` is not enough: it reads the redirect's whole body into memory and parses its ``Location``,
    and raises what it likes when that is odd, in order to offer ``Response.next``.
    """
    import requests  # noqa: PLC0415 -- see open_session

    class Session(requests.Session):
        def get_redirect_target(self, *_: object, **__: object) -> str | None:
            return None

    return Session()


def tls_context(options: HttpsOptions) -> ssl.SSLContext:
    """Return the client context: verification and host name check on, TLS 1.2 or newer.

    Raises:
        ConfigError: as for :func:`open_session`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.ca_file is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cafile=_readable(options.ca_file, "CA file"))
        except ssl.SSLError as error:
            raise ConfigError(f"CA file {options.ca_file}: not a PEM certificate ({_reason(error)})",
                              "give the PEM file of the authority that signed the server's certificate") from error
    if options.client_cert is not None:
        certificate = _readable(options.client_cert, "client certificate")
        key = None if options.client_key is None else _readable(options.client_key, "client key")
        try:
            # An encrypted key would otherwise ask for its password on the terminal, for ever.
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"client certificate {certificate}, key {key or certificate}: unusable ({_reason(error)})",
                "give a PEM certificate and the PEM key that belongs to it, not encrypted") from error
    return context


def _readable(path: Path, name: str) -> str:
    try:
        path.read_bytes()
    except OSError as error:
        raise unusable(error, f"{name} {path}",
                       "create it, readable by the agent's user, or correct the path") from error
    return str(path)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def _adapter(context: ssl.SSLContext, options: HttpsOptions) -> Any:
    """Return an adapter that uses ``context`` for the server, be it reached directly or through a proxy."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 -- see open_session
    from urllib3.connectionpool import HTTPSConnectionPool  # noqa: PLC0415 -- see open_session

    deadline = _Deadline()
    context.sslsocket_class = _bounded(ssl.SSLSocket, deadline)

    class Pool(HTTPSConnectionPool):
        ConnectionCls = _connection(deadline)

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"https": Pool}

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            if proxy.startswith("https:"):  # TLS around TLS; the proxy is no part of our own authority
                kwargs["proxy_ssl_context"] = outer = tls_context(HttpsOptions())
                outer.sslsocket_class = context.sslsocket_class
            manager = super().proxy_manager_for(proxy, ssl_context=context, **kwargs)
            manager.pool_classes_by_scheme = {"https": Pool}
            return manager

        def cert_verify(self, conn: Any, *_: Any) -> None:
            # The parent would add its own bundle of authorities to those of our context.
            conn.cert_reqs = "CERT_REQUIRED"
            conn.ca_certs = conn.ca_cert_dir = None

        def send(self, request: Any, stream: Any = False, timeout: Any = None, *args: Any, **kwargs: Any) -> Any:
            whole_s = min(limit for limit in (options.total_timeout_s, timeout, math.inf) if limit is not None)
            deadline.begin(whole_s)
            phases = min(options.connect_timeout_s, whole_s), min(options.read_timeout_s, whole_s)
            return super().send(request, stream, phases, *args, **kwargs)

    return Adapter()


class _Deadline:
    """When the request that is under way must have ended, by the monotonic clock."""

    def __init__(self) -> None:
        self._at = math.inf

    def begin(self, whole_s: float) -> None:
        self._at = time.monotonic() + whole_s

    def left_s(self) -> float:
        """Return the seconds left.

        Raises:
            TimeoutError: there are none.
        """
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        return left_s


def _bounded(kind: Any, deadline: _Deadline) -> Any:
    """Return a class of sockets like ``kind`` that never wait past ``deadline``.

    A socket's own timeout begins anew with every call, so a peer that sends, or takes, a byte now and then is waited
    for without end; shrinking it before each call bounds them all together, without a second thread.
    """

    class Bounded(kind):  # type: ignore[misc]  # one of two classes, known at run time
        def _hurry(self) -> None:
            left_s, timeout_s = deadline.left_s(), self.gettimeout()
            if left_s < (math.inf if timeout_s is None else timeout_s):
                self.settimeout(left_s)

        def do_handshake(self, *args: Any) -> None:
            self._hurry()
            super().do_handshake(*args)

        def recv(self, *args: Any) -> bytes:
            self._hurry()
            return super().recv(*args)  # type: ignore[no-any-return]

        def recv_into(self, *args: Any) -> int:
            self._hurry()
            return super().recv_into(*args)  # type: ignore[no-any-return]

        def sendall(self, *args: Any) -> None:
            self._hurry()
            super().sendall(*args)

    return Bounded


def _connection(deadline: _Deadline) -> Any:
    """Return a class of connections that are bounded from the first byte on: that to a proxy comes before any TLS."""
    from urllib3.connection import HTTPSConnection  # noqa: PLC0415 -- see open_session

    plain = _bounded(socket.socket, deadline)

    class Connection(HTTPSConnection):
        def _new_conn(self) -> Any:
            made = super()._new_conn()
            timeout_s = made.gettimeout()
            bounded = plain(fileno=made.detach())
            bounded.settimeout(timeout_s)
            return bounded

    return Connection
