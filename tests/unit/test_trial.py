"""The trial on scripted engines whose answers and times are known: what it measures, and how it goes about it."""

import math
import os
import time

import msgspec
import numpy as np
import pytest

from agent import trial as module
from agent.building.forms import Form
from agent.building.gate import MOST_BATCH_DIFFERENCE, MOST_LANDMARK_ERROR, Tolerance, judge
from agent.building.recipe_tables import HeadTable
from agent.errors import EngineError, ModelError
from agent.inference.engine import EngineSpec, TensorSpec
from agent.inference.heads.best import OUTPUT
from agent.loading import EngineFile
from agent.trial import TrialJob, Trialled, work

SIDE = 32
CELLS = SIDE // 4
POINTS = [(0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.75), (0.65, 0.75)]  # (x, y), shares of the box
CENTERFACE = HeadTable(kind="centerface", score=0.5, iou=0.45, landmarks=5)
YOLO = HeadTable(kind="yolov8", score=0.5, iou=0.45)
END2END = HeadTable(kind="end2end", score=0.5, iou=0.45)


def faces(pixels):
    """CenterFace's four maps: one face a frame, where the frame's first pixel says."""
    maps = [np.zeros((1, channels, CELLS, CELLS), np.float32) for channels in (1, 2, 2, 10)]
    row, column = divmod(int(pixels[0, 0, 0]), CELLS)
    maps[0][0, 0, row, column] = 0.9
    maps[1][...] = np.log(2.0)
    maps[3][...] = np.array([(y, x) for x, y in POINTS], np.float32).reshape(1, 10, 1, 1)
    return maps


def yolo(pixels, kind=None):
    """YOLOv8 with 3 classes and 8 anchors; one is a box, of a place and class that the first pixel gives."""
    number = int(pixels[0, 0, 0])
    table = np.zeros((1, 7, 8), np.float32)
    table[0, :4] = np.array([16, 16, 8, 8])[:, None] + np.arange(8) / 8
    table[0, 4 + (number % 3 if kind is None else kind), number % 8] = 0.9
    return [table]


def best(pixels):
    """The same with the best class chosen; the class of what is no box is as the frame's last pixel says: noise."""
    (table,) = yolo(pixels)
    kinds = np.where(table[:, 4:].max(1) > 0, table[:, 4:].argmax(1), pixels[-1, -1, 0] % 3)
    return [np.concatenate([table[:, :4], table[:, 4:].max(1, keepdims=True), kinds[:, None].astype(np.float32)], axis=1)]


def final(pixels):
    """End to end: one box and rows of background."""
    rows = np.zeros((1, 10, 6), np.float32)
    number = int(pixels[0, 0, 0])
    rows[0, 0] = [number % 16, 4, number % 16 + 10, 14, 0.9, 1]
    rows[0, 1:, :4] = np.arange(9)[:, None] * 3 + np.array([0, 0, 4, 4])
    return [rows]


class Scripted:
    """Answers each frame by ``answer``; ``batch`` may spoil the outputs of a batch of several.

    Args:
        log: Each call is written there: (who, numbers of the frames).
        call_s: How long a call takes, or that of the n-th call (from 1).
        clock: Goes on by that.
    """

    def __init__(self, who, answer, log, *, call_s=0.0, max_batch=1, batch=None, output="outputs", fail=False, clock=None):
        self.who, self.answer, self.log, self.call_s, self.batch, self.fail = who, answer, log, call_s, batch, fail
        shapes = [array.shape[1:] for array in answer(np.zeros((SIDE, SIDE, 3), np.uint8))]
        self.spec = EngineSpec(height=SIDE, width=SIDE, max_batch=max_batch, outputs=tuple(
            TensorSpec(name=output if len(shapes) == 1 else f"{output}{index}", shape=(-1, *shape), dtype="float32")
            for index, shape in enumerate(shapes)))
        self.clock, self.closed, self.device_bytes, self.batches = clock, 0, 1234, []

    def start(self, batch):
        assert not self.closed
        assert len(batch) <= self.spec.max_batch
        assert batch.flags.c_contiguous
        self.log.append((self.who, *(int(frame[0, 0, 0]) for frame in batch)))
        self.batches.append(len(batch))
        if self.fail:
            raise EngineError("scripted failure", "mend the script")
        self.clock.now += self.call_s(len(self.batches)) if callable(self.call_s) else self.call_s
        outputs = [np.concatenate(each) for each in zip(*map(self.answer, batch), strict=True)]
        if len(batch) > 1 and self.batch:
            outputs = self.batch(outputs)
        return lambda: outputs

    def close(self):
        self.closed += 1


