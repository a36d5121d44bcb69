"""The gate: whether an engine that was built may serve, judged on measured figures alone.

Pure, and without numpy, so that a report card can be read and shown cheaply; agent/building/agreement.py compares the
boxes and outputs. The reference is the model in FP32 under ONNX Runtime. An INT8 form must win: held-out frames with
enough boxes, agreement within tolerance, and faster than the float engine measured in turns with it. A float form is
close to the reference by construction, so little agreement is asked of it where the frames show few boxes. A figure
that is missing or not a number never speaks for an engine.
"""

import math
from collections.abc import Iterator
from typing import Literal

import msgspec

from agent.building.forms import Form
from agent.building.recipe_tables import GateTable

MOST_P99_RATIO = 1.25
"""An INT8 engine's p99 may be this much longer than the float engine's: a faster median must not hide long calls."""
MOST_BATCH_DIFFERENCE = 0.02
"""Of a batch's raw outputs from those of its frames one by one. Both are the same engine's, so only rounding and other
kernels may tell them apart; a frame that gets another's answer, or a wrong binding, is far beyond that."""
MOST_LANDMARK_ERROR = 0.05
"""Mean distance of landmarks from the reference's, in diagonals of the box. The eyes of a face are about a third of its
diagonal apart: with more than this they no longer say where it looks."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine's answers are those of the reference.

    Attributes:
        frames: Frames compared.
        reference_boxes: Boxes of the reference at the recipe's score threshold or above.
        matched: Those of them that the engine found, too: one box each, same class, IoU at least 0.5.
        extra: Boxes clearly above the threshold that the reference has not even weakly.
        class_changed: Boxes of the reference that the engine found as another class; neither matched nor extra.
        mean_iou: Of the matched pairs, 0..1; None without one.
        score_drift_mean: Mean difference of scores of the matched pairs, 0..1; None without one.
        score_drift_max: The largest.
        output_difference: Of the raw outputs, as a share of their range; infinite or None (JSON knows no infinity)
            where they cannot be compared: another shape, or not a number.
        batch: Frames in the largest batch compared; 1 = none of several, or a card of before there was this.
        batch_difference: Of a batch's answers from those of the same engine to its frames one by one, as a share of
            their range. None where ``batch`` is 1; where it is not, infinite or None say that they cannot be compared.
        landmark_pairs: Matched pairs whose box of the reference has landmarks.
        landmark_error_mean: Mean distance of the landmarks of those pairs / the diagonal of the reference's box. None
            without a pair; with some, infinite or None say that the engine's are missing, or not numbers.
    """

    frames: int
    reference_boxes: int
    matched: int
    extra: int
    class_changed: int
    mean_iou: float | None = None
    score_drift_mean: float | None = None
    score_drift_max: float | None = None
    output_difference: float | None
    batch: int = 1
    batch_difference: float | None = None
    landmark_pairs: int = 0
    landmark_error_mean: float | None = None

    @property
    def share(self) -> float | None:
        """Matched boxes / boxes of the reference; None where it has none: nothing to compare."""
        return self.matched / self.reference_boxes if self.reference_boxes else None

    @property
    def extra_share(self) -> float | None:
        """Extra boxes / boxes of the reference; None as for ``share``."""
        return self.extra / self.reference_boxes if self.reference_boxes else None


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one engine call, milliseconds, over ``runs`` calls at batch 1."""

    runs: int
    p50_ms: float
    p99_ms: float
    mean_ms: float

    @property
    def measured(self) -> bool:
        """Tell whether there are figures at all."""
        return self.runs > 0 and all(0 < figure < math.inf for figure in (self.p50_ms, self.p99_ms))


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Everything measured on one engine; it is what the report card keeps.

    Attributes:
        baseline: Speed of the float engine, measured in turns with this one in the same run.
        baseline_form: What that float engine is.
        device_bytes: Device memory the engine takes; None = unknown, or there is no device.
        resident_bytes: Growth of the process's resident memory by loading and warming it.
        watts: Mean power of the board meanwhile.
        frames_kind: ``held-out``: real frames that were not calibrated on. ``synthetic``: made up.
    """

    agreement: Agreement
    speed: Speed
    baseline: Speed | None = None
    baseline_form: Form | None = None
    device_bytes: int | None = None
    resident_bytes: int | None = None
    watts: float | None = None
    frames_kind: Literal["held-out", "synthetic"]

    @property
    def speedup(self) -> float | None:
        """The float engine's median / this one's; None where either is not known."""
        if self.baseline is None or not (self.baseline.measured and self.speed.measured):
            return None
        return self.baseline.p50_ms / self.speed.p50_ms


