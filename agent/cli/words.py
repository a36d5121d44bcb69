"""Figures as people say them, and tables without lines: what several screens share.

``rich`` is loaded by what draws a table, and not by those who only want the words.
"""

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_OLD_S = 12 * 3600.0


def span(seconds: float | None) -> str:
    """Return a duration as people say it: ``85 ms``, ``12 s``, ``3 h 5 min``, or ``unknown``."""
    if seconds is None:
        return "unknown"
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} d {minutes // 60 % 24} h"


def lasting(seconds: float | None) -> str:
    """Return how long something has been so: ``for 12 s``, or ``just now`` below a second."""
    return "just now" if seconds is not None and seconds < 1 else f"for {span(seconds)}"


def amount(count: float | None) -> str:
    """Return bytes as people say them, or ``unknown``."""
    if count is None:
        return "unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def when(at: float, now: float | None = None) -> str:
    """Return a moment, in seconds since the epoch, as a person reads it off a clock; with its date when it is old."""
    return time.strftime("%m-%d %H:%M" if _is_old(at, now) else "%H:%M:%S", time.localtime(at))


def minute(at: float, now: float | None = None) -> str:
    """Return the same without its seconds, for what is drawn again every second."""
    return when(at, now)[:11 if _is_old(at, now) else 5]


def ago(at: float | None, now: float | None = None) -> str:
    """Return how long ago a moment was: ``3 d 2 h ago``, ``just now``, or ``unknown when``."""
    if at is None:
        return "unknown when"
    seconds = (time.time() if now is None else now) - at
    return f"{span(seconds)} ago" if seconds >= 1 else "just now"


def _is_old(at: float, now: float | None) -> bool:
    return abs((time.time() if now is None else now) - at) > _OLD_S


def plain_table(*headings: str, wide: Collection[int] = ()) -> "Table":
    """Return an empty table of which only the columns ``wide`` give way on a narrow terminal."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number not in wide, min_width=len(heading))
    return table


def cell(text: str, *, cut: bool) -> "Text":
    """Return what stands in a column that gives way: cut short with "…", or folded."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis") if cut else Text(text, overflow="fold")
