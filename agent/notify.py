"""What the service says to systemd: ready, alive, stopping, and one line on what it does; see sd_notify(3).

A message is one datagram to the socket that systemd names; no library is needed for it, and a service of
``Type=notify`` must not depend on one. Where nobody listens nothing is said.
"""

import logging
import os
import socket
from collections.abc import Mapping

_LOG = logging.getLogger(__name__)
_LONGEST = 300  # characters of a status line: it is for one line of `systemctl status`


class Notifier:
    """The way to systemd.

    Args:
        environment: Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` stand.

    Attributes:
        listened: Somebody listens: the service was started by systemd.
        watchdog_s: systemd ends the service when it hears nothing for so long, seconds; None = it does not watch.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.listened = bool(address)
        self.watchdog_s = _watchdog_s(environment)
        self._said = ""
        self._silent = False

    def ready(self) -> None:
        """Say that the service has started."""
        self._said = "ready"
        self._send("READY=1", _status(self._said))

    def alive(self) -> None:
        """Say that everything goes forward."""
        self._send("WATCHDOG=1")

    def status(self, status: str) -> None:
        """Say what the service does; nothing is sent when it was said last."""
        if status != self._said:
            self._said = status
            self._send(_status(status))

    def extend(self, seconds: float) -> None:
        """Say that starting takes longer; said again within ``seconds`` it may take as long as it does."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stopping(self, status: str) -> None:
        """Say that the service ends."""
        self._send("STOPPING=1", _status(status))

    def _send(self, *lines: str) -> None:
        if not self.listened:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.connect(self._address)
                sender.send("\n".join(lines).encode())
            self._silent = False
        except OSError as error:  # the next message may get through; without any, systemd's watchdog acts
            if not self._silent:
                _LOG.warning("systemd cannot be told how the service is: %s", error)
            self._silent = True


def _status(text: str) -> str:
    words = " ".join(text.split())
    return "STATUS=" + (words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…")


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return systemd's limit, if it is meant for this process; see sd_watchdog_enabled(3)."""
    limit, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not limit.isdigit() or int(limit) == 0 or (process.isdigit() and int(process) != os.getpid()):
        return None
    return int(limit) / 1e6
