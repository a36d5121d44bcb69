"""`vedette bench`: what it times, and that its table holds no figure that nobody measured."""

import dataclasses
import time
import types

import msgspec
import numpy as np
import pytest

from agent.building.forms import Form
from agent.building.gate import Agreement, Measured, Speed
from agent.building.identity import Parts, Platform
from agent.building.recipe import find_recipe, recipe_folders
from agent.building.store import Rung, Store, Tuning
from agent.cli import bench, bench_table
from agent.cli.bench import Bench, Timing, load_served, measure
from agent.config import Config
from agent.errors import EngineError
from tests.helpers.scripted_engine import ScriptedEngine


class Overlapping(ScriptedEngine):
    """Takes `depth` calls at once, each `call_s` long from its start; notes how many were under way."""

    def __init__(self, depth, **options):
        super().__init__(**options)
        self.spec = dataclasses.replace(self.spec, depth=depth)
        self.under_way = self.most = self.done = 0

    def start(self, batch):
        assert self.under_way < self.spec.depth, "more calls than the engine takes"
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        ends = time.perf_counter() + self.call_s

        def wait():
            time.sleep(max(ends - time.perf_counter(), 0))
            self.under_way -= 1
            self.done += 1
            return [np.zeros((len(batch), 1), np.float32)]
        return wait


def measured(engine, seconds=0.1, note=""):
    told = []
    return measure(lambda say: (engine, note), seconds, lambda phase, done: told.append((phase, done))), told


def test_each_size_of_batch_is_timed_and_the_engine_closed():
    engine = ScriptedEngine(call_s=0.002, max_batch=4)
    found, _ = measured(engine, note="n")
    assert engine.closed
    assert [timing.batch for timing in found.timings] == [1, 4]
    assert {len(batch) for batch in engine.batches} == {1, 4}
    for timing in found.timings:
        assert 2.0 <= timing.p50_ms <= timing.p99_ms
        assert 20 <= timing.calls <= 50
        assert 0 < timing.frames_per_s <= timing.batch * 500
    one, four = (timing.frames_per_s for timing in found.timings)
    assert four > 2 * one
    assert (found.canvas, found.note, found.device_bytes) == ((32, 32), "n", None)


def test_an_engine_that_fails_is_closed_all_the_same():
    engine = ScriptedEngine(fail_at=5)
    with pytest.raises(EngineError, match="scripted"):
        measured(engine)
    assert engine.closed


def test_slow_calls_are_timed_often_enough_for_a_percentile():
    found, told = measured(ScriptedEngine(call_s=0.02), seconds=0.01)
    assert found.timings[0].calls == 20
    assert told[0] == ("loading", 0.0)
    assert {phase for phase, _ in told[1:]} == {"batch 1"}
    assert max(done for _, done in told) == 1.0


def test_first_calls_are_not_counted():
    class Lazy(ScriptedEngine):
        def start(self, batch):
            self.call_s = 0.05 if len(self.batches) < 3 else 0.001
            return super().start(batch)
    assert measured(Lazy())[0].timings[0].p99_ms < 40


def test_calls_overlap_as_far_as_the_engine_lets_them():
    engine = Overlapping(2, call_s=0.01)
    found, told = measured(engine, seconds=0.4)
    assert (engine.most, engine.under_way) == (2, 0), "none is left under way"
    assert found.timings[0].p50_ms >= 10
    assert found.timings[0].frames_per_s > 1.5 * 1e3 / found.timings[0].p50_ms
    assert "batch 1, overlapped" in {phase for phase, _ in told}


class Prepared:
    dynamic_batch, identity, model_sha256, height, width, max_difference = True, "p" * 16, "m" * 64, 320, 320, 0.0


@pytest.fixture
def serving(monkeypatch, tmp_path):
    """Nothing is prepared or loaded really; what would be loaded is returned."""
    Prepared.path = tmp_path / "prepared.onnx"
    sizes = []
    monkeypatch.setattr("agent.serving.prepare", lambda recipe, size, state_dir, stage, progress: sizes.append(size) or Prepared)
    monkeypatch.setattr("agent.serving.load_engine", lambda file: file)
    monkeypatch.setattr("agent.assembly.model", lambda config, recipe, engine: types.SimpleNamespace(engine=engine))

    def load(config=None):
        return load_served(config or Config(), recipe(), tmp_path, lambda _: None)
    load.sizes = sizes
    return load


