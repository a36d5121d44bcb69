import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.building.forms import Form
from agent.building.gate import Agreement, Measured, Speed, Tolerance, judge

INT8 = [form for form in Form if form.precision == "int8"]
FLOAT = [form for form in Form if form.precision != "int8"]


def speed(p50: float = 10.0, p99: float | None = None, runs: int = 200) -> Speed:
    return Speed(runs=runs, p50_ms=p50, p99_ms=p50 * 1.2 if p99 is None else p99, mean_ms=p50)


def agreement(**changes) -> Agreement:
    return Agreement(**({"frames": 40, "reference_boxes": 100, "matched": 100, "extra": 0, "class_changed": 0, "mean_iou": 0.97,
                         "score_drift_mean": 0.004, "score_drift_max": 0.02, "output_difference": 0.004} | changes))


def measured(**changes) -> Measured:
    boxes = {key: changes.pop(key) for key in list(changes) if key in Agreement.__struct_fields__}
    return Measured(**({"agreement": agreement(**boxes), "speed": speed(10.0), "baseline": speed(18.0), "baseline_form": Form.FP32,
                        "frames_kind": "held-out"} | changes))


def verdict(form: Form = Form.INT8_FP32, tolerance: Tolerance | None = None, **changes):
    found = judge(form, measured(**changes), tolerance or Tolerance())
    assert found.kept is not bool(found.reasons)
    assert found.words.startswith("kept: " if found.kept else "refused: ")
    assert "\n" not in found.words
    return found


def reason(form: Form = Form.INT8_FP32, tolerance: Tolerance | None = None, **changes) -> str:
    """The one reason."""
    found = verdict(form, tolerance, **changes)
    assert len(found.reasons) == 1, found.reasons
    assert found.reasons[0] in found.words
    return found.reasons[0]


@pytest.mark.parametrize("form", list(Form))
def test_a_faster_engine_that_answers_alike_is_kept(form):
    assert verdict(form).kept


def test_the_line_of_a_kept_engine_has_every_figure():
    words = verdict(matched=98, class_changed=1, extra=2, device_bytes=21_400_000, watts=6.25).words
    assert words == ("kept: agreement 0.980 (98 of 100 boxes; 1 lost, 1 of another class, 2 extra), score drift 0.004, output difference 0.004 "
                     "on 40 held-out frames, p50 10 ms, p99 12 ms, 1.80x as fast as fp32, 21 MB on the device, 6.2 W")


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("difference", [math.inf, math.nan, None])
def test_outputs_that_cannot_be_compared_always_refuse(form, difference):
    assert "cannot be compared" in reason(form, output_difference=difference)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("boxes", [0, 100])
def test_a_batch_that_answers_otherwise_always_refuses(form, boxes):
    if form in INT8 and not boxes:
        boxes = 50
    few = {"reference_boxes": boxes, "matched": boxes, "batch": 4}
    assert verdict(form, **few, batch_difference=0.02).kept
    assert reason(form, **few, batch_difference=0.0201) == (
        "batch difference 0.0201 > 0.02 (batches of up to 4 against the same frames one by one)")
    for bad in (math.inf, math.nan, None):
        assert reason(form, **few, batch_difference=bad).startswith("a batch of 4 cannot be compared with its frames one by one")
    assert "batch difference 0.003" in verdict(form, **few, batch_difference=0.003).words
    assert "batch" not in verdict(form).words


@pytest.mark.parametrize("form", list(Form))
def test_landmarks_that_are_off_refuse(form):
    assert verdict(form, landmark_pairs=100, landmark_error_mean=0.05).kept
    assert reason(form, landmark_pairs=100, landmark_error_mean=0.0501) == "landmark error 0.0501 > 0.05 of the box's diagonal"
    assert "landmark error 0.011" in verdict(form, landmark_pairs=100, landmark_error_mean=0.011).words
    for bad in (math.inf, math.nan, None):
        assert reason(form, landmark_pairs=100, landmark_error_mean=bad) == (
            "its landmarks are missing or not numbers (100 boxes of the reference have some)")
    assert "landmark" not in verdict(form).words


def test_with_few_boxes_landmarks_are_not_measured_but_must_be_there():
    few = {"reference_boxes": 5, "matched": 5, "landmark_pairs": 5}
    assert verdict(Form.FP16, **few, landmark_error_mean=0.3).kept
    assert "missing" in reason(Form.FP16, **few, landmark_error_mean=None)


def test_a_card_from_before_there_were_figures_of_batches_and_landmarks_is_read():
    card = msgspec.to_builtins(measured())
    for key in ("batch", "batch_difference", "landmark_pairs", "landmark_error_mean"):
        del card["agreement"][key]
    assert judge(Form.INT8_FP32, msgspec.convert(card, Measured), Tolerance()).kept


