"""The screens of ``vedette spool``."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.cli.screen import amount, cell, plain_table, span
from agent.report.contents import Stored, head_of
from agent.report.figures import Declared, Figures
from agent.report.proof import Proof
from agent.report.sealing import time_of

_CLASSES = ("0, goes first", "1", "2", "3, never")
_MOST_GAPS = 10
_Line = tuple[str, Text]


def figures_screen(found: Figures) -> RenderableType:
    """Return what ``vedette spool status`` shows."""
    lines = [_line("file", f"{found.file}, {_held(found.agent_pid)}"), _line("events", _events(found))]
    lines.append(_line("bytes", f"{amount(found.file_bytes)} file, {amount(found.journal_bytes)} journal, "
                       + (f"{amount(found.ballast_bytes)} ballast" if found.ballast_bytes else "no ballast")))
    lines += [_line("dead", f"{_count(count, 'letter')}: {why}", "yellow") for why, count in found.dead.items()]
    if found.dead:
        lines.append(_line("", "look: vedette spool peek --dead; then retry-dead or drop-dead"))
    lines += [_line("gap", f"{_gap(gap)}; not delivered yet", "yellow") for gap in found.undelivered_gaps[:_MOST_GAPS]]
    if len(found.undelivered_gaps) > _MOST_GAPS:
        lines.append(_line("", f"+{len(found.undelivered_gaps) - _MOST_GAPS} more gaps not delivered yet", "yellow"))
    lost = ", ".join(f"{count} {why}" for why, count in sorted(found.lost.items()))
    lines.append(_line("lost", lost, "yellow") if lost else _line("lost", "nothing since this file was made"))
    lines += [_line("aside", f"{one.name}, {amount(one.bytes)}", "yellow") for one in found.set_aside]
    if found.unreadable_batches:
        lines.append(_line("problem", f"{found.unreadable_batches} of {_count(found.batches, 'batch')} cannot be read: "
                           "vedette spool verify", "yellow"))
    lines.append(_line("upstream", "how the delivery goes: vedette status"))
    if not found.types:
        return _sheet(lines)
    types = plain_table("type", "class", "waiting", "sealed", wide=(0,))
    for kind in found.types:
        types.add_row(cell(kind.type, cut=False), _CLASSES[kind.class_], str(kind.waiting), str(kind.sealed))
    return Group(_sheet(lines), types)


def _events(found: Figures) -> str:
    if not found.waiting + found.sealed:
        return f"none, last sequence {found.sequence}"
    return (f"{found.waiting} waiting, {found.sealed} in {_count(found.batches, 'sealed batch')}, "
            f"oldest {span(found.oldest_age_s)}, last sequence {found.sequence}")


def _gap(gap: Declared) -> str:
    lost = "an unknown number of events" if gap.count is None else _count(gap.count, "event")
    which = "" if gap.first is None or gap.last is None else (
        f", sequence {gap.first}" if gap.first == gap.last else f", sequence {gap.first}\u2013{gap.last}")
    return f"{gap.reason}: {lost}{which}"


def events_screen(found: Sequence[Stored], *, dead: bool) -> RenderableType:
    """Return what ``vedette spool peek`` shows."""
    if not found:
        return Text("no dead letters" if dead else "no events wait")
    shown = plain_table("sequence", "type", "subject", "time", "bytes", "why" if dead else "where", wide=(2, 5))
    for one in found:
        where = one.why if dead else one.where if len(one.where) < 64 else f"batch {one.where[:8]}"
        shown.add_row(str(one.sequence), Text(one.type), cell(one.subject or "-", cut=False), _time(one),
                      str(len(one.body)), cell(where, cut=False))
    if not dead:
        return shown
    return Group(shown, *(Text(f"id of {one.sequence}: {one.id}", overflow="fold") for one in found))


def _time(one: Stored) -> str:
    if head_of(one.body) is None:
        return "unreadable"
    at = time_of(one.body)
    return f"{at[:10]} {at[11:19]}Z" if at else "unknown"


def proof_screen(proof: Proof) -> RenderableType:
    """Return what ``vedette spool verify`` shows."""
    here = (f"{proof.waiting} waiting, {proof.sealed} in {_count(proof.batches, 'batch')}, "
            f"{_count(proof.dead, 'dead letter')}")
    if proof.first is None:
        numbers = f"all up to {proof.last} have left"
    else:
        numbers = f"{proof.first} to {proof.last}: {here}; {proof.declared} declared lost"
    pages = proof.pages + (": the agent would have to wait for it; stop it, or verify a copy"
                           if proof.pages == "not checked" else "")
    lines = [
        _line("file", f"{proof.file}, {_held(proof.agent_pid)}"), _line("pages", pages), _line("numbers", numbers),
        _line("bodies", f"{proof.bodies} of {proof.waiting + proof.sealed + proof.dead} agree with their rows")]
    if proof.proven:
        lines.append(_line("verdict", "proven: every number given has left, is here, or is declared lost", "green"))
        return _sheet(lines)
    lines += [_line("finding", text, "red") for text in proof.findings]
    if proof.more_findings:
        lines.append(_line("", f"+{proof.more_findings} more", "red"))
    total = len(proof.findings) + proof.more_findings
    lines.append(_line("verdict", f"not proven: {_count(total, 'finding')}", "bold red"))
    return _sheet(lines)


def _line(label: str, text: str, style: str = "") -> _Line:
    return label, Text(" ".join(text.split()), style=style, overflow="fold")


def _sheet(lines: Sequence[_Line]) -> Table:
    sheet = Table.grid(padding=(0, 1, 0, 0))
    sheet.add_column(width=9, no_wrap=True)
    sheet.add_column()
    for label, text in lines:
        sheet.add_row(label, text)
    return sheet


def _held(pid: int | None) -> str:
    return "no agent has it open" if pid is None else f"the agent runs, pid {pid}"


def _count(number: int, what: str) -> str:
    ending = "" if number == 1 else "es" if what.endswith("ch") else "s"
    return f"{number} {what}{ending}"