class Clock:
    """Stands still but for what engines take, so that figures are exact."""

    now = 100.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


class Bench:
    """A job, and the engines that load_engine gives for its files."""

    def __init__(self, folder, monkeypatch):
        self.log, self.engines, self.loaded, self.clock, self.folder = [], {}, [], Clock(), folder
        monkeypatch.setattr(module, "load_engine", self.load)
        monkeypatch.setattr(module, "time", self.clock)

    def load(self, file):
        self.loaded.append(file)
        engine = self.engines[file.path]
        if isinstance(engine, EngineError):
            raise engine
        return engine

    def give(self, who, answer, **more):
        self.engines[who] = Scripted(who, answer, self.log, clock=self.clock, **more)

    def run(self, head=CENTERFACE, count=8, runs=40, baseline=True, kind="held-out", cancelled=lambda: False, classes=None, report=None):
        frames = np.zeros((count, SIDE, SIDE, 3), np.uint8)
        frames[:, 0, 0, 0] = np.arange(count) * 5 + 9 if head is CENTERFACE else np.arange(count)
        np.save(self.folder / "frames.npy", frames)
        file = EngineFile(path="candidate", name="net", identity="0" * 16, model_sha256="0" * 64, form=Form.INT8_FP32, runtime="tensorrt",
                          provider="other", threads=3, max_batch=4)
        job = TrialJob(candidate=file, reference="reference", head=head, classes=classes or (1 if head is CENTERFACE else 3), score_drift=0.05,
                       baseline=msgspec.structs.replace(file, path="baseline", form=Form.FP16) if baseline else None,
                       frames=str(self.folder / "frames.npy"), frames_kind=kind, runs=runs)
        answer = work(job, report or (lambda *_: None), cancelled)
        # It travels as JSON, which knows neither infinity nor NaN.
        return msgspec.json.decode(msgspec.json.encode(answer), type=Trialled).measured

    def all(self, answer=faces, **candidate):
        self.give("reference", answer)
        self.give("candidate", **{"answer": answer, "call_s": 0.002, **candidate})
        self.give("baseline", answer, call_s=0.005)


def reasons(measured, form=Form.FP16):
    return judge(form, measured, Tolerance(least_boxes=1)).reasons


def first_row(outputs):
    return [np.repeat(array[:1], len(array), 0) for array in outputs]


def test_a_good_engine_gets_its_figures(bench):
    bench.all(max_batch=4)
    found = bench.run()
    assert (found.speed.runs, found.baseline.runs) == (40, 40)
    assert (found.speed.p50_ms, found.baseline.p50_ms) == (pytest.approx(2), pytest.approx(5)), "not swapped"
    assert (found.speed.p99_ms, found.speed.mean_ms, found.baseline.p99_ms) == (pytest.approx(2), pytest.approx(2), pytest.approx(5))
    assert found.speedup == pytest.approx(2.5)
    assert (found.baseline_form, found.device_bytes, found.frames_kind) == (Form.FP16, 1234, "held-out")
    boxes = found.agreement
    assert (boxes.frames, boxes.reference_boxes, boxes.matched, boxes.extra, boxes.output_difference) == (8, 8, 8, 0, 0.0)
    assert (boxes.batch, boxes.batch_difference, boxes.landmark_pairs, boxes.landmark_error_mean) == (4, 0.0, 8, 0.0)
    assert reasons(found, Form.INT8_FP32) == []
    assert [engine.closed for engine in bench.engines.values()] == [1, 1, 1]


