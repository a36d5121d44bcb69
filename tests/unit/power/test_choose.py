"""Which reader is used, and who stands in for it: with readers that say what the test wants."""

import pytest

from agent.errors import ConfigError
from agent.power.choose import KINDS, Awaited, Chosen, Unknown, open_telemetry
from agent.power.telemetry import NoSensorsError, Reading


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Reader:
    """A reader whose next reading is set; it counts how often it was opened, asked and closed."""

    def __init__(self, kind, there=True, **reading):
        self.kind, self.there, self.reading = kind, there, reading
        self.opened = self.asked = self.closed = 0

    def __call__(self):
        if not self.there:
            raise NoSensorsError(f"no {self.kind} here", f"get a {self.kind}")
        self.opened += 1
        return self

    @property
    def name(self):
        return f"{self.kind} 1.0"

    @property
    def has_power(self):
        return "rails" in self.reading

    def sample(self):
        self.asked += 1
        return Reading(at_s=1.0, **self.reading)

    def close(self):
        self.closed += 1


def readers(**there):
    """Readers of all kinds; those not named are not there."""
    return {kind: Reader(kind, kind in there, **there.get(kind, {})) for kind in KINDS}


JTOP = {"watts": 7.0, "measures": "VDD_IN", "celsius": 50.0}
RAILS = {"watts": 6.0, "measures": "VDD_IN", "rails": {"VDD_IN": 6.0}}
ZONES = {"celsius": 40.0, "zones": {"cpu": 40.0}}
GPU = {"watts": 90.0, "measures": "GPU"}
CPU = {"watts": 30.0, "measures": "CPU packages"}


@pytest.mark.parametrize(("there", "socket", "jetson", "expected"), [
    ({"jtop": JTOP, "sysfs": RAILS, "nvml": GPU}, True, True, "jtop"),
    ({"jtop": JTOP, "sysfs": RAILS, "nvml": GPU}, False, True, "sysfs"),
    ({"sysfs": RAILS, "nvml": GPU}, True, True, "sysfs"),
    ({"sysfs": RAILS, "nvml": GPU}, False, False, "sysfs"),
    ({"sysfs": ZONES, "nvml": GPU}, False, True, "sysfs"),
    ({"sysfs": ZONES, "nvml": GPU, "rapl": CPU}, False, False, "nvml"),
    ({"sysfs": ZONES, "rapl": CPU}, False, False, "rapl"),
    ({"sysfs": ZONES}, False, False, "sysfs"),
    ({"sysfs": {"rails": {"VDD_IN": 6.0}}, "nvml": GPU}, False, False, "nvml"),
])
def test_auto_takes_the_first_that_is_there(tmp_path, there, socket, jetson, expected):
    if socket:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/jtop.sock").touch()
    if jetson:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID")
    telemetry = open_telemetry("auto", tmp_path, root=tmp_path, openers=readers(**there))
    reading = telemetry.sample()
    assert (telemetry.kind, telemetry.name) == (expected, f"{expected} 1.0")
    assert reading.watts is not None or reading.celsius is not None


def test_a_board_whose_rails_tell_no_total_yet_is_still_the_first_choice(tmp_path):
    there = readers(sysfs={"rails": {}, "trouble": "offline"}, nvml=GPU)
    telemetry = open_telemetry("auto", tmp_path, root=tmp_path, openers=there)
    assert telemetry.sample().measures == "GPU"
    there["sysfs"].reading = RAILS
    assert telemetry.sample().measures == "VDD_IN"


def test_a_sysfs_without_power_is_closed_before_the_next_is_tried(tmp_path):
    there = readers(sysfs=ZONES, nvml=GPU)
    open_telemetry("auto", tmp_path, root=tmp_path, openers=there)
    assert (there["sysfs"].opened, there["sysfs"].closed) == (1, 1)
    assert (there["nvml"].opened, there["nvml"].closed, there["rapl"].opened) == (1, 0, 0)


def test_auto_with_nothing_is_unknown_and_says_why(tmp_path):
    telemetry = open_telemetry("auto", tmp_path, root=tmp_path, openers=readers())
    assert isinstance(telemetry, Unknown)
    reading = telemetry.sample()
    assert (reading.watts, reading.celsius, telemetry.name) == (None, None, "none")
    for part in ("no sensors here", "jtop: its service does not run", "nvml: no nvml here", "rapl: no rapl here", "sysfs: no sysfs here"):
        assert reading.trouble.count(part) == 1
    telemetry.close()


