"""What a diagnosis is made of: rows, each with a verdict, in sections."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from agent.errors import EXIT_DEGRADED, EXIT_DOWN, EXIT_OK

Verdict = Literal["ok", "warn", "fail", "unknown"]
OVERALL = {EXIT_OK: "well", EXIT_DEGRADED: "degraded", EXIT_DOWN: "cannot work"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One check.

    Attributes:
        name: What was looked at.
        verdict: "unknown" where it could not be found out; that alone degrades nothing.
        found: What is there.
        remedy: How to mend it; empty where nothing needs mending.
        fatal: With this failure the agent cannot work as it is configured.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    fatal: bool = False


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that belong together."""

    name: str
    rows: tuple[Row, ...]


def exit_code(sections: Sequence[Section]) -> int:
    """Return 2 when something is fatal, 1 when a row is "fail" or "warn", else 0."""
    rows = [row for section in sections for row in section.rows]
    if any(row.fatal for row in rows):
        return EXIT_DOWN
    return EXIT_DEGRADED if any(row.verdict in {"fail", "warn"} for row in rows) else EXIT_OK


def size(count: int | None) -> str:
    """Return bytes in words, "unknown" where not known."""
    if count is None:
        return "unknown"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
