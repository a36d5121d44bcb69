"""What is planned for this box, and whether what is stored fits it."""

import dataclasses
from pathlib import Path

import msgspec
import pytest

from agent import plan as module
from agent.building.forms import Form
from agent.building.gate import GateTable
from agent.config import BuildSection, Config, EngineSection
from agent.errors import EngineError
from agent.fingerprint import platform
from agent.machine import Memory
from agent.plan import may_fit, misfit, plan_for
from agent.units import Bytes
from tests.helpers.engines import HERE, ORIN, parts, plan, write_recipe


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path, model=Path("/nowhere/m.onnx"))


@pytest.fixture
def orin(recipe):
    return plan(recipe, platform=ORIN, runtime="tensorrt", max_batch=4)


def test_what_a_plan_depends_on_is_in_its_identity(orin):
    for change in ({"workspace": 1}, {"level": 3}, {"max_batch": 2}, {"precision": "fp16"}, {"platform": HERE}):
        assert dataclasses.replace(orin, **change).parts.base != orin.parts.base, change
    for limit in ({"memory": 1}, {"wall_s": 1.0}, {"runs": 1}):
        assert dataclasses.replace(orin, **limit).parts.base == orin.parts.base, limit
    assert orin.quick().parts.base != orin.parts.base
    assert orin.quick().level == 0
    assert orin.quick_forms == (Form.FP16, Form.FP32)


def test_scratch_memory_is_no_part_of_what_onnx_runtime_builds(recipe):
    assert plan(recipe, workspace=1).parts == plan(recipe, workspace=2).parts


def test_a_model_of_fixed_batch_is_planned_for_one_frame(orin):
    fixed = dataclasses.replace(orin, prepared=dataclasses.replace(orin.prepared, dynamic_batch=False))
    assert (orin.batch, orin.parts.max_batch) == (4, 4)
    assert (fixed.batch, fixed.parts.max_batch) == (1, 1)
    assert fixed.file(Path("/x"), Form.FP32, 4).max_batch == 1
    assert orin.file(Path("/x"), Form.FP32, 2).max_batch == 2, "the builder had to lower it"
    assert orin.file(Path("/x"), Form.FP32).max_batch == 4
    assert orin.file(Path("/x"), Form.FP32).identity == orin.parts.identity(Form.FP32)


@pytest.mark.parametrize(("changes", "cpu", "cannot", "speedup"), [
    ({}, True, False, 1.7), ({"provider": "CPUExecutionProvider"}, True, False, 1.7),
    ({"provider": "CUDAExecutionProvider"}, False, False, 1.0),
    ({"runtime": "tensorrt", "platform": ORIN}, False, False, 1.0),
    ({"runtime": "tensorrt_rtx", "platform": msgspec.structs.replace(ORIN, gpu="")}, False, True, 1.0)])
def test_where_it_runs_decides_what_int8_must_win(recipe, changes, cpu, cannot, speedup):
    found = plan(recipe, **changes)
    assert (found.on_cpu, bool(found.cannot_run), found.tolerance.speedup) == (cpu, cannot, speedup)
    own = dataclasses.replace(recipe, gate=GateTable(speedup=1.3, agreement=0.9))
    assert plan(own, **changes).tolerance == own.gate, "the recipe has the last word"


def test_the_configuration_is_followed(recipe, monkeypatch):
    monkeypatch.setattr(module.machine, "memory", lambda: Memory(total=8000, available=1))
    ready = plan(recipe).prepared
    config = Config(engine=EngineSection(threads=3, max_batch=2, precision="fp32"), build=BuildSection(workspace=Bytes(5), level=4))
    found = plan_for(config, recipe, ready)
    assert (found.threads, found.max_batch, found.precision, found.workspace, found.level, found.memory) == (3, 2, "fp32", 5, 4, 6000)
    assert found.platform == platform("onnxruntime", None, 3)
    assert plan_for(Config(build=BuildSection(memory=Bytes(77))), recipe, ready).memory == 77
    monkeypatch.setattr(module.machine, "memory", lambda: None)
    limits = plan_for(Config(), recipe, ready).limits(3)
    assert (limits.memory_bytes, limits.nice, limits.wall_s) == (None, 3, 3600.0)


def test_what_fits_this_machine_and_what_does_not():
    here = parts(platform=platform("onnxruntime", None, 1), conversion=module.CONVERSION)
    assert misfit(here) == []
    old = msgspec.structs.replace(here, platform=msgspec.structs.replace(here.platform, runtime="onnxruntime 1.0"))
    words, = misfit(old)
    assert words == f"runtime onnxruntime 1.0 → {here.platform.runtime}"
    assert misfit(msgspec.structs.replace(here, conversion=0)) == [f"conversion 0 → {module.CONVERSION}"]
    assert len(misfit(parts(platform=HERE, conversion=module.CONVERSION))) >= 1


def test_whether_an_engine_fits_whose_runtime_cannot_be_asked_is_not_known(monkeypatch):
    def none(*_):
        raise EngineError("TensorRT is not installed")

    monkeypatch.setattr(module, "platform", none)
    assert misfit(parts(platform=ORIN)) == ["cannot be told: TensorRT is not installed"]
    assert may_fit(parts(platform=ORIN)), "and it is not deleted"


@pytest.mark.parametrize("field", ["gpu", "power_mode", "l4t"])
def test_a_machine_that_cannot_be_asked_says_nothing_against_an_engine(monkeypatch, field):
    monkeypatch.setattr(module, "platform", lambda *_: msgspec.structs.replace(ORIN, **{field: ""}))
    assert "cannot be told" in misfit(parts(platform=ORIN))[0]
    assert may_fit(parts(platform=ORIN))
    monkeypatch.setattr(module, "platform", lambda *_: msgspec.structs.replace(ORIN, **{field: "another"}))
    assert not may_fit(parts(platform=ORIN))


@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt_rtx", "onnxruntime"])
def test_each_runtime_is_asked_for_by_its_own_name(monkeypatch, kind):
    asked = []
    monkeypatch.setattr(module, "platform", lambda *given: asked.append(given) or ORIN)
    misfit(parts(platform=msgspec.structs.replace(HERE, runtime=f"{kind} 1.2.3", provider="P", threads=5)))
    assert asked == [(kind, "P", 5)]
