"""The loop with real mailboxes and threads; only the engine is scripted. No test here measures speed."""

import contextlib
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from agent.capture.source import LatestFrame
from agent.errors import EngineError
from agent.meters import SourceMeter
from agent.pipeline import Model, Pipeline
from agent.records import Canvas, Frame, Placement
from agent.schedule import Lane, Pace
from tests.helpers.scripted_engine import ScriptedEngine, one_box_head


def place(pixels, canvas):
    canvas[:] = pixels[0, 0]
    return Placement(scale=1.0, left=0, top=0, width=pixels.shape[1], height=pixels.shape[0])


def frame(source, seq, value=None):
    pixels = np.full((8, 8, 3), seq % 256 if value is None else value, np.uint8)
    return Frame(source=source, seq=seq, index=seq, pixels=pixels, captured_ns=time.monotonic_ns(), captured_at=time.time())


class Loop:
    def __init__(self, engine, names=("a",), **pace):
        self.ready = threading.Condition()
        self.lanes = [Lane(slot=LatestFrame(name, self.ready), meter=SourceMeter()) for name in names]
        self.slots = {lane.slot.source: lane.slot for lane in self.lanes}
        self.results, self.by, self.stop, self.error = [], [], threading.Event(), None
        self.pipeline = Pipeline(lanes=self.lanes, ready=self.ready, model=Model(engine=engine, place=place, head=one_box_head),
                                 deliver=self._told, pace=Pace(**pace), stop=self.stop)

    def _told(self, result, what):
        self.results.append(result)
        self.by.append(what.name)

    def _look(self):
        try:
            self.pipeline.look()
        except EngineError as error:
            self.error = error

    def __enter__(self):
        self.threads = [threading.Thread(target=self._look), threading.Thread(target=self.pipeline.tell)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()

    def until(self, condition):
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.002)


def test_each_frame_becomes_one_result_with_its_own_numbers():
    with Loop(ScriptedEngine()) as loop:
        for seq in (0, 1, 5):
            loop.slots["a"].put(frame("a", seq))
            loop.until(lambda n=seq: any(r.seq == n for r in loop.results))
    assert [(r.seq, r.skipped) for r in loop.results] == [(0, 0), (1, 0), (5, 3)]
    assert [round(float(r.detections.scores[0]) * 255) for r in loop.results] == [0, 1, 5]
    assert all(0 <= r.age_s < 10 for r in loop.results)
    assert loop.lanes[0].meter.processed == 3
    assert loop.pipeline.stages["latency"].count == 3
    assert loop.pipeline.idle()


def test_the_newest_frame_wins_while_the_engine_is_busy():
    gate = threading.Semaphore(0)
    engine = ScriptedEngine(gate=gate)
    with Loop(engine) as loop:
        loop.slots["a"].put(frame("a", 0))
        assert engine.started.acquire(timeout=10)
        replaced = [loop.slots["a"].put(frame("a", seq)) for seq in (1, 2, 3)]
        gate.release(10)
        loop.until(lambda: len(loop.results) == 2)
    assert replaced == [False, True, True]
    assert [(r.seq, r.skipped) for r in loop.results] == [(0, 0), (3, 2)]


def test_many_sources_are_served_in_turn():
    names, engine = [f"s{i}" for i in range(8)], ScriptedEngine(call_s=0.001)
    with Loop(engine, names) as loop:
        seq = 0
        while len(loop.results) < 160:
            # Every source always has a fresh frame: only fairness decides.
            for name in names:
                loop.slots[name].put(frame(name, seq))
            seq += 1
            time.sleep(0.0005)
    served = Counter(r.source for r in loop.results)
    assert set(served) == set(names)
    assert max(served.values()) <= min(served.values()) + 1


def test_a_silent_source_does_not_hold_the_others():
    with Loop(ScriptedEngine(), ["dead", "live"], max_batch=1) as loop:
        for seq in range(5):
            loop.slots["live"].put(frame("live", seq))
            loop.until(lambda n=seq: len(loop.results) == n + 1)
    assert {r.source for r in loop.results} == {"live"}


