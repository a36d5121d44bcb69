"""The operating points of a recipe on this box's disk: ``<state>/engines/<recipe>/points.json``, whole or not there.

What they mean is said in agent/power/points.py; ``vedette tune`` writes them, and the agent steps along them.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent import machine
from agent.atomic import write_atomic
from agent.building.recipe import Recipe
from agent.config import Config
from agent.errors import ModelError
from agent.power.clocks import clocks
from agent.power.points import SCHEMA, Table

if TYPE_CHECKING:
    from agent.plan import Plan
    from agent.tiers import Offer

_LOG = logging.getLogger(__name__)


def path_of(state_dir: Path, recipe: str) -> Path:
    """Return where the table of a recipe is kept."""
    return state_dir / "engines" / recipe / "points.json"


def load(state_dir: Path, recipe: str) -> Table | None:
    """Return the table of a recipe; None = there is none, or it cannot be read, which is logged."""
    path = path_of(state_dir, recipe)
    try:
        table = msgspec.json.decode(path.read_bytes(), type=Table)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _LOG.warning("%s cannot be used: %s; `vedette tune` measures anew", path, error)
        return None
    if table.schema != SCHEMA or table.recipe != recipe:
        _LOG.warning("%s cannot be used: it is schema %d of %s; `vedette tune` measures anew", path, table.schema,
                     table.recipe)
        return None
    if any(point.fps < 0 or point.p50_ms < 0 or (point.watts or 0) < 0 for point in table.points):
        _LOG.warning("%s cannot be used: a point in it is below 0; `vedette tune` measures anew", path)
        return None
    return table


def save(state_dir: Path, table: Table) -> None:
    """Keep a table durably in place of the one before.

    Raises:
        ModelError: it cannot be written; the one before stays.
    """
    path = path_of(state_dir, table.recipe)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(table))
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}",
                         "make room on that disk, or let this user own the state directory") from error


def current(config: Config, recipe: Recipe, offers: Sequence["Offer"], *, telemetry: str = "", measures: str = "",
            seconds: float = 0.0) -> Table:
    """Return an empty table as one that is measured now would begin, for :func:`agent.power.points.misfits`.

    Args:
        config: Says where the kernel's files are.
        recipe: Which one.
        offers: What may serve now.
        telemetry: Its name; the version is left out.
        measures: What its watts are of; empty = not known, which fits all.
        seconds: How long each point is measured.
    """
    mode = machine.power_mode()
    return Table(
        recipe=recipe.name, tiers=[offer.tier for offer in offers], points=[], idle_watts=None,
        telemetry=kind_of(telemetry), measures=measures, power_mode=str(mode) if mode else None,
        clocks=clocks(Path(config.budget.sysfs)), at=time.time(), took_s=0.0, complete=False, seconds=seconds,
        runs_on=runs_on(offers[0].plan) if offers else "")


def kind_of(telemetry: str) -> str:
    """Return a telemetry's name without its version: ``jtop`` of ``jtop 7.2.2``."""
    return telemetry.partition(" ")[0]


def runs_on(plan: "Plan") -> str:
    """Return in words what runs the engines of a plan; the power mode is told on its own."""
    on = plan.platform
    return ", ".join(filter(None, (
        on.runtime, on.provider, on.cpu, f"{on.threads} thread{'s' * (on.threads != 1)}" if on.threads else "", on.gpu,
        f"CUDA {on.cuda}" if on.cuda else "", f"driver {on.driver}" if on.driver else "",
        f"L4T {on.l4t}" if on.l4t else "")))
