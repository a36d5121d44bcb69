"""One operating point: calls at a pace on a clock that stands still but for what takes time, and sensors by script."""

import time

import numpy as np
import pytest

from agent import measuring as module
from agent.building.child import Death, Refusal
from agent.building.forms import Form
from agent.building.recipe_tables import HeadTable
from agent.config import BudgetSection, Config, EngineSection
from agent.errors import ConfigError, EngineError, ModelError
from agent.gathering import Gathered
from agent.loading import EngineFile
from agent.measuring import MeasureJob, Measurement, measure, pictures, timed_calls, work
from agent.pipeline import Model
from agent.power.telemetry import Reading
from agent.records import Placement
from tests.helpers.engines import write_recipe
from tests.helpers.scripted_engine import ScriptedEngine, one_box_head

PICTURES = np.stack([np.full((32, 32, 3), number, np.uint8) for number in range(3)])
NOWHERE = Placement(scale=1.0, left=0, top=0, width=32, height=32)


class Clock:
    def __init__(self):
        self.now, self.slept = 100.0, 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds
        self.slept += seconds


class Loop:
    """A model whose call takes ``call_s`` (a number, or by its number), head ``head_s``, on a clock of its own."""

    def __init__(self, call_s=0.0, head_s=0.0, depth=1, max_batch=4):
        self.clock, self.call_s, self.head_s, self.batches, self.heads, self.most, self.open = Clock(), call_s, head_s, [], 0, 0, 0
        self.spec = type("Spec", (), {"height": 32, "width": 32, "max_batch": max_batch, "depth": depth})
        self.told = []

    def start(self, batch):
        self.batches.append([int(each[0, 0, 0]) for each in batch])
        self.open += 1
        self.most = max(self.most, self.open)
        took = self.call_s(len(self.batches)) if callable(self.call_s) else self.call_s
        if self.spec.depth == 1:
            self.clock.now += took

        def wait():
            self.open -= 1
            if self.spec.depth > 1:
                self.clock.now += took
            return []
        return wait

    def head(self, outputs, placed):
        assert len(placed) == len(self.batches[0])
        self.heads += 1
        self.clock.now += self.head_s
        return []

    def place(self, pixels, out):
        out[:] = pixels
        return NOWHERE

    def run(self, batch=1, rate=None, seconds=2.0, lead_s=0.5, cancelled=lambda: False):
        return timed_calls(Model(engine=self, place=self.place, head=self.head), PICTURES, batch, rate, seconds,
                           report=lambda *told: self.told.append(told), cancelled=cancelled, clock=self.clock, sleep=self.clock.sleep, lead_s=lead_s)


def test_unpaced_the_rate_is_what_calls_and_heads_leave():
    loop = Loop(call_s=0.1875, head_s=0.0625)
    timed = loop.run(batch=2)
    assert timed.fps == 8.0
    assert timed.took_s == [0.25] * 8
    assert loop.clock.slept == 0
    assert loop.batches[:2] == [[0, 1], [2, 0]], "pictures in turns"
    assert loop.heads == len(loop.batches)
    assert timed.since_s == 100.5


@pytest.mark.parametrize(("batch", "rate"), [(1, 4.0), (4, 8.0), (2, 9.0)])
def test_paced_it_keeps_the_asked_rate_and_sleeps_the_rest(batch, rate):
    loop = Loop(call_s=0.05)
    timed = loop.run(batch=batch, rate=rate, seconds=10.0)
    assert timed.fps == pytest.approx(rate, rel=1e-6)
    assert timed.took_s == pytest.approx([0.05] * len(timed.took_s)), "waiting is no part of a call"
    assert loop.clock.slept > 5


def test_what_cannot_be_kept_up_is_measured_as_what_it_gave():
    assert Loop(call_s=0.5).run(rate=10.0, seconds=5.0).fps == pytest.approx(2.0)


