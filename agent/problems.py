"""What is wrong with the sources, the delivery and the spool, in words, from the views of them. Reads only."""

from collections.abc import Iterable, Iterator, Mapping

from agent import clock
from agent.machine import LEAST_DISK
from agent.records import SourceState
from agent.snapshot import SourceView, SpoolView, UpstreamView
from agent.timeline import Problem

_CONNECTING_S = 3.0
_CERTIFICATE_WARNING_S = 30 * 86400.0
_MEND = {
    SourceState.FROZEN: "restart the camera, check its cable",
    SourceState.BLACK: "look at its lens and at the light",
}
_LOOK = "`vedette doctor` has a row on it"
# As `lost` calls it, and what it means. A dead letter is only lost when an operator drops it: no news to him.
_LOST = {
    "spool_full": "the spool was full", "disk_full": "the disk was full", "max_age": "older than spool.max_age",
    "memory_full": "they found no room in memory", "closed": "the agent was stopping",
}


def source_problems(sources: Iterable[SourceView]) -> Iterator[Problem]:
    """Yield the sources from which nothing useful comes."""
    for source in sources:
        if source.state not in {SourceState.LIVE, SourceState.ENDED} and not young(source):
            lasts = f" for {source.since_s:.0f} s" if source.since_s >= 1 else ""
            words = f"source {source.name} is {source.state}{lasts}: {source.reason}"
            yield Problem(f"source {source.name} {source.state}",
                          _mended(words, _MEND.get(SourceState(source.state), _LOOK)))


def young(source: SourceView) -> bool:
    """Tell whether a source is only just being opened."""
    return source.state == SourceState.CONNECTING and source.since_s <= _CONNECTING_S


def sees(source: SourceView) -> bool:
    """Tell whether pictures come from a source, came until its end, or may come in a moment."""
    return young(source) or source.state not in {SourceState.DOWN, SourceState.CONNECTING}


def upstream_problems(upstream: UpstreamView) -> Iterator[str]:
    """Yield what is wrong with the delivery and its means."""
    if upstream.state in {"retrying", "holding"}:
        yield _mended(f"upstream is {upstream.state}: {upstream.reason}",
                      f"it is tried again by itself; {_LOOK}" if upstream.state == "retrying" else _LOOK)
    left = upstream.certificate_expires_in_s
    if left is not None and left <= 0:
        yield "the client certificate has ended (upstream.client_cert): put a new one in its place"
    elif left is not None and left < _CERTIFICATE_WARNING_S:
        yield f"the client certificate ends in {left / 86400:.1f} days (upstream.client_cert): renew it"
    # A clock that nobody confirms may still be right, for years; status shows it, but it needs no hand.
    if upstream.clock == "implausible":
        yield (f"{clock.words('implausible')}: times in events are wrong, and certificates may seem to "
               f"have ended ({_LOOK})")


def spool_problems(spool: SpoolView, stuck: str, lost_before: Mapping[str, int]) -> Iterator[str]:
    """Yield what is wrong with the spool.

    Args:
        spool: Its figures.
        stuck: Why it cannot be written now; empty when it can.
        lost_before: ``spool.lost`` when the agent started.
    """
    if stuck:
        yield (f"the spool cannot be written, {stuck}: {spool.pending} events wait in memory (`df -h`, `dmesg`; "
               "it is tried again by itself)")
    elif spool.disk_full:
        yield ("the disk is full: the spool makes room by giving up its oldest, least important events "
               "(`df -h`: make room)")
    elif spool.disk_free is not None and spool.disk_free < LEAST_DISK:
        yield (f"the disk is nearly full, {spool.disk_free / 1e6:.0f} MB are free: at 0 the spool gives up events "
               "(`df -h`: make room)")
    if spool.dead:
        yield f"{_events(spool.dead, 'was', 'were')} refused by the upstream for good: vedette spool peek --dead"
    since = {why: count - lost_before.get(why, 0) for why, count in spool.lost.items()}
    # What was refused a moment ago is counted as lost when that is declared, at the next commit.
    for why, words in _LOST.items():
        if (count := max(since.get(why, 0), spool.refused.get(why, 0))) > 0:
            yield f"{_events(count, 'was', 'were')} lost since the start: {words} ({why}): vedette spool status"
    for name in spool.set_aside:
        yield f"the spool's file could not be used and was set aside: vedette spool export --file {name}"


def _mended(words: str, remedy: str) -> str:
    """Return a problem with its remedy; its reason may bring one of its own, in brackets, too."""
    return f"{words}; {remedy}" if words.endswith(")") else f"{words} ({remedy})"


def _events(count: int, one: str, more: str) -> str:
    return f"{count} event {one}" if count == 1 else f"{count} events {more}"
