"""Head, stem, body and order, found from graphs small enough to see the answer."""

import random
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from agent.building import heads_of
from agent.errors import ModelError
from tests.helpers import onnx_models as nets

LAB = Path(__file__).resolve().parents[4] / "shared" / "lab"


def conv(name: str, source: str, target: str, weight: str = "w") -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [target], name=name)


def op(kind: str, sources: list[str], target: str, **settings) -> onnx.NodeProto:
    return helper.make_node(kind, sources, [target], name=f"{kind}-{target}", **settings)


def net(*nodes: onnx.NodeProto, outputs=("out",), **constants) -> onnx.ModelProto:
    return nets.model(nodes, {"w": nets.weights(3, 3, 1, 1), **constants}, outputs)


def test_the_last_convolution_of_a_chain_is_the_head():
    model = net(conv("a", "image", "x"), op("Relu", ["x"], "y"), conv("b", "y", "z"), op("Sigmoid", ["z"], "out"))
    assert heads_of.head_convs(model) == ("b",)


def test_every_output_has_its_own_head():
    model = net(conv("a", "image", "x"), conv("b", "x", "one"), conv("c", "x", "y"), op("Sigmoid", ["y"], "two"),
                outputs=("one", "two"))
    assert heads_of.head_convs(model) == ("b", "c")


def test_a_path_round_the_later_convolution_makes_a_head():
    model = net(conv("a", "image", "x"), conv("b", "x", "y"), op("Add", ["x", "y"], "out"))
    assert heads_of.head_convs(model) == ("a", "b")


def test_looking_at_a_shape_is_no_path():
    model = net(conv("a", "image", "x"), op("Shape", ["x"], "s"), conv("b", "x", "y"), op("Reshape", ["y", "s"], "out"))
    assert heads_of.head_convs(model) == ("b",)


@pytest.mark.parametrize(("weights", "head"), [
    (np.arange(8), ("box", "mean")),
    (np.arange(8) * -0.25, ("box", "mean")),  # a stride folded in
    (np.arange(8) + 1, ("mean",)),
    (np.zeros(8), ("mean",)),
    (np.arange(3), ("mean",)),  # too few to be told from learned ones
    (nets.weights(8), ("mean",)),
])
def test_the_convolution_that_takes_a_mean_is_no_layer(weights, head):
    model = net(conv("box", "image", "x"), op("Softmax", ["x"], "p", axis=1), conv("mean", "p", "d", "dfl"),
                op("Sub", ["d", "d"], "out"), dfl=weights.astype(np.float32).reshape(1, -1, 1, 1))
    assert heads_of.head_convs(model) == head


def test_a_branch_body_passes_on_what_it_reads_from_outside():
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["r"])], "body", [], [
        helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)])
    model = net(conv("a", "image", "x"), conv("b", "x", "y"),
                op("If", ["yes"], "z", then_branch=inner, else_branch=inner), op("Add", ["y", "z"], "out"),
                yes=np.array(True))
    assert heads_of.head_convs(model) == ("a", "b")


def test_nameless_nodes_get_names_that_depend_on_the_graph_alone():
    def nameless():
        return net(helper.make_node("Conv", ["image", "w"], ["x"]), conv("Conv_0", "x", "y"),
                   helper.make_node("Conv", ["y", "w"], ["out"]))

    one, other = nameless(), nameless()
    assert heads_of.head_convs(one) == heads_of.head_convs(other) == ("Conv_2",)
    assert [node.name for node in one.graph.node] == ["Conv_0_", "Conv_0", "Conv_2"]


def test_a_recipe_names_nodes_or_their_outputs():
    model = net(conv("stem", "image", "x"), conv("neck", "x", "y"), conv("head", "y", "out"))
    assert heads_of.resolve(model, ["neck", "out", "y"]) == ("neck", "head")
    assert heads_of.resolve(model, None) == ("head",)
    assert heads_of.resolve(model, []) == ()


