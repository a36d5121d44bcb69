"""The energy counters of x86 processors, from made trees."""

import math
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.power.rapl import RaplTelemetry
from agent.power.telemetry import NoSensorsError
from tests.helpers.orin_tree import put

SPAN = 262_143_328_850


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def package(root, number, name, microjoules, span=SPAN):
    folder = f"class/powercap/intel-rapl:{number}"
    put(root, f"{folder}/name", name)
    put(root, f"{folder}/energy_uj", microjoules)
    put(root, f"{folder}/max_energy_range_uj", span)


def energy(root, number, microjoules):
    put(root, f"class/powercap/intel-rapl:{number}/energy_uj", microjoules)


@pytest.fixture
def two(tmp_path):
    package(tmp_path, 0, "package-0", 1_000_000)
    package(tmp_path, 1, "package-1", 5_000_000)
    package(tmp_path, "0:0", "core", 1)
    put(tmp_path, "class/thermal/thermal_zone0/type", "acpitz")
    put(tmp_path, "class/thermal/thermal_zone0/temp", 99000)
    for n, temp in ((1, 51000), (2, 53000)):
        put(tmp_path, f"class/thermal/thermal_zone{n}/type", "x86_pkg_temp")
        put(tmp_path, f"class/thermal/thermal_zone{n}/temp", temp)
    return tmp_path


def test_power_is_the_energy_between_two_samples(two, clock):
    telemetry = RaplTelemetry(two, clock=clock)
    first = telemetry.sample()
    assert first.watts is None
    assert "package-0: power is the mean between two readings" in first.trouble
    assert (first.celsius, first.hottest) == (53.0, "x86_pkg_temp thermal_zone2")
    clock.now += 0.5
    energy(two, 0, 1_000_000 + 10_000_000)
    energy(two, 1, 5_000_000 + 15_000_000)
    reading = telemetry.sample()
    assert reading.watts == pytest.approx(50.0)
    assert reading.rails == pytest.approx({"package-0": 20.0, "package-1": 30.0})
    assert reading.measures == "CPU packages"
    assert (reading.at_s, reading.trouble) == (100.5, "")
    assert telemetry.name == "rapl"


def test_the_counter_wraps_at_its_range(two, clock):
    energy(two, 0, SPAN - 1_000_000)
    telemetry = RaplTelemetry(two, clock=clock)
    telemetry.sample()
    clock.now += 1
    energy(two, 0, 4_000_000)
    assert telemetry.sample().rails["package-0"] == pytest.approx(5.0)


def test_a_counter_that_was_set_back_is_not_power(two, clock):
    energy(two, 0, SPAN // 2)
    telemetry = RaplTelemetry(two, clock=clock)
    telemetry.sample()
    clock.now += 1
    energy(two, 0, 100)
    reading = telemetry.sample()
    assert reading.watts is None
    assert "energy_uj was set back" in reading.trouble
    clock.now += 1
    energy(two, 0, 7_000_100)
    assert telemetry.sample().rails["package-0"] == pytest.approx(7.0)


def test_wraps_that_cannot_be_counted_make_it_unknown(two, clock):
    telemetry = RaplTelemetry(two, clock=clock)
    telemetry.sample()
    clock.now += 200
    reading = telemetry.sample()
    assert reading.watts is None
    assert "wrapped more than once in 200 s" in reading.trouble


def test_the_platform_counter_stands_alone(two, clock):
    package(two, 2, "psys", 0)
    telemetry = RaplTelemetry(two, clock=clock)
    telemetry.sample()
    clock.now += 1
    energy(two, 2, 65_000_000)
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, dict(reading.rails)) == (65.0, "platform", {"psys": 65.0})


@pytest.mark.parametrize("text", ["", "-3", "nan", "x", "1e9"])
def test_one_package_alone_is_no_total(two, clock, text):
    telemetry = RaplTelemetry(two, clock=clock)
    telemetry.sample()
    clock.now += 1
    energy(two, 1, text)
    reading = telemetry.sample()
    assert (reading.watts, dict(reading.rails)) == (None, {"package-0": 0.0})
    assert "package-1: " in reading.trouble
    energy(two, 1, 6_000_000)
    clock.now += 1
    assert "package-1: power is the mean between two readings" in telemetry.sample().trouble
    clock.now += 1
    assert telemetry.sample().watts == 0.0


