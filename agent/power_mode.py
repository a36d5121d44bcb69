"""The board's power mode and jetson_clocks while the agent runs: set before an engine is chosen, put back at the end.

The power mode is part of an engine's identity, so it must stand before the first engine is looked for. A board that
cannot be set is told, in the log and as a problem; the agent runs all the same, with the mode that there is.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from agent.config import BudgetSection
from agent.errors import AgentError
from agent.power.actuator import ActuatorError, Board, PowerActuator

_LOG = logging.getLogger(__name__)
_WAIT_S = 15.0  # for each answer and each setting; nvpmodel takes seconds
REMEMBERED = "power-mode.json"
"""File in the state directory: what was before, while the agent's own settings stand."""


class Client(Board, Protocol):
    """A board that is let go of after use."""

    def close(self) -> None:
        """Let the connection go."""
        ...


class PowerMode:
    """Sets on :meth:`apply`, puts back when the ``with`` block ends. Does nothing where nothing is configured.

    Args:
        section: Its ``nvpmodel`` and ``jetson_clocks`` are what is wanted.
        state_dir: Remembers what was before; what a crash left there is minded at the next start.
        stop: Once set, ``apply`` gives up.
        connect: Makes the connection to the board.
        wait_s: Longest wait for an answer, and for a setting to be seen, seconds.
        sleep: Waits that many seconds.

    Attributes:
        trouble: Why the board is not set as configured, and the remedy; empty when it is.
    """

    def __init__(self, section: BudgetSection, state_dir: Path, stop: threading.Event, *,
                 connect: Callable[[], Client] | None = None, wait_s: float = _WAIT_S,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._section, self._state, self._stop = section, state_dir / REMEMBERED, stop
        self._connect, self._wait_s, self._sleep = connect or _jtop, wait_s, sleep
        self._lock, self._over = threading.Lock(), False
        self.trouble = ""

    def __enter__(self) -> "PowerMode":  # noqa: PYI034 -- Python 3.10 has no typing.Self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.restore()

    def apply(self, say: Callable[[str], None] = lambda _what: None) -> None:
        """Set what is configured, and put back what a crash left and is not configured any more. May take a minute.

        Args:
            say: Told what is being done, when there is anything to do.
        """
        section = self._section
        with self._lock:
            wanted = section.nvpmodel is not None or section.jetson_clocks is not None
            if self._over or not (wanted or self._state.exists()):
                return
            say("setting the power mode")
            self.trouble = self._use(section.nvpmodel, section.jetson_clocks, PowerActuator.apply, self._patiently)

    def restore(self) -> None:
        """Put back what was before, if anything was set; nothing is set after that."""
        with self._lock:
            self._over = True
            if self._state.exists():
                self._use(None, None, PowerActuator.restore, self._sleep)

    def _use(self, mode: str | None, clocks: bool | None, do: Callable[[PowerActuator], list[str]],
             sleep: Callable[[float], None]) -> str:
        """Connect, act, let go, and say in the log what came of it; return the trouble."""
        client: Client | None = None
        try:
            client = self._connect()
            for change in do(PowerActuator(mode, clocks, self._state, client, wait_s=self._wait_s, sleep=sleep)):
                _LOG.info("power mode: %s", change)
        except AgentError as error:
            if not self._stop.is_set() or do is PowerActuator.restore:
                _LOG.error("power mode: %s", error)
            return f"{error.what}: {error.remedy}" if error.remedy else error.what
        finally:
            if client is not None:
                client.close()
        return ""

    def _patiently(self, seconds: float) -> None:
        self._sleep(seconds)
        if self._stop.is_set():
            raise ActuatorError("the agent is stopping")


def _jtop() -> Client:
    # Its client is AGPL code and slow to import: only where something is to be set.
    from agent.power.jtop import JtopTelemetry  # noqa: PLC0415 -- see above

    return JtopTelemetry()
