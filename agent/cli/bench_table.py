"""The table that started it all, figures of a T4 as published, with what was measured on this device beside it.

Nothing is measured here: this device's figures stand on the report cards of its engines (``vedette engines build``).
A figure that nobody measured is said to be missing; none is scaled from another machine.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.table import Table
from rich.text import Text

from agent import machine
from agent.building.prepare import prepared_models
from agent.building.recipe import Recipe
from agent.building.store import Rung, Store, Tuning

# (median milliseconds, megabytes) of the four steps on the way from the training framework to INT8, on a T4. The source
# names neither model, canvas nor batch in what we have of it, so no more is claimed.
_PUBLISHED = ((8.2, 980), (5.6, 720), (2.1, 510), (1.8, 390))
_STEPS = ("step 1: training framework", "step 2", "step 3", "step 4: INT8")
CAPTION = ("T4 as published: 4.5 times as fast and 60 % less memory from the first step to the last; model, canvas and "
           "batch are not known, so compare the steps with each other, not the rows of different devices.")
_OUTCOMES = {"kept": "serves", "lost": "refused by the gate", "not measured": "built; this machine cannot run it"}


class TableRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        device: What it ran on.
        model: Recipe and canvas; empty where it is not known.
        step: Step or form.
        p50_ms: Median of one engine call at batch 1; None = not measured.
        memory_bytes: None = not measured.
        memory_of: ``device`` memory, or ``process``: growth of its resident memory; ``published`` where that is all
            that is known.
        speedup: Times as fast as ``speedup_of``.
        speedup_of: Step or form.
        runtime: With its version.
        note: What became of it.
    """

    device: str
    model: str = ""
    step: str
    p50_ms: float | None = None
    memory_bytes: int | None = None
    memory_of: str | None = None
    speedup: float | None = None
    speedup_of: str | None = None
    runtime: str = ""
    note: str = ""


def published() -> list[TableRow]:
    """Return the rows of the T4."""
    return [TableRow(device="NVIDIA T4", step=step, p50_ms=p50_ms, memory_bytes=megabytes * 1_000_000,
                     memory_of="published", speedup=round(_PUBLISHED[0][0] / p50_ms, 2), speedup_of="step 1",
                     note="as published")
            for step, (p50_ms, megabytes) in zip(_STEPS, _PUBLISHED, strict=True)]


def measured_here(recipes: Sequence[Recipe], state_dir: Path) -> list[TableRow]:
    """Return the rows of this device, from the newest tuning of each recipe on each runtime."""
    rows: list[TableRow] = []
    for recipe in recipes:
        found = [*_newest(Store(state_dir).tunings(recipe.name))]
        sizes = {ready.identity: f" {ready.height}x{ready.width}" for ready in prepared_models(recipe, state_dir)}
        for tuning in found:
            model = recipe.name + sizes.get(tuning.parts.prepared, "")
            rows += [_row(rung, tuning, model, _in_turns(rung, tuning)) for rung in tuning.rungs]
        if not found:
            rows.append(TableRow(device="this device", model=recipe.name, step="any form",
                                 note=f"not measured: vedette engines build {recipe.name}"))
    return rows


def jetson() -> list[TableRow]:
    """Return a row that says that no Jetson was measured; none when this is one."""
    if machine.is_jetson():
        return []
    return [TableRow(device="NVIDIA Jetson", step="any form", note="not yet measured")]


def table(rows: Sequence[TableRow]) -> Table:
    """Return the rows as a table for people."""
    drawn = Table("device", "model", "step or form", "p50 ms", "memory", "speed-up", "runtime", "", caption=CAPTION,
                  caption_justify="left")
    before = ""
    for row in rows:
        if before and row.device != before:
            drawn.add_section()
        device, before = row.device if row.device != before else "", row.device
        memory = "-" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f} MB"
        if row.memory_of in {"device", "process"}:
            memory += f" ({row.memory_of})"
        speedup = "-" if row.speedup is None else f"{row.speedup:.2f}x {row.speedup_of}"
        p50 = "-" if row.p50_ms is None else f"{row.p50_ms:.3g}"
        drawn.add_row(*map(Text, (device, row.model, row.step, p50, memory, speedup, row.runtime, row.note)))
    return drawn


def _newest(tunings: Sequence[Tuning]) -> Iterator[Tuning]:
    """Yield of the tunings, newest first, the first of each runtime and provider."""
    seen = set()
    for tuning in tunings:
        platform = tuning.parts.platform
        kind = platform.runtime.split()[0], platform.provider
        if kind not in seen:
            seen.add(kind)
            yield tuning


def _in_turns(rung: Rung, tuning: Tuning) -> float | None:
    """Return the median of a form, milliseconds: as measured in turns with the one that serves, where it was."""
    served = next((other.measured for other in tuning.rungs if other.outcome == "kept" and other.measured), None)
    if served and served.baseline and served.baseline_form is rung.form and served.baseline.measured:
        return served.baseline.p50_ms
    return rung.measured.speed.p50_ms if rung.measured and rung.measured.speed.measured else None


def _row(rung: Rung, tuning: Tuning, model: str, p50_ms: float | None) -> TableRow:
    platform, measured = tuning.parts.platform, rung.measured
    threads = f"{platform.threads} thread{'s' * (platform.threads != 1)}" if platform.threads else "all cores but one"
    device = platform.gpu or (f"{platform.cpu}, {threads}" if platform.cpu else "no GPU")
    row = TableRow(device=device, model=model, step=str(rung.form), runtime=platform.runtime,
                   note=_OUTCOMES.get(rung.outcome, rung.outcome))
    if measured is None or p50_ms is None:
        return row
    memory, memory_of = ((measured.device_bytes, "device") if measured.device_bytes is not None
                         else (measured.resident_bytes, "process"))
    return msgspec.structs.replace(
        row, p50_ms=p50_ms, memory_bytes=memory, memory_of=None if memory is None else memory_of,
        speedup=measured.speedup,
        speedup_of=None if measured.speedup is None else str(measured.baseline_form or "the float engine"))
