"""One source's reading, for as long as the agent runs: open, read, fall, wait, open again.

A call that hangs cannot be ended from outside, so :meth:`Reader.check` abandons its thread and starts another; the old
one's results and exceptions count for nothing, and it closes its own source if the call ever returns. Nothing else
ends a reader but the end of a finite source, :meth:`Reader.stop`, or a defect, which stands in :attr:`Reader.crash`.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.backoff import FullJitter
from agent.capture.health import PictureHealth
from agent.capture.session import CallWatch, Session
from agent.capture.source import LatestFrame, Source
from agent.errors import AgentError, EndOfStreamError, SourceGoneError
from agent.meters import Heartbeat, SourceMeter
from agent.records import Frame, Pixels, SourceChange, SourceState
from agent.redact import redact

STUCK_S = 30.0
"""A call that hangs can only be ended with the process: when no frame came since, for so long, it should end."""
_FIRST_RETRY_S = 0.25
_GRACE_S = 1.0
_STEADY_S = 10.0
"""Frames must have come this long before an opening counts as good. A camera that gives a few frames and dies would
else be opened every quarter of a second for ever, with two events each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderPolicy:
    """How patient a reader is.

    Attributes:
        read_timeout_s: A read may take this long (and a second of grace), seconds.
        open_timeout_s: Opening may take this long (and a second of grace), seconds.
        retry_max_s: Longest wait between two attempts, seconds.
        frozen_after_s: See :class:`agent.capture.health.PictureHealth`.
        black_after_s: See there.
        max_hung: Abandoned threads that may be alive at a time; beyond that no new one is started.
    """

    read_timeout_s: float
    open_timeout_s: float
    retry_max_s: float
    frozen_after_s: float
    black_after_s: float
    max_hung: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderStatus:
    """A source as status shows it.

    Attributes:
        state: What it does now.
        reason: Why, in words; never holds credentials.
        since_s: Monotonic clock when it began to do so, seconds.
        last_frame_age_s: Seconds since the last frame arrived, None when none ever did.
        reconnects: How often it delivered frames again after it had been opened anew.
        hung: Abandoned threads that still hang.
        width: Width of the last picture, pixels; None when there was none.
        height: Its height.
        finished: A finite source ended, or can never be read.
        failed: It can never be read.
    """

    state: SourceState
    reason: str
    since_s: float
    last_frame_age_s: float | None = None
    reconnects: int = 0
    hung: int = 0
    width: int | None = None
    height: int | None = None
    finished: bool = False
    failed: bool = False


