"""``vedette sensors --simulate``: a folder of kernel files whose power and temperature follow this machine's CPU load.

For trying budgets where no board is at hand: the agent reads the folder as it would read ``/sys``.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from agent.errors import EXIT_OK, AgentError
from agent.power.board import Busy, SimulatedBoard, busy_cores, machine_busy, tree_busy
from agent.power.choose import open_telemetry
from agent.power.telemetry import Reading

_STEP_S = 0.25
_STEPS_PER_LINE = 4


def play(folder: Path, *, pid: int | None, idle: float | None, ambient: float | None) -> int:
    """Play a board in ``folder`` until Ctrl-C, or until process ``pid`` ends; print a line a second.

    Args:
        folder: Made where it is not there; its files are written over.
        pid: Whose CPU load it follows, with its children's; None = the machine's.
        idle: Watts without load; None = the board's own.
        ambient: Degrees Celsius of the air; None = the board's own.

    Raises:
        AgentError: The folder cannot be used, or there is no such process.
    """
    look = _looker(pid)
    busy = look()
    if busy is None:
        raise AgentError(f"there is no process {pid}", "name one that runs, with --of")
    folder = _usable(folder)
    given = {"idle_watts": idle, "ambient": ambient}
    board = SimulatedBoard(folder, **{name: value for name, value in given.items() if value is not None})
    click.echo(f'[budget]\ntelemetry = "sysfs"\nsysfs = "{folder}"\n\n# played until Ctrl-C, by the CPU load of '
               f"{f'process {pid} and its children' if pid else 'this machine'}:")
    try:
        _run(board, look, busy)
        click.echo(f"# process {pid} has ended")
    except KeyboardInterrupt:
        click.echo()
    click.echo(f"# the files in {folder} stand still from now on")
    return EXIT_OK


def _looker(pid: int | None) -> Callable[[], Busy | None]:
    return machine_busy if pid is None else partial(tree_busy, pid)


def _run(board: SimulatedBoard, look: Callable[[], Busy | None], busy: Busy) -> None:
    """Step and print until ``look`` finds no process any more."""
    telemetry = open_telemetry("sysfs", board.folder)
    try:
        while True:
            shown = busy
            for _ in range(_STEPS_PER_LINE):
                time.sleep(_STEP_S)
                now = look()
                if now is None:
                    return
                board.step(busy_cores(busy, now), now.at_s - busy.at_s)
                busy = now
            click.echo(_line(telemetry.sample(), busy_cores(shown, busy)))
    finally:
        telemetry.close()


def _line(reading: Reading, cores: float) -> str:
    watts = "unknown" if reading.watts is None else f"{reading.watts:6.2f} W"
    celsius = "unknown" if reading.celsius is None else f"{reading.celsius:5.1f} °C"
    alarms = "".join(f", {alarm}" for alarm in reading.alarms)
    return f"{time.strftime('%H:%M:%S')}  {watts}  {celsius}  at {cores:.2f} busy cores{alarms}"


def _usable(folder: Path) -> Path:
    """Return the absolute path; kernel trees and folders with other things in them are no place to write to."""
    folder = folder.resolve()
    if any(folder.is_relative_to(place) for place in ("/sys", "/proc")):
        raise AgentError(f"{folder} belongs to the kernel", "name a folder of your own")
    try:
        strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in {"bus", "class"})
    except FileNotFoundError:
        return folder
    except OSError as error:
        raise AgentError(f"{folder}: {error.strerror}", "name another folder") from error
    if strange:
        raise AgentError(f"{folder} has other things in it: {strange[0]}", "name a new folder")
    return folder