def test_a_slower_engine_is_seen_as_slower(bench):
    bench.all(call_s=0.02)
    found = bench.run()
    assert (found.speed.p50_ms, found.baseline.p50_ms) == (pytest.approx(20), pytest.approx(5))
    assert any("not faster: 20 ms against 5 ms of fp16" in reason for reason in reasons(found, Form.INT8_FP32))


def test_real_time_is_what_is_measured(bench, monkeypatch):
    monkeypatch.setattr(module, "time", time)
    bench.all()
    slow = bench.engines["baseline"]
    start = slow.start
    monkeypatch.setattr(slow, "start", lambda batch: time.sleep(0.01) or start(batch))
    found = bench.run(runs=10)
    assert found.baseline.p50_ms >= 10 > found.speed.p50_ms > 0


def test_engines_take_turns_each_as_often_first(bench):
    bench.all()
    bench.run(runs=40)
    race = bench.log[2 * 8:]
    assert {who for who, *_ in race} == {"candidate", "baseline"}
    pairs = [race[at:at + 2] for at in range(0, len(race), 2)]
    assert len(pairs) == 40 + module._FIRST_CALLS
    assert all(a[1:] == b[1:] and a[0] != b[0] for a, b in pairs), "each turn both, on the same frame"
    assert [a[0] for a, _ in pairs[-40:]] == ["candidate", "baseline"] * 20
    assert len({a[1] for a, _ in pairs}) == 8, "all frames"


def test_first_calls_do_not_count(bench):
    bench.all(call_s=lambda number: 5.0 if 8 < number <= 8 + module._FIRST_CALLS else 0.002)  # 8 calls compare
    bench.engines["baseline"].call_s = lambda number: 3.0 if number <= module._FIRST_CALLS else 0.005
    found = bench.run(runs=10)
    assert (found.speed.runs, found.speed.mean_ms, found.baseline.mean_ms) == (10, pytest.approx(2), pytest.approx(5))


def test_long_calls_show_in_p99_and_mean(bench):
    bench.all(call_s=lambda number: 0.05 if number % 10 == 0 else 0.002)
    found = bench.run(runs=100)
    assert (found.speed.p50_ms, found.speed.p99_ms) == (pytest.approx(2), pytest.approx(50))
    assert found.speed.mean_ms == pytest.approx(2 + 0.1 * 48)


def test_a_race_that_takes_too_long_ends_with_the_runs_it_had(bench):
    bench.all(call_s=1.0)
    found = bench.run(runs=200)
    assert 20 <= found.speed.runs == found.baseline.runs < 25


def test_without_a_baseline_only_the_engine_is_timed(bench):
    bench.all()
    found = bench.run(baseline=False)
    assert (found.baseline, found.baseline_form, found.speedup) == (None, None, None)
    assert found.speed.p50_ms == pytest.approx(2)
    assert [file.path for file in bench.loaded] == ["candidate", "reference"]


def test_the_reference_is_fp32_on_the_cpu_and_gone_before_times_are_taken(bench):
    bench.all()
    still = []
    bench.engines["baseline"].call_s = lambda _: still.append(bench.engines["reference"].closed) or 0.005
    bench.run()
    reference = next(file for file in bench.loaded if file.path == "reference")
    assert (reference.form, reference.runtime, reference.provider, reference.max_batch) == (Form.FP32, "onnxruntime", "CPUExecutionProvider", 1)
    assert set(still) == {1}


