"""What ``vedette demo --budget`` shows: the status screen under a caption, or lines; at the end figures and a plot."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from agent.errors import AgentError
from agent.snapshot import OrderView, Snapshot, StepView

_LINE_S = 1.0
_CAPTION_LINES = 2
_LONGEST = 150  # characters of a reason on a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One moment of the play: seconds since its begin, the board's true watts and degrees, what the agent did."""

    at_s: float
    watts: float
    celsius: float
    fps: float
    pace: float | None
    blind: bool


class Stage:
    """All that was seen.

    Args:
        limits: Watts and degrees Celsius.
        titles: Of the acts.

    Attributes:
        cut: It was ended early.
        moments: What was, four times a second.
        steps: The governor's, oldest first.
        begins: When each act began, seconds.
    """

    def __init__(self, limits: tuple[float, float], titles: Sequence[str]) -> None:
        self.limits, self.titles, self.cut = limits, titles, False
        self.moments: list[Moment] = []
        self.steps: list[StepView] = []
        self.begins: list[float] = []
        self.caption = ""
        self.seconds = self.joules = self.frames = 0.0
        self.within = [0.0, 0.0]
        self.most = [0.0, 0.0]
        self.longest_s = [0.0, 0.0]
        self._above_s = [0.0, 0.0]
        self._first: float | None = None
        self._first_frames = 0
        self._ends_s = 0.0
        self._now = (0.0, 0.0)

    def begin(self, number: int, expect: str, seconds: float) -> None:
        """Learn that an act begins, what is to be expected of it, and how long it is."""
        self._first = self._first or time.monotonic()
        self.begins.append(time.monotonic() - self._first)
        self._ends_s = time.monotonic() + seconds
        self.caption = f"act {number + 1} of {len(self.titles)}: {self.titles[number]}; {expect}"

    @property
    def left_s(self) -> float:
        """Seconds until the act ends."""
        return max(self._ends_s - time.monotonic(), 0.0)

    def felt(self, watts: float, celsius: float, dt_s: float) -> None:
        """Learn what the board really took, whether its sensors told it or not."""
        self._now = (watts, celsius)
        self.seconds += dt_s
        self.joules += watts * dt_s
        for which, value in enumerate(self._now):
            above = value > self.limits[which]
            self.within[which] += 0.0 if above else dt_s
            self._above_s[which] = self._above_s[which] + dt_s if above else 0.0
            self.longest_s[which] = max(self.longest_s[which], self._above_s[which])
            self.most[which] = max(self.most[which], value)

    def saw(self, now: Snapshot) -> list[StepView]:
        """Learn what the agent says; return the steps it has taken since."""
        processed = sum(source.processed for source in now.sources)
        if not self.moments:
            self._first_frames = processed
        self.frames = processed - self._first_frames
        governor, last = now.governor, self.steps[-1].at if self.steps else 0.0
        self.moments.append(Moment(
            at_s=time.monotonic() - (self._first or 0.0), watts=self._now[0], celsius=self._now[1],
            fps=sum(source.processed_rate for source in now.sources),
            pace=governor.order.rate if governor else None, blind=governor is not None and governor.blind))
        new = [step for step in governor.steps if step.at > last] if governor else []
        self.steps += new
        return new


@contextmanager
def shows_of(stage: Stage) -> Iterator[Callable[[Snapshot], None]]:
    """Yield what shows a snapshot: on a terminal the live status screen, else a line a second and each step."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        yield _Lines(stage).show
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from agent.cli.screen import screen

    def show(now: Snapshot) -> None:
        stage.saw(now)
        caption = Text(f" SIMULATED BOARD, {stage.left_s:2.0f} s left ", style="bold black on yellow", no_wrap=True)
        live.update(Group(caption, Text(stage.caption, style="bold", no_wrap=True, overflow="ellipsis"),
                          screen(now, console.height - _CAPTION_LINES)), refresh=True)

    with Live(console=console, auto_refresh=False) as live:
        yield show


class _Lines:
    """Prints, for logs and pipes."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._caption, self._next_s = stage, "", 0.0

    def show(self, now: Snapshot) -> None:
        stage = self._stage
        if stage.caption != self._caption:
            self._caption = stage.caption
            click.echo(f"-- {self._caption}")
        for step in stage.saw(now):
            reason = step.reason if len(step.reason) <= _LONGEST else f"{step.reason[:_LONGEST]} ..."
            click.echo(f"       {step.kind}: {_pace(step.before)} -> {_pace(step.after)}: {reason}")
        moment = stage.moments[-1]
        if moment.at_s < self._next_s:
            return
        self._next_s = max(self._next_s + _LINE_S, moment.at_s)
        watts, celsius = (now.budget[name].reading for name in ("watts", "celsius"))
        pace = "blind, " if moment.blind else ""
        pace += _pace(now.governor.order) if now.governor else "unknown"
        click.echo(f"{moment.at_s:4.0f} s {_reading(watts, '4.1f')} of {stage.limits[0]:g} W  "
                   f"{_reading(celsius, '4.1f')} of {stage.limits[1]:g} °C  {moment.fps:4.1f} fps  pace {pace}")


