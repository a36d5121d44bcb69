"""What the service of jetson-stats (``jtop``) says of a Jetson: rails, zones, GPU load, power mode.

Optional: :mod:`agent.power.sysfs` reads the same sensors without it. What jtop adds up is added up here anew, from the
rails that the sysfs reader takes too: jtop's own sum has offline rails and batteries in it.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from agent.backoff import FullJitter
from agent.clock import boottime
from agent.errors import missing_extra
from agent.power.jtop_client import Link
from agent.power.telemetry import NoSensorsError, Reading

# What jtop puts up as its total where it is there: the rail that feeds the whole module (core/power.py of 4.3 and 7.2).
_TOTALS = ("VIN", "POM_5V_IN", "VDD_IN")
# Beyond these no chip works and no Jetson draws (Thor: 130 W): what says so is offline or broken.
_COLDEST, _HOTTEST = -40.0, 150.0
_MOST_WATTS = 1000.0
_STALE_INTERVALS = 3
_BACKOFF_S = (1.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What of the board can be set through jtop, as it is now.

    Attributes:
        nvpmodel: Name of the power mode; None = there is none, or it cannot be told.
        modes: Names of all modes, by their number.
        reachable: For each mode, whether it can be set without a reboot and was not refused before.
        changing: A change of the mode is under way.
        jetson_clocks: Whether it is on; None = there is none.
        clocks_state: jtop's word for it: ``inactive``, ``running``, ``booting``, ``activating``, ``deactivating``,
            ``uncontrolled``.
    """

    nvpmodel: str | None
    modes: tuple[str, ...]
    reachable: tuple[bool, ...]
    changing: bool
    jetson_clocks: bool | None
    clocks_state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the client held at one moment: jtop's own dictionaries, and when the service took them (monotonic)."""

    at_s: float
    power: Any
    temperature: Any
    gpu: Any


class JtopTelemetry:
    """The service's newest sample. Two daemon threads belong to it; :meth:`sample` only looks at what they left.

    A connection that breaks is made again, 1 to 30 seconds apart. A time namespace that shifts the boot clock makes
    all samples look old, so they are unknown there.

    Args:
        interval_s: How often the service is asked to sample, seconds. Another client may have it at its own pace.
        there: Tells whether the package is installed.
        connect: Makes a connection.
        clock: Monotonic clock, seconds.

    Raises:
        NoSensorsError: the package jetson-stats is not installed.
    """

    def __init__(self, interval_s: float = 0.5, *, there: Callable[[], bool] = lambda: find_spec("jtop") is not None,
                 connect: Callable[[float, Callable[[Any], None]], Link] = Link,
                 clock: Callable[[], float] = time.monotonic) -> None:
        if not there():
            raise NoSensorsError("the package jetson-stats is not installed", missing_extra("jetson"))
        self._interval_s, self._connect, self._clock = interval_s, connect, clock
        self._waits = FullJitter(*_BACKOFF_S)
        self._newest: Sample | None = None
        self._rails: set[str] = set()
        self._trouble = ""
        self._again_s = math.inf
        self._version = ""
        self._link: Link | None = connect(interval_s, self._take)

    @property
    def name(self) -> str:
        """``jtop`` and the client's version; without it until the first connection."""
        return f"jtop {self._version}".rstrip()

    @property
    def trouble(self) -> str:
        """Why the last connection came to nothing, and how to mend it; empty while there is one."""
        return self._trouble

    def sample(self) -> Reading:
        """Return the newest reading; all is unknown when it is older than three intervals."""
        now = self._clock()
        self._tend(now)
        newest = self._newest
        if newest is not None and now - newest.at_s <= self._limit_s():
            reading = reading_of(newest, self._rails)
            self._rails |= reading.rails.keys()
            return reading
        if self._trouble:
            return Reading(at_s=now, trouble=self._trouble)
        since = newest.at_s if newest is not None else self._link.began_s if self._link else now
        return Reading(at_s=now, trouble=f"jtop gave nothing for {now - since:.1f} s")

    def settings(self) -> Settings | None:
        """Return what can be set and how it is set now; None without a fresh sample."""
        now = self._clock()
        self._tend(now)
        newest, client = self._newest, self._link.client if self._link else None
        if newest is None or client is None or now - newest.at_s > self._limit_s():
            return None
        return settings_of(client)

    def set_nvpmodel(self, mode: str) -> str:
        """Send the wish for a power mode; return what went wrong with the sending, empty when nothing did."""
        return self._order(lambda client: client.nvpmodel.set_nvpmodel_name(mode))

    def set_jetson_clocks(self, on: bool) -> str:
        """Send the wish for jetson_clocks; return what went wrong with the sending, empty when nothing did."""
        return self._order(lambda client: client.jetson_clocks.set_enable(on))

    def close(self) -> None:
        """Let the connection go; does not wait for its threads."""
        if self._link is not None:
            self._link.close()
        self._link, self._newest, self._trouble, self._again_s = None, None, "jtop was let go", math.inf

    def _order(self, give: Callable[[Any], None]) -> str:
        return self._link.order(give) if self._link is not None else self._trouble or "jtop is not connected"

    def _limit_s(self) -> float:
        """Three intervals, of the service's pace where another client has it go slower."""
        client = self._link.client if self._link else None
        pace = number(getattr(client, "interval", None)) if client is not None else None
        return _STALE_INTERVALS * max(self._interval_s, pace or 0.0)

    def _take(self, client: Any) -> None:
        """Keep what the client holds; called in its reader's thread, which an exception would end."""
        up = _field(client, "uptime")
        age = boottime() - up.total_seconds() if hasattr(up, "total_seconds") else 0.0
        items = _field(_field(client, "gpu"), "items")
        self._newest = Sample(at_s=self._clock() - max(0.0, age), power=_field(client, "power"),
                              temperature=_field(client, "temperature"), gpu=dict(items()) if items else {})

    def _tend(self, now: float) -> None:
        """Notice a connection's end; begin a new one when it is time."""
        if self._link is not None:
            self._version = self._link.version or self._version
            why = self._link.ended()
            if why:
                if now - self._link.began_s > _BACKOFF_S[1]:
                    self._waits.reset()
                self._link.close()
                self._link, self._trouble, self._again_s = None, why, now + self._waits.next()
            elif self._link.client is not None:
                self._trouble = ""
        elif now >= self._again_s:
            self._link = self._connect(self._interval_s, self._take)


