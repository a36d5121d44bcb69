"""Delivers the spool, batch by batch, to one HTTPS receiver, and says how that goes.

Promises: one request in flight; a batch leaves the spool on 2xx only, and goes out again, with the same bytes and the
same ``Idempotency-Key``, after anything else; the receiver's ``Retry-After`` wins over our own full jitter; what needs
a person (see :mod:`agent.report.verdict`) is tried at the slowest pace until it works. A change is logged once, never
an address, a secret or a body. One request takes at most connect plus read timeouts between two bytes of the answer;
its whole length is not bounded.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent.backoff import FullJitter
from agent.errors import ConfigError
from agent.meters import Heartbeat
from agent.report.spool import SealedBatch, Spool, SpoolFullError
from agent.report.verdict import Kind, Verdict, failure, verdict

if TYPE_CHECKING:
    import requests

State = Literal["off", "idle", "sending", "retrying", "holding"]

_log = logging.getLogger(__name__)
_TICK_S = 0.25
_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamPolicy:
    """Where to, how much at once, how often.

    Attributes:
        url: Takes POSTed CloudEvents batches; may not be shown. None: nothing is sent.
        batch_events: Most events in one request.
        batch_interval_s: A batch that is not full is sent after this long.
        retry_min_s: Bound of the first wait after a failure.
        retry_max_s: Bound of all waits of our own, and the wait while something must be mended.
        user_agent: ``vedette/<version>``.
    """

    url: str | None
    batch_events: int = 32
    batch_interval_s: float = 1.0
    retry_min_s: float = 1.0
    retry_max_s: float = 300.0
    user_agent: str = "vedette"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStatus:
    """How the delivery goes.

    Attributes:
        state: ``off`` no upstream is configured; ``idle`` nothing to send; ``sending``; ``retrying`` it will pass by
            itself; ``holding`` someone must mend what ``reason`` says.
        reason: Why it does not go forward; empty when it does.
        since_s: Seconds the state has lasted.
        last_ack_age_s: Seconds since the last 2xx, None before the first.
        delivered_events: Events acknowledged since the start.
        delivered_batches: Batches acknowledged since the start.
        attempts: Requests made since the start.
        next_try_in_s: Seconds to the next attempt after a failure, else None.
    """

    state: State
    reason: str
    since_s: float
    last_ack_age_s: float | None
    delivered_events: int
    delivered_batches: int
    attempts: int
    next_try_in_s: float | None


class Uploader:
    """The delivering thread's work: call :meth:`run` in a thread of its own.

    Args:
        spool: What to deliver.
        open_session: Makes a session; called again after a failure that a new certificate or CA file could mend.
        policy: Where to and how.
        stop: Ends :meth:`run` at the next step; it is looked at four times a second.
        heartbeat: Beaten at each step and while waiting; not during a request, so its limit must be longer than
            the timeouts of one.
        clock: Monotonic clock, seconds.
        wall: Wall clock, for a ``Retry-After`` that is a date.
        draw: Randomness in 0..1.
    """

    def __init__(self, spool: Spool, open_session: "Callable[[], requests.Session]", policy: UpstreamPolicy, *,
                 stop: threading.Event, heartbeat: Heartbeat | None = None,
                 clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
                 draw: Callable[[], float] = random.random) -> None:
        self._spool, self._open_session, self._policy, self._stop = spool, open_session, policy, stop
        self._heartbeat = heartbeat or Heartbeat("upstream", float("inf"))
        self._clock, self._wall = clock, wall
        self._jitter = FullJitter(policy.retry_min_s, policy.retry_max_s, draw)
        self._session: requests.Session | None = None
        self._state: State = "off" if policy.url is None else "idle"
        self._reason = ""
        self._since = clock()
        self._last_ack: float | None = None
        self._next_try: float | None = None
        self._events = self._batches = self._attempts = 0
        self._turn = threading.Lock()  # held by whoever sends: run(), then drain()

    def run(self) -> None:
        """Deliver until ``stop`` is set.

        Raises:
            SpoolError: the spool's file is damaged or its disk fails; the agent must end and start again.
        """
        with self._turn:
            try:
                while not self._stop.is_set():
                    self._heartbeat.beat()
                    self._stop.wait(self._step(self._policy.batch_interval_s))
            finally:
                self._close_session()

    def drain(self, timeout_s: float) -> bool:
        """Deliver all that is committed, full batches or not; call it after ``stop``, when nothing more is appended.

        Works in the caller's thread, once :meth:`run` has ended. The wait for the next attempt is cut short once.

        Returns:
            True when the spool is empty; False as soon as ``timeout_s`` cannot be kept, or without an upstream.

        Raises:
            SpoolError: as for :meth:`run`.
        """
        deadline = self._clock() + timeout_s
        if self._policy.url is None or not self._turn.acquire(timeout=timeout_s):
            return self._spool.depth == 0
        try:
            self._next_try = None
            while self._spool.depth:
                now = self._clock()
                wait_s = max(0.0, (self._next_try or now) - now)
                if now + wait_s >= deadline:
                    break
                time.sleep(wait_s)
                self._heartbeat.beat()
                self._step(0, deadline - now - wait_s)
        finally:
            self._close_session()
            self._turn.release()
        return self._spool.depth == 0

    def _step(self, max_age_s: float, timeout_s: float | None = None) -> float:
        """Do what is due and return the seconds until to look again."""
        if self._policy.url is None or (self._next_try is not None and self._clock() < self._next_try):
            return _TICK_S
        try:
            batch = self._spool.seal(self._policy.batch_events, max_age_s)
            if batch is None:
                self._enter("idle")
                return _TICK_S
            if self._state == "idle":
                self._enter("sending")
            result = self._send(self._policy.url, batch, timeout_s)
            if result.kind is Kind.ACK:
                self._spool.ack(batch)
                self._delivered(batch)
                return 0
        except SpoolFullError as error:
            result = Verdict(Kind.RETRY, f"the spool cannot be written: {error.why}")
        self._put_off(result)
        return _TICK_S

    def _send(self, url: str, batch: SealedBatch, timeout_s: float | None) -> Verdict:
        import requests  # noqa: PLC0415 -- only a box with an upstream pays for it

        self._attempts += 1
        try:
            if self._session is None:
                self._session = self._open_session()
            headers = {"Content-Type": batch.content_type, "Content-Encoding": batch.encoding,
                       "Idempotency-Key": batch.id, "User-Agent": self._policy.user_agent}
            with self._session.post(url, data=batch.body, headers=headers, timeout=timeout_s, stream=True,
                                    allow_redirects=False) as answer:
                result = verdict(answer.status_code, answer.headers.get("Retry-After"), self._wall())
                if result.kind is Kind.ACK:
                    self._read(answer)
                return result
        except ConfigError as error:
            return Verdict(Kind.HOLD, error.what)
        except requests.exceptions.RequestException as error:
            return _no_answer(error)

    @staticmethod
    def _read(answer: "requests.Response") -> None:
        """Read a short answer to its end, so that the connection can be used again and a cut one is noticed."""
        size = 0
        for chunk in answer.iter_content(4096):
            size += len(chunk)
            if size > _ANSWER_BYTES:
                return

    def _delivered(self, batch: SealedBatch) -> None:
        self._events += batch.events
        self._batches += 1
        self._last_ack = self._clock()
        self._next_try = None
        self._jitter.reset()
        self._enter("sending")

    def _put_off(self, result: Verdict) -> None:
        wait_s = self._jitter.next() if result.wait_s is None else result.wait_s
        if result.kind is Kind.HOLD:
            wait_s = self._policy.retry_max_s
            self._close_session()
        self._next_try = self._clock() + wait_s
        self._enter("holding" if result.kind is Kind.HOLD else "retrying", result.reason)

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _enter(self, state: State, reason: str = "") -> None:
        """Show ``state``; log it when trouble begins, changes or ends."""
        if (state, reason) == (self._state, self._reason):
            return
        now = self._clock()
        if reason:
            _log.warning("upstream: %s: %s", state, reason)
        elif self._reason:
            _log.info("upstream: delivering again after %.0f s", now - self._since)
        if state != self._state:
            self._since = now
        self._state, self._reason = state, reason

    def status(self) -> UpstreamStatus:
        """Return how the delivery goes now; any thread may call it."""
        now, last_ack, next_try = self._clock(), self._last_ack, self._next_try
        return UpstreamStatus(
            state=self._state, reason=self._reason, since_s=now - self._since,
            last_ack_age_s=None if last_ack is None else now - last_ack, delivered_events=self._events,
            delivered_batches=self._batches, attempts=self._attempts,
            next_try_in_s=None if next_try is None else max(0.0, next_try - now))


def _no_answer(error: "requests.exceptions.RequestException") -> Verdict:
    from requests import exceptions  # noqa: PLC0415 -- see _send

    if isinstance(error, exceptions.InvalidURL | exceptions.InvalidSchema):
        return Verdict(Kind.HOLD, "upstream.url or upstream.proxy is no usable address")
    if isinstance(error, exceptions.ConnectTimeout):
        return Verdict(Kind.RETRY, "no connection in time")
    if isinstance(error, exceptions.Timeout):
        return Verdict(Kind.RETRY, "no answer in time")
    result = failure(error)
    if isinstance(error, exceptions.ProxyError):
        return Verdict(Kind.RETRY, f"proxy: {result.reason}")
    return result
