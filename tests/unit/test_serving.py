"""Which engine serves, and what takes over: a real small model, real files in a real store, tuning scripted."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from agent import plan as plan_module
from agent import room as room_module
from agent import serving as module
from agent import tiers
from agent.building.forms import Form
from agent.building.prepare import prepare
from agent.building.store import Rung, Store, Tuning
from agent.config import BudgetSection, Config, EngineSection
from agent.errors import EngineError, ModelError
from agent.fingerprint import platform
from agent.loading import load_engine
from agent.plan import plan_for
from agent.power.memory import MemoryReading
from agent.room import NoRoomError
from agent.serving import Serving
from tests.helpers.engines import ORIN, measured, write_recipe

FP32, FP16 = Form.FP32, Form.FP16
HERE = platform("onnxruntime", None, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe and a state directory in which its model is prepared."""
    folder = tmp_path_factory.mktemp("made")
    recipe = write_recipe(folder)
    return recipe, prepare(recipe, state_dir=folder / "state"), folder / "state"


class Box:
    """A box with the prepared model; ``serving`` is a fresh start of its agent."""

    def __init__(self, made, state):
        self.recipe, _, before = made
        shutil.copytree(before, state)
        self.ready = prepare(self.recipe, state_dir=state)
        self.state, self.store = state, Store(state)
        self.said, self.swapped = [], []
        self.cancel = threading.Event()

    def config(self, budget=None, **engine):
        return Config(engine=EngineSection(**{"recipe": "small", "threads": 1, **engine}), budget=BudgetSection(memory=budget))

    def plan(self, **engine):
        return plan_for(self.config(**engine), self.recipe, self.ready)

    def store_engine(self, content=None, form=FP32, kept=True, quick=False, need=1000, **engine):
        """Put an engine into the store as a tuning would; without content the prepared model serves as one."""
        on = self.plan(**engine)
        on = on.quick() if quick else on
        built = self.state / "built"
        built.write_bytes(self.ready.path.read_bytes() if content is None else content)
        self.store.put(on.parts, form, built, 1)
        self.store.finish(self.report(on, form if kept else None, form, need))
        return on

    @staticmethod
    def report(on, kept, form=FP32, need=1000):
        rungs = [Rung(form=form, outcome="kept" if kept else "lost", words="figures", measured=measured(resident=need))]
        return Tuning(parts=on.parts, rungs=rungs, kept=kept, at=1.0, took_s=1.0)

    def serving(self, budget=None, **engine):
        return Serving(self.config(budget, **engine), self.recipe, self.state, self.said.append, self.cancel)

    def swap(self, served):
        self.swapped.append(served)
        taken_over = threading.Event()
        taken_over.set()
        return taken_over

    def quarantined(self):
        return [path.read_text() for path in self.state.glob("engines/small/quarantine/*.txt")]


@pytest.fixture
def box(made, tmp_path):
    return Box(made, tmp_path / "state")


def identity(served):
    return served.model.engine.describe().identity


@pytest.fixture
def elsewhere(monkeypatch):
    """Let the box become another one."""
    def move(**facts):
        there = msgspec.structs.replace(HERE, **facts)
        monkeypatch.setattr(plan_module, "platform", lambda *_: there)
    return move


@pytest.fixture
def tuner(monkeypatch):
    """Script tunings: a function of the plan that returns the report, or raises."""
    class Scripted:
        plans: list

        def __init__(self, *, plan, state_dir, report=lambda *_: None, cancel=None):
            self.plan, self.report = plan, report

        def run(self, forms=None):
            Scripted.plans.append((self.plan, forms))
            return Scripted.work(self.plan, self.report)

    Scripted.plans, Scripted.work = [], None
    monkeypatch.setattr(module, "Tuner", Scripted)
    return Scripted


# The first engine -----------------------------------------------------------------------------------------------------


def test_without_a_tuned_engine_the_prepared_model_serves_on_a_cpu(box):
    served = box.serving().first()
    assert (served.tier, served.stored) == ("prepared", None)
    assert identity(served) == box.ready.identity
    assert "of the original's range" in served.checked


