"""How operating points are shown: a table for people, JSON for programs, and lines while they are measured."""

import time
from collections.abc import Sequence

import click
import msgspec

from agent.cli.engine_tables import print_json, print_table
from agent.cli.tune_plot import text_plot
from agent.power.points import Point, Table, pareto

_HEADINGS = ("tier", "batch", "asked", "frames/s", "p50 ms", "p99 ms", "W", "W above idle", "MB", "MB device",
             "frames/J", "front")
_UNKNOWN = "unknown"


def show(table: Table) -> None:
    """Print the table with its plot."""
    front = pareto(table.points)
    print_table(_HEADINGS, [_row(point, table, point in front) for point in _sorted(table)],
                ["bold" if point in front else "" for point in _sorted(table)])
    click.echo(text_plot(table))
    idle = "idle power unknown" if table.idle_watts is None else f"idle {table.idle_watts:.2f} W"
    watts = f"watts of {table.measures} by {table.telemetry}" if table.measures else "nothing measures watts"
    click.echo(f"{table.recipe}: {idle}, {watts}, power mode "
               f"{table.power_mode or 'none'}, clocks {table.clocks or _UNKNOWN}, {table.seconds:g} s a point")
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(table.at))
    click.echo(f"measured {when} in {table.took_s:.0f} s on {table.frames or 'unknown pictures'}"
               + ("" if table.complete else "; not complete: `vedette tune` goes on"))


def as_json(table: Table, *, warnings: Sequence[str], failures: Sequence[str], misfits: Sequence[str], file: str
            ) -> None:
    """Print the table with what follows from it as JSON."""
    front = pareto(table.points)
    points = [{**msgspec.to_builtins(point), "watts_above_idle": point.above(table.idle_watts),
               "frames_per_joule": point.frames_per_joule, "on_front": point in front} for point in table.points]
    print_json({**msgspec.to_builtins(table), "points": points, "warnings": list(warnings), "failures": list(failures),
                "misfits": list(misfits), "file": file})


def outcome(found: Point | str) -> str:
    """Return the figures of one point on one line, or why there are none."""
    if isinstance(found, str):
        return f"not measured: {found}"
    watts = "power unknown" if found.watts is None else f"{found.watts:.2f} W"
    return f"{found.fps:.1f} frames/s, p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, {watts}"


def _sorted(table: Table) -> list[Point]:
    """Return the points tier by tier, batch by batch, slow ones first."""
    order = {tier.name: number for number, tier in enumerate(table.tiers)}
    return sorted(table.points, key=lambda point: (order.get(point.tier, len(order)), point.batch, point.fps))


def _row(point: Point, table: Table, on_front: bool) -> list[str]:
    return [point.tier, str(point.batch), "all" if point.asked is None else f"{point.asked:.4g}", f"{point.fps:.1f}",
            f"{point.p50_ms:.1f}", f"{point.p99_ms:.1f}", _figure(point.watts), _figure(point.above(table.idle_watts)),
            _megabytes(point.resident_bytes), _megabytes(point.device_bytes), _figure(point.frames_per_joule),
            "*" if on_front else ""]


def _figure(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}"


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.0f}"
