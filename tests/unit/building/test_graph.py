import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agent.building import graph
from agent.building.recipe import InputTable
from agent.errors import ModelError
from tests.helpers import onnx_models as nets


def wanted(**values) -> InputTable:
    return InputTable(**({"size": (32, 32), "colour": "rgb", "scale": 1.0} | values))


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def by_hand(frames: np.ndarray, table: InputTable) -> np.ndarray:
    """The recipe's formula, pixel by pixel, in float64."""
    planes = []
    for channel in range(3):
        plane = frames[..., 2 - channel if table.colour == "rgb" else channel].astype(np.float64)
        planes.append((plane * table.scale - table.mean[channel]) / table.std[channel])
    return np.stack(planes, 1).astype(np.float32)


def folded(model: onnx.ModelProto, table: InputTable, height: int, width: int, fold: bool = True):
    prepared = copy.deepcopy(model)
    graph.tidy(prepared)
    report = graph.fold_input(prepared, table, height, width, fold=fold)
    return prepared, report


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.shape == other.shape
    # float32 rounding of pixel values up to 255 is what may remain, relative to the range.
    assert np.abs(one - other).max() <= 2e-5 * max(np.abs(one).max(), 1e-3)


channel = st.floats(-200, 200).map(lambda x: round(x, 3))
divisor = st.floats(0.1, 80).map(lambda x: round(x, 3))


@settings(max_examples=60, deadline=None)
@given(
    colour=st.sampled_from(["rgb", "bgr"]),
    scale=st.sampled_from([1.0, 1 / 255, 2 / 255, -0.5]),
    mean=st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(channel, channel, channel)),
    std=st.tuples(divisor, divisor, divisor),
    kernel=st.sampled_from([1, 2, 3, 5]),
    pad=st.integers(0, 2),
    stride=st.integers(1, 3),
    has_bias=st.booleans(),
    fold=st.booleans(),
    size=st.tuples(st.integers(6, 17), st.integers(6, 17)),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_folded_model_equals_the_formula(colour, scale, mean, std, kernel, pad, stride, has_bias, fold, size, batch, seed):
    table = wanted(colour=colour, scale=scale, mean=mean, std=std)
    model = nets.conv_net(nets.weights(4, 3, kernel, kernel, seed=seed), nets.weights(4, seed=seed) if has_bias else None,
                          pads=[pad] * 4, strides=[stride] * 2)
    frames = np.random.default_rng(seed).integers(0, 256, (batch, *size, 3), np.uint8)
    expected = run(model, by_hand(frames, table))
    prepared, report = folded(model, table, *size, fold=fold)
    assert report.folded is fold
    same(expected, run(prepared, frames))


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_folding_costs_a_cast_and_a_transpose_only():
    model = nets.conv_net(nets.weights(4, 3, 3, 3), pads=[1] * 4)
    prepared, report = folded(model, wanted(scale=1 / 255, std=(0.2, 0.3, 0.4)), 32, 32)
    assert ops(prepared) == ["Cast", "Transpose", "Conv"]
    assert report.folded


