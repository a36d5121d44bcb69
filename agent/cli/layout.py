"""Lines that begin with a label, laid on a terminal: cut short where rows are few, folded over the rows to spare."""

from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType
from rich.text import Text

LABEL = 10  # characters: the label of a line and its gap


def folded(console: Console, line: Text, width: int) -> list[Text]:
    """Return the rows of a line on a terminal ``width`` wide; what is folded stands below what is behind the label."""
    if line.cell_len <= width:
        return [line]
    rows = list(line[LABEL:].wrap(console, max(width - LABEL, LABEL)))
    for row in rows:
        row.rstrip()
    return [line[:LABEL] + rows[0], *(Text(" " * LABEL) + row for row in rows[1:])]


def cut(line: Text, width: int) -> Text:
    """Return one row of a line; "…" stands for what does not fit."""
    short = line.copy()
    short.truncate(width, overflow="ellipsis")
    return short


def spread(console: Console, lines: Sequence[Text], width: int, spare: int) -> tuple[list[Text], int]:
    """Fold lines, the first ones first, over the rows to spare.

    Returns:
        The rows, and how many are still to spare.
    """
    rows: list[Text] = []
    for line in lines:
        all_of_it = folded(console, line, width) if spare else [cut(line, width)]
        most = min(len(all_of_it), 1 + spare)
        spare -= most - 1
        if most < len(all_of_it):  # the last row says that there is more
            rest = Text(" ").join(row[LABEL:] for row in all_of_it[most - 1:])
            all_of_it[most - 1] = cut(all_of_it[most - 1][:LABEL] + rest, width)
        rows += all_of_it[:most]
    return rows, spare


def height_of(console: Console, what: RenderableType, width: int) -> int:
    """Return how many rows something takes."""
    return len(console.render_lines(what, console.options.update(width=width, height=None), pad=False))


def richest(console: Console, ways: Sequence[Callable[[], RenderableType]], width: int, most: int) -> RenderableType:
    """Return the first way of drawing that takes at most ``most`` rows, else the last one."""
    for way in ways[:-1]:
        if height_of(console, what := way(), width) <= most:
            return what
    return ways[-1]()