def test_how_far_the_models_download_is_is_said(box, monkeypatch):
    def fetched_first(*args, progress, **settings):
        progress(1_000_000, 7_300_000)
        return prepare(*args, **settings)

    monkeypatch.setattr(module, "prepare", fetched_first)
    box.serving().first()
    assert box.said == ["fetching the model: 1.0 of 7.3 MB", "loading small"]


def test_a_tuned_engine_serves_under_its_own_identity(box):
    on = box.store_engine()
    serving = box.serving()
    served = serving.first()
    assert (served.tier, served.checked) == ("tuned", "figures")
    assert identity(served) == on.parts.identity(FP32) != box.ready.identity
    assert served.stored.path.name == "fp32.engine"
    assert serving.served is served


def test_an_engine_that_the_gate_refused_does_not_serve(box):
    box.store_engine(kept=False)
    assert box.serving().first().tier == "prepared"


@pytest.mark.parametrize("content", [b"no engine", b""])
def test_an_engine_that_cannot_be_loaded_is_set_aside_and_the_lower_tier_serves(box, content):
    on = box.store_engine(content)
    assert box.serving().first().tier == "prepared"
    assert "fp32" in box.quarantined()[0]
    assert box.store.serving(on.parts) is None
    assert box.serving().first().tier == "prepared"
    assert len(box.quarantined()) == 1, "it is tried once"


def test_an_engine_with_a_flipped_bit_is_never_loaded(box, monkeypatch):
    on = box.store_engine()
    path = box.store.folder(on.parts) / "fp32.engine"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    loaded = []
    monkeypatch.setattr(module, "load_engine", lambda file: (loaded.append(file.path), load_engine(file))[1])
    assert box.serving().first().tier == "prepared"
    assert loaded == [str(box.ready.path)]
    assert "sha256" in box.quarantined()[0]


@pytest.mark.parametrize("facts", [
    {"runtime": "onnxruntime 9.9"}, {"l4t": "36.5.2"}, {"cpu": "Another CPU"}, {"power_mode": "15W (1)"}, {"threads": 2}])
def test_an_engine_of_another_platform_is_never_loaded_and_stays_where_it_is(box, elsewhere, monkeypatch, facts):
    on = box.store_engine()
    loaded = []
    monkeypatch.setattr(module, "load_engine", lambda file: (loaded.append(file.path), load_engine(file))[1])
    elsewhere(**facts)
    assert box.serving().first().tier == "prepared"
    assert loaded == [str(box.ready.path)]
    assert box.store.serving(on.parts) is not None, "the box may go back"
    assert box.quarantined() == []


def test_a_head_that_does_not_fit_ends_with_the_engine_closed(box, monkeypatch):
    closed = []

    def unfit(config, recipe, engine):
        monkeypatch.setattr(type(engine), "close", lambda engine: closed.append(engine.spec))
        raise ModelError("no head fits")

    monkeypatch.setattr(module.assembly, "model", unfit)
    with pytest.raises(ModelError, match="no head fits"):
        box.serving().first()
    assert len(closed) == 1


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_a_runtime_that_has_no_device_here_ends_the_start_with_the_reason(box, monkeypatch, runtime):
    monkeypatch.setattr(plan_module, "platform", lambda *_: msgspec.structs.replace(ORIN, gpu="", runtime=f"{runtime} 10.3.0"))
    with pytest.raises(EngineError, match=f"runtime = '{runtime}' cannot run: this machine has no CUDA device") as raised:
        box.serving(runtime=runtime).first()
    assert "vedette doctor" in raised.value.remedy


# On a GPU: the quick tier ---------------------------------------------------------------------------------------------


@pytest.fixture
def orin(box, monkeypatch):
    """The box is a Jetson; every engine that is loaded there is the small model on the CPU."""
    monkeypatch.setattr(plan_module, "platform", lambda *_: ORIN)
    loaded = []

    def load(file):
        loaded.append(file)
        if b"broken" in (content := Path(file.path).read_bytes()):
            raise EngineError(f"{content!r} cannot be deserialised")
        return load_engine(msgspec.structs.replace(file, path=str(box.ready.path), runtime="onnxruntime", provider=None, threads=1))

    monkeypatch.setattr(module, "load_engine", load)
    monkeypatch.setattr(room_module, "free_device_bytes", lambda: 8 << 30)
    return SimpleNamespace(loaded=loaded, engine={"runtime": "tensorrt"})


