"""A stand-in for the module ``pynvml``: one GPU whose every answer can be set, or be an error code."""
# ruff: noqa: N802 -- the names are NVML's

from types import SimpleNamespace

NAMES = {1: "Uninitialized", 2: "Invalid Argument", 3: "Not Supported", 4: "Insufficient Permissions", 9: "Driver Not Loaded",
         12: "NVML Shared Library Not Found", 13: "Function Not Found", 15: "GPU is lost", 17: "The operating system has blocked the request.",
         999: "Unknown Error"}


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value

    def __str__(self):
        return NAMES.get(self.value, f"error {self.value}")


class NVMLLibraryMismatchError(Exception):
    pass


class Code(int):
    """An answer that is an error of NVML."""


class FakeNvml:
    """Answers are attributes; a :class:`Code` is raised, any other exception too.

    ``power_now`` and ``power_mean`` are milliwatts, ``celsius`` as NVML's unsigned number, ``busy`` percent, ``reasons`` bits,
    ``violations`` nanoseconds by policy, ``processes`` (pid, bytes) pairs.
    """

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError

    def __init__(self, **answers):
        self.init, self.handle, self.version = None, "gpu", "580.95.05"
        self.power_now, self.power_mean, self.celsius, self.busy, self.reasons = 61_250, 70_000, 43, 37, 0
        self.violations, self.processes, self.value_type = {0: 5, 1: 7}, [], 1
        self.opened, self.calls = 0, []
        vars(self).update(answers)

    def _give(self, call, answer):
        self.calls.append(call)
        if isinstance(answer, Code):
            raise NVMLError(int(answer))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def nvmlInit(self):
        self._give("init", self.init)
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self):
        return self._give("version", self.version)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._give("handle", self.handle)

    def nvmlDeviceGetFieldValues(self, handle, fields):
        assert handle == "gpu"
        assert fields == [186]
        self.calls.append("power_now")
        if isinstance(self.power_now, Code):  # the call succeeds, the field does not
            return [SimpleNamespace(nvmlReturn=int(self.power_now), valueType=0, value=None)]
        kinds = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        value = SimpleNamespace(**{kinds[self.value_type]: self.power_now}) if self.value_type < len(kinds) else None
        return [SimpleNamespace(nvmlReturn=0, valueType=self.value_type, value=value)]

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._give("power_mean", self.power_mean)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == 0
        return self._give("celsius", self.celsius)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=self._give("busy", self.busy), memory=1)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._give("reasons", self.reasons)

    def nvmlDeviceGetViolationStatus(self, handle, policy):
        return SimpleNamespace(referenceTime=1, violationTime=self._give("violations", self.violations[policy]))

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self._give("processes", self.processes)]
