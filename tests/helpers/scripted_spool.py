"""The spool's seam as the uploader sees it, in memory and strict: whatever is not allowed raises at once."""

from agent.report.sealing import decode, encode
from agent.report.spool import SealedBatch, SpoolFullError

_STRIDE = 1000


class ScriptedSpool:
    """Batches as the real spool hands them out. What it holds is "the disk": a killed uploader leaves it as it is.

    Args:
        bodies: Events in order; the first has sequence 1.
        dead_letters: Most events in ``dead``.
        full: Calls of ack, split and bury that fail with a full disk, counted from 1.
    """

    def __init__(self, bodies=(), *, dead_letters=1000, format_="cloudevents", compression="gzip", full=()):
        self.unsealed = list(enumerate(bodies, 1))
        self.sealed = []  # [(n, [(seq, body)])]
        self.dead, self.acked, self.buried_why = [], [], []
        self._room, self._way, self._n = dead_letters, (format_, compression), 0
        self._full, self._writes = set(full), 0
        self.splits = 0

    @property
    def depth(self):
        return len(self.unsealed) + sum(len(events) for _, events in self.sealed)

    def seal(self, max_events, max_age_s):
        assert max_events >= 1
        if not self.sealed:
            if not self.unsealed:
                return None
            taken, self.unsealed = self.unsealed[:max_events], self.unsealed[max_events:]
            self._n += _STRIDE
            self.sealed = [(self._n, taken)]
        return self._batch(*self.sealed[0])

    def _batch(self, n, events):
        made = encode([body for _, body in events], *self._way)
        return SealedBatch(n=n, id=made.id, content_type=made.content_type, encoding=made.encoding, events=len(events),
                           first_seq=events[0][0], last_seq=events[-1][0], body=made.body)

    def _write(self, batch):
        """Check that the batch is the first; return its events."""
        n, events = self.sealed[0]
        assert batch == self._batch(n, events), "only the batch that seal() returned, and only once"
        self._writes += 1
        if self._writes in self._full:
            raise SpoolFullError("full", "", "the disk is full")
        return events

    def ack(self, batch, next_events=0):
        self.acked += [seq for seq, _ in self._write(batch)]
        del self.sealed[0]

    def split(self, batch):
        assert batch.events >= 2
        events = self._write(batch)
        half = len(events) // 2
        self.splits += 1
        self._n += _STRIDE
        self.sealed[:1] = [(self._n, events[:half]), (self._n + 1, events[half:])]

    def bury(self, batch, why):
        assert batch.events == 1
        assert why
        (event,) = self._write(batch)
        if len(self.dead) >= self._room:
            return False
        self.dead.append(event)
        self.buried_why.append(why)
        del self.sealed[0]
        return True


def bodies_of(request):
    """Return the events in what was sent."""
    return decode(request.body, request.content_type, request.encoding)
