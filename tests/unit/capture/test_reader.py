"""The reader, against scripted sources and a clock the test moves."""

import itertools
import threading
import time

import numpy as np
import pytest

from agent.backoff import FullJitter
from agent.errors import SourceError, SourceGoneError
from agent.records import SourceState
from tests.helpers.scripted_source import Clock, Hang, ScriptedSource, Stage, noise, until

BLACK = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def play():
    """Start a reader on the given sources; its threads end with the test."""
    stages = []

    def begin(*sources, **settings):
        stages.append(Stage(sources, **settings))
        stages[-1].reader.start()
        return stages[-1]

    def endless(*sources, then, **settings):
        stages.append(Stage(itertools.chain(sources, iter(then, None)), **settings))
        stages[-1].reader._retry._draw = lambda: 1.0
        stages[-1].reader.start()
        return stages[-1]

    begin.endless = endless
    yield begin
    for stage in stages:
        stage.close()


def test_finite_source_gives_every_frame_once_and_in_order(play):
    stage = play(ScriptedSource([noise(i) for i in range(5)], live=False))
    frames = [stage.take() for _ in range(5)]
    assert [(frame.seq, frame.index) for frame in frames] == [(i, i) for i in range(5)]
    assert all(np.array_equal(frame.pixels, noise(i)) for i, frame in enumerate(frames))
    stage.until_told(2)
    assert stage.states() == ["live", "ended"]
    status = stage.reader.status()
    assert (status.finished, status.failed) == (True, False)
    assert (stage.meter.seen, stage.meter.processed, stage.meter.skipped()) == (5, 5, {})
    assert stage.opened[0].closed.wait(5)


def test_last_frame_of_a_finite_source_outlives_its_end(play):
    stage = play(ScriptedSource([noise(0), noise(1)], live=False))
    assert stage.take().seq == 0
    until(lambda: stage.slot.frame is not None)
    assert stage.take().seq == 1


def test_last_good_frame_of_a_clip_that_breaks_is_not_thrown_away(play):
    stage = play(ScriptedSource([noise(0), SourceGoneError("clip breaks at frame 1 of 9")], live=False))
    assert stage.take().seq == 0
    stage.until_told(2)
    status = stage.reader.status()
    assert (status.state, status.finished, status.failed) == (SourceState.DOWN, True, True)
    assert "frame 1 of 9" in status.reason


def test_source_gone_at_boot_is_not_tried_again(play):
    stage = play(SourceGoneError("no such file", "correct the path"), ScriptedSource([noise(0)]))
    stage.until_told(1)
    stage.reader._thread.join(5)
    assert stage.opened == []
    assert stage.reader.status().failed
    assert stage.changes[0].reason == "no such file (correct the path)"


def test_live_newest_frame_wins_and_every_frame_is_accounted_for(play):
    hang = Hang()
    stage = play(ScriptedSource([*(noise(i) for i in range(4)), hang]))
    assert hang.entered.wait(5)
    frame = stage.take()
    assert frame.seq == 3
    assert stage.meter.seen == 4
    assert stage.meter.skipped() == {"busy": 3}


def test_live_frames_nobody_wants_are_not_decoded_and_named_after_the_reason(play):
    hang = Hang()
    unwanted = [(SourceError("must not be retrieved"),)] * 3
    first = Hang()
    stage = play(ScriptedSource([noise(0), first, *unwanted, hang]))
    assert first.entered.wait(5)
    with stage.ready:
        stage.slot.want(time.monotonic_ns() + int(3600e9))
        stage.slot.skip_reason = "budget"
    first.release.set()
    assert hang.entered.wait(5)
    assert stage.meter.skipped() == {"budget": 3}
    assert stage.reader.status().state is SourceState.LIVE


def test_dead_at_boot_is_reported_once_and_comes_alive(play):
    down = [SourceError("no route", "check the cable")] * 5
    stage = play(*down, ScriptedSource([noise(0), Hang()]))
    stage.until_told(2)
    assert stage.states() == ["down", "live"]
    assert stage.meter.reconnects == 0