def test_samples_too_close_are_the_same_sample(two, clock):
    telemetry = RaplTelemetry(two, clock=clock)
    first = telemetry.sample()
    clock.now += 0.01
    assert telemetry.sample() is first
    clock.now += 0.05
    energy(two, 0, 1_600_000)
    assert telemetry.sample().rails["package-0"] == pytest.approx(10.0)


def test_a_range_that_is_missing_makes_it_unknown(two, clock):
    (two / "class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    telemetry = RaplTelemetry(two, clock=clock)
    telemetry.sample()
    clock.now += 1
    reading = telemetry.sample()
    assert reading.watts is None
    assert "max_energy_range_uj" in reading.trouble


@pytest.mark.parametrize("chip", ["coretemp", "k10temp"])
def test_without_a_zone_the_sensor_chip_tells_the_temperature(tmp_path, clock, chip):
    package(tmp_path, 0, "package-0", 0)
    put(tmp_path, "class/hwmon/hwmon2/name", chip)
    put(tmp_path, "class/hwmon/hwmon2/temp1_input", 61500)
    put(tmp_path, "class/hwmon/hwmon2/temp1_label", "Tctl")
    put(tmp_path, "class/hwmon/hwmon2/temp12_input", 61000)
    put(tmp_path, "class/hwmon/hwmon3/name", "nvme")
    put(tmp_path, "class/hwmon/hwmon3/temp1_input", 80000)
    reading = RaplTelemetry(tmp_path, clock=clock).sample()
    assert (reading.celsius, reading.hottest) == (61.5, f"{chip} Tctl")
    assert reading.zones == {f"{chip} Tctl": 61.5, f"{chip} temp12": 61.0}


def test_no_counter_is_said_with_a_remedy(tmp_path):
    put(tmp_path, "class/powercap/intel-rapl/enabled", 1)
    with pytest.raises(NoSensorsError, match="there are no energy counters") as caught:
        RaplTelemetry(tmp_path)
    assert "intel_rapl_msr" in caught.value.remedy


def test_counters_only_root_may_read_are_said_with_a_remedy(two, monkeypatch):
    real = os.open

    def refuse(path, *rest):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NoSensorsError, match="energy_uj cannot be read: Permission denied") as caught:
        RaplTelemetry(two)
    assert "chmod" in caught.value.remedy
    assert "udev" in caught.value.remedy


def test_a_user_who_may_not_read_is_told_so(two):
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED with real permissions: only root can become somebody else")
    for n in (0, 1):
        (two / f"class/powercap/intel-rapl:{n}/energy_uj").chmod(0o400)
    for folder in (two, *two.parents):
        if folder.owner() == "root" and folder.parent != folder and str(folder) != "/tmp":
            folder.chmod(folder.stat().st_mode | 0o055)
    child = os.fork()
    if not child:
        code = 9
        try:
            os.setresuid(65534, 65534, 65534)
            RaplTelemetry(two)
        except NoSensorsError as error:
            code = 0 if "Permission denied" in error.what and "chmod" in error.remedy else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


TEXTS = st.one_of(st.binary(max_size=30), st.integers(-10, 2**64).map(lambda n: str(n).encode()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.tuples(st.sampled_from(["energy_uj", "max_energy_range_uj", "name"]), st.sampled_from([0, 1]), TEXTS,
                                st.floats(-1, 1e6)), min_size=1, max_size=6))
def test_garbage_never_raises_and_never_becomes_a_number_that_cannot_be(tmp_path, texts):
    clock = Clock()
    package(tmp_path, 0, "package-0", 1_000_000)
    package(tmp_path, 1, "package-1", 5_000_000)
    telemetry = RaplTelemetry(tmp_path, clock=clock)
    telemetry.sample()
    for name, number, text, passed in texts:
        put(tmp_path, f"class/powercap/intel-rapl:{number}/{name}", text)
        clock.now += passed
        reading = telemetry.sample()
        watts = [*reading.rails.values(), *([reading.watts] if reading.watts is not None else [])]
        assert all(math.isfinite(n) and 0 <= n <= 4000 for n in watts)
        assert reading.watts is not None or reading.trouble
    telemetry.close()