def test_after_a_stall_it_catches_up_one_call_not_all():
    loop = Loop(call_s=lambda number: 3.0 if number == 20 else 0.01)
    timed = loop.run(rate=10.0, seconds=6.0)
    assert max(timed.took_s) == pytest.approx(3.0)
    assert timed.fps == pytest.approx(10.0 * (6.0 - 3.0) / 6.0, rel=0.1)


def test_the_lead_does_not_count():
    timed = Loop(call_s=lambda number: 0.4 if number < 4 else 0.1).run(seconds=1.0, lead_s=1.0)
    assert timed.took_s == pytest.approx([0.1] * len(timed.took_s))
    assert timed.fps == pytest.approx(10.0)


@pytest.mark.parametrize(("call_s", "calls"), [(0.9, 3), (3.0, 2), (60.0, 1)])
def test_slow_calls_are_counted_a_few_times_however_short_the_time(call_s, calls):
    timed = Loop(call_s=call_s).run(seconds=1.0)
    assert len(timed.took_s) == calls
    assert timed.fps == pytest.approx(1 / call_s)


def test_calls_overlap_where_the_engine_can_but_not_when_there_is_time():
    loop = Loop(call_s=0.1, depth=2)
    loop.run()
    assert loop.most == 2
    assert loop.open == 0, "what was under way at the end is waited for"
    paced = Loop(call_s=0.1, depth=2)
    paced.run(rate=2.0)
    assert paced.most == 1


def test_it_tells_how_far_it_is_and_can_be_cancelled():
    loop = Loop(call_s=0.1)
    loop.run(seconds=4.0)
    done = [share for _, share, _ in loop.told]
    assert done == sorted(done)
    assert 5 <= len(done) <= 10
    assert done[-1] >= 80
    with pytest.raises(ModelError, match="cancelled"):
        loop.run(cancelled=lambda: True)


# The child's work -----------------------------------------------------------------------------------------------------


class Sensors:
    name, closed = "sysfs", 0

    def __init__(self, watts):
        self.watts = watts

    def sample(self):
        return Reading(at_s=time.monotonic(), watts=self.watts, measures="VDD_IN" if self.watts else "", trouble="" if self.watts else "offline")

    def close(self):
        self.closed += 1


@pytest.fixture
def child(tmp_path, monkeypatch):
    np.save(tmp_path / "frames.npy", PICTURES)
    engine, sensors = ScriptedEngine(call_s=0.005, max_batch=2), Sensors(4.5)
    monkeypatch.setattr(module, "load_engine", lambda _: engine)
    monkeypatch.setattr(module, "open_telemetry", lambda kind, sysfs: sensors)
    monkeypatch.setattr(module, "make_head", lambda config, spec: one_box_head)
    monkeypatch.setattr(module, "_LEAD_S", 0.1)
    file = EngineFile(path="/nowhere", name="small", identity="a" * 16, model_sha256="b" * 64, form=Form.FP32, runtime="onnxruntime")
    job = MeasureJob(engine=file, head=HeadTable(kind="yolov8", score=0.5, iou=0.5), classes=1, pad=0, frames=str(tmp_path / "frames.npy"), batch=2,
                     rate=None, seconds=0.6, telemetry="auto", sysfs="/sys")
    return engine, sensors, job


def test_a_point_has_rate_times_watts_and_bytes(child):
    engine, sensors, job = child
    found = work(job, lambda *_: None, lambda: False)
    assert found.watts == pytest.approx(4.5)
    assert (found.measures, found.trouble, found.device_bytes) == ("VDD_IN", "", None)
    assert 20 < found.fps <= 400
    assert 5 <= found.p50_ms <= found.p99_ms
    assert found.calls >= 3
    assert found.resident_bytes > 10e6
    assert engine.closed
    assert sensors.closed == 1
    assert {len(batch) for batch in engine.batches} == {2}


