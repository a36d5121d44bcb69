"""The snapshot in the Prometheus text format 0.0.4. Unknown values have no line, never a 0."""

import time
from collections.abc import Iterable, Mapping

from agent.snapshot import (
    GovernorView,
    MemoryView,
    ReadingView,
    Snapshot,
    SourceView,
    SpoolView,
    StageView,
    UpstreamView,
)

_FRESH_S = 3.0  # as for the budget's readings: what is older is not what is measured now
_Sample = tuple[dict[str, str], float | None]


def prometheus(snapshot: Snapshot) -> str:
    """Return the snapshot in the Prometheus text format 0.0.4. Unknown values have no line."""
    page = _Page()
    page.add("info", "gauge", "Version and engine.", (
        {"version": snapshot.version, "device": snapshot.device,
         "engine": snapshot.engine.name if snapshot.engine else "",
         "provider": snapshot.engine.provider if snapshot.engine else ""}, 1))
    page.add("ready", "gauge", "1 when an engine is loaded and warmed.", ({}, float(snapshot.ready)))
    page.add("uptime_seconds", "gauge", "Since the agent started.", ({}, snapshot.uptime_s))
    page.add("state", "gauge", "1 for the state the agent is in.", ({"state": snapshot.state}, 1))
    page.add("state_seconds", "gauge", "Since it is in this state.", ({}, snapshot.state_since_s))
    page.add("problems", "gauge", "What is wrong now; `vedette status` says what.", ({}, len(snapshot.problems)))
    if snapshot.engine:
        gated_at = snapshot.engine.gated_at
        page.add("engine_gated_seconds", "gauge", "Since the gate let the engine pass.",
                 ({}, None if gated_at is None else time.time() - gated_at))
    _sources(page, snapshot.sources)
    page.add("found_total", "counter", "Boxes found, by label.", *_each("label", snapshot.found))
    _stages(page, snapshot.stages)
    if snapshot.spool:
        _spool(page, snapshot.spool)
    if snapshot.upstream:
        _upstream(page, snapshot.upstream)
    for name, limit in snapshot.budget.items():
        page.add(f"budget_{name}", "gauge", f"Reading, {limit.unit}.", ({}, limit.reading))
        page.add(f"budget_{name}_limit", "gauge", f"Limit, {limit.unit}.", ({}, limit.limit))
    if snapshot.governor:
        _governor(page, snapshot.governor)
        _reading(page, snapshot.governor.reading)
        _memory(page, snapshot.governor.memory)
    return "\n".join(page.lines) + "\n"