def test_an_unknown_name_is_answered_with_near_ones():
    model = net(conv("/model.22/cv2.0/Conv", "image", "x"), op("Relu", ["x"], "out"))
    with pytest.raises(ModelError) as caught:
        heads_of.resolve(model, ["/model.22/cv3.0/Conv"])
    assert "'/model.22/cv3.0/Conv'" in caught.value.what
    assert "/model.22/cv2.0/Conv" in caught.value.remedy
    with pytest.raises(ModelError, match="Relu-out"):  # exists, but is no convolution
        heads_of.resolve(model, ["Relu-out"])


def test_the_stem_ends_at_the_first_convolution_with_many_channels():
    model = net(conv("a", "image", "x"), conv("depthwise", "x", "y", "thin"), conv("wide", "y", "z", "thick"),
                conv("b", "z", "out"), thin=nets.weights(3, 1, 3, 3), thick=nets.weights(3, 5, 1, 1))
    assert heads_of.stem(model) == ("a", "depthwise")


def test_the_tail_begins_behind_the_head_but_not_before_it():
    model = net(conv("body", "image", "x"), op("Relu", ["x"], "y"), conv("head", "y", "z"), op("Sigmoid", ["z"], "s"),
                op("Mul", ["s", "z"], "out"))
    assert heads_of.tail(model, ["head"]) == ("head", "Sigmoid-s", "Mul-out")
    assert heads_of.tail(model, ["body", "head"]) == ("body", "Relu-y", "head", "Sigmoid-s", "Mul-out")
    assert heads_of.tail(model, []) == ("Sigmoid-s", "Mul-out")


def test_what_follows_a_left_out_convolution_but_feeds_the_body_is_no_tail():
    model = net(conv("stem", "image", "x"), op("Relu", ["x"], "y"), conv("body", "y", "z"), conv("head", "z", "out"))
    assert heads_of.tail(model, ["stem", "head"]) == ("stem", "head")


def detector() -> onnx.ModelProto:
    path = LAB / "make_detector.py"
    if not path.exists():
        pytest.skip(f"needs {path}: the lab's scripts stand beside the repository, in ../shared/lab")
    return runpy.run_path(str(path))["build"](160, 8)


def test_the_head_of_a_yolo_shaped_detector():
    model = detector()
    makers = {name: node for node in model.graph.node for name in node.output}
    (mean,) = (node.name for node in model.graph.node if node.op_type == "Conv" and node.input[1].startswith("dfl"))
    ends = {makers[node.input[0]].name for node in model.graph.node
            if node.op_type == "Reshape" and makers[node.input[0]].op_type == "Conv"} - {mean}
    assert len(ends) == 4  # boxes and scores, at two strides
    assert set(heads_of.head_convs(model)) == ends | {mean}


@given(order=st.randoms(use_true_random=False))
def test_any_order_is_sorted_so_that_nothing_is_read_before_it_is_made(order: random.Random):
    inner = helper.make_graph([helper.make_node("Identity", ["y"], ["r"])], "body", [], [
        helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)])
    model = net(conv("a", "image", "x"), op("Relu", ["x"], "y"), conv("b", "image", "z"),
                op("If", ["yes"], "i", then_branch=inner, else_branch=inner), op("Add", ["i", "z"], "out"),
                yes=np.array(True))
    nodes = list(model.graph.node)
    order.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    heads_of.sort_nodes(model.graph)
    made = {"image", "w", "yes"}
    for node in model.graph.node:
        assert made.issuperset(node.input)
        made.update(node.output)
    assert sorted(node.name for node in nodes) == sorted(node.name for node in model.graph.node)
    seen = [node.name for node in model.graph.node]
    assert seen.index("Relu-y") < seen.index("If-i")  # the body reads it, the node does not name it


def test_a_sorted_graph_stays_as_it_is():
    model = net(conv("a", "image", "x"), conv("b", "image", "y"), op("Add", ["y", "x"], "out"))
    heads_of.sort_nodes(model.graph)
    assert [node.name for node in model.graph.node] == ["a", "b", "Add-out"]


def test_a_cycle_is_said():
    model = net(op("Add", ["image", "y"], "x"), op("Relu", ["x"], "y"), op("Neg", ["y"], "out"))
    with pytest.raises(ModelError, match="reads its own result"):
        heads_of.sort_nodes(model.graph)
