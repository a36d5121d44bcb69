"""Engines as `vedette engines build` makes them on a CPU with one thread: what INT8 is worth, loading, swapping.

Agreement and speed are the gate's own figures, from the report card. The loop of the swap is the real one: a reader
that decodes a clip as fast as the engine takes it, both threads, and engines that take over while frames go through.
The detector has YOLOv8n's arithmetic and random weights, so its agreement says more of rounding than of seeing.
"""

import itertools
import math
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from agent import assembly
from agent.building.forms import Form
from agent.building.gate import Measured
from agent.building.prepare import prepare
from agent.building.recipe import find_recipe, recipe_folders
from agent.building.store import Store, Tuning
from agent.config import Config, EngineSection, SourceSection
from agent.inference.engine import Engine, EngineDescription, Pending
from agent.loading import load_engine
from agent.plan import Plan, plan_for
from agent.records import Pixels, Result
from agent.tuning import Tuner
from bench.media import CACHE, bunny, carphone, detector
from bench.row import Row

_LEAST_SPEEDUP = 1.7
_Marks = list[tuple[float, float, int]]  # begin and end of a call, perf_counter; which engine


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        state_dir = Path(folder)
        faces, detect = _config("centerface"), _config("bench320" if quick else "bench640")
        for config, frames in ((faces, None), (detect, _clips())):
            plan = _plan(config, state_dir)
            tuning = Tuner(plan=plan, state_dir=state_dir, frames_from=frames).run()
            rows += _ladder(plan, tuning)
            rows += _loading(plan, state_dir, 5 if quick else 15)
            rows += _swapping(config, plan, state_dir, 6 if quick else 12)
    return rows


def _config(name: str) -> Config:
    size = int(name.removeprefix("bench")) if name.startswith("bench") else None
    return Config(engine=EngineSection(recipe=name, recipes=[str(detector(size))] if size else [], threads=1))


def _clips() -> Path:
    """Return a folder with the clips that calibrate and judge the detector, which has no set of its own."""
    folder = CACHE / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    for clip in (bunny(), carphone()):
        link = folder / f"{clip.stem}.mp4"
        if not link.exists():
            link.symlink_to(clip)
    return folder


def _plan(config: Config, state_dir: Path) -> Plan:
    recipe = find_recipe(config.engine.recipe, recipe_folders(config.own_recipes))
    return plan_for(config, recipe, prepare(recipe, state_dir=state_dir))


def _ladder(plan: Plan, tuning: Tuning) -> list[Row]:
    """Return what became of INT8; a refused one is told with its figures and has no target, for FP32 serves then."""
    name = plan.recipe.name
    rung = next(rung for rung in tuning.rungs if rung.form.precision == "int8")
    kept = rung.outcome == "kept"
    rows = [Row(f"{name}: INT8 is kept (1), or {tuning.kept or 'nothing'} (0)", float(kept))]
    if rung.measured is None:
        return [Row(f"{name}: INT8 {rung.outcome}: {rung.words}", math.nan), *rows]
    rows += _agreement(name, rung.measured, kept)
    speedup = rung.measured.speedup
    rows.append(Row(f"{name}: speed-up of INT8, 1 thread" + (" (FP32 is kept)" if not kept else ""),
                    math.nan if speedup is None else speedup, f">= {_LEAST_SPEEDUP}" if kept else ""))
    rows.append(Row(f"{name}: INT8 p50, ms", rung.measured.speed.p50_ms))
    if rung.measured.baseline is not None:
        rows.append(Row(f"{name}: {rung.measured.baseline_form} p50 in turns with it, ms",
                        rung.measured.baseline.p50_ms))
    return rows


def _agreement(name: str, measured: Measured, kept: bool) -> list[Row]:
    found = measured.agreement
    return [
        Row(f"{name}: agreement of INT8", math.nan if found.share is None else found.share, ">= 0.98" if kept else ""),
        Row(f"{name}: boxes of the reference on {found.frames} {measured.frames_kind} frames", found.reference_boxes),
        Row(f"{name}: mean score drift", math.nan if found.score_drift_mean is None else found.score_drift_mean),
    ]


def _loading(plan: Plan, state_dir: Path, times: int) -> list[Row]:
    """Return how long it takes from the store to a warm engine, against the runtime alone with the same file."""
    stored = Store(state_dir).serving(plan.parts)
    if stored is None:
        return [Row(f"{plan.recipe.name}: nothing was kept, nothing is loaded", math.nan)]
    ours, bare = [], []
    for turn in range(-1, times):  # the first turn loads libraries
        began = time.perf_counter()
        again = Store(state_dir).serving(plan.parts)
        assert again is not None
        load_engine(plan.file(again.path, again.card.form, again.card.max_batch)).close()
        middle = time.perf_counter()
        _bare_load(stored.path, plan)
        if turn >= 0:
            ours.append(middle - began)
            bare.append(time.perf_counter() - middle)
    own_ms = statistics.median(bare) * 1e3
    return [Row(f"{plan.recipe.name}: the runtime's own load and first run, ms", own_ms),
            Row(f"{plan.recipe.name}: load from the store, checked and warmed / that",
                statistics.median(ours) * 1e3 / own_ms, "<= 1.2")]


