"""The kernel's sensor files, from made trees; a real Jetson has not been seen by these tests."""

import math
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.power import sysfs
from agent.power.files import SensorFile, summed, unused
from agent.power.sysfs import SysfsTelemetry
from agent.power.telemetry import NoSensorsError
from tests.helpers.orin_tree import AGX_WATTS, NX_RAIL, NX_WATTS, build, put, swap

ZONE = "devices/virtual/thermal/thermal_zone"
AGX_DDR = "bus/i2c/devices/1-0041/hwmon/hwmon2"


@pytest.fixture
def nx(tmp_path):
    return build(tmp_path / "sys", "nx")


@pytest.fixture
def agx(tmp_path):
    return build(tmp_path / "sys", "agx")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def rail(root, folder, number, label, mv, ma):
    put(root, f"{folder}/name", "ina3221")
    put(root, f"{folder}/in{number}_label", label)
    put(root, f"{folder}/in{number}_input", mv)
    put(root, f"{folder}/curr{number}_input", ma)


def test_an_orin_nx_tells_what_its_module_takes(nx):
    clock = Clock()
    reading = SysfsTelemetry(nx, clock=clock).sample()
    assert reading.at_s == 100.0
    assert reading.watts == pytest.approx(7.59968) == NX_WATTS
    assert reading.measures == "VDD_IN"
    assert reading.rails == pytest.approx({"VDD_IN": 7.59968, "VDD_CPU_GPU_CV": 2.393984, "VDD_SOC": 1.582464})
    assert reading.zones == {"cpu-thermal": 47.312, "gpu-thermal": 45.906, "soc0-thermal": 46.125, "tj-thermal": 47.312}
    assert (reading.celsius, reading.hottest) == (47.312, "cpu-thermal")
    assert reading.gpu_load == 0.637
    assert reading.alarms == ()
    assert reading.events == {}
    assert reading.trouble == "", "a zone that is switched off is no trouble"


def test_an_agx_orin_has_only_a_sum_and_says_so(agx):
    telemetry = SysfsTelemetry(agx)
    reading = telemetry.sample()
    assert reading.watts == pytest.approx(10.45356) == pytest.approx(AGX_WATTS)
    assert reading.measures == "sum of 4 rails"
    assert set(reading.rails) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert telemetry.name == "sysfs"
    assert telemetry.has_power


@pytest.mark.parametrize("write", [put, swap])
def test_a_change_of_any_file_is_in_the_next_reading(nx, write):
    telemetry = SysfsTelemetry(nx)
    telemetry.sample()
    for ma, temp, load in ((4000, 51000, 0), (10, 52000, 1000)):
        write(nx, f"{NX_RAIL}/curr1_input", ma)
        write(nx, f"{ZONE}1/temp", temp)
        write(nx, "class/devfreq/17000000.gpu/device/load", load)
        reading = telemetry.sample()
        assert (reading.watts, reading.celsius, reading.hottest, reading.gpu_load) == (
            pytest.approx(5080 * ma / 1e6), temp / 1000, "gpu-thermal", load / 1000)


def test_the_whole_tree_may_be_written_anew(nx):
    telemetry = SysfsTelemetry(nx)
    telemetry.sample()
    shutil.rmtree(nx)
    reading = telemetry.sample()
    assert (reading.watts, reading.celsius, reading.gpu_load, dict(reading.rails)) == (None, None, None, {})
    assert f"the rail VDD_IN: {nx / NX_RAIL}/in1_input cannot be read: No such file" in reading.trouble
    assert "no thermal zone tells a temperature" in reading.trouble
    build(nx, "nx")
    assert telemetry.sample().watts == NX_WATTS


def test_a_driver_that_comes_back_under_another_number_is_found_again(nx):
    clock = Clock()
    telemetry = SysfsTelemetry(nx, clock=clock)
    (nx / NX_RAIL).rename((nx / NX_RAIL).with_name("hwmon7"))
    # An open file of a folder that was renamed still tells the truth; the kernel removes its files.
    shutil.copytree((nx / NX_RAIL).with_name("hwmon7"), (nx / NX_RAIL).with_name("hwmon8"))
    shutil.rmtree((nx / NX_RAIL).with_name("hwmon7"))
    assert telemetry.sample().watts is None
    assert telemetry.sample().watts is None, "looked for again at once: that costs more than a reading"
    clock.now += 11
    assert telemetry.sample().watts == NX_WATTS


