"""A board that is not there: files shaped like those of a Jetson Orin NX, for trials on a machine without sensors.

What it takes follows how busy the processor of this machine is; how hot it gets follows from that:

- power goes to ``idle + k * busy cores`` with a first-order lag, ``dP/dt = (target - P) / lag``;
- one thermal resistance R and capacity C to the ambient air, ``dT/dt = (ambient + R * P - T) / (R * C)``.

All figures are invented, only in proportion to an Orin NX: its power modes lie between 10 W and 40 W, so 5 W without
work and 15 W with four busy cores; 2.4 K/W brings 15 W to 61 degrees at 25 degrees ambient, as a small cooler might.
Rail names are those NVIDIA documents for the module, file names those of the kernel's ina3221 driver. Nothing measured
with this tells anything about a real board.
"""

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError

RAILS = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
ZONES = ("cpu-thermal", "gpu-thermal", "tj-thermal")
_DEVICE = Path("bus/i2c/devices/1-0040")
_CHIP = _DEVICE / "hwmon/hwmon1"
_MILLIVOLTS = 5000
# How the power of the whole splits: of the idle watts and of those that work adds, the part on each inner rail. The
# rest is lost on the way and taken by memory and input/output.
_IDLE_SHARES, _WORK_SHARES = (0.15, 0.30), (0.70, 0.15)
# The GPU's sensor sits off the spot that the CPU heats.
_GPU_KELVIN = -1.5
_TICKS = os.sysconf("SC_CLK_TCK")
_STAT = re.compile(r"\A\d+ \(.*\) \S (\d+)(?: \S+){9} (\d+) (\d+) (\d+) (\d+) ", re.DOTALL)


class SimulatedBoard:
    """The files of such a board, and what changes them.

    Every file is replaced as a whole: whoever reads sees the old figure or the new one, never an empty file. One thread
    uses it.

    Args:
        folder: Stands for ``/sys``; made when it is missing. Hand it to ``SysfsTelemetry``.
        idle_watts: Power without work.
        watts_per_core: What each busy core adds.
        ambient: Temperature of the air, degrees Celsius.
        resistance: Kelvin per watt from the chip to the air.
        capacity: Joules per kelvin.
        lag_s: Time constant with which power follows work.

    Attributes:
        extra_watts: What something else on the board takes, besides.
        silent: The sensors are gone: from the next step on the files that tell power and temperature are not there.
        watts: Power now. Set it, or any of the figures above, between two steps to play a trick on the reader.
        celsius: Temperature of the chip now.

    Raises:
        AgentError: the folder is a real sysfs, or the files cannot be written.
    """

    def __init__(self, folder: Path, *, idle_watts: float = 5.0, watts_per_core: float = 2.5, ambient: float = 25.0,
                 resistance: float = 2.4, capacity: float = 25.0, lag_s: float = 0.5) -> None:
        self.folder = folder
        self.idle_watts, self.watts_per_core, self.ambient = idle_watts, watts_per_core, ambient
        self.resistance, self.capacity, self.lag_s = resistance, capacity, lag_s
        self.extra_watts, self.silent = 0.0, False
        self.watts = idle_watts
        self.celsius = ambient + resistance * idle_watts
        if (folder / "kernel/kexec_loaded").exists() or (folder / "fs/cgroup").exists():
            raise AgentError(f"{folder} holds a real machine's files", "name an empty folder for the simulated board")
        self._lay_out()
        self._show()

    def step(self, busy_cores: float, dt_s: float) -> None:
        """Move on by ``dt_s`` seconds with ``busy_cores`` busy all that time, and show it in the files.

        Raises:
            AgentError: the files cannot be written.
        """
        target = self.idle_watts + self.extra_watts + self.watts_per_core * max(0.0, busy_cores)
        self.watts += (target - self.watts) * -math.expm1(-dt_s / self.lag_s)
        balance = self.ambient + self.resistance * self.watts
        self.celsius += (balance - self.celsius) * -math.expm1(-dt_s / (self.resistance * self.capacity))
        self._show()

    def _lay_out(self) -> None:
        self._put(_DEVICE / "name", "ina3221")
        self._put(_CHIP / "name", "ina3221")
        for number, label in enumerate(RAILS, 1):
            self._put(_CHIP / f"in{number}_label", label)
            self._put(_CHIP / f"in{number}_enable", 1)
            self._put(_CHIP / f"in{number}_input", _MILLIVOLTS)
            for limit, value in (("max", 32760), ("crit", 32760), ("max_alarm", 0), ("crit_alarm", 0)):
                self._put(_CHIP / f"curr{number}_{limit}", value)
        for number, name in enumerate(ZONES):
            self._put(_zone(number) / "type", name)

    def _show(self) -> None:
        idle = min(self.watts, self.idle_watts)
        inner = (idle * rest + (self.watts - idle) * work
                 for rest, work in zip(_IDLE_SHARES, _WORK_SHARES, strict=True))
        shown: dict[Path, int] = {}
        for number, watts in enumerate((self.watts, *inner), 1):
            shown[_CHIP / f"curr{number}_input"] = round(watts * 1e6 / _MILLIVOLTS)
        for number, more in enumerate((0.0, _GPU_KELVIN, 0.0)):
            shown[_zone(number) / "temp"] = round((self.celsius + more) * 1000)
        for name, value in shown.items():
            if self.silent:
                (self.folder / name).unlink(missing_ok=True)
            else:
                self._put(name, value)

    def _put(self, name: Path, value: object) -> None:
        path = self.folder / name
        fresh = path.with_name(f".{path.name}.fresh")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(f"{value}\n", "ascii")
            fresh.replace(path)
        except OSError as error:
            raise AgentError(f"the simulated board cannot write {path}: {error.strerror}",
                             "name a folder that you may write to") from error


