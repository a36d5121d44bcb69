"""One snapshot as a screen for people. ``unknown`` where a value is not known; never a made-up 0."""

import io
import time
from collections.abc import Callable, Sequence

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from agent.cli.budget_screen import budget_lines, share_words, steps_table
from agent.cli.layout import folded, height_of, richest, spread
from agent.cli.words import ago, amount, cell, lasting, minute, plain_table, span, when
from agent.runs import NO_START
from agent.snapshot import GovernorView, Snapshot, SourceView, SpoolView, UpstreamView

__all__ = ["amount", "cell", "plain_table", "say", "screen", "span"]

_COLOURS = {
    **dict.fromkeys(("running", "live", "idle", "sending"), "green"),
    **dict.fromkeys(("starting", "connecting", "degraded", "retrying", "stopping"), "yellow"),
    **dict.fromkeys(("frozen", "black", "holding", "down"), "red"),
    "good": "green", "fair": "yellow", "poor": "yellow", "bad": "red", "unknown": "dim",
    "ended": "blue",
    "off": "dim",
}
_HEALTHY = {"live", "ended"}
_CERTIFICATE_WARNING_S = 30 * 86400.0
_TABLE_HEAD = 1  # line: the headings
_LEAST_SOURCES = 2  # lines of the table of sources that the budget leaves: the worst one, and how many more
_FEW_STEPS = 3  # so many of the newest steps are worth more than the stages
_FEW_PAST = 3
_WELL = {"stopped", "ended"}


def say(what: RenderableType, width: int) -> None:
    """Print to standard output; as plain text ``width`` characters wide where that is no terminal."""
    terminal = Console()
    on_terminal = terminal.is_terminal
    # Not straight to standard output, so that all printing fails in one place: click.echo.
    text = io.StringIO()
    Console(file=text, force_terminal=on_terminal, width=terminal.width if on_terminal else width).print(what)
    # A table fills its last column with blanks; on a terminal they may carry a style, and nobody sees them.
    plain = text.getvalue()
    click.echo(plain if on_terminal else "\n".join(line.rstrip(" ") for line in plain.split("\n")), nl=False)


def screen(snapshot: Snapshot, height: int | None = None, notes: Sequence[str] = ()) -> RenderableType:
    """Return the whole screen, what needs a hand first.

    Args:
        snapshot: What to show.
        height: Lines there are; None = as many as it takes. Where they are few, long lines are cut short with "…",
            the oldest steps of the governor go first, then the stages, then all its steps, then the healthiest sources,
            then the lines on the budget from the last one on; some of these go for problems that take more than a
            line, too. Lines to spare go to the problems, so that they stand there whole, then to what was, then to the
            other lines and the tables.
        notes: What else to say of this answer.
    """
    return _Screen(snapshot, height, notes)


