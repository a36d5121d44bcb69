"""The reader of NVIDIA GPUs, against a stand-in of its library; ``tests.device.power_check`` asks a real one."""

import sys

import pytest

from agent.power.nvml import NvmlTelemetry
from agent.power.telemetry import NoSensorsError
from tests.helpers.fake_nvml import Code, FakeNvml, NVMLLibraryMismatchError

NOT_SUPPORTED, NO_PERMISSION, LOST, UNKNOWN = Code(3), Code(4), Code(15), Code(999)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def opened(**answers):
    """Open a GPU that gives the power of the moment only, unless it is told to give a mean."""
    fake = FakeNvml(**{"power_mean": NOT_SUPPORTED, **answers})
    return NvmlTelemetry(library=fake), fake


def test_a_reading_is_what_the_gpu_says():
    telemetry, _ = opened()
    reading = telemetry.sample()
    assert telemetry.name == "nvml 580.95.05"
    assert (reading.watts, reading.measures, dict(reading.rails)) == (61.25, "GPU", {"GPU": 61.25})
    assert (reading.celsius, reading.hottest, dict(reading.zones)) == (43.0, "GPU", {"GPU": 43.0})
    assert (reading.gpu_load, reading.alarms, reading.trouble) == (0.37, (), "")
    assert dict(reading.events) == {"gpu_power_cap_ns": 5, "gpu_thermal_limit_ns": 7}


def test_an_old_binding_gives_bytes_and_the_old_name_of_the_reasons():
    telemetry, fake = opened(version=b"470.82", nvmlDeviceGetCurrentClocksEventReasons=None,
                             nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 4)
    assert telemetry.name == "nvml 470.82"
    assert telemetry.sample().alarms == ("GPU clocks are held down by its power cap",)
    del fake.nvmlDeviceGetCurrentClocksThrottleReasons
    reading = telemetry.sample()
    assert reading.alarms == ()
    assert "GPU clock event reasons: " in reading.trouble, "a binding without the call raises AttributeError"
    assert reading.watts == 61.25


def test_the_mean_is_preferred_for_a_gpu_that_works_in_bursts_and_named():
    telemetry, fake = opened(power_mean=70_000)
    assert (telemetry.sample().watts, telemetry.sample().measures) == (70.0, "GPU (1 s mean)")
    fake.power_mean = NOT_SUPPORTED
    assert telemetry.sample().measures == "GPU (1 s mean)", "one run never mixes the two"
    assert telemetry.sample().watts is None


@pytest.mark.parametrize("code", [2, 3, 13, 25])
def test_without_the_mean_the_power_of_the_moment_is_taken_and_named(code):
    telemetry, fake = opened(power_mean=Code(code))
    assert (telemetry.sample().watts, telemetry.sample().measures) == (61.25, "GPU")
    fake.power_mean = 1
    assert telemetry.sample().measures == "GPU", "one run never mixes the two"


def test_a_passing_failure_of_the_mean_is_no_reason_to_take_the_moment():
    telemetry, _ = opened(power_mean=UNKNOWN)
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, reading.trouble) == (None, "GPU (1 s mean)", "GPU power: Unknown Error")


def test_a_passing_failure_is_no_reason_to_take_the_mean():
    telemetry, fake = opened(power_now=UNKNOWN)
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, reading.trouble) == (None, "GPU", "GPU power: Unknown Error")
    assert (reading.celsius, dict(reading.rails)) == (43.0, {})
    fake.power_now = 50_000
    assert telemetry.sample().watts == 50.0


@pytest.mark.parametrize("kind", range(7))
def test_each_type_of_a_field_is_read(kind):
    assert opened(value_type=kind)[0].sample().watts == 61.25


@pytest.mark.parametrize(("answers", "part"), [
    ({"power_now": 0}, "GPU power: 0 W is no power of a GPU"),
    ({"power_now": 2**32 - 1}, "GPU power: 4.29497e+06 W"),
    ({"value_type": 9}, "GPU power: a value of the unknown type 9"),
    ({"power_mean": 2**32 - 1}, "GPU power: 4.29497e+06 W"),
    ({"power_now": NOT_SUPPORTED, "power_mean": NOT_SUPPORTED}, "GPU power: Not Supported"),
])
def test_a_power_that_cannot_be_is_unknown(answers, part):
    reading = opened(**answers)[0].sample()
    assert reading.watts is None
    assert part in reading.trouble
    assert reading.celsius == 43.0


@pytest.mark.parametrize(("said", "celsius"), [
    (0, 0.0), (2**32 - 5, -5.0), (104, 104.0), (2**32 - 256, None), (255, None), (NOT_SUPPORTED, None), (NO_PERMISSION, None),
])
def test_temperatures(said, celsius):
    reading = opened(celsius=said)[0].sample()
    assert reading.celsius == celsius
    assert ("GPU temperature: " in reading.trouble) == (celsius is None)
    assert (reading.hottest, dict(reading.zones)) == (("GPU", {"GPU": celsius}) if celsius is not None else ("", {}))


@pytest.mark.parametrize(("said", "load"), [(0, 0.0), (100, 1.0), (101, None), (2**32 - 1, None), (NOT_SUPPORTED, None)])
def test_loads(said, load):
    reading = opened(busy=said)[0].sample()
    assert reading.gpu_load == load
    assert ("GPU load: " in reading.trouble) == (load is None)