def test_off_is_unknown_and_opens_nothing(tmp_path):
    there = readers(jtop=JTOP, sysfs=RAILS, nvml=GPU, rapl=CPU)
    telemetry = open_telemetry("off", tmp_path, root=tmp_path, openers=there)
    assert telemetry.sample().trouble == "telemetry is off"
    assert not any(reader.opened for reader in there.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wanted_is_opened_and_nothing_else(tmp_path, kind):
    there = readers(jtop=JTOP, sysfs=RAILS, nvml=GPU, rapl=CPU)
    assert open_telemetry(kind, tmp_path, root=tmp_path, openers=there) is there[kind]
    assert [reader.kind for reader in there.values() if reader.opened] == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wanted_and_not_there_is_an_error(tmp_path, kind):
    with pytest.raises(ConfigError) as error:
        open_telemetry(kind, tmp_path, root=tmp_path, openers=readers())
    assert f"no {kind} here" in error.value.what
    assert f"get a {kind}, or set" in error.value.remedy


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wanted_and_not_there_yet_is_awaited(tmp_path, kind):
    clock, there = Clock(), readers()
    there[kind].reading = JTOP
    telemetry = open_telemetry(kind, tmp_path, root=tmp_path, openers=there, wait=True, clock=clock)
    assert isinstance(telemetry, Awaited)
    assert (telemetry.sample().watts, telemetry.name) == (None, "none")
    assert telemetry.sample().trouble == (
        f"[budget] telemetry = {kind!r}: no {kind} here; get a {kind}; looked for again every 30 s")
    there[kind].there = True
    clock.now = 29.9
    assert telemetry.sample().watts is None
    clock.now = 30.0
    assert (telemetry.sample().watts, telemetry.sample().trouble, telemetry.name) == (7.0, "", f"{kind} 1.0")
    clock.now = 100.0
    telemetry.sample()
    assert there[kind].opened == 1
    telemetry.close()
    telemetry.close()
    assert there[kind].closed == 1
    clock.now = 1000.0
    assert telemetry.sample().trouble == "the sensors were let go"
    assert there[kind].opened == 1


def test_what_is_there_is_not_awaited(tmp_path):
    there = readers(sysfs=RAILS)
    assert open_telemetry("sysfs", tmp_path, root=tmp_path, openers=there, wait=True) is there["sysfs"]
    assert isinstance(open_telemetry("auto", tmp_path, root=tmp_path, openers=there, wait=True), Chosen)


def test_what_is_missing_is_looked_for_each_half_minute_and_the_reason_is_the_last_one(tmp_path):
    clock, there = Clock(), readers()
    telemetry = open_telemetry("nvml", tmp_path, root=tmp_path, openers=there, wait=True, clock=clock)
    asked = []

    def gone():
        asked.append(clock.now)
        raise NoSensorsError("the driver is not loaded")
    there["nvml"] = telemetry._opening = gone
    for second in range(95):
        clock.now = float(second)
        trouble = telemetry.sample().trouble
    assert asked == [30.0, 60.0, 90.0]
    assert "the driver is not loaded" in trouble


def test_auto_with_nothing_takes_what_comes_later(tmp_path):
    clock, there = Clock(), readers()
    telemetry = open_telemetry("auto", tmp_path, root=tmp_path, openers=there, wait=True, clock=clock)
    assert "no sensors here (jtop: its service does not run" in telemetry.sample().trouble
    assert "looked for again" in telemetry.sample().trouble
    (tmp_path / "run").mkdir()
    (tmp_path / "run/jtop.sock").touch()
    there["jtop"].there, there["jtop"].reading = True, JTOP
    clock.now = 31.0
    assert (telemetry.sample().watts, telemetry.name, telemetry.stands_in) == (7.0, "jtop 1.0", False)
    there["nvml"].there, there["nvml"].reading, there["jtop"].reading = True, GPU, {}
    assert (telemetry.sample().measures, telemetry.stands_in) == ("GPU", True)


def test_a_reader_nobody_has_is_an_error_however_long_one_would_wait(tmp_path):
    with pytest.raises(ConfigError, match="tea leaves"):
        open_telemetry("tea leaves", tmp_path, openers=readers(), wait=True)


def test_a_reader_nobody_has_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="tea leaves"):
        open_telemetry("tea leaves", tmp_path, openers=readers())


def chosen(clock=None, **there):
    all_of_them = readers(**there)
    return Chosen([(kind, all_of_them[kind]) for kind in KINDS], clock or Clock()), all_of_them


