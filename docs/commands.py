"""Prints docs/commands.md: every command's ``--help``, as it is. A test compares the page with it."""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.cli.commands import cli

_WIDTH = 100
_HEAD = """# Commands

Exit codes: 0 well, 1 degraded, 2 down, 64 wrong usage, 78 a configuration that cannot be used; `vedette status --check`
has a monitoring plugin's: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. What a program should read is behind `--json`.

Printed by `python docs/commands.py > docs/commands.md`; a test compares.
"""


def page() -> str:
    """Return the whole page."""
    return _HEAD + "".join(_section(cli, click.Context(cli, info_name="vedette", terminal_width=_WIDTH,
                                                  help_option_names=["-h", "--help"])))


def _section(command: click.Command, context: click.Context) -> list[str]:
    parts = [f"\n## {context.command_path}\n\n```\n{_help(command, context)}\n```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                parts += _section(inner, click.Context(inner, info_name=name, parent=context, terminal_width=_WIDTH))
    return parts


def _help(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines()).strip()


if __name__ == "__main__":
    print(page(), end="")
