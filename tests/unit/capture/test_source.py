import threading
import time

import numpy as np

from agent.capture.source import LatestFrame
from agent.records import Frame
from tests.helpers.scripted_source import until


def frame(seq):
    return Frame(source="a", seq=seq, index=seq, pixels=np.zeros((2, 2, 3), np.uint8), captured_ns=0, captured_at=0.0)


def test_newest_wins_and_the_gap_is_told():
    slot = LatestFrame("a", threading.Condition())
    assert [slot.put(frame(seq)) for seq in (0, 1, 4)] == [False, True, True]
    with slot.ready:
        taken, skipped = slot.take(7)
    assert (taken.seq, skipped, slot.last_taken_ns) == (4, 4, 7)
    assert not slot.clear()


def test_taking_wakes_a_reader_that_waits_for_room():
    slot, woke = LatestFrame("a", threading.Condition()), []
    with slot.ready:
        slot.want(0)
    slot.put(frame(0))
    waiter = threading.Thread(target=lambda: woke.append(slot.wait_until_wanted(0, 60)))
    waiter.start()
    until(lambda: slot.ready._waiters)
    with slot.ready:
        slot.take(0)
    waiter.join(5)
    assert woke == [True]


def test_an_earlier_wish_wakes_a_reader_that_waits_for_a_later_one():
    slot, woke = LatestFrame("a", threading.Condition()), []
    with slot.ready:
        slot.want(time.monotonic_ns() + int(60e9))
    waiter = threading.Thread(target=lambda: woke.append(slot.wait_until_wanted(0, 60)))
    waiter.start()
    until(lambda: slot.ready._waiters)
    with slot.ready:
        slot.want(0)
    waiter.join(5)
    assert woke == [True]


def test_waiting_ends_with_its_time_while_a_frame_lies_there():
    slot = LatestFrame("a", threading.Condition())
    slot.put(frame(0))
    assert not slot.wait_until_wanted(0, 0.01)


def test_before_the_loop_speaks_a_camera_keeps_fresh_and_a_clip_waits():
    slot = LatestFrame("a", threading.Condition())
    assert slot.wanted_before(0)
    assert not slot.wait_until_wanted(0, 0.01)
    with slot.ready:
        slot.want(0)
    assert slot.wait_until_wanted(0, 0)


def test_lead_lets_a_finite_source_read_ahead_of_the_wish():
    slot = LatestFrame("a", threading.Condition())
    with slot.ready:
        slot.want(time.monotonic_ns() + int(60e9))
    assert not slot.wait_until_wanted(0, 0)
    assert slot.wait_until_wanted(int(61e9), 0)
