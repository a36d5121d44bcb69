"""SIGTERM for commands that work for long: it ends them as Ctrl-C does, tidied up."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click

_TERMINATED = 128 + signal.SIGTERM  # what shells give for it


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def tidy_when_terminated() -> Iterator[None]:
    """Let SIGTERM unwind what goes on, as Ctrl-C does, so that no scratch file and no child stays; then exit."""
    def terminated(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break into the tidying
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except _Terminated:
        click.echo("terminated", err=True)
        raise click.exceptions.Exit(_TERMINATED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
