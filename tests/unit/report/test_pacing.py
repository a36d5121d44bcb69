"""The budget over time, for any spending."""

from hypothesis import given
from hypothesis import strategies as st

from agent.report.pacing import Pacer


@given(rate=st.floats(0.1, 1e6), burst_s=st.floats(0, 100),
       spendings=st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e4)), min_size=1, max_size=30))
def test_no_stretch_of_time_sees_more_than_its_share(rate, burst_s, spendings):
    pacer, now, spent = Pacer(rate, burst_s), 0.0, []
    for idle_s, amount in spendings:
        now += idle_s + pacer.wait_s(now + idle_s)
        assert pacer.wait_s(now) <= 1e-6 * max(1.0, now)
        pacer.spend(amount, now)
        spent.append((now, amount))
    for i in range(len(spent)):
        for j in range(i, len(spent)):
            before_last = sum(amount for _, amount in spent[i:j])
            assert before_last <= (rate * (spent[j][0] - spent[i][0] + burst_s)) * (1 + 1e-6) + 1e-6


def test_steady_use_below_the_rate_never_waits():
    pacer = Pacer(10, 0)
    for second in range(100):
        assert pacer.wait_s(second) == 0
        pacer.spend(10, second)


def test_a_debt_is_paid_before_more_is_spent():
    pacer = Pacer(10, 1)
    pacer.spend(110, 5)
    assert pacer.wait_s(5) == 10
    assert pacer.wait_s(15) == 0
