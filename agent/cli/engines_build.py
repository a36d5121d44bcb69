"""``vedette engines build|verify|prune|calibration``: tune engines on this box, and look after what is stored.

Nothing heavy is imported before a command needs it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.building.forms import CPU
from agent.building.recipe import Recipe, find_recipe, list_recipes, recipe_folders
from agent.building.store import Rung, Store, Stored, Tuning
from agent.cli.engine_tables import print_json, print_table, print_tuning, size_words
from agent.cli.options import engine_options, load_or_default
from agent.cli.terminating import tidy_when_terminated
from agent.config import Config
from agent.errors import EXIT_DEGRADED, EXIT_DOWN, EXIT_OK, ConfigError
from agent.units import Bytes

if TYPE_CHECKING:
    from rich.console import Console

_RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt_rtx")
_WHOLE, _OTHER_DEVICE, _DAMAGED = "whole", "other device: never loaded here", "damaged: set aside"
_UNUSABLE = "not usable: its card is another's, or it cannot be read"


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All recipes that need no model of your own.")
@click.option("--configured", is_flag=True, help="The recipe that [engine] names.")
@click.option("--precision", type=click.Choice(["auto", "int8", "fp16", "fp32"]), help="Instead of [engine] precision.")
@click.option("--runtime", type=click.Choice(_RUNTIMES), help="Instead of [engine] runtime.")
@click.option("--quick", is_flag=True, help=(
    "The quick tier only: float forms, built as fast as the builder can; there is none on a CPU."))
@click.option("--frames", type=click.Path(path_type=Path, exists=True), help=(
    "Folder with pictures or clips to calibrate and judge on, instead of the recipe's sets. Builds anew."))
@click.option("--from", "prebuilt", type=click.Path(path_type=Path, exists=True, file_okay=False), help=(
    "Folder with engines built on a box just like this one; what fits is judged instead of built. Judges anew."))
@click.option("--force", is_flag=True, help="Build again what is there already.")
@engine_options
def build(  # noqa: PLR0917 -- click names each option
        names: tuple[str, ...], all_: bool, configured: bool, precision: str | None, runtime: str | None, quick: bool,
        frames: Path | None, prebuilt: Path | None, force: bool, config_path: Path | None, state_dir: Path | None,
        as_json: bool) -> int:
    """Build engines for the recipes NAMES here, measure each form against FP32, and keep the best that agrees with it.

    `vedette run` serves what is kept from its next start on. Exit code 0: every recipe has an engine; 1: built, but not
    measured, for this machine cannot run it, or nothing was kept and an engine tuned before goes on serving; 2: nothing
    that was built may serve; 143: ended by SIGTERM, and tidied up as after Ctrl-C.
    """
    if (bool(names), all_, configured).count(True) != 1:
        raise click.UsageError("give the names of recipes, --all, or --configured; `vedette engines list` shows them")
    config, folder = _settings(config_path, state_dir, runtime, precision)
    names = (config.engine.recipe,) if configured else names
    if quick and config.engine.runtime == "onnxruntime" and config.engine.provider in {None, CPU}:  # see Plan.on_cpu
        raise click.UsageError("there is no quick tier on a CPU: the prepared model serves until a full build is done; "
                               "leave --quick out")
    folders = recipe_folders(config.own_recipes)
    recipes = ([recipe for recipe in list_recipes(folders) if not recipe.needs_model] if all_
               else [find_recipe(name, folders) for name in names])
    frames, prebuilt = frames and frames.absolute(), prebuilt and prebuilt.absolute()  # children work in /
    done: list[Tuning] = []
    worst = EXIT_OK
    with tidy_when_terminated():
        for recipe, sized in [(each, sized) for each in recipes for sized in _canvases(config, each)]:
            tuning, fresh = _tuned(recipe, sized, folder, quick=quick, frames=frames, prebuilt=prebuilt, force=force)
            done.append(tuning)
            serving = Store(folder).serving(tuning.parts)
            worst = max(worst, _exit_code(tuning, serving))
            if not as_json:
                print_tuning(tuning, serving=serving)
                if not fresh:
                    click.echo("this was there already; --force builds it again")
    if as_json:
        print_json([{**msgspec.to_builtins(tuning), "base": tuning.parts.base} for tuning in done])
    return worst


@click.command()
@click.argument("names", nargs=-1)
@engine_options
def verify(names: tuple[str, ...], config_path: Path | None, state_dir: Path | None, as_json: bool) -> int:
    """Check every stored engine (of the recipes NAMES): whole, and made for this box. A damaged one is set aside.

    Exit code 0: all are whole; 1: something is damaged, and will be built anew, or cannot be used.
    """
    from agent.plan import misfit

    _, folder = _settings(config_path, state_dir)
    store, rows = Store(folder), []
    for stored in store.all():
        card = stored.card
        if names and card.parts.recipe not in names:
            continue
        found, other = store.engine(card.parts, card.form), misfit(card.parts)
        if found and found.path == stored.path:
            verdict = _OTHER_DEVICE if other else _WHOLE
        else:
            verdict = _UNUSABLE if stored.path.with_suffix(".json").exists() else _DAMAGED
        rows.append({"recipe": card.parts.recipe, "form": str(card.form), "identity": stored.identity,
                     "bytes": card.bytes, "verdict": verdict, "why": "; ".join(other), "path": str(stored.path)})
    if as_json:
        print_json(rows)
    elif rows:
        print_table(["recipe", "form", "identity", "size", "verdict", "why"], [
            [str(row["recipe"]), str(row["form"]), str(row["identity"]), size_words(int(str(row["bytes"]))),
             str(row["verdict"]), str(row["why"])] for row in rows])
    else:
        click.echo(f"no engine is stored in {folder / 'engines'}")
    return EXIT_DEGRADED if any(row["verdict"] in {_DAMAGED, _UNUSABLE} for row in rows) else EXIT_OK


@click.command()
@click.option("--keep", default="0B", show_default=True, help="Let so much stay, e.g. 500MB; oldest go first.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@engine_options
def prune(keep: str, dry_run: bool, config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Delete engines that do not fit this box any more, and what stands in quarantine.

    Never one that fits, nor one of which that cannot be told now.
    """
    from agent.plan import may_fit

    try:
        most = 0 if keep.strip() in {"0", "0B"} else int(Bytes.parse(keep))
    except ValueError as error:
        raise click.UsageError(f"--keep: {error}") from error
    _, folder = _settings(config_path, state_dir)
    store = Store(folder)
    in_use = {parts.base for parts in store.parts() if may_fit(parts)}
    gone = store.prune(most, in_use, dry_run=dry_run)
    if as_json:
        print_json([{"path": str(path), "bytes": size} for path, size in gone])
        return
    for path, size in gone:
        click.echo(f"{path}: {size_words(size)}")
    click.echo(f"{size_words(sum(size for _, size in gone))} {'would be' if dry_run else 'were'} freed, "
               f"{size_words(store.used_bytes())} are in use")


