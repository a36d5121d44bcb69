"""What the governor did: steps, time spent at each way of working, frames and joules. One thread writes, any reads."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.power.orders import Order

_STEPS = 10
_RECENT = 120  # periods: a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, as status and the event tell it.

    Attributes:
        at: Wall clock, seconds since the epoch.
        kind: ``step``, ``memory``, ``blind``, ``seeing``, ``limits``, ``leak``.
        before: What the loop could do before.
        after: What it may do now; the same where only something is told.
        reason: In words, with the reading that led to it.
        watts: Measured then; None = unknown.
        celsius: Measured then; None = unknown.
        memory: Bytes taken then; None = unknown.
    """

    at: float
    kind: str
    before: Order
    after: Order
    reason: str
    watts: float | None
    celsius: float | None
    memory: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Time at one way of working. Frames and joules only of the seconds in which the power was known."""

    name: str
    seconds: float = 0.0
    frames: float = 0.0
    joules: float = 0.0
    metered_frames: float = 0.0


class Ledger:
    """Keeps the accounts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: deque[Step] = deque(maxlen=_STEPS)
        self._spent: dict[str, Spent] = {}
        self._recent: deque[tuple[float, float, float]] = deque()  # seconds, frames, joules of periods with known power
        self.count = 0

    def took(self, step: Step) -> None:
        """Add a step."""
        with self._lock:
            self._steps.append(step)
            self.count += 1

    def passed(self, order: Order, seconds: float, frames: int, watts: float | None) -> None:
        """Add a period of ``seconds`` in which ``frames`` were served at ``watts`` (None = unknown)."""
        name = f"{order.tier}, batch {order.batch}" if order.rate != 0 else "paused"
        joules = 0.0 if watts is None else watts * seconds
        with self._lock:
            spent = self._spent.get(name, Spent(name=name))
            self._spent[name] = replace(
                spent, seconds=spent.seconds + seconds, frames=spent.frames + frames, joules=spent.joules + joules,
                metered_frames=spent.metered_frames + (0 if watts is None else frames))
            if watts is not None:
                self._recent.append((seconds, frames, joules))
                while len(self._recent) > _RECENT:
                    self._recent.popleft()

    def steps(self) -> Sequence[Step]:
        """Return the last ten steps, oldest first."""
        with self._lock:
            return list(self._steps)

    def spent(self) -> Sequence[Spent]:
        """Return the time at each way of working, most first."""
        with self._lock:
            return sorted(self._spent.values(), key=lambda each: -each.seconds)

    def frames_per_joule(self) -> float | None:
        """Return frames per joule of the last minute; None when no power was known."""
        with self._lock:
            joules = sum(each[2] for each in self._recent)
            return sum(each[1] for each in self._recent) / joules if joules > 0 else None
