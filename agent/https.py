"""One way to make an HTTPS session, for reports and downloads alike: our TLS settings and nothing from the environment.

Promises: certificates are always verified, against the configured authority alone where there is one; TLS 1.2 at
least; every request has a timeout; proxy, ``.netrc`` and CA variables of the environment are not looked at. Does not
retry, and does not follow redirects by itself: callers pass ``allow_redirects=False`` where a redirect is a fault.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigError

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
        proxy: ``http://host:port`` to tunnel through; None: go directly.
        connect_timeout_s: Seconds until a connection must stand.
        read_timeout_s: Seconds between two bytes of an answer, at most.
    """

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0


def open_session(options: HttpsOptions) -> "requests.Session":
    """Return a session that does what ``options`` say; nothing is sent yet.

    Raises:
        ConfigError: a PEM file is missing, unreadable or no good (names the file), or the token is no token.
    """
    if options.token is not None and not (options.token.isascii() and options.token.isprintable()):
        raise ConfigError("the bearer token holds characters that no HTTP header can carry",
                          "write the token alone, ASCII, on one line, into its file")
    import requests  # noqa: PLC0415 -- 60 ms that only those who talk to a server pay

    session = requests.Session()
    session.trust_env = False
    adapter = _adapter(tls_context(options), (options.connect_timeout_s, options.read_timeout_s))
    session.adapters.clear()  # no plain http:// either
    session.mount("https://", adapter)
    if options.proxy is not None:
        session.proxies = {"https": options.proxy}
    if options.token is not None:
        session.headers["Authorization"] = f"Bearer {options.token}"
    return session


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
        raise ConfigError(f"{name} {path}: {error.strerror}",
                          "create it, readable by the agent's user, or correct the path") from error
    return str(path)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def _adapter(context: ssl.SSLContext, timeout_s: tuple[float, float]) -> Any:
    """Return an adapter that uses ``context`` for the server, be it reached directly or through a proxy."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 -- see open_session

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **kwargs)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            return super().proxy_manager_for(proxy, ssl_context=context, **kwargs)

        def cert_verify(self, conn: Any, *_: Any) -> None:
            # The parent would add its own bundle of authorities to those of our context.
            conn.cert_reqs = "CERT_REQUIRED"
            conn.ca_certs = conn.ca_cert_dir = None

        def send(self, request: Any, stream: Any = False, timeout: Any = None, *args: Any, **kwargs: Any) -> Any:
            return super().send(request, stream, timeout or timeout_s, *args, **kwargs)

    return Adapter()
