"""Sets the board's power mode and jetson_clocks while the agent runs, if the config allows it, and puts them back.

What was before is on the disk before anything is changed. A crash leaves that file; the next start keeps what it says
instead of taking the changed setting for the former one. A power mode outlives a reboot, so the file does as well.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from agent.atomic import fsync_dir, write_atomic
from agent.errors import AgentError

if TYPE_CHECKING:
    from agent.power.jtop import Settings  # its client loads multiprocessing: only where something is to be set

# nvpmodel takes up to a few seconds, more when jtop has to stop jetson_clocks around it.
_WAIT_S = 15.0
_POLL_S = 0.1
_BUSY = frozenset({"activating", "deactivating", "booting"})
_MODE, _CLOCKS = "the power mode", "jetson_clocks"


class ActuatorError(AgentError):
    """A setting of the board that cannot be made, verified or put back."""


class Board(Protocol):
    """What can be set: :class:`agent.power.jtop.JtopTelemetry`."""

    @property
    def trouble(self) -> str:
        """Why the board cannot be asked now; empty when nothing is known to be wrong."""
        ...

    def settings(self) -> "Settings | None":
        """Return how the board is set now; None = unknown now. Never waits."""
        ...

    def set_nvpmodel(self, mode: str) -> str:
        """Send the wish for a power mode; return what went wrong with the sending."""
        ...

    def set_jetson_clocks(self, on: bool) -> str:
        """Send the wish for jetson_clocks; return what went wrong with the sending."""
        ...


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The state file: what was before the first change, and what was set; None = that was left alone."""

    nvpmodel: str | None = None
    jetson_clocks: bool | None = None
    set_nvpmodel: str | None = None
    set_jetson_clocks: bool | None = None


