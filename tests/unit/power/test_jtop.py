"""The adapter of jtop over doubles of the client: what becomes of its dictionaries, its errors and its silences."""

import errno
import itertools
import multiprocessing
import os
import sys
import threading
import time
import types
from datetime import timedelta

import pytest

from agent.clock import boottime
from agent.power import jtop_client
from agent.power.jtop import JtopTelemetry, Sample, Settings, reading_of, settings_of
from agent.power.jtop_client import Link, explained, start_method_kept, unreachable
from agent.power.telemetry import NoSensorsError


def rail(power, volt=5000, **more):
    return {"type": "INA3221", "volt": volt, "curr": 100, "power": power, "avg": power, "online": True, **more}


NX = {"rail": {"VDD_CPU_GPU_CV": rail(2393), "VDD_SOC": rail(1582)}, "tot": {**rail(7599), "name": "VDD_IN"}}
AGX = {"rail": {"VDD_GPU_SOC": rail(4408), "VDD_CPU_CV": rail(779), "VIN_SYS_5V0": rail(4354), "VDDQ_VDD2_1V8AO": rail(912)},
       "tot": {"power": 10453, "avg": 10453}}
ZONES = {"cpu": {"temp": 47.312, "online": True}, "cv0": {"temp": -256, "online": False}, "gpu": {"temp": 45.906, "online": True}}
GPU = {"gpu": {"type": "integrated", "status": {"load": 63.7, "railgate": True}, "freq": {"cur": 624750}}}


def read(power=NX, temperature=ZONES, gpu=GPU, known=()):
    return reading_of(Sample(at_s=5.0, power=power, temperature=temperature, gpu=gpu), known)


def test_the_total_rail_is_the_power_where_there_is_one():
    seen = read()
    assert (seen.at_s, seen.watts, seen.measures, seen.trouble) == (5.0, 7.599, "VDD_IN", "")
    assert seen.rails == {"VDD_CPU_GPU_CV": 2.393, "VDD_IN": 7.599, "VDD_SOC": 1.582}
    assert (seen.celsius, seen.hottest) == (47.312, "cpu")
    assert seen.zones == {"cpu": 47.312, "gpu": 45.906}
    assert seen.gpu_load == pytest.approx(0.637)


@pytest.mark.parametrize("name", ["VIN", "POM_5V_IN", "VDD_IN"])
def test_a_total_that_is_still_among_the_rails_is_found(name):
    assert read({"rail": {name: rail(9000), "VDD_SOC": rail(1000)}, "tot": {"power": 10000}}).measures == name


def test_without_a_total_the_rails_are_added_and_counted():
    seen = read(AGX)
    assert seen.watts == pytest.approx(10.453)
    assert seen.measures == "sum of 4 rails"


@pytest.mark.parametrize("extra", [
    {"VDD_X": rail(5000, online=False)}, {"VDD_X": rail(-1)}, {"VDD_X": rail(None)}, {"VDD_X": rail(float("nan"))}, {"VDD_X": {}}, {"VDD_X": None},
    {"VDD_X": rail(0, volt=0)}, {"VDD_X": rail(5_000_000)}, {"VDD_X": rail(True)}, {"battery": rail(5000, type="Battery")}, {"usb": rail(9000, type="USB")},
])
def test_what_tells_nothing_is_no_part_of_the_sum(extra):
    seen = read({"rail": {**AGX["rail"], **extra}, "tot": {"power": 99999}})
    assert seen.watts == pytest.approx(10.453), "jtop's own sum has it in"
    assert seen.measures == "sum of 4 rails"
    assert not seen.rails.keys() & extra.keys()


def test_a_sum_that_lost_a_rail_is_unknown_and_no_smaller_sum():
    left = {name: entry for name, entry in AGX["rail"].items() if name != "VDD_CPU_CV"}
    seen = read({"rail": left, "tot": {"power": 9674}}, known=AGX["rail"])
    assert seen.watts is None
    assert seen.measures == "sum of 4 rails"
    assert seen.trouble == "jtop tells nothing of the rail VDD_CPU_CV any more"


