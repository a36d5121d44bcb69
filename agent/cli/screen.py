"""One snapshot as a screen for people. ``unknown`` where a value is not known; never a made-up 0."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.snapshot import Snapshot, SourceView

_COLOURS = {
    **dict.fromkeys(("running", "live", "idle", "sending"), "green"),
    **dict.fromkeys(("starting", "connecting", "degraded", "retrying", "stopping"), "yellow"),
    **dict.fromkeys(("frozen", "black", "holding", "down"), "red"),
    "ended": "blue",
    "off": "dim",
}


def print_screen(snapshot: Snapshot) -> None:
    """Print the screen to standard output; plain text when that is no terminal."""
    Console(width=None if Console().is_terminal else 110).print(screen(snapshot))


def screen(snapshot: Snapshot) -> RenderableType:
    """Return the whole screen."""
    return Group(_head(snapshot), _sources(snapshot), _stages(snapshot), _rest(snapshot), *_problems(snapshot))


def span(seconds: float | None) -> str:
    """Return a duration as people say it: ``85 ms``, ``12 s``, ``3 h 5 min``, or ``unknown``."""
    if seconds is None:
        return "unknown"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} d {minutes // 60 % 24} h"


def amount(count: float | None) -> str:
    """Return bytes as people say them, or ``unknown``."""
    if count is None:
        return "unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _head(s: Snapshot) -> Text:
    text = Text()
    text.append(f"vedette {s.version} on {s.device}: ")
    text.append(s.state, style=f"bold {_COLOURS.get(s.state, '')}")
    text.append(f" for {span(s.uptime_s)}, pid {s.pid}")
    if s.engine:
        e = s.engine
        text.append(f"\nengine {e.name} {e.width}x{e.height} {e.precision} on {e.runtime} ({e.provider}, "
                    f"{e.threads} thread{'s' * (e.threads != 1)}), identity {e.identity}")
    else:
        text.append("\nengine: not loaded yet")
    return text


def _sources(s: Snapshot) -> Table:
    table = Table("source", "state", "since", "frame age", "picture", "fps in", "fps looked at", "skipped", expand=True,
                  title_justify="left")
    for source in s.sources:
        picture = f"{source.width}x{source.height}" if source.width else "unknown"
        table.add_row(source.name, Text(source.state, style=_COLOURS.get(source.state, "")), span(source.since_s),
                      span(source.last_frame_age_s), picture, f"{source.seen_rate:.1f}", f"{source.processed_rate:.1f}",
                      _skipped(source))
    return table


def _skipped(source: SourceView) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(source.skipped.items()) if count) or "none"


def _stages(s: Snapshot) -> Table:
    table = Table("stage (last 1-2 min)", "frames", "p50 ms", "p95 ms", "p99 ms", "longest ms", expand=True)
    for name, stage in s.stages.items():
        figures = (stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.longest_ms)
        table.add_row(name.replace("_", " "), str(stage.count), *("-" if v is None else f"{v:.2f}" for v in figures))
    return table


def _rest(s: Snapshot) -> Text:
    text = Text()
    found = ", ".join(f"{count} {label}" for label, count in sorted(s.found.items())) or "nothing yet"
    text.append(f"found     {found}\n")
    if s.spool:
        text.append(f"spool     {s.spool.depth} waiting, {amount(s.spool.bytes)}, oldest {span(s.spool.oldest_age_s)}"
                    if s.spool.depth else f"spool     empty, {amount(s.spool.bytes)}")
        text.append(f"; {s.spool.committed} committed, {s.spool.acked} acknowledged\n")
    if s.upstream:
        text.append("upstream  ")
        text.append(s.upstream.state, style=_COLOURS.get(s.upstream.state, ""))
        text.append(f": {s.upstream.reason}" if s.upstream.reason else "")
        text.append(f", {s.upstream.delivered_events} delivered, last {span(s.upstream.last_ack_age_s)} ago\n"
                    if s.upstream.delivered_events else ", nothing delivered yet\n")
    else:
        text.append("upstream  not configured: events stay in the spool\n")
    parts = []
    for name, view in s.budget.items():
        reading = amount(view.reading) if view.unit == "bytes" else (
            "unknown" if view.reading is None else f"{view.reading:.1f} {view.unit}")
        limit = amount(view.limit) if view.unit == "bytes" else f"{view.limit:g} {view.unit}" if view.limit else "-"
        parts.append(f"{name} {reading}" + (
            "" if view.limit is None else f" of {limit}{'' if view.enforced else ' (not enforced yet)'}"))
    text.append("budget    " + ", ".join(parts))
    return text


def _problems(s: Snapshot) -> list[Text]:
    return [Text(f"problem   {problem}", style="yellow") for problem in s.problems]
