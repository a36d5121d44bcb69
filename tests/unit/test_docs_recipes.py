"""The pages on recipes and licences against what they speak of: a key or a dependency they miss is a failure."""

import re
from pathlib import Path

import msgspec
import pytest

from agent.building.recipe import find_recipe, recipe_folders
from agent.building.recipe_tables import CalibrationSet, CalibrationTable, GateTable, PrecisionTable, RecipeFile

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
TABLES = {field.name: field.type for field in msgspec.structs.fields(RecipeFile)
          if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)}
PLAIN = [field for field in msgspec.structs.fields(RecipeFile) if field.name not in TABLES]


def section(title):
    page = (ROOT / "docs/recipes.md").read_text("utf-8")
    return page.partition(f"### {title}\n")[2].partition("\n#")[0]


def rows(title):
    return {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| (.*?) \|", section(title), re.MULTILINE)}


@pytest.mark.parametrize("name", TABLES)
def test_each_key_of_a_table_stands_in_the_guide_with_its_default(name):
    written = rows(f"`[{name}]`")
    fields = {field.name: field for field in msgspec.structs.fields(TABLES[name])}
    assert list(written) == list(fields)
    for key, field in fields.items():
        if field.required:
            assert written[key] == "needed", key
        elif isinstance(field.default, (int, float, str)):
            shown = f'"{field.default}"' if isinstance(field.default, str) else str(field.default)
            assert written[key] == f"`{shown}`", key
        elif field.default == () or field.default is None:
            assert not re.search(r"\d", written[key]), key
        else:
            assert [float(part) for part in re.findall(r"[\d.]+", written[key])] == list(field.default), key


def test_the_keys_at_the_top_stand_in_the_guide():
    assert rows("At the top") == {field.name: "needed" for field in PLAIN}


def test_the_keys_of_a_set_stand_in_the_guide():
    row = next(line for line in section("`[calibration]`").splitlines() if line.startswith("| `sets`"))
    assert all(field.name in row for field in msgspec.structs.fields(CalibrationSet))


def test_the_example_recipe_shows_every_key_with_its_default():
    recipe = find_recipe("yolo", recipe_folders()[1:])
    assert (recipe.calibration, recipe.precision, recipe.gate) == (CalibrationTable(), PrecisionTable(), GateTable())
    text = (ROOT / "engines/yolo/recipe.toml").read_text("utf-8")
    for name, table in TABLES.items():
        part = text.partition(f"\n[{name}]\n")[2].partition("\n[")[0]
        for field in msgspec.structs.fields(table):
            assert re.search(rf"\b{field.name}\b", part), f"[{name}] {field.name}"


def dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    plain = [("", line) for line in project["dependencies"]]
    return sorted({(extra, re.match(r"[A-Za-z0-9._-]+", line)[0])
                   for extra, line in [*plain, *((extra, line) for extra, lines in extras.items() for line in lines)]
                   if not line.startswith("vedette")})


@pytest.mark.parametrize(("extra", "package"), dependencies())
def test_each_dependency_stands_in_the_licence_page(extra, package):
    page = (ROOT / "docs/licences-and-patents.md").read_text("utf-8")
    if extra == "dev":
        listed = page.partition("Only for development:")[2].partition("\n\n")[0]
        assert re.search(rf"\b{re.escape(package)}\s\(", listed) or f"| {package} |" in page
        return
    row = re.search(rf"^\| {re.escape(package)} \|(.*)$", page, re.MULTILINE)
    assert row, f"{package} has no row"
    assert not extra or f"`{extra}`" in row[1], f"{package} comes with the extra {extra}"


def test_every_clip_and_model_that_is_fetched_stands_in_the_licence_page():
    page = (ROOT / "docs/licences-and-patents.md").read_text("utf-8")
    recipe = find_recipe("centerface", recipe_folders()[1:])
    for item in [recipe.model, *recipe.calibration.sets]:
        pin, _, _ = item.source.partition(":")[2].partition("#")
        assert pin.partition("==")[0] in page
        assert pin.partition("==")[2] in page
    notice = (ROOT / "engines/centerface/NOTICE").read_text("utf-8")
    for item in recipe.calibration.sets:
        assert item.source.rpartition("/")[2] in page
        assert item.source.rpartition("/")[2] in notice


def test_what_the_code_imports_of_sensitive_licences_is_what_the_page_says():
    importing = [path for path in (ROOT / "agent").rglob("*.py")
                 if re.search(r"^\s*(import|from) jtop\b|import_module\(.jtop\b", path.read_text("utf-8"), re.MULTILINE)]
    page = (ROOT / "docs/licences-and-patents.md").read_text("utf-8")
    assert [f"`{path.relative_to(ROOT)}`" for path in importing] == re.findall(r"one module only\*\* \((`.*?`)\)", page)