def test_dead_sources_take_no_place_in_the_line():
    names = [*(f"dead{i}" for i in range(20)), "live"]
    engine = ScriptedEngine(call_s=0.02)
    with Loop(engine, names) as loop:
        loop.slots["live"].put(frame("live", 0))
        loop.until(lambda: len(loop.results) == 1)
        loop.slots["live"].put(frame("live", 1))
        loop.until(lambda: len(engine.batches) == 2)
        # One call of 20 ms was under way: the next frame is wanted after that one, not after 21 of them.
        assert loop.slots["live"].wanted_before(time.monotonic_ns() + 60_000_000)


def test_a_frames_age_is_counted_from_its_capture():
    gate = threading.Semaphore(0)
    engine = ScriptedEngine(gate=gate)
    with Loop(engine) as loop:
        taken_ns = time.monotonic_ns() - 3_000_000_000
        loop.slots["a"].put(replace(frame("a", 0), captured_ns=taken_ns))
        gate.release()
        loop.until(lambda: len(loop.results) == 1)
        most_s = (time.monotonic_ns() - taken_ns) / 1e9
    assert 3.0 <= loop.results[0].age_s <= most_s
    assert 3.0 <= loop.pipeline.stages["latency"].total_s <= most_s
    assert 3.0 <= loop.pipeline.stages["capture_age"].total_s <= most_s


def test_batches_span_sources_and_do_not_mix_them_up():
    gate = threading.Semaphore(0)
    engine = ScriptedEngine(max_batch=4, gate=gate)
    names = list("abcd")
    with Loop(engine, names, max_batch=4, batch_deadline_s=5.0) as loop:
        for value, name in enumerate(names):
            loop.slots[name].put(frame(name, 0, value=value))  # the first may go alone: nobody is known to be alive
        gate.release(4)
        loop.until(lambda: len(loop.results) == 4)
        before = len(engine.batches)
        for value, name in enumerate(names):
            loop.slots[name].put(frame(name, 1, value=value * 10))
        gate.release(4)
        loop.until(lambda: len(loop.results) == 8)
    assert engine.batches[before:] == [[0, 10, 20, 30]]
    assert {r.source: round(float(r.detections.scores[0]) * 255) for r in loop.results[4:]} == {"a": 0, "b": 10, "c": 20, "d": 30}


def test_a_batch_that_is_not_full_goes_at_its_deadline():
    with Loop(ScriptedEngine(max_batch=4), ["a", "b"], max_batch=4, batch_deadline_s=0.01) as loop:
        for name in "ab":
            loop.slots[name].put(frame(name, 0))
        loop.until(lambda: len(loop.results) == 2)
        loop.slots["a"].put(frame("a", 1))  # b is alive and waited for, but not for ever
        loop.until(lambda: len(loop.results) == 3)


def test_a_source_that_dies_while_a_batch_gathers_does_not_hold_the_loop():
    with Loop(ScriptedEngine(max_batch=4), ["a", "b"], max_batch=4, batch_deadline_s=0.3) as loop:
        for name in "ab":
            loop.slots[name].put(frame(name, 0))
        loop.until(lambda: len(loop.results) == 2)
        loop.slots["a"].put(frame("a", 1))
        assert loop.slots["a"].clear()
        last = loop.pipeline.looking._last
        loop.until(lambda: loop.pipeline.looking._last > last)
        loop.slots["b"].put(frame("b", 1))
        loop.until(lambda: len(loop.results) == 3)
    assert [(r.source, r.seq) for r in loop.results[2:]] == [("b", 1)]


@pytest.mark.parametrize("limit", ["budget", "source"])
def test_the_rate_limit_is_kept_and_named(limit):
    engine = ScriptedEngine()
    with Loop(engine, rate=20.0 if limit == "budget" else None) as loop:
        if limit == "source":
            loop.lanes[0].max_rate = 20.0
        end, seq = time.monotonic() + 1.0, 0
        while time.monotonic() < end:
            loop.slots["a"].put(frame("a", seq))
            seq += 1
            time.sleep(0.002)
        taken = len(loop.results)
    assert 10 <= taken <= 22  # 20 a second, with room below for a busy machine and above for one frame of catching up
    assert loop.slots["a"].skip_reason == "pace"


