"""One snapshot as a screen for people. ``unknown`` where a value is not known; never a made-up 0."""

import io

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.cli.budget_screen import budget_lines, share_words, steps_table
from agent.cli.words import amount, cell, plain_table, span
from agent.snapshot import GovernorView, Snapshot, SourceView, SpoolView, UpstreamView

__all__ = ["amount", "cell", "plain_table", "say", "screen", "span"]

_COLOURS = {
    **dict.fromkeys(("running", "live", "idle", "sending"), "green"),
    **dict.fromkeys(("starting", "connecting", "degraded", "retrying", "stopping"), "yellow"),
    **dict.fromkeys(("frozen", "black", "holding", "down"), "red"),
    "ended": "blue",
    "off": "dim",
}
_HEALTHY = {"live", "ended"}
_CERTIFICATE_WARNING_S = 30 * 86400.0
_TABLE_HEAD = 1  # line: the headings
_LEAST_SOURCES = 2  # lines of the table of sources that the budget leaves: the worst one, and how many more
_FEW_STEPS = 3  # so many of the newest steps are worth more than the stages


def say(what: RenderableType, width: int) -> None:
    """Print to standard output; as plain text ``width`` characters wide where that is no terminal."""
    terminal = Console()
    on_terminal = terminal.is_terminal
    # Not straight to standard output, so that all printing fails in one place: click.echo.
    text = io.StringIO()
    Console(file=text, force_terminal=on_terminal, width=terminal.width if on_terminal else width).print(what)
    click.echo(text.getvalue(), nl=False)


def screen(snapshot: Snapshot, height: int | None = None) -> RenderableType:
    """Return the whole screen, what needs a hand first.

    Args:
        snapshot: What to show.
        height: Lines there are; None = as many as it takes. Where they are few, long lines are cut short with "…",
            the oldest steps of the governor go first, then the stages, then all its steps, then the healthiest sources,
            then the lines on the budget from the last one on.
    """
    problems, budget = _problems(snapshot), budget_lines(snapshot)
    steps = _steps(snapshot)
    if height is None:
        return Group(*_head(snapshot), *problems, *_rest(snapshot), *budget, _sources(snapshot, None),
                     _stages(snapshot), *([steps_table(steps, None)] if steps else []))
    most = max(height // 3, 1)
    if len(problems) > most:
        problems = [*problems[:most - 1], Text(f"          +{len(problems) - most + 1} more problems", style="yellow")]
    lines = [*_head(snapshot), *problems, *_rest(snapshot)]
    room = height - len(lines) - _TABLE_HEAD - min(len(snapshot.sources), _LEAST_SOURCES)
    lines += budget[:max(room, 1)]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines, *_tables(snapshot, steps, height - len(lines)))


def _tables(s: Snapshot, steps: GovernorView | None, left: int) -> list[RenderableType]:
    """Return the tables that fit into ``left`` lines: sources, then a few steps, then the stages, then more steps."""
    left -= _TABLE_HEAD
    tables: list[RenderableType] = [_sources(s, max(min(left, len(s.sources)), 1))]
    left -= len(s.sources)
    few = min(len(steps.steps), _FEW_STEPS) + _TABLE_HEAD if steps else 0
    stages = _TABLE_HEAD + len(s.stages)
    if left >= few + stages:
        tables.append(_stages(s))
        left -= stages
    if steps and left > _TABLE_HEAD:
        tables.append(steps_table(steps, left - _TABLE_HEAD))
    return tables


def _steps(s: Snapshot) -> GovernorView | None:
    return s.governor if s.governor and s.governor.steps else None


def _head(s: Snapshot) -> list[Text]:
    state = Text(f"vedette {s.version} on {s.device}: ")
    state.append(s.state, style=f"bold {_COLOURS.get(s.state, '')}")
    if s.state == "starting" and s.doing not in {"", s.state}:
        state.append(f" ({s.doing})")
    state.append(f" for {span(s.uptime_s)}, pid {s.pid}")
    if not s.engine:
        return [state, Text("engine    not loaded yet")]
    e = s.engine
    threads = f", {e.threads} thread{'s' * (e.threads != 1)}" if e.threads else ""
    engine = Text(f"engine    {e.name} {e.width}x{e.height} {e.precision}, {e.tier}, on {e.runtime} "
                  f"({e.provider}{threads}), identity {e.identity}")
    return [state, engine, *([Text(f"tuning    {e.tuning}")] if e.tuning else [])]


