"""How the runs before this one ended, and how long a run should wait when they ended badly, one after the other.

A run that stops in good order says so itself. Of any other one systemd tells in ``last-end``, which the unit's
ExecStopPost writes; where that is missing too, power or the machine went. Of a start that failed before it was a run,
for its configuration cannot be used, say, the same line tells in ``last-start``. Values and small files, nothing else.
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
from agent.errors import EXIT_CONFIG, EXIT_SOFTWARE, EXIT_USAGE, AgentError
from agent.reading import read_small
from agent.redact import redact

_LOG = logging.getLogger(__name__)
FILE, LAST_END, LAST_START = "runs.json", "last-end", "last-start"
_KEPT, _LONGEST_WORDS = 20, 500
MOST_RUNS, MOST_END = 65536, 256
"""Bytes of the list, and of each of the other two, at most."""
_SHORT_S = 300.0
_LONGEST_WAIT_S = 60.0
STOPPED, NO_START = "stopped", "no-start"
_RESULTS = {  # see SERVICE_RESULT in systemd.exec(5)
    "watchdog": "the watchdog ended it: a part of it had stopped moving",
    "oom-kill": "the kernel killed it, its memory ran out",
    "timeout": "it did not start or stop in time and was killed",
    "core-dump": "it crashed",
    "resources": "systemd could not give it what it needs",
}
_HELD_DOWN = "memory-high"  # ExecStopPost adds it to ``watchdog``
_EXITS = {  # ours, and those of systemd.exec(5)
    f"{EXIT_USAGE}": "the command line cannot be used",
    f"{EXIT_SOFTWARE}": "a defect of the program",
    f"{EXIT_CONFIG}": "the configuration cannot be used",
    "203": "the program cannot be executed",
    "243": "systemd could not give it a credential",
}
_KNOWN = {"success", "protocol", "exit-code", "signal", "exec-condition", "start-limit-hit", *_RESULTS}
_WORDS = re.compile(r"([a-z-]+)(?: [A-Za-z0-9 -]*)?")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run, or the last of the starts that failed between two runs.

    Attributes:
        began_at: Seconds since the epoch; of a failed start when it ended.
        began_s: Seconds since the boot, sleep included; 0 of a failed start.
        boot: The boot's id; empty of a failed start.
        waited_s: How long it waited before it began to work.
        ended: ``stopped`` on request, ``ended`` by itself, ``no-start`` before it began, or in a word what ended it;
            empty while it runs.
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
        self.before = [*settled(_read(state_dir / FILE), *_taken(state_dir / LAST_END), boot),
                       *failed_start(*_taken(state_dir / LAST_START))]
        worked = [run for run in self.before if run.ended != NO_START]  # after a failed start ExecStopPost has waited
        bad = bad_in_a_row(worked, boot, now_s)
        self.wait_s = wait_after(bad) if waits else 0.0
        self.why = (f"{bad} runs in a row ended by themselves, the last one: {worked[-1].words}"
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
    if failed := failed_start(*last_end(state_dir / LAST_START)):
        return failed[-1]
    runs = _read(state_dir / FILE)
    words, at = last_end(state_dir / LAST_END)
    known = settled(runs, words, at, boot_id() or "") if words else runs
    return known[-1] if known else None


def settled(runs: Sequence[Run], last_end: str, at: float | None, boot: str) -> list[Run]:
    """Return the runs with an end for the last one; after them the start that systemd's words are about, if it failed.

    Args:
        runs: As they were kept.
        last_end: systemd's words on how the last one ended, ``watchdog killed ABRT``; empty where there are none.
        at: When it wrote them.
        boot: The present boot's id.
    """
    if not runs:
        return failed_start(last_end, at)
    last = runs[-1]
    result, _, rest = last_end.partition(" ")
    if rest.startswith("exited") and not last.ended and last.boot != boot:
        # A run that exits says how. This one was cut off with its boot, and what exited in the present one was no run.
        return [*settled(runs, "", None, boot), *failed_start(last_end, at)]
    if last.ended and result in {"", "success", "exit-code"}:
        return list(runs)
    if result and result != "success":
        ended, words = result, _in_words(result, rest)
    elif result:
        ended, words = STOPPED, "it was stopped"
    elif last.boot != boot:
        ended, words = "power", "the power failed, or the box was reset"
    else:
        ended, words = "killed", "it was killed, or it crashed"
    return [*runs[:-1], msgspec.structs.replace(last, ended=ended, words=words, ended_at=at)]


def failed_start(said: str, at: float | None) -> list[Run]:
    """Return a start that failed before it was a run; nothing where none did.

    Args:
        said: systemd's words on it, ``exit-code exited 78``; empty where there are none.
        at: When it wrote them.
    """
    result, _, rest = said.partition(" ")
    if result in {"", "success"}:
        return []
    return [Run(began_at=at or 0.0, began_s=0.0, boot="", ended=NO_START, ended_at=at,
                words=f"it never began its work: {_in_words(result, rest)}")]


def _in_words(result: str, rest: str) -> str:
    """Return systemd's words, of which ``rest`` are the exit code or signal and ours, as a sentence."""
    how, *more = rest.split() or [""]
    if result in _RESULTS:
        held = result == "watchdog" and _HELD_DOWN in more
        return f"{_RESULTS[result]}{'; the kernel had been holding its memory down at MemoryHigh' if held else ''}"
    if how == "exited" and more:
        return f"it ended with exit code {more[0]}{f', {_EXITS[more[0]]}' if more[0] in _EXITS else ''}"
    return f"it ended by {result} ({rest.strip()})"


def bad_in_a_row(runs: Sequence[Run], boot: str, now_s: float) -> int:
    """Return how many of the newest runs of this boot were short and not stopped on request.

    Args:
        runs: All have ended; no failed starts among them.
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


def _taken(file: Path) -> tuple[str, float | None]:
    """Return what ExecStopPost wrote and when, and remove it: it is about one run, or the start before this one."""
    word = last_end(file)
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("%s cannot be removed: %s", file, error)
    return word


def last_end(file: Path) -> tuple[str, float | None]:
    """Return what systemd said of an end and when; nothing where anything else stands there."""
    try:
        found = read_small(file, MOST_END)
    except OSError:
        return "", None
    words = found.data.decode("ascii", "replace").strip()
    said = _WORDS.fullmatch(words)
    return (words, found.at) if said and said[1] in _KNOWN else ("", None)