def test_the_next_frame_is_wanted_when_the_engine_will_be_free():
    gate = threading.Semaphore(0)
    engine = ScriptedEngine(call_s=0.05, gate=gate)
    with Loop(engine) as loop:
        loop.slots["a"].put(frame("a", 0))
        gate.release()
        loop.until(lambda: len(loop.results) == 1)
        loop.slots["a"].put(frame("a", 1))
        engine.started.acquire(timeout=10)
        assert engine.started.acquire(timeout=10)
        now_ns = time.monotonic_ns()
        assert not loop.slots["a"].wanted_before(now_ns + 10_000_000)
        assert loop.slots["a"].wanted_before(now_ns + 200_000_000)
        gate.release(10)


def test_a_frame_that_was_laid_on_another_canvas_is_laid_again():
    """As when an engine with another input size was swapped in while the frame waited."""
    with Loop(ScriptedEngine(side=32)) as loop:
        laid = loop.slots["a"].lay(np.full((8, 8, 3), 9, np.uint8))
        assert laid.pixels.shape == (32, 32, 3)
        other = Canvas(pixels=np.full((16, 16, 3), 200, np.uint8), placement=laid.placement, took_s=0.0)
        loop.slots["a"].put(replace(frame("a", 0, value=9), canvas=laid))
        loop.until(lambda: len(loop.results) == 1)
        loop.slots["a"].put(replace(frame("a", 1, value=9), canvas=other))
        loop.until(lambda: len(loop.results) == 2)
    assert [round(float(r.detections.scores[0]) * 255) for r in loop.results] == [9, 9]


def test_a_failed_run_ends_the_loop_and_yields_nothing():
    with Loop(ScriptedEngine(fail_at=1)) as loop:
        loop.slots["a"].put(frame("a", 0))
        loop.until(lambda: len(loop.results) == 1)
        loop.slots["a"].put(frame("a", 1))
        loop.until(lambda: loop.error is not None)
    assert [r.seq for r in loop.results] == [0]


def test_stopping_finishes_what_was_begun():
    gate = threading.Semaphore(0)
    engine = ScriptedEngine(gate=gate)
    with Loop(engine) as loop:
        loop.slots["a"].put(frame("a", 0))
        assert engine.started.acquire(timeout=10)
        loop.stop.set()
        gate.release()
    assert [r.seq for r in loop.results] == [0]


class Overlapping(ScriptedEngine):
    """Two calls under way; outputs come only when waited for, and in the order of the calls."""

    def __init__(self, *, name="overlapping", **settings):
        super().__init__(**settings)
        self.spec = replace(self.spec, depth=2)
        self.name, self.places, self.most, self.open = name, threading.BoundedSemaphore(2), 0, []

    def describe(self):
        return replace(super().describe(), name=self.name)

    def start(self, batch):
        assert not self.closed
        assert self.places.acquire(timeout=10)
        self.open.append(len(self.batches))
        self.most = max(self.most, len(self.open))
        number, pending = self.open[-1], super().start(batch.copy())

        def wait():
            assert not self.closed
            assert self.open.pop(0) == number
            self.places.release()
            return pending()
        return wait


def feed(loop, count, names=("a",), start=0):
    for seq in range(start, start + count):
        for name in names:
            loop.until(lambda slot=loop.slots[name]: slot.frame is None)
            loop.slots[name].put(frame(name, seq))


def test_calls_overlap_where_the_engine_can_and_results_stay_in_order():
    engine = Overlapping(call_s=0.002)
    with Loop(engine) as loop:
        slow = threading.Event()
        told = loop.pipeline._deliver
        loop.pipeline._deliver = lambda *what: (slow.wait(0.01), told(*what))
        feed(loop, 60)
        loop.until(lambda: len(loop.results) == 60)
    assert [r.seq for r in loop.results] == list(range(60))
    assert engine.most == 2
    assert loop.pipeline.stages["infer"].recent().count == 60


