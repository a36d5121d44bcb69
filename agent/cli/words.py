"""Figures as people say them, and tables without lines: what several screens share."""

from collections.abc import Collection

from rich.table import Table
from rich.text import Text


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


def plain_table(*headings: str, wide: Collection[int] = ()) -> Table:
    """Return an empty table of which only the columns ``wide`` give way on a narrow terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number not in wide, min_width=len(heading))
    return table


def cell(text: str, *, cut: bool) -> Text:
    """Return what stands in a column that gives way: cut short with "…", or folded."""
    return Text(text, no_wrap=True, overflow="ellipsis") if cut else Text(text, overflow="fold")