def test_looking_again_never_makes_a_smaller_sum(agx):
    clock = Clock()
    telemetry = SysfsTelemetry(agx, clock=clock)
    assert telemetry.sample().watts is not None
    shutil.rmtree(agx / AGX_DDR)
    for _ in range(3):
        clock.now += 11
        reading = telemetry.sample()
        assert reading.watts is None
        assert reading.measures == "sum of 4 rails"
        assert len(reading.rails) == 3
        assert "VDDQ_VDD2_1V8AO" in reading.trouble


def moved(root, folder, name):
    """A driver was loaded anew: its folder has another number; the kernel removes the old files."""
    new = (root / folder).with_name(name)
    shutil.copytree(root / folder, new)
    shutil.rmtree(root / folder)
    return new.relative_to(root).as_posix()


def test_rails_whose_driver_is_loaded_late_are_found(tmp_path):
    put(tmp_path, "class/thermal/thermal_zone0/temp", 40000)
    clock = Clock()
    telemetry = SysfsTelemetry(tmp_path, tmp_path, clock=clock)
    rail(tmp_path, NX_RAIL, 1, "VDD_IN", 5000, 1000)
    clock.now += 29
    assert telemetry.sample().watts is None, "most machines never have any: it is looked for seldom"
    clock.now += 1
    assert telemetry.sample().watts == 5.0
    assert telemetry.has_power


def test_with_all_there_nothing_is_looked_for_again(nx, monkeypatch):
    clock = Clock()
    telemetry = SysfsTelemetry(nx, clock=clock)
    monkeypatch.setattr(sysfs, "_find", lambda *_: pytest.fail("looked for"))
    for _ in range(10):
        clock.now += 31
        assert telemetry.sample().watts == NX_WATTS


def test_zones_that_come_back_under_another_number_are_found_again_also_without_rails(tmp_path):
    clock = Clock()
    for number, kind in enumerate(("cpu", "gpu")):
        put(tmp_path, f"{ZONE}{number}/type", kind)
        put(tmp_path, f"{ZONE}{number}/temp", 40000 + number)
    telemetry = SysfsTelemetry(tmp_path, tmp_path, clock=clock)
    assert telemetry.sample().hottest == "gpu"
    moved(tmp_path, f"{ZONE}1", "thermal_zone5")
    assert set(telemetry.sample().zones) == {"cpu"}
    clock.now += 10
    telemetry.sample()
    reading = telemetry.sample()
    assert (reading.zones, "cannot be read" in reading.trouble) == ({"cpu": 40.0, "gpu": 40.001}, False)


def test_a_zone_that_stays_away_is_told_and_its_number_given_out_again_is_not_it(tmp_path):
    clock = Clock()
    for number, kind in enumerate(("cpu", "gpu", "soc")):
        put(tmp_path, f"{ZONE}{number}/type", kind)
        put(tmp_path, f"{ZONE}{number}/temp", 40000)
    telemetry = SysfsTelemetry(tmp_path, tmp_path, clock=clock)
    shutil.rmtree(tmp_path / f"{ZONE}1")
    shutil.rmtree(tmp_path / f"{ZONE}2")
    clock.now += 10
    telemetry.sample()
    put(tmp_path, f"{ZONE}2/type", "nvme")
    put(tmp_path, f"{ZONE}2/temp", 30000)
    for _ in range(2):
        clock.now += 10
        reading = telemetry.sample()
    assert reading.zones == {"cpu": 40.0, "nvme": 30.0}
    assert "thermal_zone1/temp cannot be read" in reading.trouble