def test_the_next_stands_in_until_the_first_recovers():
    telemetry, there = chosen(sysfs=RAILS, nvml=GPU, rapl=CPU)
    assert (telemetry.sample().watts, telemetry.kind, there["nvml"].opened) == (6.0, "sysfs", 0)
    there["sysfs"].reading = {"trouble": "rails are offline"}
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, telemetry.name) == (90.0, "GPU", "nvml 1.0")
    assert reading.trouble == "sysfs: rails are offline; nvml stands in for sysfs"
    there["nvml"].reading = {}
    reading = telemetry.sample()
    assert (reading.watts, reading.measures, telemetry.kind) == (30.0, "CPU packages", "rapl")
    assert reading.trouble == "sysfs: rails are offline; nvml: neither power nor temperature; rapl stands in for sysfs"
    there["sysfs"].reading = RAILS
    assert (telemetry.sample().measures, telemetry.sample().trouble, telemetry.kind) == ("VDD_IN", "", "sysfs")
    assert [reader.opened - reader.closed for reader in there.values()] == [0, 1, 0, 0], "a stand-in is open only while it is needed"
    there["sysfs"].reading = {}
    there["nvml"].reading = GPU
    assert (telemetry.sample().measures, there["nvml"].opened, there["rapl"].opened) == ("GPU", 2, 1)


def test_the_stand_ins_own_trouble_is_told_too():
    telemetry, _ = chosen(sysfs={"trouble": "offline"}, nvml={**GPU, "trouble": "GPU load: Not Supported"})
    assert telemetry.sample().trouble == "sysfs: offline; nvml stands in for sysfs; GPU load: Not Supported"


@pytest.mark.parametrize("part", [{"watts": 6.0, "trouble": "no zone"}, {"celsius": 40.0, "trouble": "no rail"}])
def test_half_a_reading_of_the_first_is_better_than_another_ones(part):
    telemetry, there = chosen(sysfs=part, nvml=GPU)
    assert telemetry.sample() == Reading(at_s=1.0, **part)
    assert there["nvml"].opened == 0


def test_a_reader_does_not_stand_in_for_itself(tmp_path):
    there = readers(sysfs=RAILS)
    telemetry = open_telemetry("auto", tmp_path, root=tmp_path, openers=there)
    there["sysfs"].reading = {"trouble": "offline"}
    assert telemetry.sample().trouble == "sysfs: offline"
    assert there["sysfs"].opened == 1


def test_after_a_stand_in_has_gone_silent_too_the_first_is_named_again():
    telemetry, there = chosen(sysfs={}, nvml=GPU)
    assert (telemetry.sample().watts, telemetry.kind) == (90.0, "nvml")
    there["nvml"].reading = {}
    assert (telemetry.sample().watts, telemetry.kind) == (None, "sysfs")


def test_when_none_says_anything_the_first_ones_silence_is_given():
    telemetry, _ = chosen(sysfs={"trouble": "offline", "alarms": ("hot",)}, nvml={"trouble": "lost", "alarms": ("other",)})
    reading = telemetry.sample()
    assert (reading.watts, reading.celsius, reading.alarms, telemetry.kind) == (None, None, ("hot",), "sysfs")
    assert reading.trouble == "sysfs: offline; nvml: lost"


def test_a_stand_in_that_is_not_there_is_looked_for_again_but_seldom():
    clock = Clock()
    telemetry, there = chosen(clock, sysfs={}, nvml=GPU)
    there["nvml"].there = False
    assert telemetry.sample().watts is None
    there["nvml"].there = True
    clock.now = 29.0
    assert telemetry.sample().watts is None
    clock.now = 30.0
    assert telemetry.sample().watts == 90.0


def test_closing_closes_what_was_opened():
    telemetry, there = chosen(sysfs={}, nvml=GPU, rapl=CPU)
    telemetry.sample()
    telemetry.close()
    assert [(reader.opened, reader.closed) for reader in there.values()] == [(0, 0), (1, 1), (1, 1), (0, 0)]


def test_nothing_to_choose_from_is_an_error():
    with pytest.raises(NoSensorsError, match="jtop: no jtop here; sysfs: no sysfs here; nvml: no nvml here; rapl: no rapl here"):
        chosen()


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_the_real_readers_answer_on_this_machine(wanted, tmp_path):
    telemetry = open_telemetry(wanted, tmp_path)
    reading = telemetry.sample()
    assert reading.at_s > 0
    telemetry.close()
