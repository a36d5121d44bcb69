import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.units import Bytes, Celsius, PerSecond, Seconds, Timeout, Watts


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
    (Timeout, "0s", "more than 0"), (Timeout, "-1s", "below"), (Timeout, "11min", "above.*10min"), (Seconds, "9" * 400 + "s", "above"),
])
def test_refuses_with_an_example(kind, written, says):
    with pytest.raises(ValueError, match=says) as caught:
        kind.parse(written)
    assert kind.example in str(caught.value)


@pytest.mark.parametrize(("kind", "written"), [(PerSecond, "0fps"), (PerSecond, "0/min"), (Watts, "0W"), (Watts, "0mW")])
def test_a_limit_of_nothing_is_refused(kind, written):
    with pytest.raises(ValueError, match="leave it out for no limit"):
        kind.parse(written)


def test_a_time_of_nothing_may_mean_at_once():
    assert Seconds.parse("0s") == 0
    assert Timeout.parse("10min") == 600


@given(st.sampled_from([Seconds, Bytes, Watts, PerSecond, Celsius]), st.decimals("0.0001", 10**7, places=4), st.data())
def test_what_is_written_back_reads_exactly_the_same(kind, number, data):
    quantity = kind.parse(f"{number:f}{data.draw(st.sampled_from(sorted(kind.units)))}")
    assert kind.parse(str(quantity)) == quantity


@pytest.mark.parametrize(("quantity", "text"), [
    (Seconds(0), "0s"), (Seconds(0.25), "250ms"), (Seconds(90), "1.5min"), (Seconds(91), "91s"), (Seconds(300), "5min"), (Bytes(512e6), "512MB"),
    (Bytes(2**20), "1MiB"), (PerSecond(0.5), "30/min"), (Celsius(-40), "-40C"), (Seconds(1e-7), "0.0000001s"),
])
def test_is_written_as_people_would(quantity, text):
    assert str(quantity) == text
