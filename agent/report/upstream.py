"""Delivers the spool, batch by batch, to one HTTPS receiver, and says how that goes.

Promises: one request in flight; a batch leaves the spool on 2xx only, and goes out again, with the same bytes and the
same ``Idempotency-Key``, after anything else; the receiver's ``Retry-After`` wins over our own full jitter; what needs
a person (see :mod:`agent.report.verdict`) is tried at the slowest pace, and when its files change, until it works; what
the receiver refuses is halved down to the one event it does not take (see :mod:`agent.report.rejection`). A change is
logged once, never an address, a secret or a body. Each step is: seal, send, judge, act.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent.backoff import FullJitter
from agent.clock import RecentTrust, Trust
from agent.journal import MessageId, about
from agent.meters import Heartbeat
from agent.report.credentials import Credentials
from agent.report.pacing import Pacer
from agent.report.rejection import Refusals
from agent.report.sealing import Encoded, encode_again
from agent.report.sender import Sender
from agent.report.spool import SealedBatch, Spool, SpoolFullError
from agent.report.verdict import Kind, Verdict

State = Literal["off", "idle", "sending", "retrying", "holding"]

_log = logging.getLogger(__name__)
_TICK_S = 0.25
# What the bandwidth cap did not use is kept for so long, so that a batch a second fits under it unevenly.
_BURST_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamPolicy:
    """Where to, how much at once, how often.

    Attributes:
        url: Takes POSTed CloudEvents batches; may not be shown. None: nothing is sent.
        batch_events: Most events in one request.
        batch_interval_s: A batch that is not full is sent after this long.
        bandwidth: Bytes of request bodies sent per second at most, on average; None: no limit.
        retry_min_s: Bound of the first wait after a failure.
        retry_max_s: Bound of all waits of our own, and the wait while something must be mended.
        user_agent: ``vedette/<version>``.
    """

    url: str | None
    batch_events: int = 32
    batch_interval_s: float = 1.0
    bandwidth: float | None = None
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
        attempts: Requests made since the start, canaries included.
        next_try_in_s: Seconds to the next attempt after a failure, or while the bandwidth is used up; else None.
        certificate_expires_in_s: Seconds until the client certificate ends, below 0 when it has; None without one.
        clock: How far the box's clock can be believed.
        buried: Events that the receiver refused for good, set aside as dead letters since the start.
        canaries: Requests made since the start to learn whether the receiver takes anything at all.
    """

    state: State
    reason: str
    since_s: float
    last_ack_age_s: float | None
    delivered_events: int
    delivered_batches: int
    attempts: int
    next_try_in_s: float | None
    certificate_expires_in_s: float | None
    clock: Trust
    buried: int
    canaries: int


