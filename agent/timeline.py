"""What was wrong, from when until when: the last few problems of a run. Values only, no I/O.

A problem's words change while it lasts (``for 12 s``), so it is known by a key. One that comes back within a minute is
the same one: a camera that flaps must not push everything else out of the list.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

KEPT = 20
_SAME_S = 60.0
_NUMBER = re.compile(r"(?<![\w.-])\d[\d.,]*(?!\w|-\w)")


class Problem(NamedTuple):
    """What is wrong now: what it is known by, and in words."""

    key: str
    words: str


@dataclass(slots=True)
class Entry:
    """One problem; times by the monotonic clock, ``ended_s`` None while it lasts, ``times`` how often it began."""

    key: str
    words: str
    began_s: float
    ended_s: float | None = None
    times: int = 1


def keyed(words: str) -> Problem:
    """Return a problem known by its words without the numbers in them."""
    return Problem(_NUMBER.sub("#", words), words)


class Timeline:
    """The last problems, in the order they began; safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: list[Entry] = []

    def see(self, problems: Iterable[Problem]) -> list[Entry]:
        """Take what is wrong now; return copies of what is kept."""
        now_s, there = self._clock(), dict(problems)
        with self._lock:
            for entry in self._entries:
                if entry.ended_s is None and entry.key not in there:
                    entry.ended_s = now_s
            for key, words in there.items():
                self._begin(key, words, now_s)
            self._drop()
            return [Entry(each.key, each.words, each.began_s, each.ended_s, each.times) for each in self._entries]

    def _begin(self, key: str, words: str, now_s: float) -> None:
        last = next((entry for entry in reversed(self._entries) if entry.key == key), None)
        if last is None or (last.ended_s is not None and now_s - last.ended_s > _SAME_S):
            self._entries.append(Entry(key, words, now_s))
            return
        last.words = words
        if last.ended_s is not None:
            last.ended_s, last.times = None, last.times + 1

    def _drop(self) -> None:
        """Keep the newest; what is over goes before what lasts."""
        while len(self._entries) > KEPT:
            over = next((entry for entry in self._entries if entry.ended_s is not None), self._entries[0])
            self._entries.remove(over)
