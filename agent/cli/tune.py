"""``vedette tune``: what each way of working gives and takes on this very device, for the governor to step along.

Every point is kept as soon as it is measured; a run that was interrupted is gone on with.
"""

from pathlib import Path

import click
import msgspec

from agent import points_file
from agent.building.recipe import Recipe, find_recipe, recipe_folders
from agent.cli.options import engine_options, load_or_default
from agent.cli.tune_session import Asked, Found, power_now, say, session
from agent.config import Config
from agent.errors import EXIT_DEGRADED, EXIT_DOWN, EXIT_OK, AgentError
from agent.power.points import Table, misfits


@click.command()
@click.argument("name", metavar="[RECIPE]", required=False)
@click.option("--seconds", type=click.FloatRange(0.2, 600), default=8.0, show_default=True,
              help="How long each point is measured, after 1.5 s that do not count.")
@click.option("--batches", default="", metavar="N,N...",
              help="Frames in a call. Default: 1, 2, 4 ... [engine] max_batch.")
@click.option("--rates", type=click.IntRange(0, 20), default=3, show_default=True,
              help="Paces below full speed: 3 are 25, 50 and 75 %.")
@click.option("--force", is_flag=True, help="Measure again what is there already.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw the points into this file, too.")
@click.option("--show", "only_show", is_flag=True,
              help="Measure nothing: show what is stored, and whether it still fits this device.")
@engine_options
def tune(*, name: str | None, seconds: float, batches: str, rates: int, force: bool, png: Path | None, only_show: bool,
         config_path: Path | None, state_dir: Path | None, as_json: bool) -> int:
    """Measure frames, milliseconds, watts and bytes of each engine the agent may serve, at several batches and paces.

    Stop the agent first, or the watts are of both. The governor steps along the result. Ctrl-C keeps what is measured,
    and the same command goes on from there. Exit code 0: all is measured, or what is stored fits; 1: some points could
    not be measured, or what is stored does not fit any more; 2: there is nothing.
    """
    asked = Asked(seconds=seconds, batches=_numbers(batches), rates=rates, force=force)
    config, recipe = _settings(config_path, name)
    folder = (state_dir or config.state_dir).absolute()  # children work in /
    if png:
        _can_draw(png)
    if only_show:
        return _show(config, recipe, folder, png, as_json)
    with session(config, recipe, folder, asked) as measuring:
        found = measuring.run()
    return _told(found, points_file.path_of(folder, recipe.name), png, as_json)


def _numbers(written: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in written.split(",") if word.strip())
    except ValueError as error:
        raise click.UsageError(f"--batches {written!r}: write whole numbers with commas, like 1,2,4") from error
    if any(number < 1 for number in numbers):
        raise click.UsageError(f"--batches {written!r}: a batch has at least one frame")
    return numbers


def _settings(config_path: Path | None, name: str | None) -> tuple[Config, Recipe]:
    config = load_or_default(config_path)
    if name and name != config.engine.recipe:  # canvases are the configured recipe's
        config = msgspec.structs.replace(
            config, engine=msgspec.structs.replace(config.engine, recipe=name, size=None),
            budget=msgspec.structs.replace(config.budget, sizes=[]))
    return config, find_recipe(config.engine.recipe, recipe_folders(config.own_recipes))


def _can_draw(png: Path) -> None:
    """Find out before an hour of measuring.

    Raises:
        AgentError: there is no folder for the picture, or nothing to draw it with.
    """
    from agent.cli.tune_plot import need_matplotlib

    if not png.absolute().parent.is_dir():
        raise click.UsageError(f"--png {png}: there is no such folder")
    need_matplotlib()


def _show(config: Config, recipe: Recipe, folder: Path, png: Path | None, as_json: bool) -> int:
    from agent.cli import tune_tables
    from agent.tiers import offers

    table = points_file.load(folder, recipe.name)
    if table is None:
        raise AgentError(f"no operating points of {recipe.name} are stored in {folder}", f"`vedette tune {recipe.name}`"
                         " measures them; --state-dir names another folder")
    power = power_now(config, 0)
    why = misfits(table, points_file.current(
        config, recipe, offers(config, recipe, folder, say=say, prepare_missing=False), telemetry=power.telemetry,
        measures=power.measures))
    if as_json:
        tune_tables.as_json(table, warnings=[], failures=[], misfits=why,
                            file=str(points_file.path_of(folder, recipe.name)))
    else:
        tune_tables.show(table)
        click.echo("it fits this device as it is now" if not why else
                   f"it does not fit any more: {'; '.join(why)}; `vedette tune` measures what is missing")
    _draw(table, png)
    return EXIT_DEGRADED if why else EXIT_OK


def _told(found: Found, file: Path, png: Path | None, as_json: bool) -> int:
    from agent.cli import tune_tables

    if as_json:
        tune_tables.as_json(found.table, warnings=found.warnings, failures=found.failures, misfits=[], file=str(file))
    else:
        tune_tables.show(found.table)
        for words in found.warnings:
            click.echo(f"warning: {words}")
        for words in found.failures:
            click.echo(f"not measured: {words}")
        click.echo(f"kept in {file}")
    _draw(found.table, png)
    if not found.table.points:
        return EXIT_DOWN
    return EXIT_DEGRADED if found.failures else EXIT_OK


def _draw(table: Table, png: Path | None) -> None:
    if png:
        from agent.cli.tune_plot import write_png

        write_png(table, png)
        say(f"drawn into {png}")