def test_how_far_the_quick_engine_is_and_whom_it_waits_for_is_said(box, orin, tuner):
    def work(plan, report):
        report("waiting for process 7, which works in built", 0, None)
        box.store_engine(b"plan", FP16, quick=True, **orin.engine)
        return box.report(plan, FP16)
    tuner.work = work
    box.serving(**orin.engine).first()
    assert box.said[-1] == "building a quick engine for small: waiting for process 7, which works in built"


def test_on_a_gpu_the_first_start_builds_a_quick_engine_and_the_next_one_finds_it(box, orin, tuner):
    tuner.work = lambda plan, report: box.store_engine(b"plan", FP16, quick=True, **orin.engine) and box.report(plan, FP16)
    served = box.serving(**orin.engine).first()
    assert (served.tier, served.stored.card.form) == ("quick", FP16)
    (plan, forms), = tuner.plans
    assert (plan.level, forms) == (0, (FP16, FP32))
    assert box.said == ["loading small", "building a quick engine for small"]
    served = box.serving(**orin.engine).first()
    assert (served.tier, len(tuner.plans)) == ("quick", 1)
    assert box.serving(**orin.engine)._wanted(box.plan(**orin.engine), served), "auto: the better one is built beside the loop"


def test_on_a_gpu_a_tuned_engine_that_breaks_gives_way_to_the_quick_one(box, orin):
    box.store_engine(b"plan", FP16, quick=True, **orin.engine)
    tuned = box.store_engine(b"broken", FP16, **orin.engine)
    served = box.serving(**orin.engine).first()
    assert served.tier == "quick"
    assert identity(served) == tuned.quick().parts.identity(FP16)
    assert "cannot be deserialised" in box.quarantined()[0]


def test_on_a_gpu_where_no_quick_engine_may_serve_the_start_fails_with_every_reason(box, orin, tuner):
    tuner.work = lambda plan, report: box.report(plan, None, FP16)
    with pytest.raises(EngineError, match="no engine for small may serve: fp16 lost: figures"):
        box.serving(**orin.engine).first()


# Tuning beside the loop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tune", "outdated", "before", "tunes"), [
    ("off", False, None, False), ("off", True, None, False),
    ("auto", False, None, False), ("auto", True, None, True),
    ("background", False, None, True), ("background", True, None, True),
    ("auto", False, "none kept", False), ("background", False, "none kept", False), ("background", True, "none kept", False),
    ("auto", False, "kept, but gone", True), ("background", False, "kept, but gone", True)])
def test_when_it_tunes_on_a_cpu(box, tuner, tune, outdated, before, tunes):
    if outdated:
        other = box.plan()
        parts = msgspec.structs.replace(other.parts, platform=msgspec.structs.replace(HERE, runtime="onnxruntime 1.0"))
        box.store.folder(parts).mkdir(parents=True)
        box.store.finish(msgspec.structs.replace(box.report(other, FP32), parts=parts))
    if before:
        on = box.plan()
        box.store.folder(on.parts).mkdir(parents=True)
        box.store.finish(box.report(on, None if before == "none kept" else FP32))
    tuner.work = lambda plan, report: box.report(plan, None)
    serving = box.serving(tune=tune)
    assert serving.first().tier == "prepared"
    serving.improve(box.swap)
    assert len(tuner.plans) == tunes
    assert ("none could be kept" in serving.failed) == (before == "none kept" and tune != "off")


def test_a_tuned_engine_is_not_tuned_again(box, tuner):
    box.store_engine()
    serving = box.serving(tune="background")
    assert serving.first().tier == "tuned"
    serving.improve(box.swap)
    assert tuner.plans == []


def test_what_wins_takes_over(box, tuner):
    seen = []

    def work(plan, report):
        seen.append(serving.tuning)
        report("build fp32", 1, 4)
        seen.append(serving.tuning)
        box.store_engine()
        return box.report(plan, FP32)

    tuner.work = work
    serving = box.serving(tune="background")
    serving.first()
    serving.improve(box.swap)
    better, = box.swapped
    assert better.tier == "tuned"
    assert identity(better) == box.plan().parts.identity(FP32)
    assert serving.served is better
    assert (serving.tuning, serving.failed) == ("", "")
    assert seen == ["waits for its turn", "build fp32 1 of 4"]
    assert tuner.plans[0][1] is None, "the whole ladder"