@pytest.mark.parametrize("form", list(Form))
def test_nothing_compared_refuses(form):
    assert "no frames" in reason(form, frames=0, reference_boxes=0, matched=0, output_difference=0.0)


@pytest.mark.parametrize("form", list(Form))
def test_lost_boxes_refuse_and_are_counted(form):
    assert reason(form, reference_boxes=102, matched=93, class_changed=2) == "agreement 0.912 < 0.98 (93 of 102 boxes; 7 lost, 2 of another class)"
    assert reason(form, matched=0, score_drift_mean=None) == "agreement 0 < 0.98 (0 of 100 boxes; 100 lost)"
    assert reason(form, reference_boxes=102, matched=99) == "agreement 0.971 < 0.98 (99 of 102 boxes; 3 lost)"


@pytest.mark.parametrize("form", list(Form))
def test_extra_boxes_refuse_and_are_counted(form):
    assert reason(form, extra=3) == "extra boxes 0.03 > 0.02 (3 that the reference has not, to its 100)"
    assert verdict(form, extra=2).kept


@pytest.mark.parametrize("form", list(Form))
def test_drifted_scores_refuse(form):
    assert reason(form, score_drift_mean=0.061) == "score drift 0.061 > 0.05"
    assert reason(form, score_drift_mean=math.nan).startswith("score drift nan")
    assert reason(form, score_drift_mean=None) == "score drift not known"


@pytest.mark.parametrize("boxes", [20, 50, 100, 150, 1000, 12345])
def test_a_share_of_just_the_limit_is_within_it(boxes):
    for share in (0.9, 0.95, 0.98, 0.99):
        least = math.ceil(round(share * boxes, 6))
        limit = Tolerance(agreement=share)
        assert verdict(Form.FP16, limit, reference_boxes=boxes, matched=least, extra=boxes - least).kept
        assert not verdict(Form.FP16, limit, reference_boxes=boxes, matched=least - 1).kept
        assert not verdict(Form.FP16, limit, reference_boxes=boxes, matched=boxes, extra=boxes - least + 1).kept


@pytest.mark.parametrize("form", INT8)
def test_int8_needs_held_out_frames_with_enough_boxes(form):
    assert "synthetic" in reason(form, frames_kind="synthetic")
    assert reason(form, reference_boxes=19, matched=19) == "too few boxes to judge INT8 by: the reference has 19 on 40 frames, needs 20"
    assert verdict(form, reference_boxes=20, matched=20).kept
    assert "the reference has 0" in reason(form, reference_boxes=0, matched=0, score_drift_mean=None, output_difference=0.0)


@pytest.mark.parametrize("form", FLOAT)
def test_a_float_form_with_few_boxes_is_judged_by_its_outputs(form):
    few = {"reference_boxes": 19, "matched": 0, "score_drift_mean": None, "frames_kind": "synthetic"}
    assert verdict(form, **few, output_difference=0.05).kept
    assert reason(form, **few, output_difference=0.0501) == "output difference 0.0501 > 0.05"
    assert verdict(form, output_difference=3.0).kept, "where there are boxes they speak"
    assert "no boxes to compare" in verdict(form, reference_boxes=0, matched=0, score_drift_mean=None).words


@pytest.mark.parametrize("form", FLOAT)
def test_a_float_form_need_not_be_fast(form):
    assert verdict(form, speed=speed(30.0)).kept
    assert verdict(form, baseline=None).kept
    assert "as fast as" not in verdict(form, baseline=None).words


@pytest.mark.parametrize("form", INT8)
def test_int8_must_be_faster(form):
    assert reason(form, speed=speed(14.1), baseline=speed(12.9), baseline_form=Form.FP16) == (
        "not faster: 14.1 ms against 12.9 ms of fp16 (0.91x, needs more than 1.00x)")
    assert reason(form, speed=speed(18.0)) == "not faster: 18 ms against 18 ms of fp32 (1.00x, needs more than 1.00x)"
    assert reason(form, speed=speed(18.001, 20)) == "not faster: 18.001 ms against 18 ms of fp32 (0.9999x, needs more than 1.0000x)"
    assert verdict(form, speed=speed(17.99)).kept
    assert reason(form, Tolerance(speedup=1.7), speed=speed(12.0), baseline_form=None) == (
        "not fast enough: 12 ms against 18 ms of the float engine (1.50x, needs 1.70x)")


