"""``vedette bench``: how fast the engine is that ``vedette run`` would serve on this very device.

Engine calls alone, on made-up frames: no camera, no head, no report. ``python -m bench`` in a checkout measures the
whole agent. ``--table`` measures nothing; it shows what report cards hold.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import msgspec

from agent.building.recipe import Recipe, find_recipe, list_recipes, recipe_folders
from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.config import Config
from agent.heap import resident_bytes
from agent.inference.engine import Engine, EngineDescription, Pending, infer
from agent.records import Pixels
from agent.serving import Serving

_LEAST_CALLS = 20  # however long they take
_FIRST_CALLS = 3  # not counted
Progress = Callable[[str, float], None]
Load = Callable[[Callable[[str], None]], tuple[Engine, str]]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One size of batch.

    Attributes:
        batch: Frames a call.
        calls: Timed calls, one after the other.
        p50_ms: Median of a call, milliseconds.
        p99_ms: 99 of 100 calls took no longer.
        frames_per_s: With as many calls under way as the engine takes.
    """

    batch: int
    calls: int
    p50_ms: float
    p99_ms: float
    frames_per_s: float


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on one engine.

    Attributes:
        engine: What ran.
        canvas: (height, width), pixels.
        timings: At batch 1 and, where it is another, the largest batch.
        process_bytes: Growth of this process's resident memory from before loading to after the last call.
        device_bytes: Device memory the engine takes; None = unknown, or there is no device.
        note: That it is not tuned yet, where it is not.
    """

    engine: EngineDescription
    canvas: tuple[int, int]
    timings: list[Timing]
    process_bytes: int
    device_bytes: int | None
    note: str


@click.command()
@click.argument("names", nargs=-1)
@click.option("--table", "as_table", is_flag=True,
              help="Measure nothing; show the published figures of a T4 with this device's report cards beside them.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=5.0, show_default=True,
              help="How long each size of batch is timed.")
@click.option("--state-dir", type=click.Path(path_type=Path), default=None,
              help="Where engines are kept. Default: [device] state_dir, or $STATE_DIRECTORY.")
@json_option
@optional_config_option
def bench(*, names: tuple[str, ...], as_table: bool, seconds: float, state_dir: Path | None, as_json: bool,
          config_path: Path | None) -> None:
    """Measure the engines of the recipes NAMES (default: the configured one) as `vedette run` would serve them.

    Stop the agent first, or they share the device. With --table NAMES default to all recipes.
    """
    config = load_or_default(config_path)
    folder = state_dir or config.state_dir
    if as_table:
        _show_table(_recipes(names, config) or list_recipes(recipe_folders(config.own_recipes)), folder, as_json)
        return
    found = []
    for recipe in _recipes(names or (config.engine.recipe,), config):
        with _progress(recipe.name) as progress:
            found.append(measure(partial(load_served, config, recipe, folder), seconds, progress))
    if as_json:
        _print_json(found)
    else:
        _show(found)


def load_served(config: Config, recipe: Recipe, state_dir: Path, say: Callable[[str], None]) -> tuple[Engine, str]:
    """Load and warm what ``vedette run`` would serve for ``recipe`` first; say what is not as it should be.

    Raises:
        AgentError: there is nothing it could serve, or it cannot be loaded.
    """
    if config.engine.recipe != recipe.name:  # the size is the configured recipe's
        config = msgspec.structs.replace(config, engine=msgspec.structs.replace(config.engine, size=None))
    served = Serving(config, recipe, state_dir, say, threading.Event()).first()
    note = "" if served.tier == "tuned" else (
        f"the {served.tier} engine, not tuned on this device yet: vedette engines build {recipe.name}")
    return served.model.engine, note


def measure(load: Load, seconds: float, progress: Progress) -> Bench:
    """Load an engine and time its calls.

    Args:
        load: Gives the engine, warmed, which is closed here, and a note; is given what to tell its steps.
        seconds: For each size of batch; at least 20 calls are made however long they take.
        progress: Told the phase and how much of it is done, 0..1.

    Raises:
        EngineError: it cannot be loaded or run.
    """
    progress("loading", 0.0)
    before = resident_bytes()
    engine, note = load(lambda what: progress(what, 0.0))
    try:
        spec = engine.spec
        timings = []
        for batch in sorted({1, spec.max_batch}):
            frames = _frames(batch, spec.height, spec.width)
            timings.append(_timed(engine, frames, seconds, progress))
        return Bench(engine=engine.describe(), canvas=(spec.height, spec.width), timings=timings,
                     process_bytes=max(resident_bytes() - before, 0),
                     device_bytes=getattr(engine, "device_bytes", None), note=note)
    finally:
        engine.close()


def _timed(engine: Engine, frames: Pixels, seconds: float, progress: Progress) -> Timing:
    import numpy as np

    batch, depth = len(frames), engine.spec.depth
    for _ in range(_FIRST_CALLS):
        infer(engine, frames)
    share = 1.0 if depth == 1 else 0.5
    took_s = [*_until(seconds * share, lambda: infer(engine, frames), f"batch {batch}", progress)]
    p50, p99 = np.percentile(took_s, (50, 99)) * 1e3
    # The mean of calls that wait for each other is the rate only where none can overlap.
    rate = len(took_s) / sum(took_s) if depth == 1 else _overlapped(engine, frames, seconds * share, progress)
    return Timing(batch=batch, calls=len(took_s), p50_ms=float(p50), p99_ms=float(p99), frames_per_s=rate * batch)


def _overlapped(engine: Engine, frames: Pixels, seconds: float, progress: Progress) -> float:
    """Return calls a second with ``depth`` of them under way."""
    under_way: deque[Pending] = deque()

    def one_more() -> None:
        while len(under_way) < engine.spec.depth:
            under_way.append(engine.start(frames))
        under_way.popleft()()

    took_s = [*_until(seconds, one_more, f"batch {len(frames)}, overlapped", progress)]
    while under_way:
        under_way.popleft()()
    return len(took_s) / sum(took_s)


def _until(seconds: float, call: Callable[[], object], phase: str, progress: Progress) -> Iterator[float]:
    """Yield what each call took, seconds, until the time is over and at least 20 were made."""
    began = time.perf_counter()
    calls, told = 0, began
    while calls < _LEAST_CALLS or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        yield end - start
        calls += 1
        if end - told > 0.1:  # a bar that is drawn oftener would be measured, too
            progress(phase, min((end - began) / seconds, 1.0))
            told = end


def _frames(batch: int, height: int, width: int) -> Pixels:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


def _recipes(names: Sequence[str], config: Config) -> list[Recipe]:
    return [find_recipe(name, recipe_folders(config.own_recipes)) for name in names]


def _show(found: Sequence[Bench]) -> None:
    from rich.table import Table
    from rich.text import Text

    from agent.cli.screen import amount, say

    table = Table("engine", "runs as", "batch", "calls", "p50 ms", "p99 ms", "frames/s", "memory")
    for one in found:
        what = one.engine
        threads = f", {what.threads} thread{'s' * (what.threads != 1)}" if what.threads else ""
        memory = amount(one.process_bytes)
        if one.device_bytes is not None:
            memory += f", {amount(one.device_bytes)} on the device"
        for timing in one.timings:
            figures = f"{timing.p50_ms:.2f}", f"{timing.p99_ms:.2f}", f"{timing.frames_per_s:.1f}"
            table.add_row(*map(Text, (
                f"{what.name} {one.canvas[0]}x{one.canvas[1]}",
                f"{what.precision} on {what.runtime} ({what.provider}{threads})", str(timing.batch), str(timing.calls),
                *figures, memory)))
    say(table, width=140)
    for one in found:
        if one.note:
            click.echo(f"{one.engine.name}: {one.note}")


def _show_table(recipes: Sequence[Recipe], state_dir: Path, as_json: bool) -> None:
    from agent.cli.bench_table import CAPTION, jetson, measured_here, published, table
    from agent.cli.screen import say

    here = measured_here(recipes, state_dir)
    if as_json:
        _print_json({"published": published(), "this_device": here, "jetson": jetson(), "note": CAPTION})
    else:
        say(table([*published(), *here, *jetson()]), width=150)


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """Show a bar while a terminal looks on; on standard error, so that standard output stays clean."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True),
                  transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda phase, done: bar.update(task, description=f"{name}: {phase}", completed=done)
