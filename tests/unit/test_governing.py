"""The governor's thread with scripted sensors, engines and memory: what is done, and what is told."""

import threading
import time
from types import SimpleNamespace

import pytest

from agent import governing as module
from agent.capture.source import LatestFrame
from agent.config import Config
from agent.governing import Governing
from agent.keeping import Kept
from agent.meters import SourceMeter
from agent.power.leak import Leak
from agent.power.memory import MemoryReading
from agent.power.points import Way
from agent.power.policy import Hours, Limits, Policy
from agent.power.squeeze import Move, State
from agent.power.telemetry import Reading
from agent.schedule import Lane

BIG = Way(tier="big", batch=1, rank=0, capacity=30.0, base=5.0, joules=0.3)
SMALL = Way(tier="small", batch=1, rank=1, capacity=60.0, base=4.5, joules=0.1)


class Board:
    """Sensors that say what the test wrote down last, at the time of the test's clock."""

    name = "scripted 1.0"

    def __init__(self, clock):
        self.clock, self.values, self.age_s, self.closed = clock, {"watts": 9.0, "celsius": 50.0, "measures": "VDD_IN"}, 0.0, False

    def sample(self):
        return Reading(at_s=self.clock() - self.age_s, **self.values)

    def close(self):
        self.closed = True


class Changer:
    """Tiers that serve when the test says so."""

    def __init__(self):
        self.tier, self.known, self.asked, self.looked = "big", [BIG], [], 0
        self.failure, self.new, self.loading, self.freed, self.device_bytes = "", False, False, [], 7
        self.table_words, self.measures = "fit", ""

    def look_around(self, telemetry):
        self.looked += 1

    def ways(self, max_batch):
        return self.known

    def way(self, batch):
        return next((way for way in self.known if way.tier == self.tier), Way(tier=self.tier, batch=batch))

    def changeable(self):
        return frozenset({"big", "small"} - {self.tier})

    def rungs(self, batch):
        return frozenset({"queues"})

    def make_room(self, rungs):
        self.freed.append(tuple(rungs))

    def renewed(self):
        new, self.new = self.new, False
        return new

    def change_to(self, tier, *, unload_first=False):
        self.asked.append(tier)

    def take_failure(self):
        words, self.failure = self.failure, ""
        return words


class Keeper:
    def __init__(self):
        self.reading = MemoryReading(at_s=0.0, resident=5, children=0)
        self.state, self.why, self.force, self.kept, self.restarts, self.seen = State(), "", "", {}, 0, []

    def look(self, device, available, *, loading):
        self.seen.append((device, available, loading))
        kept, self.kept = self.kept, {}
        return Kept(reading=self.reading, **kept)

    def restart(self):
        self.restarts += 1


