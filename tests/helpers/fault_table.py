"""What each fault cost: filled by the fault tests, printed at the end of the test run."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Row:
    """One fault. ``lost``: committed, and neither stored by the upstream nor declared; ``twice``: stored again."""

    fault: str
    injected: str
    how_often: str
    committed: int
    lost: int
    duplicated: int
    declared: int


ROWS: list[Row] = []
_HEAD = Row("fault", "injected by", "how often", "committed", "lost", "duplicated", "declared")


def lines() -> list[str]:
    """Return the table as text, nothing when no fault test ran."""
    table = [[str(cell) for cell in astuple(row)] for row in (_HEAD, *ROWS)] if ROWS else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