class Uploader:
    """The delivering thread's work: call :meth:`run` in a thread of its own.

    Args:
        spool: What to deliver.
        credentials: Makes the sessions.
        policy: Where to and how.
        canary: Makes the body of a harmless event, a JSON object, that asks whether the receiver takes any.
        stop: Ends :meth:`run` at the next step; it is looked at four times a second.
        heartbeat: Beaten before each request and while waiting; not during a request, so its limit must be longer
            than one.
        trust: How far the wall clock can be believed.
        clock: Monotonic clock, seconds.
        wall: Wall clock, for a ``Retry-After`` that is a date.
        draw: Randomness in 0..1.
    """

    def __init__(self, spool: Spool, credentials: Credentials, policy: UpstreamPolicy, *,
                 canary: Callable[[], bytes], stop: threading.Event, heartbeat: Heartbeat | None = None,
                 trust: Callable[[], Trust] | None = None, clock: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time, draw: Callable[[], float] = random.random) -> None:
        self._spool, self._credentials, self._policy, self._stop = spool, credentials, policy, stop
        self._canary = canary
        self._heartbeat = heartbeat or Heartbeat("upstream", float("inf"))
        self._trust, self._clock, self._wall = trust or RecentTrust(), clock, wall
        self._jitter = FullJitter(policy.retry_min_s, policy.retry_max_s, draw)
        self._sender = Sender(policy.url or "", credentials, policy.user_agent, self._trust, wall)
        self._bandwidth = Pacer(policy.bandwidth or float("inf"), _BURST_S)
        self._refusals = Refusals(spool, self._ask, credentials.blame, clock)
        self._state: State = "off" if policy.url is None else "idle"
        self._reason = ""
        self._since = clock()
        self._last_ack: float | None = None
        self._next_try: float | None = None
        self._deadline: float | None = None  # of drain()
        self._events = self._batches = 0
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
                    self._credentials.watch()
                    self._stop.wait(self._step(self._policy.batch_interval_s))
            finally:
                self._credentials.close()

    def drain(self, timeout_s: float) -> bool:
        """Deliver all that is committed, full batches or not; call it after ``stop``, when nothing more is appended.

        Works in the caller's thread, once :meth:`run` has ended. The wait for the next attempt is cut short once.

        Returns:
            True when the spool is empty; False as soon as ``timeout_s`` cannot be kept, or without an upstream.

        Raises:
            SpoolError: as for :meth:`run`.
        """
        self._deadline = deadline = self._clock() + timeout_s
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
                self._step(0)
        finally:
            self._deadline = None
            self._credentials.close()
            self._turn.release()
        return self._spool.depth == 0

    def _step(self, max_age_s: float) -> float:
        """Do what is due and return the seconds until to look again."""
        if self._policy.url is None:
            return _TICK_S
        if self._state == "holding" and self._credentials.changed():
            self._next_try = None
        if wait_s := self._wait_s():
            return min(wait_s, _TICK_S)
        try:
            batch = self._spool.seal(self._refusals.most_events(self._policy.batch_events), max_age_s)
            if batch is None:
                self._enter("idle")
                return _TICK_S
            if self._state == "idle":
                self._enter("sending")
            self._put_off(self._bandwidth.wait_s(self._clock()))
            if wait_s := self._wait_s():
                return min(wait_s, _TICK_S)
            self._act(batch, self._send(batch))
        except SpoolFullError as error:
            self._wait(Verdict(Kind.RETRY, f"the spool cannot be written: {error.why}"))
        return min(self._wait_s(), _TICK_S)

    def _send(self, request: SealedBatch | Encoded) -> Verdict:
        """Make one request, account for its bytes and judge what comes back."""
        self._heartbeat.beat()
        timeout_s = None if self._deadline is None else self._deadline - self._clock()
        result, sent = self._sender.send(request, timeout_s)
        self._bandwidth.spend(sent, self._clock())
        return result

    def _ask(self, batch: SealedBatch) -> Verdict:
        """Send a canary in the way of ``batch``."""
        return self._send(encode_again([self._canary()], batch.content_type, batch.encoding))

    def _act(self, batch: SealedBatch, result: Verdict) -> None:
        """Do to the batch what the verdict says, and no more."""
        if result.kind is Kind.ACK:
            self._spool.ack(batch, self._refusals.most_events(self._policy.batch_events))
            self._delivered(batch)
            return
        if result.kind in {Kind.HALVE, Kind.REJECT}:
            obstacle = self._refusals.step(batch, result)
            if obstacle is None:
                self._enter("sending")
                self._put_off(self._refusals.wait_s())
                return
            result = obstacle
        self._wait(result)

    def _delivered(self, batch: SealedBatch) -> None:
        self._events += batch.events
        self._batches += 1
        self._last_ack = self._clock()
        self._jitter.reset()
        self._enter("sending")

    def _wait(self, result: Verdict) -> None:
        """Let the batch be, for as long as a failure asks for."""
        if result.kind is Kind.HOLD:
            self._credentials.doubt()
            self._put_off(self._policy.retry_max_s)
            trouble = self._credentials.trouble
            self._enter("holding", f"{result.reason}; {trouble}" if trouble else result.reason)
        else:
            self._put_off(self._jitter.next() if result.wait_s is None else result.wait_s)
            self._enter("retrying", result.reason)

    def _put_off(self, wait_s: float) -> None:
        self._next_try = self._clock() + wait_s if wait_s else None

    def _wait_s(self) -> float:
        return 0.0 if self._next_try is None else max(0.0, self._next_try - self._clock())

    def _enter(self, state: State, reason: str = "") -> None:
        """Show ``state``; log it when trouble begins, changes or ends."""
        if (state, reason) == (self._state, self._reason):
            return
        now = self._clock()
        if reason:
            _log.warning("upstream: %s: %s", state, reason, extra=about(MessageId.UPSTREAM))
        elif self._reason:
            _log.info("upstream: delivering again after %.0f s", now - self._since, extra=about(MessageId.UPSTREAM))
        if state != self._state:
            self._since = now
        self._state, self._reason = state, reason

    def status(self) -> UpstreamStatus:
        """Return how the delivery goes now; any thread may call it."""
        now, last_ack, next_try = self._clock(), self._last_ack, self._next_try
        return UpstreamStatus(
            state=self._state, reason=self._reason, since_s=now - self._since,
            last_ack_age_s=None if last_ack is None else now - last_ack, delivered_events=self._events,
            delivered_batches=self._batches, attempts=self._sender.attempts,
            next_try_in_s=None if next_try is None else max(0.0, next_try - now),
            certificate_expires_in_s=self._credentials.expires_in_s(), clock=self._trust(),
            buried=self._refusals.buried, canaries=self._refusals.canaries)
