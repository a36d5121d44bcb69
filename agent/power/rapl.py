"""Power of an x86 processor from the energy counters that the kernel shows: Documentation/power/powercap/powercap.rst.

It is the power of the processor packages, not of the machine: memory, disks and cameras are not in it. Only where the
firmware offers ``psys`` is it the whole platform. Since 2020 (CVE-2020-8694) only root may read the counters.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.power.files import SensorFile, Zones, distinct, hottest, hwmon_folders, line, thermal_zones, unused
from agent.power.telemetry import NoSensorsError, Reading

_TOP = re.compile(r"intel-rapl:\d+\Z")  # those of a part of a package have one number more
_MOST_MICROJOULES = 2**63 - 1
# More than any package takes. A figure above it is a counter that was set back, not power.
_MOST_WATTS = 2000.0
# The counters move about once a millisecond: over less than this the figure would be mostly noise.
_SHORTEST_S = 0.05
_REMEDY = ("as root: `chmod o+r /sys/class/powercap/intel-rapl:*/energy_uj`, and for good a udev rule: "
           'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod o+r /sys%p/energy_uj"; '
           "it lets every user of the machine see its power")


@dataclass(slots=True, kw_only=True)
class _Package:
    """One energy counter, microjoules, and what it said when it was last read."""

    energy: SensorFile
    span: SensorFile
    before: tuple[float, int] | None = None

    def watts(self, now_s: float) -> tuple[float | None, str]:
        """Return the mean power since the last look, or None and why."""
        microjoules = self.energy.read(0, _MOST_MICROJOULES)
        before, self.before = self.before, None
        if microjoules is None:
            return None, self.energy.why
        self.before = now_s, microjoules
        if before is None or now_s <= before[0]:
            return None, "power is the mean between two readings, and this is the first"
        passed, used = now_s - before[0], microjoules - before[1]
        span = self.span.read(1, _MOST_MICROJOULES)
        if span is None:
            return None, self.span.why
        if passed > span / 1e6 / _MOST_WATTS:
            return None, f"{self.energy.path} may have wrapped more than once in {passed:.0f} s"
        watts = (used if used >= 0 else used + span) / 1e6 / passed
        if not 0 <= watts <= _MOST_WATTS:
            return None, f"{self.energy.path} was set back"
        return watts, ""


class RaplTelemetry:
    """Reads the processor's energy counters; watts are the mean since the sample before, so the first has none.

    Args:
        root: The folder that stands for ``/sys``.
        clock: Seconds, monotonic.

    Attributes:
        name: ``rapl``.

    Raises:
        NoSensorsError: there are no counters, or they may not be read.
    """

    name = "rapl"

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        folders = [folder for folder in distinct(root, ("class/powercap/intel-rapl:*",)) if _TOP.match(folder.name)]
        if not folders:
            raise NoSensorsError(f"there are no energy counters under {root / 'class/powercap'}",
                                 "load the kernel module intel_rapl_msr; in a virtual machine there are mostly none")
        named = [(line(folder / "name") or folder.name, folder) for folder in folders]
        platform = [pair for pair in named if pair[0] == "psys"]
        self._measures = "platform" if platform else "CPU packages"
        self._packages: dict[str, _Package] = {}
        for name, folder in platform or named:
            self._packages[unused(name, self._packages, folder.name)] = _Package(
                energy=SensorFile(folder / "energy_uj"), span=SensorFile(folder / "max_energy_range_uj"))
        self._zones = Zones(_temperatures(root))
        whys = [package.energy.why for package in self._packages.values()
                if package.energy.read(0, _MOST_MICROJOULES) is None]
        if len(whys) == len(self._packages):
            self.close()
            raise NoSensorsError(f"no energy counter of the processor can be read: {whys[0]}", _REMEDY)
        self._last: Reading | None = None

    def sample(self) -> Reading:
        """Return the newest reading: the same once more when the last is less than 50 ms old."""
        now = self._clock()
        if self._last and 0 <= now - self._last.at_s < _SHORTEST_S:
            return self._last
        troubles: list[str] = []
        rails: dict[str, float] = {}
        for name, package in self._packages.items():
            watts, why = package.watts(self._clock())
            if watts is not None:
                rails[name] = watts
            else:
                troubles.append(f"{name}: {why}")
        zones = self._zones.sample(troubles)
        celsius, hot = hottest(zones)
        if celsius is None:
            troubles.append("no sensor tells the processor's temperature")
        whole = len(rails) == len(self._packages)
        self._last = Reading(at_s=now, watts=sum(rails.values()) if whole else None, measures=self._measures,
                             rails=rails, celsius=celsius, hottest=hot, zones=zones, trouble="; ".join(troubles))
        return self._last

    def close(self) -> None:
        """Let go of all open files."""
        self._zones.close()
        for package in self._packages.values():
            package.energy.close()
            package.span.close()


def _temperatures(root: Path) -> list[tuple[str, SensorFile]]:
    """Return the processor's temperatures: its thermal zones, else what its sensor chip tells."""
    zones = [(name, file) for name, file in thermal_zones(root) if name == "x86_pkg_temp"]
    return zones or [
        (f"{chip} {line(path.with_name(path.name.replace('_input', '_label'))) or path.name.split('_')[0]}",
         SensorFile(path))
        for chip, folder in hwmon_folders(root) if chip in {"coretemp", "k10temp"}
        for path in distinct(folder, ("temp[0-9]*_input",))]
