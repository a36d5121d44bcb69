"""What systemd is told: ready, alive as long as every part goes forward, and one line of state.

It is the supervisor's own thread that tells, so that a supervisor that hangs is found out as well. A dead camera or a
dead upstream is no reason to end: only a part that stands still is, because no other remedy is left for it.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from agent.capture.reader import STUCK_S, Reader, ReaderStatus
from agent.journal import MessageId, about
from agent.meters import Heartbeat
from agent.notify import Notifier
from agent.records import SourceState
from agent.snapshot import Snapshot
from agent.view import View

_LOG = logging.getLogger(__name__)
TELLER_THREAD = "teller"
_EVERY_S = 1.0
_STATUS_EVERY_S = 5.0
_PATIENCE_S = 5.0
"""After the engine is loaded: whoever has a picture has a result by then."""
_EXTEND_S = 60.0
_OTHERS_SEE_S = 3600.0
_ALIVE = {SourceState.LIVE, SourceState.ENDED}


class Watchdog:
    """Speaks for one run.

    Args:
        view: The parts, seen from outside.
        notifier: The way to systemd.
        clock: Monotonic seconds.
    """

    def __init__(self, view: View, notifier: Notifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._notifier = notifier
        self._clock = clock
        self._next_s = 0.0
        self._loaded_s: float | None = None
        self._ready = False
        self._status_s = 0.0
        self._stuck: Collection[str] = ()
        self._every_s = min(_EVERY_S, (notifier.watchdog_s or _EVERY_S * 4) / 4)

    def tell(self, stop: threading.Event) -> None:
        """Keep the line of state and the view's memory up to date until ``stop``.

        In a thread of its own, which may end by a defect as one that answers may: words are not worth the agent's end.
        """
        while not stop.wait(self._every_s):
            self._view.tick()
            if not self._ready or self._clock() >= self._status_s:
                self._status_s = self._clock() + _STATUS_EVERY_S
                self._notifier.status(line(self._view.snapshot()))

    def starting(self, *, progress: bool) -> None:
        """Ask for more time while the engine is being found, built and loaded; call it about ten times a second.

        Args:
            progress: False when that does not go forward: then no more time is asked for.
        """
        if self._due() and progress:
            self._notifier.extend(_EXTEND_S)

    def running(self, readers: Mapping[str, Reader]) -> None:
        """Tell how the loop is; call it about ten times a second."""
        if not self._due():
            return
        self._loaded_s = self._loaded_s or self._clock()
        statuses = {name: reader.status() for name, reader in readers.items()}
        _be_patient(readers, statuses)
        stuck = [beat for beat in self._view.heartbeats() if not beat.fresh()]
        self._tell_stuck(stuck)
        if stuck:
            return
        if not self._ready and has_started(
                result=self._view.has_result, paused=self._view.paused, loaded_for_s=self._clock() - self._loaded_s,
                pictures=any(status.state in _ALIVE and status.width for status in statuses.values())):
            self._ready = True
            self._notifier.ready()
            self._status_s = 0.0  # the line that follows at once is the news
            _LOG.info("ready", extra=about(MessageId.READY))
        if self._ready:
            self._notifier.alive()

    def stopping(self) -> None:
        """Tell that the run ends."""
        self._notifier.stopping("stopping")

    def _due(self) -> bool:
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True

    def _tell_stuck(self, stuck: Sequence[Heartbeat]) -> None:
        names = [beat.name for beat in stuck]
        for beat in stuck:
            if beat.name not in self._stuck:
                _LOG.error("%s has not moved for %.0f s: systemd is not told any more that all is well", beat.name,
                           beat.age_s(), extra=about(MessageId.STUCK, stage=beat.name))
        if self._stuck and not stuck:
            _LOG.info("all parts move again")
        self._stuck = names


def _be_patient(readers: Mapping[str, Reader], statuses: Mapping[str, ReaderStatus]) -> None:
    for name, reader in readers.items():
        others = [status.state is SourceState.LIVE for other, status in statuses.items() if other != name]
        reader.heartbeat.limit_s = reader_patience_s(others)


def reader_patience_s(sees: Sequence[bool]) -> float:
    """Return how long a reader may stand still before that is a reason to end the process, seconds.

    While other sources see, ending costs them their pictures, and a camera that is dead in an unusual way would hang
    again: then once an hour is enough.

    Args:
        sees: Of every other source whether pictures come from it.
    """
    return _OTHERS_SEE_S if any(sees) else STUCK_S


def has_started(*, result: bool, pictures: bool, paused: bool, loaded_for_s: float) -> bool:
    """Tell whether the service has started: it has produced a result, or could not for want of a picture.

    Args:
        result: There was one.
        pictures: Some source delivers.
        paused: The budget allows no frame now.
        loaded_for_s: Seconds since the engine is loaded.
    """
    return result or (loaded_for_s >= _PATIENCE_S and (paused or not pictures))


def line(snapshot: Snapshot) -> str:
    """Return the state in one line, for ``systemctl status``."""
    if snapshot.state == "starting":
        return f"starting: {snapshot.doing}" if snapshot.doing != "starting" else "starting"
    others = [f"{source.name} {source.state}" for source in snapshot.sources if source.state not in _ALIVE]
    live, rate = len(snapshot.sources) - len(others), sum(source.processed_rate for source in snapshot.sources)
    which = f" ({', '.join(others)})" if others else ""
    parts = [f"{snapshot.state}: {live} of {len(snapshot.sources)} sources live{which}, {rate:.1f} frames/s"]
    if snapshot.spool:
        parts.append(f"spool {snapshot.spool.depth}")
    if snapshot.upstream and snapshot.upstream.state != "off":
        parts.append(f"upstream {snapshot.upstream.state}")
    if snapshot.problems:  # any user may read this line, and what they are is for those who may ask
        parts.append(f"{len(snapshot.problems)} problem{'s' * (len(snapshot.problems) != 1)}: vedette status")
    return ", ".join(parts)
