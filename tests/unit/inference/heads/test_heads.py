"""Every head equals its slow reference on whatever a model may give, and draws the right lines between layouts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.errors import ModelError
from agent.inference.heads import make_head
from agent.records import Placement
from tests.helpers.reference_heads import assert_same, detect
from tests.unit.inference.heads.shapes import config, spec

WILD = [np.nan, np.inf, -np.inf, 3e38]
# Quarters up to 400 are exact in float16 and float32, and few enough values that boxes meet, touch and coincide.
PLACES = [*(quarter / 4 for quarter in range(-40, 400, 25)), 30.0, 32.0, 32.0]
SIZES = [8.0, 16.0, 16.5, 20.0, 20.0, 64.0, 300.0, 0.0, -8.0]
SCORES = [0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 0.9, 1.0, 1.0039, -3.0]
CLASSES = [0.0, 0.0, 0.99, 1.0, 2.0, 3.0, 4.0, -1.0]
LOGS = [0.0, 0.5, 1.0, 1.5, 3.0, 3.5, -200.0, 100.0]
SHARES = [0.0, 0.25, -0.25, 0.5, 1.0, 1.5]
# No scale times a whole number of pixels is a quarter: the reference's doubles and the head's floats clip alike.
PLACEMENTS = st.builds(
    Placement, scale=st.sampled_from([0.3711, 0.5003, 1.0009, 1.7301]), left=st.integers(0, 90),
    top=st.integers(0, 90), width=st.integers(1, 700), height=st.integers(1, 700))
LIMITS = st.fixed_dictionaries({}, optional={
    "max_candidates": st.integers(1, 6), "max_detections": st.integers(1, 4),
    "score": st.sampled_from([0.05, 0.25, 0.3, 0.5, 0.95]), "iou": st.sampled_from([0.0137, 0.2971, 0.4371, 0.8613])})


@st.composite
def blocks(draw, shape, values):
    """An array of ``values``, in one of three with wild ones among them."""
    elements = st.sampled_from(values + WILD * draw(st.sampled_from([0, 0, 1])))
    # A fill makes long runs of equal values: no candidates, all candidates, identical boxes.
    return draw(hnp.arrays(np.float32, shape, elements=elements, fill=elements))


def _beside(draw, shape, *columns):
    """Blocks of so many columns each, side by side."""
    return np.concatenate([draw(blocks((*shape, count), values)) for count, values in columns], axis=-1)


@st.composite
def cases(draw, kind):
    shape = batch, _ = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    classes, landmarks = draw(st.integers(1, 4)), 0
    if kind == "yolov5":
        landmarks = draw(st.sampled_from([0, 0, 5]))
        outputs = [_beside(draw, shape, (2, PLACES), (2, SIZES), (1, SCORES), (2 * landmarks, PLACES), (classes, SCORES))]
    elif kind == "yolov8":
        rows = _beside(draw, shape, (2, PLACES), (2, SIZES), (classes, SCORES))
        outputs = [np.ascontiguousarray(rows.transpose(0, 2, 1))]
    elif kind == "end2end":
        outputs = [_beside(draw, shape, (2, PLACES), (2, SIZES), (1, SCORES), (1, CLASSES))]
        with np.errstate(all="ignore"):
            outputs[0][..., 2:4] += outputs[0][..., :2]
    else:
        classes, landmarks, size = 1, draw(st.sampled_from([0, 5])), draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        outputs = [draw(blocks((batch, channels, *size), values))
                   for channels, values in ((1, SCORES), (2, LOGS), (2, SHARES), (10, SHARES))]
    with np.errstate(over="ignore"):
        dtype = draw(st.sampled_from([np.float32, np.float16]))
        outputs = [output.astype(dtype) for output in outputs]
    head_config = config(kind=kind, classes=classes, landmarks=landmarks, **draw(LIMITS))
    return head_config, outputs, draw(st.lists(PLACEMENTS, min_size=batch, max_size=batch))


@pytest.mark.parametrize("kind", ["yolov5", "yolov8", "end2end", "centerface"])
def test_head_equals_reference(kind):
    @settings(max_examples=150, deadline=None)
    @given(cases(kind))
    def check(case):
        head_config, outputs, placements = case
        head = make_head(head_config, spec(*(output.shape for output in outputs)))
        before = [output.copy() for output in outputs]
        found = head(outputs, placements)
        assert len(found) == len(placements)
        for number, (one, placement) in enumerate(zip(found, placements, strict=True)):
            expected = detect(kind, [output[number] for output in outputs], head_config, placement)
            assert_same(one, expected, head_config.landmarks)
            assert (np.diff(one.scores) <= 0).all()
        for output, copy in zip(outputs, before, strict=True):
            np.testing.assert_array_equal(output, copy)  # the caller's arrays are not written to

    check()


CENTER = [(-1, channels, 160, 160) for channels in (1, 2, 2, 10)]


@pytest.mark.parametrize(("kind", "shapes", "changes"), [
    ("yolov8", [(-1, 84, 8400)], {}),
    ("yolov8", [(1, 84, -1)], {}),
    ("yolov8", [(-1, 5, 8400)], {"classes": 1}),
    ("yolov8", [(-1, 6, 8400)], {"classes": 2}),
    ("yolov5", [(-1, 25200, 85)], {}),
    ("yolov5", [(-1, -1, 85)], {}),
    ("yolov5", [(1, 6000, 85)], {}),
    ("yolov5", [(-1, 25200, 16)], {"classes": 11}),
    ("yolov5", [(-1, 25200, 16)], {"classes": 1, "landmarks": 5}),
    ("yolov5", [(-1, 25200, 6)], {"classes": 1}),
    ("end2end", [(-1, 300, 6)], {}),
    ("end2end", [(1, 100, 6)], {"classes": 2}),
    ("centerface", CENTER, {"classes": 1, "landmarks": 5}),
    ("centerface", CENTER, {"classes": 1}),
    ("centerface", [(-1, c, -1, -1) for c in (1, 2, 2, 10)], {"classes": 1, "landmarks": 5}),
    ("centerface", [(-1, c, 160, 160) for c in (10, 2, 1, 2)], {"classes": 1, "landmarks": 5}),
])
def test_recognised(kind, shapes, changes):
    assert make_head(config(**changes), spec(*shapes)).kind == kind


@pytest.mark.parametrize(("shapes", "changes", "words"), [
    ([(-1, 1000)], {}, "which no head fits"),
    ([(-1, 3, 224, 224)], {}, "which no head fits"),
    ([(-1, 116, 8400), (-1, 32, 160, 160)], {}, "out1 [?, 32, 160, 160]"),
    ([(-1, 84, 8400)], {"classes": 79}, "one output [batch, 83, boxes]"),
    ([(-1, 84, 8400)], {"landmarks": 5}, "5 landmarks"),
    ([(-1, 8400, 84)], {}, "transposed yolov8"),
    ([(-1, 8400, 6)], {"classes": 2}, "transposed yolov8"),
    ([(-1, 6000, 6)], {}, "which no head fits"),
    ([(-1, 525, 6)], {"classes": 2}, "which no head fits"),
    ([(-1, -1, 6)], {}, "which no head fits"),
    ([(-1, 300, 6)], {"landmarks": 5}, "which no head fits"),
    ([(-1, 300, 6)], {"classes": 1}, "fits the heads yolov5 and end2end"),
    ([(-1, -1, -1)], {}, "which no head fits"),
    ([], {}, "which no head fits"),
    (CENTER, {"classes": 2}, "which no head fits"),
    (CENTER, {"classes": 1, "landmarks": 68}, "which no head fits"),
    (CENTER[:3], {"classes": 1}, "which no head fits"),
    ([*CENTER[:3], (-1, 10, 80, 80)], {"classes": 1}, "which no head fits"),
    ([(-1, 84, 8400)], {"kind": "yolov9"}, "there is no head 'yolov9'"),
    ([(-1, 84, 8400)], {"kind": "yolov5"}, "head yolov5 expects one output [batch, boxes, 85]"),
    ([(-1, 25200, 85)], {"kind": "yolov8"}, "out0 [?, 25200, 85]"),
    ([(-1, 25200, 85)], {"kind": "end2end"}, "head end2end expects"),
    ([(-1, 84, 8400)], {"kind": "centerface", "classes": 1}, "head centerface expects four outputs"),
    ([(-1, 1000)], {"kind": "yolov8"}, "out0 [?, 1000]"),
])
def test_refused(shapes, changes, words):
    small = {"height": 160, "width": 160} if (-1, 525, 6) in shapes else {}
    with pytest.raises(ModelError) as caught:
        make_head(config(**changes), spec(*shapes, **small))
    assert words in caught.value.what
    assert "recipe" in caught.value.remedy


@pytest.mark.parametrize(("kind", "shape", "changes"), [
    ("end2end", (-1, -1, 6), {}),
    ("end2end", (-1, 300, 6), {"classes": 1}),
    ("yolov5", (-1, 300, 6), {"classes": 1}),
    ("yolov8", (-1, -1, -1), {}),
])
def test_a_name_settles_what_shapes_leave_open(kind, shape, changes):
    assert make_head(config(kind=kind, **changes), spec(shape)).kind == kind


WHOLE = Placement(scale=1.0, left=0, top=0, width=640, height=640)


def test_outputs_of_other_shapes_than_promised_are_an_error():
    head = make_head(config(kind="yolov8"), spec((-1, -1, -1)))
    with pytest.raises(ModelError, match=r"gave outputs \[1, 90, 7\]; its head yolov8 expects"):
        head([np.zeros((1, 90, 7), np.float32)], [WHOLE])
    with pytest.raises(ValueError, match="2 placements"):
        head([np.zeros((1, 84, 7), np.float32)], [WHOLE, WHOLE])


def test_centerface_tells_size_from_offset_by_the_models_order():
    heat, size, offset, points = (np.zeros((1, channels, 8, 8), np.float32) for channels in (1, 2, 2, 10))
    heat[0, 0, 3, 5] = 0.9
    size[0, :, 3, 5] = np.log([4, 2])  # 16 high, 8 wide
    offset[0, :, 3, 5] = [0.5, 0.25]  # centre y = 4 * (3 + .5 + .5) = 16, x = 4 * (5 + .25 + .5) = 23
    points[0, 2:4, 3, 5] = [0.5, 0.25]  # the second point: half way down, a quarter across
    arrays = [points, size, heat, offset]
    head = make_head(config(classes=1, landmarks=5), spec(*(array.shape for array in arrays)))
    (found,) = head(arrays, [WHOLE])
    np.testing.assert_allclose(found.xyxy, [[19, 8, 27, 24]], atol=1e-4)
    np.testing.assert_allclose(found.landmarks[0, 1], [21, 16], atol=1e-4)


def test_letterbox_is_undone_and_what_lies_in_the_bands_is_dropped():
    output = np.zeros((1, 5, 3), np.float32)
    output[0, :, 0] = [320, 320, 100, 50, 0.9]
    output[0, :, 1] = [320, 70, 100, 40, 0.8]  # in the upper band
    output[0, :, 2] = [10, 320, 40, 20, 0.7]  # over the left edge
    placement = Placement(scale=0.5, left=0, top=140, width=1280, height=720)
    (found,) = make_head(config(classes=1), spec((-1, 5, 3)))([output], [placement])
    np.testing.assert_allclose(found.xyxy, [[540, 310, 740, 410], [0, 340, 60, 380]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.7])


def test_yolov5_objectness_below_the_threshold_is_no_box_whatever_the_class_says():
    output = np.array([[[50, 50, 20, 20, -3, -3], [50, 50, 20, 20, 0.2, 1.5], [90, 90, 20, 20, 0.5, 0.75]]], np.float32)
    (found,) = make_head(config(kind="yolov5", classes=1), spec((-1, 3, 6)))([output], [WHOLE])
    assert found.scores.tolist() == [0.375]