@pytest.mark.parametrize("form", INT8)
def test_a_faster_median_does_not_hide_long_calls(form):
    assert reason(form, speed=speed(10.0, 27.01)) == "p99 too long: 27.01 ms > 27 ms (1.25 x that of fp32)"
    assert verdict(form, speed=speed(10.0, 26.9)).kept


@pytest.mark.parametrize("form", INT8)
def test_int8_without_a_comparison_of_speed_is_refused(form):
    for bad in (speed(runs=0), speed(0.0), speed(math.nan), speed(-1.0), speed(math.inf), speed(1.0, math.nan)):
        assert "its own was not measured" in reason(form, speed=bad)
        assert "that of fp32 was not measured" in reason(form, baseline=bad)
    assert "that of fp32 was not measured" in reason(form, baseline=None)


def test_a_speedup_below_one_cannot_be_asked_for():
    assert "needs more than 1.00x" in reason(tolerance=Tolerance(speedup=0.5), speed=speed(20.0))
    with pytest.raises(msgspec.ValidationError, match="speedup"):
        msgspec.convert({"speedup": 0.5}, Tolerance)
    with pytest.raises(msgspec.ValidationError, match="agremeent"):
        msgspec.convert({"agremeent": 0.5}, Tolerance)


def test_all_that_is_wrong_is_told():
    found = verdict(matched=90, extra=9, score_drift_mean=0.2, speed=speed(20.0, 100.0), frames_kind="synthetic")
    assert [reason.split()[0] for reason in found.reasons] == ["INT8", "agreement", "extra", "score", "not", "p99"]


def test_what_was_measured_survives_json():
    for difference, read_back in ((0.25, 0.25), (math.inf, None), (None, None)):
        before = measured(output_difference=difference, device_bytes=5)
        after = msgspec.json.decode(msgspec.json.encode(before), type=Measured)
        assert after.agreement.output_difference == read_back
        assert judge(Form.INT8_FP32, after, Tolerance()).kept == judge(Form.INT8_FP32, before, Tolerance()).kept
        assert after.baseline_form is Form.FP32
    card = verdict(extra=50)
    assert msgspec.json.decode(msgspec.json.encode(card), type=type(card)) == card


shares = st.floats(0, 0.2)
times = st.floats(0.5, 50)


@given(form=st.sampled_from(list(Form)), boxes=st.integers(0, 200), lost=st.integers(0, 8), extra=st.integers(0, 8), drift=shares,
       difference=shares, p50=times, p99=times, base=times, base99=times, real=st.booleans(), data=st.data())
def test_a_worse_figure_never_lets_a_refused_engine_pass(form, boxes, lost, extra, drift, difference, p50, p99, base, base99, real, data):
    now = {"reference_boxes": boxes, "matched": max(boxes - lost, 0), "extra": extra, "score_drift_mean": drift,
           "output_difference": difference, "speed": speed(p50, p99), "baseline": speed(base, base99),
           "frames_kind": "held-out" if real else "synthetic"}
    worse = data.draw(st.sampled_from([
        {"matched": max(now["matched"] - 1, 0)}, {"extra": extra + 1}, {"score_drift_mean": drift + 0.02}, {"score_drift_mean": None},
        {"score_drift_mean": math.nan}, {"output_difference": difference * 2 + 0.01}, {"output_difference": math.inf},
        {"speed": speed(p50 * 1.5, p99)}, {"speed": speed(p50, p99 * 1.5)}, {"speed": speed(runs=0)}, {"baseline": None},
        {"baseline": speed(base * 0.7, base99)}, {"baseline": speed(base, base99 * 0.7)}, {"frames_kind": "synthetic"}, {"frames": 0},
        {"batch": 4, "batch_difference": 0.5}, {"batch": 4}, {"landmark_pairs": 9}, {"landmark_pairs": 9, "landmark_error_mean": 0.2}]))
    if not verdict(form, **now).kept:
        assert not verdict(form, **now | worse).kept


@given(form=st.sampled_from(list(Form)), stricter=st.sampled_from([
    {"agreement": 0.999}, {"score_drift": 0.001}, {"speedup": 3.0}, {"output_difference": 1e-6}, {"least_boxes": 300}]),
    lost=st.integers(0, 5), drift=shares, p50=times)
def test_a_stricter_limit_never_lets_a_refused_int8_pass(form, stricter, lost, drift, p50):
    figures = {"matched": 100 - lost, "score_drift_mean": drift, "speed": speed(p50)}
    if form in FLOAT and "least_boxes" in stricter:
        return  # a float form is then judged by its outputs
    if not verdict(form, **figures).kept:
        assert not verdict(form, Tolerance(**stricter), **figures).kept
