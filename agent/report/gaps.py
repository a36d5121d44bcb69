"""Gaps: what was lost, as numbers that can be added up. Pure.

A gap becomes one ``gap`` event. As long as that event has not been sealed into a batch, what is lost later for the
same reason is added to it, so that a month offline is one gap and not a million.
"""

from collections import Counter
from typing import Literal, TypeVar

import msgspec

Reason = Literal["spool_full", "disk_full", "max_age", "memory_full", "dead_letter", "spool_reset", "unclean_stop"]
_MAX_DETAIL = 500
_T = TypeVar("_T", int, str)


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``gap`` event.

    Attributes:
        reason: Why: ``spool_full`` and ``disk_full`` the oldest of the least important made room for newer ones;
            ``max_age`` not delivered in time; ``memory_full`` could not be written and found no room in memory;
            ``dead_letter`` the upstream refuses it for good;
            ``spool_reset`` the spool's file was damaged or not ours and was set aside; ``unclean_stop`` the agent
            was killed or the power failed: what had not been committed.
        count: Events lost; None: not known, at most ``last - first + 1`` where these are given.
        first: Lowest sequence among them, None when they were never given one.
        last: Highest sequence among them.
        types: How many of which type, as far as known.
        since: ``time`` of the first lost event, RFC 3339, or None.
        until: ``time`` of the last.
        detail: More, for people.
    """

    reason: Reason
    count: int | None = None
    first: int | None = None
    last: int | None = None
    types: dict[str, int] = {}
    since: str | None = None
    until: str | None = None
    detail: str = ""


def merged(one: Gap, other: Gap) -> Gap:
    """Return both gaps, of the same reason, as one."""
    return Gap(
        reason=one.reason,
        count=None if one.count is None or other.count is None else one.count + other.count,
        first=min(_known(one.first, other.first), default=None), last=max(_known(one.last, other.last), default=None),
        types=dict(Counter(one.types) + Counter(other.types)),
        since=min(_known(one.since, other.since), default=None),
        until=max(_known(one.until, other.until), default=None),
        detail=(other.detail or one.detail)[:_MAX_DETAIL])


def can_merge(reason: Reason) -> bool:
    """Tell whether gaps of ``reason`` may become one: each dead letter is named alone, and each file set aside."""
    return reason not in {"dead_letter", "spool_reset"}


def _known(*values: _T | None) -> list[_T]:
    return [value for value in values if value is not None]
