import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.building.agreement import agree, output_difference
from agent.building.forms import Form
from agent.building.gate import Agreement, Measured, Speed, Tolerance, judge
from agent.records import Detections

T, DRIFT = 0.5, 0.05


def boxes(*rows) -> Detections:
    """Rows are (left, top, right, bottom, score, class)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(xyxy=table[:, :4], scores=table[:, 4], class_ids=table[:, 5].astype(np.int32))


def compared(reference, found) -> Agreement:
    as_boxes = [frames if isinstance(frames, list) else [frames] for frames in (reference, found)]
    return agree(*as_boxes, threshold=T, score_drift=DRIFT, output_difference=0.0)


def counts(reference, found) -> tuple[int, int, int, int]:
    result = compared(reference, found)
    return result.reference_boxes, result.matched, result.extra, result.class_changed


A = (0, 0, 100, 100, 0.9, 0)
B = (200, 0, 300, 100, 0.7, 1)


def moved(box, by: float = 0, score: float | None = None, kind: int | None = None):
    left, top, right, bottom, old, was = box
    return left + by, top, right + by, bottom, old if score is None else score, was if kind is None else kind


def test_figures_of_matched_pairs():
    result = agree([boxes(A, B)], [boxes(moved(A, 10, 0.8), moved(B, 0, 0.71))], threshold=T, score_drift=DRIFT, output_difference=0.25)
    assert (result.frames, result.reference_boxes, result.matched, result.extra, result.class_changed) == (1, 2, 2, 0, 0)
    assert result.mean_iou == pytest.approx((90 / 110 + 1) / 2)
    assert result.score_drift_mean == pytest.approx(0.055)
    assert result.score_drift_max == pytest.approx(0.1)
    assert (result.output_difference, result.share, result.extra_share) == (0.25, 1.0, 0.0)


def test_where_the_reference_has_no_boxes_there_is_nothing_to_compare():
    result = compared([boxes(), boxes()], [boxes(), boxes(A)])
    assert (result.frames, result.reference_boxes, result.extra) == (2, 0, 1)
    assert (result.share, result.extra_share, result.mean_iou, result.score_drift_mean, result.score_drift_max) == (None,) * 5


def test_a_box_is_lost_without_enough_overlap():
    assert counts(boxes(A), boxes(moved(A, 33))) == (1, 1, 0, 0)  # 67 / 133
    assert counts(boxes(A), boxes(moved(A, 34))) == (1, 0, 1, 0)


def test_a_box_that_flickers_at_the_threshold_is_neither_lost_nor_extra():
    assert counts(boxes(moved(A, score=0.51)), boxes(moved(A, score=0.46))) == (1, 1, 0, 0)
    assert counts(boxes(moved(A, score=0.46)), boxes(moved(A, score=0.56))) == (0, 0, 0, 0)
    assert counts(boxes(), boxes(moved(A, score=0.54))) == (0, 0, 0, 0)


def test_beyond_the_drift_it_is_lost_or_extra_whatever_the_caller_decoded():
    assert counts(boxes(moved(A, score=0.51)), boxes(moved(A, score=0.44))) == (1, 0, 0, 0)
    assert counts(boxes(moved(A, score=0.44)), boxes(moved(A, score=0.56))) == (0, 0, 1, 0)
    assert counts(boxes(), boxes(moved(A, score=0.56))) == (0, 0, 1, 0)


def test_another_class_is_counted_apart_and_once():
    assert counts(boxes(A, B), boxes(A, moved(B, kind=3))) == (2, 1, 0, 1)
    assert counts(boxes(B), boxes(moved(B, kind=3), moved(B, kind=4))) == (1, 0, 1, 1)
    assert counts(boxes(moved(B, score=0.46)), boxes(moved(B, kind=3))) == (0, 0, 1, 0), "no strong box changed its class"


def test_matching_is_one_to_one():
    assert counts(boxes(A), boxes(A, moved(A, 5, 0.8))) == (1, 1, 1, 0)
    assert counts(boxes(A, moved(A, 5, 0.8)), boxes(A)) == (2, 1, 0, 0)


def test_the_best_overlap_goes_first():
    result = compared(boxes(A, moved(A, 20, 0.6)), boxes(moved(A, 21, 0.6), moved(A, 1, 0.9)))
    assert result.matched == 2
    assert result.mean_iou == pytest.approx(99 / 101)


def test_of_two_that_overlap_alike_the_stronger_is_taken_whatever_the_order():
    for found in ((moved(A, 10, 0.6), moved(A, -10, 0.8)), (moved(A, -10, 0.8), moved(A, 10, 0.6))):
        assert compared(boxes(A), boxes(*found)).score_drift_max == pytest.approx(0.1)


def test_a_weak_box_of_the_reference_takes_nothing_from_a_strong_one():
    assert counts(boxes(A, moved(A, 10, 0.46)), boxes(moved(A, 10))) == (1, 1, 0, 0)


def test_frames_are_not_mixed():
    assert counts([boxes(A), boxes()], [boxes(), boxes(A)]) == (1, 0, 1, 0)
    with pytest.raises(ValueError):
        compared([boxes(A), boxes()], [boxes(A)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_boxes_that_are_no_numbers_match_nothing(bad):
    assert counts(boxes(A), boxes((bad, 0, 100, 100, 0.9, 0))) == (1, 0, 1, 0)
    assert counts(boxes(A), boxes((0, 0, bad, bad, 0.9, 0))) == (1, 0, 1, 0)
    assert counts(boxes(A), boxes(moved(A, score=math.nan))) == (1, 0, 0, 0)


def test_boxes_without_area_match_nothing():
    assert counts(boxes((5, 5, 5, 5, 0.9, 0)), boxes((5, 5, 5, 5, 0.9, 0))) == (1, 0, 1, 0)
    assert counts(boxes((9, 9, 5, 5, 0.9, 0)), boxes((9, 9, 5, 5, 0.9, 0))) == (1, 0, 1, 0)


def with_landmarks(found: Detections, points) -> Detections:
    """Landmarks (n, k, 2) on boxes."""
    return Detections(xyxy=found.xyxy, scores=found.scores, class_ids=found.class_ids, landmarks=np.array(points, np.float32))


def test_landmarks_are_compared_by_the_diagonal_of_the_references_box():
    plain = boxes((0, 0, 30, 40, 0.9, 0), (200, 0, 260, 80, 0.7, 1))
    ours = with_landmarks(plain, [[[10, 10], [20, 20]], [[210, 10], [220, 20]]])
    theirs = with_landmarks(plain, [[[13, 14], [20, 20]], [[210, 10], [220, 20]]])
    result = compared(ours, theirs)
    assert result.landmark_pairs == 2
    assert result.landmark_error_mean == pytest.approx((5 / 2 / 50 + 0) / 2)
    swapped = Detections(xyxy=theirs.xyxy[::-1], scores=theirs.scores[::-1], class_ids=theirs.class_ids[::-1], landmarks=theirs.landmarks[::-1])
    assert compared(ours, swapped) == result, "landmarks stay with their boxes"
    assert compared(with_landmarks(boxes((0, 0, 60, 80, 0.9, 0)), [[[0, 0]]]),
                    with_landmarks(boxes((0, 0, 60, 60, 0.9, 0)), [[[6, 8]]])).landmark_error_mean == pytest.approx(0.1)


def test_landmarks_of_boxes_that_match_nothing_do_not_count():
    ours, theirs = with_landmarks(boxes(A), [[[1, 1]]]), with_landmarks(boxes(moved(A, 60)), [[[90, 90]]])
    result = compared(ours, theirs)
    assert (result.landmark_pairs, result.landmark_error_mean) == (0, None)


def test_missing_landmarks_are_infinitely_far():
    ours = with_landmarks(boxes(A), [[[1, 1], [2, 2]]])
    for theirs in (boxes(A), with_landmarks(boxes(A), [[[1, 1]]]), with_landmarks(boxes(A), np.zeros((1, 0, 2)))):
        result = compared(ours, theirs)
        assert (result.landmark_pairs, result.landmark_error_mean) == (1, math.inf)
    assert not math.isfinite(compared(ours, with_landmarks(boxes(A), [[[1, 1], [math.nan, 2]]])).landmark_error_mean)
    assert compared(boxes(A), ours).landmark_pairs == compared(with_landmarks(boxes(A), np.zeros((1, 0, 2))), boxes(A)).landmark_pairs == 0


def test_the_figures_of_a_batch_are_passed_on():
    result = agree([boxes(A)], [boxes(A)], threshold=T, score_drift=DRIFT, output_difference=0.0, batch=4, batch_difference=0.25)
    assert (result.batch, result.batch_difference) == (4, 0.25)


coordinate = st.integers(0, 12).map(lambda v: 10.0 * v)
box = st.builds(lambda left, top, wide, high, score, kind: (left, top, left + wide, top + high, score, kind), coordinate, coordinate,
                st.sampled_from([20.0, 30.0, 40.0]), st.sampled_from([20.0, 30.0]), st.sampled_from([0.46, 0.5, 0.52, 0.55, 0.6, 0.9]),
                st.integers(0, 2))
many = st.lists(box, max_size=7)


@given(reference=many, found=many, data=st.data())
def test_the_order_of_boxes_does_not_matter(reference, found, data):
    shuffled = boxes(*data.draw(st.permutations(reference))), boxes(*data.draw(st.permutations(found)))
    assert compared(*shuffled) == compared(boxes(*reference), boxes(*found))


@given(reference=many, found=many)
def test_counts_add_up(reference, found):
    total, matched, extra, changed = counts(boxes(*reference), boxes(*found))
    assert total == sum(row[4] >= T for row in reference)
    assert matched + changed <= min(total, len(found))
    assert matched + changed + extra <= len(found)
    assert extra <= sum(row[4] >= np.float32(T + DRIFT) for row in found)


@given(frames=st.lists(many, min_size=1, max_size=4), form=st.sampled_from(list(Form)))
def test_a_perfect_copy_is_kept(frames, form):
    copy = [boxes(A), *(boxes(*rows) for rows in frames)]
    result = compared(copy, copy)
    assert result.matched == result.reference_boxes
    assert (result.extra, result.class_changed) == (0, 0)
    assert result.score_drift_max in {0, None}
    quick, slow = (Speed(runs=9, p50_ms=p50, p99_ms=p50, mean_ms=p50) for p50 in (1.0, 2.0))
    measured = Measured(agreement=result, speed=quick, baseline=slow, frames_kind="held-out")
    assert judge(form, measured, Tolerance(least_boxes=1)).kept


@given(reference=many, found=many.filter(bool), data=st.data())
def test_an_engine_that_loses_a_box_never_agrees_better(reference, found, data):
    whole = counts(boxes(*reference), boxes(*found))
    gone = data.draw(st.integers(0, len(found) - 1))
    fewer = counts(boxes(*reference), boxes(*found[:gone], *found[gone + 1:]))
    assert fewer[1] <= whole[1]


def test_equal_outputs_do_not_differ():
    outputs = [np.arange(12, dtype=np.float32).reshape(1, 3, 4), np.zeros((1, 2), np.float32), np.zeros((1, 0, 4), np.float32)]
    assert output_difference(outputs, [array.copy() for array in outputs]) == 0.0


def test_the_worst_output_counts_relative_to_its_range():
    pixels, scores = np.linspace(0, 640, 101), np.linspace(0.2, 0.7, 101)
    assert output_difference([pixels, scores], [pixels + 3.2, scores]) == pytest.approx(0.005)
    assert output_difference([pixels, scores], [pixels + 3.2, scores - 0.05]) == pytest.approx(0.1)
    assert output_difference([pixels.astype(np.float16)], [pixels.astype(np.float16)]) == 0.0


def test_one_value_in_ten_thousand_may_be_off_but_not_one_in_a_hundred():
    reference = np.linspace(0, 1, 10_000)
    found = reference.copy()
    found[::5000] += 1
    assert output_difference([reference], [found]) < 1e-9
    found[::100] += 1
    assert output_difference([reference], [found]) >= 0.99


def test_constant_outputs_are_measured_against_their_magnitude():
    assert output_difference([np.full(5, -4.0)], [np.full(5, -4.2)]) == pytest.approx(0.05)
    assert output_difference([np.zeros(5)], [np.full(5, 0.01)]) == pytest.approx(0.01)


def test_the_range_is_the_references():
    assert output_difference([np.array([0.0, 1.0])], [np.array([0.0, 100.0])]) > 90


@pytest.mark.parametrize(("reference", "found"), [
    ([], []), ([np.zeros(3)], []), ([np.zeros(3)], [np.zeros(4)]), ([np.zeros((1, 3))], [np.zeros(3)]), ([np.zeros((1, 3))], [np.zeros((2, 3))]),
    ([np.zeros(3)], [np.array([0, math.nan, 0])]), ([np.zeros(3)], [np.array([0, math.inf, 0])]), ([np.full(3, math.nan)], [np.full(3, math.nan)]),
    ([np.array([0, math.nan, 0])], [np.zeros(3)]),
    ([np.arange(3), np.zeros(3)], [np.arange(3), np.full(3, math.nan)]), ([np.arange(3), np.zeros(3)], [np.arange(3)])])
def test_outputs_that_cannot_be_compared_differ_infinitely(reference, found):
    assert output_difference(reference, found) == math.inf
