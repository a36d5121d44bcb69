"""Which reader of sensors is used: the one that is wanted, or the first of those that are there.

Each reader is imported when it is opened: a board with jtop needs no NVML.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent import machine
from agent.errors import ConfigError
from agent.power.telemetry import NoSensorsError, Reading, Telemetry

KINDS = ("jtop", "sysfs", "nvml", "rapl")
"""What can be asked for by name, in the order in which ``auto`` tries them."""
Open = Callable[[], Telemetry]

# A reader that was not there when it was needed is looked for again this often.
_LOOK_AGAIN_S = 30.0


class Unknown:
    """No sensors: every reading is unknown, for the same reason."""

    def __init__(self, why: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._why, self._clock = why, clock

    @property
    def name(self) -> str:
        """``none``."""
        return "none"

    def sample(self) -> Reading:
        """Return a reading of nothing, with the reason."""
        return Reading(at_s=self._clock(), trouble=self._why)

    def close(self) -> None:
        """Nothing was opened."""


class Awaited(Unknown):
    """A reader that is not there yet: looked for again every half minute, unknown until it comes.

    A driver that is loaded late, or a service that starts after us, must not keep the cameras from being looked at.

    Args:
        opening: Opens it.
        why: Says why it is not there, from what ``opening`` raised.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, opening: Open, why: Callable[[NoSensorsError], str],
                 clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__("", clock)
        self._opening, self._words = opening, why
        self._telemetry: Telemetry | None = None
        self._looked_s = -_LOOK_AGAIN_S
        self._look()

    @property
    def name(self) -> str:
        """Its name with its version; ``none`` until it comes."""
        return self._telemetry.name if self._telemetry else super().name

    @property
    def stands_in(self) -> bool:
        """The last reading is of a stand-in, see :class:`Chosen`."""
        return bool(getattr(self._telemetry, "stands_in", False))

    def sample(self) -> Reading:
        """Return its reading; while it is not there, one of nothing, with the reason and what mends it."""
        if self._telemetry is None and self._clock() - self._looked_s >= _LOOK_AGAIN_S:
            self._look()
        return self._telemetry.sample() if self._telemetry else super().sample()

    def close(self) -> None:
        """Close it, if it came; a second call does nothing."""
        if self._telemetry:
            self._telemetry.close()
            self._telemetry, self._why = None, "the sensors were let go"
        self._looked_s = math.inf

    def _look(self) -> None:
        self._looked_s = self._clock()
        try:
            self._telemetry = self._opening()
        except NoSensorsError as error:
            self._why = f"{self._words(error)}; looked for again every {_LOOK_AGAIN_S:.0f} s"


