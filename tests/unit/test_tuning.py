"""The ladder with scripted children: what becomes of each rung, whatever becomes of its children. Once with real ones."""

import dataclasses
import errno
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from agent import gathering
from agent import tuning as module
from agent.building.child import Death, Refusal
from agent.building.forms import Form, ladder
from agent.building.jobs import BuildJob, Converted, ConvertJob
from agent.building.lock import alone_in
from agent.building.store import TUNED, Store
from agent.building.tensorrt_builder import Built
from agent.config import Config
from agent.errors import ModelError
from agent.gathering import Gathered, GatherJob
from agent.plan import plan_for
from agent.trial import TrialJob, Trialled
from agent.tuning import Tuner
from tests.helpers.engines import HERE, ORIN, measured, pictures, plan, write_recipe

FP32, FP16, CASTS = Form.FP32, Form.FP16, Form.INT8_FP16_CASTS
I16, I32 = Form.INT8_FP16, Form.INT8_FP32
OOM = Death(what="was killed by signal 9 (SIGKILL): no last words", remedy="signal 9 mostly means too little memory")
SEGV = Death(what="was killed by signal 11 (SIGSEGV): no last words", remedy="a defect of the library in use")
LATE = Death(what="took longer than 3600 s and was stopped: no last words", remedy="allow more under [build]")
REFUSED = Refusal(what="the parser says no", remedy="another opset")


