"""The seam to the sensors of the board: what it takes, how hot it is, whether it holds itself back.

A reading says only what a sensor said. What is missing, stale, offline or out of all reason is None, and ``trouble``
says why: never 0, never -256, never the value of a minute ago.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.errors import AgentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The sensors at one moment.

    Attributes:
        at_s: When these values were true, seconds of the monotonic clock.
        watts: Power, watts; None = unknown.
        measures: What the power is of: ``VDD_IN``, ``sum of 4 rails``, ``GPU``, ``CPU packages``. Readings of which it
            differs cannot be compared.
        rails: Each rail's power, watts; those that are offline or tell nothing are left out.
        celsius: The hottest zone, degrees Celsius; None = unknown.
        hottest: Its name.
        zones: Each zone's temperature, degrees Celsius; offline ones are left out.
        gpu_load: Share of time the GPU worked, 0..1; None = unknown, or no GPU.
        alarms: What the board complains of now, in words: over-current, throttling by temperature.
        events: Counters the kernel keeps of such things, by name, since the boot.
        trouble: Why something that should be known is not, in words; empty when nothing is amiss.
    """

    at_s: float
    watts: float | None = None
    measures: str = ""
    rails: Mapping[str, float] = field(default_factory=dict)
    celsius: float | None = None
    hottest: str = ""
    zones: Mapping[str, float] = field(default_factory=dict)
    gpu_load: float | None = None
    alarms: tuple[str, ...] = ()
    events: Mapping[str, int] = field(default_factory=dict)
    trouble: str = ""


class Telemetry(Protocol):
    """Sensors that are there. One thread uses it."""

    @property
    def name(self) -> str:
        """What is asked, with its version: ``jtop 7.2.2``, ``sysfs``, ``nvml 580.1``, ``rapl``."""
        ...

    def sample(self) -> Reading:
        """Return the newest reading; takes milliseconds, never waits for a next one, never raises for a sensor."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


class NoSensorsError(AgentError):
    """There is nothing of this kind to read here."""