@pytest.mark.parametrize("kind", [ScriptedEngine, Overlapping])
def test_swapped_between_two_batches_without_losing_a_frame(kind):
    engines = [kind(call_s=0.001) for _ in range(8)]
    for number, engine in enumerate(engines):
        engine.describe = lambda n=number, e=engine: replace(kind.describe(e), name=str(n))
    with Loop(engines[0], names=("a", "b"), max_batch=1) as loop:
        for number, engine in enumerate(engines[1:]):
            feed(loop, 10, names=("a", "b"), start=number * 10)
            old = loop.pipeline.model.engine
            closed = loop.pipeline.swap(Model(engine=engine, place=place, head=one_box_head))
            assert closed.wait(5)
            assert old.closed
            assert loop.pipeline.model.engine is engine
        feed(loop, 5, names=("a", "b"), start=70)
        loop.until(lambda: len(loop.results) == 150)
    assert [r.skipped for r in loop.results if r.skipped] == [], "each frame that was put was looked at"
    assert loop.by == sorted(loop.by, key=int), "old engines tell before new ones"
    assert sum(len(e.batches) for e in engines) == 150
    assert len(set(loop.by)) == 8
    loop.pipeline.close()
    assert all(engine.closed for engine in engines)


def test_what_waits_to_take_over_and_is_overtaken_is_closed():
    engines = [ScriptedEngine() for _ in range(3)]
    loop = Loop(engines[0])
    first = loop.pipeline.swap(Model(engine=engines[1], place=place, head=one_box_head))
    loop.pipeline.swap(Model(engine=engines[2], place=place, head=one_box_head))
    assert first.is_set()
    assert [engine.closed for engine in engines] == [False, True, False]
    loop.pipeline.close()
    assert all(engine.closed for engine in engines)


def test_an_engine_with_another_canvas_may_take_over():
    small, large = ScriptedEngine(side=32), ScriptedEngine(side=64)
    with Loop(small) as loop:
        feed(loop, 3)
        assert loop.pipeline.swap(Model(engine=large, place=place, head=one_box_head)).wait(5)
        feed(loop, 3, start=3)
        loop.until(lambda: len(loop.results) == 6)
        assert loop.pipeline.seen[1].pixels.shape == (64, 64, 3)
    assert len(small.batches) + len(large.batches) == 6
    assert len(large.batches) >= 3  # on a busy machine the third frame may come to it as well


def test_unloaded_it_looks_at_nothing_until_another_engine_comes():
    first, second = ScriptedEngine(), ScriptedEngine()
    with Loop(first) as loop:
        feed(loop, 3)
        loop.until(lambda: len(loop.results) == 3)
        assert loop.pipeline.unload().wait(5)
        assert first.closed
        loop.slots["a"].put(frame("a", 3))
        time.sleep(0.3)
        assert len(loop.results) == 3
        assert loop.pipeline.swap(Model(engine=second, place=place, head=one_box_head)).wait(5)
        loop.until(lambda: len(loop.results) == 4)
    assert not second.closed
    loop.pipeline.close()
    assert second.closed


def test_one_call_that_stood_still_does_not_hold_back_the_next_ones():
    with Loop(ScriptedEngine(call_s=0.01)) as loop:
        feed(loop, 20)
        loop.until(lambda: len(loop.results) == 20)
        known = loop.pipeline._schedule.call_ns
        loop.pipeline._took(0, int(60e9))
        assert loop.pipeline._schedule.call_ns <= 1.5 * known


# What the budget may change while the loop runs -----------------------------------------------------------------------


@contextlib.contextmanager
def cameras(loop, every_s=0.004):
    """Keep a fresh frame in every mailbox; yield how many were put, by source."""
    end, put = threading.Event(), Counter()

    def run():
        while not end.wait(every_s):
            for name, slot in loop.slots.items():
                slot.put(frame(name, put[name]))
                put[name] += 1
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield put
    finally:
        end.set()
        thread.join()


def served(loop, name):
    return sum(result.source == name for result in loop.results)


def done_in(loop, seconds):
    before = len(loop.results)
    time.sleep(seconds)
    return len(loop.results) - before