class PowerActuator:
    """Sets what is configured, nothing else. Both calls wait for the board, up to ``wait_s`` for each setting.

    Args:
        nvpmodel: Name of the wanted power mode; None = left alone.
        jetson_clocks: Whether it shall be on; None = left alone.
        state: The file that remembers what was before; its folder is there.
        client: The board, as :class:`agent.power.jtop.JtopTelemetry` is one.
        wait_s: Longest wait for an answer, and for a setting to be seen, seconds.
        clock: Monotonic clock, seconds.
        sleep: Waits that many seconds.
    """

    def __init__(self, nvpmodel: str | None, jetson_clocks: bool | None, state: Path, client: Board, *,
                 wait_s: float = _WAIT_S, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._mode, self._clocks, self._state, self._board = nvpmodel, jetson_clocks, state, client
        self._wait_s, self._clock, self._sleep = wait_s, clock, sleep

    def apply(self) -> list[str]:
        """Set what is configured, and put back what a former start set and this config leaves alone.

        Returns:
            What was changed, in words; empty when all was so already.

        Raises:
            ActuatorError: the board cannot be asked, does not know the mode, or does not follow; or the state file
                cannot be written or understood. What was remembered stays remembered.
        """
        memory = self._remembered()
        if memory is None and self._mode is None and self._clocks is None:
            return []
        now = self._settings()
        memory = memory or Memory()
        self._check(now)
        changed = self._put_back(memory, now, mode=self._mode is None, clocks=self._clocks is None)
        wanted = Memory(
            nvpmodel=None if self._mode is None else memory.nvpmodel or now.nvpmodel,
            jetson_clocks=None if self._clocks is None else _first(memory.jetson_clocks, now.jetson_clocks),
            set_nvpmodel=self._mode, set_jetson_clocks=self._clocks)
        self._remember(wanted if wanted != Memory() else None)
        if self._mode is not None:
            changed += self._set_mode(self._mode)
        if self._clocks is not None:
            changed += self._set_clocks(self._clocks)
        return changed

    def restore(self) -> list[str]:
        """Put back what was before, and forget it. What somebody else has changed since is left as they want it.

        Returns:
            What was changed or left alone, in words; empty when there was nothing to put back.

        Raises:
            ActuatorError: the board cannot be asked or does not follow; what is to be put back stays remembered.
        """
        memory = self._remembered()
        if memory is None:
            return []
        changed = self._put_back(memory, self._settings(), mode=True, clocks=True)
        self._remember(None)
        return changed

    def _put_back(self, memory: Memory, now: "Settings", *, mode: bool, clocks: bool) -> list[str]:
        changed: list[str] = []
        if clocks and memory.jetson_clocks is not None:
            if now.jetson_clocks not in {memory.jetson_clocks, memory.set_jetson_clocks}:
                changed.append("jetson_clocks cannot be told any more: left alone")
            else:
                changed += self._set_clocks(memory.jetson_clocks)
        if mode and memory.nvpmodel is not None:
            if now.nvpmodel not in {memory.nvpmodel, memory.set_nvpmodel}:
                changed.append(f"the power mode is {now.nvpmodel} now, neither the one set ({memory.set_nvpmodel}) nor "
                               f"the former ({memory.nvpmodel}): left alone")
            else:
                changed += self._set_mode(memory.nvpmodel)
        return changed

    def _check(self, now: "Settings") -> None:
        if self._clocks is not None and now.jetson_clocks is None:
            raise ActuatorError("jtop knows no jetson_clocks on this board",
                                "take jetson_clocks out of [budget], or install NVIDIA's tool (nvidia-l4t-tools)")
        if self._mode is not None:
            self._check_mode(self._mode, now)

    def _check_mode(self, wanted: str, now: "Settings") -> None:
        if now.nvpmodel is None:
            raise ActuatorError("jtop knows no power modes on this board",
                                "take nvpmodel out of [budget], or install NVIDIA's tool (nvidia-l4t-nvpmodel)")
        if wanted not in now.modes:
            raise ActuatorError(f"this board has no power mode {wanted!r}",
                                f"set [budget] nvpmodel to one of: {', '.join(now.modes)}")
        number = now.modes.index(wanted)
        if wanted != now.nvpmodel and now.reachable[number:number + 1] == (False,):
            raise ActuatorError(f"the power mode {wanted} needs a reboot from {now.nvpmodel}, or was refused before",
                                f"set it by hand: `sudo nvpmodel -m {number}`, and let the board reboot")

    def _set_mode(self, wanted: str) -> list[str]:
        before = self._settings()
        if before.nvpmodel == wanted and not before.changing:
            return []
        self._check_mode(wanted, before)
        now = self._until(_MODE, lambda: self._board.set_nvpmodel(wanted),
                          lambda seen: seen.nvpmodel == wanted, lambda seen: seen.changing)
        if now is None or now.nvpmodel != wanted:
            raise ActuatorError(f"the power mode did not become {wanted} within {self._wait_s:g} s; it is "
                                f"{now.nvpmodel if now else 'unknown'}",
                                "see `journalctl -u jtop` and try `sudo nvpmodel -m NUMBER` by hand")
        return [f"power mode {before.nvpmodel} -> {wanted}"]

    def _set_clocks(self, wanted: bool) -> list[str]:
        before = self._settings()
        if before.jetson_clocks == wanted and before.clocks_state not in _BUSY:
            return []
        if before.clocks_state == "uncontrolled":
            raise ActuatorError("jetson_clocks was switched on outside jtop, which cannot switch it",
                                "`sudo jetson_clocks --restore`, or reboot")
        now = self._until(_CLOCKS, lambda: self._board.set_jetson_clocks(wanted),
                          lambda seen: seen.jetson_clocks == wanted, lambda seen: seen.clocks_state in _BUSY)
        if now is None or now.jetson_clocks != wanted:
            raise ActuatorError(f"jetson_clocks did not go {_word(wanted)} within {self._wait_s:g} s; jtop calls it "
                                f"{now.clocks_state if now else 'unknown'}",
                                "see `journalctl -u jtop`; jtop leaves it alone for a minute after the boot")
        return [f"jetson_clocks {_word(not wanted)} -> {_word(wanted)}"]

    def _until(self, what: str, order: Callable[[], str], done: "Callable[[Settings], bool]",
               busy: "Callable[[Settings], bool]") -> "Settings | None":
        """Give the order once the board is not busy; return the settings when it is done, or the last ones seen."""
        deadline = self._clock() + self._wait_s
        ordered, now = False, self._board.settings()
        while True:
            if now is not None and not busy(now):
                if done(now):
                    return now
                if not ordered:  # jtop drops orders while it is busy
                    trouble = order()
                    if trouble:
                        raise ActuatorError(f"{what} cannot be set: {trouble}")
                    ordered = True
            if self._clock() >= deadline:
                return now
            self._sleep(_POLL_S)
            now = self._board.settings()

    def _settings(self) -> "Settings":
        deadline = self._clock() + self._wait_s
        while True:
            now = self._board.settings()
            if now is not None:
                return now
            if self._clock() >= deadline:
                raise ActuatorError("the board cannot be set: jtop does not answer", self._board.trouble
                                    or "`sudo systemctl restart jtop`")
            self._sleep(_POLL_S)

    def _remembered(self) -> Memory | None:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=Memory)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise ActuatorError(f"what the board was set to before cannot be read from {self._state}: {error}",
                                "set the board as you want it and remove that file") from error

    def _remember(self, memory: Memory | None) -> None:
        try:
            if memory is not None:
                write_atomic(self._state, msgspec.json.encode(memory) + b"\n")
            elif self._state.exists():
                self._state.unlink()
                fsync_dir(self._state.parent)
        except OSError as error:
            raise ActuatorError(f"what the board was set to before cannot be kept in {self._state}: {error}",
                                "make room or mend the permissions; nothing is changed without it") from error


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _word(on: bool) -> str:
    return "on" if on else "off"