@pytest.mark.parametrize(("bits", "words"), [
    (0x000, []), (0x001, []), (0x103, []),
    (0x004, ["power cap"]), (0x020, ["its temperature"]), (0x008, ["slowed down by hardware"]),
    (0x048, ["hardware: too hot"]), (0x088, ["hardware: the power supply"]),
    (0x06c, ["power cap", "its temperature", "too hot"]),
])
def test_alarms_are_the_reasons_that_hold_the_clocks_down(bits, words):
    alarms = opened(reasons=bits)[0].sample().alarms
    assert len(alarms) == len(words)
    assert all(word in alarm for word, alarm in zip(words, alarms, strict=True))


def test_counters_a_gpu_does_not_keep_are_no_trouble_and_one_that_fails_is():
    reading = opened(violations={0: NOT_SUPPORTED, 1: 3})[0].sample()
    assert (dict(reading.events), reading.trouble) == ({"gpu_thermal_limit_ns": 3}, "")
    reading = opened(violations={0: UNKNOWN, 1: 3})[0].sample()
    assert (dict(reading.events), reading.trouble) == ({"gpu_thermal_limit_ns": 3}, "GPU gpu_power_cap_ns: Unknown Error")


@pytest.mark.parametrize("answers", [{"init": Code(12)}, {"init": Code(9)}, {"init": Code(18)}, {"handle": Code(6)}, {"handle": NO_PERMISSION},
                                     {"power_now": NOT_SUPPORTED, "power_mean": NOT_SUPPORTED, "celsius": NOT_SUPPORTED}])
def test_nothing_to_read_is_an_error_that_leaves_nothing_open(answers):
    fake = FakeNvml(**answers)
    with pytest.raises(NoSensorsError) as error:
        NvmlTelemetry(library=fake)
    assert error.value.remedy
    assert fake.opened == 0


def test_without_the_package_there_are_no_sensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoSensorsError, match="nvidia-ml-py is not installed"):
        NvmlTelemetry()


def test_closing_twice_is_closing_once():
    telemetry, fake = opened()
    assert fake.opened == 1
    telemetry.close()
    telemetry.close()
    assert fake.opened == 0


def test_closing_after_the_driver_has_gone_raises_nothing():
    telemetry, fake = opened()
    fake.nvmlShutdown = lambda: fake._give("shutdown", Code(1))
    telemetry.close()


def test_a_lost_gpu_gives_nothing_is_asked_seldom_and_comes_back():
    fake, clock = FakeNvml(), Clock()
    telemetry = NvmlTelemetry(library=fake, clock=clock)
    fake.power_now = fake.power_mean = fake.celsius = fake.busy = fake.reasons = LOST
    fake.violations = {0: LOST, 1: LOST}
    reading = telemetry.sample()
    assert (reading.watts, reading.celsius, reading.gpu_load, dict(reading.events)) == (None, None, None, {})
    assert "GPU power: GPU is lost" in reading.trouble
    asked = len(fake.calls)
    clock.now += 9
    assert telemetry.sample().trouble == "GPU 0 is lost: GPU is lost"
    assert len(fake.calls) == asked
    fake.init = Code(9)
    clock.now += 2
    assert telemetry.sample().trouble == "GPU 0 is lost: Driver Not Loaded"
    assert fake.opened == 0
    fake.init, fake.power_mean, fake.celsius, fake.busy, fake.reasons, fake.violations = None, 30_000, 40, 5, 0, {0: 1, 1: 1}
    clock.now += 11
    assert (telemetry.sample().watts, telemetry.sample().trouble) == (30.0, "")
    assert fake.opened == 1


@pytest.mark.parametrize(("processes", "expected"), [
    ([], None), ([(7, 100)], None), ([(7, 100), (42, 300)], 300), ([(42, 300), (42, 20)], 320), ([(42, None)], None), ([(42, 0)], 0),
    (NOT_SUPPORTED, None), (NVMLLibraryMismatchError("versions"), None),
])
def test_memory_of_a_process(processes, expected):
    assert opened(processes=processes)[0].device_bytes_of_process(42) == expected


def test_every_call_may_fail_and_none_raises():
    for call in ("power_now", "power_mean", "celsius", "busy", "reasons"):
        for code in range(1, 31):
            telemetry, fake = opened()
            setattr(fake, call, Code(code))
            fake.violations = {0: Code(code), 1: Code(code)}
            telemetry.sample()
            telemetry.sample()


def test_the_stand_in_has_the_calls_and_numbers_of_the_real_binding():
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    for name in dir(FakeNvml):
        if name.startswith(("nvml", "NVML")):
            assert hasattr(pynvml, name), name
    assert pynvml.NVML_FI_DEV_POWER_INSTANT == 186
    assert (pynvml.NVML_PERF_POLICY_POWER, pynvml.NVML_PERF_POLICY_THERMAL, pynvml.NVML_TEMPERATURE_GPU) == (0, 1, 0)
    assert [pynvml.nvmlClocksEventReasonSwPowerCap, pynvml.nvmlClocksEventReasonHwSlowdown, pynvml.nvmlClocksEventReasonSwThermalSlowdown,
            pynvml.nvmlClocksEventReasonHwThermalSlowdown, pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown] == [4, 8, 32, 64, 128]
    assert [field[0] for field in pynvml.c_nvmlValue_t._fields_] == ["dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal"]
    with pytest.raises(NoSensorsError, match="GPU 99"):
        NvmlTelemetry(index=99)
