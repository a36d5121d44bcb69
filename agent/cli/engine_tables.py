"""How engines are shown: tables for people, JSON for programs."""

import time
from collections.abc import Sequence

import click
import msgspec

from agent.building.gate import Measured
from agent.building.store import Rung, Stored, Tuning

_COLOURS = {"kept": "bold green", "beaten": "green", "lost": "yellow", "failed": "red"}
_MARKS = {"kept": "kept ✔"}


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
    """Print a table; what stands in a recipe is no markup. ``styles`` colours the rows."""
    from rich.table import Table
    from rich.text import Text

    from agent.cli.screen import say

    table = Table(*headings)
    for index, row in enumerate(rows):
        table.add_row(*map(Text, row), style=styles[index] if styles else None)
    say(table, width=140)


def print_tuning(tuning: Tuning, misfit: Sequence[str] = (), serving: Stored | None = None) -> None:
    """Print a ladder with its outcomes and, for what was measured, the report card.

    ``serving`` is the engine that serves now; it may be of an earlier tuning when this one kept nothing.
    """
    parts, platform = tuning.parts, tuning.parts.platform
    where = ", ".join(filter(None, (
        platform.gpu or platform.cpu or "a machine without a GPU",
        f"sm {platform.sm}, {platform.sm_count} SMs" if platform.sm else "",
        f"L4T {platform.l4t}" if platform.l4t else "", platform.power_mode)))
    tier = " (quick tier)" if parts.level == 0 else ""
    print_table([f"ladder{tier}", "outcome", "p50 / p99 ms", "speed", "agreement", "score drift", "memory", "file",
                 "took"], [_row(rung) for rung in tuning.rungs],
                [_COLOURS.get(rung.outcome, "dim") for rung in tuning.rungs])
    for rung in tuning.rungs:
        if rung.outcome not in {"kept", "beaten"}:
            click.echo(f"{rung.form}: {rung.outcome}: {rung.words}")
    identity = f"identity {parts.identity(tuning.kept)}" if tuning.kept else "no engine may serve"
    if serving and not tuning.kept:
        identity = f"this build kept nothing; the engine of {_minute(serving.card.at)} goes on serving"
    click.echo(f"{parts.recipe}: {identity}, {platform.runtime}{f', {platform.provider}' if platform.provider else ''} "
               f"on {where}")
    stored = f"stored in {serving.path.parent}" if serving else ""
    took = f"tuned {_minute(tuning.at)} in {tuning.took_s:.0f} s"
    click.echo("; ".join(filter(None, (took, tuning.note, stored))))
    if misfit:
        click.echo(f"does not fit this device any more: {'; '.join(misfit)}")


def _minute(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _row(rung: Rung) -> list[str]:
    measured = rung.measured
    return [
        str(rung.form), _MARKS.get(rung.outcome, rung.outcome), *(_figures(measured) if measured else ["", "", "", ""]),
        _memory(measured), size_words(rung.bytes), f"{rung.seconds:.0f} s" if rung.seconds else ""]


def _figures(measured: Measured) -> list[str]:
    found, speed = measured.agreement, measured.speed
    agreement = "no boxes" if found.share is None else (
        f"{found.share:.3f} ({found.matched} of {found.reference_boxes} boxes)")
    drift = "" if found.score_drift_mean is None else f"{found.score_drift_mean:.3f}"
    faster = f"{measured.speedup:.2f}x {measured.baseline_form}" if measured.speedup else ""
    return [f"{speed.p50_ms:.2f} / {speed.p99_ms:.2f}", faster, agreement, drift]


def _memory(measured: Measured | None) -> str:
    if measured is None:
        return ""
    device = f"{size_words(measured.device_bytes)} device" if measured.device_bytes is not None else ""
    return ", ".join(filter(None, (device, size_words(measured.resident_bytes))))


def size_words(count: int | None) -> str:
    """Return ``2.0 MB``; empty for None."""
    return "" if count is None else f"{count / 1e6:.1f} MB"
