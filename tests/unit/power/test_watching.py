"""The mean power of a while, from sensors that say what they are told to."""

import time
from contextlib import closing

import pytest

from agent.power.telemetry import Reading
from agent.power.watching import Watcher, mean_power, power_for


def reading(watts, at_s=0.0, measures="VDD_IN", trouble=""):
    return Reading(at_s=at_s, watts=watts, measures=measures if watts is not None else "", trouble=trouble)


class Sensors:
    """Gives what ``say`` returns for the number of the sample."""

    name = "sysfs"

    def __init__(self, say):
        self.say, self.samples = say, 0

    def sample(self):
        self.samples += 1
        return self.say(self.samples - 1)

    def close(self):
        pass


def test_the_mean_is_of_all_readings_that_know():
    power = mean_power([reading(4.0), reading(None), reading(8.0)], "sysfs")
    assert (power.watts, power.measures, power.telemetry, power.trouble) == (6.0, "VDD_IN", "sysfs", "")


@pytest.mark.parametrize(("readings", "trouble"), [
    ([], "no reading in that time"),
    ([reading(None, trouble="the rail is offline")], "the rail is offline"),
    ([reading(None), reading(None), reading(5.0)], "only 1 of 3 readings had a power"),
    ([reading(5.0), reading(5.0, measures="sum of 4 rails")], "measured different things meanwhile: VDD_IN, sum of 4 rails"),
])
def test_what_is_not_known_is_none_with_its_reason(readings, trouble):
    power = mean_power(readings, "sysfs")
    assert power.watts is None
    assert trouble in power.trouble


def test_what_was_true_before_does_not_count_and_a_reading_that_comes_twice_counts_once():
    began = time.monotonic()
    said = [reading(100.0, began - 5), reading(2.0, began + 1), reading(2.0, began + 1), reading(2.0, began + 1), reading(4.0, began + 2)]
    sensors = Sensors(lambda number: said[min(number, 4)])
    with closing(Watcher(sensors, interval_s=0.005)) as watcher:
        while sensors.samples < 8:
            time.sleep(0.005)
    assert watcher.since(began).watts == 3.0
    count = sensors.samples
    time.sleep(0.03)
    assert sensors.samples == count, "its thread has ended"


def test_the_power_of_the_next_while_and_of_this_moment():
    sensors = Sensors(lambda _: reading(7.0, time.monotonic()))
    assert power_for(sensors, 0).watts == 7.0
    assert sensors.samples == 1
    assert power_for(sensors, 0.3).watts == 7.0
    assert sensors.samples >= 2
