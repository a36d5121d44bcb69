"""From one engine tier to another: what can be chosen, what happens when one cannot be loaded, what takes over unasked."""

import threading
import time
from types import SimpleNamespace

import pytest

from agent import changing as module
from agent.changing import TierChanger
from agent.config import BudgetSection, Config, EngineSection
from agent.errors import EngineError
from agent.power.points import Point, Table, Tier, Way

BIG = Tier(name="64x64 fp32", identity="a" * 16, form="fp32", height=64, width=64, max_batch=4)
SMALL = Tier(name="32x32 fp32", identity="b" * 16, form="fp32", height=32, width=32, max_batch=2)
TINY = Tier(name="16x16 fp32", identity="c" * 16, form="fp32", height=16, width=16, max_batch=2)


def engine(tier, device_bytes=None):
    return SimpleNamespace(spec=SimpleNamespace(height=tier.height, width=tier.width, max_batch=tier.max_batch),
                           describe=lambda: SimpleNamespace(precision=tier.form), device_bytes=device_bytes)


def served(tier):
    return SimpleNamespace(model=SimpleNamespace(engine=engine(tier)), tier=tier)


def point(tier, batch, fps, watts):
    return Point(tier=tier.name, batch=batch, asked=None, fps=fps, p50_ms=1.0, p99_ms=1.0, watts=watts)


POINTS = [point(tier, batch, fps, 5.0 + fps * cost) for tier, cost in ((BIG, 0.3), (SMALL, 0.1)) for batch in (1, 2, 4, 8) for fps in (5.0, 10.0)]


def table(**changes):
    return Table(**{"recipe": "small", "tiers": [BIG, SMALL], "points": POINTS, "idle_watts": None, "telemetry": "sysfs", "measures": "VDD_IN",
                    "power_mode": None, "clocks": "", "at": 1e9, "took_s": 1.0, "complete": True, "seconds": 1.0, **changes})


class Rig:
    def __init__(self, monkeypatch, tmp_path, max_batch=4, sizes=((32, 32),), refused=""):
        self.now_s, self.loads, self.error, self.gate, self.swapped, self.given_back = 0.0, [], None, None, [], 0
        self.gave_up, self.alone, self.unloads = [], [], 0
        self.taken_over = threading.Event()
        self.taken_over.set()
        self.table, self.now, self.offers = None, table(points=[], complete=False), [BIG, SMALL]
        self.first = served(BIG)
        self.pipeline = SimpleNamespace(model=self.first.model, swap=self._swap, unload=self._unload)
        self.serving = SimpleNamespace(served=self.first, load=self._load, tuning="", refused=refused, give_up_tuning=self.gave_up.append)
        self.stop = threading.Event()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s, strftime=time.strftime, localtime=time.localtime))
        monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.01)
        monkeypatch.setattr(module.points_file, "load", lambda *_: self.table)
        monkeypatch.setattr(module.points_file, "current", lambda *_, **__: self.now)
        monkeypatch.setattr(module.tiers, "offers", self._offers)
        monkeypatch.setattr(module.heap, "give_back", self._give_back)
        config = Config(engine=EngineSection(recipe="small", max_batch=max_batch), budget=BudgetSection(sizes=[list(size) for size in sizes]))
        self.changer = TierChanger(config, SimpleNamespace(name="small"), tmp_path, serving=self.serving,
                                   pipeline=self.pipeline, stop=self.stop)

    def _offers(self, *_, **__):
        if isinstance(self.offers, Exception):
            raise self.offers
        return [SimpleNamespace(tier=tier) for tier in self.offers]

    def _give_back(self):
        self.given_back += 1

    def _load(self, offer, *, alone=False, ask=True):
        self.loads.append(offer.tier.name)
        self.alone.append(alone)
        if self.gate:
            assert self.gate.wait(10)
        if self.error and ask:
            raise self.error
        return served(offer.tier)

    def _unload(self):
        self.unloads += 1
        return self.taken_over

    def _swap(self, model):
        self.swapped.append(model)
        self.pipeline.model = model
        return self.taken_over

    def look(self):
        self.changer.look_around(SimpleNamespace(name="sysfs", sample=lambda: SimpleNamespace(measures="VDD_IN")))
        return self.changer

    def change_to(self, tier):
        self.changer.change_to(tier)
        if self.changer._thread:
            self.changer._thread.join(10)
            assert not self.changer.loading