def recipe():
    return find_recipe("centerface", recipe_folders())


def with_engine(**changes) -> Config:
    return msgspec.structs.replace(Config(), engine=msgspec.structs.replace(Config().engine, **changes))


def keep(plan, state_dir, form):
    """Put an engine of the plan into the store, as tuning does."""
    store = Store(state_dir)
    store.folder(plan.parts).mkdir(parents=True)
    (store.folder(plan.parts) / "new").write_bytes(b"engine")
    kept = store.put(plan.parts, form, store.folder(plan.parts) / "new", 1)
    store.finish(tuning(parts=plan.parts, kept=form))
    return kept


def tuning(**changes) -> Tuning:
    return Tuning(**{**dict(rungs=[], kept=None, at=1.0, took_s=1.0), **changes})


def test_without_a_built_engine_the_prepared_model_is_measured_and_that_is_said(serving):
    file, note = serving()
    assert (file.path, file.form, file.runtime) == (str(Prepared.path), Form.FP32, "onnxruntime")
    assert note == "the prepared engine, not tuned on this device yet: vedette engines build centerface"


def test_what_is_measured_is_the_tuned_engine_in_the_store(serving, tmp_path):
    from agent.plan import plan_for
    plan = plan_for(Config(), recipe(), Prepared)
    tuned = keep(plan, tmp_path, Form.INT8_FP32)
    file, note = serving()
    assert (file.path, file.form, file.identity, note) == (str(tuned.path), Form.INT8_FP32, plan.parts.identity(Form.INT8_FP32), "")


def test_a_damaged_engine_is_not_measured(serving, tmp_path):
    from agent.plan import plan_for
    keep(plan_for(Config(), recipe(), Prepared), tmp_path, Form.INT8_FP32).path.write_bytes(b"e")
    assert serving()[0].form is Form.FP32


def test_another_recipes_size_is_not_taken(serving):
    for name in ("centerface", "yolo"):
        serving(with_engine(recipe=name, size=[640, 480]))
    assert serving.sizes == [(640, 480), recipe().input.size]


def run(capsys, *arguments, code=0):
    assert bench.bench.main(list(map(str, arguments)), standalone_mode=False) in {code, None}
    return capsys.readouterr().out


def test_figures_are_shown_for_people_and_for_programs(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "load_served", lambda *_: (ScriptedEngine(max_batch=2), "not tuned"))
    text = run(capsys, "centerface", "--seconds", "0.1", "--state-dir", tmp_path)
    assert "scripted 32x32" in text
    assert "scripted: not tuned" in text
    rows = msgspec.json.decode(run(capsys, "centerface", "--seconds", "0.1", "--state-dir", tmp_path, "--json"), type=list[Bench])
    assert [timing.batch for timing in rows[0].timings] == [1, 2]
    assert isinstance(rows[0].timings[0], Timing)


def speed(p50):
    return Speed(runs=100, p50_ms=p50, p99_ms=p50, mean_ms=p50)


def card(p50, base=None, **changes):
    return Measured(**{**dict(
        agreement=Agreement(frames=1, reference_boxes=0, matched=0, extra=0, class_changed=0, output_difference=0.0), speed=speed(p50),
        baseline=speed(base) if base else None, baseline_form=Form.FP32 if base else None, resident_bytes=90_000_000, frames_kind="held-out"), **changes})


def parts(**platform) -> Parts:
    return Parts(recipe="centerface", recipe_sha256="r", model_sha256="m", prepared="p" * 16, conversion=1,
                 platform=Platform(**{**dict(runtime="onnxruntime 1.31.1", provider="CPUExecutionProvider", cpu="Z80", threads=1), **platform}))


def stored(state_dir, *tunings):
    for one in tunings:
        Store(state_dir).folder(one.parts).mkdir(parents=True)
        Store(state_dir).finish(one)


def table(capsys, state_dir):
    return msgspec.json.decode(run(capsys, "centerface", "--table", "--json", "--state-dir", state_dir))


def test_published_figures_are_the_sources_and_no_more(capsys, tmp_path):
    rows = table(capsys, tmp_path)["published"]
    assert [(row["p50_ms"], row["memory_bytes"]) for row in rows] == [(8.2, 980e6), (5.6, 720e6), (2.1, 510e6), (1.8, 390e6)]
    assert {(row["device"], row["model"], row["runtime"], row["note"]) for row in rows} == {("NVIDIA T4", "", "", "as published")}
    assert rows[-1]["speedup"] == 4.56