class Children:
    """Answers each job as the test says; builds write a file, as real ones do.

    Args:
        convert: The answer to the conversion; None = every form is written but INT8 ones without frames.
        build: Answers by form; a form that is missing is built.
        trial: Answers by form: Measured, or a Death or Refusal.
        on: Called before each answer with (step, form).
    """

    def __init__(self, convert=None, build=None, trial=None, on=lambda *_: None):
        self.converted, self.build, self.trial, self.on = convert, build or {}, trial or {}, on
        self.jobs, self.limits = [], []

    def __call__(self, job_module, job, answers, limits, *, report=None, cancel=None):
        if isinstance(job, GatherJob):  # the real work, in this process
            assert (job_module, answers) == ("agent.gathering", Gathered)
            try:
                return gathering.work(job, report, cancel.is_set)
            except ModelError as error:
                return Refusal(what=error.what, remedy=error.remedy)
        self.jobs.append(job)
        self.limits.append(limits)
        assert not isinstance(job, TrialJob) or job_module == "agent.trial"
        if isinstance(job, ConvertJob):
            self.on("convert", None)
            assert answers is Converted
            return self.converted or self._convert(job)
        form = Form(Path(job.target).stem if isinstance(job, BuildJob) else job.candidate.form)
        step = "build" if isinstance(job, BuildJob) else "trial"
        if report:
            report("working", 1, 2)
        self.on(step, form)
        if step == "trial":
            assert Path(job.candidate.path).read_bytes() == f"engine {form}".encode()
            answer = self.trial.get(form, measured(baseline_ms=None if job.baseline is None else 10.0))
            return answer if isinstance(answer, Death | Refusal) else Trialled(measured=answer)
        answer = self.build.get(form) or Built(bytes=7, seconds=1.0, steps=3, max_batch=1, workspace=0, runtime="scripted")
        if isinstance(answer, Built):
            Path(job.target).write_bytes(f"engine {form}".encode())
        return answer

    @staticmethod
    def _convert(job):
        able = [form for form in job.forms if job.frames or form.precision != "int8"]
        for form in able:
            Path(job.folder, f"{form}.onnx").write_bytes(b"onnx")
        return Converted(files={form: f"{job.folder}/{form}.onnx" for form in able},
                         failures={form: "no calibration frames" for form in job.forms if form not in able})

    def of(self, kind):
        return [job for job in self.jobs if isinstance(job, kind)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"), model=Path("/nowhere/model.onnx"))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("frames"))


@pytest.fixture
def tune(tmp_path, recipe, frames, monkeypatch):
    """Run a ladder on scripted children: on a Jetson unless told otherwise; return the report and the children."""
    def run(with_frames=True, state=None, forms=None, tuner=None, children=None, **changes):
        children = children or Children()
        monkeypatch.setattr(module, "run_child", children)
        on = plan(recipe, **{"platform": ORIN, "runtime": "tensorrt", **changes})
        kept = Tuner(plan=on, state_dir=state or tmp_path, frames_from=frames if with_frames else None, **(tuner or {})).run(forms)
        return kept, children
    return run


def outcomes(tuning):
    return {rung.form: rung.outcome for rung in tuning.rungs}


def rung(tuning, form):
    return next(each for each in tuning.rungs if each.form is form)


def left(state, on=None):
    """Names in the store's folders, work folders among them."""
    built = state / "engines/small/built"
    return sorted(str(path.relative_to(built)) for path in built.rglob("*") if path.name != ".lock" and not path.is_dir())


def int8(p50_ms=4.0, baseline_ms=10.0, **more):
    return measured(p50_ms, baseline_ms=baseline_ms, baseline_form=FP16, **more)


def test_the_first_int8_form_that_wins_serves_and_the_rest_is_not_tried(tune, tmp_path):
    told = []
    tuning, children = tune(children=Children(trial={FP16: measured(11.0), I16: int8()}), tuner={"told": told.append})
    assert tuning.kept is I16
    assert outcomes(tuning) == {I16: "kept", CASTS: "not tried", I32: "not tried", FP16: "beaten", FP32: "not tried"}
    assert rung(tuning, CASTS).words == rung(tuning, I32).words == "int8-fp16 had won already"
    assert "beaten by int8-fp16" in rung(tuning, FP16).words
    assert "2.50x as fast as fp16" in rung(tuning, I16).words
    assert [job.candidate.form for job in children.of(TrialJob)] == [FP16, I16], "the float baseline first"
    assert [each.form for each in told] == [FP16, I16]
    assert rung(tuning, FP16).measured.speed.p50_ms == 10.0, "the figure measured in turns with the winner"
    assert rung(tuning, I16).measured.speed.p50_ms == 4.0
    stored = Store(tmp_path).serving(tuning.parts)
    assert stored.path.read_bytes() == b"engine int8-fp16"
    base = tuning.parts.base
    assert left(tmp_path) == [f"{base}/int8-fp16.engine", f"{base}/int8-fp16.json", f"{base}/{TUNED}"]
    assert (tuning.calibration_frames, tuning.held_out_frames) == (45, 15)
    assert len(tuning.frames_sha256) == 64


@pytest.mark.parametrize(("lost", "words"), [
    (int8(p50_ms=9.99, baseline_ms=10.0, share=0.5), "agreement 0.5 < 0.98"), (int8(p50_ms=10.5), "not faster: 10.5 ms against 10 ms of fp16"),
    (int8(boxes=0), "too few boxes to judge INT8 by"), (int8(kind="synthetic"), "held-out frames only"),
    (measured(4.0, baseline_ms=None), "speed not known"), (int8(difference=float("nan")), "cannot be compared")])
def test_an_int8_form_that_loses_gives_way_to_the_next(tune, lost, words):
    tuning, _ = tune(children=Children(trial={I16: lost, CASTS: int8()}))
    assert tuning.kept is CASTS
    assert outcomes(tuning) == {I16: "lost", CASTS: "kept", I32: "not tried", FP16: "beaten", FP32: "not tried"}
    assert words in rung(tuning, I16).words
    assert not rung(tuning, I16).words.startswith(("refused", "kept"))
    assert rung(tuning, I16).measured == lost or "nan" in repr(lost)


def test_where_all_int8_forms_lose_the_float_engine_serves(tune, tmp_path):
    slow = int8(p50_ms=20.0)
    tuning, _ = tune(children=Children(trial={I16: slow, CASTS: slow, I32: int8(p50_ms=30.0, baseline_ms=12.0)}))
    assert tuning.kept is FP16
    assert outcomes(tuning) == {I16: "lost", CASTS: "lost", I32: "lost", FP16: "kept", FP32: "not tried"}
    assert rung(tuning, FP16).measured.speed.p50_ms == 12.0, "beside the last INT8 form"
    assert Store(tmp_path).serving(tuning.parts).path.read_bytes() == b"engine fp16"


def test_an_fp16_that_the_gate_refuses_makes_fp32_the_one_to_beat(tune):
    wrong = measured(share=0.3)
    tuning, children = tune(children=Children(trial={FP16: wrong, I16: measured(4.0, baseline_ms=15.0, baseline_form=FP32)}))
    assert outcomes(tuning)[FP16] == "lost"
    assert outcomes(tuning)[FP32] == "beaten"
    assert tuning.kept is I16
    baselines = [job.baseline and job.baseline.form for job in children.of(TrialJob)]
    assert baselines == [None, None, FP32]
    assert Path(children.of(TrialJob)[-1].baseline.path).name == "fp32.engine"


@pytest.mark.parametrize("why", [OOM, SEGV, LATE, REFUSED])
@pytest.mark.parametrize("step", ["build", "trial"])
def test_a_child_that_dies_or_refuses_costs_its_own_rung_only(tune, tmp_path, step, why):
    tuning, _ = tune(children=Children(**{step: {FP16: why, I16: why, CASTS: why}}, **(
        {"trial": {I32: measured(4.0, baseline_ms=10.0, baseline_form=FP32)}} if step == "build" else {})))
    assert outcomes(tuning)[FP16] == outcomes(tuning)[I16] == outcomes(tuning)[CASTS] == "failed"
    assert outcomes(tuning)[FP32] in {"kept", "beaten"}
    assert outcomes(tuning)[I32] == ("kept" if step == "build" else "lost")
    for form in (FP16, I16):
        assert rung(tuning, form).words == f"{why.what} (mend: {why.remedy})"
        assert rung(tuning, form).bytes == (None if step == "build" else len(f"engine {form}"))
    assert tuning.kept in {FP32, I32}
    assert not list((tmp_path / "engines/small/built").glob(".work-*"))


def test_where_no_float_engine_is_there_int8_is_not_tried(tune):
    tuning, children = tune(children=Children(build={FP16: SEGV, FP32: OOM}))
    assert tuning.kept is None
    assert outcomes(tuning) == {I16: "not tried", CASTS: "not tried", I32: "not tried", FP16: "failed", FP32: "failed"}
    assert rung(tuning, I16).words == "there is no float engine that it could beat"
    assert children.of(TrialJob) == []


@pytest.mark.parametrize("why", [OOM, SEGV, LATE, REFUSED])
def test_a_conversion_that_fails_fails_every_rung_and_says_so(tune, why, tmp_path):
    tuning, children = tune(children=Children(convert=why))
    assert set(outcomes(tuning).values()) == {"failed"}
    assert all(why.what in each.words for each in tuning.rungs)
    assert tuning.kept is None
    assert len(children.jobs) == 1
    assert Store(tmp_path).tuning(tuning.parts) == tuning, "the report is kept all the same"


def test_one_form_that_cannot_be_converted_is_one_failed_rung(tune, tmp_path):
    class Some(Children):
        def _convert(self, job):
            answer = Children._convert(job)
            del answer.files[I16]
            return Converted(files=answer.files, failures={I16: "a layer has no FP16 scales"})

    tuning, _ = tune(children=Some(trial={CASTS: int8()}))
    assert (outcomes(tuning)[I16], rung(tuning, I16).words) == ("failed", "a layer has no FP16 scales")
    assert tuning.kept is CASTS


def test_without_frames_int8_is_not_tried_and_the_report_says_why(tune):
    tuning, children = tune(with_frames=False, children=Children(trial={FP16: measured(boxes=0, kind="synthetic")}))
    assert outcomes(tuning) == {I16: "not tried", CASTS: "not tried", I32: "not tried", FP16: "kept", FP32: "not tried"}
    assert "there are no calibration frames: give --frames FOLDER" in rung(tuning, I16).words
    assert "no calibration frames" in tuning.note
    assert (tuning.calibration_frames, tuning.frames_sha256) == (0, "")
    job, = children.of(TrialJob)
    assert job.frames_kind == "synthetic"
    assert tuning.held_out_frames == 12


def test_frames_that_are_too_few_to_calibrate_on_still_judge_the_float_forms(tmp_path):
    recipe = write_recipe(tmp_path, model=Path("/nowhere/model.onnx"))
    children, few = Children(), pictures(tmp_path / "few", 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_child", children)
        tuning = Tuner(plan=plan(recipe, platform=ORIN, runtime="tensorrt"), state_dir=tmp_path, frames_from=few).run()
    assert outcomes(tuning)[I16] == "not tried"
    assert outcomes(tuning)[FP16] == "kept"
    assert children.of(TrialJob)[0].frames_kind == "held-out"
    assert (tuning.calibration_frames, tuning.held_out_frames) == (0, 5)
    assert "5" in rung(tuning, I16).words


def test_what_cannot_run_here_is_built_stored_and_not_measured(tune, tmp_path):
    nowhere = msgspec.structs.replace(ORIN, gpu="", sm="", sm_count=0)
    tuning, children = tune(platform=nowhere, children=Children(build={I16: SEGV}))
    assert outcomes(tuning) == {I16: "failed", CASTS: "not measured", I32: "not measured", FP16: "not measured", FP32: "not measured"}
    assert "this machine has no CUDA device" in rung(tuning, FP16).words
    assert tuning.kept is None
    assert Store(tmp_path).serving(tuning.parts) is None
    assert children.of(TrialJob) == []
    assert {path.rpartition("/")[2] for path in left(tmp_path)} >= {"fp16.engine", "fp32.engine", "int8-fp32.engine", "int8-fp16-casts.engine"}
    assert rung(tuning, FP32).bytes == len("engine fp32")


# Cancelling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [("convert", None), ("build", FP16), ("trial", FP16), ("build", I16), ("trial", I16)])
def test_cancelled_in_any_step_it_leaves_no_work_and_what_was_stored_serves(tune, tmp_path, at):
    before, _ = tune(children=Children(trial={I16: int8()}))
    cancel = threading.Event()
    children = Children(on=lambda step, form: cancel.set() if (step, form) == at else None, trial={FP16: measured(9.0), I16: int8(3.0)})
    with pytest.raises(ModelError, match="cancelled"):
        tune(children=children, tuner={"cancel": cancel})
    assert children.jobs, "it got that far"
    assert not list((tmp_path / "engines/small/built").glob(".work-*"))
    stored = Store(tmp_path).serving(before.parts)
    assert stored.card.form is I16
    assert stored.tuning == before
    assert len({id(job) for job in children.jobs}) == {"convert": 1, "build": 2, "trial": 3}[at[0]] + 2 * (at[1] is I16)


def test_cancelled_before_it_begins_no_child_is_started(tune, tmp_path):
    cancel = threading.Event()
    cancel.set()
    children = Children()
    with pytest.raises(ModelError, match="cancelled"):
        tune(children=children, tuner={"cancel": cancel})
    assert children.jobs == []
    assert left(tmp_path) == []


def test_another_build_of_the_recipe_is_waited_for_and_that_is_said(tune, tmp_path):
    said, children = [], Children()
    folder = tmp_path / "engines/small/built"
    with alone_in(folder):
        waiting = threading.Thread(target=tune, kwargs={"children": children, "tuner": {"report": lambda *step: said.append(step)}})
        waiting.start()
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said == [(f"waiting for process {os.getpid()}, which works in {folder}", 0, None)]
        assert children.jobs == []
    waiting.join(20)
    assert children.jobs
    assert not waiting.is_alive()


def test_cancelled_while_it_waits_for_another_build_it_ends_at_once(tune, tmp_path):
    cancel = threading.Event()
    with alone_in(tmp_path / "engines/small/built"):
        began = time.monotonic()
        threading.Timer(0.1, cancel.set).start()
        with pytest.raises(ModelError, match="cancelled"):
            tune(tuner={"cancel": cancel})
        assert time.monotonic() - began < 3


class Interrupted(BaseException):
    pass


def test_an_interrupt_in_the_middle_leaves_no_work_either(tune, tmp_path):
    def interrupt(step, form):
        if (step, form) == ("trial", I16):
            raise Interrupted

    with pytest.raises(Interrupted):
        tune(children=Children(on=interrupt))
    assert not list((tmp_path / "engines/small/built").glob(".work-*"))


def test_scraps_of_a_killed_run_go_with_the_next(tune, tmp_path):
    scraps = tmp_path / "engines/small/built/.work-killed"
    scraps.mkdir(parents=True)
    (scraps / "fp32.onnx").write_bytes(b"x")
    tune()
    assert not scraps.exists()


@pytest.mark.parametrize("call", ["mkdtemp", "save"])
def test_a_full_disk_is_an_error_for_people_never_a_crash_of_the_loop(tune, tmp_path, monkeypatch, call):
    before, _ = tune(children=Children(trial={I16: int8()}))

    def full(*_given, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"mkdtemp": (module.tempfile, "mkdtemp", full), "save": (gathering.np, "save", full)}[call])
    with pytest.raises(ModelError, match="No space left on device") as raised:
        tune()
    assert str(tmp_path) in raised.value.what
    assert "prune" in str(raised.value)
    monkeypatch.undo()
    assert Store(tmp_path).serving(before.parts).tuning == before
    assert not list((tmp_path / "engines/small/built").glob(".work-*"))


@pytest.mark.parametrize("children", [Children(convert=OOM), Children(build={FP16: OOM, FP32: OOM}), Children(trial={FP16: SEGV, FP32: SEGV})])
def test_a_rebuild_in_which_all_fails_takes_nothing_away(tune, tmp_path, children):
    before, _ = tune(children=Children(trial={I16: int8()}))
    tuning, _ = tune(children=children)
    assert tuning.kept is None
    assert Store(tmp_path).serving(before.parts).tuning == before
    damaged = Store(tmp_path).serving(before.parts).path
    damaged.write_bytes(b"damaged")
    tuning, _ = tune(children=children)
    assert Store(tmp_path).tuning(before.parts) == tuning, "but it is reported where there is nothing to lose"


def test_a_rebuild_that_the_gate_refuses_takes_the_old_engine_out_of_service(tune, tmp_path):
    before, _ = tune(children=Children(trial={I16: int8()}))
    wrong = measured(share=0.1)
    tuning, _ = tune(children=Children(trial={FP16: wrong, FP32: wrong}))
    assert Store(tmp_path).serving(before.parts) is None
    assert Store(tmp_path).tuning(before.parts) == tuning


# Hints, limits, settings ----------------------------------------------------------------------------------------------


def test_a_prebuilt_engine_of_the_same_identity_is_judged_instead_of_built(tune, tmp_path):
    first, _ = tune(state=tmp_path / "other", children=Children(trial={I16: int8()}))
    folder = Store(tmp_path / "other").folder(first.parts)
    children = Children(trial={I16: int8()})
    tuning, _ = tune(state=tmp_path / "mine", tuner={"prebuilt": folder}, children=children)
    assert tuning.kept is I16
    assert [Path(job.target).stem for job in children.of(BuildJob)] == ["fp16"], "INT8 was there, the float one was not"
    assert [job.candidate.form for job in children.of(TrialJob)] == [FP16, I16], "judged all the same"
    assert Store(tmp_path / "mine").serving(first.parts).path.read_bytes() == b"engine int8-fp16"
    assert (folder / "int8-fp16.engine").exists(), "the other's is copied, not taken"


@pytest.mark.parametrize("how", ["other device", "damaged", "refused by the gate"])
def test_a_prebuilt_engine_that_does_not_fit_is_no_shortcut(tune, tmp_path, how):
    first, _ = tune(state=tmp_path / "other", children=Children(trial={I16: int8()}))
    folder = Store(tmp_path / "other").folder(first.parts)
    if how == "damaged":
        (folder / "int8-fp16.engine").write_bytes(b"engine int8-fp16 with a flipped bit")
    children = Children(trial={I16: int8(share=0.1) if how == "refused by the gate" else int8(), CASTS: int8()})
    changes = {"platform": msgspec.structs.replace(ORIN, driver="541")} if how == "other device" else {}
    tuning, _ = tune(state=tmp_path / "mine", tuner={"prebuilt": folder}, children=children, **changes)
    built = [Path(job.target).stem for job in children.of(BuildJob)]
    if how == "refused by the gate":
        assert (tuning.kept, built) == (CASTS, ["fp16", "int8-fp16-casts"])
    else:
        assert (tuning.kept, built) == (I16, ["fp16", "int8-fp16"])


def test_children_get_the_plans_limits_and_settings(tune, tmp_path):
    _, children = tune(workspace=1 << 20, level=2, max_batch=4, memory=123 << 20, wall_s=99.0, runs=17)
    assert {(each.wall_s, each.memory_bytes) for each in children.limits} == {(99.0, 123 << 20)}
    settings = {job.tensorrt for job in children.of(BuildJob)}
    assert len(settings) == 1
    found = settings.pop()
    assert (found.runtime, found.max_batch, found.workspace, found.level) == ("tensorrt", 4, 1 << 20, 2)
    assert Path(found.timing_cache).parent == tmp_path / "engines/.timing"
    convert, = children.of(ConvertJob)
    assert (convert.tensorrt, convert.rtx, convert.settings.flavour) == ((10, 3, 0, 26), False, "tensorrt")
    assert convert.forms == list(Form)
    assert {job.runs for job in children.of(TrialJob)} == {17}
    assert {job.candidate.max_batch for job in children.of(TrialJob)} == {1}, "what was built, not what was asked"


def test_on_a_cpu_the_ladder_is_short_and_the_int8_flavour_the_cpus(tune):
    trial = {I32: measured(10.0, baseline_ms=15.0, baseline_form=FP32)}
    tuning, children = tune(platform=HERE, runtime="onnxruntime", children=Children(trial=trial))
    assert outcomes(tuning) == {I32: "lost", FP32: "kept"}
    assert "needs 1.70x" in rung(tuning, I32).words
    convert, = children.of(ConvertJob)
    assert (convert.tensorrt, convert.settings.flavour) == (None, "cpu")
    assert all(job.tensorrt is None and job.threads == 1 for job in children.of(BuildJob))
    tuning, _ = tune(platform=HERE, runtime="onnxruntime", children=Children(trial={I32: measured(5.0, baseline_ms=10.0, baseline_form=FP32)}))
    assert tuning.kept is I32


def test_only_the_forms_asked_for_are_on_the_report(tune):
    tuning, children = tune(forms=(FP16, FP32))
    assert list(outcomes(tuning)) == [FP16, FP32]
    assert children.of(ConvertJob)[0].forms == [FP16, FP32]
    tuning, _ = tune(precision="fp32")
    assert list(outcomes(tuning)) == list(ladder("tensorrt", None, "fp32")) == [FP32]


def test_progress_names_the_form_and_the_step(tune):
    said = []
    tune(tuner={"report": lambda *step: said.append(step)})
    assert ("frames", 0, None) in said
    assert ("build fp16: working", 1, 2) in said
    assert ("measure fp16: working", 1, 2) in said


def test_the_longest_call_and_a_lower_batch_of_the_builder_are_kept_on_the_card(tune, tmp_path):
    lower = Built(bytes=1, seconds=1.0, steps=1, max_batch=2, workspace=0, runtime="r")
    tuning, _ = tune(max_batch=8, children=Children(build={FP16: lower, I16: lower, CASTS: lower, I32: lower}))
    assert Store(tmp_path).serving(tuning.parts).card.max_batch == 2


# With real children ---------------------------------------------------------------------------------------------------


def test_the_real_ladder_on_a_small_net(tmp_path):
    from agent.building.prepare import prepare

    recipe = write_recipe(tmp_path)
    frames = pictures(tmp_path / "frames")
    prepared = prepare(recipe, state_dir=tmp_path)
    config = msgspec.structs.replace(Config(), engine=msgspec.structs.replace(Config().engine, threads=1))
    on = dataclasses.replace(plan_for(config, recipe, prepared), runs=20)
    said = []
    tuning = Tuner(plan=on, state_dir=tmp_path, frames_from=frames, report=lambda phase, *_: said.append(phase)).run()
    assert [each.form for each in tuning.rungs] == [I32, FP32]
    assert tuning.kept is FP32, "a net this small is not 1.7 times as fast in INT8"
    kept = rung(tuning, FP32)
    assert kept.measured.agreement.share == 1.0
    assert kept.measured.agreement.reference_boxes > 20
    assert kept.measured.speed.measured
    assert outcomes(tuning)[I32] == "lost"
    assert "needs 1.70x" in rung(tuning, I32).words
    assert rung(tuning, I32).measured.agreement.share > 0.5
    assert (tuning.calibration_frames, tuning.held_out_frames) == (45, 15)
    stored = Store(tmp_path).serving(on.parts)
    assert stored.card.bytes == stored.path.stat().st_size == kept.bytes
    assert "measure fp32: time" in said
    assert not list(stored.path.parent.parent.glob(".work-*"))