def _reading(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{value:{form}}"


def _pace(order: OrderView) -> str:
    return "unpaced" if order.rate is None else "paused" if order.rate == 0 else f"{order.rate:.1f} fps"


def summary(stage: Stage, out: Path) -> None:
    """Print what came of it, and draw it where matplotlib is installed."""
    config, steps = out / "budget.toml", stage.steps
    click.echo("")
    if stage.cut:
        click.echo("ended early: the figures are of what was played until then")
    if not stage.seconds:
        return
    down = sum(_rate(step.after) < _rate(step.before) for step in steps)
    up = sum(_rate(step.after) > _rate(step.before) for step in steps)
    blind = sum(step.kind == "blind" for step in steps)
    click.echo(f"steps      {len(steps)}: {down} down, {up} up, {blind} into blindness;"
               " each with its reason, and as an event budget.step in the spool")
    for name, unit, which in (("watts", "W", 0), ("degrees", "°C", 1)):
        click.echo(f"{name:10} within {stage.limits[which]:g} {unit} for {stage.within[which] / stage.seconds:.1%} of "
                   f"{stage.seconds:.0f} s; {stage.most[which]:.1f} {unit} at most, above the limit for "
                   f"{stage.longest_s[which]:.1f} s at a time at most (simulated)")
    click.echo(f"frames     {stage.frames:.0f} looked at for {stage.joules:.0f} J: "
               f"{stage.frames / stage.joules:.2f} frames per joule (simulated)")
    click.echo(f"config     {config}: change watts, celsius or memory there and play it again")
    click.echo(f"again      vedette demo --budget --out {out}, and meanwhile in a second terminal:\n"
               f"           vedette status --watch --config {config}")
    try:
        click.echo(f"look at    {draw(stage, out / 'budget.png')}")
    except AgentError as error:
        click.echo(f"look at    no picture: {error.what}; {error.remedy}")
    click.echo(f"           {out / 'agent.log'}  (the agent's log)")


def _rate(order: OrderView) -> float:
    return float("inf") if order.rate is None else order.rate


def draw(stage: Stage, path: Path) -> Path:
    """Draw the play over its time.

    Raises:
        AgentError: matplotlib is not installed, or the file cannot be written.
    """
    from agent.cli.tune_plot import need_matplotlib

    Figure, FigureCanvasAgg = need_matplotlib()  # noqa: N806 -- classes
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(3, 1, sharex=True)
    times = [moment.at_s for moment in stage.moments]
    for plot, label, values, limit in (
            (plots[0], "watts (simulated)", [moment.watts for moment in stage.moments], stage.limits[0]),
            (plots[1], "°C (simulated)", [moment.celsius for moment in stage.moments], stage.limits[1]),
            (plots[2], "frames/s", [moment.fps for moment in stage.moments], None)):
        plot.plot(times, values, label=label)
        if limit is not None:
            plot.axhline(limit, color="red", linewidth=1, linestyle="--", label="limit")
        plot.set_ylabel(label)
    plots[2].step(times, [moment.pace for moment in stage.moments], where="post", color="black", linewidth=1,
                  label="pace: what the governor allows")
    ends = [*stage.begins[1:], times[-1] if times else 0.0]
    for number, (begin, end) in enumerate(zip(stage.begins, ends, strict=True)):
        for plot in plots:
            plot.axvspan(begin, end, color=f"C{number % 10}", alpha=0.08, linewidth=0)
        plots[0].text(begin, 1.02 + number % 2 * 0.09, f"{number + 1} {stage.titles[number]}", fontsize=7, va="bottom",
                      transform=plots[0].get_xaxis_transform())
    plots[2].set_xlabel("seconds")
    plots[2].set_ylim(0, None)
    figure.suptitle("vedette demo --budget: a real agent on a simulated board", fontsize=10)
    for plot in plots:
        plot.legend(fontsize=7, loc="lower left")
        plot.grid(alpha=0.3)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise AgentError(f"{path}: cannot be written: {error.strerror}", "choose another --out") from error
    return path