def _bare_load(path: Path, plan: Plan) -> None:
    """Load the file with nothing but the runtime, and run it once."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    frame = np.full((1, plan.prepared.height, plan.prepared.width, 3), 127, np.uint8)
    session.run(None, {session.get_inputs()[0].name: frame})


class _Deliveries:
    """What the loop delivered: when, and whether any frame that it took is missing."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.by: Counter[str] = Counter()
        self.lost = 0
        self._seq: int | None = None

    def __call__(self, result: Result, what: EngineDescription) -> None:
        """Take one; a frame that the source gave was delivered, or was counted as skipped, or is lost."""
        self.at.append(time.perf_counter())
        self.by[what.precision] += 1
        if self._seq is not None:
            self.lost += abs(result.seq - self._seq - 1 - result.skipped)
        self._seq = result.seq


class _Marked:
    """An engine that notes when each call began and when its outputs were there; ``marks`` is shared by all."""

    def __init__(self, engine: Engine, marks: _Marks) -> None:
        self.spec, self._engine, self._marks = engine.spec, engine, marks

    def start(self, batch: Pixels) -> Pending:
        """Run and note."""
        began = time.perf_counter()
        outputs = self._engine.start(batch)()
        self._marks.append((began, time.perf_counter(), id(self)))
        return lambda: outputs

    def describe(self) -> EngineDescription:
        """Say what really runs."""
        return self._engine.describe()

    def close(self) -> None:
        """Free it."""
        self._engine.close()


def _swapping(config: Config, plan: Plan, state_dir: Path, swaps: int) -> list[Row]:
    """Swap between the tuned engine and the prepared model in turns, under load, and look for what that costs."""
    stored = Store(state_dir).serving(plan.parts)
    files = [plan.file(plan.prepared.path, Form.FP32)]
    if stored is not None:
        files.append(plan.file(stored.path, stored.card.form, stored.card.max_batch))
    marks: _Marks = []
    engines = [_Marked(load_engine(files[turn % len(files)]), marks) for turn in range(swaps + 1)]
    first, *others = (assembly.model(config, plan.recipe, engine) for engine in engines)
    told, ready, stop = _Deliveries(), threading.Condition(), threading.Event()
    section = SourceSection(url=f"{bunny().as_uri()}?loop=1&pace=all")
    reader, lane = assembly.source("clip", section, ready, lambda _: None)
    pipeline = assembly.pipeline(config, first, [lane], ready=ready, deliver=told, stop=stop)
    threads = [threading.Thread(target=work) for work in (pipeline.look, pipeline.tell)]
    reader.start()
    for thread in threads:
        thread.start()
    while len(told.at) < 20:
        time.sleep(0.05)
    for following in others:
        pipeline.swap(following).wait(10)
        time.sleep(0.7)
    stop.set()
    for thread in threads:
        thread.join()
    reader.stop(1.0)
    pipeline.close()
    return _gaps(f"{plan.recipe.name}: swap", told, marks, swaps)


def _gaps(name: str, told: _Deliveries, marks: _Marks, swaps: int) -> list[Row]:
    """Return the rows: how long no engine worked around a swap, in engine calls, beside how long it is otherwise.

    On a busy machine the loop is put aside by others, too; that is what the last row is for.
    """
    call_s = statistics.median(end - began for began, end, _ in marks)
    swapped = [after[0] - before[1] for before, after in itertools.pairwise(marks) if before[2] != after[2]]
    calm = sorted(after[0] - before[1] for before, after in itertools.pairwise(marks) if before[2] == after[2])
    assert len(swapped) == swaps, f"{len(swapped)} of {swaps} swaps were seen"
    return [
        Row(f"{name}: frames delivered meanwhile", len(told.at)),
        Row(f"{name}: forms that served", len(told.by)),
        Row(f"{name}: frames lost in {swaps} swaps", told.lost + abs(len(marks) - len(told.at)), "<= 0"),
        Row(f"{name}: longest time from the old engine's last call to the new one's first / engine call",
            max(swapped) / call_s, "<= 1"),
        Row(f"{name}: the same, median of all swaps", statistics.median(swapped) / call_s),
        Row(f"{name}: between two calls without a swap, median / engine call", statistics.median(calm) / call_s),
        Row(f"{name}: between two calls without a swap, 99th percentile / engine call",
            calm[int(len(calm) * 0.99)] / call_s),
    ]
