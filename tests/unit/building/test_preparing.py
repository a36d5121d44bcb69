from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from agent.building import worker
from agent.building.prepare import Job, Outcome
from agent.building.preparing import prepare_model
from agent.building.recipe import InputTable
from agent.errors import ModelError, missing_extra
from tests.helpers import onnx_models as nets

TABLE = InputTable(size=(64, 64), colour="rgb", scale=1 / 255)


def work(model: onnx.ModelProto | bytes, folder: Path, *, size: tuple[int, int] = (64, 64), table: InputTable = TABLE
         ) -> tuple[Outcome, onnxruntime.InferenceSession]:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    target = folder / "prepared.onnx"
    outcome = prepare_model(Job(model=str(path), target=str(target), input=table, height=size[0], width=size[1]))
    onnx.checker.check_model(str(target))
    return outcome, onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("build", "shape"), [
    (nets.yolov8, ["batch", 6, 96]), (nets.yolov5, ["batch", 96, 7]), (nets.end2end, ["batch", 4, 6]),
    (nets.classifier, ["batch", 1000])])
def test_the_prepared_model_takes_frames_and_declares_whole_outputs(build, shape, tmp_path):
    outcome, session = work(build(), tmp_path, size=(64, 96))
    assert outcome.folded
    assert outcome.dynamic_batch
    assert outcome.max_difference < 1e-4
    assert [(v.name, v.type, v.shape) for v in session.get_inputs()] == [
        ("frames", "tensor(uint8)", ["batch", 64, 96, 3])]
    assert session.get_outputs()[0].shape == shape


def test_a_model_for_one_picture_stays_so(tmp_path):
    outcome, session = work(nets.fixed_batch(), tmp_path)
    assert not outcome.dynamic_batch
    assert session.get_inputs()[0].shape == [1, 64, 64, 3]
    assert session.get_outputs()[0].shape == [1, 6, 64]


def test_a_first_layer_that_is_no_convolution_is_said_and_measured(tmp_path):
    first = [helper.make_node("Sigmoid", ["image"], ["bent"])]
    outcome, _ = work(nets.conv_net(nets.weights(4, 3, 3, 3), first=first, data="bent"), tmp_path)
    assert not outcome.folded
    assert outcome.max_difference < 1e-4
    assert "Sigmoid" in outcome.note


def jumpy_net() -> onnx.ModelProto:
    """Outputs that rounding alone decides, as the order behind a sort does."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["map"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Mul", ["map", "much"], ["large"]),
        helper.make_node("Sin", ["large"], ["out"]),
    ]
    return nets.model(nodes, {"w": nets.weights(4, 3, 8, 8), "much": np.float32(1e6)}, ["out"])


def test_outputs_that_jump_by_rounding_do_not_undo_a_right_fold(tmp_path):
    outcome, _ = work(jumpy_net(), tmp_path)
    assert outcome.max_difference > 1e-4, "the net no longer shows the effect"
    assert outcome.folded


def test_a_wrong_fold_is_found_and_replaced_by_steps_before_the_model(tmp_path, monkeypatch):
    from agent.building import graph

    def forgets_the_factor(held, node, index, affine):
        right(held, node, index, (np.ones(3), *affine[1:]))

    right = graph._fold_into
    monkeypatch.setattr(graph, "_fold_into", forgets_the_factor)
    outcome, _ = work(nets.yolov8(), tmp_path)
    assert not outcome.folded
    assert outcome.max_difference < 1e-4


@pytest.mark.parametrize("extra", [[], [helper.make_node("Shape", ["image"], ["sizes"])]])
def test_what_is_wrong_even_unfolded_is_refused(extra, tmp_path):
    noisy = [helper.make_node("RandomNormalLike", ["image"], ["noise"]), helper.make_node("Add", ["image", "noise"], ["in"])]
    with pytest.raises(ModelError, match="once prepared, its outputs differ by") as caught:
        work(nets.conv_net(nets.weights(4, 3, 3, 3), first=[*noisy, *extra], data="in"), tmp_path)
    assert "random numbers" in caught.value.remedy
    assert not (tmp_path / "prepared.onnx").exists()


def test_outputs_that_jump_by_rounding_do_not_undo_a_right_input_that_is_not_folded(tmp_path):
    net = jumpy_net()
    net.graph.node[0].input[0] = "bent"
    net.graph.node.insert(0, helper.make_node("Sigmoid", ["image"], ["bent"]))
    net.graph.node.insert(0, helper.make_node("Shape", ["image"], ["sizes"]))
    net.graph.node.insert(1, helper.make_node("Cast", ["sizes"], ["unused"], to=onnx.TensorProto.FLOAT))
    outcome, _ = work(net, tmp_path)
    assert outcome.max_difference > 1e-4, "the net no longer shows the effect"
    assert not outcome.folded


def test_a_fixed_size_is_named_when_another_is_asked(tmp_path):
    assert work(nets.fixed_size(64), tmp_path)[0].folded
    with pytest.raises(ModelError, match="does not run at 96x96") as caught:
        work(nets.fixed_size(64), tmp_path, size=(96, 96))
    assert "[64, 64]" in caught.value.remedy


def whole() -> bytes:
    return nets.yolov8().SerializeToString()


@pytest.mark.parametrize(("content", "words"), [
    (b"", "the file is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "text file"),
    (whole()[:-200], "cut short"),
    (bytes(range(128, 256)) * 4, "no ONNX model"),
    (onnx.ModelProto(ir_version=8).SerializeToString(), "no ONNX graph"),
    (nets.unsupported_op().SerializeToString(), "Warp"),
    (nets.boxes_of_all_pictures().SerializeToString(), "first axis is not the batch"),
])
def test_what_is_no_usable_model_is_refused_and_leaves_nothing(content, words, tmp_path):
    with pytest.raises(ModelError, match=words) as caught:
        work(content, tmp_path)
    assert caught.value.remedy
    assert "model.onnx" in caught.value.what
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx"):
        prepare_model(Job(model=str(tmp_path / "gone.onnx"), target=str(tmp_path / "x"), input=TABLE, height=64, width=64))


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    import agent.building

    monkeypatch.setitem(__import__("sys").modules, "agent.building.preparing", None)
    monkeypatch.delattr(agent.building, "preparing", raising=False)
    job = Job(model=str(tmp_path / "m.onnx"), target=str(tmp_path / "x"), input=TABLE, height=64, width=64)
    with pytest.raises(ModelError) as caught:
        worker.work(job, lambda *_: None, lambda: False)
    assert caught.value.remedy == missing_extra("build")
