"""What becomes of a batch that the receiver refuses: asked about, halved, and at last its one bad event set aside.

Promise: nothing is set aside on a receiver's word alone. An expired or missing client certificate makes nginx answer
400 to everything, so before a batch is taken for the culprit, and again before an event is, a canary (one harmless
event, sent in the same way) must be accepted. A receiver may also err now and then, so an event alone is only a suspect
at first: it is sent again at once, and set aside when it is refused, and a canary accepted, a second time in a row.
Each step but the suspicion is durable in the spool, so a crash goes on where it was. Steps follow each other without a
pause, as many as a few bad batches need; then one a second.
"""

import logging
import time
from collections.abc import Callable

from agent.journal import MessageId, about
from agent.report.pacing import Pacer
from agent.report.spool import SealedBatch, Spool
from agent.report.verdict import Kind, Verdict

_log = logging.getLogger(__name__)

# To find one event among 1000 takes 12 refusals, so an ordinary bad batch is never slowed; a receiver that takes the
# canary and nothing else sees a request a second, and after as many events as there may be dead letters none.
_AT_ONCE = 60
_PER_SECOND = 1.0
# Halving deletes nothing, so a canary of a minute ago is proof enough for it.
_PROVEN_S = 60.0
_SMALLER_S = 3600.0
_UNSUPPORTED = 415


class Refusals:
    """Brings refused batches to an end, one step at a time.

    Args:
        spool: Where they are.
        ask: Sends a canary in the way of a batch, and judges the answer.
        blame: Returns what may be wrong with the credentials.
        clock: Monotonic clock, seconds.

    Attributes:
        buried: Events set aside since the start.
        canaries: Canaries sent since the start.
    """

    def __init__(self, spool: Spool, ask: Callable[[SealedBatch], Verdict], blame: Callable[[], str],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._spool, self._ask, self._blame, self._clock = spool, ask, blame, clock
        self._pace = Pacer(_PER_SECOND, _AT_ONCE / _PER_SECOND)
        self._proven_until: float | None = None
        self._suspect = ""  # the id of a batch of one event that was refused while a canary was accepted
        self._smaller: tuple[int, float] | None = None  # (most events, until when)
        self.buried = 0
        self.canaries = 0

    def most_events(self, configured: int) -> int:
        """Return how many events a new batch may have: fewer for an hour after one was too large."""
        if self._smaller is None or self._clock() >= self._smaller[1]:
            return configured
        return min(configured, self._smaller[0])

    def wait_s(self) -> float:
        """Return the seconds to leave the receiver in peace after so many refusals; mostly 0."""
        return self._pace.wait_s(self._clock())

    def step(self, batch: SealedBatch, refusal: Verdict) -> Verdict | None:
        """Take the next step with a batch that was just refused (HALVE or REJECT).

        Returns:
            None when delivery goes on at once, be it with the same batch; else why it has to wait (RETRY or HOLD).

        Raises:
            SpoolFullError: the step could not be written; nothing has changed.
        """
        self._pace.spend(1, self._clock())
        if refusal.kind is Kind.HALVE:
            self._learn(batch.events)
        if batch.events > 1 and (refusal.kind is Kind.HALVE or self._proven()):
            self._spool.split(batch)
            return None
        self._proven_until = None
        self.canaries += 1
        answer = self._ask(batch)
        if answer.kind is not Kind.ACK:
            self._suspect = ""
            return self._not_the_batch(batch, refusal, answer)
        self._proven_until = self._clock() + _PROVEN_S
        if batch.events > 1:
            _log.warning("upstream: %s, but a canary is taken: looking for the event among %d", refusal.reason,
                         batch.events)
            self._spool.split(batch)
            return None
        if batch.id != self._suspect:
            self._suspect = batch.id
            return None
        return self._bury(batch, refusal)

    def _proven(self) -> bool:
        return self._proven_until is not None and self._clock() < self._proven_until

    def _learn(self, refused: int) -> None:
        if refused > 1:
            self._smaller = (self.most_events(max(1, refused // 2)), self._clock() + _SMALLER_S)

    def _bury(self, batch: SealedBatch, refusal: Verdict) -> Verdict | None:
        why = f"{refusal.reason}; the receiver said: {refusal.said}" if refusal.said else refusal.reason
        if not self._spool.bury(batch, why):
            return Verdict(Kind.HOLD, f"{refusal.reason}, and the dead letters are full: "
                                      "vedette spool export, then retry-dead or drop-dead")
        self._suspect = ""  # the same event may come back, by retry-dead
        self.buried += 1
        _log.warning("upstream: event %d goes to the dead letters, %s, twice, though a canary is taken",
                     batch.first_seq, refusal.reason, extra=about(MessageId.UPSTREAM))
        if refusal.kind is Kind.HALVE:
            self._smaller = None  # that one event was too large, not the number of them
        return None

    def _not_the_batch(self, batch: SealedBatch, refusal: Verdict, answer: Verdict) -> Verdict:
        """Return why nothing is done to a batch when its canary fares no better."""
        if answer.kind is Kind.RETRY:
            return Verdict(Kind.RETRY, f"{refusal.reason}; canary: {answer.reason}", answer.wait_s)
        if answer.kind is Kind.HOLD:
            return answer
        way = f"{batch.content_type} {batch.encoding}".strip()
        if answer.kind is Kind.HALVE:
            cause = "the receiver takes next to nothing, raise its limit"
        elif answer.status == _UNSUPPORTED:
            cause = f"{way} not taken, check upstream.format and upstream.compression"
        else:
            cause = f"{self._blame()}, or {way} not understood (check upstream.format)"
        return Verdict(Kind.HOLD, f"{answer.reason}, to a canary too: {cause}")
