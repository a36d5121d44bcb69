"""Down the ladder: write a model in its forms, build each here, measure it, let the gate judge, keep the winner.

First the float forms, the best that builds and agrees with the reference; it is what INT8 has to beat. Then the INT8
forms in turn, until one is faster and agrees. Conversion, building and measuring are children; what becomes of each
rung is in the report, whatever it is. Nothing here is kept but by the store.
"""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from agent.building.child import Death, Refusal, Report, run_child
from agent.building.forms import Form, ladder
from agent.building.gate import Measured, Speed, judge
from agent.building.identity import timing_key
from agent.building.jobs import BuildJob, Converted, ConvertJob, QuantiseSettings
from agent.building.lock import alone_in
from agent.building.store import Rung, Store, Stored, Tuning
from agent.building.tensorrt_builder import BuildSettings, Built
from agent.errors import ModelError
from agent.gathering import Gathered, GatherJob
from agent.plan import Plan
from agent.trial import TrialJob, Trialled

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T", bound=msgspec.Struct)


@dataclass(slots=True, kw_only=True)
class _Frames:
    """Files with frames, and what they are."""

    calibration: Path | None
    held_out: Path
    kind: str
    note: str
    sha256: str = ""
    calibrating: int = 0
    judging: int = 0


@dataclass(slots=True, kw_only=True)
class Tuner:
    """One run down the ladder.

    Args:
        plan: What to build.
        state_dir: Holds the store, calibration frames and caches.
        report: Told each step's phase, and how much of it is done.
        cancel: Set it and the child that works is ended; :meth:`run` then raises.
        frames_from: Folder with pictures and clips to use instead of the recipe's sets.
        prebuilt: An engine folder of another box with the same identity (see :meth:`Store.folder`): a hint that saves
            building; it is judged like any other.
        told: Told each rung as soon as its fate is known.
    """

    plan: Plan
    state_dir: Path
    report: Report = lambda *_: None
    cancel: threading.Event = field(default_factory=threading.Event)
    frames_from: Path | None = None
    prebuilt: Path | None = None
    told: Callable[[Rung], None] = lambda _: None
    _waited: bool = False
    _rungs: dict[Form, Rung] = field(default_factory=dict)
    _in_turns: dict[Form, Speed] = field(default_factory=dict)  # the float engine's, beside the last INT8 form

    def __post_init__(self) -> None:
        # Children run in another directory.
        self.state_dir = self.state_dir.absolute()
        self.frames_from = self.frames_from and self.frames_from.absolute()

    def run(self, forms: tuple[Form, ...] | None = None) -> Tuning:
        """Tune; return the report, which is in the store then, with the engine that was kept.

        Where not one engine came as far as the gate, and one that was kept before is there, the store stays as it is.

        Args:
            forms: Only these, best first; None = the runtime's ladder.

        Raises:
            ModelError: cancelled, or the disk is full or cannot be written; what was stored before stays.
        """
        try:
            return self._run(forms or ladder(self.plan.runtime, self.plan.provider, self.plan.precision))
        except OSError as error:  # the loop goes on beside us: a full disk must not end it
            why = error.strerror or f"the disk seems to be full ({error})"  # numpy's errors bear no number
            raise ModelError(f"{error.filename or self.state_dir}: {why}",
                             "make room on that disk (`vedette engines prune`), or see its owner and mode") from error

    def _run(self, forms: tuple[Form, ...]) -> Tuning:
        began = time.monotonic()
        plan, store = self.plan, Store(self.state_dir)
        with self._work_folder(store) as work:
            if self._waited and store.serving(plan.parts) and (done := store.tuning(plan.parts)):
                return done  # the other process has built just this
            frames = self._frames(work)
            files = self._convert(work, forms, frames)
            floats = [form for form in forms if form.precision != "int8"]
            baseline = next(filter(None, (self._climb(form, files, frames, work, None) for form in floats)), None)
            winner = baseline
            for form in (form for form in forms if form.precision == "int8"):
                if won := self._climb(form, files, frames, work, baseline):
                    winner = won
                    break
            tuning = Tuning(
                parts=plan.parts, rungs=[self._fate(form, winner) for form in forms],
                kept=winner.card.form if winner else None, at=time.time(), took_s=time.monotonic() - began,
                calibration_frames=frames.calibrating, held_out_frames=frames.judging, frames_sha256=frames.sha256,
                note=frames.note)
            judged = tuning.kept or any(rung.outcome == "lost" for rung in tuning.rungs)
            if judged or store.serving(plan.parts) is None:  # a run in which all failed takes nothing away
                store.finish(tuning)
        return tuning

    @contextmanager
    def _work_folder(self, store: Store) -> Iterator[Path]:
        """Yield a scratch folder on the store's file system; scraps of a killed run go first."""
        folder = store.folder(self.plan.parts)

        def wait() -> None:  # for another process that tunes this recipe; it may take an hour
            self._waited = True
            if self.cancel.is_set():
                raise ModelError("cancelled", "")

        with alone_in(folder.parent, wait, lambda words: self.report(words, 0, None)):
            folder.mkdir(exist_ok=True)
            for scrap in folder.parent.glob(".work-*"):
                shutil.rmtree(scrap, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=".work-", dir=folder.parent))
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def _frames(self, work: Path) -> _Frames:
        """Gather frames in a child.

        Raises:
            ModelError: there are none, not even made-up ones, and why.
        """
        plan, calibrate, judge_by = self.plan, work / "calibrate.npy", work / "judge.npy"
        job = GatherJob(
            recipe=str(plan.recipe.folder.absolute()), size=(plan.prepared.height, plan.prepared.width),
            state_dir=str(self.state_dir), folder=str(self.frames_from) if self.frames_from else None,
            calibrate=str(calibrate), judge=str(judge_by))
        self.report("frames", 0, None)
        answer = self._child("agent.gathering", job, Gathered, phase="frames")
        if isinstance(answer, str):
            raise ModelError(f"no frames to calibrate and judge on: {answer}", "see docs/recipes.md, Bringing pictures")
        return _Frames(
            calibration=calibrate if answer.calibrating else None, held_out=judge_by, kind=answer.kind,
            note=answer.note, sha256=answer.sha256, calibrating=answer.calibrating, judging=answer.judging)

    def _convert(self, work: Path, forms: tuple[Form, ...], frames: _Frames) -> Mapping[Form, Path]:
        """Write the forms; note the rungs that cannot be."""
        plan, table = self.plan, self.plan.recipe.calibration
        flavour: Literal["tensorrt", "cpu"] = "cpu" if plan.on_cpu else "tensorrt"
        version = plan.platform.runtime.partition(" ")[2]
        job = ConvertJob(
            prepared=str(plan.prepared.path.absolute()), folder=str(work), forms=list(forms),
            frames=str(frames.calibration) if frames.calibration else None,
            cache=str(work.parent.parent / "calibrated"),
            settings=QuantiseSettings(method=table.method, percentile=table.percentile,
                                      exclude=plan.recipe.precision.exclude, flavour=flavour),
            tensorrt=tuple(int(part) for part in version.split(".") if part.isdecimal()) if plan.on_tensorrt else None,
            rtx=plan.runtime == "tensorrt_rtx", head=plan.recipe.head.kind,
            classes=0 if plan.on_cpu else len(plan.recipe.classes))
        answer = self._child("agent.building.worker", job, Converted)
        if isinstance(answer, str):
            answer = Converted(files={}, failures=dict.fromkeys(forms, answer))
        for form, why in answer.failures.items():
            no_frames = frames.calibration is None and form.precision == "int8"
            self._note(Rung(form=form, outcome="not tried" if no_frames else "failed",
                            words=(frames.note or why) if no_frames else why))
        return {form: Path(path) for form, path in answer.files.items()}

    def _climb(self, form: Form, files: Mapping[Form, Path], frames: _Frames, work: Path, baseline: Stored | None
               ) -> Stored | None:
        """Build, measure and judge one form; return it from the store when it may serve."""
        if form not in files:
            return None
        began = time.monotonic()
        if form.precision == "int8" and baseline is None and not self.plan.cannot_run:
            self._note(Rung(form=form, outcome="not tried", words="there is no float engine that it could beat"))
            return None
        built = self._build(form, files[form], work)
        if isinstance(built, str):
            self._note(Rung(form=form, outcome="failed", words=built, seconds=time.monotonic() - began))
            return None
        path, max_batch = built
        size = path.stat().st_size
        if why := self.plan.cannot_run:
            Store(self.state_dir).put(self.plan.parts, form, path, max_batch)
            self._note(Rung(form=form, outcome="not measured", words=f"built, {why}: it will not serve here",
                            seconds=time.monotonic() - began, bytes=size))
            return None
        measured = self._measure(form, path, max_batch, frames, baseline)
        if isinstance(measured, str):
            self._note(Rung(form=form, outcome="failed", words=measured, seconds=time.monotonic() - began, bytes=size))
            return None
        if measured.baseline and baseline:
            self._in_turns[baseline.card.form] = measured.baseline
        verdict = judge(form, measured, self.plan.tolerance)
        self._note(Rung(form=form, outcome="kept" if verdict.kept else "lost", measured=measured, bytes=size,
                        words=verdict.words.removeprefix("kept: ").removeprefix("refused: "),
                        seconds=time.monotonic() - began))
        return Store(self.state_dir).put(self.plan.parts, form, path, max_batch) if verdict.kept else None

    def _build(self, form: Form, source: Path, work: Path) -> tuple[Path, int] | str:
        """Return the engine file and its largest batch, or why there is none."""
        if hint := self._hint(form, work):
            return hint
        plan, target = self.plan, work / f"{form}.engine"
        settings = None if plan.runtime == "onnxruntime" else BuildSettings(
            runtime=plan.runtime, max_batch=plan.batch, workspace=plan.workspace, level=plan.level,
            # TensorRT-RTX times nothing while it builds, and cannot read its own cache without a GPU.
            timing_cache=str(self._timing_cache()) if plan.runtime == "tensorrt" else None)
        job = BuildJob(onnx=str(source), target=str(target), tensorrt=settings, provider=plan.provider,
                       threads=plan.threads)
        answer = self._child("agent.building.worker", job, Built, phase=f"build {form}")
        return answer if isinstance(answer, str) else (target, answer.max_batch or plan.batch)

    def _hint(self, form: Form, work: Path) -> tuple[Path, int] | None:
        """Return a copy of a pre-built engine, if it was built for exactly what we are."""
        if self.prebuilt is None:
            return None
        stored = Store(self.state_dir).foreign(self.prebuilt, self.plan.parts, form)
        if stored is None:
            return None
        target = work / f"{form}.engine"
        shutil.copyfile(stored.path, target)
        _LOG.info("%s %s: taken from %s", self.plan.recipe.name, form, self.prebuilt)
        return target, stored.card.max_batch

    def _timing_cache(self) -> Path:
        """Return the file of measured layer times: one for each TensorRT, GPU and power mode."""
        folder = self.state_dir / "engines" / ".timing"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{timing_key(self.plan.platform)}.cache"

    def _measure(self, form: Form, path: Path, max_batch: int, frames: _Frames, baseline: Stored | None
                 ) -> Measured | str:
        plan, head = self.plan, self.plan.recipe.head
        job = TrialJob(
            candidate=plan.file(path, form, max_batch), reference=str(plan.prepared.path.absolute()),
            baseline=plan.file(baseline.path, baseline.card.form, baseline.card.max_batch) if baseline else None,
            head=head, classes=len(plan.recipe.classes), score_drift=plan.recipe.gate.score_drift,
            frames=str(frames.held_out), frames_kind=frames.kind, runs=plan.runs)
        answer = self._child("agent.trial", job, Trialled, phase=f"measure {form}")
        return answer if isinstance(answer, str) else answer.measured

    def _child(self, module: str, job: msgspec.Struct, kind: type[_T], phase: str = "convert") -> _T | str:
        """Run a child; return its answer, or in words why there is none.

        Raises:
            ModelError: we were cancelled.
        """
        def report(step: str, done: int, total: int | None) -> None:
            self.report(f"{phase}: {step}" if step not in phase else phase, done, total)

        if self.cancel.is_set():
            raise ModelError("cancelled", "")
        answer = run_child(module, job, kind, self.plan.limits(), report=report, cancel=self.cancel)
        if self.cancel.is_set():
            raise ModelError("cancelled", "")
        if isinstance(answer, Refusal | Death):
            return f"{answer.what}" + (f" (mend: {answer.remedy})" if answer.remedy else "")
        assert isinstance(answer, kind)
        return answer

    def _note(self, rung: Rung) -> None:
        self._rungs[rung.form] = rung
        _LOG.info("%s %s: %s: %s", self.plan.recipe.name, rung.form, rung.outcome, rung.words)
        self.told(rung)

    def _fate(self, form: Form, winner: Stored | None) -> Rung:
        """Return what became of a form, now that all is known: only one serves."""
        rung = self._rungs.get(form)
        kept = winner.card.form if winner else None
        if rung is None:
            return Rung(form=form, outcome="not tried", words=f"{kept} had won already")
        if rung.measured and form in self._in_turns:
            rung = msgspec.structs.replace(
                rung, measured=msgspec.structs.replace(rung.measured, speed=self._in_turns[form]))
        if rung.outcome == "kept" and form is not kept:
            return msgspec.structs.replace(rung, outcome="beaten", words=f"beaten by {kept}; {rung.words}")
        return rung
