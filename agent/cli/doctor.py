"""``vedette doctor``: can this box do what its configuration asks for, and if not, what is to be done?

Imports no runtime itself: each is looked at by a child process, so that a broken driver cannot take the answer along.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.config import DEFAULT_PATH, Config
from agent.diagnosis.checks import checks
from agent.diagnosis.facts import Facts
from agent.diagnosis.gather import gather
from agent.diagnosis.rows import OVERALL, Section, exit_code
from agent.errors import ConfigError
from agent.redact import redact

_STYLES = {"well": "green", "warning": "yellow", "problem": "red", "unknown": "dim"}


@click.command()
@optional_config_option
@click.option("--state-dir", type=click.Path(path_type=Path), default=None,
              help="Where models are kept. Default: [device] state_dir, or $STATE_DIRECTORY.")
@json_option
def doctor(config_path: Path | None, state_dir: Path | None, as_json: bool) -> int:
    """Look at this box: board, device, runtimes, OpenCV, disk, and whether they fit the configuration.

    Exit code 0: well. 1: something is degraded. 2: the agent cannot work as it is configured.
    """
    config: Config | ConfigError
    try:
        config = load_or_default(config_path)
    except ConfigError as error:  # the box can be looked at all the same
        config = error
    defaults = config_path is None and isinstance(config, Config) and not DEFAULT_PATH.exists()
    with _looking() as looking:
        facts = gather(config, None if defaults else config_path or DEFAULT_PATH, state_dir=state_dir, looking=looking)
    sections = checks(facts)
    code = exit_code(sections)
    if as_json:
        click.echo(_as_json(facts, sections, code))
    else:
        _show(sections, code)
    return code


def _as_json(facts: Facts, sections: Sequence[Section], code: int) -> str:
    value = _redacted(msgspec.to_builtins({"verdict": OVERALL[code], "sections": sections, "facts": facts}))
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _redacted(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(item) for key, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _show(sections: Sequence[Section], code: int) -> None:
    """Print what needs a hand in words, then all rows."""
    from rich.console import Group
    from rich.text import Text

    from agent.cli.screen import plain_table, say

    lines = [Text(f"This box: {OVERALL[code]}.", style="bold")]
    bad = [row for section in sections for row in section.rows if row.verdict in {"problem", "warning"}]
    for row in sorted(bad, key=lambda row: (not row.fatal, row.verdict)):
        lines.append(Text(f"{row.verdict:9}", style=_STYLES[row.verdict]).append(f"{row.name}: {_line(row.found)}"))
        lines += [Text(f"{'':9}mend: {_line(row.remedy)}")] if row.remedy else []
    table = plain_table("", "what", "verdict", "found", wide={3})
    for section in sections:
        for number, row in enumerate(section.rows):
            table.add_row(Text("" if number else section.name, style="bold"), Text(row.name),
                          Text(row.verdict, style=_STYLES[row.verdict]), Text(_line(row.found), overflow="fold"))
    say(Group(*lines, Text(), table), width=160)


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
