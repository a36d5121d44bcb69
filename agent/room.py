"""Is there room for an engine, or for building one? Asked before it is loaded, with what was measured of it."""

from dataclasses import replace

from agent import machine
from agent.building.store import Stored
from agent.config import BudgetSection
from agent.errors import EngineError
from agent.inference.engine import Engine
from agent.loading import free_device_bytes
from agent.plan import Plan
from agent.power.admission import admit, child_cap, too_small
from agent.power.memory import MemoryWatch


class NoRoomError(EngineError):
    """An engine was not loaded, because what it takes would exceed a limit."""


class Room:
    """Asks before anything large is loaded or built.

    Args:
        budget: Its ``memory`` and ``reserve``.
    """

    def __init__(self, budget: BudgetSection) -> None:
        self._budget = int(budget.memory) if budget.memory else None
        self._reserve = int(budget.reserve)

    def ask(self, plan: Plan, need: int | None, served: Engine | None) -> None:
        """Return if an engine that takes ``need`` bytes may be loaded.

        Args:
            plan: What it was built for.
            need: Bytes of the process on a CPU, of the device on a GPU; None = unknown, which forbids nothing: what
                follows from it the watch on the memory sees.
            served: The engine that serves, and goes on until the new one has taken over; None = there is none.

        Raises:
            NoRoomError: it may not.
        """
        if need is None:
            return
        # A GPU that shares the machine's memory takes from the same bytes as everybody else.
        own_memory = not plan.on_cpu and not machine.is_jetson()
        size = f"{plan.prepared.width}x{plan.prepared.height}"
        why = admit(
            0 if own_memory else need, MemoryWatch().read(getattr(served, "device_bytes", None)), budget=self._budget,
            reserve=self._reserve, on_device=(need, free_device_bytes()) if own_memory else None,
            what=f"the engine {size}, loaded beside the one that serves," if served else f"the engine {size}")
        if why:
            raise NoRoomError(why, "raise [budget] memory or what bounds it, lower [budget] reserve, or allow smaller "
                                   "canvases with [budget] sizes")

    def for_build(self, plan: Plan) -> Plan:
        """Return ``plan`` with the memory its children may take now.

        Raises:
            NoRoomError: it is too little for any build.
        """
        reading = MemoryWatch().read(None)
        cap = child_cap(reading, self._reserve, plan.memory)
        if why := too_small(cap, reading, self._reserve, what="building an engine"):
            raise NoRoomError(why, "build where there is more memory, or give the service more (MemoryMax)")
        return replace(plan, memory=cap)


def measured_need(plan: Plan, stored: Stored) -> int:
    """Return the bytes a stored engine takes: as measured when it was tuned, else the size of its file at least."""
    # On a GPU the process holds the libraries already, which are most of what a trial's process grew by.
    figures = [rung.measured.resident_bytes if plan.on_cpu else rung.measured.device_bytes
               for rung in (stored.tuning.rungs if stored.tuning else [])
               if rung.form is stored.card.form and rung.measured]
    return max((figure for figure in figures if figure), default=stored.card.bytes)
