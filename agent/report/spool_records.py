"""The nouns of the spool: what waits, what is sealed, how the file is kept, what it holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from agent.errors import ConfigError
from agent.meters import Percentiles
from agent.records import Event
from agent.report import sealing
from agent.report.gaps import Gap

LEAST_BYTES = 1024 * 1024


class Pending(NamedTuple):
    """An event that waits for its commit, and since when by the monotonic clock."""

    event: Event
    appended: float


class SealedBatch(NamedTuple):
    """Bytes that never change again, whatever happens between here and the receiver.

    Attributes:
        n: Key in the file.
        id: SHA-256 of the body before compression (see :class:`agent.report.sealing.Encoded`).
        content_type: Media type of the body.
        encoding: Content encoding of ``body``, empty for none.
        events: How many events it carries.
        first_seq: Sequence of its first event.
        last_seq: Sequence of its last.
        body: The encoded bytes.
    """

    n: int
    id: str
    content_type: str
    encoding: str
    events: int
    first_seq: int
    last_seq: int
    body: bytes


class Declare(Protocol):
    """Makes the ``gap`` event for a gap: with a new id, or with that of the event it takes the place of."""

    def __call__(self, gap: Gap, name: str | None = None, /) -> Event:
        """Return the event."""
        ...


@dataclass(frozen=True, kw_only=True)
class FilePolicy:
    """How a spool's file is kept.

    Attributes:
        max_bytes: Largest size of the file; at least 1 MiB. Its journal, at most about 1.5 MiB, comes on top.
        max_dead: Most dead letters.
        format: Of batches sealed from now on.
        compression: Of batches sealed from now on.

    Raises:
        ConfigError: ``max_bytes`` is too small, or the compression's package is not installed.
    """

    max_bytes: int
    max_dead: int = 1000
    format: sealing.Format = "cloudevents"
    compression: sealing.Compression = "gzip"

    def __post_init__(self) -> None:
        if self.max_bytes < LEAST_BYTES:
            raise ConfigError(f"spool.max_bytes = {self.max_bytes} is too small", 'give it at least "1MiB"')
        sealing.check_compression(self.compression)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What the file holds.

    Attributes:
        unsealed: Events not yet in a batch.
        sealed: Events in sealed batches.
        dead: Dead letters.
        last: The last sequence that was given, 0 before the first.
        kept: The lowest sequence that is still there and was never given up, ``last + 1`` when there is none.
        oldest: When the oldest event was created, by the spool's clock, None when there is none.
        oldest_unsealed: The same of those not yet in a batch.
        lost: Events lost for ever, by reason.
    """

    unsealed: int = 0
    sealed: int = 0
    dead: int = 0
    last: int = 0
    kept: int = 1
    oldest: float | None = None
    oldest_unsealed: float | None = None
    lost: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStats:
    """The spool in figures; counters since the start of the agent but for ``lost``.

    Attributes:
        depth: Events in the file, not yet acknowledged, dead letters not among them.
        pending: Events in memory that wait for their commit.
        bytes: Size of the file and its journal on the disk.
        oldest_age_s: Age of the oldest event in the file, None when there is none.
        sequence: The last that was given.
        dead: Dead letters.
        lost: Events lost for ever since the file was made, by reason (see :class:`agent.report.gaps.Gap`).
        appended: Events taken.
        committed: Events on the disk.
        acked: Events acknowledged by the upstream.
        evicted: Events that went because of the bounds.
        refused: Events not taken, by reason: ``memory_full``, ``closed``.
        failed_commits: Commits that could not be made at once: the disk was full or the file held.
        disk_free: Bytes free on its disk; None = not known.
        disk_full: Whether the spool lives on what it has, because the disk is full.
        set_aside: Names of files that could not be used and were set aside since the start.
        commit: Seconds of one commit.
    """

    depth: int
    pending: int
    bytes: int
    oldest_age_s: float | None
    sequence: int
    dead: int
    lost: Mapping[str, int]
    appended: int
    committed: int
    acked: int
    evicted: int
    refused: Mapping[str, int]
    failed_commits: int
    disk_free: int | None
    disk_full: bool
    set_aside: tuple[str, ...]
    commit: Percentiles
