"""Power, temperature and load of an NVIDIA GPU through NVML, the library that comes with NVIDIA's driver.

Asked by the package nvidia-ml-py (module ``pynvml``), which is imported when the first reader is opened.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ctypes import c_int32
from importlib import import_module
from typing import Any

from agent.power.telemetry import NoSensorsError, Reading

# Numbers of nvml.h, part of NVML's ABI; older bindings lack some of the names.
_POWER_INSTANT = 186  # NVML_FI_DEV_POWER_INSTANT, milliwatts
_TEMPERATURE_GPU = 0  # NVML_TEMPERATURE_GPU
_NOT_SUPPORTED = {2, 3, 13, 25}  # invalid argument (a field that is too new), not supported, no such function, version
_MUST_OPEN_AGAIN = {1, 9, 15, 16, 18}  # uninitialised, driver not loaded, GPU lost, needs a reset, driver exchanged
_VALUE_TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by NVML_VALUE_TYPE_*
_HW_SLOWDOWN = 0x08
_REASONS = (  # nvmlClocksEventReason*
    (0x04, "GPU clocks are held down by its power cap"),
    (0x20, "GPU clocks are held down by its temperature"),
    (0x40, "GPU is slowed down by hardware: too hot"),
    (0x80, "GPU is slowed down by hardware: the power supply demands it"),
)
_UNNAMED_SLOWDOWN = "GPU is slowed down by hardware"
_VIOLATIONS = {"gpu_power_cap_ns": 0, "gpu_thermal_limit_ns": 1}  # NVML_PERF_POLICY_POWER, _THERMAL
# No board takes 10 kW and no chip runs at 200 degrees: such a number is an "unknown" that lost its name.
_MOST_WATTS = 10e3
_CELSIUS = (-60.0, 200.0)
_OPEN_AGAIN_S = 10.0


class NvmlTelemetry:
    """One GPU. Its power is that of the whole card (chip, memory and what belongs to it), nothing of the host.

    ``measures`` is ``GPU (1 s mean)`` where ``nvmlDeviceGetPowerUsage`` answers: it averages over one second on Ampere
    (but not GA100) and later chips, and gives the moment on earlier ones (NVML API reference). The power of the moment
    (field ``NVML_FI_DEV_POWER_INSTANT``, ``measures`` ``GPU``) is only asked for where that fails: a GPU that works in
    bursts of some milliseconds takes 130 W at one look and 270 W at the next while its mean stands still (seen on an
    H200). What is used is decided at the opening, so that one run never mixes the two.

    ``events`` counts nanoseconds since the driver was loaded, see :data:`_VIOLATIONS`; empty where the GPU keeps none.
    A GPU that was lost is opened again at most every ten seconds.

    Args:
        index: Number of the GPU in NVML's order, which is that of the PCI bus.
        library: Stands for the module ``pynvml``.
        clock: Monotonic clock, seconds.

    Raises:
        NoSensorsError: There is no nvidia-ml-py, no driver, no such GPU, or it gives neither power nor temperature.
    """

    def __init__(self, index: int = 0, library: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._index, self._clock = index, clock
        self._nvml = library or _library()
        # FUNCTION_NOT_FOUND becomes an exception of another family in the binding's newer calls.
        self._errors: tuple[type[Exception], ...] = (self._nvml.NVMLError, AttributeError,
                                                     *_classes(self._nvml, "NVMLLibraryMismatchError"))
        self._open = False
        self._lost = False
        self._why_lost = ""
        self._tried_s = 0.0
        self._handle: Any = None
        self._version = ""
        try:
            self._start()
        except self._errors as error:
            self.close()
            raise NoSensorsError(
                f"NVML does not give GPU {index}: {error}",
                "check that `nvidia-smi` lists it, and that the service may use /dev/nvidia*") from error
        self._instant = not self._has(self._mean_power) and self._has(self._power_now)
        if not self._instant and not self._has(self._mean_power) and not self._has(self._temperature):
            self.close()
            raise NoSensorsError(f"GPU {index} gives neither its power nor its temperature to NVML",
                                 "choose another [budget] telemetry")

    @property
    def name(self) -> str:
        """``nvml`` and the version of the driver."""
        return f"nvml {self._version}".rstrip()

    def sample(self) -> Reading:
        """Return the newest reading; what a call does not give is None, and ``trouble`` says why."""
        if self._lost and not self._reopened():
            return Reading(at_s=self._clock(), trouble=self._why_lost)
        trouble: list[str] = []
        at = self._clock()
        watts = self._ask("power", self._power_now if self._instant else self._mean_power, trouble)
        celsius = self._ask("temperature", self._temperature, trouble)
        load = self._ask("load", self._load, trouble)
        alarms = self._ask("clock event reasons", self._alarms, trouble)
        return Reading(
            at_s=at, watts=watts, measures="GPU" if self._instant else "GPU (1 s mean)",
            rails={} if watts is None else {"GPU": watts}, celsius=celsius, hottest="" if celsius is None else "GPU",
            zones={} if celsius is None else {"GPU": celsius}, gpu_load=load, alarms=alarms or (),
            events=self._violations(trouble), trouble="; ".join(trouble))

    def device_bytes_of_process(self, pid: int) -> int | None:
        """Return the bytes of GPU memory that process ``pid`` holds for computing; None when NVML does not tell.

        It knows processes by the host's numbers: from inside a container with its own ones nothing is found.
        """
        try:
            held = [process.usedGpuMemory for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
                    if process.pid == pid]
        except self._errors:
            return None
        return sum(held) if held and None not in held else None

    def close(self) -> None:
        """Let go of the library; a second call does nothing."""
        if self._open:
            self._open = False
            with suppress(*self._errors):  # the driver may have gone before us: then nothing is left to let go of
                self._nvml.nvmlShutdown()

    def _start(self) -> None:
        self._nvml.nvmlInit()
        self._open = True
        version = self._nvml.nvmlSystemGetDriverVersion()
        self._version = version.decode("ascii", "replace") if isinstance(version, bytes) else str(version)
        self._handle = self._nvml.nvmlDeviceGetHandleByIndex(self._index)

    def _reopened(self) -> bool:
        now = self._clock()
        if now - self._tried_s < _OPEN_AGAIN_S:
            return False
        self._tried_s = now
        self.close()
        try:
            self._start()
        except self._errors as error:
            self._why_lost = f"GPU {self._index} is lost: {error}"
            return False
        self._lost = False
        return True

    def _ask(self, what: str, read: Callable[[], Any], trouble: list[str]) -> Any:
        """Return what ``read`` returns; None, with the reason in ``trouble``, when NVML does not give it."""
        try:
            return read()
        except _OutOfReasonError as error:
            trouble.append(f"GPU {what}: {error}")
        except self._errors as error:
            if not self._lost and getattr(error, "value", None) in _MUST_OPEN_AGAIN:
                self._lost, self._tried_s = True, self._clock()
                self._why_lost = f"GPU {self._index} is lost: {error}"
            trouble.append(f"GPU {what}: {error}")
        return None

    def _has(self, read: Callable[[], Any]) -> bool:
        """Tell whether the GPU knows ``read`` at all; a passing failure is no reason to do without it."""
        try:
            read()
        except _OutOfReasonError:
            pass
        except self._errors as error:
            return getattr(error, "value", 13) not in _NOT_SUPPORTED
        return True

    def _power_now(self) -> float:
        field = self._nvml.nvmlDeviceGetFieldValues(self._handle, [_POWER_INSTANT])[0]
        if field.nvmlReturn:
            raise self._nvml.NVMLError(field.nvmlReturn)
        if not 0 <= field.valueType < len(_VALUE_TYPES):
            raise _OutOfReasonError(f"a value of the unknown type {field.valueType}")
        return _watts(getattr(field.value, _VALUE_TYPES[field.valueType]))

    def _mean_power(self) -> float:
        return _watts(self._nvml.nvmlDeviceGetPowerUsage(self._handle))

    def _temperature(self) -> float:
        # NVML hands a signed number over as an unsigned one.
        celsius = float(c_int32(self._nvml.nvmlDeviceGetTemperature(self._handle, _TEMPERATURE_GPU)).value)
        if not _CELSIUS[0] < celsius < _CELSIUS[1]:
            raise _OutOfReasonError(f"{celsius:g} degrees are no temperature of a GPU")
        return celsius

    def _load(self) -> float:
        percent = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
        if not 0 <= percent <= 100:
            raise _OutOfReasonError(f"{percent} % is no share of time")
        return float(percent) / 100

    def _alarms(self) -> tuple[str, ...]:
        # Named anew in driver 535; the old name is still there in newer bindings, but not for ever.
        ask = (getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
               or self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        bits = ask(self._handle)
        said = tuple(words for bit, words in _REASONS if bits & bit)
        named = bits & (0x40 | 0x80)  # the general bit goes up with each of these
        return said if named or not bits & _HW_SLOWDOWN else (*said, _UNNAMED_SLOWDOWN)

    def _violations(self, trouble: list[str]) -> Mapping[str, int]:
        """Return the counters that the GPU keeps, nanoseconds; one that it never kept is no trouble."""
        found = {}
        for name, policy in _VIOLATIONS.items():
            try:
                found[name] = int(self._nvml.nvmlDeviceGetViolationStatus(self._handle, policy).violationTime)
            except self._errors as error:
                if getattr(error, "value", 13) not in _NOT_SUPPORTED:
                    trouble.append(f"GPU {name}: {error}")
        return found


class _OutOfReasonError(Exception):
    """A number that no sensor can mean."""


def _watts(milliwatts: float) -> float:
    # A card that is read is on: none takes nothing.
    watts = milliwatts / 1e3
    if not 0 < watts < _MOST_WATTS:
        raise _OutOfReasonError(f"{watts:g} W is no power of a GPU")
    return watts


def _classes(library: Any, name: str) -> tuple[type[Exception], ...]:
    found = getattr(library, name, None)
    return () if found is None else (found,)


def _library() -> Any:
    try:
        return import_module("pynvml")
    except ImportError as error:
        raise NoSensorsError("the package nvidia-ml-py is not installed",
                             "install it where vedette runs: `pip install nvidia-ml-py`") from error