Tolerance = GateTable
"""What the gate lets pass. Its score drift also says how far from the threshold a box may flicker."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says.

    Attributes:
        kept: Whether the engine may serve.
        reasons: Why not: each names the figure that lost, and its limit. Empty when kept.
        words: All figures in one line, for the report card.
    """

    kept: bool
    reasons: list[str]
    words: str


def judge(form: Form, measured: Measured, tolerance: Tolerance) -> Verdict:
    """Decide whether an engine of ``form`` may serve.

    Args:
        form: What was built; INT8 forms must win, float forms must only be right.
        measured: What was measured on it.
        tolerance: The recipe's limits.
    """
    reasons = [*_wrong(form, measured, tolerance)]
    if form.precision == "int8":
        reasons += _slow(measured, tolerance)
    figures = _figures(measured)
    if reasons:
        return Verdict(kept=False, reasons=reasons, words=f"refused: {'; '.join(reasons)} [{figures}]")
    return Verdict(kept=True, reasons=[], words=f"kept: {figures}")


def _wrong(form: Form, measured: Measured, tolerance: Tolerance) -> Iterator[str]:
    """Yield what is wrong with the answers."""
    found, difference = measured.agreement, measured.agreement.output_difference
    if found.frames < 1:
        yield "nothing was compared: no frames"
        return
    if difference is None or not math.isfinite(difference):
        yield "its outputs cannot be compared: another shape than the reference's, or not a number"
        return
    yield from _wrong_in_batch(found)
    enough = found.reference_boxes >= tolerance.least_boxes
    if form.precision == "int8":
        if measured.frames_kind != "held-out":
            yield "INT8 is judged on held-out frames only: there were none but synthetic ones"
        if not enough:
            yield (f"too few boxes to judge INT8 by: the reference has {found.reference_boxes} on "
                   f"{found.frames} frames, needs {tolerance.least_boxes}")
    elif not enough and not difference <= tolerance.output_difference:
        yield _against("output difference", difference, ">", tolerance.output_difference)
    if enough:
        yield from _disagrees(found, tolerance)
    if found.landmark_pairs and not _finite(found.landmark_error_mean):
        yield f"its landmarks are missing or not numbers ({found.landmark_pairs} boxes of the reference have some)"


def _wrong_in_batch(found: Agreement) -> Iterator[str]:
    """Yield how a batch's answers differ from those to its frames alone: no form is allowed that."""
    difference = found.batch_difference
    if difference is None and found.batch <= 1:
        return
    if difference is None or not math.isfinite(difference):
        yield (f"a batch of {found.batch} cannot be compared with its frames one by one: outputs of another shape, or "
               "not a number")
    elif not difference <= MOST_BATCH_DIFFERENCE:
        yield (f"{_against('batch difference', difference, '>', MOST_BATCH_DIFFERENCE)} (batches of up to "
               f"{found.batch} against the same frames one by one)")


def _disagrees(found: Agreement, tolerance: Tolerance) -> Iterator[str]:
    """Yield what tells the boxes from the reference's; there are some."""
    boxes, share, extra = found.reference_boxes, found.share or 0.0, found.extra_share or 0.0
    if not share >= tolerance.agreement:
        yield f"{_against('agreement', share, '<', tolerance.agreement)} ({_boxes(found)})"
    if not (boxes - found.extra) / boxes >= tolerance.agreement:  # not extra <= 1 - 0.98, which is a bit more than 0.02
        yield (f"{_against('extra boxes', extra, '>', round(1 - tolerance.agreement, 9))} "
               f"({found.extra} that the reference has not, to its {boxes})")
    drift = found.score_drift_mean
    if drift is None:
        if found.matched:
            yield "score drift not known"
    elif not drift <= tolerance.score_drift:
        yield _against("score drift", drift, ">", tolerance.score_drift)
    error = found.landmark_error_mean
    if error is not None and math.isfinite(error) and not error <= MOST_LANDMARK_ERROR:
        yield f"{_against('landmark error', error, '>', MOST_LANDMARK_ERROR)} of the box's diagonal"


