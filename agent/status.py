"""The unix socket that serves the snapshot, and the way to ask it.

Imports neither numpy nor OpenCV, so that asking costs milliseconds. HTTP/1.0 over a unix socket: ``/status``
``/health/live`` ``/health/ready`` ``/metrics``. Whoever may open the socket may ask as often as he likes: what that can
cost the loop is bounded in agent/reception.py.
"""

import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from agent.errors import AgentError, ConfigError, unusable
from agent.metrics import prometheus
from agent.reception import Reception, read_head, send
from agent.snapshot import Snapshot

CLIENT_THREAD = "status-client"
_MOST_CLIENTS = 8
_CLIENTS_PER_S = 50.0
_QUEUE = 16  # a short one: who waits in it is soon answered, who does not fit waits in front of it
_MOST_HEAD = 4096
_CLIENT_TIMEOUT_S = 2.0
_AGAIN_S = 0.02
_MOST_ANSWER = 16 << 20
_UNAVAILABLE = 503
_BUSY = b"busy with others who ask\n"
_ASK_AGAIN = "ask again; if it stays so, `journalctl -u vedette` says why"


class StatusServer:
    """Serves snapshots on a unix socket of mode 0660 until closed.

    Args:
        path: Where the socket is made; a stale one is replaced, a live one is an error.
        snapshot: Called once a request, from the server's threads.
        alive: Tells whether every heartbeat is fresh.

    Raises:
        ConfigError: the socket cannot be made there.
        AgentError: another agent answers on it, or the disk is full or fails.
    """

    def __init__(self, path: Path, snapshot: Callable[[], Snapshot], alive: Callable[[], bool]) -> None:
        self._path = path
        self._snapshot = snapshot
        self._alive = alive
        self._reception = Reception(
            _listen(path), self._answer, name=CLIENT_THREAD, places=_MOST_CLIENTS, per_s=_CLIENTS_PER_S,
            refusal=b"HTTP/1.0 503 Service Unavailable\r\n\r\n" + _BUSY)

    def serve(self) -> None:
        """Answer until :meth:`close`; run in a thread of its own."""
        self._reception.serve()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._reception.close()
        self._path.unlink(missing_ok=True)

    def _answer(self, client: socket.socket) -> None:
        request = read_head(client, most=_MOST_HEAD, within_s=_CLIENT_TIMEOUT_S)
        code, kind, body = self._page(request.split(b"\r\n", 1)[0].split(b" "))
        send(client, b"HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (code, kind, len(body), body),
             within_s=_CLIENT_TIMEOUT_S)

    def _page(self, words: list[bytes]) -> tuple[bytes, bytes, bytes]:
        if len(words) < 2 or words[0] != b"GET":
            return b"400 Bad Request", b"text/plain", b"GET only\n"
        match words[1]:
            case b"/status":
                return b"200 OK", b"application/json", msgspec.json.encode(self._snapshot())
            case b"/metrics":
                return b"200 OK", b"text/plain; version=0.0.4", prometheus(self._snapshot()).encode()
            case b"/health/live":
                well = self._alive()
            case b"/health/ready":
                well = self._snapshot().ready
            case _:
                return b"404 Not Found", b"text/plain", b"pages: /status /health/live /health/ready /metrics\n"
        return (b"200 OK" if well else b"503 Service Unavailable"), b"text/plain", (b"yes\n" if well else b"no\n")


def _listen(path: Path) -> socket.socket:
    remedy = "set [status] socket, or [device] runtime_dir, to a place this user may write"
    if len(os.fsencode(path)) > 107:
        raise ConfigError(f"status socket {path}: longer than 107 bytes", "set [status] socket to a shorter path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_socket():
            raise ConfigError(f"status socket {path}: something else has that name", remedy)
        if _listened_on(path):
            raise AgentError(f"status socket {path}: another agent listens on it", "stop that one first, or " + remedy)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.fspath(path))
        path.chmod(0o660)
        listener.listen(_QUEUE)
    except OSError as error:
        raise unusable(error, f"status socket {path}", remedy) from error
    return listener