def test_stream_that_breaks_comes_back_with_rising_seq_and_a_reconnect(play):
    stage = play(ScriptedSource([noise(0), SourceError("broke off")]), ScriptedSource([noise(1), Hang()]))
    stage.until_told(3)
    assert stage.states() == ["live", "down", "live"]
    until(lambda: stage.slot.frame is not None)
    frame = stage.take()
    assert (frame.seq, frame.index) == (1, 0)
    assert stage.reader.status().reconnects == 1
    assert stage.meter.skipped() == {"down": 1}, "the frame that waited when the stream died is stale"
    assert stage.opened[0].closed.is_set()


def test_state_lasts_since_its_begin_on_the_injected_clock(play):
    clock, wall, hang = Clock(), Clock(1.7e9), Hang()
    stage = play(ScriptedSource([noise(0), hang, SourceError("broke off")]), Hang(), clock=clock, wall=wall)
    assert hang.entered.wait(5)
    clock.advance(1.5)
    assert stage.reader.status().last_frame_age_s == 1.5
    hang.release.set()
    stage.until_told(2)
    assert (stage.changes[1].since_s, stage.changes[1].at) == (1.5, 1.7e9)
    assert stage.reader.status().since_s == 1001.5


def test_frozen_and_black_frames_are_withheld_and_counted_and_the_waiting_one_is_thrown_away(play):
    clock = Clock(time.monotonic())
    still = noise(7)

    def tick():
        clock.advance(6)

    hang = Hang()
    stage = play(ScriptedSource([noise(0), still, tick, still, tick, still, tick, still, tick, still,
                                 tick, BLACK, tick, BLACK, tick, noise(1), hang]), clock=clock, wall=clock)
    assert hang.entered.wait(5)
    assert stage.states() == ["live", "frozen", "live", "black", "live"]
    skipped = stage.meter.skipped()
    # still: 1st and 2nd are LIVE (a repetition is seen from the third on), 6 s later too, then frozen twice + waiting.
    assert skipped["frozen"] == 3
    assert skipped["black"] == 2
    assert stage.meter.seen == sum(skipped.values()) + 1
    assert np.array_equal(stage.take().pixels, noise(1))


def test_finite_source_is_never_frozen(play):
    clock = Clock(time.monotonic())
    still = noise(7)
    stage = play(ScriptedSource([x for _ in range(6) for x in (still, lambda: clock.advance(6))], live=False),
                 clock=clock, wall=clock)
    for _ in range(6):
        stage.take()
    stage.until_told(2)
    assert stage.states() == ["live", "ended"]


def test_changed_size_and_clock_jump_are_told_once(play):
    clock, wall, hang = Clock(), Clock(1.7e9), Hang()
    stage = play(ScriptedSource([noise(0), noise(1, 128, 96), lambda: wall.advance(3600), noise(2, 128, 96),
                                 noise(3, 128, 96), hang]), clock=clock, wall=wall)
    assert hang.entered.wait(5)
    assert [change.reason for change in stage.changes[1:]] == [
        "resolution changed 64x48 → 128x96", "clock jumped by +3600 s"]
    status = stage.reader.status()
    assert (status.width, status.height) == (128, 96)


def test_hung_read_is_abandoned_and_replaced_and_what_it_says_later_counts_for_nothing(play):
    clock, hang = Clock(), Hang()
    old = ScriptedSource([noise(0), hang, noise(1), ValueError("a defect nobody should hear of")])
    stage = play(old, ScriptedSource([noise(2), Hang()]), clock=clock)
    assert hang.entered.wait(5)
    clock.advance(2.9)
    stage.reader.check()
    assert stage.states() == ["live"], "within timeout and grace"
    clock.advance(0.2)
    stage.reader.check()
    stage.until_told(3)
    assert stage.states() == ["live", "down", "live"]
    assert "a read hangs" in stage.changes[1].reason
    assert stage.reader.status().hung == 1
    hang.release.set()
    assert old.closed.wait(5), "the abandoned thread closes its own source"
    until(lambda: stage.reader.status().hung == 0)
    assert stage.reader.crash is None
    assert stage.meter.seen == 2
    until(lambda: stage.slot.frame is not None)
    assert np.array_equal(stage.take().pixels, noise(2))