def _sources(s: Snapshot, rows: int | None) -> RenderableType:
    """Return the table of sources, the unhealthy first; with at most ``rows`` rows of one line below its head."""
    shared = s.governor is not None and bool(s.governor.shares)
    headings = ("source", "state", "since", "age", "picture", "fps in", "looked at", *(("may have",) if shared else ()))
    table = plain_table(*headings, "skipped", wide=(0, len(headings)))
    sources = sorted(s.sources, key=lambda source: source.state in _HEALTHY)
    shown = sources if rows is None or len(sources) <= rows else sources[:rows - 1]
    cut = rows is not None
    for source in shown:
        table.add_row(
            cell(source.name, cut=cut), Text(source.state, style=_COLOURS.get(source.state, "")), span(source.since_s),
            span(source.last_frame_age_s), f"{source.width}x{source.height}" if source.width else "unknown",
            f"{source.seen_rate:.1f}", f"{source.processed_rate:.1f}",
            *((share_words(s.governor, source.name),) if shared else ()), cell(_skipped(source), cut=cut))
    left_out = len(sources) - len(shown)
    return Group(table, Text(f"+{left_out} more")) if left_out else table


def _skipped(source: SourceView) -> str:
    parts = [f"{count} {why}" for why, count in sorted(source.skipped.items()) if count] or ["none"]
    if source.hung:
        parts.insert(0, f"{source.hung} call{'s hang' if source.hung > 1 else ' hangs'}")
    return ", ".join(parts)


def _stages(s: Snapshot) -> Table:
    table = plain_table("stage (last 1-2 min)", "samples", "p50 ms", "p95 ms", "p99 ms", "longest ms")
    for name, stage in s.stages.items():
        figures = (stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.longest_ms)
        table.add_row(name.replace("_", " "), str(stage.count), *("-" if v is None else f"{v:.2f}" for v in figures))
    return table


def _rest(s: Snapshot) -> list[Text]:
    """Return the lines on what comes after the engine: upstream, spool, found."""
    found = ", ".join(f"{count} {label}" for label, count in sorted(s.found.items())) or "nothing yet"
    lines = [_upstream(s.upstream), Text(f"found     {found}")]
    if s.spool:
        lines[1:1] = [_spool(s.spool), *_losses(s.spool)]
    return lines


def _upstream(view: UpstreamView | None) -> Text:
    if not view or view.state == "off":
        return Text("upstream  not configured: events stay in the spool")
    text = Text("upstream  ")
    text.append(view.state, style=_COLOURS.get(view.state, ""))
    text.append(f" for {span(view.since_s)}: {view.reason}" if view.reason else "")
    text.append(f", {view.delivered_events} delivered, last {span(view.last_ack_age_s)} ago"
                if view.delivered_events else ", nothing delivered yet")
    if view.next_try_in_s is not None:
        text.append(f", next try in {span(view.next_try_in_s)}")
    left = view.certificate_expires_in_s
    if left is not None:
        text.append(f", certificate ends in {span(left)}" if left > 0 else ", certificate has ended",
                    style="yellow" if left < _CERTIFICATE_WARNING_S else "")
    if view.clock in {"unsynchronised", "implausible"}:
        text.append(f", the box's clock is {view.clock}", style="yellow")
    return text


def _spool(view: SpoolView) -> Text:
    text = Text("spool     ")
    text.append(f"{view.depth} waiting, {amount(view.bytes)}, oldest {span(view.oldest_age_s)}" if view.depth
                else f"empty, {amount(view.bytes)}")
    text.append(f"; {view.committed} committed, {view.acked} acknowledged")
    text.append("" if view.sequence is None else f", last sequence {view.sequence}")
    if view.pending:
        text.append(f", {view.pending} not yet committed")
    if view.failed_commits:
        text.append(f", {view.failed_commits} commits put off", style="yellow")
    return text


def _losses(view: SpoolView) -> list[Text]:
    """Return a line on what will not arrive; none when all will."""
    lost = ", ".join(f"{count} {why}" for why, count in sorted(view.lost.items()) if count)
    dead = f"{view.dead} dead letter{'s' * (view.dead != 1)}" if view.dead else ""
    parts = [dead, f"since the file was made {lost}" if lost else ""]
    told = "; ".join(filter(None, parts))
    return [Text("lost      ").append(told, style="yellow")] if told else []


def _problems(s: Snapshot) -> list[Text]:
    return [Text("problem   " + " ".join(problem.split()), style="yellow") for problem in s.problems]
