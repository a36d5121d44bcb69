"""``vedette engines``: which recipes there are, get and prepare their models, show what is prepared.

Listing reads recipes only: no network, and neither numpy nor a runtime is imported.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from agent.atomic import sha256_of
from agent.building.prepare import Prepared, prepare, prepared_models
from agent.building.recipe import Recipe, find_recipe, list_recipes, recipe_folders
from agent.building.store import Store
from agent.cli.engine_tables import print_json, print_table, print_tuning
from agent.cli.engines_build import COMMANDS
from agent.cli.options import engine_options, load_or_default
from agent.config import Config
from agent.errors import EngineError, ModelError


@click.group()
def engines() -> None:
    """Recipes, models, and the engines built and stored on this box."""


for _command in COMMANDS:
    engines.add_command(_command)


@engines.command("list")
@engine_options
def list_(config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """List the recipes and whether their models are ready."""
    config, folder = _settings(config_path, state_dir)
    recipes = list_recipes(recipe_folders(config.own_recipes))
    rows = [(recipe, _state(recipe, folder)) for recipe in recipes]
    if as_json:
        print_json([{"name": recipe.name, "task": recipe.task, "state": state, "summary": recipe.summary,
                      "licence": recipe.licence, "source": recipe.model.source, "recipe": str(recipe.folder)}
                     for recipe, state in rows])
        return
    print_table(["recipe", "task", "model", "what it finds", "licence"],
                 [[recipe.name, recipe.task, state, recipe.summary, recipe.licence] for recipe, state in rows])


@engines.command()
@click.argument("names", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All recipes that need no model of your own.")
@engine_options
def fetch(names: tuple[str, ...], all_: bool, config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Fetch the models of the recipes NAMES, check and prepare them and find their heads: `vedette run` starts at once.

    A model that is there already costs no network. A recipe that the configuration uses is prepared at the size
    given there.
    """
    if bool(names) == all_:
        raise click.UsageError("give either the names of recipes or --all; `vedette engines list` shows them")
    config, folder = _settings(config_path, state_dir)
    folders = recipe_folders(config.own_recipes)
    recipes = ([recipe for recipe in list_recipes(folders) if not recipe.needs_model] if all_
               else [find_recipe(name, folders) for name in names])
    done = []
    for recipe in recipes:
        size = config.engine.size if config.engine.recipe == recipe.name else None
        with _progress(recipe.name) as progress:
            ready = prepare(recipe, size=(size[0], size[1]) if size else None, state_dir=folder, progress=progress)
        fit = _fit(recipe, ready)
        done.append(_row(ready, fit))
        if not as_json:
            click.echo(f"{recipe.name}: ready, {ready.height}x{ready.width}, identity {ready.identity}, {ready.note}, "
                       f"{fit.words}")
    if as_json:
        print_json(done)