def test_a_total_that_tells_nothing_is_unknown_and_not_replaced_by_a_sum():
    seen = read({**NX, "tot": {**rail(7599, online=False), "name": "VDD_IN"}})
    assert seen.watts is None
    assert seen.measures == "VDD_IN"
    assert "no power" in seen.trouble


@pytest.mark.parametrize("power", [None, {}, [], {"rail": {}, "tot": {"power": 0, "avg": 0}}, {"rail": None, "tot": None}])
def test_a_board_without_rails_has_no_power_and_not_zero(power):
    seen = read(power)
    assert seen.watts is None
    assert seen.measures == ""
    assert "no power" in seen.trouble
    assert seen.celsius == 47.312


@pytest.mark.parametrize("zones", [
    None, {}, {"cpu": {"temp": -256, "online": True}}, {"cpu": {"temp": -256.0}}, {"cpu": None}, {"cpu": {"temp": "x"}}, {"cpu": {"temp": 400}}, {"cpu": -256},
    {"nvme Composite": {"temp": 60.0, "max": 80.0, "crit": 85.0, "online": True}},
])
def test_zones_that_tell_nothing_are_unknown(zones):
    seen = read(temperature=zones)
    assert (seen.celsius, seen.hottest, seen.zones) == (None, "", {})
    assert "no temperature" in seen.trouble
    assert seen.watts == 7.599


def test_bare_numbers_of_old_releases_are_temperatures():
    assert read(temperature={"CPU": 41.5, "PLL": 40}).zones == {"CPU": 41.5, "PLL": 40.0}


@pytest.mark.parametrize(("gpu", "load"), [
    ({}, None), (None, None), ({"gpu": {"status": {}}}, None), ({"gpu": {"status": {"load": -1}}}, None), ({"gpu": {"status": {"load": 101}}}, None),
    ({"gpu": {"status": {"load": 0.0}}}, 0.0), ({"a": {"status": {"load": 10}}, "b": {"status": {"load": 30}}}, 0.3),
])
def test_the_load_is_a_share_or_unknown(gpu, load):
    assert read(gpu=gpu).gpu_load == load


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Double:
    """A connection whose fate a test decides."""

    def __init__(self, interval_s, take, clock):
        self.interval_s, self.take, self.clock, self.began_s = interval_s, take, clock, clock()
        self.version, self.client, self.why, self.closed, self.orders = "7.2.2", None, "", False, []

    def give(self, age_s=0.0, interval=0.5, **fields):
        self.client = types.SimpleNamespace(power=NX, temperature=ZONES, gpu=GPU, interval=interval,
                                            uptime=timedelta(seconds=boottime() - age_s), **fields)
        self.take(self.client)

    def ended(self):
        return self.why

    def order(self, give):
        self.orders.append(give)
        return ""

    def close(self):
        self.closed = True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def links():
    return []


@pytest.fixture
def telemetry(clock, links):
    def connect(interval_s, take):
        links.append(Double(interval_s, take, clock))
        return links[-1]

    return JtopTelemetry(0.5, there=lambda: True, connect=connect, clock=clock)


def test_without_the_package_there_is_nothing_that_could_ever_come():
    with pytest.raises(NoSensorsError, match=r"jetson-stats is not installed\n.*\[jetson\]"):
        JtopTelemetry(there=lambda: False)


def test_a_sample_has_the_time_when_the_service_took_it(telemetry, links, clock):
    links[0].give(age_s=0.4)
    seen = telemetry.sample()
    assert seen.at_s == pytest.approx(clock.now - 0.4, abs=0.05)
    assert seen.watts == 7.599
    assert telemetry.name == "jtop 7.2.2"


def test_a_sample_older_than_three_intervals_is_unknown_altogether(telemetry, links, clock):
    links[0].give()
    clock.now += 1.4
    assert telemetry.sample().watts == 7.599
    clock.now += 0.2
    seen = telemetry.sample()
    assert (seen.watts, seen.celsius, seen.gpu_load, seen.rails, seen.zones, seen.measures) == (None, None, None, {}, {}, "")
    assert seen.at_s == clock.now
    assert seen.trouble == "jtop gave nothing for 1.6 s"


