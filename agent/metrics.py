"""The snapshot in the Prometheus text format 0.0.4. Unknown values have no line, never a 0."""

from agent.snapshot import Snapshot


def prometheus(snapshot: Snapshot) -> str:
    """Return the snapshot in the Prometheus text format 0.0.4. Unknown values have no line."""
    lines: list[str] = []

    def series(name: str, kind: str, text: str, *samples: tuple[dict[str, str], float | None]) -> None:
        lines.append(f"# HELP vedette_{name} {text}\n# TYPE vedette_{name} {kind}")
        for labels, value in samples:
            if value is not None:
                inner = ",".join(f'{k}="{_escape(v)}"' for k, v in labels.items())
                lines.append(f"vedette_{name}{{{inner}}} {value:.9g}" if inner else f"vedette_{name} {value:.9g}")

    each = [({"source": s.name}, s) for s in snapshot.sources]
    series("info", "gauge", "Version and engine.", (
        {"version": snapshot.version, "device": snapshot.device,
         "engine": snapshot.engine.name if snapshot.engine else "",
         "provider": snapshot.engine.provider if snapshot.engine else ""}, 1))
    series("ready", "gauge", "1 when an engine is loaded and warmed.", ({}, float(snapshot.ready)))
    series("uptime_seconds", "gauge", "Since the agent started.", ({}, snapshot.uptime_s))
    series("source_state", "gauge", "1 for the state a source is in.",
           *(({**name, "state": s.state}, 1) for name, s in each))
    series("source_frame_age_seconds", "gauge", "Age of the last frame.", *((n, s.last_frame_age_s) for n, s in each))
    series("frames_seen_total", "counter", "Frames grabbed.", *((n, s.seen) for n, s in each))
    series("frames_processed_total", "counter", "Frames the engine saw.", *((n, s.processed) for n, s in each))
    series("frames_skipped_total", "counter", "Frames passed over, by reason.",
           *(({**n, "reason": why}, count) for n, s in each for why, count in s.skipped.items()))
    series("source_reconnects_total", "counter", "Times a source was opened again.",
           *((n, s.reconnects) for n, s in each))
    series("found_total", "counter", "Boxes found, by label.", *(({"label": k}, v) for k, v in snapshot.found.items()))
    lines.append("# HELP vedette_stage_seconds Time spent by stage; quantiles over the last one to two minutes.\n"
                 "# TYPE vedette_stage_seconds summary")
    for name, stage in snapshot.stages.items():
        for quantile, value in (("0.5", stage.p50_ms), ("0.95", stage.p95_ms), ("0.99", stage.p99_ms)):
            if value is not None:
                lines.append(f'vedette_stage_seconds{{stage="{name}",quantile="{quantile}"}} {value / 1e3:.9g}')
        lines.append(f'vedette_stage_seconds_sum{{stage="{name}"}} {stage.total_s:.9g}')
        lines.append(f'vedette_stage_seconds_count{{stage="{name}"}} {stage.total_count}')
    if spool := snapshot.spool:
        series("spool_events", "gauge", "Events waiting for delivery.", ({}, spool.depth))
        series("spool_pending_events", "gauge", "Events in memory, waiting for their commit.", ({}, spool.pending))
        series("spool_failed_commits_total", "counter", "Commits that could not be made at once.",
               ({}, spool.failed_commits))
        series("spool_bytes", "gauge", "Size of the spool on disk.", ({}, spool.bytes))
        series("spool_oldest_seconds", "gauge", "Age of the oldest waiting event.", ({}, spool.oldest_age_s))
        series("spool_refused_total", "counter", "Events lost for want of room.",
               *(({"reason": why}, count) for why, count in spool.refused.items()))
        series("spool_sequence", "counter", "Last sequence given.", ({}, spool.sequence))
        series("spool_dead_letters", "gauge", "Events the upstream refuses for good.", ({}, spool.dead))
        series("spool_lost_total", "counter", "Events lost since the file was made, by reason.",
               *(({"reason": why}, count) for why, count in spool.lost.items()))
        series("spool_disk_full", "gauge", "1 while the spool lives on what it has.", ({}, float(spool.disk_full)))
    if upstream := snapshot.upstream:
        series("delivered_events_total", "counter", "Events acknowledged.", ({}, upstream.delivered_events))
        series("upstream_state", "gauge", "1 for the uploader's state.", ({"state": upstream.state}, 1))
        series("upstream_last_ack_seconds", "gauge", "Since the last acknowledgement.", ({}, upstream.last_ack_age_s))
        series("upstream_certificate_seconds", "gauge", "Until the client certificate expires.",
               ({}, upstream.certificate_expires_in_s))
    for name, limit in snapshot.budget.items():
        series(f"budget_{name}", "gauge", f"Reading, {limit.unit}.", ({}, limit.reading))
        series(f"budget_{name}_limit", "gauge", f"Limit, {limit.unit}.", ({}, limit.limit))
    return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
