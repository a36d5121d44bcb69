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
    "oom-kill": "it was killed, and memory ran out in its control group",
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
_WORDS = re.compile(rf"(?P<result>[a-z-]+)(?P<rest> (?:exited|killed|dumped) [A-Z0-9+-]+(?: {_HELD_DOWN})?)?"
                    r"(?: (?P<boot>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))?")


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
        now_s, boot = time.clock_gettime(time.CLOCK_BOOTTIME), boot_id()
        self.before = with_failed_start(settled(_read(state_dir / FILE), *_taken(state_dir / LAST_END), boot),
                                        *_taken(state_dir / LAST_START), boot)
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
    runs, boot = _read(state_dir / FILE), boot_id()
    words, at = last_end(state_dir / LAST_END)
    known = settled(runs, words, at, boot) if words else runs
    known = with_failed_start(known, *last_end(state_dir / LAST_START), boot)
    return known[-1] if known else None


def settled(runs: list[Run], last_end: str, at: float | None, boot: str) -> list[Run]:
    """Return the runs with an end for the last one; after them the start that systemd's words are about, if it failed.

    Args:
        runs: As they were kept.
        last_end: systemd's words on how the last one ended, ``watchdog killed ABRT``; empty where there are none.
        at: When it wrote them.
        boot: The present boot's id.
    """
    result, rest, ended_in = _parts(last_end)
    if not runs:
        return with_failed_start(runs, last_end, at, boot)
    last = runs[-1]
    if ended_in not in {"", last.boot}:  # the run left no word, for its boot ended: a start that failed later did
        return with_failed_start(settled(runs, "", None, boot), last_end, at, boot)
    if last.ended and result in {"", "success", "exit-code"}:
        return runs
    if result and result != "success":
        ended, words = result, _in_words(result, rest)
    elif result:
        ended, words = STOPPED, "it was stopped"
    elif last.boot != boot:
        ended, words = "power", "the power failed, or the box was reset"
    else:
        ended, words = "killed", "it was killed, or it crashed"
    return [*runs[:-1], msgspec.structs.replace(last, ended=ended, words=words, ended_at=at)]


def with_failed_start(runs: list[Run], said: str, at: float | None, boot: str) -> list[Run]:
    """Return the runs and the start after the last of them that failed, if one did; of several only the last one.

    Args:
        runs: Those before it.
        said: systemd's words on it, ``exit-code exited 78``; empty where there are none.
        at: When it wrote them.
        boot: The present boot's id.
    """
    result, rest, failed_in = _parts(said)
    if result in {"", "success"}:
        return runs
    at = at or 0.0
    if runs and _began_after(runs[-1], at, failed_in, boot):  # an older version, say, which leaves the words lying
        return runs
    before = runs[:-1] if runs and runs[-1].ended == NO_START else runs
    return [*before, Run(began_at=at, began_s=0.0, boot="", ended=NO_START, ended_at=at,
                         words=f"it never began its work: {_in_words(result, rest)}")]


def _began_after(run: Run, at: float, said_in: str, boot: str) -> bool:
    """Tell whether a run began after words were written ``at`` a time in the boot ``said_in``.

    Where only one of the two is of the present boot, that is the later one: the clock may have been set since.
    """
    if said_in and (said_in == boot) != (run.boot == boot):
        return run.boot == boot
    return run.began_at > at


def _parts(said: str) -> tuple[str, str, str]:
    """Return of systemd's words the result, the exit code or signal with ours, and the boot they were written in.

    A unit of an older version writes no boot; empty then.
    """
    found = _WORDS.fullmatch(said)
    return (found["result"], (found["rest"] or "").strip(), (found["boot"] or "").replace("-", "")
            ) if found else ("", "", "")


def _in_words(result: str, rest: str) -> str:
    """Return systemd's words, of which ``rest`` are the exit code or signal and ours, as a sentence."""
    how, *more = rest.split() or [""]
    if result in _RESULTS:
        held = result == "watchdog" and _HELD_DOWN in more
        return f"{_RESULTS[result]}{'; the kernel had been holding its memory down at MemoryHigh' if held else ''}"
    if how == "exited":
        return f"it ended with exit code {more[0]}{f', {_EXITS[more[0]]}' if more[0] in _EXITS else ''}"
    return f"it ended by {result}{f' ({rest})' if rest else ''}"


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
    return (words, found.at) if _parts(words)[0] in _KNOWN else ("", None)
