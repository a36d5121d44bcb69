import subprocess
import sys
from pathlib import Path

import pytest

from agent.building.recipe import find_recipe, list_recipes, recipe_folders
from agent.errors import ConfigError

GOOD = """
schema = 1
name = "door"
task = "detect"
summary = "Doors"
licence = "MIT"
[model]
source = "https://example.org/door.onnx"
sha256 = "{sha}"
[input]
size = [320, 416]
colour = "bgr"
scale = 0.5
mean = [1.0, 2, 3.0]
[head]
score = 0.4
classes = ["open", "shut"]
""".replace("{sha}", "a" * 64)


def write(folder: Path, text: str = GOOD, name: str = "door") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "recipe.toml").write_text(text)
    return folder


def test_a_recipe_is_read_with_its_defaults(tmp_path):
    recipe = find_recipe("door", [write(tmp_path)])
    assert (recipe.input.size, recipe.input.mean, recipe.input.std) == ((320, 416), (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))
    assert (recipe.input.multiple, recipe.input.pad, recipe.head.kind, recipe.head.landmarks) == (32, 114, None, 0)
    assert recipe.classes == ("open", "shut")
    assert not recipe.needs_model


@pytest.mark.parametrize(("old", "new", "words"), [
    ("schema = 1", "schema = 2", "schema = 2"),
    ('task = "detect"', 'task = "dream"', "task = 'dream'"),
    ("licence = ", "license = ", "license: unknown key"),
    ('summary = "Doors"', "", "summary: missing"),
    ("scale = 0.5", "", "input.scale: missing"),
    ("scale = 0.5", 'scale = "1/255"', "input.scale = '1/255'"),
    ("scale = 0.5", "scale = 0", "scale and std not 0"),
    ("scale = 0.5", "scale = nan", "must be finite"),
    ("scale = 0.5", "scale = 0.5\nstd = [1, 0, 1]", "scale and std not 0"),
    ("scale = 0.5", "scale = 0.5\nsclae = 1", "input.sclae: unknown key"),
    ("size = [320, 416]", "size = [320, 400]", r"\[320, 400\] are not both multiples of 32"),
    ("size = [320, 416]", "size = [320]", "input.size"),
    ("size = [320, 416]", "size = [320, 4128]", r"input.size: \[320, 4128\] are not both from 16 to 4096"),
    ("size = [320, 416]", "size = [0, 320]", "input.size"),
    ('colour = "bgr"', 'colour = "yuv"', "input.colour = 'yuv'"),
    ("score = 0.4", "score = 1.5", "head.score = 1.5"),
    ('classes = ["open", "shut"]', "", "head.classes: give either"),
    ('classes = ["open", "shut"]', "classes = []", "no class name"),
    ('classes = ["open", "shut"]', 'classes_file = "gone.txt"', "gone.txt"),
    ('classes = ["open", "shut"]', 'classes = ["a"]\nclasses_file = "b.txt"', "give either"),
    ("a" * 64, "abc", "model.sha256 = 'abc'"),
    (f'sha256 = "{"a" * 64}"', "", "model.sha256: missing"),
    ("https://example.org/door.onnx", "ftp://example.org/door.onnx", "model.source: 'ftp:"),
    ("https://example.org/door.onnx", "https://me:secret@example.org/door.onnx", "user or password"),
    ('name = "door"', 'name = "gate"', "stands in the folder 'door'"),
    ("[head]", "[head", "not valid TOML"),
    *[("[head]", f"[calibration]\n{line}\n[head]", words) for line, words in [
        ('sets = ["file:a.mp4"]', r"calibration.sets\[0\] = 'file:a.mp4'"),
        ('sets = [{source = "file:a.mp4"}, {sha256 = "x"}]', r"calibration.sets\[1\]"),
        ('sets = [{source = "file:a.mp4", from = "me"}]', r"calibration.sets\[0\].from: unknown key"),
        ('sets = [{source = "file:a.mp4", sha256 = "abc"}]', r"calibration.sets\[0\].sha256 = 'abc'"),
        ('sets = [{source = "file:a.mp4"}, {source = "https://host/b.mp4"}]', r"calibration.sets\[1\].sha256: missing"),
        ('sets = [{source = "pypi:a==1#b.mp4"}]', r"calibration.sets\[0\].sha256: missing"),
        ('sets = [{source = "street.mp4"}]', r"calibration.sets\[0\].source: 'street.mp4' is no source"),
        ('sets = [{source = "https://me:secret@host/b.mp4"}]', "user or password"),
        ("least = 0", "calibration.least = 0"),
        ("most = 1001", "calibration.most = 1001"),
        ("least = 40\nmost = 39", "least = 40 is more than most = 39"),
        ('method = "kl"', "calibration.method = 'kl'"),
        ("percentile = 101", "calibration.percentile = 101"),
        ("percentile = nan", "calibration.percentile"),
        ("precentile = 99", "calibration.precentile: unknown key"),
    ]],
    *[("[head]", f"[{table}]\n{line}\n[head]", words) for table, line, words in [
        ("precision", 'exclude = "conv"', "precision.exclude = 'conv'"),
        ("precision", 'exclude = ["a", ""]', r"precision.exclude\[1\] = ''"),
        ("precision", "include = []", "precision.include: unknown key"),
        ("gate", "agreement = 0", "gate.agreement = 0"),
        ("gate", "agreement = 98", "gate.agreement = 98"),
        ("gate", "agreement = nan", "gate.agreement"),
        ("gate", "score_drift = -0.1", "gate.score_drift = -0.1"),
        ("gate", "speedup = 0.9", "gate.speedup = 0.9"),
        ("gate", "output_difference = 2", "gate.output_difference = 2"),
        ("gate", "least_boxes = 0", "gate.least_boxes = 0"),
        ("gate", "aggreement = 0.9", "gate.aggreement: unknown key"),
    ]],
])
def test_a_wrong_recipe_names_file_key_and_remedy(old, new, words, tmp_path):
    assert old in GOOD
    folder = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=words) as caught:
        find_recipe("door", [folder])
    assert str(tmp_path / "door" / "recipe.toml") in caught.value.what
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_calibration_precision_and_gate_have_defaults(tmp_path):
    recipe = find_recipe("door", [write(tmp_path)])
    calibration, gate = recipe.calibration, recipe.gate
    assert (calibration.sets, calibration.least, calibration.most) == ((), 32, 200)
    assert (calibration.method, calibration.percentile) == ("percentile", 99.99)
    assert recipe.precision.exclude is None
    assert (gate.agreement, gate.score_drift, gate.speedup, gate.output_difference, gate.least_boxes) == (
        0.98, 0.05, None, 0.05, 20)