class _Page:
    """The lines of the page so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, name: str, kind: str, text: str, *samples: _Sample) -> None:
        """Add a series; a sample that is None has no line."""
        self.lines.append(f"# HELP vedette_{name} {text}\n# TYPE vedette_{name} {kind}")
        for labels, value in samples:
            if value is not None:
                inner = ",".join(f'{k}="{_escape(v)}"' for k, v in labels.items())
                self.lines.append(f"vedette_{name}{{{inner}}} {value:.9g}" if inner else f"vedette_{name} {value:.9g}")


def _each(label: str, values: Mapping[str, float] | Mapping[str, int] | Mapping[str, int | None]) -> Iterable[_Sample]:
    return [({label: name}, value) for name, value in values.items()]


def _sources(page: _Page, sources: Iterable[SourceView]) -> None:
    each = [({"source": s.name}, s) for s in sources]
    page.add("source_state", "gauge", "1 for the state a source is in.",
             *(({**name, "state": s.state}, 1) for name, s in each))
    page.add("source_frame_age_seconds", "gauge", "Age of the last frame.", *((n, s.last_frame_age_s) for n, s in each))
    page.add("source_grade", "gauge", "1 for the grade of a source over the last hour.",
             *(({**name, "grade": s.grade}, 1) for name, s in each))
    page.add("source_usual_frames_per_second", "gauge", "What a source usually delivers.",
             *((n, s.usual_rate) for n, s in each))
    page.add("frames_seen_total", "counter", "Frames grabbed.", *((n, s.seen) for n, s in each))
    page.add("frames_processed_total", "counter", "Frames the engine saw.", *((n, s.processed) for n, s in each))
    page.add("frames_skipped_total", "counter", "Frames passed over, by reason.",
             *(({**n, "reason": why}, count) for n, s in each for why, count in s.skipped.items()))
    page.add("source_reconnects_total", "counter", "Times a source was opened again.",
             *((n, s.reconnects) for n, s in each))


def _stages(page: _Page, stages: Mapping[str, StageView]) -> None:
    page.lines.append("# HELP vedette_stage_seconds Time spent by stage; quantiles over the last one to two minutes.\n"
                      "# TYPE vedette_stage_seconds summary")
    for name, stage in stages.items():
        for quantile, value in (("0.5", stage.p50_ms), ("0.95", stage.p95_ms), ("0.99", stage.p99_ms)):
            if value is not None:
                page.lines.append(f'vedette_stage_seconds{{stage="{name}",quantile="{quantile}"}} {value / 1e3:.9g}')
        page.lines.append(f'vedette_stage_seconds_sum{{stage="{name}"}} {stage.total_s:.9g}')
        page.lines.append(f'vedette_stage_seconds_count{{stage="{name}"}} {stage.total_count}')


def _spool(page: _Page, spool: SpoolView) -> None:
    page.add("spool_events", "gauge", "Events waiting for delivery.", ({}, spool.depth))
    page.add("spool_pending_events", "gauge", "Events in memory, waiting for their commit.", ({}, spool.pending))
    page.add("spool_failed_commits_total", "counter", "Commits that could not be made at once.",
             ({}, spool.failed_commits))
    page.add("spool_bytes", "gauge", "Size of the spool on disk.", ({}, spool.bytes))
    page.add("spool_oldest_seconds", "gauge", "Age of the oldest waiting event.", ({}, spool.oldest_age_s))
    page.add("spool_refused_total", "counter", "Events lost for want of room.", *_each("reason", spool.refused))
    page.add("spool_sequence", "counter", "Last sequence given.", ({}, spool.sequence))
    page.add("spool_dead_letters", "gauge", "Events the upstream refuses for good.", ({}, spool.dead))
    page.add("spool_lost_total", "counter", "Events lost since the file was made, by reason.",
             *_each("reason", spool.lost))
    page.add("spool_disk_free_bytes", "gauge", "Free on the spool's disk.", ({}, spool.disk_free))
    page.add("spool_disk_full", "gauge", "1 while the spool lives on what it has.", ({}, float(spool.disk_full)))


def _upstream(page: _Page, upstream: UpstreamView) -> None:
    page.add("delivered_events_total", "counter", "Events acknowledged.", ({}, upstream.delivered_events))
    page.add("upstream_state", "gauge", "1 for the uploader's state.", ({"state": upstream.state}, 1))
    page.add("upstream_last_ack_seconds", "gauge", "Since the last acknowledgement.", ({}, upstream.last_ack_age_s))
    page.add("upstream_certificate_seconds", "gauge", "Until the client certificate expires.",
             ({}, upstream.certificate_expires_in_s))


def _governor(page: _Page, governor: GovernorView) -> None:
    order = governor.order
    page.add("pace_frames_per_second", "gauge", "What the loop may do; no line = no limit.", ({}, order.rate))
    page.add("pace_batch_frames", "gauge", "Most frames in one call.", ({}, order.batch))
    page.add("pace_info", "gauge", "1 for the engine tier that is ordered.", ({"tier": order.tier}, 1))
    page.add("paused", "gauge", "1 while the loop may do nothing.", ({}, float(order.rate == 0)))
    page.add("budget_blind", "gauge", "1 while a sensor that a limit needs tells nothing.", ({}, float(governor.blind)))
    page.add("budget_quiet_hours", "gauge", "1 while quiet hours hold.", ({}, float(bool(governor.quiet))))
    page.add("budget_steps_total", "counter", "Steps of the governor since the start.", ({}, governor.count))
    page.add("source_share_frames_per_second", "gauge", "What a source may have where priorities decide; 0 = shed.",
             *_each("source", governor.shares))
    page.add("way_seconds_total", "counter", "Time at each way of working.",
             *(({"way": each.name}, each.seconds) for each in governor.spent))
    page.add("way_frames_total", "counter", "Frames served at each way of working.",
             *(({"way": each.name}, each.frames) for each in governor.spent))
    page.add("frames_per_joule", "gauge", "Over the last minute.", ({}, governor.frames_per_joule))


def _reading(page: _Page, reading: ReadingView) -> None:
    fresh = reading.age_s is not None and reading.age_s <= _FRESH_S
    page.add("watts", "gauge", "Power, and what it is of.",
             ({"measures": reading.measures}, reading.watts if fresh else None))
    page.add("rail_watts", "gauge", "Power of each rail.", *(_each("rail", reading.rails) if fresh else ()))
    page.add("celsius", "gauge", "Temperature of each zone.", *(_each("zone", reading.zones) if fresh else ()))
    page.add("gpu_load_ratio", "gauge", "Share of time the GPU works.", ({}, reading.gpu_load if fresh else None))
    page.add("power_alarms", "gauge", "What the board complains of now.", ({}, len(reading.alarms) if fresh else None))
    page.add("power_reading_age_seconds", "gauge", "Age of the newest reading.", ({}, reading.age_s))
    page.add("power_events_total", "counter", "Over-current and throttling as the kernel counts them since the boot.",
             *_each("event", reading.events))


def _memory(page: _Page, memory: MemoryView) -> None:
    page.add("memory_bytes", "gauge", "Memory of the agent; total is the sum of the others.",
             *_each("part", {"resident": memory.resident, "children": memory.children, "device": memory.device,
                             "total": memory.total}))
    page.add("memory_available_bytes", "gauge", "What the machine can still give.", ({}, memory.available))
    page.add("memory_group_limit_bytes", "gauge", "Limit of the tightest control group.", ({}, memory.limit))
    page.add("memory_group_used_bytes", "gauge", "What that control group takes.", ({}, memory.used))
    page.add("memory_pressure_percent", "gauge", "Share of the last ten seconds spent waiting for memory.",
             ({}, memory.pressure))
    page.add("memory_given_up", "gauge", "1 for each thing given up for want of memory.",
             *(({"rung": rung}, 1) for rung in memory.given_up))
    page.add("memory_leak", "gauge", "1 when memory was seen to grow steadily.", ({}, float(bool(memory.leak))))


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