def _slow(measured: Measured, tolerance: Tolerance) -> Iterator[str]:
    """Yield in what an INT8 engine loses against the float engine."""
    speed, baseline, ratio = measured.speed, measured.baseline, measured.speedup
    than = measured.baseline_form or "the float engine"
    if baseline is None or ratio is None:
        yield f"speed not known: {'its own' if baseline and baseline.measured else f'that of {than}'} was not measured"
        return
    least = max(tolerance.speedup or 1.0, 1.0)
    if not (ratio > 1.0 and ratio >= least):
        ours, theirs = _apart(speed.p50_ms, baseline.p50_ms, 3)
        label = "not faster" if not ratio > 1.0 else "not fast enough"
        had, needed = _apart(ratio, least, 2, fixed=True)
        yield f"{label}: {ours} ms against {theirs} ms of {than} ({had}x, needs {'more than ' * (least == 1)}{needed}x)"
    most_ms = baseline.p99_ms * MOST_P99_RATIO
    if not speed.p99_ms <= most_ms:
        ours, most = _apart(speed.p99_ms, most_ms, 3)
        yield f"p99 too long: {ours} ms > {most} ms ({MOST_P99_RATIO:g} x that of {than})"


def _figures(measured: Measured) -> str:
    """Return all figures there are, on one line."""
    found, speed, share = measured.agreement, measured.speed, measured.agreement.share
    parts = ["no boxes to compare"]
    if share is not None:
        parts = [f"agreement {share:.3f} ({_boxes(found)}, {found.extra} extra)"]
    if found.score_drift_mean is not None:
        parts.append(f"score drift {found.score_drift_mean:.3f}")
    for name, figure in (("landmark error", found.landmark_error_mean), ("output difference", found.output_difference),
                         ("batch difference", found.batch_difference)):
        if _finite(figure):
            parts.append(f"{name} {figure:.2g}")
    parts[-1] += f" on {found.frames} {measured.frames_kind} frame{'s' * (found.frames != 1)}"
    if speed.measured:
        parts.append(f"p50 {speed.p50_ms:.3g} ms, p99 {speed.p99_ms:.3g} ms")
    if measured.speedup is not None:
        parts.append(f"{measured.speedup:.2f}x as fast as {measured.baseline_form or 'the float engine'}")
    if measured.device_bytes is not None:
        parts.append(f"{measured.device_bytes / 1e6:.0f} MB on the device")
    if measured.watts is not None:
        parts.append(f"{measured.watts:.1f} W")
    return ", ".join(parts)


def _finite(figure: float | None) -> bool:
    return figure is not None and math.isfinite(figure)


def _boxes(found: Agreement) -> str:
    """Return ``93 of 102 boxes; 7 lost, 2 of another class``, without what is nought."""
    lost = found.reference_boxes - found.matched - found.class_changed
    gone = [f"{count} {words}" for count, words in ((lost, "lost"), (found.class_changed, "of another class")) if count]
    return f"{found.matched} of {found.reference_boxes} boxes" + (f"; {', '.join(gone)}" if gone else "")


def _against(name: str, figure: float, sign: str, limit: float) -> str:
    had, allowed = _apart(figure, limit, 3)
    return f"{name} {had} {sign} {allowed}"


def _apart(figure: float, limit: float, digits: int, *, fixed: bool = False) -> tuple[str, str]:
    """Return both as text, with as many more digits as it takes to see that they differ."""
    kind = "f" if fixed else "g"
    for count in range(digits, 15):
        texts = f"{figure:.{count}{kind}}", f"{limit:.{count}{kind}}"
        if figure == limit or texts[0] != texts[1]:
            return texts
    return repr(figure), repr(limit)