@pytest.mark.parametrize(("kind", "noted"), [("held-out", "held-out"), ("synthetic", "synthetic"), ("whatever", "synthetic")])
def test_the_kind_of_frames_is_noted(bench, kind, noted):
    bench.all()
    assert bench.run(kind=kind).frames_kind == noted


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(("head", "answer", "output"), [(CENTERFACE, faces, "outputs"), (YOLO, yolo, "outputs"), (YOLO, best, OUTPUT), (END2END, final, "outputs")])
def test_a_batch_whose_frames_get_the_first_ones_answer_is_refused(bench, form, head, answer, output):
    bench.all(answer, batch=first_row, max_batch=4, output=output)
    bench.give("reference", yolo if answer is best else answer)
    bench.give("baseline", answer, call_s=0.005, output=output)
    found = bench.run(head)
    assert found.agreement.output_difference == 0.0, "one by one it is right"
    assert found.agreement.batch_difference > MOST_BATCH_DIFFERENCE
    assert [reason.split(" 0")[0].split(" 1")[0] for reason in reasons(found, form)] == ["batch difference"]
    bench.all(answer, max_batch=4, output=output)
    bench.give("reference", yolo if answer is best else answer)
    bench.give("baseline", answer, call_s=0.005, output=output)
    assert reasons(bench.run(head), form) == []


def test_full_and_partial_batches_are_looked_at_even_with_few_frames(bench):
    bench.all(max_batch=4)
    bench.run(count=3)
    assert [entry[1:] for entry in bench.log if len(entry) > 2] == [(9, 14, 19, 9), (14, 19, 9)]
    bench.log.clear()
    bench.all(max_batch=2)
    bench.run()
    assert [entry[1:] for entry in bench.log if len(entry) > 2] == [(9, 14)]


def test_only_the_partial_batch_is_wrong(bench):
    bench.all(max_batch=4, batch=lambda outputs: first_row(outputs) if len(outputs[0]) == 3 else outputs)
    assert reasons(bench.run())[0].startswith("batch difference")


def test_only_the_full_batch_is_wrong(bench):
    bench.all(max_batch=4, batch=lambda outputs: first_row(outputs) if len(outputs[0]) == 4 else outputs)
    assert reasons(bench.run())[0].startswith("batch difference")


def test_scores_lost_among_pixels_in_a_batch_are_seen(bench):
    def no_scores(outputs):
        return [np.where(np.arange(7)[:, None] >= 4, 0, outputs[0]).astype(np.float32)]

    bench.all(yolo, batch=no_scores, max_batch=4)
    found = bench.run(YOLO)
    assert found.agreement.batch_difference == 1.0


@pytest.mark.parametrize("spoil", [lambda o: [a[:1] for a in o], lambda o: [a * np.float32(math.nan) for a in o], lambda o: o[:-1]])
def test_a_batch_that_cannot_be_compared_is_refused_after_json_too(bench, spoil):
    bench.all(batch=spoil, max_batch=4)
    found = bench.run()
    assert (found.agreement.batch, found.agreement.batch_difference) == (4, None)
    assert "a batch of 4 cannot be compared" in reasons(found)[0]


def test_an_engine_for_one_frame_has_no_figure_of_a_batch(bench):
    bench.all()
    found = bench.run()
    assert (found.agreement.batch, found.agreement.batch_difference) == (1, None)
    assert reasons(found) == []
    assert set(bench.engines["candidate"].batches) == {1}


def test_rounding_in_a_batch_is_let_pass(bench):
    bench.all(batch=lambda outputs: [array * np.float32(1.004) for array in outputs], max_batch=4)
    found = bench.run()
    assert 0 < found.agreement.batch_difference < MOST_BATCH_DIFFERENCE
    assert reasons(found) == []


def test_the_class_of_what_is_no_box_may_change_in_a_batch(bench):
    def other_background(outputs):
        return [np.where((np.arange(6)[:, None] == 5) & (outputs[0][:, 4:5] < 0.4), 2, outputs[0]).astype(np.float32)]

    bench.all(best, batch=other_background, max_batch=4, output=OUTPUT)
    bench.give("reference", yolo)
    assert reasons(bench.run(YOLO)) == []