@pytest.fixture
def rig(monkeypatch, tmp_path):
    return lambda **more: Rig(monkeypatch, tmp_path, **more)


def names(ways):
    return [(way.tier, way.batch) for way in ways]


def test_before_anything_is_known_there_is_the_way_in_service(rig):
    it = rig()
    assert it.changer.tier == "64x64 fp32"
    assert it.changer.ways(2) == [Way(tier="64x64 fp32", batch=2)]
    assert it.changer.ways(16) == [Way(tier="64x64 fp32", batch=4)], "as many as the engine takes"
    assert it.changer.way(3) == Way(tier="64x64 fp32", batch=3)
    assert it.changer.changeable() == frozenset()
    assert "not measured" in it.changer.table_words


def test_without_a_table_and_without_sizes_nobody_looks_for_tiers(rig):
    it = rig(sizes=())
    it.offers = EngineError("must not be asked")
    it.look()
    assert "not measured" in it.changer.table_words


def test_without_a_table_tiers_can_be_chosen_with_the_batch_that_is_configured(rig):
    changer = rig(max_batch=3).look()
    assert changer.ways(3) == [Way(tier="64x64 fp32", batch=3), Way(tier="32x32 fp32", batch=2, rank=1)]
    assert changer.changeable() == {"32x32 fp32"}


def test_a_table_that_fits_says_what_each_way_costs(rig):
    it = rig()
    it.table = table()
    changer = it.look()
    assert changer.table_words.startswith("fit, measured 2001-09-09")
    assert names(changer.ways(4)) == [("64x64 fp32", 1), ("64x64 fp32", 2), ("64x64 fp32", 4), ("32x32 fp32", 1), ("32x32 fp32", 2), ("32x32 fp32", 4)]
    assert names(changer.ways(1)) == [("64x64 fp32", 1), ("32x32 fp32", 1)], "no more than is configured, of any tier"
    assert changer.way(3).batch == 2
    assert changer.way(3).joules == pytest.approx(0.3)


def test_tiers_of_a_table_that_are_not_there_cannot_be_chosen(rig):
    it = rig()
    it.table, it.offers = table(), [BIG]
    assert {way.tier for way in it.look().ways(4)} == {"64x64 fp32"}


def test_a_stale_table_is_told_and_its_figures_do_not_count(rig, caplog):
    it = rig()
    it.table, it.now = table(), table(power_mode="15W", points=[])
    it.table = table(power_mode="MAXN")
    changer = it.look()
    assert changer.table_words.startswith("stale, `vedette tune` measures anew: the power mode was 'MAXN' and is '15W'")
    assert all(way.joules is None for way in changer.ways(4))
    assert "stale" in caplog.text


def test_when_tiers_cannot_be_told_the_one_in_service_goes_on(rig):
    it = rig()
    it.offers = EngineError("the runtime is gone")
    changer = it.look()
    assert changer.table_words == "cannot be used: the runtime is gone"
    assert names(changer.ways(1)) == [("64x64 fp32", 1)]


def test_another_tier_takes_over(rig):
    it = rig()
    it.look()
    it.change_to("32x32 fp32")
    assert it.changer.tier == "32x32 fp32"
    assert it.serving.served.tier is SMALL
    assert it.given_back >= 1, "what the old one held goes back to the machine"
    assert (it.unloads, it.alone) == (0, [False]), "beside the one that served"
    assert not it.changer.renewed(), "it was asked for"
    assert it.changer.failure == ""
    assert it.changer.changeable() == {"64x64 fp32"}
    assert it.changer.way(4).rank == 1


def test_where_memory_is_short_the_old_one_is_closed_before_the_new_one_is_loaded(rig):
    it = rig()
    it.look()
    it.changer.change_to("32x32 fp32", unload_first=True)
    it.changer._thread.join(10)
    assert (it.unloads, it.loads, it.alone) == (1, ["32x32 fp32"], [True])
    assert it.changer.tier == "32x32 fp32"


def test_what_was_closed_for_one_that_cannot_be_loaded_comes_back(rig):
    it = rig()
    it.look()
    it.error = EngineError("no room")
    it.changer.change_to("32x32 fp32", unload_first=True)
    it.changer._thread.join(10)
    assert it.loads == ["32x32 fp32", "64x64 fp32"]
    assert it.swapped, "it takes over again"
    assert it.changer.tier == "64x64 fp32"
    assert it.serving.served is it.changer._known
    assert "no room" in it.changer.take_failure()


