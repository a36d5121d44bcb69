"""``vedette status``: what the running agent says of itself, as one screen, as JSON, or again and again."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.errors import EXIT_DOWN, AgentError
from agent.snapshot import LAST_STATUS, Snapshot
from agent.status import fetch

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command()
@optional_config_option
@json_option
@click.option("--socket", type=click.Path(path_type=Path), help="The agent's socket, instead of the configured one.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
def status(config_path: Path | None, as_json: bool, socket: Path | None, watch: bool) -> int:
    """Show what the agent does now. Exit code 0: well, 1: degraded, 2: down or not ready."""
    config = load_or_default(config_path)
    path = socket or config.socket_path
    if watch:
        return _watch(path, as_json)
    try:
        snapshot = fetch(path)
    except AgentError as error:
        # Only when nobody listens there, and where the configuration says that the agent would.
        if socket is None and isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError)):
            _last_word(config.state_dir)
        raise
    _print(snapshot, as_json)
    return snapshot.exit_code()


def _print(snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(snapshot))
        return
    from agent.cli.screen import say, screen

    say(screen(snapshot), width=110)


def _last_word(state_dir: Path) -> None:
    """Say how the last run ended: one that stops in good order leaves its status behind, and none other does."""
    word = state_dir / LAST_STATUS
    try:
        stopped = word.stat().st_mtime
        last = msgspec.json.decode(word.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        if (state_dir / "spool.sqlite").is_file():
            click.echo("the last run left no word: it was killed, it crashed, the power failed or its disk was full\n"
                       "  what it had committed is there: vedette spool status, vedette spool verify", err=True)
        return
    except (OSError, msgspec.DecodeError) as error:
        click.echo(f"{word} cannot be read: {error}", err=True)
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stopped))
    waiting, dead = (last.spool.depth, last.spool.dead) if last.spool else (0, 0)
    click.echo(f"the last run stopped in good order at {when} after {last.uptime_s:.0f} s, "
               f"{waiting} events{f' and {dead} dead letters' if dead else ''} left in the spool", err=True)
    for problem in last.problems:
        click.echo(f"  its problem then: {problem}", err=True)


def _watch(path: Path, as_json: bool) -> int:
    try:
        if as_json or sys.stdout is None or not sys.stdout.isatty():
            _every_second(lambda: _look(path, as_json))
        _watch_live(path)
    except KeyboardInterrupt:
        pass
    try:
        return fetch(path).exit_code()
    except AgentError:
        return EXIT_DOWN


def _every_second(look: Callable[[], None]) -> None:
    while True:
        look()
        time.sleep(1)


def _look(path: Path, as_json: bool) -> None:
    try:
        _print(fetch(path), as_json)
    except AgentError as error:
        click.echo(f"{time.strftime('%H:%M:%S')}  {error}", err=True)


def _watch_live(path: Path) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from agent.cli.screen import screen

    console = Console()

    def look() -> "RenderableType":
        try:
            return screen(fetch(path), console.height)
        except AgentError as error:
            return Text(f"{time.strftime('%H:%M:%S')}  {error}", style="red")

    with Live(look(), console=console, auto_refresh=False) as live:
        _every_second(lambda: live.update(look(), refresh=True))
