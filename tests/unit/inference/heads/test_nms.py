"""Suppression in blocks equals the loop over all pairs, also across block borders; ranking is the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.inference.heads.candidates import Candidates, rank
from agent.inference.heads.nms import suppress
from tests.helpers.reference_heads import Box, suppressed


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 320), classes=st.integers(1, 3), spread=st.sampled_from([5, 60, 2000]),
       iou=st.sampled_from([0.0137, 0.2971, 0.4371, 0.8613]), seed=st.integers(0, 2**32 - 1))
def test_suppress_equals_the_loop(count, classes, spread, iou, seed):
    random = np.random.default_rng(seed)
    corner = random.integers(-spread, spread, (count, 2))
    boxes = np.concatenate([corner, corner + random.integers(1, 40, (count, 2))], axis=1).astype(np.float32)
    class_ids = random.integers(0, classes, count).astype(np.int32)
    loop = [Box(tuple(box), number, int(class_id))
            for number, (box, class_id) in enumerate(zip(boxes.tolist(), class_ids, strict=True))]
    assert suppress(boxes, class_ids, iou).tolist() == [box.score for box in suppressed(loop, iou)]


@pytest.mark.parametrize(("iou", "kept"), [(0.49, [0]), (0.5, [0, 1]), (1.0, [0, 1])])
def test_only_more_than_the_threshold_is_suppressed(iou, kept):
    boxes = np.array([[0, 0, 2, 1], [0, 0, 1, 1]], np.float32)  # overlap exactly one half
    assert suppress(boxes, np.zeros(2, np.int32), iou).tolist() == kept


def test_a_suppressed_box_suppresses_nothing():
    chain = np.array([[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]], np.float32)
    assert suppress(chain, np.zeros(3, np.int32), 0.3).tolist() == [0, 2]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_areas_beyond_float32_still_compare(size):
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.float32) * np.float32(size)
    assert suppress(boxes, np.zeros(2, np.int32), 0.5).tolist() == [0]


@given(scores=st.lists(st.sampled_from([0.25, 0.5, 0.75, 0.75, np.nan, np.inf]), max_size=40), limit=st.integers(1, 45))
def test_rank_takes_the_best_and_among_equals_the_first(scores, limit):
    count = len(scores)
    boxes = np.arange(count, dtype=np.float32)[:, None] + np.array([0, 0, 1, 1], np.float32)
    ranked = rank(Candidates(boxes=boxes, scores=np.array(scores, np.float32), class_ids=np.arange(count, dtype=np.int32)),
                  limit)
    expected = sorted((number for number in range(count) if np.isfinite(scores[number])),
                      key=lambda number: (-scores[number], number))[:limit]
    assert ranked.class_ids.tolist() == expected
    assert ranked.boxes[:, 0].tolist() == expected