def test_a_pause_takes_hold_at_once_and_throws_away_what_waits():
    gate = threading.Semaphore(0)
    engine = ScriptedEngine(gate=gate)
    with Loop(engine, ("a", "b")) as loop:
        loop.slots["a"].put(frame("a", 0))
        assert engine.started.acquire(timeout=10)
        for name in "ab":
            loop.slots[name].put(frame(name, 1))
        loop.pipeline.pace(0.0, 1, {})
        assert [loop.slots[name].frame for name in "ab"] == [None, None]
        assert [lane.meter.skipped().get("paused", 0) for lane in loop.lanes] == [1, 1]
        assert [lane.slot.skip_reason for lane in loop.lanes] == ["paused", "paused"]
        gate.release(10)
        loop.until(lambda: len(loop.results) == 1)
        assert not loop.slots["a"].wanted_before(time.monotonic_ns() + 3600 * 10**9), "no reader turns a frame into pixels for it"
        loop.slots["a"].put(frame("a", 2))
        time.sleep(0.3)
        assert len(loop.results) == 1, "not even one that was under way"
        beat = loop.pipeline.looking._last
        loop.until(lambda: loop.pipeline.looking._last > beat)


@pytest.mark.parametrize("before", [None, 2.0, 0.05])
@pytest.mark.parametrize("after", [None, 100.0])
def test_after_a_pause_it_goes_on_at_once(before, after):
    with Loop(ScriptedEngine(), rate=before) as loop, cameras(loop):
        loop.until(lambda: loop.results)
        loop.pipeline.pace(0.0, 1, {})
        time.sleep(0.05)
        paused = len(loop.results)
        assert done_in(loop, 0.1) == 0
        loop.pipeline.pace(after, 1, {})
        began = time.monotonic()
        loop.until(lambda: len(loop.results) > paused)
        assert time.monotonic() - began < 0.2
        assert loop.slots["a"].skip_reason != "paused"


def test_a_slow_pace_does_not_outlast_its_end():
    with Loop(ScriptedEngine(), rate=0.02) as loop, cameras(loop):
        loop.until(lambda: len(loop.results) == 2)  # the first may catch up; the third would be due in 50 s
        assert done_in(loop, 0.1) == 0
        loop.pipeline.pace(50.0, 1, {})
        loop.until(lambda: len(loop.results) > 5)


def test_a_pace_that_gets_slower_holds_from_the_next_frame_on():
    with Loop(ScriptedEngine()) as loop, cameras(loop):
        loop.until(lambda: len(loop.results) > 5)
        loop.pipeline.pace(5.0, 1, {})
        time.sleep(0.02)
        assert done_in(loop, 0.6) <= 5
        assert loop.slots["a"].skip_reason == "pace"


def test_a_source_that_is_shed_is_not_served_and_its_frames_are_counted_so():
    with Loop(ScriptedEngine(), ("gate", "yard")) as loop, cameras(loop):
        loop.until(lambda: served(loop, "yard") > 2)
        loop.pipeline.pace(50.0, 1, {"gate": None, "yard": 0.0})
        time.sleep(0.05)
        before = served(loop, "yard"), served(loop, "gate")
        time.sleep(0.3)
        assert served(loop, "yard") == before[0]
        assert served(loop, "gate") > before[1] + 3
        assert loop.slots["yard"].skip_reason == "shed"
        assert loop.slots["gate"].skip_reason != "shed"
        assert not loop.slots["yard"].wanted_before(time.monotonic_ns() + 3600 * 10**9)
        loop.pipeline.pace(50.0, 1, {})
        loop.until(lambda: served(loop, "yard") > before[0] + 2)


def test_what_waits_of_a_source_when_it_is_shed_is_counted_too():
    loop = Loop(ScriptedEngine(), ("gate", "yard"))
    for name in loop.slots:
        loop.slots[name].put(frame(name, 0))
    loop.pipeline.pace(10.0, 1, {"gate": None, "yard": 0.0})
    assert [lane.meter.skipped().get("shed", 0) for lane in loop.lanes] == [0, 1]
    assert loop.slots["gate"].frame is not None


def test_a_share_is_kept_and_what_one_leaves_another_gets():
    with Loop(ScriptedEngine(), ("gate", "yard"), rate=60.0) as loop, cameras(loop):
        loop.pipeline.pace(60.0, 1, {"gate": None, "yard": 10.0})
        time.sleep(0.1)
        before = served(loop, "yard"), served(loop, "gate")
        time.sleep(1.0)
        yard, gate = served(loop, "yard") - before[0], served(loop, "gate") - before[1]
    assert 5 <= yard <= 12
    assert gate > 2 * yard