class Chosen:
    """The first reader that is there; those after it stand in while it gives neither power nor temperature.

    A stand-in may measure something else (the GPU instead of the board): ``Reading.measures`` says so, and so does
    ``trouble``, which begins with that of the first. A stand-in is open only while it is needed: one that counts
    energy would otherwise come back with the mean of all the time in which nobody asked it.

    Args:
        candidates: Kind and how it is opened, the most wanted first. Those before the first that is there are dropped.
        clock: Monotonic clock, seconds.

    Raises:
        NoSensorsError: None is there; it says why each is not.
    """

    def __init__(self, candidates: Sequence[tuple[str, Open]], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        why = []
        for place, (kind, opening) in enumerate(candidates):
            try:
                first = _Candidate(kind, opening, opening())
            except NoSensorsError as error:
                why.append(f"{kind}: {error.what}")
                continue
            later = [candidate for candidate in candidates[place + 1:] if candidate[0] != kind]
            self._candidates = [first, *(_Candidate(*candidate) for candidate in later)]
            self._used = first
            return
        raise NoSensorsError("; ".join(dict.fromkeys(why)) or "there is nothing to choose from",
                             "set [budget] telemetry")

    @property
    def name(self) -> str:
        """Which one gave the last reading, with its version."""
        return self._used.telemetry.name if self._used.telemetry else "none"

    @property
    def kind(self) -> str:
        """Which of :data:`KINDS` gave the last reading."""
        return self._used.kind

    @property
    def stands_in(self) -> bool:
        """The last reading is not of the most wanted."""
        return self._used is not self._candidates[0]

    def sample(self) -> Reading:
        """Return the newest reading of the first that says anything; of the first of all where none does."""
        trouble: list[str] = []
        wanted = self._candidates[0]
        silent: Reading | None = None
        for candidate in self._candidates:
            telemetry = candidate.opened(self._clock)
            if telemetry is None:
                continue
            reading = telemetry.sample()
            if reading.watts is not None or reading.celsius is not None:
                self._use(candidate)
                if trouble:
                    trouble.append(f"{candidate.kind} stands in for {wanted.kind}")
                    reading = replace(reading, trouble="; ".join([*trouble, *filter(None, [reading.trouble])]))
                return reading
            silent = silent or reading
            trouble.append(f"{candidate.kind}: {reading.trouble or 'neither power nor temperature'}")
        self._used = wanted
        assert silent  # the first is open as long as this is
        return replace(silent, trouble="; ".join(trouble))

    def close(self) -> None:
        """Close all that were opened."""
        for candidate in self._candidates:
            candidate.close()

    def _use(self, used: "_Candidate") -> None:
        self._used = used
        for later in self._candidates[self._candidates.index(used) + 1:]:
            later.close()


class _Candidate:
    """A reader that may not be open yet."""

    def __init__(self, kind: str, opening: Open, telemetry: Telemetry | None = None) -> None:
        self.kind, self.telemetry = kind, telemetry
        self._opening = opening
        self._looked_s: float | None = None

    def opened(self, clock: Callable[[], float]) -> Telemetry | None:
        """Return it, opened; None while it is not there."""
        now = clock()
        if self.telemetry is None and (self._looked_s is None or now - self._looked_s >= _LOOK_AGAIN_S):
            self._looked_s = now
            try:
                self.telemetry = self._opening()
            except NoSensorsError:
                return None
        return self.telemetry

    def close(self) -> None:
        if self.telemetry:
            self.telemetry.close()
            self.telemetry = self._looked_s = None


def open_telemetry(wanted: str, sysfs: Path, *, root: Path = machine.ROOT,
                   openers: Mapping[str, Open] | None = None, wait: bool = False,
                   clock: Callable[[], float] = time.monotonic) -> Telemetry:
    """Return the reader that ``[budget] telemetry`` asks for.

    ``auto`` asks, in this order: jtop where its service runs; the files below ``sysfs`` where they give power, or
    temperatures on a Jetson; NVML; RAPL; the temperatures below ``sysfs``. See :class:`Chosen`.

    Args:
        wanted: One of :data:`KINDS`, ``auto`` or ``off``.
        sysfs: Stands for ``/sys``.
        root: Stands for ``/``, where jtop's socket and what the machine is are looked for.
        openers: Stand for the readers, by kind.
        wait: Give an :class:`Awaited` for what is not there now: what runs for months must not end because of that.
        clock: Monotonic clock, seconds.

    Raises:
        ConfigError: There is no reader of that name; or, without ``wait``, there is nothing for it to read.
    """
    opening = openers or {"jtop": _jtop, "sysfs": partial(_sysfs, sysfs), "nvml": _nvml, "rapl": partial(_rapl, sysfs)}
    if wanted == "off":
        return Unknown("telemetry is off")
    if wanted == "auto":
        def choose() -> Telemetry:
            return Chosen(_candidates(opening, root), clock)

        return _or_else(choose, lambda error: f"no sensors here ({error.what})", clock, wait=wait)
    if wanted not in opening:
        raise ConfigError(f"[budget] telemetry = {wanted!r} is no reader of sensors",
                          f"use one of auto, off, {', '.join(KINDS)}")
    if wait:
        return _or_else(opening[wanted], lambda error: "; ".join(filter(None, [
            f"[budget] telemetry = {wanted!r}: {error.what}", error.remedy])), clock, wait=True)
    try:
        return opening[wanted]()
    except NoSensorsError as error:
        also = 'set [budget] telemetry = "auto" to use what there is'
        raise ConfigError(f"[budget] telemetry = {wanted!r}: {error.what}",
                          f"{error.remedy}, or {also}" if error.remedy else also) from error


def _or_else(opening: Open, why: Callable[[NoSensorsError], str], clock: Callable[[], float], *, wait: bool
             ) -> Telemetry:
    """Return what is opened; where it is not there, what is unknown, for good or until it comes."""
    try:
        return opening()
    except NoSensorsError as error:
        return Awaited(opening, why, clock) if wait else Unknown(why(error), clock)


def _candidates(openers: Mapping[str, Open], root: Path) -> list[tuple[str, Open]]:
    def jtop() -> Telemetry:
        # Looked at first: its client's import is slow, and AGPL code stays out where it is of no use.
        if not (root / "run/jtop.sock").exists():
            raise NoSensorsError("its service does not run (there is no /run/jtop.sock)")
        return openers["jtop"]()

    def board() -> Telemetry:
        telemetry = openers["sysfs"]()
        # A board whose rails tell nothing at this moment is still the board.
        if getattr(telemetry, "has_power", False) or (machine.is_jetson(root) and telemetry.sample().zones):
            return telemetry
        telemetry.close()
        raise NoSensorsError("no power rail, and no Jetson's temperatures")

    return [("jtop", jtop), ("sysfs", board), ("nvml", openers["nvml"]), ("rapl", openers["rapl"]),
            ("sysfs", openers["sysfs"])]


def _jtop() -> Telemetry:
    from agent.power.jtop import JtopTelemetry  # noqa: PLC0415 -- only what is used is imported

    return JtopTelemetry()


def _sysfs(folder: Path) -> Telemetry:
    from agent.power.sysfs import SysfsTelemetry  # noqa: PLC0415 -- only what is used is imported

    return SysfsTelemetry(folder)


def _nvml() -> Telemetry:
    from agent.power.nvml import NvmlTelemetry  # noqa: PLC0415 -- only what is used is imported

    return NvmlTelemetry()


def _rapl(folder: Path) -> Telemetry:
    from agent.power.rapl import RaplTelemetry  # noqa: PLC0415 -- only what is used is imported

    return RaplTelemetry(folder)
