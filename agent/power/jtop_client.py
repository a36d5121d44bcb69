"""The client of jetson-stats, contained: imported when it is needed, and kept from reaching beyond its own connection.

Left alone it forces the start method of multiprocessing, starts commands that list the board's libraries at every
connection, and tells the service at our exit that it goes, which waits for ever when the service is frozen. Here the
start method is put back, the libraries are not listed, and nothing is said at the end: the service notices the closed
sockets. Two private names of the package are touched for that, see :func:`_quiet_client`; where a release has other
ones, only the containment is lost.

jetson-stats is under the AGPL-3.0: see docs/adr/0014.
"""

import multiprocessing
import os
import pickle
import pwd
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.managers import RemoteError
from pathlib import Path
from typing import Any

SOCKET = Path("/run/jtop.sock")
# What the package, its unpickling and its connection are known to end with; its own JtopException is added to them.
_TROUBLES = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError, AssertionError,
             RuntimeError, multiprocessing.ProcessError, RemoteError, pickle.UnpicklingError, queue.Empty)
_MISMATCH = re.compile(r"Mismatch version jtop service: \[(\S+?)\] and client: \[(\S+?)\]")
_LOCK = threading.Lock()
_ORDER_S = 2.0


@contextmanager
def start_method_kept() -> Iterator[None]:
    """Leave multiprocessing's start method as it is (None: not chosen yet), whatever the block does to it."""
    with _LOCK:
        before = multiprocessing.get_start_method(allow_none=True)
        try:
            yield
        finally:
            if multiprocessing.get_start_method(allow_none=True) != before:
                multiprocessing.set_start_method(before, force=True)


class Link:
    """One connection to the service, made in a thread of its own; the client's reader takes over from there.

    A thread that once talked to a service keeps its socket to it: that is why each connection, and each order, has a
    fresh one. What hangs (a frozen service) holds up only that thread, and ends when the service goes on or dies.

    Args:
        interval_s: How often the service is asked to sample, seconds.
        take: Called with the client at each sample, in the reader's thread; must not raise.
        load: Imports the package.
        socket: The service's socket.
    """

    def __init__(self, interval_s: float, take: Callable[[Any], None],
                 load: Callable[[], Any] = lambda: import_module("jtop"), socket: Path = SOCKET) -> None:
        self.began_s = time.monotonic()
        self.client: Any = None
        self.version = ""
        self._interval_s, self._take, self._load, self._socket = interval_s, take, load, socket
        self._why = ""
        self._closed = False
        self._troubles: tuple[type[BaseException], ...] = _TROUBLES
        self._thread = threading.Thread(target=self._connect, name="jtop-connect", daemon=True)
        self._thread.start()

    def ended(self) -> str:
        """Return why the connection is no more, with how to mend it; empty while it is being made or works."""
        if self._thread.is_alive():
            return ""
        if self.client is None:
            return self._why or "jtop cannot be asked: its client ended without saying why"
        if self.client.is_alive():
            return ""
        try:
            self.client.ok(spin=True)
        except self._troubles as error:
            return explained(error)
        return "the connection to jtop was lost"

    def order(self, give: Callable[[Any], None]) -> str:
        """Let ``give`` tell the client something; return what went wrong, empty when it was sent (not: was done)."""
        client = self.client
        if client is None:
            return "jtop is not connected"
        said: list[str] = []

        def work() -> None:
            try:
                give(client)
                said.append("")
            except self._troubles as error:
                said.append(explained(error))

        thread = threading.Thread(target=work, name="jtop-order", daemon=True)
        thread.start()
        thread.join(_ORDER_S)
        return said[0] if said else f"jtop.service took no order for {_ORDER_S:g} s: `sudo systemctl restart jtop`"

    def close(self) -> None:
        """End the connection: at the reader's next sample, or when the service goes on."""
        self._closed = True
        if self.client is not None:
            self.client.close()

    def _connect(self) -> None:
        why = unreachable(self._socket)
        if why:
            self._why = why
            return
        try:
            with start_method_kept():
                package = self._load()
            self._troubles = (*_TROUBLES, package.JtopException)
            self.version = str(getattr(package, "__version__", ""))
            with start_method_kept():
                client = _quiet_client(package, self._interval_s)
            client.attach(self._take_unless_closed)
            client.start()
        except self._troubles as error:
            self._why = explained(error)
            return
        self.client = client
        if self._closed:
            client.close()

    def _take_unless_closed(self, client: Any) -> None:
        if not self._closed:
            self._take(client)


class _Quiet:
    """A manager of multiprocessing whose proxies do not tell the service when they go.

    That goodbye is said by whoever lets go of a proxy last, or at the exit of the process, over a new connection: with
    a frozen service it never returns. Without it the service's count of users of three objects that live as long as it
    does stays higher, and nothing follows from that.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._manager, name)
        if name not in {"get_queue", "sync_data", "sync_event"}:
            return found

        def made(*args: Any, **named: Any) -> Any:
            proxy = found(*args, **named)
            goodbye: Any = getattr(proxy, "_close", None)
            if goodbye is not None:
                goodbye.cancel()
            return proxy

        return made


def _quiet_client(package: Any, interval_s: float) -> Any:
    kind = type("Client", (package.jtop,), {"_load_jetson_libraries": lambda _self: None})
    client = kind(interval=interval_s)
    if hasattr(client, "_broadcaster"):
        client._broadcaster = _Quiet(client._broadcaster)  # noqa: SLF001 -- there is no public way to a quiet end
    return client


def unreachable(socket: Path = SOCKET) -> str:
    """Return why the service's socket cannot be used, and how to mend it; empty when it can be tried."""
    if not socket.exists():
        return f"jtop.service is not running (there is no {socket}): `sudo systemctl start jtop`"
    if not os.access(socket, os.R_OK | os.W_OK):
        return f"no permission for {socket}: `sudo usermod -aG jtop {_user()}`, then start vedette again"
    return ""


def explained(error: BaseException) -> str:
    """Return what went wrong with jtop and how to mend it, on one line."""
    text = " ".join(str(error).split())
    versions = _MISMATCH.search(text)
    if versions:
        series = ".".join(versions[1].split(".")[:2])
        return (f"jtop.service is version {versions[1]} and the package jetson-stats is {versions[2]}: "
                f"`pip install 'jetson-stats=={series}.*'` where vedette is installed")
    if isinstance(error, ImportError):
        return f"the package jetson-stats cannot be imported ({text}): `pip install jetson-stats`"
    if isinstance(error, ConnectionRefusedError) or "is not active" in text:
        return "jtop.service is not running: `sudo systemctl start jtop`"
    if isinstance(error, PermissionError) or "can't access" in text:
        return f"no permission for jtop.service: `sudo usermod -aG jtop {_user()}`, then start vedette again"
    return f"jtop cannot be asked ({type(error).__name__}: {text or 'no reason'}): `sudo systemctl restart jtop`"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user without a name
        return "USER"