@pytest.mark.parametrize("narrow", [True, False])
def test_narrow_holds_one_batch_at_a_time(narrow):
    engine, most, told = Overlapping(call_s=0.001), [], threading.Event()
    with Loop(engine) as loop:
        deliver = loop.pipeline._deliver
        loop.pipeline.narrow = narrow

        def slow(*what):
            most.append(loop.pipeline._schedule.underway)
            told.wait(0.01)
            deliver(*what)
        loop.pipeline._deliver = slow
        with cameras(loop, 0.001):
            loop.until(lambda: len(loop.results) > 20)
            loop.pipeline.narrow = False
            count = len(loop.results)
            loop.until(lambda: len(loop.results) > count + 5)
    assert (max(most[:20]) == 1) == narrow
    assert max(most) > 1


def test_a_narrow_loop_without_frames_still_beats_and_ends():
    with Loop(ScriptedEngine()) as loop:
        loop.pipeline.narrow = True
        loop.slots["a"].put(frame("a", 0))
        loop.until(lambda: loop.results)
        last = loop.pipeline.looking._last
        loop.until(lambda: loop.pipeline.looking._last > last)


@pytest.mark.parametrize("busy", [True, False])
def test_a_smaller_batch_holds_from_the_next_one_on(busy):
    gate = threading.Semaphore(0)
    engine, names = ScriptedEngine(max_batch=4, gate=gate), list("abcd")

    def one_of_each(seq):
        with loop.ready:
            for name in names:
                loop.slots[name].put(frame(name, seq))

    with Loop(engine, names, max_batch=4, batch_deadline_s=5.0) as loop:
        one_of_each(0)
        assert engine.started.acquire(timeout=10)
        if busy:
            loop.pipeline.pace(None, 2, {})  # while the first is in the engine
            one_of_each(1)
        gate.release()
        loop.until(lambda: len(loop.results) == 4)
        if not busy:
            last = loop.pipeline.looking._last
            loop.until(lambda: loop.pipeline.looking._last > last)
            loop.pipeline.pace(None, 2, {})  # while it waits for frames
            one_of_each(1)
        gate.release(5)
        loop.until(lambda: len(loop.results) == 8)
    assert [len(batch) for batch in engine.batches] == [4, 2, 2]


def test_a_batch_larger_than_the_engine_takes_is_never_made():
    engine = ScriptedEngine(max_batch=2)
    with Loop(engine, list("abcd"), max_batch=1) as loop, cameras(loop, 0.001):
        loop.pipeline.pace(None, 16, {})
        loop.until(lambda: len(loop.results) > 100)
    assert max(map(len, engine.batches)) == 2


def test_the_pace_may_be_changed_by_another_thread_all_the_time_and_nothing_is_lost():
    engine, names = ScriptedEngine(max_batch=4, call_s=0.0005), list("abc")
    with Loop(engine, names, max_batch=4) as loop, cameras(loop, 0.002) as put:
        end = time.monotonic() + 1.0
        n = 0
        while time.monotonic() < end:
            n += 1
            rate = (None, 500.0, 3.0, 0.0, 40.0)[n % 5]
            loop.pipeline.pace(rate, 1 + n % 4, ({}, {"a": 0.0}, {"b": 20.0, "c": None})[n % 3])
            time.sleep(0.001 * (n % 7))
        loop.pipeline.pace(None, 4, {})
        count = len(loop.results)
        loop.until(lambda: len(loop.results) > count + 20)
    assert loop.error is None
    by_source = {name: [result for result in loop.results if result.source == name] for name in names}
    for name, results in by_source.items():
        assert [r.seq for r in results] == sorted({r.seq for r in results})
        assert sum(r.skipped + 1 for r in results) == results[-1].seq + 1 <= put[name], "each frame is a result or counted as skipped"
    assert loop.pipeline._schedule.underway == 0


def test_the_same_pace_again_does_not_move_what_is_wanted():
    loop = Loop(ScriptedEngine())
    loop.pipeline.pace(10.0, 1, {"a": 5.0})
    asked = []
    loop.slots["a"].want = asked.append
    loop.pipeline.pace(10.0, 1, {"a": 5.0})
    assert asked == []
    loop.pipeline.pace(10.0, 1, {"a": 4.0})
    assert len(asked) == 1
