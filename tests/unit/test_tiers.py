"""Which engines may serve: a real small model, real files in a real store."""

import shutil

import msgspec
import pytest

from agent import points_file
from agent import tiers as module
from agent.building.forms import Form
from agent.building.prepare import prepare
from agent.building.store import Rung, Store, Tuning
from agent.config import BudgetSection, Config, EngineSection
from agent.errors import ConfigError, EngineError, ModelError
from agent.loading import load_engine
from agent.plan import plan_for
from agent.power.points import Point, Table
from agent.tiers import offers
from tests.helpers.engines import measured, write_recipe

FP32, INT8 = Form.FP32, Form.INT8_FP32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe, and a state directory in which its model is prepared at two sizes."""
    folder = tmp_path_factory.mktemp("made")
    recipe = write_recipe(folder, more="")
    for size in ((64, 64), (32, 64)):
        prepare(recipe, size=size, state_dir=folder / "state")
    return recipe, folder / "state"


class Box:
    def __init__(self, made, folder):
        self.recipe, before = made
        self.state = folder / "state"
        shutil.copytree(before, self.state)
        self.said = []

    def config(self, sizes=((32, 64),), **engine):
        return Config(engine=EngineSection(**{"recipe": "small", "threads": 1, "max_batch": 4, **engine}),
                      budget=BudgetSection(sizes=[list(size) for size in sizes]))

    def offers(self, sizes=((32, 64),), *, prepare_missing=True, **engine):
        return offers(self.config(sizes, **engine), self.recipe, self.state, say=self.said.append, prepare_missing=prepare_missing)

    def store(self, size, form, *, quick=False, kept=True, resident=1000, device=None):
        ready = prepare(self.recipe, size=size, state_dir=self.state)
        on = plan_for(self.config(), self.recipe, ready)
        on = on.quick() if quick else on
        built = self.state / "built"
        built.write_bytes(ready.path.read_bytes())
        Store(self.state).put(on.parts, form, built, 2)
        figures = msgspec.structs.replace(measured(resident=resident), device_bytes=device)
        Store(self.state).finish(Tuning(parts=on.parts, kept=form if kept else None, at=1.0, took_s=1.0, rungs=[
            Rung(form=form, outcome="kept" if kept else "lost", words="figures", measured=figures)]))
        return on


@pytest.fixture
def box(made, tmp_path):
    return Box(made, tmp_path)


def test_on_a_cpu_the_prepared_models_serve_the_configured_canvas_first(box):
    first, second = box.offers()
    assert (first.tier.name, first.tier.height, first.tier.width, first.tier.form) == ("64x64 fp32", 64, 64, "fp32")
    assert (second.tier.name, second.tier.height, second.tier.width) == ("64x32 fp32", 32, 64)
    assert first.tier.max_batch == 4
    assert first.stored is None
    assert first.tier.identity == first.plan.prepared.identity == first.file.identity
    assert first.need == first.plan.prepared.path.stat().st_size
    assert "at least the size of its file" in first.why
    engine = load_engine(second.file)
    assert (engine.spec.height, engine.spec.width, engine.spec.max_batch) == (32, 64, 4)
    engine.close()


def test_a_tuned_engine_goes_before_the_prepared_model_and_its_card_says_what_it_needs(box):
    on = box.store((32, 64), INT8, resident=123_456)
    first, second = box.offers()
    assert first.tier.form == "fp32"
    assert second.tier.name == "64x32 int8-fp32"
    assert second.tier.identity == on.parts.identity(INT8)
    assert second.tier.max_batch == 2, "its card says so"
    assert second.stored.card.form is INT8
    assert second.need == 123_456
    assert second.why == "the tuned engine; memory as measured when it was tuned"


def test_a_quick_engine_serves_where_there_is_no_tuned_one(box):
    box.store((64, 64), FP32, quick=True)
    (first,) = box.offers(())
    assert first.why.startswith("the quick engine")
    assert first.plan.level == 0
    box.store((64, 64), FP32)
    assert box.offers(())[0].why.startswith("the tuned engine")


def test_an_engine_that_was_not_kept_is_none(box):
    box.store((64, 64), INT8, kept=False)
    assert box.offers(())[0].stored is None


def test_what_tune_measured_says_what_it_needs_while_it_is_the_same_engine(box):
    (first,) = box.offers(())

    def keep(identity):
        tier = msgspec.structs.replace(first.tier, identity=identity)
        sizes = (100_000_000, 120_000_000)
        points = [Point(tier=tier.name, batch=batch, asked=None, fps=1.0, p50_ms=1.0, p99_ms=1.0, grown_bytes=size)
                  for batch, size in zip((1, 2), sizes, strict=True)]
        points_file.save(box.state, Table(recipe="small", tiers=[tier], points=points, idle_watts=None, telemetry="", measures="", power_mode=None,
                                          clocks="", at=1.0, took_s=1.0, complete=True, seconds=1.0))

    keep(first.tier.identity)
    assert box.offers(())[0].need == 120_000_000
    keep("f" * 16)
    assert box.offers(())[0].need == first.need


@pytest.mark.parametrize(("size", "problem"), [((64, 64), "is not smaller than the canvas"), ((96, 64), "is not smaller"), ((33, 40), "multiples of 32")])
def test_a_size_that_is_no_smaller_canvas_of_this_model_is_a_fault_of_the_configuration(box, size, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        box.offers((size,))
    assert "budget.sizes" in caught.value.what
    assert caught.value.remedy


def test_what_is_not_prepared_is_left_out_unless_it_is_asked_for(box):
    assert len(box.offers(((32, 32),), prepare_missing=False)) == 1
    assert box.said == ["small 32x32 is left out: its model is not prepared yet"]
    assert not list(box.state.glob("engines/small/*.bad"))
    assert [offer.tier.name for offer in box.offers(((32, 32),))] == ["64x64 fp32", "32x32 fp32"]
    assert len(box.offers(((32, 32),), prepare_missing=False)) == 2


def test_a_model_that_cannot_take_a_smaller_size_leaves_it_out_but_not_the_configured_one(box, monkeypatch):
    real = module.prepare

    def prepare_but(size):
        def prepared(recipe, **more):
            if more["size"] == size:
                raise ModelError("it is made for one size", "")
            return real(recipe, **more)
        return prepared

    monkeypatch.setattr(module, "prepare", prepare_but((32, 64)))
    assert [offer.tier.name for offer in box.offers()] == ["64x64 fp32"]
    assert "made for one size" in box.said[-1]
    monkeypatch.setattr(module, "prepare", prepare_but((64, 64)))
    with pytest.raises(ModelError, match="made for one size"):
        box.offers()


def test_where_no_cpu_serves_a_canvas_without_an_engine_is_left_out_and_that_is_said(box, monkeypatch):
    on = box.store((32, 64), FP32)
    monkeypatch.setattr(type(on), "on_cpu", property(lambda _: False))
    assert [offer.tier.name for offer in box.offers()] == ["64x32 fp32"]
    assert "size = [64, 64]" in box.said[0]
    assert "vedette engines build small" in box.said[0]


def test_an_engine_on_a_gpu_needs_the_memory_it_takes_there(box, monkeypatch):
    on = box.store((64, 64), FP32, resident=5, device=777)
    monkeypatch.setattr(type(on), "on_cpu", property(lambda _: False))
    assert box.offers(())[0].need == 777


def test_a_runtime_that_cannot_run_here_is_told(box, monkeypatch):
    monkeypatch.setattr(module.Plan, "cannot_run", property(lambda _: "this machine has no CUDA device"))
    with pytest.raises(EngineError, match="no CUDA device"):
        box.offers()
