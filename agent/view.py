"""The parts of a running agent, seen from outside: turns their states into one snapshot. Reads only, never acts."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__
from agent.budget_view import budget_problems, governor_view, limits_view
from agent.capture.address import ClipAddress, FolderAddress, parse
from agent.capture.reader import Reader
from agent.config import Config
from agent.governing import Governing
from agent.grade import Look, Record
from agent.meters import Heartbeat, Histogram, SourceMeter
from agent.pipeline import Pipeline
from agent.power_mode import PowerMode
from agent.problems import sees, source_problems, spool_problems, upstream_problems
from agent.records import Result
from agent.redact import redact
from agent.report.spool import Spool
from agent.report.upstream import Uploader
from agent.serving import Served, Serving
from agent.snapshot import (
    SCHEMA,
    EndView,
    EngineView,
    ProblemView,
    Snapshot,
    SourceView,
    SpoolView,
    StageView,
    UpstreamView,
)
from agent.timeline import Problem, Timeline, keyed

if TYPE_CHECKING:
    from agent.page.server import Page


class View:
    """Knows the parts as they come into being; ``snapshot`` may be called from any thread at any time.

    Attributes:
        ends: How the runs before this one ended, the newest last.
    """

    def __init__(self, config: Config, device: str, run_id: str, found: Counter[str]) -> None:
        self._config = config
        self.device = device
        self._run_id = run_id
        self._found = found
        self._born = time.monotonic() - _process_age_s()
        self._first_result_s: float | None = None
        self._sources: dict[str, tuple[Reader, SourceMeter]] = {}
        self._hours: dict[str, Record] = {}
        self._timeline = Timeline()
        self._state = ("", self._born)
        self._prepared_at: dict[str, float | None] = {}
        self._spool: Spool | None = None
        self._uploader: Uploader | None = None
        self._lost_before: Mapping[str, int] = {}
        self._reporting: list[Heartbeat] = []
        self._serving: tuple[Serving, float] | None = None
        self._pipeline: Pipeline | None = None
        self.governing: Governing | None = None
        self.power_mode: PowerMode | None = None
        self.page: Page | None = None
        self.doing = "starting"
        self.ends: Sequence[EndView] = ()

    def watching(self, name: str, reader: Reader, meter: SourceMeter) -> None:
        """Learn of a source."""
        self._hours[name] = Record(own_rate=_own_rate(self._config.source[name].url))
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

    @property
    def has_result(self) -> bool:
        """Whether a frame has gone all the way."""
        return self._first_result_s is not None

    @property
    def paused(self) -> bool:
        """Whether the budget allows no frame now."""
        return self.governing is not None and self.governing.decided.order.rate == 0

    def heartbeats(self) -> Iterator[Heartbeat]:
        """Return the heartbeats of the threads that must go forward."""
        if self._pipeline:
            yield self._pipeline.looking
            yield self._pipeline.telling
        if self.governing:
            yield self.governing.heartbeat
        yield from self._reporting
        for reader, _ in list(self._sources.values()):
            yield reader.heartbeat

    def tick(self, *, stopping: bool = False) -> None:
        """Look once, for what is told of the last hour: call it about once a second, from one thread."""
        for name, (reader, meter) in list(self._sources.items()):
            self._hours[name].look(Look(time.monotonic(), str(reader.status().state), meter.seen, meter.reconnects))
        self._condition(stopping)

    def snapshot(self, stopping: bool = False) -> Snapshot:
        """Return the state of everything, now."""
        now = self._condition(stopping)
        rate = sum(source.processed_rate for source in now.sources)
        return Snapshot(
            schema=SCHEMA, version=__version__, device=self.device, run_id=self._run_id, pid=os.getpid(),
            state=now.state, state_since_s=now.since_s, doing=self.doing, ready=self.ready and not stopping,
            uptime_s=time.monotonic() - self._born, first_result_s=self._first_result_s, problems=now.problems,
            sources=now.sources, stages={name: _stage(histogram) for name, histogram in self._stages().items()},
            engine=self._engine_view(), found=dict(self._found), spool=now.spool, upstream=now.upstream,
            budget=limits_view(self._config.budget, self.governing, rate),
            governor=governor_view(self.governing, self._config.budget.policy) if self.governing else None,
            heartbeats={beat.name: round(beat.age_s(), 3) for beat in self.heartbeats()},
            problems_past=now.past, ends=list(self.ends),
            page=self.page.served if self.page else "")

    def _condition(self, stopping: bool) -> "_Condition":
        """Find out how it is now, and remember since when."""
        sources = [self._source(name) for name in list(self._sources)]
        upstream, spool = self._upstream(), self._spool_view()
        problems = list(self._problems(sources, upstream, spool))
        blind = bool(sources) and not any(sees(source) for source in sources)
        state = ("stopping" if stopping else "starting" if not self.ready else "down" if blind
                 else "degraded" if problems else "running")
        now_s, epoch = time.monotonic(), time.time()
        before, since_s = self._state
        if state != before:
            # At the first look it has been in this state ever since the process began.
            since_s = now_s if before else self._born
            self._state = (state, since_s)

        def at(when_s: float) -> float:
            return epoch - (now_s - when_s)  # a clock that was set meanwhile moves what happened before, too
        past = [ProblemView(words=entry.words, began_at=at(entry.began_s), times=entry.times,
                            ended_at=None if entry.ended_s is None else at(entry.ended_s))
                for entry in self._timeline.see(problems)]
        return _Condition(state=state, since_s=now_s - since_s, sources=sources, upstream=upstream, spool=spool,
                          problems=[problem.words for problem in problems], past=past)

    def _stages(self) -> Mapping[str, Histogram]:
        return self._pipeline.stages if self._pipeline else {}

    def _source(self, name: str) -> SourceView:
        reader, meter = self._sources[name]
        status, grade = reader.status(), self._hours[name].grade()
        return SourceView(
            name=name, url=redact(self._config.source[name].url), state=str(status.state), reason=status.reason,
            since_s=time.monotonic() - status.since_s, last_frame_age_s=status.last_frame_age_s,
            width=status.width, height=status.height, hung=status.hung, reconnects=meter.reconnects,
            seen=meter.seen, processed=meter.processed, skipped=meter.skipped(),
            seen_rate=meter.seen_rate.per_second(), processed_rate=meter.processed_rate.per_second(),
            grade=grade.grade, grade_why=grade.why, usual_rate=grade.usual_rate)

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
            tier=served.tier, checked=served.checked, tuning=serving.tuning,
            gated_at=self._gated_at(served, what.identity))

    def _gated_at(self, served: Served, identity: str) -> float | None:
        """Return when the gate let the engine pass: seconds since the epoch, None where that is not known."""
        if stored := served.stored:
            tuning = stored.tuning
            return tuning.at if tuning and tuning.kept == stored.card.form else stored.card.at
        if identity not in self._prepared_at:
            card = self._config.state_dir / "engines" / self._config.engine.recipe / f"{identity}.json"
            try:
                self._prepared_at[identity] = card.stat().st_mtime
            except OSError:
                self._prepared_at[identity] = None
        return self._prepared_at[identity]

    def _spool_view(self) -> SpoolView | None:
        if not self._spool:
            return None
        stats = self._spool.stats()
        return SpoolView(
            depth=stats.depth, pending=stats.pending, bytes=stats.bytes, oldest_age_s=stats.oldest_age_s,
            appended=stats.appended, committed=stats.committed, acked=stats.acked,
            failed_commits=stats.failed_commits, refused=dict(stats.refused), sequence=stats.sequence,
            dead=stats.dead, lost=dict(stats.lost), evicted=stats.evicted, disk_free=stats.disk_free,
            disk_full=stats.disk_full, set_aside=list(stats.set_aside))

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
                  ) -> Iterator[Problem]:
        if self._serving and self._serving[0].failed:
            yield keyed(self._serving[0].failed)
        if self.power_mode and self.power_mode.trouble:
            yield keyed(f"the power mode is not as configured: {self.power_mode.trouble}")
        if self.page and self.page.trouble:
            yield keyed(self.page.trouble)
        if self.governing:
            yield from map(keyed, budget_problems(self.governing))
        yield from source_problems(sources)
        if upstream:
            # The reason changes from one attempt to the next.
            yield from (Problem(keyed(words.partition(": ")[0]).key, words) for words in upstream_problems(upstream))
        if spool and self._spool:
            yield from map(keyed, spool_problems(spool, self._spool.stuck, self._lost_before))
        for beat in self._stuck():
            yield Problem(beat.name, f"{beat.name} has not moved for {beat.age_s():.0f} s")

    def _stuck(self) -> Iterator[Heartbeat]:
        """Return the heartbeats that are too old, the oldest first, of inference and post-processing that one only.

        Those two wait for each other.
        """
        loop = [self._pipeline.looking, self._pipeline.telling] if self._pipeline else []
        for beat in sorted(self.heartbeats(), key=lambda each: each.age_s(), reverse=True):
            if not beat.fresh() and (beat not in loop or beat is max(loop, key=lambda each: each.age_s())):
                yield beat


@dataclass(frozen=True, slots=True, kw_only=True)
class _Condition:
    """How the agent is at one moment."""

    state: str
    since_s: float
    sources: list[SourceView]
    upstream: UpstreamView | None
    spool: SpoolView | None
    problems: list[str]
    past: list[ProblemView]


def _own_rate(url: str) -> bool:
    """Tell whether a source sets the pace itself; a file may be read as fast as the engine takes it."""
    match parse(url):
        case ClipAddress(realtime=realtime):
            return realtime
        case FolderAddress(rate=rate):
            return rate is not None
    return True


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
