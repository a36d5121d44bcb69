"""``vedette sensors``: what each reader of power and temperature says now, and which one the budget goes by.

``--simulate`` plays a board instead: a folder of the files that the kernel of a Jetson would show.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.errors import EXIT_DEGRADED, EXIT_OK, AgentError, ConfigError
from agent.power.choose import KINDS, Chosen, open_telemetry
from agent.power.telemetry import Reading, Telemetry

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

# Power from counters needs two looks, and jtop's first sample comes after its interval of half a second.
_SETTLE_S = 1.0
_WATCH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One reader.

    Attributes:
        kind: One of :data:`agent.power.choose.KINDS`.
        name: Its name with its version; empty when it is not there.
        chosen: The budget goes by it.
        reading: What it says; None when it is not there.
        why: Why it is not there.
    """

    kind: str
    name: str = ""
    chosen: bool = False
    reading: Reading | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All readers at one moment.

    Attributes:
        wanted: What ``[budget] telemetry`` or ``--telemetry`` asks for.
        name: What is used for it, with its version.
        reading: What the budget would go by.
        views: Each reader.
    """

    wanted: str
    name: str
    reading: Reading
    views: Sequence[View]

    @property
    def code(self) -> int:
        """Exit code: 0 when power or temperature is known, else 1."""
        return EXIT_DEGRADED if self.reading.watts is None and self.reading.celsius is None else EXIT_OK


@click.command()
@optional_config_option
@json_option
@click.option("-w", "--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@click.option("--telemetry", type=click.Choice(["auto", *KINDS, "off"]), default=None,
              help="Who is to be asked, instead of [budget] telemetry.")
@click.option("--simulate", type=click.Path(path_type=Path, file_okay=False), default=None, metavar="DIR",
              help="Play a board in this folder until Ctrl-C; its power follows this machine's CPU load.")
@click.option("--of", "pid", type=click.IntRange(min=1), default=None, metavar="PID",
              help="With --simulate: follow the CPU load of this process and its children alone.")
@click.option("--idle", type=click.FloatRange(min=0, min_open=True), default=None, metavar="W",
              help="With --simulate: power without any load, watts.")
@click.option("--ambient", type=click.FloatRange(-40, 80), default=None, metavar="C",
              help="With --simulate: temperature of the air, degrees Celsius.")
def sensors(*, config_path: Path | None, as_json: bool, watch: bool, telemetry: str | None, simulate: Path | None,
            pid: int | None, idle: float | None, ambient: float | None) -> int:
    """Show what the sensors say: power, temperatures, GPU load, alarms, and which reader the budget goes by.

    Exit code 0: the one it goes by gives power or temperature. 1: it gives neither.
    """
    if simulate is not None:
        from agent.cli.simulate import play

        return play(simulate, pid=pid, idle=idle, ambient=ambient)
    if (pid, idle, ambient) != (None, None, None):
        raise click.UsageError("--of, --idle and --ambient go with --simulate")
    budget = load_or_default(config_path).budget
    with ExitStack() as stack:
        look = _looker(telemetry or budget.telemetry, Path(budget.sysfs), stack)
        look()
        time.sleep(_SETTLE_S)
        if watch:
            return _watch(look, as_json)
        now = look()
        _print(now, as_json)
        return now.code


def _looker(wanted: str, sysfs: Path, stack: ExitStack) -> Callable[[], Look]:
    """Open all readers; return what looks at them."""
    readers: dict[str, Telemetry | AgentError] = {}
    for kind in KINDS:
        try:
            readers[kind] = open_telemetry(kind, sysfs)
        except ConfigError as error:
            readers[kind] = error.__cause__ if isinstance(error.__cause__, AgentError) else error
    mine = [reader for reader in readers.values() if not isinstance(reader, AgentError)]
    chosen = readers.get(wanted)
    if wanted not in readers:  # auto, off
        chosen = open_telemetry(wanted, sysfs)
        mine.append(chosen)
    for reader in mine:
        stack.callback(reader.close)

    def look() -> Look:
        seen = {kind: reader.sample() for kind, reader in readers.items() if not isinstance(reader, AgentError)}
        if chosen is None or isinstance(chosen, AgentError):
            reading, name, used = Reading(at_s=time.monotonic(), trouble=chosen.what if chosen else ""), "none", ""
        else:
            reading = seen[wanted] if wanted in seen else chosen.sample()
            used = chosen.kind if isinstance(chosen, Chosen) else wanted
            name = chosen.name
        views = [View(kind=kind, why=reader.what) if isinstance(reader, AgentError) else
                 View(kind=kind, name=reader.name, chosen=kind == used, reading=seen[kind])
                 for kind, reader in readers.items()]
        return Look(wanted=wanted, name=name, reading=reading, views=views)

    return look


def _print(look: Look, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(_plain(look)))
        return
    from agent.cli.screen import say

    say(_screen(look), width=110)


def _plain(look: Look) -> object:
    views = [{"kind": view.kind, "name": view.name, "chosen": view.chosen, "why": view.why,
              "reading": view.reading and _fields(view.reading)} for view in look.views]
    return {"wanted": look.wanted, "name": look.name, "reading": _fields(look.reading), "readers": views}


def _fields(reading: Reading) -> dict[str, object]:
    values = {field.name: getattr(reading, field.name) for field in fields(reading)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def _watch(look: Callable[[], Look], as_json: bool) -> int:
    code = EXIT_DEGRADED

    def again() -> Iterator[Look]:
        nonlocal code
        while True:
            now = look()
            code = now.code
            yield now
            time.sleep(_WATCH_S)

    try:
        if as_json or sys.stdout is None or not sys.stdout.isatty():
            for now in again():
                _print(now, as_json)
        else:
            _watch_live(again())
    except KeyboardInterrupt:
        pass
    return code


def _watch_live(looks: Iterator[Look]) -> None:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        for now in looks:
            live.update(_screen(now), refresh=True)


def _screen(look: Look) -> "RenderableType":
    """Return what the budget goes by, then what each reader says."""
    from rich.console import Group
    from rich.text import Text

    from agent.cli.screen import plain_table

    head = Text(f"telemetry {look.wanted}: ", style="bold").append(
        f"{look.name}, power {_power(look.reading)}, temperature {_temperature(look.reading)}")
    troubles = [Text(f"  {look.reading.trouble}", style="yellow")] if look.reading.trouble else []
    table = plain_table("reader", "what", "says", wide={2})
    for view in sorted(look.views, key=lambda view: (not view.chosen, view.reading is None)):
        for number, (what, says) in enumerate(_lines(view)):
            name = "" if number else f"{'*' if view.chosen else ' '} {view.name or view.kind}"
            table.add_row(Text(name, style="bold"), Text(what), says)
    return Group(head, *troubles, Text(), table)


def _lines(view: View) -> list[tuple[str, "Text"]]:
    from rich.text import Text

    reading = view.reading
    if reading is None:
        return [("not there", Text(view.why, style="dim", overflow="fold"))]
    lines = [("power", _power(reading), ""), ("temperature", _temperature(reading), ""),
             ("GPU load", "unknown" if reading.gpu_load is None else f"{reading.gpu_load:.0%}", ""),
             ("rails", _each(reading.rails, "{:.3f} W"), ""), ("zones", _each(reading.zones, "{:.1f} °C"), ""),
             ("alarms", ", ".join(reading.alarms), "red"), ("counters", _each(reading.events, "{}"), ""),
             ("trouble", reading.trouble, "yellow")]
    return [(what, Text(says, style=style, overflow="fold")) for what, says, style in lines if says]


def _power(reading: Reading) -> str:
    of = f" ({reading.measures})" if reading.measures else ""
    return "unknown" if reading.watts is None else f"{reading.watts:.2f} W{of}"


def _temperature(reading: Reading) -> str:
    if reading.celsius is None:
        return "unknown"
    return f"{reading.celsius:.1f} °C" + (f" ({reading.hottest})" if reading.hottest else "")


def _each(values: Mapping[str, float] | Mapping[str, int], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())
