"""How the runs before this one ended, and how long a run should wait when they ended badly, one after the other.

A run that stops in good order says so itself. Of any other one systemd tells in ``last-end``, which the unit's
ExecStopPost writes; where that is missing too, power or the machine went. Values and one small file, nothing else.
"""

import logging
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import msgspec

from agent.atomic import write_atomic
from agent.clock import boot_id
from agent.errors import AgentError
from agent.reading import read_small
from agent.redact import redact

_LOG = logging.getLogger(__name__)
FILE, LAST_END = "runs.json", "last-end"
_KEPT, _LONGEST_WORDS = 20, 500
MOST_RUNS, MOST_END = 65536, 256
"""Bytes of the two files, at most."""
_SHORT_S = 300.0
_LONGEST_WAIT_S = 60.0
STOPPED = "stopped"
_RESULTS = {  # see SERVICE_RESULT in systemd.exec(5)
    "watchdog": "the watchdog ended it: a part of it had stopped moving",
    "oom-kill": "the kernel killed it, its memory ran out",
    "timeout": "it did not start or stop in time and was killed",
    "core-dump": "it crashed",
    "resources": "systemd could not give it what it needs",
}
_KNOWN = {"success", "protocol", "exit-code", "signal", "exec-condition", "start-limit-hit", *_RESULTS}
_WORDS = re.compile(r"([a-z-]+)(?: [A-Za-z0-9 -]*)?")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        began_at: Seconds since the epoch.
        began_s: Seconds since the boot, sleep included.
        boot: The boot's id.
        waited_s: How long it waited before it began to work.
        ended: ``stopped`` on request, ``ended`` by itself, or in a word what ended it; empty while it runs.
        words: The same in words.
        ended_at: Seconds since the epoch; None where nobody saw it.
    """

    began_at: float
    began_s: float
    boot: str
    waited_s: float = 0.0
    ended: str = ""
    words: str = ""
    ended_at: float | None = None


class Runs(AbstractContextManager["Runs"]):
    """The runs of one state directory; made at the start of a run, which is then the last of them.

    An exception that leaves its ``with`` block is kept as how the run ended.

    Args:
        state_dir: Where they are kept; nobody else may run in it now.
        waits: Wait after bad ends; a person who starts the agent by hand should not.

    Attributes:
        before: The earlier runs, the newest last; all have ended.
        wait_s: How long this run should wait before it begins to work, seconds.
        why: In words why.
    """

    def __init__(self, state_dir: Path, *, waits: bool) -> None:
        self._state_dir = state_dir
        now_s, boot = time.clock_gettime(time.CLOCK_BOOTTIME), boot_id() or ""
        self.before = settled(_read(state_dir / FILE), *_last_end(state_dir / LAST_END), boot)
        bad = bad_in_a_row(self.before, boot, now_s)
        self.wait_s = wait_after(bad) if waits else 0.0
        self.why = (f"{bad} runs in a row ended by themselves, the last one: {self.before[-1].words}"
                    if self.wait_s else "")
        self._run = Run(began_at=time.time(), began_s=now_s, boot=boot, waited_s=self.wait_s)
        self._keep()

    def end(self, ended: str, words: str) -> None:
        """Keep how this run ends."""
        words = redact(words)[:_LONGEST_WORDS]
        self._run = msgspec.structs.replace(self._run, ended=ended, words=words, ended_at=time.time())
        self._keep()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if error is not None:
            known = isinstance(error, AgentError)
            self.end("failed" if known else "defect", str(error) if known else repr(error))

    def _keep(self) -> None:
        try:
            write_atomic(self._state_dir / FILE, msgspec.json.encode([*self.before, self._run][-_KEPT:]))
        except OSError as error:  # a full disk: how this run ends is told less exactly, nothing more
            _LOG.warning("%s cannot be written: %s", self._state_dir / FILE, error)


def last_run(state_dir: Path) -> Run | None:
    """Return the last run as far as it is known, also while it goes on; None when there was none. Changes nothing."""
    runs = _read(state_dir / FILE)
    if not runs:
        return None
    words, at = last_end(state_dir / LAST_END)
    if words:
        return settled(runs[-1:], words, at, runs[-1].boot)[-1]
    return runs[-1]


def settled(runs: Sequence[Run], last_end: str, at: float | None, boot: str) -> list[Run]:
    """Return the runs with an end for the last one.

    Args:
        runs: As they were kept.
        last_end: systemd's words on how the last one ended, ``watchdog killed ABRT``; empty where there are none.
        at: When it wrote them.
        boot: The present boot's id.
    """
    if not runs:
        return []
    last = runs[-1]
    result, _, rest = last_end.partition(" ")
    if last.ended and result in {"", "success", "exit-code"}:
        return list(runs)
    if result and result != "success":
        ended, words = result, _RESULTS.get(result, f"it ended by {result} ({rest.strip()})")
    elif result:
        ended, words = STOPPED, "it was stopped"
    elif last.boot != boot:
        ended, words = "power", "the power failed, or the box was reset"
    else:
        ended, words = "killed", "it was killed, or it crashed"
    return [*runs[:-1], msgspec.structs.replace(last, ended=ended, words=words, ended_at=at)]


def bad_in_a_row(runs: Sequence[Run], boot: str, now_s: float) -> int:
    """Return how many of the newest runs of this boot were short and not stopped on request.

    Args:
        runs: All have ended.
        boot: The present boot's id.
        now_s: Seconds since the boot.
    """
    count, until_s = 0, now_s
    for run in reversed(runs):
        if run.boot != boot or run.ended == STOPPED or until_s - run.began_s - run.waited_s > _SHORT_S:
            break
        count, until_s = count + 1, run.began_s
    return count


def wait_after(bad: int) -> float:
    """Return the seconds to wait after so many bad ends: none after the first one, then 2, 4, 8 … 60."""
    return 0.0 if bad < 2 else min(2.0 ** (bad - 1), _LONGEST_WAIT_S)


def _read(file: Path) -> list[Run]:
    try:
        return msgspec.json.decode(read_small(file, MOST_RUNS).data, type=list[Run])
    except FileNotFoundError:
        return []
    except (OSError, RecursionError, msgspec.DecodeError) as error:
        _LOG.warning("%s cannot be read, earlier runs are forgotten: %s", file, error)
        return []


def _last_end(file: Path) -> tuple[str, float | None]:
    """Return what ExecStopPost wrote and when, and remove it: it is about one run."""
    word = last_end(file)
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("%s cannot be removed: %s", file, error)
    return word


def last_end(file: Path) -> tuple[str, float | None]:
    """Return what systemd said of the last end and when; nothing where anything else stands there."""
    try:
        found = read_small(file, MOST_END)
    except OSError:
        return "", None
    words = found.data.decode("ascii", "replace").strip()
    said = _WORDS.fullmatch(words)
    return (words, found.at) if said and said[1] in _KNOWN else ("", None)
