"""The simulated board obeys the two laws it is made of."""

import math

import pytest

from agent.power.plant import Plant


def board(**changes):
    made = Plant(**{"idle": 4.0, "joules": 0.5, "capacity": 20.0, **changes})
    made.rest()
    return made


def test_at_rest_it_stays_as_it_is():
    plant = board()
    before = (plant.watts, plant.celsius)
    plant.step(0.0, 100.0)
    assert before == (4.0, 33.0) == (plant.watts, plant.celsius)


@pytest.mark.parametrize(("rate", "fps"), [(None, 20.0), (30.0, 20.0), (5.0, 5.0), (0.0, 0.0)])
def test_it_serves_what_it_may_and_can(rate, fps):
    plant = board()
    plant.step(rate, 0.1)
    assert plant.fps == fps


def test_power_follows_with_its_lag():
    plant = board(lag_s=2.0)
    for _ in range(20):
        plant.step(10.0, 0.1)
    assert plant.watts == pytest.approx(4.0 + 5.0 * (1 - math.exp(-1)))
    plant.step(10.0, 60.0)
    assert plant.watts == pytest.approx(9.0)
    plant.step(10.0, 60.0, disturbance=1.5)
    assert plant.watts == pytest.approx(10.5)


def test_it_warms_up_to_ambient_and_watts_times_resistance_with_its_time_constant():
    plant = board(lag_s=1e-3, resistance=3.0, heat_capacity=40.0)
    for _ in range(1200):
        plant.step(10.0, 0.1)
    assert plant.celsius == pytest.approx(37.0 + 15.0 * (1 - math.exp(-1)), rel=1e-3)
    plant.step(10.0, 1e4)
    assert plant.celsius == pytest.approx(25.0 + 3.0 * 9.0)