def test_without_a_reading_watts_are_unknown_and_the_reason_is_told(child):
    _, sensors, job = child
    sensors.watts = None
    found = work(job, lambda *_: None, lambda: False)
    assert (found.watts, found.trouble) == (None, "offline")


def test_an_engine_that_fails_is_refused_and_all_is_let_go(child):
    engine, sensors, job = child
    engine.fail_at = 1
    with pytest.raises(ModelError, match="scripted failure"):
        work(job, lambda *_: None, lambda: False)
    assert engine.closed
    assert sensors.closed == 1


def test_sensors_that_are_wanted_and_not_there_are_told(child, monkeypatch):
    def nothing(*_):
        raise ConfigError("[budget] telemetry = 'jtop': no service", "start it")
    monkeypatch.setattr(module, "open_telemetry", nothing)
    with pytest.raises(ModelError, match="no service"):
        work(child[2], lambda *_: None, lambda: False)


# The parent -----------------------------------------------------------------------------------------------------------


class Offered:
    file = EngineFile(path="relative.onnx", name="small", identity="a" * 16, model_sha256="b" * 64, form=Form.FP32, runtime="onnxruntime")


@pytest.mark.parametrize(("answer", "expected"), [
    (Refusal(what="out of memory", remedy="less"), "out of memory"), (Death(what="was killed by signal 9", remedy=""), "was killed by signal 9")])
def test_a_child_that_dies_or_refuses_is_told_in_words(tmp_path, monkeypatch, answer, expected):
    monkeypatch.setattr(module, "run_child", lambda *_, **__: answer)
    assert measure(Offered, write_recipe(tmp_path), Config(), tmp_path / "f.npy", batch=1, rate=None, seconds=1.0) == expected


def test_the_child_gets_what_is_configured_and_does_not_step_back(tmp_path, monkeypatch):
    jobs = []

    def child(name, job, kind, limits, report):
        jobs.append((name, job, limits))
        return Measurement(calls=1, fps=1.0, p50_ms=1.0, p99_ms=1.0, watts=None, resident_bytes=1, grown_bytes=1, device_bytes=None, measures="", trouble="x")

    monkeypatch.setattr(module, "run_child", child)
    config = Config(engine=EngineSection(score=0.7), budget=BudgetSection(telemetry="rapl", sysfs="/other"))
    measure(Offered, write_recipe(tmp_path), config, tmp_path / "f.npy", batch=2, rate=3.0, seconds=1.0)
    ((name, job, limits),) = jobs
    assert name == "agent.measuring"
    assert limits.nice == 0
    assert (job.head.score, job.classes, job.batch, job.rate, job.telemetry, job.sysfs) == (0.7, 2, 2, 3.0, "rapl", "/other")
    assert job.engine.path.startswith("/"), "children work in /"


@pytest.mark.parametrize(("kind", "judging", "words"), [
    ("synthetic", 12, "made-up pictures (no set)"), ("held-out", 100, "8 pictures of this box or the recipe's sets"), ("held-out", 3, "3 pictures")])
def test_it_is_said_what_was_looked_at(tmp_path, monkeypatch, kind, judging, words):
    monkeypatch.setattr(module, "run_child", lambda *_, **__: Gathered(kind=kind, note="no set", sha256="", calibrating=0, judging=judging))
    assert pictures(write_recipe(tmp_path), (64, 64), tmp_path, tmp_path / "f.npy").startswith(words)


def test_no_pictures_at_all_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run_child", lambda *_, **__: Refusal(what="disk full", remedy="make room"))
    with pytest.raises(ModelError, match="disk full"):
        pictures(write_recipe(tmp_path), (64, 64), tmp_path, tmp_path / "f.npy")


def test_a_broken_engine_is_not_taken_for_a_slow_one():
    class Broken(Loop):
        def start(self, batch):
            raise EngineError("broken", "")
    with pytest.raises(EngineError):
        Broken().run()
