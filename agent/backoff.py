"""Waits between attempts: full jitter, so that a fleet that lost its camera switch does not come back in step.

It only draws numbers; it never sleeps. Each of two parts that retry keeps one of its own.
"""

import random
from collections.abc import Callable


class FullJitter:
    """Waits drawn evenly from 0 to a bound that doubles with every attempt.

    The scheme is "Full Jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        first_s: Bound of the first wait, seconds; more than 0.
        longest_s: Bound that is never passed, seconds.
        draw: Returns a number in 0..1.
    """

    def __init__(self, first_s: float, longest_s: float, draw: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._draw = draw
        self._bound_s = min(first_s, longest_s)

    def next(self) -> float:
        """Return the next wait in seconds, in [0, min(longest, first * 2**n)] for the n-th call since a reset."""
        wait_s = self._draw() * self._bound_s
        self._bound_s = min(self._bound_s * 2, self._longest_s)
        return wait_s

    def reset(self) -> None:
        """Begin again with the first bound, after an attempt that went well."""
        self._bound_s = min(self._first_s, self._longest_s)