class _Screen:
    """Lays the screen out when its width is known."""

    def __init__(self, snapshot: Snapshot, height: int | None, notes: Sequence[str]) -> None:
        self._snapshot = snapshot
        self._height = height
        self._notes = notes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        if self._height is None:
            yield from self._whole(console, width)
        else:
            yield from self._fitted(console, width, self._height)

    def _whole(self, console: Console, width: int) -> RenderResult:
        s = self._snapshot
        for line in (*_head(s, self._notes), *_problems(s), *_past(s, None), *_rest(s), *_last_run(s),
                     *budget_lines(s)):
            yield from folded(console, line, width)
        yield _sources(s, None)
        for line in _grades(s):
            yield from folded(console, line, width)
        yield _stages(s)
        if steps := _steps(s):
            yield steps_table(steps, None)

    def _fitted(self, console: Console, width: int, height: int) -> RenderResult:
        s, steps = self._snapshot, _steps(self._snapshot)
        head, rest, budget = _head(s, self._notes), _rest(s), budget_lines(s)
        problems, most = _problems(s), max(height // 3, 1)
        if len(problems) > most:
            left_out = len(problems) - most + 1
            problems = [*problems[:most - 1], Text(f"          +{left_out} more problems", style="yellow")]
        count = len(head) + len(problems) + len(rest)
        budget = budget[:max(height - count - _TABLE_HEAD - min(len(s.sources), _LEAST_SOURCES), 1)]
        tables, table_rows = _tables(s, steps, height - count - len(budget))
        spare = max(height - count - len(budget) - table_rows, 0)
        # A problem told to its end, mend and all, is worth more than the last lines on the budget.
        wanted = min(sum(len(folded(console, line, width)) - 1 for line in problems), height // 6)
        given = max(min(wanted - spare, len(budget) - 1), 0)
        budget, spare = budget[:len(budget) - given], spare + given
        problems, spare = spread(console, problems, width, spare)
        extra = [[*_grades(s), *_last_run(s)][:spare], _past(s, _FEW_PAST)]
        extra[1] = extra[1][:spare - len(extra[0])]
        spare -= len(extra[0]) + len(extra[1])
        blocks: list[list[Text]] = []
        for lines in (head, rest, extra[0], extra[1], budget):
            block, spare = spread(console, lines, width, spare)
            blocks.append(block)
        yield from (*blocks[0], *problems, *blocks[3], *blocks[1], *blocks[2], *blocks[4])
        for ways, rows in tables:
            table = richest(console, ways, width, rows + spare)
            spare -= max(height_of(console, table, width) - rows, 0)
            yield table


_Ways = Sequence[Callable[[], RenderableType]]


def _tables(s: Snapshot, steps: GovernorView | None, left: int) -> tuple[list[tuple[_Ways, int]], int]:
    """Choose the tables that fit into ``left`` lines: sources, then a few steps, then the stages, then more steps.

    Returns:
        For each the ways to draw it, folded where there is room, and the rows that the plainest way takes; all rows.
    """
    left -= _TABLE_HEAD
    most = max(min(left, len(s.sources)), 1)
    shown = max(min(most, len(s.sources)), 1) if s.sources else 0
    tables: list[tuple[_Ways, int]] = [
        ((lambda: _sources(s, most, fold=True), lambda: _sources(s, most)), _TABLE_HEAD + shown)]
    left -= len(s.sources)
    few = min(len(steps.steps), _FEW_STEPS) + _TABLE_HEAD if steps else 0
    stages = _TABLE_HEAD + len(s.stages)
    if left >= few + stages:
        tables.append(((lambda: _stages(s),), stages))
        left -= stages
    if steps and left > _TABLE_HEAD:
        rows, given = min(left - _TABLE_HEAD, len(steps.steps)), steps
        tables.append((
            (lambda: steps_table(given, rows, fold=True), lambda: steps_table(given, rows)), _TABLE_HEAD + rows))
    return tables, sum(rows for _, rows in tables)


def _steps(s: Snapshot) -> GovernorView | None:
    return s.governor if s.governor and s.governor.steps else None


def _head(s: Snapshot, notes: Sequence[str]) -> list[Text]:
    state = Text(f"vedette {s.version} on {s.device}: ")
    state.append(s.state, style=f"bold {_COLOURS.get(s.state, '')}")
    if s.state == "starting" and s.doing not in {"", s.state}:
        state.append(f" ({s.doing})")
    if s.state_since_s is None:
        state.append(f" {lasting(s.uptime_s)}")
    else:
        state.append(f" {lasting(s.state_since_s)}, since {minute(time.time() - s.state_since_s)}")
        state.append(f", up {span(s.uptime_s)}")
    state.append(f", pid {s.pid}")
    told = [Text(f"note      {note}", style="yellow") for note in notes]
    if not (e := s.engine):
        return [state, *told, Text("engine    not loaded yet")]
    threads = f", {e.threads} thread{'s' * (e.threads != 1)}" if e.threads else ""
    engine = Text(f"engine    {e.name} {e.width}x{e.height} {e.precision}, {e.tier}, on {e.runtime} "
                  f"({e.provider}{threads}), identity {e.identity}, gated {ago(e.gated_at)}")
    return [state, *told, engine, *([Text(f"tuning    {e.tuning}")] if e.tuning else [])]


def _sources(s: Snapshot, rows: int | None, *, fold: bool = False) -> RenderableType:
    """Return the table of sources, the unhealthy first; with at most ``rows`` rows below its head.

    They have one line each, unless ``fold`` or without ``rows``.
    """
    shared = s.governor is not None and bool(s.governor.shares)
    headings = ("source", "state", "since", "age", "grade", "picture", "fps in", "done",
                *(("may have",) if shared else ()))
    table = plain_table(*headings, "skipped", wide=(0, len(headings)))
    sources = sorted(s.sources, key=lambda source: source.state in _HEALTHY)
    shown = sources if rows is None or len(sources) <= rows else sources[:rows - 1]
    cut = rows is not None and not fold
    for source in shown:
        table.add_row(
            cell(source.name, cut=cut), Text(source.state, style=_COLOURS.get(source.state, "")), span(source.since_s),
            "never" if source.last_frame_age_s is None else span(source.last_frame_age_s),
            Text(source.grade, style=_COLOURS.get(source.grade, "")),
            f"{source.width}x{source.height}" if source.width else "unknown",
            f"{source.seen_rate:.1f}", f"{source.processed_rate:.1f}",
            *((share_words(s.governor, source.name),) if shared else ()), cell(_skipped(source), cut=cut))
    left_out = len(sources) - len(shown)
    return Group(table, Text(f"+{left_out} more")) if left_out else table


def _grades(s: Snapshot) -> list[Text]:
    """Return a line on why sources are graded as they are; none when all are good."""
    told = "; ".join(f"{source.name} {source.grade}: {source.grade_why}" for source in s.sources
                     if source.grade_why and source.grade != "unknown")
    return [Text(f"grades    {told}")] if told else []


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
    text.append(f" {lasting(view.since_s)}: {view.reason}" if view.reason else "")
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
    since = {entry.words: entry.began_at for entry in s.problems_past if entry.ended_at is None}
    return [Text(f"problem   {f'{when(since[words])}  ' if words in since else ''}{' '.join(words.split())}",
                 style="yellow") for words in s.problems]


def _past(s: Snapshot, most: int | None) -> list[Text]:
    """Return lines on the problems that are over, the newest first."""
    over = [(entry, entry.ended_at) for entry in reversed(s.problems_past) if entry.ended_at is not None]
    return [Text(f"past      {when(entry.began_at)} to {when(ended_at)}"
                 f"{f', {entry.times} times' if entry.times > 1 else ''}  {' '.join(entry.words.split())}", style="dim")
            for entry, ended_at in over[:most]]


def _last_run(s: Snapshot) -> list[Text]:
    """Return a line on how the run before this one ended, and one on a start that failed after it; none without any."""
    lines, ran = [], [end for end in s.ends if end.how != NO_START]
    if s.ends and s.ends[-1].how == NO_START:
        lines.append(Text(f"last try  failed {ago(s.ends[-1].at)}: ").append(s.ends[-1].words, style="yellow"))
    if ran:
        last, bad = ran[-1], sum(end.how not in _WELL for end in ran)
        text = Text(f"last run  ended {ago(last.at)}: ")
        text.append(last.words or last.how, style="" if last.how in _WELL else "yellow")
        lines.append(text.append(f"; {bad} of the last {len(ran)} runs ended badly" if bad and len(ran) > 1 else ""))
    return lines
