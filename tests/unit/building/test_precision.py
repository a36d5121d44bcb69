"""Quantising and casting small networks, run by ONNX Runtime on the CPU."""

import json
import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.building import precision, quantising
from agent.building.forms import Form
from agent.building.precision import QuantiseSettings, check_opset, quantise, to_fp16, write_forms
from agent.errors import ModelError
from tests.helpers import onnx_models as nets

SIDE = 32
QDQ = {"QuantizeLinear", "DequantizeLinear"}


def small(*, opset: int = 17, norm: bool = True, scale: float = 1 / 255, gain: float = 1.0, wide: int = 8,
          outputs=("boxes", "scores")) -> onnx.ModelProto:
    """A prepared detector in small: two convolutions with BatchNormalization, two heads, uint8 NHWC frames."""
    held = {"w0": nets.weights(wide, 3, 3, 3) * scale, "w1": nets.weights(8, wide, 3, 3, seed=1) * 0.2 * gain,
            "w2": nets.weights(4, 8, 1, 1, seed=2), "w3": nets.weights(2, 8, 1, 1, seed=3),
            "b1": nets.weights(8, seed=4), "hundred": np.float32(100)}
    rng = np.random.default_rng(5)
    nodes = [helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
             helper.make_node("Transpose", ["float"], ["image"], perm=[0, 3, 1, 2]),
             helper.make_node("Conv", ["image", "w0"], ["c0"], pads=[1] * 4, name="first")]
    if norm:
        held |= {"gamma": rng.uniform(0.5, 2, wide), "beta": rng.normal(size=wide), "mean": rng.normal(size=wide),
                 "var": rng.uniform(0.5, 2, wide)}
        nodes.append(helper.make_node("BatchNormalization", ["c0", "gamma", "beta", "mean", "var"], ["n0"]))
    else:
        nodes.append(helper.make_node("Identity", ["c0"], ["n0"]))
    nodes += [helper.make_node("Relu", ["n0"], ["r0"]),
              helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1] * 4, strides=[2, 2], name="second"),
              helper.make_node("Relu", ["c1"], ["r1"]),
              helper.make_node("Conv", ["r1", "w2"], ["c2"], name="box"),
              helper.make_node("Conv", ["r1", "w3"], ["c3"], name="score"),
              helper.make_node("Mul", ["c2", "hundred"], ["boxes"]), helper.make_node("Sigmoid", ["c3"], ["scores"])]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size, SIDE // 2, SIDE // 2])
         for name, size in (("boxes", 4), ("scores", 2)) if name in outputs],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in held.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def pictures(count: int = 6, seed: int = 0) -> np.ndarray:
    """Smooth pictures with noise, of different brightness."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [np.sin(x * a + y * b)[..., None] * 90 + 128 + rng.normal(0, 12, (SIDE, SIDE, 3))
             for a, b in rng.uniform(0, 0.6, (count, 2))]
    return np.clip(np.stack(waves), 0, 255).astype(np.uint8)


def run(path, batch: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": batch})


def off(reference, path, frames: np.ndarray) -> list[float]:
    """The largest difference of each output as a share of its range."""
    return [float(np.abs(a - b).max() / np.ptp(a)) for a, b in zip(run(reference, frames), run(path, frames), strict=True)]


def kinds(path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.fixture
def prepared(tmp_path):
    return nets.save(small(), tmp_path / "prepared.onnx")


@pytest.mark.parametrize("method", ["percentile", "minmax", "entropy"])
@pytest.mark.parametrize("flavour", ["tensorrt", "cpu"])
def test_the_body_is_quantised_and_agrees(prepared, tmp_path, method, flavour):
    seen = []
    done = quantise(prepared, tmp_path / "q.onnx", pictures(), method=method, percentile=99.99, exclude=None,
                    flavour=flavour, report=lambda *what: seen.append(what))
    assert max(off(prepared, tmp_path / "q.onnx", pictures(4, seed=9))) < (0.2 if method == "entropy" else 0.05)
    left = ("box", "score") if flavour == "tensorrt" else ("first", "box", "score")
    assert (done.convolutions, done.quantised, done.excluded) == (4, 4 - len(left), left)
    assert (done.frames, done.method, done.flavour) == (6, method, flavour)
    assert {phase for phase, _, _ in seen} == {"calibrate"}
    assert [count for _, count, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert {total for _, _, total in seen} == {6}


def test_the_form_for_tensorrt_is_what_its_parser_takes(prepared, tmp_path):
    quantise(prepared, tmp_path / "q.onnx", pictures())
    model = onnx.load(str(tmp_path / "q.onnx"))
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    quantised = [node for node in model.graph.node if node.op_type in QDQ]
    for node in quantised:
        point = held[node.input[2]]
        assert point.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(point).any()
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert len(node.input) < 3 or held[node.input[2]].data_type == TensorProto.FLOAT  # the bias stays float
            pairs = [made[name].op_type if name in made else None for name in node.input[:2]]
            assert pairs == (["DequantizeLinear"] * 2 if node.name in {"first", "second"} else [pairs[0], None])
    weights = made[made[next(n for n in model.graph.node if n.name == "first").input[1]].input[0]]
    assert held[weights.input[0]].data_type == TensorProto.FLOAT  # float weights and a pair
    assert numpy_helper.to_array(held[weights.input[1]]).shape == (8,)  # a scale a channel
    assert len(quantised) == 8  # nothing on what convolutions give, nothing on the heads
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    onnx.checker.check_model(model, full_check=True)


def test_nothing_behind_the_head_is_quantised_for_the_cpu(prepared, tmp_path):
    quantise(prepared, tmp_path / "q.onnx", pictures(), flavour="cpu")
    model = onnx.load(str(tmp_path / "q.onnx"))
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Sigmoid" or set(node.output) & {"boxes", "scores"}:
            assert "DequantizeLinear" not in {made.get(name) for name in node.input[node.op_type == "Conv":]}
            assert node.op_type not in QDQ


def test_batch_normalisation_is_folded_before(prepared, tmp_path):
    done = quantise(prepared, tmp_path / "q.onnx", pictures())
    assert "BatchNormalization" not in kinds(tmp_path / "q.onnx")
    assert done.note == "raised from opset 17 to 19"


@pytest.mark.parametrize(("opset", "written"), [(9, 19), (13, 19), (19, 19), (20, 20)])
def test_the_opset_is_raised_where_fp16_scales_need_it(tmp_path, opset, written):
    prepared = nets.save(small(opset=opset), tmp_path / "prepared.onnx")
    quantise(prepared, tmp_path / "q.onnx", pictures())
    assert quantising.opset_of(onnx.load(str(tmp_path / "q.onnx"))) == written
    assert max(off(prepared, tmp_path / "q.onnx", pictures(2, seed=3))) < 0.05


def test_a_recipe_chooses_what_stays_in_float(prepared, tmp_path):
    done = quantise(prepared, tmp_path / "q.onnx", pictures(), exclude=["second", "c2"])
    assert done.excluded == ("second", "box")
    assert done.quantised == 2
    with pytest.raises(ModelError, match="no convolution 'third'") as caught:
        quantise(prepared, tmp_path / "r.onnx", pictures(), exclude=["third"])
    assert "first" in caught.value.remedy


def test_the_frames_decide_the_ranges(prepared, tmp_path):
    quantise(prepared, tmp_path / "bright.onnx", pictures())
    quantise(prepared, tmp_path / "dark.onnx", pictures() // 8)
    frames = pictures(3, seed=7)
    assert max(off(prepared, tmp_path / "dark.onnx", frames)) > 3 * max(off(prepared, tmp_path / "bright.onnx", frames))


def test_the_percentile_cuts_outliers_off(prepared, tmp_path):
    quantise(prepared, tmp_path / "all.onnx", pictures(), percentile=99.99)
    quantise(prepared, tmp_path / "cut.onnx", pictures(), percentile=60.0)
    frames = pictures(3, seed=7)
    assert max(off(prepared, tmp_path / "cut.onnx", frames)) > 3 * max(off(prepared, tmp_path / "all.onnx", frames))


def test_scratch_files_vanish_and_a_refusal_leaves_no_target(prepared, tmp_path):
    folder = tmp_path / "forms"
    folder.mkdir()
    quantise(prepared, folder / "q.onnx", pictures())
    with pytest.raises(ModelError, match="cancelled"):
        quantise(prepared, folder / "r.onnx", pictures(), cancelled=iter([False, False, True]).__next__)
    with pytest.raises(ModelError, match="no calibration frames"):
        quantise(prepared, folder / "r.onnx", pictures()[:0])
    assert os.listdir(folder) == ["q.onnx"]


def test_cancelling_stops_between_two_frames(prepared, tmp_path):
    asked, seen = [], []
    with pytest.raises(ModelError, match="cancelled"):
        quantise(prepared, tmp_path / "q.onnx", pictures(), cancelled=lambda: asked.append(1) or len(asked) > 2,
                 report=lambda *what: seen.append(what[1]))
    assert seen == [1, 2]


def test_a_black_frame_first_does_not_make_millions_of_bins(prepared, tmp_path):
    frames = pictures()
    frames[0] = 0
    frames[0, 0, 0, 0] = 1
    reader = quantising._Frames("frames", frames, lambda *_: None, lambda: False)
    assert reader.get_next()["frames"].std() == max(frame.std() for frame in frames)
    quantise(prepared, tmp_path / "q.onnx", frames)
    assert max(off(prepared, tmp_path / "q.onnx", pictures(2, seed=3))) < 0.05


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_a_model_without_convolutions_or_with_strange_values_is_refused(tmp_path):
    bare = small()
    del bare.graph.node[2:]
    bare.graph.node.append(helper.make_node("Relu", ["image"], ["boxes"]))
    bare.graph.output[0].CopyFrom(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE]))
    del bare.graph.output[1:]
    with pytest.raises(ModelError, match="none of its 0 convolutions"):
        quantise(nets.save(bare, tmp_path / "bare.onnx"), tmp_path / "q.onnx", pictures())
    with pytest.raises(ModelError, match="cannot be quantised"):
        quantise(nets.save(small(gain=np.inf), tmp_path / "inf.onnx"), tmp_path / "q.onnx", pictures())
    (tmp_path / "text.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        quantise(tmp_path / "text.onnx", tmp_path / "q.onnx", pictures())


def test_fp16_keeps_inputs_and_outputs_and_agrees(prepared, tmp_path):
    to_fp16(prepared, tmp_path / "h.onnx")
    assert max(off(prepared, tmp_path / "h.onnx", pictures(3))) < 2e-3
    model = onnx.load(str(tmp_path / "h.onnx"))
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [
        TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT]
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    assert {t.data_type for t in model.graph.initializer if t.name in weights} == {TensorProto.FLOAT16}
    assert "BatchNormalization" not in kinds(tmp_path / "h.onnx")
    onnx.checker.check_model(model, full_check=True)  # sorted, and typed as it says


@pytest.mark.parametrize("casts", [False, True])
def test_both_scale_forms_run_and_differ_in_their_scales(prepared, tmp_path, casts):
    quantise(prepared, tmp_path / "q.onnx", pictures())
    to_fp16(tmp_path / "q.onnx", tmp_path / "h.onnx", casts=casts)
    assert max(off(prepared, tmp_path / "h.onnx", pictures(3, seed=5))) < 0.06
    model = onnx.load(str(tmp_path / "h.onnx"))
    scales = {node.input[1] for node in model.graph.node if node.op_type in QDQ}
    wanted = TensorProto.FLOAT if casts else TensorProto.FLOAT16
    assert {t.data_type for t in model.graph.initializer if t.name in scales} == {wanted}
    assert kinds(tmp_path / "h.onnx").count("Cast") > 8 if casts else kinds(tmp_path / "h.onnx").count("Cast") == 3
    onnx.checker.check_model(model, full_check=True)


def test_a_scale_too_small_for_fp16_is_refused_there_only(prepared, tmp_path):
    quantise(prepared, tmp_path / "q.onnx", pictures())
    model = onnx.load(str(tmp_path / "q.onnx"))
    name = next(node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), 3e-9), name))
    bad = nets.save(model, tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match="the scale 3e-09 of"):
        to_fp16(bad, tmp_path / "h.onnx")
    assert not (tmp_path / "h.onnx").exists()
    to_fp16(bad, tmp_path / "h.onnx", casts=True)


def test_dead_channels_get_scales_that_fp16_can_hold(tmp_path):
    model = small(norm=False)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    values = numpy_helper.to_array(weights).copy()
    values[2], values[3] = 0, values[3] * 1e-9
    weights.CopyFrom(numpy_helper.from_array(values, "w1"))
    prepared = nets.save(model, tmp_path / "prepared.onnx")
    quantise(prepared, tmp_path / "q.onnx", pictures())
    to_fp16(tmp_path / "q.onnx", tmp_path / "h.onnx")
    assert max(off(prepared, tmp_path / "h.onnx", pictures(2, seed=3))) < 0.06


def test_weights_beyond_fp16_are_refused_but_bounds_are_not(tmp_path):
    with pytest.raises(ModelError, match=r"'w1'.* beyond FP16"):
        to_fp16(nets.save(small(gain=1e6), tmp_path / "big.onnx"), tmp_path / "h.onnx")
    model = small(norm=False)
    model.graph.initializer.extend([numpy_helper.from_array(np.float32(0), "least"),
                                    numpy_helper.from_array(np.float32(3e38), "most")])
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Clip"
    relu.input.extend(["least", "most"])
    bounded = nets.save(model, tmp_path / "bounded.onnx")
    to_fp16(bounded, tmp_path / "h.onnx")
    assert max(off(bounded, tmp_path / "h.onnx", pictures(2))) < 2e-3


def test_resizing_keeps_its_factors(tmp_path):
    model = small(outputs=("scores",))
    for node in model.graph.node:
        if "scores" in node.output:
            node.output[0] = "s"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "factors"))
    model.graph.node.append(helper.make_node("Resize", ["s", "", "factors"], ["scores"], mode="nearest"))
    for axis in (2, 3):
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = SIDE
    prepared = nets.save(model, tmp_path / "prepared.onnx")
    to_fp16(prepared, tmp_path / "h.onnx")
    assert max(off(prepared, tmp_path / "h.onnx", pictures(2))) < 2e-3


def test_all_forms_from_one_calibration(prepared, tmp_path):
    folder, seen = tmp_path / "forms", []
    folder.mkdir()
    (folder / f"{quantising.SCRAPS}dead").mkdir()  # a killed child's
    (folder / f"{quantising.SCRAPS}dead" / "part.onnx").write_bytes(b"x")
    written = write_forms(prepared, folder, list(Form), pictures(), QuantiseSettings(),
                          report=lambda *what: seen.append(what))
    assert written == {form: folder / f"{form}.onnx" for form in Form}
    assert sorted(os.listdir(folder)) == sorted([*(f"{form}.onnx" for form in Form), "int8-fp32.json"])
    assert sum(phase == "calibrate" for phase, _, _ in seen) == 6
    assert seen[-1] == ("convert", 5, 5)
    assert os.path.samefile(written[Form.FP32], prepared)
    assert precision.read_report(folder).quantised == 2
    assert kinds(written[Form.INT8_FP16_CASTS]).count("Cast") > kinds(written[Form.INT8_FP16]).count("Cast")
    for path in written.values():
        assert max(off(prepared, path, pictures(2, seed=8))) < 0.06


def test_without_frames_the_others_are_written(prepared, tmp_path):
    for frames in (None, pictures()[:0]):
        written = write_forms(prepared, tmp_path, [Form.INT8_FP16, Form.FP16], frames, QuantiseSettings())
        assert written == {Form.INT8_FP16: "no calibration frames", Form.FP16: tmp_path / "fp16.onnx"}


def test_a_form_that_fails_is_words_and_the_others_go_on(tmp_path):
    prepared = nets.save(small(gain=1e6), tmp_path / "prepared.onnx")
    written = write_forms(prepared, tmp_path, list(Form), pictures(), QuantiseSettings(exclude=("nowhere",)))
    assert {form for form, what in written.items() if isinstance(what, str)} == set(Form) - {Form.FP32}
    assert "beyond FP16" in written[Form.FP16]
    assert all("'nowhere'" in written[form] for form in Form if form.precision == "int8")


def test_the_cpu_flavour_has_no_fp16_forms(prepared, tmp_path):
    written = write_forms(prepared, tmp_path, [Form.INT8_FP16, Form.INT8_FP32], pictures(), QuantiseSettings(flavour="cpu"))
    assert "CPU" in written[Form.INT8_FP16]
    assert written[Form.INT8_FP32] == tmp_path / "int8-fp32.onnx"


def test_cancelling_is_no_failed_form(prepared, tmp_path):
    asked = []
    with pytest.raises(ModelError, match="cancelled"):
        write_forms(prepared, tmp_path, list(Form), pictures(), QuantiseSettings(),
                    cancelled=lambda: asked.append(1) or len(asked) > 3)
    assert not list(tmp_path.glob("*16*.onnx"))


class TestCache:
    def forms(self, prepared, tmp_path, frames, name, **settings):
        """Return whether calibration ran, and the calibrated file's content."""
        folder, seen = tmp_path / name, []
        folder.mkdir(exist_ok=True)
        write_forms(prepared, folder, [Form.INT8_FP32], frames, QuantiseSettings(**settings), cache=tmp_path / "cache",
                    report=lambda *what: seen.append(what[0]))
        assert precision.read_report(folder).frames == len(frames)
        return "calibrate" in seen, (folder / "int8-fp32.onnx").read_bytes()

    def test_the_same_is_found_again(self, prepared, tmp_path):
        ran, first = self.forms(prepared, tmp_path, pictures(), "a")
        again, second = self.forms(prepared, tmp_path, pictures(), "b")
        assert (ran, again) == (True, False)
        assert first == second

    def test_anything_else_is_not(self, prepared, tmp_path):
        self.forms(prepared, tmp_path, pictures(), "a")
        other = pictures()
        other[-1, -1, -1, -1] ^= 1
        assert self.forms(prepared, tmp_path, other, "b")[0]
        assert self.forms(prepared, tmp_path, pictures(), "c", percentile=99.9)[0]
        assert self.forms(prepared, tmp_path, pictures(), "d", flavour="cpu")[0]
        changed = nets.save(small(gain=1.01), tmp_path / "changed.onnx")
        assert self.forms(changed, tmp_path, pictures(), "e")[0]

    def test_a_damaged_entry_is_made_anew(self, prepared, tmp_path):
        _, first = self.forms(prepared, tmp_path, pictures(), "a")
        (entry,) = (tmp_path / "cache").glob("*.onnx")
        entry.write_bytes(entry.read_bytes()[:-1])
        ran, second = self.forms(prepared, tmp_path, pictures(), "b")
        assert ran
        assert first == second
        assert json.loads(entry.with_suffix(".json").read_bytes())["report"]["frames"] == 6

    def test_it_stays_bounded(self, prepared, tmp_path):
        for seed in range(6):
            self.forms(prepared, tmp_path, pictures(2, seed=seed), "a")
        assert len(list((tmp_path / "cache").iterdir())) == 8
        assert not self.forms(prepared, tmp_path, pictures(2, seed=5), "b")[0]  # the newest are kept
        assert self.forms(prepared, tmp_path, pictures(2, seed=0), "b")[0]