@pytest.mark.parametrize(("error", "words"), [
    (ModelError("the disk is full"), "tuning failed: the disk is full"), (EngineError("no runtime"), "tuning failed: no runtime")])
def test_a_tuning_that_fails_is_told_and_the_loop_goes_on(box, tuner, error, words):
    def work(plan, report):
        raise error

    tuner.work = work
    serving = box.serving(tune="background")
    served = serving.first()
    serving.improve(box.swap)
    assert (serving.failed, serving.tuning, serving.served, box.swapped) == (words, "", served, [])


def test_a_tuning_that_is_cancelled_is_no_failure(box, tuner):
    def work(plan, report):
        box.cancel.set()
        raise ModelError("cancelled", "")

    tuner.work = work
    serving = box.serving(tune="background")
    serving.first()
    serving.improve(box.swap)
    assert (serving.failed, serving.tuning) == ("", "")


def test_a_tuning_that_keeps_nothing_is_told_with_each_reason(box, tuner):
    tuner.work = lambda plan, report: box.report(plan, None)
    serving = box.serving(tune="background")
    serving.first()
    serving.improve(box.swap)
    assert serving.failed == "tuning found no engine that may serve: fp32 figures"
    assert box.swapped == []


@pytest.mark.parametrize(("memory", "budget", "need", "words"), [
    ({"available": 100 << 20}, None, 200 << 20, "takes 210 MB; 105 MB are available on the machine"),
    ({"available": 100 << 20}, None, 40 << 20, "takes 42 MB; 105 MB are available on the machine"),
    ({"available": 8 << 30, "resident": 5_000_000, "children": 0}, 10e6, 20 << 20, "of the budget of 10 MB 5 MB are taken"),
    ({"limit": 100 << 20, "limit_of": "/cg/max", "used": 10 << 20}, None, 40 << 20, "the control group's limit of 105 MB (/cg/max)"),
    ({"available": 105 << 20}, None, 40 << 20, ""), ({}, 10e6, 1 << 40, ""), ({}, None, 1 << 40, "")])
def test_without_room_for_both_it_waits_for_the_next_start(box, tuner, monkeypatch, memory, budget, need, words):
    monkeypatch.setattr(room_module.MemoryWatch, "read", lambda _, device: MemoryReading(at_s=0.0, **memory))
    monkeypatch.setattr(room_module.Room, "for_build", lambda _, plan: plan)
    tuner.work = lambda plan, report: box.store_engine(need=need) and box.report(plan, FP32)
    serving = box.serving(tune="background", budget=budget)
    first = serving.first()
    serving.improve(box.swap)
    if words:
        assert words in serving.failed
        assert "takes over at the next start" in serving.failed
        assert (box.swapped, serving.served) == ([], first)
        monkeypatch.setattr(room_module.MemoryWatch, "read", lambda _, device: MemoryReading(at_s=0.0))
        assert box.serving().first().tier == "tuned", "and then it does"
    else:
        assert [served.tier for served in box.swapped] == ["tuned"]
        assert serving.failed == ""


def smaller_canvas(box):
    """Serving with a smaller canvas allowed, prepared by the first start; its engines take as much as their files say."""
    config = msgspec.structs.replace(box.config(), budget=BudgetSection(sizes=[[32, 32]], reserve=0))
    return Serving(config, box.recipe, box.state, box.said.append, box.cancel)


def test_without_room_for_the_configured_canvas_a_smaller_one_serves_and_that_is_told(box, monkeypatch):
    asked = []

    def ask(self, plan, need, served):
        asked.append((plan.prepared.width, need > 0, served))
        if plan.prepared.width == 64:
            raise NoRoomError("the engine 64x64 takes 99 MB", "buy memory")

    monkeypatch.setattr(room_module.Room, "ask", ask)
    serving = smaller_canvas(box)
    served = serving.first()
    assert served.model.engine.spec.width == 32
    assert serving.failed == "the engine 64x64 takes 99 MB; the smaller canvas 32x32 fp32 serves instead"
    assert serving.refused == "64x64 fp32"
    assert asked == [(64, True, None), (32, True, None)]