def test_one_that_was_overtaken_by_a_tuned_engine_does_not_count_as_serving(rig):
    it = rig()
    it.look()
    it.pipeline.swap = lambda model: it.taken_over  # closed at once: another one came before it
    it.change_to("32x32 fp32")
    assert it.serving.served is it.first


def test_only_one_is_loaded_at_a_time_and_none_can_be_chosen_meanwhile(rig):
    it = rig()
    it.offers = [BIG, SMALL, TINY]
    it.look()
    it.gate = threading.Event()
    it.changer.change_to("32x32 fp32")
    assert it.changer.loading
    assert it.changer.changeable() == frozenset()
    it.changer.change_to("16x16 fp32")
    it.gate.set()
    it.changer._thread.join(10)
    assert it.loads == ["32x32 fp32"]
    it.changer.change_to("unknown")
    assert not it.changer.loading


@pytest.mark.parametrize(("error", "words"), [(EngineError("no room"), "no room"), (MemoryError(), "there is not enough memory")])
def test_what_cannot_be_loaded_is_told_and_left_alone_twice_as_long_each_time(rig, error, words):
    it = rig()
    it.look()
    it.error = error
    for tries, wait_s in enumerate((600.0, 1200.0, 2400.0, 4800.0, 9600.0, 10_000.0, 10_000.0), 1):
        it.change_to("32x32 fp32")
        assert len(it.loads) == tries
        assert it.changer.tier == "64x64 fp32"
        assert it.serving.served is it.first
        told = it.changer.take_failure()
        assert told.startswith(f"32x32 fp32 cannot be loaded: {words};")
        assert f"{wait_s / 60:.0f} min" in told
        assert it.changer.take_failure() == ""
        it.now_s += wait_s - 1.0
        assert it.changer.changeable() == frozenset()
        it.change_to("32x32 fp32")
        assert len(it.loads) == tries, "not before its time"
        it.now_s += 1.0
        assert it.changer.changeable() == {"32x32 fp32"}
    it.error = None
    it.change_to("32x32 fp32")
    assert it.changer.tier == "32x32 fp32"
    it.change_to("64x64 fp32")
    it.error = error
    it.change_to("32x32 fp32")
    assert "10 min" in it.changer.take_failure(), "it has been loaded since: the wait begins anew"


def test_a_tier_for_which_there_was_no_room_at_the_start_is_not_tried_again_at_once(rig):
    it = rig(refused="32x32 fp32")
    it.look()
    it.now_s = 599.0
    assert it.changer.changeable() == frozenset()
    it.now_s, it.error = 600.0, EngineError("no room")
    it.change_to("32x32 fp32")
    assert "20 min" in it.changer.take_failure(), "twice as long the next time"


def test_an_engine_that_was_tuned_beside_the_loop_is_noticed_once(rig):
    it = rig()
    it.look()
    assert not it.changer.renewed()
    it.serving.served = served(BIG)
    assert it.changer.renewed()
    assert not it.changer.renewed()


def test_at_the_end_nobody_waits_for_its_turn(rig):
    it = rig()
    it.look()
    it.taken_over = threading.Event()
    it.changer.change_to("32x32 fp32")
    time.sleep(0.05)
    assert it.changer.loading
    assert it.serving.served is it.first, "it does not serve before the other one is closed"
    it.stop.set()
    it.changer._thread.join(5)
    assert not it.changer.loading
    assert it.serving.served is it.first


def test_the_rungs_are_what_would_free_something_now(rig):
    it = rig()
    it.look()
    assert it.changer.rungs(4) == {"queues", "batch", "tier"}
    assert it.changer.rungs(1) == {"queues", "tier"}
    it.serving.tuning = "fp16"
    assert "candidate" in it.changer.rungs(1)
    it.serving.tuning = ""
    it.change_to("32x32 fp32")
    assert it.changer.rungs(1) == {"queues"}, "the larger one frees nothing"


def test_room_is_made(rig):
    it = rig()
    it.changer.make_room(("queues",))
    assert (it.gave_up, it.given_back) == ([], 1)
    it.changer.make_room(("queues", "candidate"))
    assert it.gave_up == ["it was given up because memory had run short"]


def test_the_devices_bytes_are_the_engines(rig):
    it = rig()
    assert it.changer.device_bytes is None
    it.pipeline.model = SimpleNamespace(engine=engine(BIG, device_bytes=5))
    assert it.changer.device_bytes == 5