def test_after_a_reload_with_fewer_rails_the_total_is_read_again(nx):
    clock = Clock()
    telemetry = SysfsTelemetry(nx, clock=clock)
    telemetry.sample()
    (nx / NX_RAIL / "curr3_input").unlink()
    moved(nx, NX_RAIL, "hwmon9")
    assert telemetry.sample().watts is None
    clock.now += 10
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, len(reading.rails)) == (NX_WATTS, "VDD_IN", 2)
    assert "VDD_SOC" in reading.trouble


def test_after_a_reload_with_fewer_rails_a_sum_stays_unknown_until_all_are_back(agx):
    clock = Clock()
    telemetry = SysfsTelemetry(agx, clock=clock)
    telemetry.sample()
    kept = agx.with_name("kept")
    shutil.copytree(agx / AGX_DDR, kept)
    shutil.rmtree(agx / AGX_DDR)
    moved(agx, "bus/i2c/devices/1-0040/hwmon/hwmon1", "hwmon8")
    assert len(telemetry.sample().rails) == 0
    clock.now += 10
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, len(reading.rails)) == (None, "sum of 4 rails", 3)
    shutil.copytree(kept, (agx / AGX_DDR).with_name("hwmon9"))
    clock.now += 10
    assert telemetry.sample().watts == pytest.approx(AGX_WATTS)


def test_a_number_below_class_hwmon_that_is_given_to_another_chip_is_not_the_rail_that_was_lost(tmp_path):
    for device, label in (("1-0040", "VDD_A"), ("1-0041", "VDD_B")):
        rail(tmp_path, f"devices/{device}/hwmon/hwmon{device[-1]}", 1, label, 5000, 1000)
        put(tmp_path, "class/hwmon/x", "")
        os.symlink(tmp_path / f"devices/{device}/hwmon/hwmon{device[-1]}", tmp_path / f"class/hwmon/hwmon{device[-1]}")
    clock = Clock()
    telemetry = SysfsTelemetry(tmp_path, tmp_path, clock=clock)
    assert telemetry.sample().watts == 10.0
    shutil.rmtree(tmp_path / "devices/1-0040")
    (tmp_path / "class/hwmon/hwmon0").unlink()
    (tmp_path / "class/hwmon/hwmon1").rename(tmp_path / "class/hwmon/hwmon0")
    for _ in range(2):
        clock.now += 10
        reading = telemetry.sample()
    assert (reading.watts, reading.rails) == (None, {"VDD_B": 5.0})


def test_a_rail_that_was_on_before_its_driver_was_loaded_anew_is_missed_when_it_shows_no_voltage(agx):
    clock = Clock()
    telemetry = SysfsTelemetry(agx, clock=clock)
    telemetry.sample()
    new = moved(agx, AGX_DDR, "hwmon9")
    name = next(path.name for path in sorted((agx / new).glob("in[123]_label")) if path.read_text().strip() == "VDDQ_VDD2_1V8AO")
    put(agx, f"{new}/{name.replace('label', 'input')}", 0)
    telemetry.sample()
    clock.now += 10
    reading = telemetry.sample()
    assert (reading.watts, reading.measures) == (None, "sum of 4 rails")
    assert "shows no voltage any more" in reading.trouble


