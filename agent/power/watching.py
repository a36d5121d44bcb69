"""The mean power of a while: reads the sensors in a thread of its own while something else goes on."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from agent.power.telemetry import Reading, Telemetry

_INTERVAL_S = 0.25
_LEAST_SHARE = 0.5  # of the readings must be known, or their mean would speak for a time that nobody looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What the sensors said in a while.

    Attributes:
        watts: Mean; None = unknown.
        measures: What they are of; empty = unknown.
        telemetry: Who read them, see :attr:`Telemetry.name`.
        trouble: Why there are no watts; empty when there are.
    """

    watts: float | None
    measures: str
    telemetry: str
    trouble: str


class Watcher:
    """Samples ``telemetry`` four times a second until it is closed.

    Args:
        telemetry: What is read, by the thread alone until :meth:`close`; the caller closes it then.
        interval_s: Between two readings.
    """

    def __init__(self, telemetry: Telemetry, interval_s: float = _INTERVAL_S) -> None:
        self._telemetry = telemetry
        self._interval_s = interval_s
        self._readings: list[Reading] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def since(self, at_s: float) -> Power:
        """Return the mean of what was true at ``at_s`` (monotonic clock, seconds) or later, each reading once."""
        by_time = {reading.at_s: reading for reading in list(self._readings) if reading.at_s >= at_s}
        return mean_power(list(by_time.values()), self._telemetry.name)

    def _run(self) -> None:
        while True:
            self._readings.append(self._telemetry.sample())
            if self._stop.wait(self._interval_s):
                return


def mean_power(readings: list[Reading], telemetry: str) -> Power:
    """Return the mean power of readings; none where fewer than half of them know it, or they are not of one thing."""
    known = [reading.watts for reading in readings if reading.watts is not None]
    kinds = sorted({reading.measures for reading in readings if reading.watts is not None})
    said = next((reading.trouble for reading in reversed(readings) if reading.trouble), "")
    if len(kinds) > 1:
        trouble = f"the sensors measured different things meanwhile: {', '.join(kinds)}"
        return Power(watts=None, measures="", telemetry=telemetry, trouble=trouble)
    measures = kinds[0] if kinds else ""
    if not known or len(known) < _LEAST_SHARE * len(readings):
        trouble = said or ("the sensors gave no reading in that time" if not readings else
                           f"only {len(known)} of {len(readings)} readings had a power")
        return Power(watts=None, measures=measures, telemetry=telemetry, trouble=trouble)
    return Power(watts=sum(known) / len(known), measures=measures, telemetry=telemetry, trouble="")


def power_for(telemetry: Telemetry, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Power:
    """Return the mean power of the next ``seconds``; at 0 what one reading tells, watts or not."""
    if not seconds:
        return mean_power([telemetry.sample()], telemetry.name)
    began = time.monotonic()
    with closing(Watcher(telemetry)) as watcher:
        sleep(seconds)
    return watcher.since(began)