def test_an_old_sample_handed_on_again_stays_old(telemetry, links):
    links[0].give(age_s=1.6)
    assert telemetry.sample().watts is None


def test_a_service_that_another_client_slowed_down_is_waited_for_longer(telemetry, links, clock):
    links[0].give(interval=2.0)
    clock.now += 5.0
    assert telemetry.sample().watts == 7.599
    clock.now += 1.5
    assert telemetry.sample().watts is None


def test_a_broken_connection_is_told_and_made_again_ever_more_slowly(telemetry, links, clock):
    links[0].why = "jtop.service is not running: `sudo systemctl start jtop`"
    seen = telemetry.sample()
    assert seen.watts is None
    assert seen.trouble == links[0].why
    assert links[0].closed
    tried = []
    for _ in range(6000):
        clock.now += 0.05
        before = len(links)
        assert telemetry.sample().trouble
        if len(links) > before:
            tried.append(clock.now)
            links[-1].why = "still not running"
    waits = [b - a for a, b in itertools.pairwise(tried)]
    assert 10 <= len(tried) < 60, "first waits up to 1 s, then up to 30"
    assert max(waits) <= 30.2


def test_a_connection_made_again_gives_readings_again(telemetry, links, clock):
    links[0].give()
    links[0].why = "lost"
    assert telemetry.sample().watts == 7.599, "it was true half a second ago"
    clock.now += 2.0
    assert telemetry.sample().watts is None
    assert len(links) == 2
    assert telemetry.sample().trouble == "lost", "the trouble stands until something comes"
    links[1].give()
    assert telemetry.sample().trouble == ""
    assert telemetry.trouble == ""


def test_a_client_without_fields_is_unknown_and_does_not_raise(telemetry, links):
    links[0].take(object())
    seen = telemetry.sample()
    assert (seen.watts, seen.celsius, seen.gpu_load) == (None, None, None)
    assert seen.trouble == "jtop knows no power of this board; jtop knows no temperature of this board"


def test_closed_it_is_unknown_and_stays_closed(telemetry, links, clock):
    links[0].give()
    telemetry.close()
    clock.now += 100
    assert telemetry.sample().watts is None
    assert links[0].closed
    assert len(links) == 1
    telemetry.close()


def test_settings_are_those_of_a_fresh_sample_only(telemetry, links, clock):
    assert telemetry.settings() is None
    links[0].give()
    assert telemetry.settings() == Settings(nvpmodel=None, modes=(), reachable=(), changing=False, jetson_clocks=None, clocks_state="")
    clock.now += 2
    assert telemetry.settings() is None


def test_settings_are_read_from_what_the_client_holds():
    class Clocks:
        status = "running"

        def __bool__(self):
            return True

    mode = types.SimpleNamespace(name="15W", models=["15W", "25W"], status=[True, False], is_running=lambda: True)
    assert settings_of(types.SimpleNamespace(nvpmodel=mode, jetson_clocks=Clocks())) == Settings(
        nvpmodel="15W", modes=("15W", "25W"), reachable=(True, False), changing=True, jetson_clocks=True, clocks_state="running")


@pytest.mark.parametrize(("error", "words"), [
    (RuntimeError("Mismatch version jtop service: [4.3.2] and client: [7.2.2]. Please run:\n\nsudo jtop"),
     ["4.3.2", "7.2.2", "pip install 'jetson-stats==4.3.*'"]),
    (RuntimeError("The jtop.service is not active. Please run:\nsudo"), ["not running", "systemctl start jtop"]),
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), ["not running", "systemctl start jtop"]),
    (RuntimeError("I can't access jtop.service.\nPlease logout"), ["no permission", "usermod -aG jtop"]),
    (PermissionError(errno.EACCES, "denied"), ["no permission", "usermod -aG jtop"]),
    (ImportError("No module named 'smbus2'"), ["smbus2", "pip install jetson-stats"]),
    (EOFError(), ["EOFError", "systemctl restart jtop"]), (KeyError("idle"), ["KeyError", "idle"]),
])
def test_each_trouble_says_what_and_how_to_mend_it_on_one_line(error, words):
    text = explained(error)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_the_socket_tells_whether_it_is_worth_trying(tmp_path):
    assert "there is no" in unreachable(tmp_path / "jtop.sock")
    (tmp_path / "jtop.sock").touch(0o660)
    assert unreachable(tmp_path / "jtop.sock") == ""


