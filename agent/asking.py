"""Asks the agent how it is, and finds out why when nobody answers: from the socket, the process behind it and systemd.

systemd is asked only where the socket gives no answer, or another process than the service's answers: it costs a child
process. Imports neither numpy nor OpenCV.
"""

import getpass
import grp
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from agent import __version__
from agent.errors import EXIT_CONFIG, EXIT_DOWN, EXIT_USAGE, AgentError
from agent.machine import stopped
from agent.reading import read_small
from agent.runs import FILE as RUNS
from agent.runs import LAST_END, LAST_START, last_run
from agent.snapshot import LAST_STATUS, SCHEMA, EndView, Snapshot
from agent.status import ask, silence
from agent.unit import Unit, ask_unit

GROUP = "vedette"
_BRIEFLY_S = 0.05
MOST_STATUS = 4 << 20
"""Bytes of the status that a run leaves behind, at most."""
_UNAVAILABLE = 503
_JOURNAL = "`journalctl -u vedette -n 50` says why"
_ELSEWHERE = f"perhaps with another socket ([status] socket): `vedette status --socket PATH`; or {_JOURNAL}"
LET_GO_ON = "`sudo kill -CONT {}` lets it go on"

_NO_CREDENTIALS = 243  # EXIT_CREDENTIALS of systemd.exec(5)
_GIVE_CREDENTIALS = ("a file that a LoadCredential= line of its unit names is missing: write it below "
                     "/etc/vedette/credentials, or run `sudo vedette-setup`; systemd starts it again by itself")
# RestartPreventExitStatus of the unit: systemd does not start it again, and what a person does about it.
_FOR_GOOD = {
    EXIT_USAGE: f"its command line cannot be used: {_JOURNAL}, `systemctl cat vedette` shows it; then `sudo systemctl "
                "start vedette`",
    EXIT_CONFIG: "its configuration cannot be used: `sudo vedette config check`, mend it, then `sudo systemctl start "
                 "vedette`",
}

Absence = Literal["down", "failed", "starting", "restarting", "stopping", "hung", "unheard", "busy", "not_permitted",
                  "other_version", "foreign"]
# By systemd's active state: what it is when nobody is at the socket, and what to do.
_ABSENT: dict[str, tuple[Absence, str]] = {
    "failed": ("failed", f"{_JOURNAL}; then `sudo systemctl start vedette`"),
    "activating": ("starting", "wait; `journalctl -fu vedette` shows what it does"),
    "deactivating": ("stopping", "wait; what it has not delivered stays in the spool"),
    "inactive": ("down", "it is stopped: `sudo systemctl start vedette`"),
}


class NoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What ``vedette status --json`` prints when no agent answers, with exit code 2; ``answer`` is always null.

    ``state``: ``down`` nobody is there; ``failed`` the service ended badly and is not started again; ``starting`` it
    has no socket yet; ``restarting`` it ended badly and waits to be started again; ``stopping``; ``hung`` it takes the
    question and does not answer; ``unheard`` systemd says that it runs, but nobody is at the socket; ``busy`` too many
    ask; ``not_permitted`` this user may not ask; ``other_version`` its answer cannot be read; ``foreign`` what answers
    is no agent.

    ``why`` in words and ``mend`` what to do; ``asked_by`` the version of this command; ``version``, ``agent_state`` and
    ``problems`` what could be read of an answer of another version; ``pid`` who holds the socket; ``unit`` the service
    as systemd sees it, null where it was not asked or did not tell; ``last_end`` how the last run
    ended, or the last start failed; ``last_words`` what that run left behind.
    """

    schema: int
    answer: None
    state: Absence
    why: str
    mend: str
    socket: str
    asked_by: str
    version: str | None = None
    agent_state: str | None = None
    problems: list[str] = []
    pid: int | None = None
    unit: Unit | None = None
    last_end: EndView | None = None
    last_words: list[str] = []

    def exit_code(self) -> int:
        """Return 2: whatever the reason, nobody says that it is well."""
        return EXIT_DOWN


class Place(NamedTuple):
    """Where to ask.

    Attributes:
        path: The socket.
        service: It is the service's own, so systemd can tell of its agent.
        state_dir: Where that agent keeps its state; None = not known.
    """

    path: Path
    service: bool = False
    state_dir: Path | None = None


class Hang(NamedTuple):
    """Why the question is taken and not answered: in words, by which process (None = not known), is that stopped."""

    why: str
    pid: int | None
    stopped: bool


def look(place: Place, timeout_s: float = 2.0) -> Snapshot | NoAnswer:
    """Ask once.

    Args:
        place: Where.
        timeout_s: The agent may take this long, and systemd as long again.
    """
    try:
        code, body = ask(place.path, "/status", timeout_s)
    except AgentError as error:
        return _why_not(place, error, timeout_s)
    if code == _UNAVAILABLE:
        return _no_answer(place, "busy", f"the agent behind {place.path} is busy with others who ask", "ask again")
    try:
        return msgspec.json.decode(body, type=Snapshot)
    except (msgspec.DecodeError, RecursionError) as error:
        return _other_version(place, body, error)


def version_note(snapshot: Snapshot) -> Iterator[str]:
    """Yield a line when the agent is of another version than this command, whose answer can be read all the same."""
    if snapshot.version != __version__ or snapshot.schema != SCHEMA:
        yield (f"the agent is vedette {snapshot.version} (schema {snapshot.schema}), this command {__version__} "
               f"(schema {SCHEMA}): restart the agent after an upgrade, `sudo systemctl restart vedette`")


def stranger_note(snapshot: Snapshot, place: Place, timeout_s: float = 2.0) -> Iterator[str]:
    """Yield a line when another process than the service's answers; systemd may take ``timeout_s`` to tell."""
    if not place.service or not _outside_the_service(snapshot.pid):
        return
    unit = ask_unit(timeout_s=timeout_s)
    if unit and unit.installed and unit.main_pid != snapshot.pid:
        yield (f"what answers is process {snapshot.pid}, not the service, and {unit.name} is {unit.words}: is there a "
               f"second agent? `ps -p {snapshot.pid} -o args`")