def test_hung_opening_is_abandoned_and_the_late_source_closed(play):
    clock, hang = Clock(), Hang()
    late = ScriptedSource([noise(0)])
    stage = play(hang, late, clock=clock, max_hung=1)
    assert hang.entered.wait(5)
    clock.advance(5.1)
    stage.reader.check()
    assert "opening hangs" in stage.changes[0].reason
    hang.release.set()
    assert late.closed.wait(5)
    assert stage.meter.seen == 0


def test_hung_threads_are_capped_and_reading_goes_on_when_one_returns(play):
    clock = Clock()
    hangs = [Hang() for _ in range(3)]
    stage = play(*(ScriptedSource([hang]) for hang in hangs), ScriptedSource([noise(9), Hang()]), clock=clock)
    for hang in hangs:
        assert hang.entered.wait(5)
        clock.advance(3.1)
        stage.reader.check()
    status = stage.reader.status()
    assert (status.state, status.hung) == (SourceState.DOWN, 3)
    stage.reader.check()
    assert len(stage.opened) == 3, "no fourth thread"
    assert "3 calls hang" in stage.reader.status().reason
    assert stage.states() == ["down"]
    hangs[1].release.set()
    until(lambda: stage.reader.status().hung == 2)
    stage.reader.check()
    stage.until_told(2)
    assert stage.states() == ["down", "live"]


def test_defect_is_kept_for_the_supervisor_and_its_traceback_written(play, monkeypatch):
    written = []
    monkeypatch.setattr(threading, "excepthook", written.append)
    stage = play(ScriptedSource([noise(0), ZeroDivisionError("a defect")]))
    stage.reader._thread.join(10)
    assert isinstance(stage.reader.crash, ZeroDivisionError)
    assert [entry.exc_value for entry in written] == [stage.reader.crash]
    assert stage.opened[0].closed.is_set()
    stage.reader.check()
    assert len(stage.opened) == 1, "no other thread hides the defect"


def test_frame_that_cannot_be_decoded_is_counted_and_the_source_opened_anew(play):
    stage = play(ScriptedSource([(SourceError("frame 0 cannot be decoded"),)]), ScriptedSource([noise(1), Hang()]))
    stage.until_told(2)
    assert stage.states() == ["down", "live"]
    assert stage.meter.skipped() == {"down": 1}


def test_reason_never_holds_a_login(play):
    stage = play(SourceError("cannot open rtsp://root:hunter2@cam/live?token=s3cr3t", "try rtsp://root:hunter2@cam"),
                 ScriptedSource([Hang()]))
    stage.until_told(1)
    told = repr(stage.changes) + repr(stage.reader.status())
    assert "cam" in told
    assert "hunter2" not in told
    assert "s3cr3t" not in told


def test_stop_ends_the_thread_and_closes_the_source(play):
    stage = play(ScriptedSource((noise(i) for i in iter(int, 1)), live=False))
    stage.take()
    stage.reader.stop(5)
    assert stage.opened[0].closed.is_set()
    assert not stage.reader._thread.is_alive()
    stage.reader.check()
    assert len(stage.opened) == 1


class Bounds(FullJitter):
    """Waits for nothing and remembers how long it might have waited."""

    def __init__(self) -> None:
        super().__init__(0.25, 30.0, lambda: 0.0)
        self.bounds = []

    def next(self) -> float:
        self.bounds.append(self._bound_s)
        return super().next()


def waits(play, sessions):
    """Play sessions on a stopped clock that their steps may move; return the bounds of the waits after each."""
    clock, first = Clock(), Hang()
    last = Hang()
    sources = [ScriptedSource([*steps(clock), SourceError("broke off")]) for steps in sessions]
    stage = play(first, *sources, ScriptedSource([last]), clock=clock)
    assert first.entered.wait(5)
    stage.reader._retry = Bounds()
    first.release.set()
    assert last.entered.wait(5)
    return stage.reader._retry.bounds