def test_the_start_method_is_as_it_was_after_a_package_has_forced_another():
    before = multiprocessing.get_start_method(allow_none=True)
    with start_method_kept():
        multiprocessing.set_start_method("spawn", force=True)
    assert multiprocessing.get_start_method(allow_none=True) == before


class PackageError(Exception):
    """As the package's own error: of no kind that is known here."""


def package(start=lambda _client: None, reads=lambda _client: None):
    class Client(threading.Thread):
        def __init__(self, interval):
            super().__init__(daemon=True)
            self.interval, self.observers, self.going, self.error, self.orders = interval, [], threading.Event(), None, []
            self._load_jetson_libraries()

        def _load_jetson_libraries(self):
            raise AssertionError("starts commands")

        def attach(self, observer):
            self.observers.append(observer)

        def start(self):
            start(self)
            super().start()

        def run(self):
            for observer in self.observers:
                observer(self)
            self.going.wait(10)
            try:
                reads(self)
            except PackageError as error:
                self.error = error

        def ok(self, spin):
            assert spin
            if self.error:
                raise self.error
            return True

        def close(self):
            self.going.set()

    return types.SimpleNamespace(jtop=Client, JtopException=PackageError, __version__="9.8.7")


def link(tmp_path, made, take=lambda _client: None):
    socket = tmp_path / "jtop.sock"
    socket.touch()
    return Link(0.5, take, lambda: made, socket)


def until(condition):
    deadline = time.monotonic() + 5
    while not (answer := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return answer


def test_a_link_hands_on_what_comes_until_it_is_closed(tmp_path):
    taken = []
    made = link(tmp_path, package(), taken.append)
    until(lambda: taken)
    until(lambda: made.client is not None)
    assert made.ended() == ""
    assert made.version == "9.8.7"
    made.close()
    assert until(made.ended) == "the connection to jtop was lost"
    made._take_unless_closed(made.client)
    assert len(taken) == 1


def test_a_link_that_cannot_be_made_says_why(tmp_path):
    def refuse(_client):
        raise PackageError("Mismatch version jtop service: [4.3.2] and client: [7.2.2].")

    assert "jetson-stats==4.3.*" in until(link(tmp_path, package(refuse)).ended)
    assert "there is no" in until(Link(0.5, print, dict, tmp_path / "none").ended)


def test_the_readers_error_ends_the_link_with_its_reason(tmp_path):
    def lose(_client):
        raise PackageError("Lost connection with jtop server")

    made = link(tmp_path, package(reads=lose))
    until(lambda: made.client is not None)
    made.client.going.set()
    assert "Lost connection" in until(made.ended)


def test_an_order_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(jtop_client, "_ORDER_S", 0.05)
    made = link(tmp_path, package())
    until(lambda: made.client is not None)
    hold = threading.Event()
    assert "took no order" in made.order(lambda _client: hold.wait(5))
    hold.set()
    monkeypatch.setattr(jtop_client, "_ORDER_S", 2.0)
    assert made.order(lambda client: client.orders.append(1)) == ""
    assert made.client.orders == [1]

    def refuse(_client):
        raise PackageError("I cannot set jetson_clocks.\nPlease")

    assert "I cannot set jetson_clocks. Please" in made.order(refuse)
    made.close()


def test_nothing_of_the_package_is_imported_before_it_is_needed():
    done = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", "import sys, agent.power.jtop, agent.power.actuator; sys.exit('jtop' in sys.modules)"])
    assert done == 0


def test_proxies_do_not_say_goodbye():
    cancelled = []
    proxy = types.SimpleNamespace(_close=types.SimpleNamespace(cancel=lambda: cancelled.append(1)))
    manager = types.SimpleNamespace(get_queue=lambda: proxy, sync_data=object, connect=lambda: "connected")
    quiet = jtop_client._Quiet(manager)
    assert quiet.get_queue() is proxy
    assert cancelled == [1]
    assert quiet.connect() == "connected"
    quiet.sync_data()