def test_calibration_precision_and_gate_are_read(tmp_path):
    recipe = find_recipe("door", [write(tmp_path, GOOD + f"""
[calibration]
sets = [{{source = "file:a.mp4"}}, {{source = "https://host/b.png", sha256 = "{'b' * 64}"}}]
least = 5
most = 5
method = "entropy"
percentile = 99.9
[precision]
exclude = []
[gate]
agreement = 1.0
score_drift = 0.1
speedup = 1.2
output_difference = 0.2
least_boxes = 3
""")])
    calibration, gate = recipe.calibration, recipe.gate
    assert [(item.source, item.sha256) for item in calibration.sets] == [
        ("file:a.mp4", None), ("https://host/b.png", "b" * 64)]
    assert (calibration.least, calibration.most, calibration.method, calibration.percentile) == (5, 5, "entropy", 99.9)
    assert recipe.precision.exclude == ()
    assert (gate.agreement, gate.score_drift, gate.speedup, gate.output_difference, gate.least_boxes) == (
        1.0, 0.1, 1.2, 0.2, 3)


def test_the_size_remedy_is_itself_a_good_size(tmp_path):
    folder = write(tmp_path, GOOD.replace("[320, 416]", "[333, 17]"))
    with pytest.raises(ConfigError) as caught:
        find_recipe("door", [folder])
    assert "[320, 32]" in caught.value.remedy


def test_class_names_may_come_from_a_file_beside_the_recipe(tmp_path):
    write(tmp_path, GOOD.replace('classes = ["open", "shut"]', 'classes_file = "names.txt"'))
    (tmp_path / "door" / "names.txt").write_text("open\n\n shut \n")
    assert find_recipe("door", [tmp_path]).classes == ("open", "shut")


def test_the_first_folder_wins(tmp_path):
    mine, theirs = write(tmp_path / "mine", GOOD.replace("Doors", "Mine")), write(tmp_path / "theirs")
    write(theirs, GOOD.replace('"door"', '"window"'), "window")
    assert find_recipe("door", [mine, theirs]).summary == "Mine"
    assert [(r.name, r.summary) for r in list_recipes([mine, theirs])] == [("door", "Mine"), ("window", "Doors")]


@pytest.mark.parametrize("name", ["gone", "../door", "", "door/../door"])
def test_an_unknown_name_lists_the_known_ones(name, tmp_path):
    with pytest.raises(ConfigError, match="no recipe is called") as caught:
        find_recipe(name, [write(tmp_path)])
    assert "use one of: door" in caught.value.remedy


@pytest.mark.parametrize(("source", "expected"), [
    ("file:m.onnx", "{folder}/m.onnx"), ("file:../m.onnx", "{folder}/../m.onnx"), ("file:/srv/m.onnx", "/srv/m.onnx"),
    ("file:///srv/m.onnx", "/srv/m.onnx")])
def test_a_model_of_ones_own_lies_relative_to_the_recipe(source, expected, tmp_path):
    text = GOOD.replace("https://example.org/door.onnx", source).replace(f'sha256 = "{"a" * 64}"', "")
    recipe = find_recipe("door", [write(tmp_path, text)])
    assert str(recipe.own_model) == expected.format(folder=tmp_path / "door")
    assert recipe.needs_model


def test_the_shipped_recipes_are_whole():
    recipes = {recipe.name: recipe for recipe in list_recipes(recipe_folders()[1:])}
    assert set(recipes) >= {"centerface", "yolo"}
    assert not recipes["centerface"].needs_model
    assert recipes["yolo"].needs_model
    assert [item.source.rpartition("/")[2] for item in recipes["centerface"].calibration.sets] == [
        "carphone_pristine.mp4", "bikes.mp4"]
    assert all(recipe.calibration.method == "percentile" for recipe in recipes.values()), "entropy is for users to ask for"
    assert len(recipes["yolo"].classes) == 80
    assert len(set(recipes["yolo"].classes)) == 80


def test_extra_folders_come_first(tmp_path):
    assert recipe_folders([tmp_path])[:2] == [tmp_path, Path("/etc/vedette/engines")]


def test_reading_recipes_imports_nothing_heavy():
    code = ("import sys; from agent.building.recipe import *; from agent.building import prepare; "
            "list_recipes(recipe_folders()); "
            "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'requests', 'cv2') if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
