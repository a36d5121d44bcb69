"""The clock of a file that plays as a camera would. It never drops a frame: a late one comes at once."""

import time
from collections.abc import Callable


class Pacer:
    """Makes frame n (from 0) due n / rate seconds after the first.

    Args:
        rate: Frames per second, more than 0.
        clock: Monotonic seconds.
        sleep: Waits that many seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._begin_s: float | None = None
        self._frames = 0

    def wait(self) -> None:
        """Return when the next frame is due; at once when it is late."""
        now_s = self._clock()
        if self._begin_s is None:
            self._begin_s = now_s
        due_s = self._begin_s + self._frames / self._rate
        self._frames += 1
        if due_s > now_s:
            self._sleep(due_s - now_s)