class Reader:
    """Keeps one source read, by one thread at a time.

    Args:
        name: The source's name.
        opener: Opens the source; raises AgentError when it cannot.
        slot: Where frames go.
        meter: Where frames are counted.
        on_change: Called once for every change of state and every notice, from the reading or the checking thread.
        policy: How patient to be.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        draw: Returns a number in 0..1, for the jitter.
    """

    def __init__(  # noqa: PLR0917  (six collaborators, none with a default)
                 self, name: str, opener: Callable[[], Source], slot: LatestFrame, meter: SourceMeter,
                 on_change: Callable[[SourceChange], None], policy: ReaderPolicy, *,
                 clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
                 draw: Callable[[], float] = random.random) -> None:
        self.name = name
        self.crash: BaseException | None = None
        self.heartbeat = Heartbeat(f"reader-{name}", limit_s=STUCK_S, clock=clock)
        self._opener = opener
        self._slot = slot
        self._meter = meter
        self._on_change = on_change
        self._policy = policy
        self._clock = clock
        self._wall = wall
        self._health = PictureHealth(policy.frozen_after_s, policy.black_after_s)
        self._retry = FullJitter(_FIRST_RETRY_S, policy.retry_max_s, draw)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._watch = CallWatch(clock)
        self._hung: list[threading.Thread] = []
        self._status = ReaderStatus(state=SourceState.CONNECTING, reason="not opened yet", since_s=clock())
        self._last_frame_s: float | None = None
        self._abandoned_s = 0.0
        self._moved_s = clock()
        self._seq = -1

    def start(self) -> None:
        """Begin to read."""
        self._start_thread(wait_first=False)

    def stop(self, timeout_s: float) -> None:
        """End reading; a thread that does not end within ``timeout_s`` is left behind, it is a daemon."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._watch.abandon()

    def check(self) -> None:
        """Abandon a thread whose call hangs and start another, as far as allowed. Call about every 0.5 s."""
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        if self._goes_forward():
            self.heartbeat.beat()
        if self._stopping.is_set() or self._status.finished or self.crash is not None:
            self.heartbeat.beat()
            return
        if self._thread is not None and (overdue := self._watch.abandon_if_overdue()):
            self._hung.append(self._thread)
            self._thread = None
            self._abandoned_s = self._clock()
            self._lose_held(overdue.holds_frame)
            self._move(SourceState.DOWN, f"{overdue.what} hangs for more than {overdue.limit_s:g} s")
        if self._thread is None and len(self._hung) < self._policy.max_hung:
            self._start_thread(wait_first=True)
        elif self._thread is None:
            self._move(SourceState.DOWN, f"{len(self._hung)} calls hang; waiting for one of them to return")

    def _goes_forward(self) -> bool:
        """Tell whether the reading thread moves, and no call hangs that keeps the device from those after it.

        A camera that is merely dead leaves no call behind that hangs for ever; and where one is left behind, frames of
        the thread that took its place are proof enough.
        """
        hinders = bool(self._hung) and (self._last_frame_s is None or self._last_frame_s < self._abandoned_s)
        patience_s = max(self._policy.open_timeout_s, self._policy.read_timeout_s) + _GRACE_S
        return not hinders and self._clock() - self._moved_s <= patience_s

    def status(self) -> ReaderStatus:
        """Return what the source does now."""
        with self._lock:
            age_s = None if self._last_frame_s is None else max(self._clock() - self._last_frame_s, 0.0)
            return replace(self._status, last_frame_age_s=age_s, reconnects=self._meter.reconnects,
                           hung=sum(thread.is_alive() for thread in self._hung))

    # The reading thread. `watch` is its own: once that is abandoned, the thread changes nothing any more.

    def _start_thread(self, *, wait_first: bool) -> None:
        self._watch = CallWatch(self._clock)
        self._thread = threading.Thread(target=self._run, args=(self._watch, wait_first), daemon=True,
                                        name=f"reader-{self.name}")
        self._thread.start()

    def _run(self, watch: CallWatch, wait_first: bool) -> None:
        try:
            if wait_first:
                self._wait()
            while self._goes_on(watch):
                self._read_until_it_ends(watch)
                if self._goes_on(watch):
                    self._wait()
        except BaseException as error:
            if watch.abandoned:
                return
            self.crash = error  # the supervisor ends the process; threading's own hook writes the traceback
            raise

    def _wait(self) -> None:
        wait_s = self._retry.next()
        self._moved_s = self._clock() + wait_s
        self._stopping.wait(wait_s)

    def _goes_on(self, watch: CallWatch) -> bool:
        return not (watch.abandoned or self._stopping.is_set() or self._status.finished)

    def _read_until_it_ends(self, watch: CallWatch) -> None:
        """Open the source and read it to its end or failure, and record which of the two it was."""
        session: Session | None = None
        try:
            with watch.call("opening", self._policy.open_timeout_s + _GRACE_S):
                source = self._opener()
                session = Session(source, self._slot, watch, self._policy.read_timeout_s + _GRACE_S, self._clock)
                self._slot.live = session.live
            self._health.begin()
            while self._goes_on(watch):
                self._moved_s = self._clock()
                self._step(session)
        except AgentError as error:
            if not watch.abandoned:
                self._fall(error, session)
        finally:
            if session is not None:
                session.close()

    def _fall(self, error: AgentError, session: Session | None) -> None:
        """Put the end of a session into a state."""
        self._lose_held(session is not None and session.watch.holds_frame)
        if isinstance(error, EndOfStreamError):
            self._move(SourceState.ENDED, error.what, finished=True)
            return
        reason = f"{error.what} ({error.remedy})" if error.remedy else error.what
        # A finite source's frame does not grow old: the loop may still take it.
        self._move(SourceState.DOWN, reason, finished=isinstance(error, SourceGoneError),
                   failed=isinstance(error, SourceGoneError), keep_frame=session is not None and not session.live)

    def _step(self, session: Session) -> None:
        """Read one frame and hand it on, if it is wanted and worth it."""
        if not session.due():
            return
        index = session.grab()
        now_s, wall_s = self._clock(), self._wall()
        self._saw(session, now_s)
        # While it is not LIVE every picture is looked at: the loop's wish may lie far ahead, the state is shown now.
        if session.live and not session.wanted(now_s) and self._status.state is SourceState.LIVE:
            session.watch.holds_frame = False
            self._meter.skip(self._slot.skip_reason)
            return
        pixels = session.retrieve()
        verdict = self._health.look(pixels, now_s, wall_s, live=session.live)
        self._remember_size(pixels)
        self._move(verdict.state, verdict.reason)
        for change in verdict.changes:
            self._tell(change)
        session.watch.holds_frame = False
        if verdict.state is not SourceState.LIVE:
            self._meter.skip(verdict.state.value)
            return
        lay = self._slot.lay
        frame = Frame(source=self.name, seq=self._seq, index=index, pixels=pixels, captured_ns=round(now_s * 1e9),
                      captured_at=wall_s, canvas=lay(pixels) if lay else None)
        if self._slot.put(frame):
            self._meter.skip(self._slot.skip_reason)
        session.handed_over()

    def _saw(self, session: Session, now_s: float) -> None:
        """Count a grabbed frame; once they have come for a while, the next wait is a short one again."""
        session.watch.holds_frame = True
        if session.frames == 1 and self._last_frame_s is not None:
            self._meter.reconnects += 1
        if session.lasted_s >= _STEADY_S:
            self._retry.reset()
        self._seq += 1
        self._meter.saw()
        with self._lock:
            self._last_frame_s = now_s

    def _remember_size(self, pixels: Pixels) -> None:
        height, width = pixels.shape[:2]
        if (width, height) != (self._status.width, self._status.height):
            with self._lock:
                self._status = replace(self._status, width=width, height=height)

    def _lose_held(self, holds_frame: bool) -> None:
        """Count a frame that was grabbed and then lost with its source."""
        if holds_frame:
            self._meter.skip(SourceState.DOWN.value)

    def _move(self, state: SourceState, reason: str, *, finished: bool = False, failed: bool = False,
              keep_frame: bool = False) -> None:
        """Enter ``state``; tell and clear the mailbox only when it is another one."""
        reason = redact(reason)
        before = self._status
        same = before.state is state
        if same and before.reason == reason and not finished:
            return
        now_s = self._clock()
        with self._lock:
            self._status = replace(before, state=state, reason=reason, since_s=before.since_s if same else now_s,
                                   finished=finished, failed=failed)
        if same:
            return
        leaves_live = before.state is SourceState.LIVE and state is not SourceState.ENDED
        if leaves_live and not keep_frame and self._slot.clear():
            self._meter.skip(state.value)
        self._on_change(SourceChange(source=self.name, state=state, reason=reason, at=self._wall(),
                                     since_s=now_s - before.since_s))

    def _tell(self, notice: str) -> None:
        status = self._status
        self._on_change(SourceChange(source=self.name, state=status.state, reason=notice, at=self._wall(),
                                     since_s=self._clock() - status.since_s))