@engines.command()
@click.argument("name")
@engine_options
def show(name: str, config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the recipe NAME, its model, what is prepared from it, and its engines with their report cards."""
    config, folder = _settings(config_path, state_dir)
    recipe = find_recipe(name, recipe_folders(config.own_recipes))
    from agent.plan import misfit

    state = _state(recipe, folder)
    prepared = [(ready, _fit_or_fault(recipe, ready)) for ready in prepared_models(recipe, folder)]
    if any(fit.fault and ready.model_sha256 == _model_sha256(recipe) for ready, fit in prepared):
        state = "cannot be used"
    tunings = Store(folder).tunings(recipe.name)
    if as_json:
        print_json({
            "name": recipe.name, "state": state, "summary": recipe.summary, "licence": recipe.licence,
            "recipe": str(recipe.folder), "model": recipe.model,
            "sha256": _model_sha256(recipe), "input": recipe.input, "head": recipe.head,
            "classes": recipe.classes,
            "prepared": [_row(ready, fit) for ready, fit in prepared],
            "tunings": [{**msgspec.to_builtins(tuning), "base": tuning.parts.base, "misfit": misfit(tuning.parts)}
                        for tuning in tunings]})
        return
    wanted, head = recipe.input, recipe.head
    classes = ", ".join(recipe.classes[:8]) + (" …" if len(recipe.classes) > 8 else "")
    print_table(["recipe", recipe.name], [
        ["summary", recipe.summary], ["licence", recipe.licence], ["stands in", str(recipe.folder)],
        ["model", recipe.model.source], ["sha256", _model_sha256(recipe) or "unknown"],
        ["state", state],
        ["canvas", f"{wanted.size[0]}x{wanted.size[1]}, multiples of {wanted.multiple}, bands {wanted.pad}"],
        ["input", f"{wanted.colour}, (x * {wanted.scale:g} - {list(wanted.mean)}) / {list(wanted.std)}"],
        ["head", f"{head.kind or 'recognised by its outputs'}, score {head.score:g}, iou {head.iou:g}"],
        ["classes", f"{len(recipe.classes)}: {classes}"]])
    if prepared:
        print_table(["prepared", "height x width", "batch", "folded", "max difference", "of model", "head"], [
            [ready.identity, f"{ready.height}x{ready.width}", "any" if ready.dynamic_batch else "1",
             "yes" if ready.folded else "no", f"{ready.max_difference:.1e}", ready.model_sha256[:16],
             fit.words]
            for ready, fit in prepared])
    for tuning in tunings:
        print_tuning(tuning, misfit(tuning.parts))


def _settings(config_path: Path | None, state_dir: Path | None) -> tuple[Config, Path]:
    """Return the configuration (defaults when there is none and none was named) and the state directory."""
    config = load_or_default(config_path)
    return config, state_dir or config.state_dir


def _state(recipe: Recipe, state_dir: Path) -> str:
    """Say how far the recipe's present model is; whether a head fits it, only :func:`_fit` can tell."""
    if recipe.needs_model:
        return "needs your model"
    wanted = _model_sha256(recipe)
    return ("ready" if any(ready.model_sha256 == wanted for ready in prepared_models(recipe, state_dir))
            else "needs preparing")


def _model_sha256(recipe: Recipe) -> str | None:
    """Return the hash the recipe gives, else that of the file the user put there, else None."""
    if recipe.model.sha256 is None and recipe.own_model is not None and recipe.own_model.is_file():
        try:
            return sha256_of(recipe.own_model)
        except OSError:
            return None
    return recipe.model.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """The head that fits a prepared model: its kind where it is known, in words what is known, and what is wrong."""

    kind: str | None
    words: str
    fault: bool = False


def _fit(recipe: Recipe, ready: Prepared) -> _Fit:
    """Load the model as the agent does and find its head.

    Raises:
        EngineError: it cannot be loaded.
        ModelError: no head fits its outputs.
    """
    from agent.inference.heads import HeadConfig, make_head
    from agent.inference.onnxruntime import OnnxRuntimeEngine

    try:
        engine = OnnxRuntimeEngine(ready.path, name=recipe.name, identity=ready.identity,
                                   model_sha256=ready.model_sha256, threads=1)
    except EngineError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        return _Fit(kind=None, words=f"head not checked: {error.what}")
    head, count = recipe.head, len(recipe.classes)
    kind = make_head(HeadConfig(kind=head.kind, classes=count, score=head.score, iou=head.iou,
                                landmarks=head.landmarks), engine.spec).kind
    engine.close()
    return _Fit(kind=kind, words=f"head {kind}, {count} class{'es' * (count != 1)}")


def _fit_or_fault(recipe: Recipe, ready: Prepared) -> _Fit:
    try:
        return _fit(recipe, ready)
    except (EngineError, ModelError) as error:
        return _Fit(kind=None, words=error.what, fault=True)


def _row(ready: Prepared, fit: _Fit) -> dict[str, object]:
    """Return a prepared model as JSON shows it."""
    return {**msgspec.to_builtins(ready, enc_hook=str), "head": fit.kind, "head_note": fit.words}


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show a bar while a terminal looks on; on standard error, so that standard output stays clean."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{name}: fetch and prepare", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
