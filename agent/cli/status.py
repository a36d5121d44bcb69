"""``vedette status``: what the running agent says of itself, as one screen, as JSON, as a check, or again and again."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.asking import NoAnswer, Place, look, stranger_note, version_note
from agent.cli.absent import absent_lines, place_of, usual
from agent.cli.check import Limits, check, check_options
from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.config import DEFAULT_PATH, Config, what_is_left
from agent.errors import EXIT_OK, ConfigError
from agent.snapshot import Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command()
@optional_config_option
@json_option
@click.option("--socket", type=click.Path(path_type=Path, readable=False),
              help="The agent's socket, instead of the configured one.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of what --json prints.")
@check_options
def status(*, config_path: Path | None, as_json: bool, socket: Path | None, watch: bool, schema: bool,
           limits: Limits | None) -> int:
    """Show what the agent does now. Exit code 0: well, 1: degraded, 2: down or not ready.

    With --check the exit codes and the line are those of a Nagios plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    """
    if sum((watch or as_json, schema, limits is not None)) > 1:
        raise click.UsageError("--check and --schema go with neither --watch nor --json")
    if schema:
        from agent.cli.status_schema import schema_text

        click.echo(schema_text(), nl=False)
        return EXIT_OK
    if limits is not None:
        return check(lambda: _place(config_path, socket), limits)
    place, fault = _place(config_path, socket)
    if fault:
        click.echo(f"vedette: the configuration cannot be used, asking on {place.path} all the same: {fault}", err=True)
    if watch:
        return _watch(place, as_json)
    answer = look(place)
    _print(answer, place, as_json)
    return answer.exit_code()


def _place(config_path: Path | None, socket: Path | None) -> tuple[Place, ConfigError | None]:
    """Return where to ask, and why the configuration cannot be used.

    An agent goes on with the configuration it was started with. So one that cannot be used now, or the service's that
    this user may not read, is no reason not to ask.

    Raises:
        ConfigError: another one than the service's does not tell where to ask, so nobody knows which agent is meant.
    """
    if socket is not None:
        return Place(socket, service=socket == Config().socket_path), None
    fault = None
    try:
        config = load_or_default(config_path)
    except ConfigError as error:
        config, whole = what_is_left(config_path or DEFAULT_PATH)
        if not usual(config_path) and (not whole or isinstance(error.__cause__, OSError)):
            raise
        fault = error
    return place_of(config, config_path), fault


def _print(answer: Snapshot | NoAnswer, place: Place, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(answer))
        # The answer itself says which version the agent is.
        told = stranger_note(answer, place) if isinstance(answer, Snapshot) else absent_lines(answer)
        for line in told:
            click.echo(line, err=True)
    elif isinstance(answer, NoAnswer):
        for line in absent_lines(answer):
            click.echo(line, err=True)
    else:
        from agent.cli.screen import say, screen

        say(screen(answer, notes=_notes(answer, place)), width=110)


def _notes(answer: Snapshot, place: Place) -> list[str]:
    return [*version_note(answer), *stranger_note(answer, place)]


def _watch(place: Place, as_json: bool) -> int:
    try:
        if as_json or sys.stdout is None or not sys.stdout.isatty():
            _every_second(lambda: _look(place, as_json))
        _watch_live(place)
    except KeyboardInterrupt:
        pass
    return look(place).exit_code()


def _every_second(again: Callable[[], None]) -> None:
    while True:
        again()
        time.sleep(1)


def _look(place: Place, as_json: bool) -> None:
    answer = look(place)
    if isinstance(answer, NoAnswer) and not as_json:
        click.echo(f"{time.strftime('%H:%M:%S')}  " + "\n".join(absent_lines(answer)), err=True)
    else:
        _print(answer, place, as_json)


def _watch_live(place: Place) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from agent.cli.screen import screen

    console = Console()

    def now() -> "RenderableType":
        answer = look(place)
        if isinstance(answer, NoAnswer):
            return Text(f"{time.strftime('%H:%M:%S')}  " + "\n".join(absent_lines(answer)), style="red")
        return screen(answer, console.height, _notes(answer, place))

    with Live(now(), console=console, auto_refresh=False) as live:
        _every_second(lambda: live.update(now(), refresh=True))
