"""How a run ends: what is found is committed, the upstream gets a last chance, and a last word is left behind."""

import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from agent.atomic import write_atomic
from agent.capture.reader import ReaderStatus
from agent.errors import EXIT_DEGRADED, EXIT_DOWN, EXIT_OK, AgentError
from agent.journal import MessageId, about
from agent.report.spool import Spool
from agent.report.upstream import Uploader
from agent.runs import STOPPED
from agent.snapshot import LAST_STATUS, Snapshot

_LOG = logging.getLogger(__name__)
_STOP_S = 5.0


def wind_up(spool: Spool, uploader: Uploader | None, uploading: threading.Thread | None, drain_s: float) -> bool:
    """Commit what is found and give the upstream a last chance; tell whether nothing is left to send.

    Args:
        spool: The queue.
        uploader: None without an upstream.
        uploading: Its thread, which is asked to end already.
        drain_s: How long it may try.
    """
    if not spool.flush(_STOP_S):
        _LOG.warning("%d events are not committed yet; one last try follows", spool.stats().pending,
                     extra=about(MessageId.SPOOL))
    if uploader is None or uploading is None:
        return True
    uploading.join(_STOP_S)
    if uploader.drain(drain_s):
        return True
    _LOG.warning("%d events are not delivered; they stay in the spool and go out after the next start (%s)",
                 spool.stats().depth, uploader.status().reason, extra=about(MessageId.UPSTREAM))
    return False


def leave_word(state_dir: Path, snapshot: Snapshot) -> None:
    """Keep the last snapshot on disk, for whoever asks why the box went quiet."""
    try:
        write_atomic(state_dir / LAST_STATUS, msgspec.json.encode(snapshot))
    except OSError as error:
        _LOG.warning("the last status cannot be kept: %s", error)


def verdict(readers: Iterable[ReaderStatus], *, delivered: bool) -> int:
    """Return the exit code of a run that ended in good order.

    Args:
        readers: How the sources ended.
        delivered: Nothing is lost, and nothing is left to send.
    """
    statuses = list(readers)
    if _all_failed(statuses):
        _LOG.error("no source could be read", extra=about(MessageId.FAILED))
        return EXIT_DOWN
    return EXIT_DEGRADED if any(status.failed for status in statuses) or not delivered else EXIT_OK


def how(crash: BaseException | None, readers: Iterable[ReaderStatus], *, asked: bool) -> tuple[str, str]:
    """Return how a run ends, in a word for the one that follows, and in words.

    Args:
        crash: What ended it, None in good order.
        readers: How the sources ended.
        asked: Somebody asked it to stop.
    """
    if crash is not None:
        known = isinstance(crash, AgentError)
        return "failed" if known else "defect", str(crash) if known else repr(crash)
    if asked:
        return STOPPED, "it was stopped on request"
    return ("failed", "no source could be read") if _all_failed(list(readers)) else (
        "ended", "all its sources had ended")


def _all_failed(statuses: Sequence[ReaderStatus]) -> bool:
    return bool(statuses) and all(status.failed for status in statuses)


def lost(spool: Spool) -> int:
    """Return how many events are lost for ever."""
    stats = spool.stats()
    count = stats.pending + stats.evicted + sum(stats.refused.values())
    if count:
        _LOG.error("%d events are lost: there was no room for them, or they were too old", count,
                   extra=about(MessageId.LOST))
    return count
