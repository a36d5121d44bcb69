"""Asked of an RTSP camera itself, on a connection of its own: is it there, and why did its stream not open?

One OPTIONS before opening, one DESCRIBE without a login after a failure (RFC 2326, 10.1 and 10.2). It never sends a
secret.
"""

import socket
from urllib.parse import urlsplit

from agent.errors import SourceError
from agent.redact import redact

_LONGEST_S = 2.0
_PORTS = {"rtsp": 554, "rtsps": 322}
_NETWORK = "check the camera's power, its network and the address"


def greet(url: str, limit_s: float) -> None:
    """Make sure that somebody answers before OpenCV opens the stream.

    OpenCV 4.8 and older open one capture at a time in a process; a host that accepts and then says nothing would hold
    all other sources for the whole timeout.

    Args:
        url: The stream's address, without a login.
        limit_s: As long may it take, seconds.

    Raises:
        SourceError: no connection, or no answer in time.
    """
    parts = urlsplit(url)
    place = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
    try:
        with socket.create_connection(place, limit_s) as connection:
            if parts.scheme == "rtsp":
                connection.settimeout(limit_s)
                connection.sendall(f"OPTIONS {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
                connection.recv(1)
    except TimeoutError as error:
        raise SourceError(f"{redact(url)}: no answer", _NETWORK) from error
    except OSError as error:
        raise SourceError(f"{redact(url)}: no connection: {error.strerror or error}", _NETWORK) from error


def diagnose(url: str, limit_s: float, *, login: bool) -> tuple[str, str]:
    """Ask the camera why ``url`` (without a login in it) does not open.

    Args:
        url: The stream's address.
        limit_s: Time left for the question, seconds; none: opening took all of it.
        login: Whether user and password were given for the stream.

    Returns:
        What is wrong, and how to mend it; neither holds a secret.
    """
    what = redact(url)
    if limit_s <= 0:
        return f"{what}: did not open in time", _NETWORK
    parts = urlsplit(url)
    place = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
    try:
        with socket.create_connection(place, min(limit_s, _LONGEST_S)) as connection:
            if parts.scheme == "rtsps":
                return f"{what}: the host answers, but the stream could not be opened", "try it with `ffprobe`"
            connection.settimeout(min(limit_s, _LONGEST_S))
            connection.sendall(f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n".encode())
            answer = connection.recv(4096).decode("ascii", "replace").partition("\r\n")[0]
    except TimeoutError:
        return f"{what}: no answer", _NETWORK
    except OSError as error:
        return f"{what}: no connection: {error.strerror or error}", _NETWORK
    return _explained(what, answer, login=login)


def _explained(what: str, answer: str, *, login: bool) -> tuple[str, str]:
    """Put the answer's status line (``RTSP/1.0 401 Unauthorized``) into words."""
    status = answer.partition(" ")[2].strip() or "no RTSP answer"
    if status.startswith("401"):
        if login:
            return f"{what}: {status}: the camera refused the user name or password, or has no such stream", (
                "correct `username` and the secret that `password` names")
        return f"{what}: {status}: the camera wants a user name and a password", "set `username` and `password`"
    if status.startswith("404"):
        return f"{what}: {status}: the camera has no such stream", "correct the path in `url`"
    if status.startswith("200"):
        return f"{what}: the camera answers, but its video cannot be opened", (
            "choose H.264 or H.265 in the camera, and try the address with `ffprobe`")
    return f"{what}: the camera answered {status!r}", _NETWORK
