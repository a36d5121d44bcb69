"""The facts about the service: its unit, the agent behind the socket, and what the unit and its user may touch."""

from typing import Literal

import msgspec

from agent.diagnosis.around import Answers
from agent.unit import Unit

Access = Literal["yes", "no", "not there", "not known"]


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers on the status socket.

    ``said``: why nobody does. ``alive``: all heartbeats are fresh; None = not told.
    """

    socket: str
    answers: Answers
    said: str = ""
    version: str = ""
    state: str = ""
    pid: int | None = None
    alive: bool | None = None
    stale: str = ""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The user the service runs as; ``groups`` its groups, those of the unit included."""

    name: str
    uid: int
    gids: tuple[int, ...]
    groups: tuple[str, ...]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A device node of this box. ``driver``: as in /proc/devices; ``access``: may the service's user open it."""

    path: str
    driver: str = ""
    group: str = ""
    access: Access = "not known"


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder that the configuration names. ``key``: by which key; ``hidden``: by what of the unit."""

    key: str
    path: str
    access: Access
    write: bool = False
    hidden: str = ""


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A ``credential:NAME`` of the configuration: is the unit given it, and is its file there (None = not known)."""

    key: str
    name: str
    loaded: bool
    file: str
    there: bool | None


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What the unit allows, as ``systemctl show`` tells it.

    Attributes:
        device_policy: ``auto``, ``closed``, ``strict``.
        devices: ``DeviceAllow``: a node, or ``char-NAME``, and its rights.
        private_devices: Only pseudo devices are seen.
        protect_home: ``no``, ``yes``, ``read-only``, ``tmpfs``.
        private_tmp: /tmp and /var/tmp are its own.
        inaccessible: Paths that are hidden.
        binds: Folders and files that are shown all the same, and where.
        credentials: Names it is given.
    """

    device_policy: str = "auto"
    devices: tuple[tuple[str, str], ...] = ()
    private_devices: bool = False
    protect_home: str = "no"
    private_tmp: bool = False
    inaccessible: tuple[str, ...] = ()
    binds: tuple[tuple[str, str], ...] = ()
    credentials: tuple[str, ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """All of them.

    Attributes:
        systemd: systemd runs here.
        unit: What it knows of the service; None = it gave no answer.
        running: Who answers on the socket.
        version: Of this command's installation.
        last_end: How the last run ended, in a word: ``stopped``, ``watchdog`` …; empty = it goes on, or is not known.
        last_words: The same in words.
        sandbox: None = not asked, or there is no unit.
        account: None = there is no such user.
        user: Name of the service's user.
        nodes: Device nodes that the agent might need.
        files: What the configuration names.
        secrets: Credentials that the configuration names.
        strangers: Files in the state directory that the service's user does not own, the first few.
        runtime_owner: Owner of the runtime directory; empty = it is not there.
    """

    systemd: bool
    running: Running
    version: str
    unit: Unit | None = None
    last_end: str = ""
    last_words: str = ""
    sandbox: Sandbox | None = None
    account: Account | None = None
    user: str = "vedette"
    nodes: tuple[Node, ...] = ()
    files: tuple[Needed, ...] = ()
    secrets: tuple[Secret, ...] = ()
    strangers: tuple[str, ...] = ()
    runtime_owner: str = ""
