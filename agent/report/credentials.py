"""The session to the upstream, as fresh as the files it was made from, and how long the client certificate lasts.

Promises: a rotated CA file, certificate, key or token is used for requests that begin a second or more later, without
a restart; files that do not work (half written, a key of another certificate) do not end a session that does; the end
of the client certificate is told 30 days ahead. No secret is kept here or logged. Reads files, sends nothing. One
thread asks for sessions; any may ask how long the certificate lasts.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock import RecentTrust, Trust, words
from agent.errors import AgentError
from agent.journal import MessageId, about

if TYPE_CHECKING:
    import requests

DAY_S = 86400.0
WARN_S = 30 * DAY_S
_LOOK_S = 1.0
_WATCH_S = 60.0

_log = logging.getLogger(__name__)

# What a file is known by: device, inode, size, times of change; None where it cannot be looked at.
_Mark = tuple[int, int, int, int, int] | None


class Credentials:
    """A session that follows its files.

    Args:
        open_session: Makes a session from the files as they are now; raises ConfigError when they do not work.
        files: The files it reads.
        client_cert: The one of them whose end is watched, PEM; None: there is no client certificate.
        trust: How far the wall clock can be believed.
        clock: Monotonic clock, seconds.
        wall: Wall clock, seconds since the epoch.

    Attributes:
        trouble: Why the newest files are not used, empty when they are.
    """

    def __init__(self, open_session: "Callable[[], requests.Session]", files: Sequence[Path] = (), *,
                 client_cert: Path | None = None, trust: Callable[[], Trust] | None = None,
                 clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._open_session, self._files, self._client_cert = open_session, tuple(files), client_cert
        self._trust, self._clock, self._wall = trust or RecentTrust(), clock, wall
        self._session: requests.Session | None = None
        self._seen: tuple[_Mark, ...] = ()
        self._look_at = self._watch_at = clock()
        self._changed = self._doubted = False
        self._not_after: float | None = None
        self._warned: tuple[bool, float] | None = None  # (as expired, when)
        self.trouble = ""

    def session(self) -> "requests.Session":
        """Return a session made from the newest files that work.

        Raises:
            ConfigError: there never was one, and the files do not work.
        """
        if self._session is None or self._doubted or self.changed():
            self._renew()
        assert self._session is not None
        return self._session

    def changed(self) -> bool:
        """Tell whether a file is another than when it was last tried; looks at most once a second."""
        now = self._clock()
        if not self._changed and now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._changed = self._marks() != self._seen
        return self._changed

    def doubt(self) -> None:
        """Read the files again before the next request: the upstream does not take what was made from them."""
        self._doubted = True

    def close(self) -> None:
        """End the session; the next request opens one."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _marks(self) -> tuple[_Mark, ...]:
        return tuple(_mark(file) for file in self._files)

    def _renew(self) -> None:
        self._seen = self._marks()  # before they are read: what changes meanwhile is noticed
        changed, self._changed, self._doubted = self._changed, False, False
        try:
            fresh = self._open_session()
        except AgentError as error:
            if self._session is None:
                self._not_after = None  # of whatever stands there next
                raise
            if error.what != self.trouble:
                _log.warning("upstream: new credentials are not used, the old ones are kept: %s", error.what,
                             extra=about(MessageId.UPSTREAM))
            self.trouble = error.what
            return
        if changed and self._session is not None:
            _log.info("upstream: its files have changed and were read again", extra=about(MessageId.UPSTREAM))
        self.close()
        self._session, self.trouble = fresh, ""
        self._not_after = certificate_end(self._client_cert)

    # The certificate's end -------------------------------------------------------------------------------------

    def expires_in_s(self) -> float | None:
        """Return the seconds until the client certificate in use ends, by the wall clock; below 0 when it has.

        Returns:
            None when there is none, or it cannot be read.
        """
        end = self._not_after
        return None if end is None else end - self._wall()

    def watch(self) -> None:
        """Log that the certificate ends within 30 days, once a day, and when it has ended; call it often."""
        now = self._clock()
        if self._client_cert is None or now < self._watch_at:
            return
        self._watch_at = now + _WATCH_S
        if self._not_after is None:
            self._not_after = certificate_end(self._client_cert)
        left_s = self.expires_in_s()
        if left_s is None or left_s >= WARN_S:
            self._warned = None
            return
        expired = left_s <= 0
        if self._warned is None or expired != self._warned[0] or now - self._warned[1] >= DAY_S:
            self._warned = (expired, now)
            _log.warning("upstream: %s: renew %s", self._end_in_words(left_s), self._client_cert,
                         extra=about(MessageId.UPSTREAM))

    def blame(self) -> str:
        """Return what may be wrong with the credentials when even a harmless request is refused."""
        if self._client_cert is None:
            return "client certificate missing (set upstream.client_cert)"
        left_s = self.expires_in_s()
        return self._end_in_words(left_s) if left_s is not None and left_s <= 0 else "client certificate not accepted"

    def _end_in_words(self, left_s: float) -> str:
        whole = int(abs(left_s) // DAY_S)
        days = f"{whole} day{'' if whole == 1 else 's'}"
        date = datetime.fromtimestamp(self._wall() + left_s, timezone.utc).date()
        text = (f"client certificate expired {days} ago ({date})" if left_s <= 0
                else f"client certificate expires in {days} ({date})")
        doubt = words(self._trust())
        return f"{text}, or {doubt}" if doubt else text


def _mark(file: Path) -> _Mark:
    try:
        found = os.stat(file)  # noqa: PTH116 -- follows links: a rotation often switches one
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def certificate_end(file: Path | None) -> float | None:
    """Return when a PEM chain ends to be valid: the earliest end of its certificates, seconds since the epoch.

    Returns:
        None when there is no file, or it cannot be read.
    """
    if file is None:
        return None
    from cryptography import x509  # noqa: PLC0415 -- only a box with a client certificate pays for it

    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return None  # opening a session says what is wrong with it
    return min(one.not_valid_after_utc.timestamp() for one in chain)
