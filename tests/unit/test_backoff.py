from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import FullJitter


def test_bound_doubles_up_to_the_longest_and_a_reset_begins_again():
    jitter = FullJitter(0.25, 2.0, draw=lambda: 1.0)
    assert [jitter.next() for _ in range(6)] == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    jitter.reset()
    assert jitter.next() == 0.25


@given(draws=st.lists(st.floats(0, 1), min_size=1, max_size=40), first=st.floats(0.01, 10), longest=st.floats(0.01, 10))
def test_every_wait_lies_within_its_bound(draws, first, longest):
    numbers = iter(draws)
    jitter = FullJitter(first, longest, draw=lambda: next(numbers))
    for n in range(len(draws)):
        assert 0 <= jitter.next() <= min(longest, first * 2.0**n)


def test_ten_thousand_failures_do_not_overflow():
    jitter = FullJitter(1.0, 300.0, draw=lambda: 1.0)
    assert [jitter.next() for _ in range(10_000)][-1] == 300.0
