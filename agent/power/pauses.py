"""When a pause ends, and how fast the loop comes out of it. Pure.

A limit just above what the board takes without frames invites a cycle for ever: there is room as long as nothing runs.
So a pause that comes back soon after its end lasts twice as long the next time, and the loop then begins at half the
rate: what a frame costs may be unknown, but not that it was too much.
"""

from dataclasses import dataclass, replace

from agent.power.policy import Limits

_WAIT_S, _MOST_WAIT_S = 8.0, 600.0
_SOON_S = 60.0  # a run of that length has proved its rate
_MOST_FAILED = 7  # from there on the wait is at its most
_CLEARLY = 0.06  # of the limit: so much less power without frames than the last time is another board
_RAMP_S, _DOUBLING = 30.0, 2 ** 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """What is remembered of pauses.

    Attributes:
        resumed_s: When the last one ended, seconds of the monotonic clock.
        failed: How many in a row came back within a minute.
        watts: Measured when the last one ended; None = unknown.
        limits: In force then.
    """

    resumed_s: float = -1e9
    failed: int = 0
    watts: float | None = None
    limits: Limits | None = None

    def again(self, now_s: float) -> "Pauses":
        """Return what is known when a limit pauses the loop at ``now_s``."""
        soon = now_s - self.resumed_s < _SOON_S
        return replace(self, failed=min(self.failed + 1, _MOST_FAILED) if soon else 0)

    def over(self, now_s: float, watts: float | None, limits: Limits) -> "Pauses":
        """Return what is known when a pause ends at ``now_s``."""
        return replace(self, resumed_s=now_s, watts=watts, limits=limits, failed=self._counting(watts, limits))

    def wait_s(self, watts: float | None, limits: Limits) -> float:
        """Return how long this pause lasts at least, seconds."""
        return float(min(_WAIT_S * 2 ** self._counting(watts, limits), _MOST_WAIT_S))

    def rate(self, safe: float, watts: float | None, limits: Limits) -> float:
        """Return the frames per second to begin with at most, of ``safe`` ones."""
        return float(safe / 2 ** self._counting(watts, limits))

    def _counting(self, watts: float | None, limits: Limits) -> int:
        """Return how many failures count: none under other limits, or when a neighbour on the board has gone."""
        gone = (watts is not None and self.watts is not None and limits.watts is not None
                and watts < self.watts - _CLEARLY * limits.watts)
        return 0 if gone or limits != self.limits else self.failed


def after_pause(rate: float | None, asked: float | None, *, safe: float, top: float, since_s: float) -> float | None:
    """Return the next rate on the way from a pause to ``asked`` where no watts or degrees hold it back.

    It doubles every two seconds (at two decisions a second): memory had run short, and at full speed at once what is
    short would be gone before anybody has looked.

    Args:
        rate: Frames per second now; 0 = paused, None = no limit.
        asked: Frames per second at the end; None = no limit.
        safe: The first rate.
        top: The most that was served lately: from there on nothing is gained by waiting.
        since_s: Seconds since the pause ended.
    """
    if rate == 0.0:
        return safe if asked is None else min(safe, asked)
    if rate is None or since_s >= _RAMP_S or rate >= top or (asked is not None and rate >= asked):
        return asked
    doubled = rate * _DOUBLING
    return doubled if asked is None else min(doubled, asked)