def _zone(number: int) -> Path:
    return Path(f"class/thermal/thermal_zone{number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Processor time taken so far.

    Attributes:
        at_s: When it was read, seconds of the monotonic clock.
        cpu_s: Seconds of processor time, of all cores together, since some moment in the past.
    """

    at_s: float
    cpu_s: float


def machine_busy(proc: Path = Path("/proc")) -> Busy:
    """Return what all processes of this machine have taken; see proc_stat(5).

    Raises:
        AgentError: ``proc`` holds no such file.
    """
    try:
        with (proc / "stat").open("rb") as file:
            user, nice, system, _idle, _wait, irq, soft, *_ = (int(field) for field in file.readline().split()[1:])
    except (OSError, ValueError) as error:
        raise AgentError(f"{proc / 'stat'} does not tell how busy the machine is: {error}",
                         "this needs Linux with /proc mounted") from error
    return Busy(at_s=time.monotonic(), cpu_s=(user + nice + system + irq + soft) / _TICKS)


def tree_busy(pid: int, proc: Path = Path("/proc")) -> Busy | None:
    """Return what the process ``pid`` and all that descend from it have taken; None when it is not there (any more).

    Children that have ended count as soon as they have been waited for; see proc_pid_stat(5).
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in os.scandir(proc):
        if entry.name.isdecimal() and (found := _STAT.match(_text(proc / entry.name / "stat"))):
            parent, *times = map(int, found.groups())
            parents[int(entry.name)], ticks[int(entry.name)] = parent, sum(times)
    if pid not in ticks:
        return None
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return Busy(at_s=time.monotonic(), cpu_s=sum(ticks[member] for member in family) / _TICKS)


def process_busy(pid: int) -> Busy | None:
    """Return what the process ``pid`` alone has taken, to the microsecond; None when it is not there (any more).

    The files of ``/proc`` count in steps of 10 ms, too coarse where little work is looked at often.
    """
    # What clock_getcpuclockid(3) returns; Python has no name for it. The two low bits: all threads, as scheduled.
    clock = (~pid << 3) | 2
    try:
        return Busy(at_s=time.monotonic(), cpu_s=time.clock_gettime(clock))
    except OSError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def busy_cores(before: Busy, after: Busy) -> float:
    """Return how many cores were busy on average between two looks; 0 when no time has passed.

    A process that ends unseen takes its time with it: what would be less than nothing is 0.
    """
    passed = after.at_s - before.at_s
    return max(0.0, (after.cpu_s - before.cpu_s) / passed) if passed > 0 else 0.0