def test_without_room_for_any_canvas_the_start_ends_with_the_reason_for_the_largest(box, monkeypatch):
    def ask(self, plan, need, served):
        raise NoRoomError(f"the engine of {plan.prepared.width} takes 99 MB", "buy memory")

    monkeypatch.setattr(room_module.Room, "ask", ask)
    with pytest.raises(NoRoomError, match="the engine of 64 takes 99 MB"):
        smaller_canvas(box).first()


def test_another_tier_is_loaded_beside_the_one_that_serves_if_there_is_room(box, monkeypatch):
    serving = box.serving()
    first = serving.first()
    offer = tiers.prepared_offer(box.plan(), None)
    assert identity(serving.load(offer)) == box.ready.identity
    asked = []

    def ask(self, plan, need, served):
        asked.append((need, served))
        raise NoRoomError("no", "none")

    monkeypatch.setattr(room_module.Room, "ask", ask)
    with pytest.raises(NoRoomError):
        serving.load(offer)
    assert asked == [(offer.need, first.model.engine)]


def test_tuning_that_is_given_up_is_cancelled_and_told(box, tuner):
    serving = box.serving(tune="background")
    serving.first()
    serving.give_up_tuning("memory had run short")
    assert (serving.failed, serving._cancel.is_set()) == ("", False), "there was none"

    def work(plan, report):
        serving.give_up_tuning("memory had run short")
        raise EngineError("cancelled")

    tuner.work = work
    serving.improve(box.swap)
    assert serving.failed.startswith("a better engine is not built: memory had run short")
    assert serving._cancel.is_set()
    assert not box.cancel.is_set()


def test_tuning_needs_room_for_its_children(box, tuner, monkeypatch):
    def no_room(self, plan):
        raise NoRoomError("building an engine takes 134 MB at least", "more memory")

    serving = box.serving(tune="background")
    serving.first()
    monkeypatch.setattr(room_module.Room, "for_build", no_room)
    serving.improve(box.swap)
    assert serving.failed == "tuning failed: building an engine takes 134 MB at least"
    assert tuner.plans == []


def test_a_winner_that_cannot_be_loaded_beside_the_loop_is_set_aside(box, tuner):
    tuner.work = lambda plan, report: box.store_engine(b"garbage") and box.report(plan, FP32)
    serving = box.serving(tune="background")
    first = serving.first()
    serving.improve(box.swap)
    assert (box.swapped, serving.served) == ([], first)
    assert len(box.quarantined()) == 1
    assert "cannot be loaded" in serving.failed


def test_a_winner_that_vanished_is_told(box, tuner):
    tuner.work = lambda plan, report: box.report(plan, FP32)
    serving = box.serving(tune="background")
    serving.first()
    serving.improve(box.swap)
    assert serving.failed == "the tuned engine is gone from the disk"


# Distrust -------------------------------------------------------------------------------------------------------------


def test_a_tuned_engine_whose_run_failed_is_not_loaded_again(box):
    on = box.store_engine()
    serving = box.serving()
    assert serving.first().tier == "tuned"
    serving.distrust("its run failed")
    assert "its run failed" in box.quarantined()[0]
    assert box.serving().first().tier == "prepared"
    assert box.store.serving(on.parts) is None


def test_an_engine_that_cannot_be_set_aside_is_told_and_hides_no_other_error(box, monkeypatch, caplog):
    def fails(*_):
        raise ModelError("the card cannot be deleted", "check its owner")

    box.store_engine()
    serving = box.serving()
    serving.first()
    monkeypatch.setattr(Store, "quarantine", fails)
    serving.distrust("its run failed")
    assert "the card cannot be deleted" in caplog.text


def test_the_prepared_model_is_never_set_aside(box):
    serving = box.serving()
    serving.distrust("nothing is loaded yet")
    serving.first()
    serving.distrust("its run failed")
    assert box.quarantined() == []
    assert box.ready.path.exists()


def test_the_canvas_is_the_configured_one_or_the_recipes(box):
    assert box.serving().size == (64, 64)
    assert box.serving(size=[96, 128]).size == (96, 128)
