"""From a recipe through the real child process to a running engine, and the command line around it."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from agent.building.prepare import prepare
from agent.building.recipe import Recipe, find_recipe, recipe_folders
from agent.cli import main
from agent.errors import ModelError
from agent.inference.engine import infer
from agent.inference.onnxruntime import OnnxRuntimeEngine
from tests.helpers import onnx_models as nets
from tests.helpers.media import CENTERFACE, fetch

RECIPE = """
schema = 1
name = "mine"
task = "detect"
summary = "Mine"
licence = "none"
[model]
source = "file:model.onnx"
[input]
size = [64, 96]
colour = "rgb"
scale = 0.00392156862745098
[head]
classes = ["a", "b"]
"""


def mine(folder: Path, content: bytes | None = None) -> Recipe:
    place = folder / "recipes" / "mine"
    place.mkdir(parents=True)
    (place / "recipe.toml").write_text(RECIPE)
    if content is not None:
        (place / "model.onnx").write_bytes(content)
    return find_recipe("mine", [place.parent])


def centerface(state_dir: Path) -> Recipe:
    """The shipped recipe, its model already where the fetcher would leave it."""
    recipe = find_recipe("centerface", recipe_folders()[1:])
    model = fetch(*CENTERFACE)
    (state_dir / "models").mkdir(parents=True)
    shutil.copy(model, state_dir / "models" / f"{CENTERFACE.sha256}-centerface.onnx")
    return recipe


def engine_for(prepared, **settings) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(prepared.path, name="x", identity=prepared.identity, model_sha256=prepared.model_sha256,
                             threads=1, **settings)


def test_a_model_of_ones_own_goes_through_the_real_child(tmp_path):
    ready = prepare(mine(tmp_path, nets.yolov8().SerializeToString()), state_dir=tmp_path / "state")
    assert ready.folded
    assert ready.dynamic_batch
    engine = engine_for(ready, max_batch=3)
    engine.warm_up()
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    assert infer(engine, frames)[0].shape == (3, 6, 96)


@pytest.mark.parametrize(("content", "words"), [
    (None, "there is no such model file"), (b"", "is empty"), (b"plain text\n", "text file"),
    (nets.yolov8().SerializeToString()[:-99], "cut short"), (nets.unsupported_op().SerializeToString(), "Warp")])
def test_the_child_says_what_is_wrong_with_a_file(content, words, tmp_path):
    with pytest.raises(ModelError, match=words) as caught:
        prepare(mine(tmp_path, content), state_dir=tmp_path / "state")
    assert caught.value.remedy
    assert not list((tmp_path / "state").rglob("*.onnx"))


def test_a_child_that_takes_too_long_is_stopped_and_leaves_nothing(tmp_path):
    recipe = mine(tmp_path, nets.yolov8().SerializeToString())
    with pytest.raises(ModelError, match=r"longer than 0\.01 s"):
        prepare(recipe, state_dir=tmp_path / "state", timeout_s=0.01)
    assert [path.name for path in (tmp_path / "state").rglob("*") if path.is_file()] == [".lock"]


def test_centerface_is_exact_and_takes_any_batch(tmp_path):
    recipe = centerface(tmp_path)
    ready = prepare(recipe, size=(64, 96), state_dir=tmp_path)
    assert ready.folded
    assert ready.dynamic_batch
    assert ready.max_difference <= 1e-4
    engine = engine_for(ready, max_batch=3)
    assert [(o.name, o.shape) for o in engine.spec.outputs] == [
        ("537", (-1, 1, 16, 24)), ("538", (-1, 2, 16, 24)), ("539", (-1, 2, 16, 24)), ("540", (-1, 10, 16, 24))]
    frames = np.random.default_rng(3).integers(0, 256, (3, 64, 96, 3), np.uint8)
    together = infer(engine, frames)
    for index in range(3):
        alone = infer(engine, frames[index:index + 1])
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_[index], rtol=1e-4, atol=1e-4)


def test_centerface_equals_the_original_on_frames_prepared_by_hand(tmp_path):
    ready = prepare(centerface(tmp_path), size=(64, 64), state_dir=tmp_path)
    original = onnx.load(str(fetch(*CENTERFACE)))
    constants = {tensor.name for tensor in original.graph.initializer}
    image = next(value for value in original.graph.input if value.name not in constants)
    del original.graph.input[:]
    original.graph.input.append(onnx.helper.make_tensor_value_info(image.name, onnx.TensorProto.FLOAT, ["n", 3, 64, 64]))
    for output in original.graph.output:
        output.type.tensor_type.ClearField("shape")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the original carries hundreds of dead constants
    session = onnxruntime.InferenceSession(original.SerializeToString(), options, providers=["CPUExecutionProvider"])
    frames = np.random.default_rng(5).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = session.run(None, {image.name: np.ascontiguousarray(frames[..., ::-1].transpose(0, 3, 1, 2), np.float32)})
    for one, other in zip(expected, infer(engine_for(ready, max_batch=2), frames), strict=True):
        assert np.abs(one - other).max() <= 1e-4 * max(np.ptp(one), np.abs(one).max())


def test_the_commands_list_fetch_and_show(tmp_path, capsys):
    centerface(tmp_path)
    state = ["--state-dir", str(tmp_path), "--json"]
    assert main(["engines", "list", *state]) == 0
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert (states["centerface"], states["yolo"]) == ("needs preparing", "needs your model")
    assert main(["engines", "fetch", "centerface", *state]) == 0
    fetched = json.loads(capsys.readouterr().out)
    assert [(one["height"], one["width"], one["folded"], one["head"]) for one in fetched] == [(320, 320, True, "centerface")]
    assert main(["engines", "show", "centerface", *state]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["prepared"] == fetched
    assert (shown["state"], shown["sha256"]) == ("ready", CENTERFACE.sha256)
    assert main(["engines", "show", "centerface", "--state-dir", str(tmp_path)]) == 0
    assert fetched[0]["identity"] in capsys.readouterr().out
    assert main(["engines", "list", "--state-dir", str(tmp_path)]) == 0
    assert "ready" in capsys.readouterr().out


def own(tmp_path, monkeypatch, content):
    mine(tmp_path, content)
    monkeypatch.setattr("agent.cli.engines.recipe_folders", lambda _own: [tmp_path / "recipes"])
    return ["mine", "--state-dir", str(tmp_path)]


def test_fetch_and_show_name_the_head(tmp_path, capsys, monkeypatch):
    mine = own(tmp_path, monkeypatch, nets.yolov8().SerializeToString())
    assert main(["engines", "fetch", *mine]) == 0
    assert "mine: ready, 64x96" in (said := capsys.readouterr().out)
    assert "head yolov8, 2 classes" in said
    assert main(["engines", "show", *mine]) == 0
    assert "head yolov8, 2 classes" in " ".join(capsys.readouterr().out.split())
    assert main(["engines", "show", "--json", *mine]) == 0
    assert json.loads(capsys.readouterr().out)["prepared"][0]["head"] == "yolov8"


def test_a_model_that_no_head_fits_is_never_called_ready(tmp_path, capsys, monkeypatch):
    mine = own(tmp_path, monkeypatch, nets.classifier().SerializeToString())
    assert main(["engines", "fetch", *mine]) == 2
    said = capsys.readouterr()
    assert "no head fits" in said.err
    assert "ready" not in said.out
    assert main(["engines", "show", "--json", *mine]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "cannot be used"
    assert "no head fits" in shown["prepared"][0]["head_note"]


def test_without_the_runtime_the_head_is_said_to_be_unchecked(tmp_path, capsys, monkeypatch):
    mine = own(tmp_path, monkeypatch, nets.yolov8().SerializeToString())
    assert main(["engines", "fetch", *mine]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["engines", "fetch", *mine]) == 0
    assert "head not checked: " in capsys.readouterr().out
    assert main(["engines", "show", "--json", *mine]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["prepared"][0]["head"]) == ("ready", None)


def test_a_model_that_was_replaced_needs_preparing_again(tmp_path, capsys, monkeypatch):
    mine = own(tmp_path, monkeypatch, nets.yolov8().SerializeToString())

    def state():
        capsys.readouterr()
        assert main(["engines", "list", "--json", *mine[1:]]) == 0
        return json.loads(capsys.readouterr().out)[0]["state"]

    assert state() == "needs preparing"
    assert main(["engines", "fetch", *mine]) == 0
    assert state() == "ready"
    model = tmp_path / "recipes/mine/model.onnx"
    before = model.read_bytes()
    model.write_bytes(nets.yolov5().SerializeToString())
    assert state() == "needs preparing"
    model.write_bytes(before)
    assert state() == "ready"


def test_fetch_prepares_at_the_size_the_configuration_uses(tmp_path, capsys):
    centerface(tmp_path / "state")
    config = tmp_path / "config.toml"
    config.write_text(f'[device]\nstate_dir = "{tmp_path}/state"\n[engine]\nsize = [64, 96]\n'
                      '[source.door]\nurl = "rtsp://camera/1"\n')
    assert main(["engines", "fetch", "centerface", "--json", "--config", str(config)]) == 0
    ready = json.loads(capsys.readouterr().out)[0]
    assert (ready["height"], ready["width"]) == (64, 96)
    assert ready["path"].startswith(f"{tmp_path}/state/")


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["fetch"], 64, "names of recipes or --all"), (["fetch", "centerface", "--all"], 64, "either"),
    (["fetch", "gone"], 78, "no recipe is called 'gone'"), (["show", "gone"], 78, "use one of"),
    (["fetch", "yolo"], 2, "there is no such model file")])
def test_wrong_use_is_told_with_its_exit_code(arguments, code, words, tmp_path, capsys):
    assert main(["engines", *arguments, "--state-dir", str(tmp_path)]) == code
    assert words in capsys.readouterr().err


def test_ones_own_model_is_shown_with_the_hash_it_has(tmp_path, capsys, monkeypatch):
    mine(tmp_path, nets.yolov8().SerializeToString())
    monkeypatch.setattr("agent.cli.engines.recipe_folders", lambda _own: [tmp_path / "recipes"])
    assert main(["engines", "show", "mine", "--json", "--state-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == hashlib.sha256(
        (tmp_path / "recipes/mine/model.onnx").read_bytes()).hexdigest()