def _no_answer(place: Place, state: Absence, why: str, mend: str, *, unit: Unit | None = None, pid: int | None = None
               ) -> NoAnswer:
    return NoAnswer(schema=SCHEMA, answer=None, state=state, why=why, mend=mend, socket=str(place.path),
                    asked_by=__version__, unit=unit, pid=pid)


def _why_not(place: Place, error: AgentError, timeout_s: float) -> NoAnswer:
    unit = ask_unit(timeout_s=timeout_s) if place.service else None
    match silence(error):
        case "not permitted":
            why = f"permission denied: {place.path} is for its group"
            return _no_answer(place, "not_permitted", why, _permit(place.path), unit=unit)
        case "nobody":
            return _nobody(place, unit)
        case "hangs":
            return _hung(place, error, unit)
    # No cause: something else than an agent answered, or we were sent away unanswered all the time.
    state: Absence = "down" if error.__cause__ else "foreign" if "no vedette agent" in error.what else "busy"
    return _no_answer(place, state, error.what, error.remedy, unit=unit)


def _nobody(place: Place, unit: Unit | None) -> NoAnswer:
    state, mend = _absent(unit)
    why = f"no agent answers on {place.path}"
    if state == "starting" and unit and unit.status_text:
        why += f"; it is starting: {unit.status_text}"
    end, words = _last_words(place.state_dir) if place.state_dir else (None, [])
    return msgspec.structs.replace(_no_answer(place, state, why, mend, unit=unit), last_end=end, last_words=words)


def _absent(unit: Unit | None) -> tuple[Absence, str]:
    """Return what it means that nobody is at the socket, and what to do."""
    if unit is None:
        return "down", ("is it running? `systemctl status vedette`, or `vedette run`; another socket: "
                        "`vedette status --socket PATH`")
    if not unit.installed:
        return "down", f"{unit.name} is not installed here; `vedette run` runs an agent by hand, see docs/operations.md"
    if (unit.active_state in {"deactivating", "failed"} and unit.result == "exit-code"
            and unit.exec_status in _FOR_GOOD):
        return "failed", _FOR_GOOD[unit.exec_status]
    ended_badly = unit.result not in {"", "success"}
    if unit.sub_state.startswith("auto-restart") or (unit.active_state == "deactivating" and ended_badly):
        if unit.exec_status == _NO_CREDENTIALS:
            return "restarting", _GIVE_CREDENTIALS
        return "restarting", f"{_JOURNAL}; systemd starts it again by itself"
    return _ABSENT.get(unit.active_state, ("unheard", _ELSEWHERE))[0], _mend_absent(unit)


def _mend_absent(unit: Unit) -> str:
    if unit.active_state == "inactive" and unit.unit_file_state != "enabled":
        return "it is stopped: `sudo systemctl enable --now vedette`"
    return _ABSENT.get(unit.active_state, ("", _ELSEWHERE))[1]


