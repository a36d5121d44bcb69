"""Where the page is: from ``[status] listen`` to a bound socket, and which names a browser may know it by."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.errors import AgentError, ConfigError

_BACKLOG = 64
_KEY = "status.listen"


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or an IP address, without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it stands in an URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this box can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def everywhere(self) -> bool:
        """Whether it stands for all addresses of the box, so that a browser cannot use it as it is."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False


def parse(listen: str) -> Address:
    """Read ``host:port``.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(f"//{listen}")
        port = parts.port
    except ValueError:
        port = None
    if not port or not parts.hostname:
        raise ConfigError(f"{_KEY} = {listen!r} is no address", 'write it like "127.0.0.1:8642"')
    return Address(parts.hostname, port)


def bind(address: Address) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        ConfigError: what stands there can never be an address.
        AgentError: it cannot be done now, and why; it may be possible later, when the network is up.
    """
    where = f"{_KEY} = {str(address)!r}"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except UnicodeError as error:
        raise ConfigError(f"{where}: its host is no name: a part is empty or longer than 63 characters",
                          "use an address of this box") from error
    except OSError as error:
        raise AgentError(f"{where}: {error.strerror or error}", "use an address of this box") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise AgentError(f"{where}: {error.strerror or error}",
                         "use a free port of 1024 or above, at an address of this box") from error
    return listener


def known_as(host: str, address: Address) -> bool:
    """Tell whether a browser that names ``host`` (its Host header) can mean us.

    A page elsewhere that lets its own name point to this box (DNS rebinding) makes browsers send that name; it cannot
    make them send an IP address, or a name that only the box's own network gives.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        own = socket.gethostname().lower()
        return name in {"localhost", address.host.lower(), own, f"{own.partition('.')[0]}.local"}
    return True
