"""What the page may know: chosen from the snapshot item by item, so that nothing new gets onto the page by itself.

No address of a camera or of the upstream, no path, no identity: all words pass :func:`agent.page.words.public`.
"""

from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import msgspec

from agent.page.history import Sample
from agent.page.words import public
from agent.snapshot import EngineView, GovernorView, LimitView, Snapshot, SourceView

_Say = Callable[[str], str]


class Eye(msgspec.Struct, frozen=True, kw_only=True):
    """One source; rates in frames per second."""

    name: str
    state: str
    reason: str
    since_s: float
    last_frame_age_s: float | None
    width: int | None
    height: int | None
    seen_rate: float
    processed_rate: float


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What looks."""

    name: str
    tier: str
    precision: str
    provider: str
    width: int
    height: int
    tuning: str


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One budget; null where no limit is set, or nothing is known."""

    name: str
    limit: float | None
    reading: float | None
    unit: str
    enforced: bool


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop may do now, and why; ``rate`` null = no limit, 0 = paused."""

    tier: str
    batch: int
    rate: float | None
    why: str
    quiet: str
    blind: bool


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the page shows but pictures; ``samples`` what came since the ones it has."""

    device: str
    version: str
    state: str
    doing: str
    uptime_s: float
    problems: list[str]
    sources: list[Eye]
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    engine: Engine | None
    budget: list[Limit]
    order: Order | None
    spool: int | None
    spool_oldest_s: float | None
    upstream: str
    upstream_reason: str
    last_ack_age_s: float | None
    samples: list[Sample]


def tell(snapshot: Snapshot, samples: list[Sample]) -> Now:
    """Return what the page shows of ``snapshot``."""
    places = [place for source in snapshot.sources if (place := _place(source.url))]

    def say(text: str) -> str:
        return public(text, places)

    latency, spool, upstream = snapshot.stages.get("latency"), snapshot.spool, snapshot.upstream
    return Now(
        device=snapshot.device, version=snapshot.version, state=snapshot.state, doing=say(snapshot.doing),
        uptime_s=round(snapshot.uptime_s, 1), problems=[say(problem) for problem in snapshot.problems],
        sources=[_eye(source, say) for source in snapshot.sources],
        latency_p50_ms=latency.p50_ms if latency else None, latency_p99_ms=latency.p99_ms if latency else None,
        engine=_engine(snapshot.engine, say) if snapshot.engine else None,
        budget=[_limit(name, limit) for name, limit in snapshot.budget.items()],
        order=_order(snapshot.governor, say) if snapshot.governor else None,
        spool=spool.depth if spool else None, spool_oldest_s=spool.oldest_age_s if spool else None,
        upstream=upstream.state if upstream else "off", upstream_reason=say(upstream.reason) if upstream else "",
        last_ack_age_s=upstream.last_ack_age_s if upstream else None, samples=samples)


def _place(url: str) -> str:
    """Return the path of a source that is a file or a folder; empty for one that is not."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return "" if parts.netloc else unquote(parts.path)


def _eye(source: SourceView, say: _Say) -> Eye:
    age = source.last_frame_age_s
    return Eye(
        name=source.name, state=source.state, reason=say(source.reason), since_s=round(source.since_s, 1),
        last_frame_age_s=None if age is None else round(age, 3), width=source.width, height=source.height,
        seen_rate=round(source.seen_rate, 2), processed_rate=round(source.processed_rate, 2))


def _engine(engine: EngineView, say: _Say) -> Engine:
    return Engine(name=engine.name, tier=engine.tier, precision=engine.precision, provider=engine.provider,
                  width=engine.width, height=engine.height, tuning=say(engine.tuning))


def _limit(name: str, limit: LimitView) -> Limit:
    return Limit(name=name, limit=limit.limit, reading=limit.reading, unit=limit.unit, enforced=limit.enforced)


def _order(governor: GovernorView, say: _Say) -> Order:
    order = governor.order
    return Order(tier=order.tier, batch=order.batch, rate=order.rate, why=say(governor.why),
                 quiet=say(governor.quiet), blind=governor.blind)