def hang(path: Path, error: AgentError, main_pid: int | None = None) -> Hang:
    """Return why ``error`` came of asking at the socket ``path``; ``main_pid``: the service's process, if known."""
    pid = _listener(path) or main_pid or None
    why = f"the agent behind {path} accepts but does not answer"
    if isinstance(error.__cause__, BlockingIOError):
        why += ", and its queue is full"
    halted = pid is not None and stopped(pid)
    if pid:
        why += f": process {pid} {'is stopped (by SIGSTOP, or by a debugger)' if halted else 'hangs'}"
    return Hang(why, pid, halted)


def _hung(place: Place, error: AgentError, unit: Unit | None) -> NoAnswer:
    found = hang(place.path, error, unit.main_pid if unit else None)
    mend = f"ask again, it may only be slow; if it stays so, {_JOURNAL}, and it must be restarted"
    if found.stopped:
        mend = LET_GO_ON.format(found.pid)
    if unit and unit.main_pid:
        mend += "; the watchdog restarts it, or at once `sudo systemctl restart vedette`"
    return _no_answer(place, "hung", found.why, mend, unit=unit, pid=found.pid)


def _other_version(place: Place, body: bytes, error: Exception) -> NoAnswer:
    """Return what can be read of an answer that does not fit."""
    mend = "use the `vedette` of the installation that runs, or restart the agent: `sudo systemctl restart vedette`"
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return _no_answer(place, "foreign", f"what answers on {place.path} is no vedette agent, or its answer was cut "
                                            f"short: {error}", "give the right socket: --socket PATH")
    version, state, problems, pid = (said.get(key) for key in ("version", "state", "problems", "pid"))
    runs = f"vedette {version}" if isinstance(version, str) else "an unknown version"
    return msgspec.structs.replace(
        _no_answer(place, "other_version", f"the agent behind {place.path} is {runs}, this command is {__version__}: "
                   f"its answer cannot be read ({error})", mend, pid=pid if isinstance(pid, int) else None),
        version=version if isinstance(version, str) else None, agent_state=state if isinstance(state, str) else None,
        problems=[each for each in problems if isinstance(each, str)] if isinstance(problems, list) else [])


def _permit(path: Path) -> str:
    try:
        group = grp.getgrgid(path.parent.stat().st_gid).gr_name
    except (OSError, KeyError):
        group = GROUP
    group = GROUP if group == "root" else group
    user, member = "", False
    try:
        user = getpass.getuser()
        member = user in grp.getgrnam(group).gr_mem
    except (KeyError, OSError):
        pass  # a user or a group without a name
    if member:
        return f"{user} is in the group {group}, but this session began before: log in again, or `newgrp {group}`"
    return f"`sudo usermod -aG {group} $USER`, then log in again"


def _outside_the_service(pid: int) -> bool:
    try:
        return "/vedette.service" not in Path(f"/proc/{pid}/cgroup").read_text("utf-8")
    except OSError:
        return False  # not known


def _listener(path: Path) -> int | None:
    """Return the process that listens on the socket, as the kernel knows it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_BRIEFLY_S)
            client.connect(os.fspath(path))
            pid: int = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    except OSError:
        return None
    return pid or None


def _last_words(state_dir: Path) -> tuple[EndView | None, list[str]]:
    """Return how the last run ended: one that stops in good order leaves its status behind, and none other does."""
    end = _last_end(state_dir)
    word = state_dir / LAST_STATUS
    try:
        found = read_small(word, MOST_STATUS)
        last = msgspec.json.decode(found.data, type=Snapshot)
    except FileNotFoundError:
        if end:
            return end, []
        if (state_dir / "spool.sqlite").is_file():
            return None, ["the last run left no word: it was killed, it crashed, the power failed or its disk was full",
                          "  what it had committed is there: vedette spool status, vedette spool verify"]
        return None, []
    except (OSError, RecursionError, msgspec.DecodeError) as error:
        return end, [f"{word} cannot be read: {error}"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.at))
    waiting, dead = (last.spool.depth, last.spool.dead) if last.spool else (0, 0)
    left = f"{waiting} events{f' and {dead} dead letters' if dead else ''} left in the spool"
    return end, [f"the last run stopped in good order at {when} after {last.uptime_s:.0f} s, {left}",
                 *(f"  its problem then: {problem}" for problem in last.problems)]


def _last_end(state_dir: Path) -> EndView | None:
    may = any(os.access(state_dir / name, os.R_OK) for name in (RUNS, LAST_END, LAST_START))
    run = last_run(state_dir) if may else None
    return EndView(at=run.ended_at, how=run.ended, words=run.words) if run and run.ended else None