def test_background_rows_of_an_end_to_end_model_may_swap_in_a_batch(bench):
    bench.all(final, batch=lambda outputs: [np.concatenate([outputs[0][:, :1], outputs[0][:, :0:-1]], axis=1)], max_batch=4)
    found = bench.run(END2END)
    assert found.agreement.batch_difference == 0.0


def test_a_wrong_class_is_counted(bench):
    bench.all(yolo)
    bench.give("candidate", lambda pixels: yolo(pixels, kind=0), call_s=0.002)
    found = bench.run(YOLO, count=9)
    assert (found.agreement.reference_boxes, found.agreement.matched, found.agreement.class_changed) == (9, 3, 6)
    assert "6 of another class" in reasons(found)[0]


@pytest.mark.parametrize("form", list(Form))
def test_destroyed_landmarks_are_refused(bench, form):
    bench.all()
    bench.give("candidate", lambda pixels: [*faces(pixels)[:3], faces(pixels)[3] * 0], call_s=0.002)
    found = bench.run()
    assert (found.agreement.matched, found.agreement.landmark_pairs) == (8, 8)
    # Boxes are 8 by 8, but for one or two at the edge; all points fall into the left upper corner.
    assert found.agreement.landmark_error_mean == pytest.approx(np.mean([math.hypot(*point) for point in POINTS]) / math.sqrt(2), rel=0.02)
    assert found.agreement.landmark_error_mean > MOST_LANDMARK_ERROR
    assert [reason.split(" 0")[0] for reason in reasons(found, form)] == ["landmark error"]


@pytest.mark.parametrize("at", [0, 3, 8, 20])
def test_cancelled_ends_it_and_closes_what_is_open(bench, at):
    bench.all()
    asked = iter(range(1000))
    with pytest.raises(ModelError, match="cancelled"):
        bench.run(runs=400, cancelled=lambda: next(asked) >= at)
    used = {file.path for file in bench.loaded}
    assert used == ({"candidate", "reference", "baseline"} if at >= 8 else {"candidate", "reference"})
    assert [bench.engines[who].closed for who in used] == [1] * len(used)


@pytest.mark.parametrize("who", ["candidate", "reference", "baseline"])
def test_an_engine_that_fails_is_an_error_for_people_and_all_are_closed(bench, who):
    bench.all()
    bench.engines[who].fail = True
    with pytest.raises(ModelError, match="scripted failure") as caught:
        bench.run()
    assert caught.value.remedy == "mend the script"
    assert all(bench.engines[file.path].closed == 1 for file in bench.loaded)


def test_a_baseline_that_cannot_be_loaded_leaves_nothing_open(bench):
    bench.all()
    bench.engines["baseline"] = EngineError("no such plan", "build it")
    with pytest.raises(ModelError, match="no such plan"):
        bench.run()
    assert [bench.engines[who].closed for who in ("candidate", "reference")] == [1, 1]


def test_progress_is_told(bench):
    bench.all()
    told = []
    bench.run(report=lambda *step: told.append(step), runs=40)
    assert told[:8] == [("compare", number, 8) for number in range(8)]
    assert [step for step in told[8:] if step[0] == "time"] == [("time", 0, 40), ("time", 20, 40)]


def test_growth_of_memory_is_that_of_loading_the_candidate(bench, monkeypatch):
    sizes = iter([1000, 1700])
    monkeypatch.setattr(module, "resident_bytes", lambda: next(sizes))
    bench.all()
    assert bench.run().resident_bytes == 700
    sizes = iter([1000, 900])
    bench.all()
    assert bench.run().resident_bytes == 0
    monkeypatch.undo()
    assert module.resident_bytes() > os.sysconf("SC_PAGE_SIZE")
