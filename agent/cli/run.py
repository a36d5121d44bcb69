"""``vedette run``: the service itself, in the foreground."""

import logging
from pathlib import Path

import click

from agent import heap
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
    logging.basicConfig(level=config.log.level.upper(), format="%(levelname)s %(name)s: %(message)s")
    heap.keep_one()
    from agent.supervisor import run as run_agent

    return run_agent(config)
