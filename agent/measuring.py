"""Measure one operating point: the child process that runs an engine at a pace: ``python -m agent.measuring``.

For each call frames are laid on the canvas, the engine runs, and the head makes detections, as the loop does it; one
thread does all three, so that a head that takes long costs here what it hides in the loop. The sensors are read
meanwhile, by the same telemetry as in service. Each point has a child of its own: what memory it takes is its own.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.building.child import Cancelled, Death, Limits, Refusal, Report, answer_one, run_child
from agent.building.recipe import Recipe
from agent.building.recipe_tables import HeadTable
from agent.config import Config
from agent.errors import AgentError, ModelError
from agent.gathering import Gathered, GatherJob
from agent.heap import resident_bytes
from agent.inference.heads import HeadConfig, make_head
from agent.inference.letterbox import Letterbox
from agent.loading import EngineFile, import_libraries, load_engine
from agent.pipeline import Model
from agent.power.choose import open_telemetry
from agent.power.telemetry import Telemetry
from agent.power.watching import Watcher
from agent.tiers import Offer

_PICTURES = 8  # so many, in turns: more would count as memory of the engine
_LEAD_S = 1.5  # calls and readings before are not counted: power follows the load with a lag
_LEAD_CALLS = 2
_LEAST_CALLS = 3
_LONGEST = 4  # times the wanted time, however few calls there are
_LOADING_S = 600.0
_TOLD_S = 0.5


class MeasureJob(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """What is to be measured.

    Attributes:
        engine: The engine.
        head: The recipe's, with the configured thresholds.
        classes: How many there are.
        pad: Grey value of the canvas's bands.
        frames: ``.npy`` file (n, height, width, 3) uint8 BGR, of any size.
        batch: Frames in one call.
        rate: Frames per second; None = as many as it takes.
        seconds: How long is measured, after 1.5 s that do not count.
        telemetry: Which sensors, see ``[budget] telemetry``.
        sysfs: Where the kernel's files are.
    """

    engine: EngineFile
    head: HeadTable
    classes: int
    pad: int
    frames: str
    batch: int
    rate: float | None
    seconds: float
    telemetry: str
    sysfs: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True, tag="measurement"):
    """The answer: what :class:`agent.power.points.Point` keeps, and where the watts are from.

    Attributes:
        calls: Calls counted.
        measures: What the watts are of.
        trouble: Why there are no watts; empty when there are.
    """

    calls: int
    fps: float
    p50_ms: float
    p99_ms: float
    watts: float | None
    resident_bytes: int
    grown_bytes: int
    device_bytes: int | None
    measures: str
    trouble: str


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """What calls took, seconds each; the frames a second they gave; when counting began, on the monotonic clock."""

    took_s: list[float]
    fps: float
    since_s: float


def measure(offer: Offer, recipe: Recipe, config: Config, frames: Path, *, batch: int, rate: float | None,
            seconds: float, report: Report | None = None) -> Measurement | str:
    """Measure a tier at a batch size and a rate in a child; return what was measured, or in words why it was not.

    Args:
        offer: The tier.
        recipe: Its recipe.
        config: Names the sensors and thresholds.
        frames: See :func:`pictures`.
        batch: Frames in one call.
        rate: Frames per second; None = as many as it takes.
        seconds: How long.
        report: Told how far it is, in hundredths of the time.
    """
    section, head = config.engine, recipe.head
    head = msgspec.structs.replace(head, score=section.score or head.score, iou=section.iou or head.iou)
    job = MeasureJob(
        engine=msgspec.structs.replace(offer.file, path=str(Path(offer.file.path).absolute())), head=head,
        classes=len(recipe.classes), pad=recipe.input.pad, frames=str(frames.absolute()), batch=batch, rate=rate,
        seconds=seconds, telemetry=config.budget.telemetry, sysfs=config.budget.sysfs)
    limits = Limits(wall_s=_LOADING_S + (_LONGEST + 1) * seconds, nice=0)  # it serves without stepping back, too
    answer = run_child("agent.measuring", job, Measurement, limits, report=report)
    if isinstance(answer, Refusal | Death):
        return answer.what
    assert isinstance(answer, Measurement)
    return answer


def pictures(recipe: Recipe, size: tuple[int, int], state_dir: Path, target: Path, report: Report | None = None) -> str:
    """Write pictures (n, height, width, 3) of ``size`` (height, width) for the points to look at; say what they are.

    This box's live frames and the recipe's sets; made-up ones where there are none.

    Raises:
        ModelError: they cannot be written.
    """
    spare = target.with_suffix(".calibrate.npy")
    job = GatherJob(recipe=str(recipe.folder.absolute()), size=size, state_dir=str(state_dir.absolute()), folder=None,
                    calibrate=str(spare), judge=str(target))
    answer = run_child("agent.gathering", job, Gathered, Limits(wall_s=_LOADING_S), report=report)
    spare.unlink(missing_ok=True)
    if isinstance(answer, Refusal | Death):
        raise ModelError(f"no pictures to measure with: {answer.what}", answer.remedy)
    assert isinstance(answer, Gathered)
    if answer.kind == "synthetic":
        return f"made-up pictures ({answer.note})"
    return f"{min(answer.judging, _PICTURES)} pictures of this box or the recipe's sets"


def work(job: MeasureJob, report: Report, cancelled: Cancelled) -> Measurement:
    """Be the child's work.

    Raises:
        ModelError: the engine cannot be loaded or run, no head fits it, or the wanted sensors are not there.
    """
    try:
        shown: NDArray[np.uint8] = np.array(np.load(job.frames, mmap_mode="r")[:_PICTURES])
        import_libraries(job.engine)
        with closing(open_telemetry(job.telemetry, Path(job.sysfs))) as telemetry:
            telemetry.sample()
            before = resident_bytes()
            return _measured(job, telemetry, shown, before, report=report, cancelled=cancelled)
    except ModelError:
        raise
    except AgentError as error:
        raise ModelError(error.what, error.remedy) from error


def _measured(job: MeasureJob, telemetry: Telemetry, shown: NDArray[np.uint8], before: int, *, report: Report,
              cancelled: Cancelled) -> Measurement:
    """Measure; ``before`` is the resident memory without the engine, bytes."""
    with closing(load_engine(job.engine)) as engine, closing(Watcher(telemetry)) as watcher:
        spec = engine.spec
        head = make_head(HeadConfig(kind=job.head.kind, classes=job.classes, score=job.head.score,
                                    iou=job.head.iou, landmarks=job.head.landmarks), spec)
        model = Model(engine=engine, place=Letterbox(spec.height, spec.width, job.pad).place, head=head)
        timed = timed_calls(model, shown, job.batch, job.rate, job.seconds, report=report, cancelled=cancelled)
        device_bytes = getattr(engine, "device_bytes", None)
        resident = resident_bytes()
        power = watcher.since(timed.since_s)
    p50, p99 = (float(np.percentile(timed.took_s, share)) * 1e3 for share in (50, 99))
    return Measurement(
        calls=len(timed.took_s), fps=timed.fps, p50_ms=p50, p99_ms=p99, watts=power.watts, resident_bytes=resident,
        grown_bytes=max(resident - before, 0), device_bytes=device_bytes, measures=power.measures,
        trouble=power.trouble)


def timed_calls(model: Model, shown: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], batch: int, rate: float | None,
                seconds: float, *, report: Report, cancelled: Cancelled,
                clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
                lead_s: float = _LEAD_S) -> Timed:
    """Call ``model`` with ``batch`` frames again and again, at ``rate`` frames a second all together.

    It falls behind rather than catch up more than one call. Counting starts and ends with the end of a call, so that
    calls and time belong together.

    Raises:
        EngineError: a run failed.
        ModelError: cancelled.
    """
    spec = model.engine.spec
    canvases = np.empty((batch, spec.height, spec.width, 3), np.uint8)
    under_way: deque[tuple[float, Callable[[], None]]] = deque()
    period = batch / rate if rate else 0.0
    due = began = told = clock()
    counted = _Counted(began + lead_s, seconds)
    turn = 0
    while not counted.enough:
        if cancelled():
            raise ModelError("cancelled", "")
        at = clock()
        placed = [model.place(shown[(turn + row) % len(shown)], canvases[row]) for row in range(batch)]
        under_way.append((at, _answer(model, model.engine.start(canvases), placed)))
        turn += batch
        due = max(due + period, clock() - period)
        while under_way and (len(under_way) >= spec.depth or clock() < due) and not counted.enough:
            begun, finish = under_way.popleft()
            finish()
            counted.end(begun, clock())
        now = clock()
        if now - told >= _TOLD_S:
            told = now
            report("measure", min(int(100 * (now - began) / (lead_s + seconds)), 99), 100)
        if due > now and not counted.enough:
            sleep(due - now)
    for _, finish in under_way:
        finish()
    return Timed(took_s=counted.took_s, fps=batch * len(counted.took_s) / counted.elapsed_s, since_s=counted.since_s)


class _Counted:
    """The calls that count: those that end after the one that ended when the lead was over."""

    def __init__(self, from_s: float, seconds: float) -> None:
        self._from_s, self._seconds = from_s, seconds
        self._lead_calls = 0
        self._leading = True
        self.took_s: list[float] = []
        self.since_s = 0.0
        self.elapsed_s = 0.0

    def end(self, begun: float, ended: float) -> None:
        if self._leading:
            self._lead_calls += 1
            self._leading = ended < self._from_s or self._lead_calls < _LEAD_CALLS
            self.since_s = ended
            return
        self.took_s.append(ended - begun)
        self.elapsed_s = ended - self.since_s

    @property
    def enough(self) -> bool:
        least = 1 if self.elapsed_s >= _LONGEST * self._seconds else _LEAST_CALLS
        return self.elapsed_s >= self._seconds and len(self.took_s) >= least


def _answer(model: Model, pending: Callable[[], object], placed: Sequence[object]) -> Callable[[], None]:
    def finish() -> None:
        model.head(pending(), placed)  # type: ignore[arg-type]
    return finish


if __name__ == "__main__":
    answer_one(MeasureJob, work)
