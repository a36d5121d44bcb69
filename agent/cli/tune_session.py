"""One run of ``vedette tune``: looks whether the time is right, measures idle power, then all that is missing."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from agent import machine, points_file
from agent.building.lock import alone_in, taken
from agent.building.recipe import Recipe
from agent.cli.terminating import tidy_when_terminated
from agent.config import Config
from agent.errors import AgentError, EngineError
from agent.measuring import Measurement, measure, pictures
from agent.points_walk import Step, agenda, carried_over, missing, walk
from agent.power.choose import open_telemetry
from agent.power.clocks import are_fixed, clocks
from agent.power.points import Point, Table
from agent.power.watching import Power, power_for
from agent.status import fetch
from agent.tiers import Offer, canvases, offers

_IDLE_S = 5.0
_BUSY_SHARE = 0.5  # of the cores at work before we begin
_WORK = "points"  # beside points.json: the lock of `vedette tune`, and its pictures


class Asked(NamedTuple):
    """What the command line wants: see the options of ``vedette tune``."""

    seconds: float
    batches: tuple[int, ...]
    rates: int
    force: bool


class Found(NamedTuple):
    """The table, what speaks against trusting it, and what could not be measured; both in words."""

    table: Table
    warnings: list[str]
    failures: list[str]


def say(words: str) -> None:
    """Tell people, on standard error."""
    click.echo(words, err=True)


def power_now(config: Config, seconds: float) -> Power:
    """Return the mean power of the next ``seconds``; at 0 what one reading tells.

    Raises:
        ConfigError: the sensors that are configured are not there.
    """
    with closing(open_telemetry(config.budget.telemetry, Path(config.budget.sysfs))) as telemetry:
        return power_for(telemetry, seconds)


@contextmanager
def session(config: Config, recipe: Recipe, state_dir: Path, asked: Asked) -> Iterator["Session"]:
    """Yield what measures, alone on this state directory; its scratch goes with it, also after SIGTERM.

    Raises:
        EngineError: another ``vedette tune`` is under way.
        ModelError: the state directory cannot be written.
    """
    def occupied() -> None:
        raise EngineError(f"another `vedette tune` measures {recipe.name} in {state_dir}", "wait until it is done")

    place = state_dir / "engines" / recipe.name / _WORK
    with tidy_when_terminated(), alone_in(place, occupied):
        for scrap in place.glob("work-*"):  # of a run that was killed
            shutil.rmtree(scrap, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix="work-", dir=place))
        try:
            yield Session(config, recipe, state_dir, asked, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


@dataclass(slots=True)
class Session:
    """See :func:`session`; ``work`` is a scratch folder."""

    config: Config
    recipe: Recipe
    state_dir: Path
    asked: Asked
    work: Path
    warnings: list[str] = field(default_factory=list)

    def run(self) -> Found:
        """Measure what is missing, keeping each point.

        Raises:
            AgentError: there is nothing to measure, or it cannot be begun or kept.
        """
        canvases(self.config, self.recipe)  # what is wrong with them is told before anything takes time
        before = None if self.asked.force else points_file.load(self.state_dir, self.recipe.name)
        for words in reasons_to_wait(self.config, self.state_dir, self.recipe.name):
            self._warn(words)
        # Idle power first, before anything is loaded or prepared; an earlier run has mostly measured it.
        power = power_now(self.config, 0 if before else _IDLE_S)
        there = offers(self.config, self.recipe, self.state_dir, say=say, prepare_missing=True)
        if not there:
            raise EngineError(f"there is no engine of {self.recipe.name} to measure",
                              f"`vedette engines build {self.recipe.name}` builds one")
        now = points_file.current(self.config, self.recipe, there, telemetry=power.telemetry, measures=power.measures,
                                  seconds=self.asked.seconds)
        for words in unlike_service(self.config, now, before):
            self._warn(words)
        table, why = carried_over(before, now)
        if why:
            say(f"not all that was measured before holds: {'; '.join(why)}")
        steps = agenda(there, self.asked.batches, self.asked.rates)
        left = len(missing(table, steps))
        if table.points:
            say(f"{len(steps) - left} of {len(steps)} points are there already"
                + ("; they stay, the others follow" if left else "; --force measures them again"))
        if left:
            table = self._begun(table, power if before is None else None, there[0])
        return self._walk(table, steps, left)

    def _begun(self, table: Table, idle: Power | None, first: Offer) -> Table:
        """Return the table with its idle power, and get the pictures."""
        if not table.points or table.idle_watts is None:
            idle = idle or power_now(self.config, _IDLE_S)
            table = msgspec.structs.replace(table, idle_watts=idle.watts, measures=table.measures or idle.measures)
            if idle.trouble:
                self._warn(f"no watts, so frames per joule stay unknown: {idle.trouble}")
        say("getting pictures to look at")
        frames = pictures(self.recipe, (first.tier.height, first.tier.width), self.state_dir, self._frames)
        if frames.startswith("made-up"):
            self._warn(f"measured on {frames}: a head that finds other numbers of things takes other times")
        return msgspec.structs.replace(table, frames=frames)

    @property
    def _frames(self) -> Path:
        return self.work / "frames.npy"

    def _walk(self, table: Table, steps: list[Step], left: int) -> Found:
        began, before_s, kept = time.monotonic(), table.took_s, [table]

        def keep(new: Table) -> None:
            if left:
                new = msgspec.structs.replace(new, at=time.time(), took_s=before_s + time.monotonic() - began)
            points_file.save(self.state_dir, new)
            kept[0] = new

        with progress(self.recipe.name, left) as (report, told):
            def measured(step: Step, rate: float | None) -> Measurement | str:
                return measure(step.offer, self.recipe, self.config, self._frames, batch=step.batch, rate=rate,
                               seconds=self.asked.seconds,
                               report=lambda _phase, done, _of: report(step, done / 100))

            try:
                failures = walk(table, steps, measured, keep=keep, told=told).failures
            except KeyboardInterrupt:
                file, points = points_file.path_of(self.state_dir, table.recipe), len(kept[0].points)
                say(f"{points} points are kept in {file}; the same command goes on from there" if points
                    else "nothing is measured yet")
                raise
        table = kept[0]
        mode = machine.power_mode()
        if left and ((str(mode) if mode else None), clocks(Path(self.config.budget.sysfs))) != (
                table.power_mode, table.clocks):
            self._warn("the power mode or the ruling of the clocks changed meanwhile: measure again with --force")
        return Found(table, self.warnings, failures)

    def _warn(self, words: str) -> None:
        self.warnings.append(words)
        say(f"warning: {words}")


def reasons_to_wait(config: Config, state_dir: Path, recipe: str) -> list[str]:
    """Return in words what goes on beside us and would be measured, too."""
    found = []
    try:
        fetch(config.socket_path)
    except AgentError as error:
        # It may be busy, speak other words, or not to us.
        running = not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError | NotADirectoryError)
    else:
        running = True
    if running:
        found.append("the agent runs: watts and times are of both; stop it first")
    if taken(state_dir / "engines" / recipe / "built"):
        found.append("an engine is being built: watts and times are of both; wait until it is done")
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > cores * _BUSY_SHARE:
        found.append(f"the machine is busy: a load of {busy:.1f} on {cores} cores in the last minute")
    return found


def unlike_service(config: Config, now: Table, before: Table | None) -> list[str]:
    """Return in words where power mode and clocks are not those of service, or not those of the table before."""
    found = []
    wanted, mode = config.budget.nvpmodel, now.power_mode
    if wanted and (mode or "").partition(" (")[0] != wanted:
        found.append(f"the power mode is {mode or 'unknown'}, in service it will be {wanted} ([budget] nvpmodel)")
    fixed = config.budget.jetson_clocks
    if fixed is not None and now.clocks and are_fixed(now.clocks) != fixed:
        found.append(f"the clocks are ruled by {now.clocks}, in service jetson_clocks will be "
                     f"{'on' if fixed else 'off'} ([budget] jetson_clocks)")
    if before and before.power_mode != mode:
        found.append(f"the power mode is {mode or 'unknown'}, when last measured it was "
                     f"{before.power_mode or 'unknown'}")
    if before and before.clocks != now.clocks:
        found.append(f"the clocks are ruled by {now.clocks or 'what is unknown'}, when last measured by "
                     f"{before.clocks or 'what is unknown'}")
    return found


Reported = Callable[[Step, float], None]
Told = Callable[[int, Step, Point | str], None]


@contextmanager
def progress(name: str, left: int) -> Iterator[tuple[Reported, Told]]:
    """Show how far it is, and each point as it comes: a bar with the time left on a terminal, else lines.

    Args:
        name: The recipe's.
        left: How many points are to be measured.
    """
    from agent.cli.tune_tables import outcome

    done = [0]
    if sys.stderr is None or not sys.stderr.isatty():
        def line(_number: int, step: Step, found: Point | str) -> None:
            done[0] += 1
            say(f"{name} [{done[0]}/{left}]: {step.words}: {outcome(found)}")

        yield lambda _step, _share: None, line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task(name, total=left)

        def shown(step: Step, share: float) -> None:
            bar.update(task, description=f"{name}: {step.words}", completed=done[0] + share)

        def told(_number: int, step: Step, found: Point | str) -> None:
            done[0] += 1
            bar.update(task, completed=done[0])
            console.print(Text(f"{name}: {step.words}: {outcome(found)}"), soft_wrap=True)

        yield shown, told
