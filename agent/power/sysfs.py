"""The sensors of a Jetson from the kernel's own files: power rails, thermal zones, GPU load, alarms; needs no service.

Power comes from the INA3221 chips (``in*_input`` mV times ``curr*_input`` mA) and, on Thor, the INA238
(``power1_input`` microwatts): Documentation/hwmon/ina3221.rst and ina238.rst of the kernel. The total is the rail that
feeds the whole module or board where there is one, else the sum of all rails, which lacks what no rail measures and is
named as a sum. A sum of which one rail tells nothing is no sum: then the total is unknown.

All files are found once, when this starts, and kept open.
"""

import math
import re
import time
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from pathlib import Path

from agent.power.files import SensorFile, Zones, distinct, hottest, hwmon_folders, line, summed, thermal_zones, unused
from agent.power.telemetry import NoSensorsError, Reading

_TOTALS = ("VIN", "VDD_IN", "POM_5V_IN")
# Far above any board this runs on (an INA238 measures 85 V at most, a Thor takes 130 W): what says more is broken.
_MOST_MILLIVOLTS, _MOST_MILLIAMPERES, _MOST_MICROWATTS = 100_000, 100_000, 2_000_000_000
_MOST_EVENTS = 2**63 - 1
_CURRENT = re.compile(r"curr([123])_input\Z")  # in4 to in6 are shunt voltages, in7 and curr4 the chip's own sums
_ALARMS = (("curr{n}_max_alarm", "current above its warning limit"),
           ("curr{n}_crit_alarm", "current above its critical limit"),
           ("power{n}_max_alarm", "power above its limit"))
# Of NVIDIA's guide, "Platform Power and Performance", for Orin: what makes each of the chip's counters rise.
_THROTTLED = "core_throttle_count"
_COUNTED = {"oc1_event_cnt": "under-voltage", "oc2_event_cnt": "average over-current",
            "oc3_event_cnt": "instantaneous over-current", _THROTTLED: "throttling by temperature"}
_GPU = re.compile(r"gpu|\.g[a-z]1[0-9]b\Z|\.gm20b\Z")
# A driver that is loaded anew gets another number, so files that vanished are looked for again, this often.
_RESCAN_S = 10.0
_RESCAN_WITHOUT_RAILS_S = 30.0  # their driver may be loaded late; on most machines it never is


@dataclass(slots=True, kw_only=True)
class _Rail:
    """One channel: either ``power``, microwatts, or ``volts`` and ``amps``, thousandths."""

    power: SensorFile | None
    volts: SensorFile | None
    amps: SensorFile | None
    alarms: list[tuple[SensorFile, str]]
    was_on: bool = False

    def files(self) -> list[SensorFile]:
        """Return all files of this rail."""
        return [file for file in (self.power, self.volts, self.amps) if file] + [file for file, _ in self.alarms]

    def watts(self) -> tuple[float | None, str]:
        """Return watts, or None and why; None without a reason for a rail that never showed a voltage."""
        if self.power is not None:
            value = self.power.read(0, _MOST_MICROWATTS)
            return (None, self.power.why) if value is None else (value / 1e6, "")
        assert self.volts
        assert self.amps
        millivolts = self.volts.read(0, _MOST_MILLIVOLTS)
        if millivolts is None:
            return None, self.volts.why
        if not millivolts:
            return None, f"{self.volts.path} shows no voltage any more" if self.was_on else ""
        self.was_on = True
        milliamperes = self.amps.read(0, _MOST_MILLIAMPERES)
        return (None, self.amps.why) if milliamperes is None else (millivolts * milliamperes / 1e6, "")


@dataclass(slots=True, kw_only=True)
class _Found:
    """All there is to read."""

    rails: dict[str, _Rail]
    zones: Zones
    gpu: SensorFile | None
    counters: dict[str, list[SensorFile]]
    brakes: list[tuple[str, SensorFile]]

    def gone(self) -> bool:
        """Whether the last look at one of them found no such file."""
        return self.zones.gone or any(file.gone for file in self._files())

    def close(self) -> None:
        """Let go of all open files."""
        self.zones.close()
        for file in self._files():
            file.close()

    def _files(self) -> list[SensorFile]:
        return [file for files in (*(rail.files() for rail in self.rails.values()), *self.counters.values(),
                                   [file for _, file in self.brakes], [self.gpu] if self.gpu else [])
                for file in files]