def test_what_was_not_measured_has_no_figure(capsys, tmp_path):
    found = table(capsys, tmp_path)
    here, = found["this_device"]
    assert (here["p50_ms"], here["memory_bytes"], here["speedup"]) == (None, None, None)
    assert here["note"] == "not measured: vedette engines build centerface"
    assert [row["note"] for row in found["jetson"]] == ["not yet measured"]


def test_a_jetson_does_not_speak_of_jetsons_that_were_not_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_table.machine, "is_jetson", lambda: True)
    assert table(capsys, tmp_path)["jetson"] == []


def test_the_newest_report_of_each_runtime_is_shown(capsys, tmp_path):
    rungs = [Rung(form=Form.INT8_FP32, outcome="kept", words="", measured=card(5.0, 9.0)),
             Rung(form=Form.FP32, outcome="beaten", words="", measured=card(9.1)),
             Rung(form=Form.FP16, outcome="lost", words="", measured=card(7.0, device_bytes=21_000_000)),
             Rung(form=Form.INT8_FP16, outcome="failed", words="the builder died"),
             Rung(form=Form.INT8_FP16_CASTS, outcome="lost", words="", measured=card(1.0, speed=speed(0.0))),
             Rung(form=Form.INT8_FP32, outcome="lost", words="", measured=card(1.0, resident_bytes=None))]
    gpu = parts(runtime="tensorrt_rtx 1.7.1", provider="", cpu="", gpu="RTX 5090")
    stored(tmp_path, tuning(parts=parts(), rungs=rungs, at=5.0), tuning(parts=parts(threads=3), rungs=rungs[:1], at=4.0),
           tuning(parts=gpu, rungs=[Rung(form=Form.FP16, outcome="not measured", words="")], at=3.0))
    rows = table(capsys, tmp_path)["this_device"]
    assert [(row["device"], row["step"], row["p50_ms"], row["memory_bytes"], row["memory_of"], row["speedup"], row["speedup_of"], row["note"])
            for row in rows] == [
        ("Z80, 1 thread", "int8-fp32", 5.0, 90_000_000, "process", 1.8, "fp32", "serves"),
        ("Z80, 1 thread", "fp32", 9.0, 90_000_000, "process", None, None, "beaten"),
        ("Z80, 1 thread", "fp16", 7.0, 21_000_000, "device", None, None, "refused by the gate"),
        ("Z80, 1 thread", "int8-fp16", None, None, None, None, None, "failed"),
        ("Z80, 1 thread", "int8-fp16-casts", None, None, None, None, None, "refused by the gate"),
        ("Z80, 1 thread", "int8-fp32", 1.0, None, None, None, None, "refused by the gate"),
        ("RTX 5090", "fp16", None, None, None, None, None, "built; this machine cannot run it")]
    text = run(capsys, "centerface", "--table", "--state-dir", tmp_path)
    line = next(line for line in text.splitlines() if "int8-fp32" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "Z80, 1 thread", "centerface", "int8-fp32", "5", "90 MB (process)", "1.80x fp32", "onnxruntime 1.31.1", "serves"]


def test_no_number_of_threads_is_all_cores_but_one(capsys, tmp_path):
    stored(tmp_path, tuning(parts=parts(threads=0), rungs=[Rung(form=Form.FP32, outcome="kept", words="", measured=card(9.0))]))
    row, = table(capsys, tmp_path)["this_device"]
    assert row["device"] == "Z80, all cores but one"


def test_a_device_is_named_once_a_section(capsys, tmp_path):
    text = run(capsys, "centerface", "--table", "--state-dir", tmp_path)
    assert text.count("NVIDIA T4") == 1
    assert [text.count(figure) for figure in ("│ 8.2 ", "│ 5.6 ", "│ 2.1 ", "│ 1.8 ")] == [1, 1, 1, 1]


def test_without_names_the_table_has_all_recipes(capsys, tmp_path):
    rows = msgspec.json.decode(run(capsys, "--table", "--json", "--state-dir", tmp_path))["this_device"]
    assert {row["model"] for row in rows} >= {"centerface", "yolo"}
