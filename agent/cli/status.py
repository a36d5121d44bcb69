"""``vedette status``: what the running agent says of itself, as one screen, as JSON, or again and again."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.options import config_option, json_option
from agent.config import Config, load
from agent.errors import EXIT_DOWN, AgentError
from agent.snapshot import LAST_STATUS, Snapshot
from agent.status import ask, fetch

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command()
@config_option
@json_option
@click.option("--socket", type=click.Path(path_type=Path), help="The agent's socket, instead of the configured one.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
def status(config_path: Path, as_json: bool, socket: Path | None, watch: bool) -> int:
    """Show what the agent does now. Exit code 0: well, 1: degraded, 2: down or not ready."""
    config = load(config_path) if config_path.exists() else Config()
    path = socket or config.socket_path
    if watch:
        return _watch(path, as_json)
    if as_json:
        body = ask(path, "/status")[1]
        click.echo(body)
        return msgspec.json.decode(body, type=Snapshot).exit_code()
    try:
        snapshot = fetch(path)
    except AgentError:
        _last_word(config.state_dir / LAST_STATUS)
        raise
    from agent.cli.screen import print_screen

    print_screen(snapshot)
    return snapshot.exit_code()


def _last_word(path: Path) -> None:
    """Say what the agent left behind when it stopped, if it could."""
    try:
        stopped = path.stat().st_mtime
        last = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except (OSError, msgspec.DecodeError):
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stopped))
    click.echo(f"the last run stopped in good order at {when} after {last.uptime_s:.0f} s, "
               f"{last.spool.depth if last.spool else 0} events left in the spool", err=True)
    for problem in last.problems:
        click.echo(f"  its problem then: {problem}", err=True)


def _watch(path: Path, as_json: bool) -> int:
    from rich.live import Live
    from rich.text import Text

    from agent.cli.screen import screen

    def look() -> "RenderableType":
        try:
            return screen(fetch(path))
        except AgentError as error:
            return Text(f"{time.strftime('%H:%M:%S')}  {error}", style="red")

    try:
        if as_json:
            while True:
                click.echo(ask(path, "/status")[1])
                time.sleep(1)
        with Live(look(), auto_refresh=False, screen=False) as live:
            while True:
                time.sleep(1)
                live.update(look(), refresh=True)
    except KeyboardInterrupt:
        pass
    try:
        return fetch(path).exit_code()
    except AgentError:
        return EXIT_DOWN
