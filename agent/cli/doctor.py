"""``vedette doctor``: can this box do what its configuration asks for, and if not, what is to be done?

Imports no runtime itself: each is looked at by a child process, so that a broken driver cannot take the answer along.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.config import DEFAULT_PATH, Config, what_is_left
from agent.diagnosis.bundle import check_place, write_bundle
from agent.diagnosis.checks import checks
from agent.diagnosis.facts import Facts
from agent.diagnosis.gather import gather
from agent.diagnosis.rows import OVERALL, Row, Section, exit_code
from agent.errors import ConfigError
from agent.redact import redact

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "unknown": "dim"}
_WIDTH = 100
_AUTO = Path("auto")


@click.command()
@optional_config_option
@click.option("--state-dir", type=click.Path(path_type=Path), default=None,
              help="Where models are kept. Default: [device] state_dir, or $STATE_DIRECTORY.")
@click.option("--bundle", type=click.Path(path_type=Path, dir_okay=False), is_flag=False, flag_value=str(_AUTO),
              default=None, metavar="[FILE.tar.gz]",
              help="Also write a support archive without secrets, pictures and events. Default name: "
              "vedette-doctor-TIME.tar.gz here.")
@json_option
def doctor(config_path: Path | None, state_dir: Path | None, bundle: Path | None, as_json: bool) -> int:
    """Look at this box: board, runtimes, cameras, disk, clock, upstream, engines, sensors, service and its sandbox.

    As root it sees all; what only root or the service may see is unknown to others.

    Exit code 0: well. 1: something is degraded. 2: the agent cannot work as it is configured.
    """
    config: Config | ConfigError
    try:
        config = load_or_default(config_path)
    except ConfigError as error:  # the box can be looked at all the same
        config = error
    path = config_path or DEFAULT_PATH
    left = None if isinstance(config, Config) else what_is_left(path)[0]
    defaults = config_path is None and isinstance(config, Config) and not DEFAULT_PATH.exists()
    target = None
    if bundle is not None:
        named = time.strftime("vedette-doctor-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
        target = Path(named) if bundle == _AUTO else bundle
        check_place(target)  # now, for looking takes its time
    with _looking() as looking:
        facts = gather(config, None if defaults else path, state_dir=state_dir, left=left, looking=looking)
        sections = checks(facts)
        code = exit_code(sections)
        value = _plain(facts, sections, code)
        if target is not None:
            looking("journal, unit and files for the archive")
            usable = config if isinstance(config, Config) else None
            listed = write_bundle(target, value, usable, path, Path(facts.state.path))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        _show(sections, code)
    if target is not None:
        _tell(target, listed, err=as_json)
    return code


def _plain(facts: Facts, sections: Sequence[Section], code: int) -> Any:
    """Return what ``--json`` prints, as plain values without secrets."""
    return _redacted(msgspec.to_builtins({"verdict": OVERALL[code], "sections": sections, "facts": facts}))


def _redacted(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(item) for key, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _tell(target: Path, listed: Sequence[tuple[str, int]], *, err: bool) -> None:
    """Say what is in the archive."""
    click.echo(f"\n{target} ({target.stat().st_size / 1e3:.0f} kB, only you may read it); look into it before you send "
               "it. In it, without secrets:", err=err)
    for name, size in listed:
        click.echo(f"  {name:20} {size / 1e3:9.1f} kB", err=err)


def _show(sections: Sequence[Section], code: int) -> None:
    """Print what needs a hand in words, then all rows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from agent.cli.screen import say

    lines: list[RenderableType] = [Text(f"This box: {OVERALL[code]}.", style="bold")]
    bad = [row for section in sections for row in section.rows if row.verdict in {"fail", "warn"}]
    unsure = [row for section in sections for row in section.rows if row.verdict == "unknown" and row.remedy]
    if bad or unsure:
        first = Table.grid(padding=(0, 2, 0, 0))
        first.add_column(no_wrap=True, min_width=len("unknown"))
        first.add_column(overflow="fold")
        for row in (*sorted(bad, key=lambda row: (not row.fatal, row.verdict)), *unsure):
            first.add_row(_verdict(row), Text(f"{row.name}: {_line(row.found)}"))
            if row.remedy:
                first.add_row("", Text(f"mend: {_line(row.remedy)}"))
        lines.append(first)
    table = Table.grid(padding=(0, 2, 0, 0))
    for wide in (False, False, True):
        table.add_column(no_wrap=not wide, overflow="fold")
    for section in sections:
        table.add_row(Text(section.name, style="bold"))
        for row in section.rows:
            table.add_row(Text(f"  {row.name}"), _verdict(row), Text(_line(row.found), overflow="fold"))
    say(Group(*lines, Text(), table), width=_WIDTH)


def _verdict(row: Row) -> "RenderableType":
    from rich.text import Text

    return Text(row.verdict, style=_STYLES[row.verdict])


def _line(text: str) -> str:
    return redact(" ".join(text.split()))


@contextmanager
def _looking() -> Iterator[Callable[[str], None]]:
    """Name what is being looked at, where a terminal looks on; on standard error."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("looking at the machine") as status:
        yield lambda name: status.update(f"looking at {name}")