@pytest.mark.parametrize(("version", "rtx", "opset", "problem"), [
    (None, False, 99, ""),
    ((10, 3, 0, 26), False, 20, ""),
    ((10, 3, 0, 26), False, 9, ""),
    ((10, 3, 0, 26), False, 21, "opset 21 is too new for TensorRT 10.3.0.26, which reads up to 20"),
    ((10, 3, 0, 26), False, 8, "opset 8 is too old for TensorRT 10.3.0.26, which reads 9 and later"),
    ((10, 7, 0), False, 21, "up to 20"),  # between two known ones: the older's limit
    ((10, 9, 0), False, 22, ""),
    ((10, 12, 0), False, 23, "up to 22"),
    ((10, 13, 3, 9), False, 24, ""),
    ((10, 13, 3, 9), False, 25, "up to 24"),
    ((10, 16, 1, 11), False, 26, ""),  # not known: its parser decides
    ((11, 4, 0, 106), False, 26, ""),
    ((8, 6, 1), False, 21, "up to 20"),
    ((1, 7, 1, 116), True, 26, ""),
    ((1, 7, 1, 116), True, 27, "TensorRT-RTX 1.7.1.116, which reads up to 26"),
    ((1, 8, 0), True, 27, ""),
])
def test_the_opset_is_checked_where_the_limit_is_known(tmp_path, version, rtx, opset, problem):
    model = helper.make_model(small().graph, opset_imports=[helper.make_opsetid("", opset)])
    for what in (model, nets.save(model, tmp_path / "m.onnx")):
        if problem:
            with pytest.raises(ModelError, match=problem) as caught:
                check_opset(what, version, rtx)
            assert "opset 17" in caught.value.remedy
        else:
            check_opset(what, version, rtx)
