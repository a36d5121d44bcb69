"""Takes the clients of a listening socket so that they cannot slow the loop: few at once, few a second.

Each client has a thread of its own while it is answered. Those who wait beyond that do so in the kernel's queue, at no
cost to us. When all places are taken, the client that came first goes: one who asks and reads at once is always
answered, however many others hold on to theirs.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_BURST = 32.0
_LEAST_STAY_S = 0.1
_LEAVING_S = 0.25
_AFTER_ERROR_S = 0.1
_CHUNK = 4096


class Reception:
    """Answers the clients of ``listener`` until closed.

    Args:
        listener: Bound and listening; closed by :meth:`close`.
        answer: Answers one client, in a thread of that client's own; the socket is closed behind it.
        name: Name of those threads.
        places: Clients at once, at most.
        per_s: Clients a second, at most, but for a burst of 32.
        refusal: Sent to a client for whom no place could be made.
        tick_s: Calls ``tick`` about so often, from the thread that runs :meth:`serve`; None: never.
        tick: Must not block.
    """

    def __init__(self, listener: socket.socket, answer: Callable[[socket.socket], None], *, name: str, places: int,
                 per_s: float, refusal: bytes, tick_s: float | None = None, tick: Callable[[], None] = lambda: None
                 ) -> None:
        self._listener = listener
        self._answer = answer
        self._name = name
        self._places = threading.BoundedSemaphore(places)
        self._per_s = per_s
        self._refusal = refusal
        self._tick_s, self._tick = tick_s, tick
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}  # in the order they came
        self._credit, self._counted = _BURST, time.monotonic()
        self._closed = threading.Event()

    def serve(self) -> None:
        """Answer until :meth:`close`; run in a thread of its own."""
        due = time.monotonic()
        while not self._closed.is_set():
            if self._tick_s is not None and (now := time.monotonic()) >= due:
                due = max(due + self._tick_s, now)
                self._tick()
            client = self._next(None if self._tick_s is None else max(due - time.monotonic(), 1e-3))
            if client and not self._seat(client):
                with client, contextlib.suppress(OSError):
                    client.settimeout(0)
                    client.send(self._refusal)

    def close(self) -> None:
        """Take no more clients."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _next(self, wait_s: float | None) -> socket.socket | None:
        """Wait for the next client, and until one more a second is allowed."""
        try:
            self._listener.settimeout(wait_s)
            client, _ = self._listener.accept()
        except TimeoutError:
            return None
        except OSError as error:  # closed; or no file is left to open, which passes
            if not self._closed.wait(_AFTER_ERROR_S):
                _LOG.debug("a client could not be taken: %s", error)
            return None
        client.settimeout(None)
        now = time.monotonic()
        self._credit = min(_BURST, self._credit + (now - self._counted) * self._per_s) - 1
        self._counted = now
        if self._credit < 0:
            self._closed.wait(-self._credit / self._per_s)
        return client

    def _seat(self, client: socket.socket) -> bool:
        """Give the client a place and a thread; tell whether there was one."""
        if not self._places.acquire(blocking=False) and not self._make_room():
            return False
        with self._lock:
            self._since[client] = time.monotonic()
        try:
            threading.Thread(target=self._host, args=(client,), name=self._name, daemon=True).start()
        except RuntimeError as error:  # the limit of threads is reached, which passes
            _LOG.debug("a client could not be answered: %s", error)
            self._leave(client)
            return False
        return True

    def _make_room(self) -> bool:
        """Take a place as soon as one is free; the client that came first has to go for it."""
        with self._lock:
            oldest, since = next(iter(self._since.items()), (None, 0.0))
        if self._places.acquire(timeout=max(since + _LEAST_STAY_S - time.monotonic(), 1e-3)):
            return True
        with self._lock:
            if oldest in self._since:
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        return self._places.acquire(timeout=_LEAVING_S)

    def _host(self, client: socket.socket) -> None:
        try:
            self._answer(client)
        except OSError as error:
            _LOG.debug("a client went away: %s", error)
        finally:
            client.close()
            self._leave(client)

    def _leave(self, client: socket.socket) -> None:
        with self._lock:
            self._since.pop(client, None)
        self._places.release()


def read_head(client: socket.socket, *, most: int, within_s: float) -> bytes:
    """Return a request's head up to the empty line that ends it, without that line.

    A client that stops sending has its head as far as it came. Longer than ``most`` bytes: its beginning only.

    Raises:
        OSError: the client went away, or was not done ``within_s`` seconds, however steadily it sent.
    """
    deadline = time.monotonic() + within_s
    head = bytearray()
    while (end := head.find(b"\r\n\r\n")) < 0 and len(head) <= most:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request's head is not complete in time")
        client.settimeout(left)
        if not (chunk := client.recv(min(_CHUNK, most + 1 - len(head)))):
            break
        head += chunk
    return bytes(head if end < 0 else head[:end])


def send(client: socket.socket, answer: bytes, *, within_s: float) -> None:
    """Send all of ``answer``.

    Raises:
        OSError: the client went away, or had not taken all of it ``within_s`` seconds, however steadily it read.
    """
    client.settimeout(within_s)
    client.sendall(answer)  # the timeout is for all of it
