"""``vedette run``: the service itself, in the foreground."""

import ctypes
import logging
from pathlib import Path

import click

from agent.cli.options import config_option
from agent.config import load

_M_ARENA_MAX = -8  # malloc.h of glibc


@click.command()
@config_option
def run(config_path: Path) -> int:
    """Watch the configured sources and report, until stopped (SIGTERM, Ctrl-C) or until all finite sources end.

    Exit code 0: well. 1: a finite source failed or events are left undelivered (they stay in the spool). 2: no source
    could be read, or the engine cannot run. 78: the configuration cannot be used.
    """
    config = load(config_path)
    logging.basicConfig(level=config.log.level.upper(), format="%(levelname)s %(name)s: %(message)s")
    _keep_one_heap()
    from agent.supervisor import run as run_agent

    return run_agent(config)


def _keep_one_heap() -> None:
    """Let all threads share one heap.

    glibc gives each thread its own, and frames made in one and freed in another leave holes in all of them: 5 to 13 MB
    more at 640 pixels, for no speed that could be measured.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
