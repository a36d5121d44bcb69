"""The memory's side of the governor: reads, climbs the ladder, notices a leak. Acts on nothing itself."""

import time
from dataclasses import dataclass

from agent.config import BudgetSection
from agent.power import squeeze
from agent.power.leak import Leak, LeakWatch
from agent.power.memory import MemoryReading, MemoryWatch

_EVERY_S = 1.0
_NEARLY_FULL = 0.97  # of the control group's limit
_FORCES = ("pause", "tier", "batch")  # what the governor must know of, the strongest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one look at the memory found.

    Attributes:
        reading: The memory.
        move: A rung taken or given back.
        leak: A leak that is to be told.
    """

    reading: MemoryReading
    move: squeeze.Move | None = None
    leak: Leak | None = None


class MemoryKeeper:
    """Looks at the memory once a second. One thread uses it.

    Args:
        budget: Its ``memory`` and ``reserve`` count; with the policy ``off`` nothing is given up.
        watch: Reads the figures.
    """

    def __init__(self, budget: BudgetSection, watch: MemoryWatch) -> None:
        self._budget = int(budget.memory) if budget.memory else None
        self._reserve = int(budget.reserve)
        self._off = budget.policy == "off"
        self._watch = watch
        self._rules = squeeze.Rules()
        self._leaks = LeakWatch(self._budget)
        self._last = Kept(reading=watch.read(None))
        self._at_s = 0.0
        self.state = squeeze.State()
        self.why = ""
        """Why the rungs in force were taken, in words."""
        self.leak: Leak | None = None
        """The last leak that was told."""

    @property
    def reading(self) -> MemoryReading:
        """The newest."""
        return self._last.reading

    @property
    def force(self) -> str:
        """What the governor has to do: ``batch``, ``tier``, ``pause``, or nothing."""
        return next((rung for rung in _FORCES if rung in self.state.taken), "")

    def look(self, device: int | None, available: frozenset[str], *, loading: bool) -> Kept:
        """Look, if it is time.

        Args:
            device: Bytes the engine takes on the device; None = unknown, or none.
            available: Rungs that would free something, see :data:`agent.power.squeeze.RUNGS`.
            loading: An engine is being loaded, or has just taken over: what a rung gives shows only afterwards, so the
                ladder waits, unless the kernel would not.
        """
        now_s = time.monotonic()
        if now_s - self._at_s < _EVERY_S - 0.05:
            return Kept(reading=self._last.reading)
        self._at_s, reading, move = now_s, self._watch.read(device), None
        if not self._off and not (loading and _has_room(reading)):
            self.state, move = squeeze.squeeze(self.state, squeeze.Sample(
                reading=reading, budget=self._budget, reserve=self._reserve, available=available, loading=loading),
                self._rules)
        if move:
            self.why = move.reason
        leak = None
        if reading.resident is not None:
            self._leaks.limit = min((limit for limit in (self._budget, reading.limit) if limit), default=None)
            leak = self._leaks.add(now_s, reading.resident + (device or 0) + (reading.swapped or 0))
        self.leak = leak or self.leak
        self._last = Kept(reading=reading, move=move, leak=leak)
        return self._last

    def restart(self) -> None:
        """Learn that another engine serves: what it takes is no leak."""
        self._leaks.restart()


def _has_room(reading: MemoryReading) -> bool:
    """Tell whether the kernel will not choose a victim soon."""
    return reading.limit is None or reading.used is None or reading.used <= _NEARLY_FULL * reading.limit
