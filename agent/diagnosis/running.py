"""Who answers on the status socket, and what it says: the service, another agent, nobody, or one that hangs."""

from pathlib import Path

import msgspec

from agent.asking import hang
from agent.diagnosis.around import Answers
from agent.diagnosis.service_facts import Running
from agent.errors import AgentError
from agent.snapshot import Snapshot
from agent.status import ask, fetch, silence
from agent.unit import ask_unit

_OK = 200


class _Version(msgspec.Struct):
    version: str = ""


def ask_agent(socket: Path, *, service: bool = False) -> tuple[Running, Snapshot | None]:
    """Ask the agent behind ``socket``; takes two seconds at most for each of three questions.

    Of an agent that hangs ``state`` is ``stopped`` where its process is; else it is empty.

    Args:
        socket: Where.
        service: It is the service's own, so systemd can tell of its agent.
    """
    try:
        snapshot = fetch(socket)
    except AgentError as error:
        answers: Answers = silence(error) or (
            "another version" if isinstance(error.__cause__, msgspec.DecodeError | RecursionError) else "odd")
        if answers == "hangs":
            unit = ask_unit() if service else None
            found = hang(socket, error, unit.main_pid if unit else None)
            return Running(socket=str(socket), answers=answers, said=found.why, pid=found.pid,
                           state="stopped" if found.stopped else ""), None
        version = _version(socket) if answers == "another version" else ""
        return Running(socket=str(socket), answers=answers, said=error.what, version=version), None
    try:
        alive: bool | None = ask(socket, "/health/live")[0] == _OK
    except AgentError:
        alive = None
    slowest = max(snapshot.heartbeats.items(), key=lambda beat: beat[1], default=None)
    return Running(
        socket=str(socket), answers="answers", version=snapshot.version, state=snapshot.state, pid=snapshot.pid,
        alive=alive, stale=f"{slowest[0]}, silent for {slowest[1]:.0f} s" if slowest and alive is False else ""
    ), snapshot


def _version(socket: Path) -> str:
    """Return the version of an agent whose status this one does not understand."""
    try:
        return msgspec.json.decode(ask(socket, "/status")[1], type=_Version).version
    except (AgentError, msgspec.DecodeError, RecursionError):
        return ""