def settings_of(client: Any) -> Settings:
    """Return the settings that a client holds; asks the service nothing."""
    mode, clocks = _field(client, "nvpmodel"), _field(client, "jetson_clocks")
    name = _field(mode, "name")
    return Settings(nvpmodel=name if isinstance(name, str) else None,
                    modes=tuple(_field(mode, "models") or ()),
                    reachable=tuple(value is not False for value in _field(mode, "status") or ()),
                    changing=mode is not None and bool(mode.is_running()),
                    jetson_clocks=None if clocks is None else bool(clocks),
                    clocks_state=str(_field(clocks, "status") or ""))


def reading_of(sample: Sample, known: Collection[str] = ()) -> Reading:
    """Return a sample as a reading: offline sensors and numbers that cannot be are left out.

    Args:
        sample: As the client had it.
        known: Rails that told something before; a sum that lacks one of them is unknown.
    """
    entries, main = _entries(sample.power)
    rails = {rail: watts for rail, entry in sorted(entries.items()) if (watts := _watts(entry)) is not None}
    lost = sorted(set(known) - rails.keys())
    troubles = [f"jtop tells nothing of the rail {rail} any more" for rail in lost]
    if main:
        watts, measures = rails.get(main), main
    else:
        count = len(rails) + len(lost)
        watts = sum(rails.values()) if rails and not lost else None
        measures = f"sum of {count} rail{'s' if count > 1 else ''}" if count else ""
    zones = _zones(sample.temperature)
    hottest = max(zones, key=lambda name: zones[name], default="")
    if watts is None and main not in lost and (main or not lost):
        troubles.append("jtop knows no power of this board")
    if not zones:
        troubles.append("jtop knows no temperature of this board")
    return Reading(at_s=sample.at_s, watts=watts, measures=measures, rails=rails, celsius=zones.get(hottest),
                   hottest=hottest, zones=zones, gpu_load=_load(sample.gpu), trouble="; ".join(troubles))


def _entries(power: Any) -> tuple[dict[str, Any], str]:
    """Return all rails, and the name of the one that is the total; empty where jtop adds them up."""
    entries = {str(name): entry for name, entry in _mapping(_mapping(power).get("rail")).items()}
    total = _mapping(_mapping(power).get("tot"))
    name = total.get("name")
    if isinstance(name, str):
        entries[name] = total
        return entries, name
    return entries, next((known for known in _TOTALS if known in entries), "")


def _watts(entry: Any) -> float | None:
    """Return a rail's watts; jtop gives milliwatts, and 0 of 0 volts for a channel that nothing is connected to."""
    values = _mapping(entry)
    # Batteries and chargers stand among jtop's rails by the kind the kernel gives them; they feed the rails.
    if values.get("online") is False or values.get("volt") == 0 or not str(values.get("type", "INA")).startswith("INA"):
        return None
    milliwatts = number(values.get("power"))
    return milliwatts / 1000 if milliwatts is not None and 0 <= milliwatts <= _MOST_WATTS * 1000 else None


def _zones(temperature: Any) -> dict[str, float]:
    zones = {}
    for name, entry in _mapping(temperature).items():
        # Sensors of other devices (a disk, a network card) come with limits of their own; zones have none in jtop.
        if isinstance(entry, Mapping) and ("max" in entry or "crit" in entry or entry.get("online") is False):
            continue
        celsius = number(entry.get("temp") if isinstance(entry, Mapping) else entry)
        if celsius is not None and _COLDEST <= celsius <= _HOTTEST:
            zones[str(name)] = celsius
    return zones


def _load(gpu: Any) -> float | None:
    """Return the load of the busiest GPU, 0..1; jtop gives percent."""
    loads = [number(_mapping(_mapping(entry).get("status")).get("load")) for entry in _mapping(gpu).values()]
    return max((load / 100 for load in loads if load is not None and 0 <= load <= 100), default=None)


def number(value: Any) -> float | None:
    """Return ``value`` as a float; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _field(client: Any, name: str) -> Any:
    """Return a field of the client; None where this board, or this release, has none."""
    try:
        return getattr(client, name)
    except (AttributeError, LookupError, TypeError):
        return None