class SysfsTelemetry:
    """Reads the sensors of this board from the kernel's files.

    Args:
        root: The folder that stands for ``/sys``.
        proc: The folder that stands for ``/proc``; its device tree tells what an unnamed INA238 measures.
        clock: Seconds, monotonic.

    Attributes:
        name: ``sysfs``.

    Raises:
        NoSensorsError: there is no rail, no thermal zone and no GPU load to read.
    """

    name = "sysfs"

    def __init__(self, root: Path, proc: Path = Path("/proc"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._proc, self._clock = root, proc, clock
        self._found = _find(root, proc)
        if not (self._found.rails or self._found.zones or self._found.gpu):
            raise NoSensorsError(f"there is no power rail, no thermal zone and no GPU load under {root}",
                                 "set [budget] sysfs to where the kernel's sensors are, or telemetry to another kind")
        self._scanned_at = clock()
        self._events = self._counts([])

    @property
    def has_power(self) -> bool:
        """There are power rails; without, this knows temperatures only."""
        return bool(self._found.rails)

    def sample(self) -> Reading:
        """Return what the sensors say now; takes well below a millisecond and never raises for a sensor."""
        at_s = self._clock()
        since_s = at_s - self._scanned_at
        if since_s >= (_RESCAN_S if self._found.gone() else math.inf if self._found.rails else _RESCAN_WITHOUT_RAILS_S):
            self._scanned_at = at_s
            self._look_again()
        troubles: list[str] = []
        alarms: list[str] = []
        rails, watts, measures = self._power(troubles, alarms)
        zones = self._found.zones.sample(troubles)
        celsius, hot = hottest(zones)
        if celsius is None:
            troubles.append("no thermal zone tells a temperature")
        gpu = self._found.gpu
        load = gpu.read(0, 1000) if gpu else None
        if gpu and load is None and not gpu.asleep:
            troubles.append(gpu.why)
        events = self._counts(troubles)
        alarms += self._complaints(events, troubles)
        self._events = {**self._events, **events}
        return Reading(at_s=at_s, watts=watts, measures=measures, rails=rails, celsius=celsius, hottest=hot,
                       zones=zones, gpu_load=None if load is None else load / 1000, alarms=tuple(alarms),
                       events=events, trouble=summed(troubles))

    def _power(self, troubles: MutableSequence[str], alarms: MutableSequence[str],
               ) -> tuple[dict[str, float], float | None, str]:
        known: dict[str, float] = {}
        lost: set[str] = set()
        for name, rail in self._found.rails.items():
            watts, why = rail.watts()
            if watts is not None:
                known[name] = watts
            elif why:
                lost.add(name)
                troubles.append(f"the rail {name}: {why}")
            alarms.extend(f"{name}: {text}" for file, text in rail.alarms if _is_set(file, troubles))
        main = next((name for name in _TOTALS if name in self._found.rails), None)
        if main is not None:
            if main not in known and main not in lost:
                troubles.append(f"the rail {main} shows no voltage")
            return known, known.get(main), main
        if not self._found.rails:
            troubles.append(f"there is no power sensor (INA3221 or INA238) under {self._root}")
        count = len(known) + len(lost)
        measures = f"sum of {count} rail{'s' if count > 1 else ''}" if count else ""
        return known, sum(known.values()) if known and not lost else None, measures

    def _counts(self, troubles: MutableSequence[str]) -> dict[str, int]:
        """Return the counters' sums; one of which a part cannot be read is left out."""
        found = {}
        for name, files in self._found.counters.items():
            total = 0
            for file in files:
                value = file.read(0, _MOST_EVENTS)
                if value is None:
                    troubles.append(file.why)
                    break
                total += value
            else:
                found[name] = total
        return found

    def _complaints(self, events: dict[str, int], troubles: MutableSequence[str]) -> list[str]:
        """Return in words which counters have risen since the last look, and which brakes are on now."""
        risen = [f"{_COUNTED.get(name, 'over-current')}: {name} rose by {count - self._events[name]}"
                 for name, count in events.items() if count > self._events.get(name, count)]
        return risen + [f"throttling by temperature: {kind}" for kind, file in self._found.brakes
                        if _is_set(file, troubles)]

    def _look_again(self) -> None:
        fresh, before = _find(self._root, self._proc), self._found
        before.close()
        for name, rail in before.rails.items():
            # Never fewer rails than before: a sum of those that are left would pass for the whole.
            fresh.rails.setdefault(name, rail).was_on = rail.was_on
        fresh.zones.keep(before.zones)
        fresh.gpu = fresh.gpu or before.gpu
        self._found = fresh

    def close(self) -> None:
        """Let go of all open files."""
        self._found.close()


def _is_set(file: SensorFile, troubles: MutableSequence[str]) -> bool:
    value = file.read(0, 1_000_000)
    if value is None and not file.asleep:
        troubles.append(file.why)
    return bool(value)


def _find(root: Path, proc: Path) -> _Found:
    rails: dict[str, _Rail] = {}
    counters: dict[str, list[SensorFile]] = {}
    chips = hwmon_folders(root)
    for chip, folder in chips:
        if chip == "ina3221":
            _ina3221(folder, rails)
        elif chip == "ina238":
            _ina238(folder, rails, proc)
        for path in distinct(folder, ("oc[0-9]*_event_cnt",)):
            counters.setdefault(path.name, []).append(SensorFile(path))
    for path in distinct(root, (f"devices/system/cpu/cpu[0-9]*/thermal_throttle/{_THROTTLED}",)):
        counters.setdefault(path.name, []).append(SensorFile(path))
    brakes = [(kind, SensorFile(folder / "cur_state")) for folder in distinct(
        root, ("class/thermal/cooling_device*", "devices/virtual/thermal/cooling_device*"))
        # Of all cooling devices only these mean throttling and nothing else; a fan is one as well.
        if (kind := line(folder / "type") or "").endswith("-throttle-alert")]
    loads = [path for path in (*(folder / "device/load" for folder in distinct(root, ("class/devfreq/*",))
                                 if _GPU.search(folder.name)),
                               root / "devices/platform/gpu.0/load", root / "devices/gpu.0/load") if path.exists()]
    return _Found(rails=rails, zones=Zones(thermal_zones(root)), gpu=SensorFile(loads[0]) if loads else None,
                  counters=counters, brakes=brakes)


def _ina3221(folder: Path, rails: dict[str, _Rail]) -> None:
    """Add the channels of one INA3221 that are connected and switched on."""
    folder = folder.resolve()  # of the device: a number below class/hwmon may be another chip's tomorrow
    device = folder.parent.parent.name
    for path in distinct(folder, ("curr[123]_input",)):
        found = _CURRENT.match(path.name)
        volts = folder / f"in{found[1]}_input" if found else path
        if not found or not volts.exists() or line(folder / f"in{found[1]}_enable") == "0":
            continue
        label = line(folder / f"in{found[1]}_label") or f"channel {found[1]} of {device}"
        if label.upper() != "NC" and "shunt" not in label:
            rails[unused(label, rails, device)] = _Rail(
                power=None, volts=SensorFile(volts), amps=SensorFile(path), alarms=_alarms(folder, found[1]))


def _ina238(folder: Path, rails: dict[str, _Rail], proc: Path) -> None:
    """Add the one channel of an INA238: on Thor, the input of the whole board, which NVIDIA calls VIN."""
    folder = folder.resolve()
    power, volts, amps = (folder / name for name in ("power1_input", "in1_input", "curr1_input"))
    thor = "thor" in (line(proc / "device-tree/model") or "").lower() or "tegra264" in (
        line(proc / "device-tree/compatible") or "")
    label = line(folder / "in1_label") or line(folder / "label") or ("VIN" if thor else "ina238")
    if label.upper() == "NC" or not (power.exists() or (volts.exists() and amps.exists())):
        return
    one = power.exists()
    rails[unused(label, rails, folder.parent.parent.name)] = _Rail(
        power=SensorFile(power) if one else None, volts=None if one else SensorFile(volts),
        amps=None if one else SensorFile(amps), alarms=_alarms(folder, "1"))


def _alarms(folder: Path, number: str) -> list[tuple[SensorFile, str]]:
    named = [(folder / pattern.format(n=number), text) for pattern, text in _ALARMS]
    return [(SensorFile(path), text) for path, text in named if path.exists()]
