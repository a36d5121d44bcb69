"""Measure an engine: the child process that runs it beside the reference: ``python -m agent.trial``.

A plan that crashes its runtime, or a driver that does, takes only this process along. The reference is the prepared
FP32 model on ONNX Runtime's CPU provider; how fast an engine is, is measured in turns with the float engine it has to
beat, so that a busy machine is busy for both.
"""

import math
import time
from contextlib import closing, nullcontext
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.building.agreement import agree, output_difference
from agent.building.child import Cancelled, Report, answer_one
from agent.building.forms import CPU, Form
from agent.building.gate import Agreement, Measured, Speed
from agent.building.recipe_tables import HeadTable
from agent.errors import EngineError, ModelError
from agent.heap import resident_bytes
from agent.inference.engine import Engine, Outputs, infer
from agent.inference.heads import Head, HeadConfig, make_head
from agent.inference.heads.best import OUTPUT as BEST
from agent.loading import EngineFile, import_libraries, load_engine
from agent.records import Detections, Placement

_RAW_FRAMES = 16  # raw outputs are compared on so many frames; boxes on all
_FIRST_CALLS = 5  # not counted
_LONGEST_S = 20.0


class TrialJob(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """What is to be measured.

    Attributes:
        candidate: The engine.
        reference: The prepared FP32 model.
        baseline: The float engine to be beaten; None = only the answers are compared, and the time taken is noted.
        head: The recipe's.
        classes: How many there are.
        score_drift: See :func:`agent.building.agreement.agree`.
        frames: ``.npy`` file (n, height, width, 3) uint8 BGR.
        frames_kind: ``held-out`` or ``synthetic``.
        runs: Timed calls of each engine, fewer when they take longer than 20 s together.
    """

    candidate: EngineFile
    reference: str
    baseline: EngineFile | None
    head: HeadTable
    classes: int
    score_drift: float
    frames: str
    frames_kind: str
    runs: int = 200


class Trialled(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """The answer."""

    measured: Measured


def work(job: TrialJob, report: Report, cancelled: Cancelled) -> Trialled:
    """Measure.

    Raises:
        ModelError: an engine cannot be loaded or run, or no head fits it.
    """
    try:
        return Trialled(measured=_measure(job, report, cancelled))
    except EngineError as error:
        raise ModelError(error.what, error.remedy) from error


def _measure(job: TrialJob, report: Report, cancelled: Cancelled) -> Measured:
    import_libraries(job.candidate)
    before = resident_bytes()
    with closing(load_engine(job.candidate)) as candidate:
        resident = resident_bytes() - before
        frames: NDArray[np.uint8] = np.load(job.frames)
        with closing(load_engine(_reference(job))) as reference:  # gone before times are taken
            agreement = _Compared(job, candidate, reference).look_at(frames, report, cancelled)
        with closing(load_engine(job.baseline)) if job.baseline else nullcontext() as baseline:
            speeds = _race([candidate, *([baseline] if baseline else [])], frames, job.runs, report, cancelled)
        on_device = getattr(candidate, "device_bytes", None)
    return Measured(
        agreement=agreement, speed=speeds[0], baseline=speeds[1] if job.baseline else None,
        baseline_form=Form(job.baseline.form) if job.baseline else None, device_bytes=on_device,
        resident_bytes=max(resident, 0), frames_kind="held-out" if job.frames_kind == "held-out" else "synthetic")


def _reference(job: TrialJob) -> EngineFile:
    return msgspec.structs.replace(job.candidate, path=job.reference, form=Form.FP32, runtime="onnxruntime",
                                   provider=CPU, threads=0, max_batch=1)


class _Compared:
    """Both sides' boxes of every frame, decoded a little below the recipe's score, and how far raw outputs differ."""

    def __init__(self, job: TrialJob, candidate: Engine, reference: Engine) -> None:
        self.candidate = candidate
        self.reference = reference
        self._agree = partial(agree, threshold=job.head.score, score_drift=job.score_drift, output_difference=0.0)
        self._low = max(job.head.score - job.score_drift, 1e-3)
        config = HeadConfig(kind=job.head.kind, classes=job.classes, score=self._low, iou=job.head.iou,
                            landmarks=job.head.landmarks)
        self._heads: tuple[Head, Head] = (make_head(config, reference.spec), make_head(config, candidate.spec))
        self.expected: list[Detections] = []
        self.found: list[Detections] = []
        self._raw: tuple[list[Outputs], list[Outputs]] = ([], [])

    def look_at(self, frames: NDArray[np.uint8], report: Report, cancelled: Cancelled) -> Agreement:
        """Run both on every frame, and the candidate on batches."""
        for number, frame in enumerate(frames):
            report("compare", number, len(frames))
            if cancelled():
                raise ModelError("cancelled", "")
            self.look(frame, raw=number < _RAW_FRAMES)
        batch, in_batch = self.look_together(frames)
        return self._agree(self.expected, self.found, batch=batch, batch_difference=in_batch,
                           output_difference=output_difference(*map(_joined, self._raw)))

    def look(self, frame: NDArray[np.uint8], *, raw: bool) -> None:
        place = [_whole(frame)]
        expected, found = (infer(engine, frame[None]) for engine in (self.reference, self.candidate))
        if raw:
            self._raw[0].append(self._like_candidate(expected))
            self._raw[1].append(found)
        self.expected += self._heads[0](expected, place)
        self.found += self._heads[1](found, place)

    def _like_candidate(self, expected: Outputs) -> Outputs:
        """Return the reference's outputs in the candidate's layout: on a GPU the best class is chosen by the graph."""
        if [output.name for output in self.candidate.spec.outputs] != [BEST]:
            return expected
        scores = expected[0][:, 4:]
        return [np.concatenate([expected[0][:, :4], scores.max(1, keepdims=True),
                                scores.argmax(1)[:, None].astype(np.float32)], axis=1)]

    def look_together(self, frames: NDArray[np.uint8]) -> tuple[int, float | None]:
        """Compare a full batch, and one short of a frame, with the same frames one by one, answered by this engine.

        Profiles and bindings are wrong there first. Frames are repeated where they are fewer than a batch.

        Returns:
            Frames in the largest batch, and the larger difference; 1 and None where the engine takes one frame only.
        """
        full = self.candidate.spec.max_batch
        if full < 2:
            return 1, None
        known = min(len(frames), _RAW_FRAMES)
        differences = []
        for first, count in ((0, full), (1, full - 1)):  # another frame comes first: nothing may be left of the other
            if count >= 2:
                chosen = [(first + row) % known for row in range(count)]
                together = infer(self.candidate, np.ascontiguousarray(frames[chosen]))
                differences.append(self._apart(chosen, frames, together))
        return full, max(differences)

    def _apart(self, chosen: list[int], frames: NDArray[np.uint8], together: Outputs) -> float:
        """Return how far a batch's answers are from those to its frames alone: raw outputs, and boxes.

        Where pixels and scores share an output, only boxes show that scores are wrong. Of an end-to-end model only
        boxes are compared: its rows are sorted by score, and rounding makes those of the background swap places.
        """
        alone = _joined([self._raw[1][number] for number in chosen])
        raw = output_difference(self._sure(alone), self._sure(together))
        if raw == math.inf:
            return raw  # no shape that a head could read, or not numbers
        boxes = self._heads[1](together, [_whole(frames[number]) for number in chosen])
        same = self._agree([self.found[number] for number in chosen], boxes)
        total = max(same.reference_boxes, 1)
        if self._heads[1].kind == "end2end":
            raw = 0.0 if same.mean_iou is None else 1 - same.mean_iou
        return max(raw, (same.reference_boxes - same.matched) / total,
                   same.extra / total, same.score_drift_mean or 0.0)

    def _sure(self, outputs: Outputs) -> Outputs:
        """Return outputs without the class of what is no box: where all scores are near 0, rounding chooses it."""
        if [output.name for output in self.candidate.spec.outputs] != [BEST] or outputs[0].shape[1:2] != (6,):
            return outputs
        sure = np.array(outputs[0])
        sure[:, 5] = np.where(sure[:, 4] >= self._low, sure[:, 5], 0)
        return [sure]


def _whole(frame: NDArray[np.uint8]) -> Placement:
    return Placement(scale=1.0, left=0, top=0, width=frame.shape[1], height=frame.shape[0])


def _joined(outputs: list[Outputs]) -> Outputs:
    """Return the outputs of several frames as if of one batch; as they are where their shapes differ."""
    alike = all(len({one[index].shape[1:] for one in outputs}) == 1 for index in range(len(outputs[0])))
    return [np.concatenate([one[index] for one in outputs]) for index in range(len(outputs[0]))] if alike else [
        each for one in outputs for each in one]


def _race(engines: list[Engine], frames: NDArray[np.uint8], runs: int, report: Report, cancelled: Cancelled
          ) -> list[Speed]:
    """Time calls of one frame, the engines taking turns, each as often first as the others."""
    took: list[list[float]] = [[] for _ in engines]
    began = time.monotonic()
    for turn in range(-_FIRST_CALLS, runs):
        if turn % 20 == 0:
            report("time", max(turn, 0), runs)
            if cancelled():
                raise ModelError("cancelled", "")
        frame = frames[turn % len(frames)][None]
        for index in sorted(range(len(engines)), reverse=turn % 2 == 1):
            start = time.perf_counter()
            infer(engines[index], frame)
            if turn >= 0:
                took[index].append((time.perf_counter() - start) * 1e3)
        if turn >= 20 and time.monotonic() - began > _LONGEST_S:
            break
    return [_speed(times) for times in took]


def _speed(times_ms: list[float]) -> Speed:
    p50, p99 = (float(np.percentile(times_ms, share)) for share in (50, 99))
    return Speed(runs=len(times_ms), p50_ms=p50, p99_ms=p99, mean_ms=float(np.mean(times_ms)))


def main() -> None:
    """Be the child."""
    answer_one(TrialJob, work)


if __name__ == "__main__":
    main()