def test_a_gpu_whose_load_went_away_is_told_and_looking_again_leaks_no_file(nx):
    def handles():
        return sum(1 for n in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{n}").startswith(str(nx)))
    clock = Clock()
    telemetry = SysfsTelemetry(nx, clock=clock)
    telemetry.sample()
    opened = handles()
    (nx / "class/devfreq/17000000.gpu/device/load").unlink()
    for _ in range(5):
        clock.now += 10
        reading = telemetry.sample()
    assert "device/load cannot be read" in reading.trouble
    assert reading.watts == NX_WATTS
    assert handles() == opened - 1
    telemetry.close()


def test_of_many_files_that_cannot_be_read_the_first_is_named_and_the_others_counted(nx):
    telemetry = SysfsTelemetry(nx)
    telemetry.sample()
    shutil.rmtree(nx)
    trouble = telemetry.sample().trouble
    assert trouble.count("cannot be read") == 1
    assert trouble.startswith("the rail VDD_IN: ")
    assert " and " in trouble
    assert trouble.endswith("no thermal zone tells a temperature")
    assert summed(["a cannot be read: gone", "b", "c cannot be read: gone"]) == "a cannot be read: gone; b; c cannot be read: gone"
    assert summed(["b", *(f"{n} cannot be read: gone" for n in range(6))]) == "0 cannot be read: gone, and 5 more; b"


@pytest.mark.parametrize("text", [b"", b"\n", b"nan\n", b"inf\n", b"1e3\n", b"12.5\n", b"-40\n", b"0x20\n", b"1_000\n", b"9" * 30,
                                  b"99999999999\n", "٣٤".encode(), b"12 13\n", b"\xff\xfe\0"])
@pytest.mark.parametrize("name", ["in2_input", "curr2_input"])
def test_a_sum_without_one_of_its_rails_is_unknown(agx, name, text):
    telemetry = SysfsTelemetry(agx)
    telemetry.sample()
    put(agx, f"bus/i2c/devices/1-0040/hwmon/hwmon1/{name}", text)
    reading = telemetry.sample()
    assert reading.watts is None
    assert "VDD_CPU_CV" in reading.trouble
    assert name in reading.trouble
    assert set(reading.rails) == {"VDD_GPU_SOC", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert reading.measures == "sum of 4 rails"
    assert reading.celsius == 47.312


def test_a_rail_beside_the_total_may_fail(nx):
    put(nx, f"{NX_RAIL}/curr3_input", "rubbish")
    reading = SysfsTelemetry(nx).sample()
    assert reading.watts == NX_WATTS
    assert "VDD_SOC" not in reading.rails
    assert "curr3_input holds no number: b'rubbish'" in reading.trouble


def test_a_total_that_fails_is_never_replaced_by_a_sum(nx):
    put(nx, f"{NX_RAIL}/curr1_input", -8)
    reading = SysfsTelemetry(nx).sample()
    assert (reading.watts, reading.measures) == (None, "VDD_IN")
    assert "curr1_input says -8, which cannot be" in reading.trouble
    assert len(reading.rails) == 2


def test_a_rail_without_a_voltage_is_no_rail_until_it_has_one(agx):
    dark = "bus/i2c/devices/1-0041/hwmon/hwmon2"
    rail(agx, dark, 3, "VDD_SPARE", 0, 500)
    telemetry = SysfsTelemetry(agx)
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, reading.trouble) == (pytest.approx(AGX_WATTS), "sum of 4 rails", "")
    put(agx, f"{dark}/in3_input", 5000)
    reading = telemetry.sample()
    assert (reading.watts, reading.measures) == (pytest.approx(AGX_WATTS + 2.5), "sum of 5 rails")
    put(agx, f"{dark}/in3_input", 0)
    reading = telemetry.sample()
    assert (reading.watts, reading.measures) == (None, "sum of 5 rails")
    assert "VDD_SPARE" in reading.trouble
    assert "no voltage any more" in reading.trouble


def test_channels_that_are_off_or_not_connected_or_no_rails_are_left_out(nx):
    put(nx, f"{NX_RAIL}/in3_enable", 0)
    put(nx, f"{NX_RAIL}/in2_label", "NC")
    put(nx, f"{NX_RAIL}/in7_input", 5000)
    put(nx, f"{NX_RAIL}/curr4_input", 5000)
    put(nx, f"{NX_RAIL}/in4_input", 40)
    assert set(SysfsTelemetry(nx).sample().rails) == {"VDD_IN"}


def test_chips_are_found_by_their_class_and_by_their_bus_but_once(nx, tmp_path):
    os.symlink(nx / NX_RAIL, nx / "class/hwmon/hwmon1")
    os.symlink(nx / f"{ZONE}0", put(nx, "class/thermal/x", "").with_name("thermal_zone0"))
    assert SysfsTelemetry(nx).sample().rails.keys() == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert len(SysfsTelemetry(nx).sample().zones) == 4
    rail(tmp_path / "b", "class/hwmon/hwmon3", 1, "POM_5V_IN", 5000, 1000)
    reading = SysfsTelemetry(tmp_path / "b").sample()
    assert (reading.watts, reading.measures) == (5.0, "POM_5V_IN")
    assert reading.trouble == "no thermal zone tells a temperature"


def test_two_rails_of_one_name_are_both_kept(tmp_path):
    for device in ("1-0040", "1-0041"):
        rail(tmp_path, f"bus/i2c/devices/{device}/hwmon/hwmon1", 1, "VDD_X", 5000, 1000)
    rail(tmp_path, "bus/i2c/devices/1-0041/hwmon/hwmon1", 2, "", 5000, 1000)
    assert SysfsTelemetry(tmp_path).sample().rails.keys() == {"VDD_X", "VDD_X 1-0041", "channel 2 of 1-0041"}


@pytest.mark.parametrize(("files", "device_tree", "watts", "measures"), [
    ({"power1_input": 61_250_000}, "NVIDIA Jetson AGX Thor Developer Kit\0", 61.25, "VIN"),
    ({"in1_input": 19500, "curr1_input": 2000}, "NVIDIA Jetson AGX Thor Developer Kit\0", 39.0, "VIN"),
    ({"power1_input": 61_250_000, "label": "VIN"}, None, 61.25, "VIN"),
    ({"power1_input": 61_250_000}, None, 64.25, "sum of 2 rails"),
    ({"power1_input": -1}, "Thor", None, "VIN"),
    ({"power1_input": 10**10}, "Thor", None, "VIN"),
])
def test_a_thor_has_an_ina238_for_the_whole_board(tmp_path, files, device_tree, watts, measures):
    folder = "bus/i2c/devices/2-0044/hwmon/hwmon4"
    rail(tmp_path, "bus/i2c/devices/2-0040/hwmon/hwmon3", 1, "VDD_GPU", 12000, 250)
    put(tmp_path, f"{folder}/name", "ina238")
    for name, value in files.items():
        put(tmp_path, f"{folder}/{name}", value)
    if device_tree:
        put(tmp_path, "proc/device-tree/model", device_tree)
    reading = SysfsTelemetry(tmp_path, tmp_path / "proc").sample()
    assert (reading.watts, reading.measures) == (watts, measures)
    assert reading.rails["VDD_GPU"] == 3.0


@pytest.mark.parametrize(("text", "trouble"), [
    ("-256000", ""), ("150001", "150.001 degrees"), ("-40001", "-40.001 degrees"), ("99999999999", "cannot be"), ("warm", "no number"), ("", "no number")])
def test_a_zone_that_is_offline_or_mad_is_left_out(nx, text, trouble):
    telemetry = SysfsTelemetry(nx)
    put(nx, f"{ZONE}0/temp", text)
    put(nx, f"{ZONE}4/temp", text)
    reading = telemetry.sample()
    assert (reading.celsius, reading.hottest) == (46.125, "soc0-thermal")
    assert set(reading.zones) == {"gpu-thermal", "soc0-thermal"}
    assert reading.trouble.count("thermal_zone") == (2 if trouble else 0)
    assert trouble in reading.trouble
    assert reading.watts == NX_WATTS


def test_a_zone_whose_read_fails_for_being_off_is_no_trouble(nx, monkeypatch):
    telemetry = SysfsTelemetry(nx)
    telemetry.sample()
    real, handle = os.pread, telemetry._found.zones.files["gpu-thermal"]._handle
    asked = []

    def pread(number, length, offset):
        if number == handle:
            asked.append(number)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(number, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    reading = telemetry.sample()
    assert asked == [handle]
    assert "gpu-thermal" not in reading.zones
    assert reading.trouble == ""
    monkeypatch.undo()
    assert "gpu-thermal" in telemetry.sample().zones


def test_no_zone_at_all_is_an_unknown_temperature(nx):
    telemetry = SysfsTelemetry(nx)
    for n in range(5):
        put(nx, f"{ZONE}{n}/temp", -256000)
    reading = telemetry.sample()
    assert (reading.celsius, reading.hottest, reading.zones) == (None, "", {})
    assert reading.trouble == "no thermal zone tells a temperature"


def test_freezing_is_a_temperature(nx):
    for n in range(5):
        put(nx, f"{ZONE}{n}/temp", -5000 - n)
    assert SysfsTelemetry(nx).sample().celsius == -5.0


@pytest.mark.parametrize(("name", "words"), [("curr1_max_alarm", "VDD_IN: current above its warning limit"),
                                             ("curr2_crit_alarm", "VDD_CPU_GPU_CV: current above its critical limit")])
def test_an_alarm_of_a_rail_is_told_while_it_lasts(nx, name, words):
    telemetry = SysfsTelemetry(nx)
    put(nx, f"{NX_RAIL}/{name}", 1)
    assert telemetry.sample().alarms == (words,)
    put(nx, f"{NX_RAIL}/{name}", 0)
    assert telemetry.sample().alarms == ()
    put(nx, f"{NX_RAIL}/{name}", "?")
    reading = telemetry.sample()
    assert reading.alarms == ()
    assert name in reading.trouble


def test_over_current_is_counted_by_the_kernel_and_told_when_it_rises(nx):
    put(nx, "class/hwmon/hwmon3/name", "soctherm_oc")
    for n, count in ((1, 0), (2, 7), (3, 37)):
        put(nx, f"class/hwmon/hwmon3/oc{n}_event_cnt", count)
        put(nx, f"class/hwmon/hwmon3/oc{n}_throt_en", 1)
    telemetry = SysfsTelemetry(nx)
    reading = telemetry.sample()
    assert reading.events == {"oc1_event_cnt": 0, "oc2_event_cnt": 7, "oc3_event_cnt": 37}
    assert reading.alarms == (), "what was before we came is no alarm of now"
    put(nx, "class/hwmon/hwmon3/oc3_event_cnt", 41)
    assert telemetry.sample().alarms == ("instantaneous over-current: oc3_event_cnt rose by 4",)
    assert telemetry.sample().alarms == ()
    put(nx, "class/hwmon/hwmon3/oc3_event_cnt", "x")
    reading = telemetry.sample()
    assert "oc3_event_cnt" not in reading.events
    assert "oc3_event_cnt" in reading.trouble
    put(nx, "class/hwmon/hwmon3/oc3_event_cnt", 42)
    assert telemetry.sample().alarms == ("instantaneous over-current: oc3_event_cnt rose by 1",)


def test_throttling_of_x86_cores_is_one_counter(nx):
    for core, count in enumerate((3, 4)):
        put(nx, f"devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", count)
    telemetry = SysfsTelemetry(nx)
    assert telemetry.sample().events == {"core_throttle_count": 7}
    put(nx, "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 6)
    assert telemetry.sample().alarms == ("throttling by temperature: core_throttle_count rose by 2",)


def test_a_throttle_alert_of_a_jetson_is_an_alarm_and_a_fan_is_not(nx):
    for n, (kind, state) in enumerate((("pwm-fan", 3), ("cpu-throttle-alert", 0), ("gpu-throttle-alert", 1))):
        put(nx, f"class/thermal/cooling_device{n}/type", kind)
        put(nx, f"class/thermal/cooling_device{n}/cur_state", state)
    assert SysfsTelemetry(nx).sample().alarms == ("throttling by temperature: gpu-throttle-alert",)


def test_temperatures_alone_are_something_to_read(tmp_path):
    put(tmp_path, "class/thermal/thermal_zone0/type", "acpitz")
    put(tmp_path, "class/thermal/thermal_zone0/temp", 40000)
    telemetry = SysfsTelemetry(tmp_path)
    reading = telemetry.sample()
    assert not telemetry.has_power
    assert (reading.watts, reading.measures, reading.celsius) == (None, "", 40.0)
    assert reading.trouble == f"there is no power sensor (INA3221 or INA238) under {tmp_path}"


def test_nothing_to_read_is_said_with_a_remedy(tmp_path):
    with pytest.raises(NoSensorsError, match=f"no power rail, no thermal zone and no GPU load under {tmp_path}") as caught:
        SysfsTelemetry(tmp_path / ".", tmp_path)
    assert "sysfs" in caught.value.remedy
    with pytest.raises(NoSensorsError):
        SysfsTelemetry(tmp_path / "nowhere")


def test_the_older_place_of_the_gpu_load(tmp_path):
    put(tmp_path, "devices/gpu.0/load", 250)
    assert SysfsTelemetry(tmp_path).sample().gpu_load == 0.25
    put(tmp_path, "devices/gpu.0/load", 1001)
    reading = SysfsTelemetry(tmp_path).sample()
    assert reading.gpu_load is None
    assert "load says 1001" in reading.trouble


def test_closing_lets_go_of_every_file_and_reading_opens_them_again(nx):
    def handles():
        return sum(1 for n in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{n}").startswith(str(nx)))
    before = handles()
    telemetry = SysfsTelemetry(nx)
    telemetry.sample()
    opened = handles()
    for _ in range(5):
        telemetry.sample()
    assert handles() == opened > before
    telemetry.close()
    assert handles() == before == 0
    telemetry.close()


def test_files_are_kept_open_between_samples(nx, monkeypatch):
    telemetry = SysfsTelemetry(nx)
    telemetry.sample()
    monkeypatch.setattr(os, "open", lambda *a, **k: pytest.fail(f"opened again: {a[0]}"))
    assert telemetry.sample().watts == NX_WATTS


def test_a_file_that_is_a_folder_or_a_pipe_holds_nobody_up(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        file = SensorFile(tmp_path / name)
        assert file.read(0, 10) is None
        assert name in file.why


def test_names_stay_different():
    taken = []
    for _ in range(4):
        taken.append(unused("a", taken, "b"))
    assert taken == ["a", "a b", "a b 2", "a b 3"]


FILES = st.sampled_from([
    *(f"{NX_RAIL}/{kind}{n}_{what}" for n in (1, 2, 3) for kind, what in (
        ("in", "input"), ("in", "label"), ("in", "enable"), ("curr", "input"), ("curr", "max_alarm"))),
    f"{NX_RAIL}/name", *(f"{ZONE}{n}/{what}" for n in range(5) for what in ("type", "temp")),
    "class/devfreq/17000000.gpu/device/load", "class/hwmon/hwmon0/name", "class/hwmon/hwmon0/oc1_event_cnt"])
TEXTS = st.one_of(st.binary(max_size=40), st.integers().map(lambda n: str(n).encode()), st.floats().map(lambda n: str(n).encode()),
                  st.sampled_from([b"nan", b"-0", b"1e309", b"NC", b"VIN", b"ina238", b"VDD_IN", b"\0", b"9" * 400]))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return build(tmp_path_factory.mktemp("template") / "sys", "nx")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(st.tuples(FILES, TEXTS), max_size=6), after=st.lists(st.tuples(FILES, TEXTS | st.none()), max_size=6))
def test_garbage_never_raises_and_never_becomes_a_number_that_cannot_be(template, tmp_path, before, after):
    root = tmp_path / "sys"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root, symlinks=True)
    for name, text in before:
        put(root, name, text)
    try:
        telemetry = SysfsTelemetry(root)
    except NoSensorsError:
        return
    try:
        check(telemetry.sample())
        for name, text in after:
            if text is None:
                (root / name).unlink(missing_ok=True)
            else:
                put(root, name, text)
        check(telemetry.sample())
        check(telemetry.sample())
    finally:
        telemetry.close()


def check(reading):
    numbers = [*reading.rails.values(), *reading.events.values(), *(n for n in (reading.watts, reading.gpu_load) if n is not None)]
    assert all(math.isfinite(n) and n >= 0 for n in numbers)
    assert all(-40 <= n <= 150 for n in [*reading.zones.values(), *([reading.celsius] if reading.celsius is not None else [])])
    assert reading.gpu_load is None or reading.gpu_load <= 1
    assert reading.watts is not None or reading.trouble
    assert reading.celsius is not None or reading.trouble
    if reading.watts is not None:
        expected = reading.rails[reading.measures] if reading.measures in sysfs._TOTALS else sum(reading.rails.values())
        assert reading.watts == expected


def test_this_machine_is_read_without_a_fault():
    try:
        telemetry = SysfsTelemetry(Path("/sys"))
    except NoSensorsError:
        return
    check(telemetry.sample())
    telemetry.close()
