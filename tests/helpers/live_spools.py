"""Spools for tests as the agent opens them: real files, gap events by a real factory, clocks that can be set."""

import json
from pathlib import Path

from agent.report import sealing
from agent.report.age import Clocks
from agent.report.events import EventFactory
from agent.report.spool import FilePolicy, Spool
from agent.report.spool_file import SpoolFile


class SetClocks:
    """A box's clocks, set by hand."""

    def __init__(self, wall: float = 1_800_000_000.0, boot: str = "a" * 32) -> None:
        self.wall, self.up, self.boot, self.certain = wall, 100.0, boot, True

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds

    def clocks(self) -> Clocks:
        return Clocks(self.boot, lambda: self.up, lambda: self.wall, lambda: self.certain)


def factory(run: str = "gaps", device: str = "test") -> EventFactory:
    return EventFactory(device, run, "0", boot_id="b" * 32)


def _policy(options: dict) -> FilePolicy:
    return FilePolicy(max_bytes=int(options.pop("max_bytes", 16 * 2**20)),
                      **{key: options.pop(key) for key in ("max_dead", "format", "compression") if key in options})


def open_spool(path: Path, *, run: str = "gaps", clocks: SetClocks | None = None, **options) -> Spool:
    """Return an open spool; ``options`` are those of FilePolicy and of Spool."""
    policy = _policy(options)
    return Spool(path, policy, factory(run).gap, clocks=clocks.clocks() if clocks else None,
                 **{"commit_interval_s": 0.01, **options})


def open_file(path: Path, *, clocks: SetClocks | None = None, **options) -> SpoolFile:
    """Return an open file, begun."""
    file = SpoolFile(path, _policy(options), factory().gap, (clocks or SetClocks()).clocks())
    file.begin()
    return file


def events_of(batch) -> list[dict]:
    """Return the events of a sealed batch."""
    return [json.loads(body) for body in sealing.decode(batch.body, batch.content_type, batch.encoding)]


def drain(spool: Spool, max_events: int = 100) -> list[dict]:
    """Take everything out, as delivered."""
    found = []
    while batch := spool.seal(max_events, 0):
        found += events_of(batch)
        spool.ack(batch)
    return found
