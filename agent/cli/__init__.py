"""The ``vedette`` command. One file a command; each is imported only when it is called, so that asking is quick.

Exit codes: 0 well, 1 degraded, 2 down, 64 wrong usage, 70 a defect, 78 configuration.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from agent import __version__
from agent.errors import EXIT_OK, EXIT_USAGE, AgentError

COMMANDS = {
    "run": "agent.cli.run:run",
    "demo": "agent.cli.demo:demo",
    "status": "agent.cli.status:status",
    "config": "agent.cli.config:config",
    "engines": "agent.cli.engines:engines",
    "receiver": "agent.cli.receiver:receiver",
}


class _Lazy(click.Group):
    """A group that knows its commands' names and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vedette")
def cli() -> None:
    """Vedette watches cameras on this box and reports what it finds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. An error is one message on stderr, never a traceback."""
    try:
        code = cli(args=list(argv) if argv is not None else None, standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except AgentError as error:
        click.echo(f"vedette: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough. Keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    return code if isinstance(code, int) else EXIT_OK