def test_a_source_that_gives_a_few_frames_and_dies_is_opened_ever_more_rarely(play):
    def short(clock):
        return [noise(0), lambda: clock.advance(5), noise(1), lambda: clock.advance(4.9), noise(2), lambda: clock.advance(60)]

    assert waits(play, [short] * 9) == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_after_ten_good_seconds_the_next_wait_is_short_again(play):
    def short(clock):
        return [noise(0)]

    def steady(clock):
        return [step for i in range(3) for step in (noise(i), lambda: clock.advance(5))]

    assert waits(play, [short, short, short, steady, short]) == [0.25, 0.5, 1, 0.25, 0.5]


@pytest.mark.parametrize("picture", [BLACK, noise(7)], ids=["black", "still"])
def test_the_first_pictures_after_an_outage_are_not_judged_by_those_before(picture, play):
    clock, hang = Clock(time.monotonic()), Hang()
    before = [picture, picture, lambda: clock.advance(4), picture]
    after = [picture, lambda: clock.advance(4), picture, lambda: clock.advance(0.9), picture, hang]
    stage = play(ScriptedSource([*before, SourceError("broke off")]),
                 ScriptedSource([lambda: clock.advance(60), *after]), clock=clock, wall=clock)
    assert hang.entered.wait(5)
    assert stage.states() == ["live", "down", "live"]


def test_a_new_size_is_told_also_when_an_outage_lay_between(play):
    hang = Hang()
    stage = play(ScriptedSource([noise(0), SourceError("broke off")]), ScriptedSource([noise(1, 128, 96), hang]))
    assert hang.entered.wait(5)
    assert [change.reason for change in stage.changes[3:]] == ["resolution changed 64x48 → 128x96"]


def minutes_later(stage, clock, minutes=2):
    """Let time pass as the supervisor does, which checks ten times a second; tell whether the heartbeat is fresh."""
    for _ in range(minutes * 60):
        clock.advance(1.0)
        time.sleep(0.003)  # whoever can move does
        stage.reader.check()
    return stage.reader.heartbeat.fresh()


def test_a_hung_call_whose_place_is_taken_by_one_that_reads_is_no_standstill(play):
    clock, hang, dead = Clock(), Hang(), Hang()
    stage = play(ScriptedSource([noise(0), hang]), ScriptedSource([noise(2), lambda: clock.advance(1), noise(3), dead]), clock=clock)
    assert hang.entered.wait(5)
    clock.advance(3.1)
    stage.reader.check()
    assert dead.entered.wait(5)
    stage.reader.check()
    assert stage.reader.heartbeat.age_s() == 0


def test_a_hung_call_that_keeps_the_device_from_the_next_is_a_standstill(play):
    """As with a V4L2 camera: the hung thread has it open, so every new opening fails, and none hangs."""
    clock, hang = Clock(), Hang()
    stage = play.endless(ScriptedSource([noise(0), hang]), then=lambda: SourceError("the device is busy"), clock=clock)
    assert hang.entered.wait(5)
    clock.advance(3.1)
    stage.reader.check()
    assert not minutes_later(stage, clock)
    hang.release.set()
    until(lambda: stage.reader.status().hung == 0)
    until(lambda: stage.reader.check() or stage.reader.heartbeat.fresh())  # the thread in its place can open the device now


def test_a_dead_camera_is_no_standstill(play):
    clock = Clock()
    stage = play.endless(then=lambda: SourceError("no route to host"), clock=clock)
    for _ in range(100):
        clock.advance(1.0)
        time.sleep(0.01)
        stage.reader.check()
    assert stage.reader.heartbeat.fresh()


def test_a_thread_that_hangs_outside_of_any_call_is_a_standstill(play):
    clock, hang, made = Clock(), Hang(), threading.Event()
    stage = play(ScriptedSource([made.wait, noise(0)]), clock=clock)
    stage.slot.lay = lambda _: hang.wait()
    made.set()
    assert hang.entered.wait(5)
    assert not minutes_later(stage, clock)


def test_an_ended_source_is_no_standstill(play):
    clock = Clock()
    stage = play(ScriptedSource([noise(0)], live=False), clock=clock)
    stage.take()
    stage.until_told(2)
    assert minutes_later(stage, clock)
