"""``vedette run``: the service itself, in the foreground."""

import faulthandler
from pathlib import Path

import click

from agent import heap, journal
from agent.cli.options import config_option
from agent.config import load


@click.command()
@config_option
def run(config_path: Path) -> int:
    """Watch the configured sources and report, until stopped (SIGTERM, Ctrl-C) or until all finite sources end.

    Exit code 0: well. 1: a finite source failed or events are left undelivered (they stay in the spool). 2: no source
    could be read, or the engine cannot run. 78: the configuration cannot be used.
    """
    config = load(config_path)
    journal.set_up(config.log.level)
    faulthandler.enable()  # systemd's watchdog sends SIGABRT: where each thread stood then goes to the journal
    heap.keep_one()
    from agent.supervisor import run as run_agent

    return run_agent(config)