@click.group()
def calibration() -> None:
    """The frames of this box's own cameras that are kept for INT8 ([calibration] live = true)."""


@calibration.command("status")
@engine_options
def calibration_status(config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Say how many frames are kept, of which sources, and since when."""
    from agent.building.calibration import reservoirs, status_of

    config, folder = _settings(config_path, state_dir)
    found = {path: status_of(path, int(config.calibration.max_bytes)) for path in reservoirs(folder / "calibration")}
    if as_json:
        print_json({"live": config.calibration.live, "kept": [
            {"recipe": path.parent.name, "canvas": path.name, **msgspec.to_builtins(status)}
            for path, status in found.items()]})
        return
    switch = "are kept" if config.calibration.live else "are not kept ([calibration] live = false)"
    click.echo(f"live frames {switch}")
    if found:
        print_table(["recipe", "canvas", "frames", "of offered", "size", "at most", "sources"], [
            [path.parent.name, path.name, str(status.frames), str(status.offered), size_words(status.bytes),
             size_words(status.max_bytes), ", ".join(f"{name} {count}" for name, count in status.sources.items())]
            for path, status in found.items()])


@calibration.command("wipe")
@engine_options
def calibration_wipe(config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Delete every frame that was kept."""
    from agent.building.calibration import reservoirs, wipe

    _, folder = _settings(config_path, state_dir)
    frames = sum(wipe(path) for path in reservoirs(folder / "calibration"))
    if as_json:
        print_json({"wiped": frames})
    else:
        click.echo(f"{frames} frame{'s' * (frames != 1)} wiped")


COMMANDS = (build, verify, prune, calibration)


def _canvases(config: Config, recipe: Recipe) -> list[Config]:
    """Return the configuration with each canvas the governor may use, the configured one first."""
    if recipe.name != config.engine.recipe or not config.budget.sizes:
        return [config]
    from agent.tiers import canvases

    replace = msgspec.structs.replace
    return [replace(config, engine=replace(config.engine, size=list(size))) for size in canvases(config, recipe)]


def _settings(config_path: Path | None, state_dir: Path | None, runtime: str | None = None,
              precision: str | None = None) -> tuple[Config, Path]:
    config = load_or_default(config_path)
    wanted = {key: value for key, value in (("runtime", runtime), ("precision", precision)) if value}
    if wanted:
        config = msgspec.structs.replace(config, engine=msgspec.structs.replace(config.engine, **wanted))
    return config, (state_dir or config.state_dir).absolute()  # children work in /


def _exit_code(tuning: Tuning, serving: Stored | None) -> int:
    if tuning.kept:
        return EXIT_OK
    unmeasured = any(rung.outcome == "not measured" for rung in tuning.rungs)
    return EXIT_DEGRADED if serving or unmeasured else EXIT_DOWN


def _tuned(recipe: Recipe, config: Config, state_dir: Path, *, quick: bool, frames: Path | None, prebuilt: Path | None,
           force: bool) -> tuple[Tuning, bool]:
    """Return the report of a tuning, and whether it was made now."""
    from agent.building.prepare import prepare
    from agent.plan import plan_for
    from agent.tuning import Tuner

    size = config.engine.size if config.engine.recipe == recipe.name else None
    with _progress(recipe.name) as (report, told):
        try:
            prepared = prepare(recipe, size=(size[0], size[1]) if size else None, state_dir=state_dir,
                               stage=lambda words: report(words, 0, None))
            plan = plan_for(config, recipe, prepared)
            plan = plan.quick() if quick else plan
            before = Store(state_dir).tuning(plan.parts)
            wished = force or frames or prebuilt
            if before and Store(state_dir).serving(plan.parts) and not wished:  # a damaged one is set aside in any case
                return before, False
            tuner = Tuner(plan=plan, state_dir=state_dir, report=report, told=told, frames_from=frames,
                          prebuilt=prebuilt)
            return tuner.run(plan.quick_forms if quick else None), True
        except OSError as error:
            raise ConfigError(f"{error.filename or state_dir}: {error.strerror}",
                              "let this user own the state directory, or name another with --state-dir") from error


@contextmanager
def _progress(name: str) -> Iterator[tuple[Callable[[str, int, int | None], None], Callable[[Rung], None]]]:
    """Show phase, bar and time left while a terminal looks on, else a line a phase; on standard error."""
    if sys.stderr is None or not sys.stderr.isatty():
        phases: list[str] = []

        def line(phase: str, _done: int, _total: int | None) -> None:
            if phase not in phases:
                phases.append(phase)
                click.echo(f"{name}: {phase}", err=True)

        yield line, lambda rung: click.echo(f"{name}: {rung.form} {rung.outcome}: {rung.words}", err=True)
        return
    from rich.console import Console

    with _bar(name, Console(stderr=True)) as shown:
        yield shown


@contextmanager
def _bar(name: str, console: "Console"
         ) -> Iterator[tuple[Callable[[str, int, int | None], None], Callable[[Rung], None]]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"),
               TimeRemainingColumn(), TextColumn("elapsed"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task, shown = bar.add_task(name, total=None), [""]

        def show(phase: str, done: int, total: int | None) -> None:
            if phase != shown[0]:
                shown[0] = phase
                bar.reset(task, description=f"{name}: {phase}", total=total)
            bar.update(task, completed=done, total=total)

        def told(rung: Rung) -> None:
            # In one go: the bar is drawn again after each, over a line that has no end yet.
            console.print(Text.assemble(f"{name}: ", (str(rung.form), "bold"), f" {rung.outcome}: {rung.words}"),
                          soft_wrap=True)

        yield show, told