class Rig:
    def __init__(self, monkeypatch, policy, names):
        self.now_s = 1000.0
        self.minute = 12 * 60
        clock = SimpleNamespace(monotonic=lambda: self.now_s, time=time.time, localtime=lambda: SimpleNamespace(
            tm_hour=self.minute // 60, tm_min=self.minute % 60))
        monkeypatch.setattr(module, "time", clock)
        ready = threading.Condition()
        self.lanes = [Lane(slot=LatestFrame(name, ready), meter=SourceMeter(clock=clock.monotonic)) for name in names]
        self.paces, self.told, self.stop = [], [], threading.Event()
        self.pipeline = SimpleNamespace(pace=self._pace, narrow=False)
        self.board, self.changer, self.keeper = Board(clock.monotonic), Changer(), Keeper()
        self.governing = Governing(
            Config(), policy, pipeline=self.pipeline, lanes=self.lanes, changer=self.changer, telemetry=self.board, keeper=self.keeper,
            tell=lambda step, measures: self.told.append((step, measures)), stop=self.stop)

    def _pace(self, rate, batch, shares):
        self.paces.append((rate, batch, dict(shares)))
        for lane in self.lanes:
            lane.share = shares.get(lane.slot.source)

    @property
    def rate(self):
        return self.paces[-1][0]

    @property
    def order(self):
        return self.governing.decided.order

    def kinds(self):
        return [step.kind for step, _ in self.told]

    def run(self, seconds=0.5, fps=None):
        """Let the cameras give frames, and the loop serve what it may."""
        for _ in range(round(seconds / 0.5)):
            self.now_s += 0.5
            rate = self.rate if fps is None else fps
            for lane in self.lanes:
                for _ in range(15):
                    lane.meter.saw()
                lane.slot.live = True
            for _ in range(round(0.5 * min(30.0 if rate is None else rate, 30.0))):
                self.lanes[0].meter.did()
            self.governing._govern()


@pytest.fixture
def rig(monkeypatch):
    def make(watts=10.0, names=("a",), **more):
        return Rig(monkeypatch, Policy(limits=Limits(watts=watts), **more), names)
    return make


def test_it_begins_at_the_safest_known_pace_before_anything_is_measured(rig):
    it = rig()
    assert it.rate == pytest.approx(10.0)
    assert it.governing.decided.reading is None
    assert not it.governing.decided.blind


def test_what_is_decided_is_done_and_told_with_what_was_measured(rig):
    it = rig()
    it.run(20.0)
    assert it.rate == it.order.rate > 10.0
    it.board.values["watts"] = 12.0
    before = it.rate
    it.run()
    assert it.rate < before
    it.run(2.0)
    step, measures = it.told[-1]
    assert (step.kind, step.watts, step.celsius, step.memory, measures) == ("step", 12.0, 50.0, 5, "VDD_IN")
    assert step.after.rate < step.before.rate
    assert step.reason == it.governing.decided.why == "12.00 W measured, the limit is 10 W"
    assert it.governing.ledger.steps()[-1] == step
    assert sum(spent.seconds for spent in it.governing.ledger.spent()) == pytest.approx(22.5)


def test_a_step_upwards_tells_from_where_the_last_one_led_and_a_cut_from_what_was_in_force(rig):
    it, ups, cuts = rig(), 0, 0
    last = it.order
    for turn in range(140):
        if turn == 60:
            it.board.values["watts"] = 11.0
        if turn == 70:
            it.board.values["watts"] = 8.0
        before, told = it.order, len(it.told)
        it.run()
        for step, _ in it.told[told:]:
            assert step.after == it.order
            if step.after.rate < before.rate:
                assert step.before == before
                cuts += 1
            else:
                assert step.before == last
                ups += 1
            last = step.after
    assert ups >= 3
    assert cuts >= 1


@pytest.mark.parametrize("gone", ["stale", "unknown"])
def test_a_reading_that_is_too_old_is_none_and_the_box_is_blind_until_it_is_back(rig, gone):
    it = rig()
    it.run(30.0)
    fast, it.told = it.rate, []
    if gone == "stale":
        it.board.age_s, why = 2.1, "the last reading is 2.1 s old"
    else:
        it.board.values, why = {"trouble": "VDD_IN cannot be read"}, "VDD_IN cannot be read"
    it.run()
    assert fast > it.rate == pytest.approx(10.0)
    assert it.kinds() == ["blind"]
    step, _ = it.told[0]
    assert why in step.reason
    assert (step.watts, step.celsius) == (None, None), "never the value of a minute ago"
    assert it.governing.decided.blind
    assert it.governing.decided.reading.watts is None
    assert it.governing.decided.reading.trouble == why
    it.run(10.0)
    assert it.kinds() == ["blind"], "told once"
    it.board.age_s, it.board.values = 0.0, {"watts": 8.0, "measures": "VDD_IN"}
    it.run(1.5)
    assert it.governing.decided.blind
    it.run(0.5)
    assert it.kinds() == ["blind", "seeing"]
    assert not it.governing.decided.blind
    it.run(20.0)
    assert it.rate > 10.0


def test_a_limit_is_not_kept_with_the_watts_of_something_else(rig):
    it = rig()
    it.board.values["measures"] = "GPU"
    it.run(30.0)
    fast, it.told = it.rate, []
    it.board.values.update(watts=2.0, measures="CPU packages")
    it.run()
    assert fast > it.rate == pytest.approx(10.0)
    assert it.kinds() == ["blind"]
    assert "the watts are of CPU packages now, the limit was kept with those of GPU" in it.told[0][0].reason
    assert it.governing.decided.reading.watts is None
    it.run(20.0)
    assert it.rate == pytest.approx(10.0)
    assert it.kinds() == ["blind"]
    it.board.values.update(watts=8.0, measures="GPU")
    it.run(3.0)
    assert it.kinds() == ["blind", "seeing"]


def test_another_reader_of_the_same_watts_is_as_good(rig):
    it = rig()
    it.run(10.0)
    it.board.name = "other 2.0"
    it.run(10.0)
    assert "blind" not in it.kinds()


def test_the_limit_is_kept_with_what_the_table_was_measured_with(rig):
    it = rig()
    it.changer.measures = "GPU"
    it.run()
    assert "the watts are of VDD_IN now, the limit was kept with those of GPU" in it.governing.decided.reading.trouble
    it.board.values["measures"] = "GPU"
    it.run(3.0)
    assert not it.governing.decided.blind


def test_what_a_stand_in_measured_at_the_start_gives_way_to_the_wanted_one(rig):
    it = rig()
    it.board.stands_in, it.board.values["measures"] = True, "GPU"
    it.run(3.0)
    it.board.stands_in, it.board.values["measures"] = False, "VDD_IN"
    it.run(3.0)
    assert not it.governing.decided.blind
    it.board.stands_in, it.board.values["measures"] = True, "GPU"
    it.run()
    assert it.governing.decided.blind


def test_a_reading_of_almost_two_seconds_is_believed(rig):
    it = rig()
    it.board.age_s = 1.9
    it.run(10.0)
    assert "blind" not in it.kinds()
    assert it.rate > 10.0


def test_energy_is_not_counted_of_a_time_nobody_measured(rig):
    it = rig()
    it.run(5.0)
    before = it.governing.ledger.spent()[0]
    assert before.joules == pytest.approx(9.0 * before.seconds)
    it.board.age_s = 5.0
    it.run(5.0)
    after = it.governing.ledger.spent()[0]
    assert (after.joules, after.metered_frames) == (before.joules, before.metered_frames)
    assert after.frames > before.frames


def test_blind_without_a_limit_that_needs_it_is_not_blind(rig):
    it = rig(watts=None)
    it.board.values = {"trouble": "nothing is there"}
    it.run(5.0)
    assert (it.told, it.rate, it.governing.decided.blind) == ([], None, False)


# Sources --------------------------------------------------------------------------------------------------------------


def test_before_any_source_gives_frames_nothing_is_paused(rig):
    it = rig()
    for _ in range(6):
        it.now_s += 0.5
        it.governing._govern()
    assert it.rate > 0.0
    assert "wanted" not in it.governing.decided.why


def test_at_the_start_nobody_was_blind(rig):
    it = rig()
    it.run(5.0)
    assert {"blind", "seeing"} & set(it.kinds()) == set()
    it = rig()
    it.board.values = {"trouble": "gone"}
    it.run(5.0)
    assert it.kinds() == ["blind"]


def test_a_file_is_read_on_after_a_pause_though_it_gave_no_frame_for_long(rig):
    it = rig()
    it.run(5.0)
    it.keeper.force, it.keeper.why = "pause", "memory is short"
    it.run()
    assert it.rate == 0.0
    it.lanes[0].slot.live = False
    for turn in range(80):  # nobody asks its reader for frames
        it.now_s += 0.5
        if turn == 20:
            it.keeper.force = ""
        it.governing._govern()
    assert it.rate > 0.0


def test_shares_go_to_the_pipeline_by_priority_and_a_shed_file_stays_shed(rig):
    it = rig(names=("gate", "yard"))
    it.lanes[0].priority = 9
    it.run(10.0)
    assert it.paces[-1][2] == {"gate": pytest.approx(it.rate), "yard": 0.0}
    it.lanes[1].slot.live = False
    for _ in range(30):
        it.now_s += 0.5
        for _ in range(15):
            it.lanes[0].meter.saw()
        it.lanes[0].meter.did()
        it.governing._govern()
    assert it.paces[-1][2]["yard"] == 0.0
    assert it.governing.decided.shares == it.paces[-1][2]


# Tiers ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stepping(rig):
    """Ordered the small tier, which serves not yet: 25 fps are wanted and the big one gives 16."""
    it = rig()
    it.changer.known = [BIG, SMALL]
    for _ in range(120):
        it.run(0.5)
        if it.changer.asked:
            return it
    raise AssertionError("it never asked for the small tier")


def test_until_the_other_tier_serves_the_pace_stays_what_the_one_in_service_may(stepping):
    it = stepping
    held = it.rate
    assert it.order.tier == "small"
    assert it.order.rate > held, "the small one may do more"
    assert held == pytest.approx(it.told[-1][0].before.rate)
    it.changer.loading = True
    it.run(3.0)
    assert it.rate <= held
    assert set(it.changer.asked) == {"small"}
    it.changer.tier, it.changer.loading = "small", False
    asked = len(it.changer.asked)
    it.run(0.5)
    assert it.rate == it.order.rate > held
    assert len(it.changer.asked) == asked
    assert it.keeper.restarts == 1, "what the other engine takes is no leak"


def test_what_the_engine_in_service_gives_says_nothing_about_the_one_that_is_loaded(stepping):
    it = stepping
    it.changer.loading = True
    it.run(30.0)
    assert it.order.rate > 1.2 * it.rate, "the small one is asked for more than the big one may give"
    assert it.governing._state.reached == ()
    it.changer.tier, it.changer.loading = "small", False
    it.run(10.0)
    assert it.governing._state.reached == ()
    it.run(20.0, fps=10.0)
    assert [(each.tier, each.fps) for each in it.governing._state.reached] == [("small", pytest.approx(10.0, rel=0.1))], "now it does"


def test_until_the_other_tier_has_taken_over_its_frames_are_booked_to_the_one_that_serves(stepping):
    it = stepping
    it.changer.loading = True
    was = {each.name: each.seconds for each in it.governing.ledger.spent()}
    it.run(10.0)
    now = {each.name: each.seconds for each in it.governing.ledger.spent()}
    assert now["big, batch 1"] == pytest.approx(was["big, batch 1"] + 10.0)
    assert now.get("small, batch 1", 0.0) == was.get("small, batch 1", 0.0)
    it.changer.tier, it.changer.loading = "small", False
    it.run(5.0)
    assert {each.name: each.seconds for each in it.governing.ledger.spent()}["small, batch 1"] == pytest.approx(5.0, abs=0.6)


def test_for_three_seconds_after_another_tier_has_taken_over_what_is_counted_is_not_its_own(stepping, monkeypatch):
    it, seen = stepping, []
    decide = module.governor.decide
    monkeypatch.setattr(module.governor, "decide", lambda rules, state, sample: (seen.append(sample), decide(rules, state, sample))[1])
    it.changer.loading = True
    it.run(2.0)
    assert [(each.changing, each.serving) for each in seen] == [(True, "big")] * 4
    it.changer.tier, it.changer.loading = "small", False
    seen.clear()
    it.run(4.0)
    assert [each.changing for each in seen] == [True] * 6 + [False] * 2
    assert {each.serving for each in seen} == {"small"}


def test_a_sensor_that_comes_and_goes_is_told_once_a_minute_and_so_is_its_return(rig):
    it = rig()
    it.run(10.0)
    it.told.clear()
    good = it.board.values
    for n in range(100):
        it.board.values = {**good, "watts": None, "trouble": "lost"} if n % 6 == 0 else good
        it.run(0.5)
    kinds = it.kinds()
    assert (kinds.count("blind"), kinds.count("seeing")) == (1, 1)


def test_a_tier_that_cannot_be_loaded_is_told_and_the_one_in_service_stays(stepping):
    it = stepping
    held, asked, it.told = it.rate, len(it.changer.asked), []
    it.changer.failure = "small cannot be loaded: no room"
    it.run(0.5)
    step = it.told[0][0]
    assert (step.kind, step.reason, step.before.tier, step.after.tier) == ("step", "small cannot be loaded: no room", "small", "big")
    assert step.after.rate == held
    assert it.changer.failure == ""
    assert len(it.changer.asked) == asked, "it is not asked for again at once"
    assert it.rate <= held * 1.01
    it.run(30.0)
    assert it.order.tier == "big"
    assert len(it.changer.asked) == asked, "and not before the way has settled"


def test_an_engine_that_was_tuned_meanwhile_is_noticed(rig):
    it = rig()
    it.run(5.0)
    it.changer.new, it.changer.tier = True, "tuned"
    it.run()
    assert it.order.tier == "tuned"
    assert it.changer.asked == [], "nobody goes back to the one before"
    assert it.keeper.restarts == 1
    it.run(5.0)
    assert it.keeper.restarts == 1


# Memory ---------------------------------------------------------------------------------------------------------------


def test_moves_of_the_memory_are_told_and_done(rig):
    it = rig()
    it.keeper.kept = {"move": Move(before=0, after=1, rungs=("queues",), reason="610 MB of 600 MB")}
    it.keeper.state = State(taken=("queues",))
    it.run()
    assert it.keeper.seen == [(7, frozenset({"queues"}), False)]
    assert it.pipeline.narrow
    assert it.changer.freed == [("queues",)]
    assert [(step.kind, step.reason) for step, _ in it.told] == [("memory", "gives up queues: 610 MB of 600 MB")]
    it.keeper.kept = {"move": Move(before=1, after=0, rungs=("queues",), reason="there is room")}
    it.keeper.state = State()
    it.run()
    assert not it.pipeline.narrow
    assert it.changer.freed[1:] == [()]
    assert it.told[-1][0].reason == "takes back queues: there is room"


def test_a_leak_is_told(rig):
    it = rig()
    it.keeper.kept = {"leak": Leak(slope_bytes_per_s=1.0, since_s=0.0, projected_s=None, words="memory only grows")}
    it.run()
    assert [(step.kind, step.reason) for step, _ in it.told] == [("leak", "memory only grows")]


def test_the_memory_can_pause_it(rig):
    it = rig()
    it.run(2.0)
    it.keeper.force, it.keeper.why = "pause", "nothing else is left"
    it.run()
    assert it.rate == 0.0
    assert it.told[-1][0].reason == "nothing else is left"


# Hours, and the thread ------------------------------------------------------------------------------------------------


def test_quiet_hours_begin_and_end_and_are_told(rig):
    it = rig(quiet=[Hours(begin=22 * 60, end=6 * 60, limits=Limits(watts=7.0))])
    it.governing._trust = SimpleNamespace(distrust=lambda: "")
    it.run(20.0)
    it.told, it.minute = [], 22 * 60
    it.run()
    assert (it.told[0][0].kind, it.told[0][0].reason) == ("limits", "quiet hours 22:00-06:00 hold")
    assert (it.governing.decided.limits.watts, it.governing.decided.quiet) == (7.0, "22:00-06:00")
    it.minute, it.told = 6 * 60, []
    it.run()
    assert it.told[0][0].reason == "quiet hours 22:00-06:00 are over"
    assert it.governing.decided.limits.watts == 10.0


def test_with_a_clock_that_cannot_be_believed_the_tightest_limits_count(rig):
    it = rig(quiet=[Hours(begin=22 * 60, end=6 * 60, limits=Limits(watts=7.0))])
    it.governing._trust = SimpleNamespace(distrust=lambda: "not synchronised")
    it.run()
    assert it.governing.decided.limits.watts == 7.0
    assert it.governing.decided.quiet == "(the tightest of all, for the clock is not set)"


def test_the_thread_beats_and_lets_go_of_the_sensors_at_its_end(rig, monkeypatch):
    it = rig()
    monkeypatch.setattr(module, "PERIOD_S", 0.01)
    beats = []
    monkeypatch.setattr(it.governing.heartbeat, "beat", lambda: beats.append(None))
    thread = threading.Thread(target=it.governing.run)
    thread.start()
    deadline = time.monotonic() + 10
    while len(beats) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not it.board.closed
    it.stop.set()
    thread.join(5)
    assert it.board.closed
    assert it.changer.looked == 1


def test_the_sensors_are_let_go_of_when_it_ends_with_an_error(rig, monkeypatch):
    it = rig()
    monkeypatch.setattr(module, "PERIOD_S", 0.01)
    monkeypatch.setattr(it.board, "sample", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        it.governing.run()
    assert it.board.closed
