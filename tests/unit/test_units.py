import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.units import Bytes, Celsius, PerSecond, Seconds, Watts


@pytest.mark.parametrize(("kind", "written", "value"), [
    (Seconds, "250ms", 0.25), (Seconds, "10s", 10), (Seconds, "5min", 300), (Seconds, " 1.5 h ", 5400), (Seconds, "2d", 172800),
    (Bytes, "600MB", 600e6), (Bytes, "2MiB", 2 * 1024**2), (Bytes, "7B", 7),
    (Watts, "9W", 9), (Watts, "1500mW", 1.5), (Celsius, "85C", 85), (Celsius, "-40°C", -40),
    (PerSecond, "10fps", 10), (PerSecond, "30/min", 0.5),
])
def test_reads_what_people_write(kind, written, value):
    assert kind.parse(written) == pytest.approx(value)


@pytest.mark.parametrize(("kind", "written", "says"), [
    (Seconds, "10", "no unit"), (Seconds, 10, "not a number with a unit"), (Seconds, "-1s", "below"), (Seconds, "ten s", "not a number"),
    (Watts, "9 KW", "unknown unit 'KW'"), (Bytes, "-600MB", "below"), (Celsius, "-300C", "below"), (Watts, "-9W", "below"),
    (Seconds, "", "not a number"), (Seconds, True, "not a number"), (Bytes, "600 mb", "unknown unit"),
])
def test_refuses_with_an_example(kind, written, says):
    with pytest.raises(ValueError, match=says) as caught:
        kind.parse(written)
    assert kind.example in str(caught.value)


@given(st.sampled_from([Seconds, Bytes, Watts, PerSecond]), st.integers(0, 10**7))
def test_what_is_written_back_reads_the_same(kind, number):
    unit = next(unit for unit, factor in kind.units.items() if factor == 1)
    quantity = kind.parse(f"{number}{unit}")
    assert kind.parse(str(quantity)) == pytest.approx(quantity, rel=1e-3)