def _listened_on(path: Path) -> bool:
    """Tell whether a process holds the socket, even one that hangs; only a refused connection proves that none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CLIENT_TIMEOUT_S)
        try:
            client.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except TimeoutError:
            return True
    return True


def ask(path: Path, page: str, timeout_s: float = 2.0) -> tuple[int, bytes]:
    """Ask the agent behind the socket ``path`` for ``page``; return the HTTP status and the body.

    One who is sent away unanswered, because too many ask, asks again as long as there is time.

    Raises:
        AgentError: nobody answers, or without end; says whether it is not running, not permitted or hangs.
    """
    remedy = ("is it running? `systemctl status vedette`, or `vedette run`; another socket: `vedette status --socket "
              "PATH`")
    deadline = time.monotonic() + timeout_s
    try:
        while not (answer := _asked(path, page, deadline)) and time.monotonic() < deadline:
            time.sleep(_AGAIN_S)
    except PermissionError as error:
        raise AgentError(f"{path}: not permitted", "use sudo, or join the socket's group") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AgentError(f"no agent answers on {path}", remedy) from error
    except TimeoutError as error:
        raise AgentError(f"the agent behind {path} accepts but does not answer within {timeout_s:g} s",
                         "it hangs: `journalctl -u vedette` says where; restart it") from error
    except BlockingIOError as error:
        raise AgentError(f"the agent behind {path} takes nobody in within {timeout_s:g} s: too many wait already",
                         _ASK_AGAIN) from error
    except OSError as error:
        raise AgentError(f"{path}: {error.strerror or error}", remedy) from error
    if not answer:
        raise AgentError(f"the agent behind {path} closed the connection without an answer", _ASK_AGAIN)
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise AgentError(f"what answers on {path} is no vedette agent", "give the right socket: --socket PATH")
    return int(words[1]), body


def _asked(path: Path, page: str, deadline: float) -> bytes:
    """Return what is answered; empty when we were sent away.

    Raises:
        AgentError: the answer does not end.
        OSError: nobody answers; BlockingIOError or TimeoutError: not until ``deadline``, however steadily it sends.
    """
    left = max(deadline - time.monotonic(), _AGAIN_S)
    until = time.monotonic() + left
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        # A place in the kernel's queue is waited for only by a socket that blocks.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(left), int(left % 1 * 1e6)))
        client.connect(os.fspath(path))
        client.settimeout(left)
        try:
            client.sendall(f"GET {page} HTTP/1.0\r\n\r\n".encode())
            answer = bytearray()
            while chunk := client.recv(65536):
                answer += chunk
                if len(answer) > _MOST_ANSWER:
                    raise AgentError(f"what answers on {path} is no vedette agent: it sends more than "
                                     f"{_MOST_ANSWER >> 20} MiB", "give the right socket: --socket PATH")
                if (left := until - time.monotonic()) <= 0:
                    raise TimeoutError("the answer has no end in time")
                client.settimeout(left)
        except (ConnectionResetError, BrokenPipeError):
            return b""
    return bytes(answer)


def silence(error: AgentError) -> Literal["not permitted", "nobody", "hangs", ""]:
    """Return in a word why :func:`ask` got no answer; empty where something else was wrong with it."""
    match error.__cause__:
        case PermissionError():
            return "not permitted"
        case FileNotFoundError() | ConnectionRefusedError():
            return "nobody"
        case TimeoutError() | BlockingIOError():
            return "hangs"
    return ""


def fetch(path: Path) -> Snapshot:
    """Return the snapshot of the agent behind the socket ``path``.

    Raises:
        AgentError: nobody answers, or it speaks another schema.
    """
    code, body = ask(path, "/status")
    if code == _UNAVAILABLE:
        raise AgentError(f"the agent behind {path} is busy with {_MOST_CLIENTS} others who ask", _ASK_AGAIN)
    try:
        snapshot = msgspec.json.decode(body, type=Snapshot)
    except (msgspec.DecodeError, RecursionError) as error:
        raise AgentError(f"the agent behind {path} is of another version: {error}",
                         "use the `vedette` command of the same installation") from error
    return snapshot