@pytest.mark.parametrize(("settings_", "expected"), [
    ({"pads": [0] * 4}, ["Cast", "Transpose", "Conv"]),
    ({"auto_pad": "VALID"}, ["Cast", "Transpose", "Conv"]),
    ({"pads": [0, 0, 1, 1]}, ["Cast", "Sub", "Transpose", "Conv"]),
    ({"auto_pad": "SAME_UPPER"}, ["Cast", "Sub", "Transpose", "Conv"]),
])
def test_a_mean_goes_into_the_bias_only_without_padding(settings_, expected):
    table = wanted(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model = nets.conv_net(nets.weights(4, 3, 3, 3), **settings_)
    frames = np.random.default_rng(1).integers(0, 256, (1, 9, 9, 3), np.uint8)
    prepared, _ = folded(model, table, 9, 9)
    assert ops(prepared) == expected
    same(run(model, by_hand(frames, table)), run(prepared, frames))


def test_what_does_not_start_with_a_convolution_gets_its_steps_before_it():
    first = [helper.make_node("Sigmoid", ["image"], ["bent"])]
    model = nets.conv_net(nets.weights(4, 3, 3, 3), first=first, data="bent")
    table = wanted(scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    frames = np.random.default_rng(1).integers(0, 256, (2, 8, 10, 3), np.uint8)
    prepared, report = folded(model, table, 8, 10)
    assert ops(prepared) == ["Cast", "Gather", "Sub", "Mul", "Transpose", "Sigmoid", "Conv"]
    assert not report.folded
    assert "Sigmoid" in report.note
    same(run(model, by_hand(frames, table)), run(prepared, frames))


def test_weights_shared_by_two_convolutions_are_changed_for_the_first_layer_only():
    nodes = [helper.make_node("Conv", ["image", "w"], ["one"], pads=[1] * 4),
             helper.make_node("Conv", ["one", "w"], ["two"], pads=[1] * 4)]
    model = nets.model(nodes, {"w": nets.weights(3, 3, 3, 3)}, ["two"])
    table = wanted(scale=1 / 255)
    frames = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    prepared, report = folded(model, table, 8, 8)
    assert report.folded
    same(run(model, by_hand(frames, table)), run(prepared, frames))


def test_two_first_layers_are_both_folded():
    nodes = [helper.make_node("Conv", ["image", "w"], ["one"], pads=[1] * 4),
             helper.make_node("Conv", ["image", "v"], ["two"], pads=[1] * 4),
             helper.make_node("Add", ["one", "two"], ["out"])]
    model = nets.model(nodes, {"w": nets.weights(3, 3, 3, 3), "v": nets.weights(3, 3, 3, 3, seed=7)}, ["out"])
    table = wanted(scale=1 / 255, mean=(0.1, 0.2, 0.3))
    frames = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    prepared, report = folded(model, table, 8, 8)
    assert report.folded
    assert len(report.first_layers) == 2
    same(run(model, by_hand(frames, table)), run(prepared, frames))


def test_an_input_already_called_frames_is_no_obstacle():
    model = nets.conv_net(nets.weights(4, 3, 3, 3))
    model.graph.input[0].name = model.graph.node[0].input[0] = "frames"
    prepared, _ = folded(model, wanted(), 8, 8)
    assert [value.name for value in prepared.graph.input] == ["frames"]


def test_a_tensor_that_takes_our_name_is_refused():
    model = nets.conv_net(nets.weights(4, 3, 3, 3))
    model.graph.node[0].output[0] = model.graph.output[0].name = "frames"
    with pytest.raises(ModelError, match="'frames' is needed"):
        folded(model, wanted(), 8, 8)


def test_tidying_removes_listed_and_dead_constants_and_stale_shapes():
    model = nets.conv_net(nets.weights(4, 3, 3, 3), constants={"dead": nets.weights(9)})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    model.graph.input.append(helper.make_tensor_value_info("dead", TensorProto.FLOAT, [9]))
    model.graph.value_info.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [10, 1, 8, 8]))
    model.ir_version = 3
    graph.tidy(model)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert not model.graph.value_info
    assert model.ir_version >= 4


def test_a_constant_used_only_inside_a_branch_survives():
    def branch(name: str, scale: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Mul", ["image", scale], [name])], name, [], [out])

    nodes = [helper.make_node("If", ["yes"], ["out"], then_branch=branch("a", "k"), else_branch=branch("b", "l"))]
    constants = {"yes": np.array(True), "k": np.float32([2]), "l": np.float32([3]), "dead": np.float32([4])}
    model = nets.model(nodes, constants, ["out"])
    table = wanted(colour="bgr", scale=0.5)
    frames = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    prepared, report = folded(model, table, 8, 8)
    assert "dead" not in {tensor.name for tensor in prepared.graph.initializer}
    assert not report.folded
    same(run(model, by_hand(frames, table)), run(prepared, frames))


def look_at(model: onnx.ModelProto) -> None:
    graph.tidy(model)
    graph.image_input(model)


@pytest.mark.parametrize(("build", "words"), [
    (lambda: nets.model([], {}, []), "no ONNX graph"),
    (lambda: nets.model([helper.make_node("Relu", ["image"], ["out"])], {}, ["out"], opset=6), "opset 6 is too old"),
    (lambda: nets.model([helper.make_node("Relu", ["image"], ["out"])], {}, ["out"], shape=["n", 224, 224, 3]), "not FLOAT"),
    (lambda: nets.model([helper.make_node("Relu", ["image"], ["out"])], {}, ["out"], shape=["n", 1, 224, 224]), "not FLOAT"),
    (lambda: nets.model([helper.make_node("Relu", ["image"], ["out"])], {}, ["out"], shape=["n", 768]), "not FLOAT"),
    (lambda: nets.model([helper.make_node("Relu", ["image"], ["out"])], {}, ["out"], kind=TensorProto.FLOAT16), "FLOAT16"),
    (lambda: nets.model([helper.make_node("Add", ["image", "second"], ["out"])], {}, ["out"], more_inputs=[
        helper.make_tensor_value_info("second", TensorProto.FLOAT, [1])]), r"2 inputs \(image, second\)"),
])
def test_what_is_no_picture_model_is_refused_with_a_remedy(build, words):
    model = build()
    with pytest.raises(ModelError, match=words) as caught:
        look_at(model)
    assert "export" in caught.value.remedy


def test_an_unused_second_input_is_dropped():
    model = nets.model([helper.make_node("Relu", ["image"], ["out"])], {}, ["out"], more_inputs=[
        helper.make_tensor_value_info("training", TensorProto.BOOL, [])])
    graph.tidy(model)
    assert graph.image_input(model) == ("image", None)
