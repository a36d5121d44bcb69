"""How much may be spent in a time, on average. Pure: the caller says what time it is, and waits."""


class Pacer:
    """A budget that fills at a steady rate and may be overdrawn once, by whatever is spent last.

    The generic cell rate algorithm (ITU-T I.371, annex A) in its virtual scheduling form: one number, no timer.

    Args:
        rate: Units a second on average; more than 0.
        burst_s: What was not spent is kept for this many seconds.
    """

    def __init__(self, rate: float, burst_s: float) -> None:
        self._rate, self._burst_s = rate, burst_s
        self._paid_until: float | None = None

    def wait_s(self, now: float) -> float:
        """Return the seconds until something may be spent again, 0 when it may be now."""
        return 0.0 if self._paid_until is None else max(0.0, self._paid_until - now)

    def spend(self, amount: float, now: float) -> None:
        """Account for ``amount``: over any time T at most ``rate * (T + burst_s)`` and one amount are spent."""
        earliest = now - self._burst_s
        paid = earliest if self._paid_until is None else max(self._paid_until, earliest)
        self._paid_until = paid + amount / self._rate
