"""The parts of a running agent, seen from outside: turns their states into one snapshot. Reads only, never acts."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent import __version__, clock
from agent.budget_view import budget_problems, governor_view, limits_view
from agent.capture.reader import Reader
from agent.config import Config
from agent.governing import Governing
from agent.meters import Heartbeat, Histogram, SourceMeter
from agent.pipeline import Pipeline
from agent.power_mode import PowerMode
from agent.records import Result, SourceState
from agent.redact import redact
from agent.report.spool import Spool
from agent.report.upstream import Uploader
from agent.serving import Serving
from agent.snapshot import (
    SCHEMA,
    EngineView,
    Snapshot,
    SourceView,
    SpoolView,
    StageView,
    UpstreamView,
)

_CONNECTING_S = 3.0
_CERTIFICATE_WARNING_S = 30 * 86400.0
# As `lost` calls it, and what it means. A dead letter is only lost when an operator drops it: no news to him.
_LOST = {
    "spool_full": "the spool was full", "disk_full": "the disk was full", "max_age": "older than spool.max_age",
    "memory_full": "they found no room in memory", "closed": "the agent was stopping",
}


class View:
    """Knows the parts as they come into being; ``snapshot`` may be called from any thread at any time."""

    def __init__(self, config: Config, device: str, run_id: str, found: Counter[str]) -> None:
        self._config = config
        self._device = device
        self._run_id = run_id
        self._found = found
        self._born = time.monotonic() - _process_age_s()
        self._first_result_s: float | None = None
        self._sources: dict[str, tuple[Reader, SourceMeter]] = {}
        self._spool: Spool | None = None
        self._uploader: Uploader | None = None
        self._lost_before: Mapping[str, int] = {}
        self._reporting: list[Heartbeat] = []
        self._serving: tuple[Serving, float] | None = None
        self._pipeline: Pipeline | None = None
        self.governing: Governing | None = None
        self.power_mode: PowerMode | None = None
        self.doing = "starting"

    def watching(self, name: str, reader: Reader, meter: SourceMeter) -> None:
        """Learn of a source."""
        self._sources[name] = (reader, meter)

    def reporting(self, spool: Spool, spooling: Heartbeat, uploader: Uploader | None, uploading: Heartbeat) -> None:
        """Learn of the way out."""
        self._spool, self._uploader = spool, uploader
        self._lost_before = dict(spool.stats().lost)
        self._reporting = [spooling, uploading] if uploader else [spooling]

    def looking(self, pipeline: Pipeline, serving: Serving, governing: Governing) -> None:
        """Learn that an engine is loaded, warmed and gated: from now on the agent is ready."""
        self.governing = governing
        self._pipeline, self._serving, self.doing = pipeline, (serving, time.monotonic()), ""

    def saw(self, _result: Result) -> None:
        """Learn of a result; only the first one matters here."""
        if self._first_result_s is None:
            self._first_result_s = time.monotonic() - self._born

    @property
    def ready(self) -> bool:
        """Whether an engine is loaded, warmed and gated."""
        return self._serving is not None

    def heartbeats(self) -> Iterator[Heartbeat]:
        """Return the heartbeats of the threads that must go forward."""
        if self._pipeline:
            yield self._pipeline.looking
            yield self._pipeline.telling
        if self.governing:
            yield self.governing.heartbeat
        yield from self._reporting

    def snapshot(self, stopping: bool = False) -> Snapshot:
        """Return the state of everything, now."""
        sources = [self._source(name) for name in list(self._sources)]
        rate = sum(source.processed_rate for source in sources)
        upstream, spool = self._upstream(), self._spool_view()
        problems = list(self._problems(sources, upstream, spool))
        blind = bool(sources) and not any(_sees(source) for source in sources)
        state = ("stopping" if stopping else "starting" if not self.ready else "down" if blind
                 else "degraded" if problems else "running")
        return Snapshot(
            schema=SCHEMA, version=__version__, device=self._device, run_id=self._run_id, pid=os.getpid(), state=state,
            doing=self.doing, ready=self.ready and not stopping, uptime_s=time.monotonic() - self._born,
            first_result_s=self._first_result_s, problems=problems, sources=sources,
            stages={name: _stage(histogram) for name, histogram in self._stages().items()},
            engine=self._engine_view(), found=dict(self._found), spool=spool, upstream=upstream,
            budget=limits_view(self._config.budget, self.governing, rate),
            governor=governor_view(self.governing, self._config.budget.policy) if self.governing else None,
            heartbeats={beat.name: round(beat.age_s(), 3) for beat in self.heartbeats()})

    def _stages(self) -> Mapping[str, Histogram]:
        return self._pipeline.stages if self._pipeline else {}

    def _source(self, name: str) -> SourceView:
        reader, meter = self._sources[name]
        status = reader.status()
        return SourceView(
            name=name, url=redact(self._config.source[name].url), state=str(status.state), reason=status.reason,
            since_s=time.monotonic() - status.since_s, last_frame_age_s=status.last_frame_age_s,
            width=status.width, height=status.height, hung=status.hung, reconnects=meter.reconnects,
            seen=meter.seen, processed=meter.processed, skipped=meter.skipped(),
            seen_rate=meter.seen_rate.per_second(), processed_rate=meter.processed_rate.per_second())

    def _engine_view(self) -> EngineView | None:
        if not self._serving or not self._pipeline or not (served := self._serving[0].served):
            return None
        serving, since = self._serving
        engine = self._pipeline.model.engine
        what, spec = engine.describe(), engine.spec
        return EngineView(
            name=what.name, identity=what.identity, runtime=what.runtime, provider=what.provider,
            precision=what.precision, threads=what.threads, height=spec.height, width=spec.width,
            max_batch=spec.max_batch, model_sha256=what.model_sha256, ready_for_s=time.monotonic() - since,
            tier=served.tier, checked=served.checked, tuning=serving.tuning)

    def _spool_view(self) -> SpoolView | None:
        if not self._spool:
            return None
        stats = self._spool.stats()
        return SpoolView(
            depth=stats.depth, pending=stats.pending, bytes=stats.bytes, oldest_age_s=stats.oldest_age_s,
            appended=stats.appended, committed=stats.committed, acked=stats.acked,
            failed_commits=stats.failed_commits, refused=dict(stats.refused), sequence=stats.sequence,
            dead=stats.dead, lost=dict(stats.lost), evicted=stats.evicted, disk_full=stats.disk_full,
            set_aside=list(stats.set_aside))

    def _upstream(self) -> UpstreamView | None:
        if not self._uploader:
            return None
        status = self._uploader.status()
        return UpstreamView(
            state=status.state, reason=status.reason, since_s=status.since_s, last_ack_age_s=status.last_ack_age_s,
            delivered_events=status.delivered_events, delivered_batches=status.delivered_batches,
            attempts=status.attempts, next_try_in_s=status.next_try_in_s,
            certificate_expires_in_s=status.certificate_expires_in_s, clock=status.clock, buried=status.buried,
            canaries=status.canaries)

    def _problems(self, sources: list[SourceView], upstream: UpstreamView | None, spool: SpoolView | None
                  ) -> Iterator[str]:
        if self._serving and self._serving[0].failed:
            yield self._serving[0].failed
        if self.power_mode and self.power_mode.trouble:
            yield f"the power mode is not as configured: {self.power_mode.trouble}"
        if self.governing:
            yield from budget_problems(self.governing)
        for source in sources:
            if source.state not in {SourceState.LIVE, SourceState.ENDED} and not _young(source):
                yield f"source {source.name} is {source.state} for {source.since_s:.0f} s: {source.reason}"
        if upstream:
            yield from upstream_problems(upstream)
        if spool and self._spool:
            yield from spool_problems(spool, self._spool.stuck, self._lost_before)
        for beat in self.heartbeats():
            if not beat.fresh():
                yield f"{beat.name} has not moved for {beat.age_s():.0f} s"


def _young(source: SourceView) -> bool:
    """Tell whether a source is only just being opened."""
    return source.state == SourceState.CONNECTING and source.since_s <= _CONNECTING_S


def _sees(source: SourceView) -> bool:
    """Tell whether pictures come from a source, came until its end, or may come in a moment."""
    return _young(source) or source.state not in {SourceState.DOWN, SourceState.CONNECTING}


def _stage(histogram: Histogram) -> StageView:
    recent = histogram.recent()

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1e3, 3)

    return StageView(count=recent.count, total_count=histogram.count, total_s=histogram.total_s, p50_ms=ms(recent.p50),
                     p95_ms=ms(recent.p95), p99_ms=ms(recent.p99), longest_ms=ms(recent.longest))


def _process_age_s() -> float:
    """Return the seconds since the kernel started this process, interpreter start and imports included."""
    try:
        started = int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])
    except (OSError, ValueError):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def upstream_problems(upstream: UpstreamView) -> Iterator[str]:
    """Yield what is wrong with the delivery and its means."""
    if upstream.state in {"retrying", "holding"}:
        yield f"upstream is {upstream.state}: {upstream.reason}"
    left = upstream.certificate_expires_in_s
    if left is not None and left <= 0:
        yield "the client certificate has ended (upstream.client_cert): put a new one in its place"
    elif left is not None and left < _CERTIFICATE_WARNING_S:
        yield f"the client certificate ends in {left / 86400:.1f} days (upstream.client_cert): renew it"
    # A clock that nobody confirms may still be right, for years; status shows it, but it needs no hand.
    if upstream.clock == "implausible":
        yield f"{clock.words('implausible')}: times in events are wrong, and certificates may seem to have ended"


def spool_problems(spool: SpoolView, stuck: str, lost_before: Mapping[str, int]) -> Iterator[str]:
    """Yield what is wrong with the spool.

    Args:
        spool: Its figures.
        stuck: Why it cannot be written now; empty when it can.
        lost_before: ``spool.lost`` when the agent started.
    """
    if stuck:
        yield f"the spool cannot be written, {stuck}: {spool.pending} events wait in memory"
    elif spool.disk_full:
        yield "the disk is full: the spool makes room by giving up its oldest, least important events"
    if spool.dead:
        yield f"{_events(spool.dead, 'was', 'were')} refused by the upstream for good: vedette spool peek --dead"
    since = {why: count - lost_before.get(why, 0) for why, count in spool.lost.items()}
    # What was refused a moment ago is counted as lost when that is declared, at the next commit.
    for why, words in _LOST.items():
        if (count := max(since.get(why, 0), spool.refused.get(why, 0))) > 0:
            yield f"{_events(count, 'was', 'were')} lost since the start: {words} ({why})"
    for name in spool.set_aside:
        yield f"the spool's file could not be used and was set aside: vedette spool export --file {name}"


def _events(count: int, one: str, more: str) -> str:
    return f"{count} event {one}" if count == 1 else f"{count} events {more}"
