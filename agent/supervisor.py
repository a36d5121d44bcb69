"""One agent's life: build the parts from the configuration, start the threads, watch them, stop them.

One thread a source, one that looks (inference), one that tells (post-processing), one writer of the spool, one
uploader, one status server; this module's own thread watches. Crash-only: an exception nobody expected in any
thread ends the process with a non-zero code and systemd starts it again. A dead camera or a dead upstream is expected.
"""

import logging
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

from agent import __version__, assembly, ending, heap
from agent.building.recipe import Recipe
from agent.capture.reader import Reader
from agent.changing import TierChanger
from agent.clock import RecentTrust
from agent.config import Config
from agent.errors import EXIT_SOFTWARE, AgentError, EngineError
from agent.governing import Governing
from agent.inference.engine import EngineDescription
from agent.journal import MessageId, about
from agent.keeping import MemoryKeeper
from agent.meters import Heartbeat
from agent.notify import Notifier
from agent.page import PAGE_THREADS, open_page
from agent.pipeline import Deliver, Pipeline
from agent.power.choose import open_telemetry
from agent.power.ledger import Step
from agent.power.memory import MemoryWatch
from agent.power.telemetry import Telemetry
from agent.power_mode import PowerMode
from agent.records import Result, SourceChange, SourceState
from agent.report.spool import Spool
from agent.runs import Runs
from agent.sampling import Sampler
from agent.schedule import Lane
from agent.serving import Served, Serving
from agent.snapshot import LAST_STATUS, EndView, Snapshot
from agent.status import CLIENT_THREAD, StatusServer
from agent.view import View
from agent.watchdog import TELLER_THREAD, Watchdog

_LOG = logging.getLogger(__name__)
_TICK_S, _STOP_S, _READER_STOP_S = 0.1, 5.0, 0.5
_LOADING_S = 180.0  # an engine that is not loaded and warmed by then never will be
_TROUBLE = {SourceState.DOWN, SourceState.FROZEN, SourceState.BLACK}


