"""The best class chosen in the graph is the one that the head would choose on the host."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agent.building.tail import BEST, add_tail, takes_tail, with_tail
from agent.inference.engine import EngineSpec, TensorSpec
from agent.inference.heads import HeadConfig, make_head
from agent.records import Placement


def passing(classes=3, boxes=40, batch="batch", opset=17):
    """A model that gives back what it takes."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4 + classes, boxes]) for name in ("raw", "output0")]
    graph = helper.make_graph([helper.make_node("Identity", ["raw"], ["output0"])], "g", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, raw):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"raw": raw})


def head(classes, name, shape):
    spec = EngineSpec(height=64, width=64, max_batch=1, outputs=(TensorSpec(name=name, shape=shape, dtype="float32"),))
    return make_head(HeadConfig(kind="yolov8", classes=classes, score=0.3, iou=0.5), spec)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 19])
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 9))
@settings(max_examples=15, deadline=None)
def test_the_same_boxes_as_by_the_head_on_the_host(opset, seed, classes):
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0, 1, (2, 4 + classes, 40)).astype(np.float32)
    raw[:, :4] *= 64
    raw[:, 4:] = np.round(raw[:, 4:], 1)  # ties
    model = passing(classes, opset=opset)
    add_tail(model)
    onnx.checker.check_model(model, full_check=True)
    best = run(model, raw)
    assert best[0].shape == (2, 6, 40)
    places = [Placement(scale=1.0, left=0, top=0, width=64, height=64)] * 2
    expected = head(classes, "output0", (-1, 4 + classes, 40))([raw], places)
    found = head(classes, BEST, (-1, 6, 40))(best, places)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.xyxy, other.xyxy)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.class_ids, other.class_ids)


def test_what_is_no_class_or_no_number_is_no_box():
    rows = np.full((1, 6, 4), 10, np.float32)
    rows[0, 4] = [0.9, 0.9, np.nan, 0.9]
    rows[0, 5] = [7, np.nan, 0, 1]
    found = head(2, BEST, (-1, 6, 4))([rows], [Placement(scale=1.0, left=0, top=0, width=64, height=64)])[0]
    assert found.class_ids.tolist() == [1]


def test_two_classes_have_the_same_shape_and_are_told_apart_by_the_name():
    raw = np.zeros((1, 6, 5), np.float32)
    raw[0, :, 0] = [20, 20, 10, 10, 0.4, 0.8]
    place = [Placement(scale=1.0, left=0, top=0, width=64, height=64)]
    assert head(2, "output0", (-1, 6, 5))([raw], place)[0].scores.tolist() == pytest.approx([0.8])
    raw[0, 5, 0] = 1
    found = head(2, BEST, (-1, 6, 5))([raw], place)[0]
    assert (found.scores.tolist(), found.class_ids.tolist()) == (pytest.approx([0.4]), [1])


@pytest.mark.parametrize(("kind", "classes", "model", "fits"), [
    ("yolov8", 3, passing(3), True), (None, 3, passing(3), True), (None, 4, passing(3), False), ("yolov5", 3, passing(3), False),
    ("centerface", 3, passing(3), False), (None, 1, passing(1), False), (None, 3, passing(3, boxes=7), False)])
def test_only_the_layout_it_is_for(kind, classes, model, fits, tmp_path):
    assert takes_tail(model, kind, classes) == fits
    path = tmp_path / "p.onnx"
    onnx.save(model, str(path))
    assert (with_tail(path, tmp_path, kind, classes) == path) != fits
