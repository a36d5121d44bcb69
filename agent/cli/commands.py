"""From arguments to an exit code: finds the command, runs it, and turns what it raises into one message."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from agent import __version__
from agent.errors import EXIT_DOWN, EXIT_OK, EXIT_USAGE, AgentError

COMMANDS = {
    "run": "agent.cli.run:run",
    "demo": "agent.cli.demo:demo",
    "status": "agent.cli.status:status",
    "page": "agent.cli.page:page",
    "config": "agent.cli.config:config",
    "engines": "agent.cli.engines:engines",
    "bench": "agent.cli.bench:bench",
    "tune": "agent.cli.tune:tune",
    "doctor": "agent.cli.doctor:doctor",
    "sensors": "agent.cli.sensors:sensors",
    "spool": "agent.cli.spool:spool",
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


def command_line(argv: Sequence[str] | None) -> int:
    """Run the command that ``argv`` (None: this process's arguments) names; return the exit code."""
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except OSError as error:
        if not _from_printing(error):
            raise
        _print_no_more()
        if isinstance(error, BrokenPipeError):
            return EXIT_OK  # whoever read our output (head, less) has seen enough
        _complain(f"vedette: standard output: {error.strerror}")
        return EXIT_DOWN


def _run(arguments: list[str]) -> int:
    # Not `cli.main`: that one handles a broken pipe and Ctrl-C itself, with a bare exit code 1.
    try:
        with cli.make_context("vedette", arguments) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except AgentError as error:
        _complain(f"vedette: {error}")
        return error.exit_code
    return code if isinstance(code, int) else EXIT_OK


def _complain(message: str) -> None:
    try:
        click.echo(message, err=True)
    except OSError:
        _print_no_more()  # nobody reads our errors; the exit code still tells


def _from_printing(error: OSError) -> bool:
    """Tell whether ``error`` was raised while a line was printed: every line goes through ``click.echo``."""
    step = error.__traceback__
    while step and step.tb_next:
        step = step.tb_next
    return step is not None and step.tb_frame.f_code is click.echo.__code__


def _print_no_more() -> None:
    """Send what is still in the buffers nowhere, so that Python does not complain about it at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
