"""What makes another engine of an engine, and how that is told."""

import dataclasses

import msgspec
import pytest

from agent.building.forms import Form
from agent.building.identity import Platform, differences, recipe_sha256, timing_key
from agent.building.recipe import find_recipe
from agent.building.recipe_tables import CalibrationSet, CalibrationTable, GateTable, PrecisionTable
from tests.helpers.engines import HERE, ORIN, parts, write_recipe

FULL = parts(platform=ORIN, workspace=1 << 30, level=3, max_batch=4)


def other(value):
    return value + 1 if isinstance(value, int) else f"{value}x"


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(FULL) if field.name != "platform"])
def test_each_part_is_part_of_the_identity(field):
    changed = msgspec.structs.replace(FULL, **{field: other(getattr(FULL, field))})
    assert changed.base != FULL.base
    assert changed.identity(Form.FP32) != FULL.identity(Form.FP32)
    assert len(changed.base) == len(changed.identity(Form.FP32)) == 16
    assert differences(FULL, changed) == [f"{field} {getattr(FULL, field)} → {getattr(changed, field)}"]


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(Platform)])
def test_each_fact_of_the_platform_is_part_of_the_identity(field):
    before = getattr(ORIN, field)
    changed = parts(platform=msgspec.structs.replace(ORIN, **{field: other(before)}))
    assert changed.base != parts(platform=ORIN).base
    assert differences(parts(platform=ORIN), changed) == [f"{field} {'none' if before == '' else before} → {other(before)}"]


def test_unset_is_another_thing_than_zero():
    assert len({parts(level=level).base for level in (None, 0, 1)}) == 3


def test_a_fact_that_is_gone_is_told_as_none():
    assert differences(parts(platform=ORIN), parts(platform=msgspec.structs.replace(ORIN, l4t=""))) == ["l4t 36.4.3 → none"]
    words = differences(parts(platform=HERE), parts(platform=ORIN))
    assert "cpu A CPU avx2 → none" in words
    assert "gpu none → Orin (nvgpu)" in words
    assert differences(FULL, FULL) == []
    assert differences(parts(), parts(level=0, max_batch=4)) == ["max_batch 1 → 4", "level none → 0"]


def test_each_form_is_another_engine_of_the_same_base():
    assert len({FULL.identity(form) for form in Form} | {FULL.base}) == len(Form) + 1


def test_the_identity_is_the_same_in_every_process_and_release():
    # A change of this value makes every box build all its engines anew: then it must be meant.
    assert parts().base == "b0c77d0ed9a2d460"
    assert parts().identity(Form.FP32) == "5ec773a06b0e2665"


def test_layer_times_belong_to_tensorrt_the_gpu_and_its_clocks():
    same = msgspec.structs.replace(ORIN, cpu="another", threads=3, provider="none")
    assert timing_key(same) == timing_key(ORIN)
    for field in ("runtime", "gpu", "sm", "sm_count", "cuda", "driver", "l4t", "power_mode"):
        assert timing_key(msgspec.structs.replace(ORIN, **{field: other(getattr(ORIN, field))})) != timing_key(ORIN), field


def test_what_a_recipe_tells_people_rebuilds_nothing_and_all_else_does(tmp_path):
    recipe = write_recipe(tmp_path, model=tmp_path / "m.onnx")
    before = recipe_sha256(recipe)
    for told in ({"summary": "better words"}, {"licence": "MIT"}, {"folder": tmp_path}, {"name": "other"}):
        assert recipe_sha256(dataclasses.replace(recipe, **told)) == before, told
    replace = msgspec.structs.replace
    for change in (
            {"classes": ("a", "c")}, {"classes": ("b", "a")}, {"classes": ("a",)},
            {"input": replace(recipe.input, colour="bgr")}, {"input": replace(recipe.input, size=(32, 64))},
            {"input": replace(recipe.input, pad=0)}, {"head": replace(recipe.head, score=0.2)}, {"head": replace(recipe.head, kind="yolov8")},
            {"precision": PrecisionTable(exclude=())}, {"precision": PrecisionTable(exclude=("a",))},
            {"calibration": CalibrationTable(sets=(CalibrationSet(source="file:a.mp4"),))}, {"calibration": CalibrationTable(method="minmax")},
            {"calibration": CalibrationTable(percentile=99.9)}, {"gate": GateTable(agreement=0.97)}, {"gate": GateTable(speedup=2)}):
        assert recipe_sha256(dataclasses.replace(recipe, **change)) != before, change


def test_names_in_a_file_of_their_own_count_and_not_its_layout(tmp_path):
    recipe = write_recipe(tmp_path, model=tmp_path / "m.onnx")
    file = recipe.folder / "recipe.toml"
    file.write_text(file.read_text().replace('classes = ["a", "b"]', 'classes_file = "names.txt"'))
    hashes = []
    for names in ("a\nb\n", "a\nb", "a\nc\n"):
        (recipe.folder / "names.txt").write_text(names)
        hashes.append(recipe_sha256(find_recipe("small", [tmp_path / "recipes"])))
    assert hashes[0] == hashes[1] != hashes[2]
