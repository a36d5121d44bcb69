"""The facts about what is around the agent: cameras, disk, clock, upstream, engines, sensors, service, sandbox.

What is not known is None; nothing here is a judgement, and nothing here holds a secret.
"""

from typing import Literal

import msgspec

from agent.clock import Trust

Answers = Literal["answers", "nobody", "not permitted", "hangs", "another version", "odd"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One configured source.

    Attributes:
        url: Its address, without secrets.
        asked: ``opened`` here, ``agent`` (the running agent was asked), or ``not asked``.
        state: The running agent's word for it; empty where it was opened here.
        width: Of the frame that was read, and ``height``; None = none was.
        first_frame_s: From opening it to its first frame.
        fault: Why there was no frame; ``remedy`` how to mend it.
        unsure: ``fault`` says why it could not be tried, not that the source is bad.
    """

    name: str
    url: str
    asked: Literal["opened", "agent", "not asked"] = "opened"
    state: str = ""
    width: int | None = None
    height: int | None = None
    first_frame_s: float | None = None
    fault: str | None = None
    remedy: str = ""
    unsure: bool = False


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """What writing to the state directory takes.

    Attributes:
        written: Bytes that were written and synced.
        rate: Bytes per second, sync included.
        commit_s: The longest of a few small writes with a sync, as the spool makes them.
        fault: Why it was not measured.
    """

    written: int = 0
    rate: float | None = None
    commit_s: float | None = None
    fault: str | None = None


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate's end, seconds since the epoch: of ``ca``, ``client`` or ``server``.

    ``ended`` of ``count`` authorities in one file have ended already; ``ends`` is that of the one that lasts longest.
    """

    role: Literal["ca", "client", "server"]
    file: str = ""
    ends: float | None = None
    count: int = 1
    ended: int = 0
    fault: str | None = None


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """What asking the upstream gave; an empty batch was posted, which delivers nothing.

    Attributes:
        url: Its address, without secrets.
        proxy: The proxy's address, without secrets; empty = none.
        host: Whose name was looked up: the upstream's, or the proxy's.
        addresses: What it resolved to.
        name_fault: Why it did not.
        status: The answer's HTTP status; 0 = there was none.
        kind: What the agent would do with such an answer: ack, retry, hold, halve, reject.
        reason: Why there was no good answer.
        secrets_fault: Why the credentials could not be used; ``remedy`` how to mend it.
        unsure: ``secrets_fault`` means that this user may not read them.
        tls: Version of the connection, ``TLSv1.3``.
        token: A bearer token went along.
        certificates: Whose end is known, or why it is not.
        took_s: From the request to the answer.
    """

    url: str
    proxy: str = ""
    host: str = ""
    addresses: tuple[str, ...] = ()
    name_fault: str | None = None
    status: int = 0
    kind: str = ""
    reason: str = ""
    secrets_fault: str | None = None
    remedy: str = ""
    unsure: bool = False
    tls: str | None = None
    token: bool = False
    certificates: tuple[Certificate, ...] = ()
    took_s: float | None = None


class StoredEngine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. ``misfit``: why it does not fit this machine; ``serves``: it is what a tuning here has kept."""

    recipe: str
    form: str
    identity: str
    bytes: int
    whole: bool
    serves: bool = False
    misfit: tuple[str, ...] = ()


class EngineStore(msgspec.Struct, frozen=True, kw_only=True):
    """The store of built engines. ``quarantined``: recipe and reason; ``damaged``: file and what is wrong with it."""

    engines: tuple[StoredEngine, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    fault: str | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits in ``[budget]``, those of quiet hours included: whether they are set, not how high."""

    telemetry: str = "auto"
    watts: bool = False
    celsius: bool = False
    memory: bool = False
    settings: bool = False


class Sensors(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader in use says now. ``by``: ``here`` or ``agent``, whoever asked it."""

    by: Literal["here", "agent"] = "here"
    name: str = "none"
    watts: float | None = None
    measures: str = ""
    celsius: float | None = None
    hottest: str = ""
    memory: bool = False
    trouble: str = ""
    fault: str | None = None


class Jtop(msgspec.Struct, frozen=True, kw_only=True):
    """The service of jetson-stats.

    Attributes:
        socket: Its socket is there.
        socket_group: Group of the socket.
        unit: What systemd says of ``jtop.service``; empty = no systemd.
        package: Version of jetson-stats in this Python; None = not installed.
        user: Who asked.
        trouble: Why its client got nothing, with how to mend it; empty when it was answered; None = not asked.
        agent_may: User ``vedette`` may open the socket; None = not known, or no such user.
    """

    socket: bool = False
    socket_group: str = ""
    unit: str = ""
    package: str | None = None
    user: str = ""
    trouble: str | None = None
    agent_may: bool | None = None


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """All of them but service and sandbox. ``sources`` None: the configuration cannot be read; ``at``: wall clock."""

    at: float
    clock: Trust
    sources: tuple[Source, ...] | None
    disk: Disk
    upstream: Upstream | None
    store: EngineStore
    limits: Limits
    sensors: Sensors
    jtop: Jtop