class Supervisor:
    """One agent, from start to stop. ``run`` is its whole life."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = threading.Event()
        self._crash: BaseException | None = None
        self._asked = False
        self._found: Counter[str] = Counter()
        self._spooling = Heartbeat("spool", limit_s=60.0)
        self._uploading = Heartbeat("uploader", limit_s=60.0 + config.upstream.request_timeout)
        run_id, self._trust = uuid.uuid4().hex, RecentTrust()
        self._events = assembly.event_factory(config, run_id, self._trust)
        self.view = View(config, assembly.device_id(config), run_id, self._found)
        self._notifier = Notifier()
        self._watchdog = Watchdog(self.view, self._notifier)

    def run(self) -> int:
        """Run until stopped by a signal, by a defect, or by the end of all (finite) sources; return the exit code.

        Raises:
            AgentError: the agent cannot do its work, and why.
        """
        state_dir, recipe = assembly.open_state_dir(self._config), assembly.recipe_of(self._config)
        threading.excepthook = self._crashed
        readers: Mapping[str, Reader] = {}
        delivered = False
        with ExitStack() as parts:
            spool = parts.enter_context(assembly.spool(self._config, state_dir, self._events, self._spooling))
            runs = parts.enter_context(Runs(state_dir, waits=self._notifier.listened))
            self.view.power_mode = mode = parts.enter_context(PowerMode(self._config.budget, state_dir, self._stop))
            (state_dir / LAST_STATUS).unlink(missing_ok=True)  # it vouches for a good end; this run has not had one
            uploader = assembly.uploader(self._config.upstream, spool, self._stop, self._uploading,
                                         canary=lambda: self._events.heartbeat().body)
            self.view.reporting(spool, self._spooling, uploader, self._uploading)
            self._begin_to_tell(parts, recipe)
            self._wait_first(runs)

            # The cameras connect and the backlog goes out while the engine loads.
            ready = threading.Condition()
            readers, lanes = self._sources(ready, spool)
            for reader in readers.values():
                parts.callback(reader.stop, _READER_STOP_S)
                reader.start()
            uploading = self._start("uploader", uploader.run) if uploader else None

            serving = Serving(self._config, recipe, state_dir, self._doing, self._stop)
            loaded: list[Served] = []
            loader = self._begin_to_load(serving, mode, loaded)
            telemetry = parts.enter_context(closing(open_telemetry(  # finding the sensors takes its time as well
                self._config.budget.telemetry, Path(self._config.budget.sysfs), wait=True)))
            self._watch_loading(loader, serving, readers)
            if loaded:
                heap.give_back()
                pipeline = assembly.pipeline(self._config, loaded[0].model, lanes, ready=ready, stop=self._stop,
                                             deliver=self._deliver(recipe, spool))
                parts.callback(pipeline.close)
                pipeline.onlooker = self.view.page.onlooker if self.view.page else None
                governing = self._governing(serving, pipeline, lanes, telemetry=telemetry, state_dir=state_dir,
                                            spool=spool)
                self.view.looking(pipeline, serving, governing)
                looking = [self._start("inference", pipeline.look), self._start("postprocess", pipeline.tell)]
                beside = [*self._start_beside(serving, pipeline, recipe, state_dir),
                          self._start("governor", governing.run)]
                self._watch(readers, pipeline)
                self._end((*looking, *beside), serving)
            for reader in readers.values():
                reader.stop(0)
            delivered = ending.wind_up(spool, uploader, uploading, self._config.upstream.drain)
            if self._crash is None:
                ending.leave_word(state_dir, self.snapshot())
            statuses = [reader.status() for reader in readers.values()]
            runs.end(*ending.how(self._crash, statuses, asked=self._asked))
        self._raise_crash()
        lost = ending.lost(spool)
        return ending.verdict(statuses, delivered=delivered and not lost)

    def stop(self) -> None:
        """End the run; safe from a signal handler and from any thread."""
        self._asked = True
        self._stop.set()

    def snapshot(self) -> Snapshot:
        """Return what ``vedette status`` shows."""
        return self.view.snapshot(stopping=self._stop.is_set())

    def _begin_to_tell(self, parts: ExitStack, recipe: Recipe) -> None:
        """Answer who asks for the status, tell systemd, and serve the page if there is to be one."""
        server = StatusServer(self._config.socket_path, self.snapshot, self._alive)
        parts.callback(server.close)
        self._start("status", server.serve)
        self._start(TELLER_THREAD, lambda: self._watchdog.tell(self._stop))
        self.view.page = page = open_page(self._config, self.view.device, self.snapshot, recipe.classes)
        if page:
            parts.callback(page.close)
            self._start("page", page.serve)

    def _wait_first(self, runs: Runs) -> None:
        """Wait before the work begins where the runs before ended badly in a row; the status answers already."""
        self.view.ends = [EndView(at=run.ended_at, how=run.ended, words=run.words) for run in runs.before]
        if runs.wait_s:
            _LOG.warning("waits %g s before it begins: %s", runs.wait_s, runs.why, extra=about(MessageId.WAITS))
            self._doing(f"waiting {runs.wait_s:g} s: {runs.why}")
        until_s = time.monotonic() + runs.wait_s
        while time.monotonic() < until_s and not self._stop.wait(_TICK_S):
            self._watchdog.starting(progress=True)

    # Building -------------------------------------------------------------------------------------------------

    def _sources(self, ready: threading.Condition, spool: Spool) -> tuple[Mapping[str, Reader], list[Lane]]:
        def on_change(change: SourceChange) -> None:
            level = logging.WARNING if change.state in _TROUBLE else logging.INFO
            _LOG.log(level, "source %s is %s: %s", change.source, change.state, change.reason,
                     extra=about(MessageId.SOURCE, source=change.source, stage="capture"))
            spool.append(self._events.source_state(change))

        readers, lanes = {}, []
        for name, section in self._config.source.items():
            readers[name], lane = assembly.source(name, section, ready, on_change)
            lanes.append(lane)
            self.view.watching(name, readers[name], lane.meter)
        return readers, lanes

    def _begin_to_load(self, serving: Serving, mode: PowerMode, loaded: list[Served]) -> threading.Thread:
        """Find and load an engine into ``loaded``, in a thread of its own."""
        def load() -> None:
            mode.apply(self._doing)  # a part of an engine's identity
            loaded.append(serving.first())
        return self._start("loader", load)

    def _watch_loading(self, loader: threading.Thread, serving: Serving, readers: Mapping[str, Reader]) -> None:
        """Wait for the loader; stopping, hung cameras and defects are seen meanwhile.

        When the agent is to stop instead, a download or a child may go on for a moment, harmlessly.
        """
        while loader.is_alive() and not self._stop.is_set():
            loader.join(_TICK_S)
            self._watchdog.starting(progress=serving.loading_for_s() < _LOADING_S)
            for reader in readers.values():
                reader.check()

    def _start_beside(self, serving: Serving, pipeline: Pipeline, recipe: Recipe, state_dir: Path
                      ) -> list[threading.Thread]:
        """Start what goes on beside the loop: tuning, and keeping a sample of the frames if that is wanted."""
        threads = [self._start("tuner", lambda: serving.improve(lambda better: pipeline.swap(better.model)))]
        if self._config.calibration.live:
            sampler = Sampler(self._config.calibration, recipe, serving.size, state_dir, lambda: pipeline.seen)
            threads.append(self._start("sampler", lambda: sampler.run(self._stop)))
        return threads

    def _governing(self, serving: Serving, pipeline: Pipeline, lanes: Sequence[Lane], *, telemetry: Telemetry,
                   state_dir: Path, spool: Spool) -> Governing:
        changer = TierChanger(self._config, assembly.recipe_of(self._config), state_dir, serving=serving,
                              pipeline=pipeline, stop=self._stop)

        def tell(step: Step, measures: str) -> None:
            kind = MessageId.MEMORY if step.kind in {"memory", "leak"} else MessageId.BUDGET
            _LOG.info("budget: %s: %s", step.kind, step.reason, extra=about(kind))
            spool.append(assembly.budget_step(self._events, step, measures))

        return Governing(self._config, assembly.policy(self._config.budget), pipeline=pipeline, lanes=lanes,
                         changer=changer, telemetry=telemetry, stop=self._stop, tell=tell,
                         keeper=MemoryKeeper(self._config.budget, MemoryWatch()))

    def _doing(self, what: str) -> None:
        self.view.doing = what

    def _deliver(self, recipe: Recipe, spool: Spool) -> Deliver:
        def deliver(result: Result, what: EngineDescription) -> None:
            self.view.saw(result)
            if len(result.detections):
                self._found.update(recipe.classes[i] for i in result.detections.class_ids)
                spool.append(self._events.detection(result, recipe.classes, what))
        return deliver

    # Running --------------------------------------------------------------------------------------------------

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def _crashed(self, args: threading.ExceptHookArgs) -> None:
        """Take the exception that ended a thread, keep the first, and stop everything.

        A defect in telling about the agent is told, and does not end the agent.
        """
        name = args.thread.name if args.thread else "?"
        if not isinstance(args.exc_value, AgentError):
            _LOG.critical("thread %s ended by a defect", name, extra=about(MessageId.DEFECT),
                          exc_info=(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback))
        if name not in {CLIENT_THREAD, TELLER_THREAD, *PAGE_THREADS}:
            self._crash = self._crash or args.exc_value
            self._stop.set()

    def _raise_crash(self) -> None:
        if isinstance(self._crash, AgentError):
            raise self._crash
        if self._crash is not None:
            raise SystemExit(EXIT_SOFTWARE)

    def _alive(self) -> bool:
        return self._crash is None and all(beat.fresh() for beat in self.view.heartbeats())

    def _watch(self, readers: Mapping[str, Reader], pipeline: Pipeline) -> None:
        """Replace hung readers and wait for the end: a signal, a defect, or no source left to read."""
        while not self._stop.wait(_TICK_S):
            for reader in readers.values():
                reader.check()
            self._watchdog.running(readers)
            if all(reader.status().finished for reader in readers.values()) and pipeline.idle():
                _LOG.info("all sources have ended")
                return

    def _end(self, threads: Sequence[threading.Thread], serving: Serving) -> None:
        """Let the loop finish what it has begun."""
        self._watchdog.stopping()
        self._stop.set()
        for thread in threads:
            thread.join(_STOP_S)
        if isinstance(self._crash, EngineError):
            serving.distrust(self._crash.what)


def run(config: Config) -> int:
    """Run one agent until it ends by itself or by a signal; return the exit code.

    Raises:
        AgentError: the agent cannot do its work, and why.
    """
    supervisor = Supervisor(config)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        _LOG.info("stopping: %s", signal.Signals(number).name)
        supervisor.stop()

    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ending_it = (signal.SIGTERM, signal.SIGINT) if nohup else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in ending_it:
        signal.signal(number, on_signal)
    began = time.monotonic()
    _LOG.info("started: vedette %s", __version__, extra=about(MessageId.STARTED))
    try:
        code = supervisor.run()
    except AgentError as error:
        _LOG.error("cannot go on: %s", error.what, extra=about(MessageId.FAILED))
        raise
    except Exception as error:
        _LOG.critical("ended by a defect", exc_info=error, extra=about(MessageId.DEFECT))
        raise SystemExit(EXIT_SOFTWARE) from error
    finally:
        for number in ending_it:
            signal.signal(number, signal.SIG_IGN)  # it ends already
    _LOG.info("stopped after %.1f s", time.monotonic() - began, extra=about(MessageId.STOPPED))
    return code
