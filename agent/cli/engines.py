"""``vedette engines``: which recipes there are, get and prepare their models, show what is prepared.

Listing reads recipes only: no network, and neither numpy nor a runtime is imported.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from agent.atomic import sha256_of
from agent.building.prepare import prepare, prepared_models
from agent.building.recipe import Recipe, find_recipe, list_recipes, recipe_folders
from agent.cli.options import json_option
from agent.config import DEFAULT_PATH, Config, load


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
            json_option,
            click.option("--state-dir", type=click.Path(path_type=Path), default=None,
                         help="Where models are kept. Default: [device] state_dir, or $STATE_DIRECTORY."),
            click.option("-c", "--config", "config_path", type=click.Path(path_type=Path), default=None,
                         envvar="VEDETTE_CONFIG", help=f"The configuration. Default: {DEFAULT_PATH} if it is there.")):
        command = option(command)
    return command


@click.group()
def engines() -> None:
    """Recipes, models and prepared engines."""


@engines.command("list")
@_options
def list_(config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """List the recipes and whether their models are ready."""
    config, folder = _settings(config_path, state_dir)
    recipes = list_recipes(recipe_folders(config.own_recipes))
    rows = [(recipe, _state(recipe, folder)) for recipe in recipes]
    if as_json:
        _print_json([{"name": recipe.name, "task": recipe.task, "state": state, "summary": recipe.summary,
                      "licence": recipe.licence, "source": recipe.model.source, "recipe": str(recipe.folder)}
                     for recipe, state in rows])
        return
    _print_table(["recipe", "task", "model", "what it finds", "licence"],
                 [[recipe.name, recipe.task, state, recipe.summary, recipe.licence] for recipe, state in rows])


@engines.command()
@click.argument("names", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All recipes that need no model of your own.")
@_options
def fetch(names: tuple[str, ...], all_: bool, config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Fetch the models of the recipes NAMES, check them and prepare them, so that `vedette run` starts at once.

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
        done.append(ready)
        if not as_json:
            click.echo(f"{recipe.name}: ready, {ready.height}x{ready.width}, identity {ready.identity}, {ready.note}")
    if as_json:
        _print_json(done)


@engines.command()
@click.argument("name")
@_options
def show(name: str, config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the recipe NAME, its model and what is prepared from it."""
    config, folder = _settings(config_path, state_dir)
    recipe = find_recipe(name, recipe_folders(config.own_recipes))
    prepared = prepared_models(recipe, folder)
    if as_json:
        _print_json({
            "name": recipe.name, "state": _state(recipe, folder), "summary": recipe.summary, "licence": recipe.licence,
            "recipe": str(recipe.folder), "model": recipe.model,
            "sha256": _model_sha256(recipe), "input": recipe.input, "head": recipe.head,
            "classes": recipe.classes, "prepared": prepared})
        return
    wanted, head = recipe.input, recipe.head
    classes = ", ".join(recipe.classes[:8]) + (" …" if len(recipe.classes) > 8 else "")
    _print_table(["recipe", recipe.name], [
        ["summary", recipe.summary], ["licence", recipe.licence], ["stands in", str(recipe.folder)],
        ["model", recipe.model.source], ["sha256", _model_sha256(recipe) or "unknown"],
        ["state", _state(recipe, folder)],
        ["canvas", f"{wanted.size[0]}x{wanted.size[1]}, multiples of {wanted.multiple}, bands {wanted.pad}"],
        ["input", f"{wanted.colour}, (x * {wanted.scale:g} - {list(wanted.mean)}) / {list(wanted.std)}"],
        ["head", f"{head.kind or 'recognised by its outputs'}, score {head.score:g}, iou {head.iou:g}"],
        ["classes", f"{len(recipe.classes)}: {classes}"]])
    if prepared:
        _print_table(["prepared", "height x width", "batch", "folded", "max difference", "of model"], [
            [ready.identity, f"{ready.height}x{ready.width}", "any" if ready.dynamic_batch else "1",
             "yes" if ready.folded else "no", f"{ready.max_difference:.1e}", ready.model_sha256[:16]]
            for ready in prepared])


def _settings(config_path: Path | None, state_dir: Path | None) -> tuple[Config, Path]:
    """Return the configuration (defaults when there is none and none was named) and the state directory."""
    path = config_path or (DEFAULT_PATH if DEFAULT_PATH.is_file() else None)
    config = load(path) if path else Config()
    return config, state_dir or config.state_dir


def _state(recipe: Recipe, state_dir: Path) -> str:
    if recipe.needs_model:
        return "needs your model"
    return "ready" if prepared_models(recipe, state_dir) else "not prepared"


def _model_sha256(recipe: Recipe) -> str | None:
    """Return the hash the recipe gives, else that of the file the user put there, else None."""
    if recipe.model.sha256 is None and recipe.own_model is not None and recipe.own_model.is_file():
        return sha256_of(recipe.own_model)
    return recipe.model.sha256


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    console.print(table)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show a bar while a terminal looks on; on standard error, so that standard output stays clean."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{name}: fetch and prepare", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
