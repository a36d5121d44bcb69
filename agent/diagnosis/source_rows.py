"""Judge the sources: was a frame seen. Pure."""

from agent.diagnosis.around import Source
from agent.diagnosis.facts import Facts
from agent.diagnosis.rows import Row


def source_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge every source; that none gives a picture leaves the agent nothing to do."""
    if facts.around is None or facts.around.sources is None:
        return ()
    sources = facts.around.sources
    if not sources:
        if facts.wanted.file is None:
            return (Row(name="sources", verdict="ok", found="none, for there is no configuration"),)
        return (Row(name="sources", verdict="fail", fatal=True, found="none is configured",
                    remedy='add one: [source.NAME] with url = "rtsp://…", "v4l2:///dev/video0" or "csi://0"'),)
    blind = all(source.fault is not None and not source.unsure for source in sources)
    return tuple(_row(source, blind=blind) for source in sources)


def _row(source: Source, *, blind: bool) -> Row:
    name = f"source {source.name}"
    if source.fault is not None:
        return Row(name=name, verdict="unknown" if source.unsure else "fail", fatal=blind,
                   found=source.fault if source.url in source.fault else f"{source.url}: {source.fault}",
                   remedy=source.remedy or "look at the camera, its address and its cable")
    size = f"{source.width}x{source.height}" if source.width else "size not told"
    if source.asked == "agent":
        return Row(name=name, verdict="ok", found=f"{source.url}: {source.state}, {size}, told by the agent that runs "
                   "and holds it: not opened a second time")
    took_s = source.first_frame_s or 0.0
    return Row(name=name, verdict="ok", found=f"{source.url}: a frame of {size} after {took_s:.1f} s")
