"""The composition root: builds the parts from the configuration, starts the threads, watches them, stops them.

One thread a source, one that looks (inference), one that tells (post-processing), one writer of the spool, one
uploader, one status server; this module's own thread watches. Crash-only: an exception nobody expected in any
thread ends the process with a non-zero code and systemd starts it again. A dead camera or a dead upstream is expected.
"""

import logging
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import msgspec

from agent import __version__
from agent.atomic import write_atomic
from agent.building.prepare import Prepared, prepare
from agent.building.recipe import Recipe, find_recipe, recipe_folders
from agent.capture.opening import SourceOptions, check_url, open_source
from agent.capture.reader import Reader, ReaderPolicy
from agent.capture.source import LatestFrame, Source
from agent.config import Config, SourceSection
from agent.errors import EXIT_DEGRADED, EXIT_DOWN, EXIT_OK, EXIT_SOFTWARE, AgentError, ConfigError
from agent.https import HttpsOptions, open_session
from agent.inference.engine import Engine, EngineDescription
from agent.inference.heads import HeadConfig, make_head
from agent.inference.letterbox import Letterbox
from agent.inference.onnxruntime import OnnxRuntimeEngine
from agent.meters import Heartbeat, SourceMeter
from agent.pipeline import Lane, Pace, Pipeline
from agent.records import Result, SourceChange
from agent.report.events import EventFactory
from agent.report.spool import Spool
from agent.report.upstream import Uploader, UpstreamPolicy
from agent.secrets import read_secret, secret_path
from agent.snapshot import LAST_STATUS, Snapshot
from agent.status import StatusServer
from agent.view import View

_LOG = logging.getLogger(__name__)
_TICK_S = 0.1
_STOP_S = 5.0


def device_id(config: Config) -> str:
    """Return the box's name: configured, else derived from the machine id (which itself is not given away)."""
    if config.device.id:
        return config.device.id
    try:
        machine = Path("/etc/machine-id").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    return "box-" + uuid.uuid5(uuid.NAMESPACE_OID, f"vedette:{machine or os.uname().nodename}").hex[:12]


def open_state_dir(config: Config) -> Path:
    """Return the state directory, made and proven to be writable.

    Raises:
        ConfigError: it cannot be made or written.
    """
    state_dir = config.state_dir
    probe = state_dir / f".writable.{os.getpid()}"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"state directory {state_dir}: {error.strerror}",
                          "set [device] state_dir to a directory that this user may write") from error
    return state_dir


class Supervisor:
    """One agent, from start to stop. ``run`` is its whole life."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = threading.Event()
        self._crash: BaseException | None = None
        self._run_id = uuid.uuid4().hex
        self._device = device_id(config)
        self._events = EventFactory(self._device, self._run_id, __version__)
        self._found: Counter[str] = Counter()
        self._uploading = Heartbeat("uploader", limit_s=180.0)
        self._spooling = Heartbeat("spool", limit_s=60.0)
        self.view = View(config, self._device, self._run_id, self._found)

    def run(self) -> int:
        """Run until stopped by a signal, by a defect, or by the end of all (finite) sources; return the exit code.

        Raises:
            AgentError: the agent cannot do its work, and why.
        """
        state_dir = open_state_dir(self._config)
        folders = recipe_folders([Path(folder) for folder in self._config.engine.recipes])
        recipe = find_recipe(self._config.engine.recipe, folders)
        threading.excepthook = self._crashed
        with ExitStack() as parts:
            spool = parts.enter_context(self._open_spool(state_dir))
            server = StatusServer(self._config.socket_path, self.snapshot, self._alive)
            parts.callback(server.close)
            self._start("status", server.serve)

            ready = threading.Condition()
            readers, lanes = self._open_sources(ready, spool)
            for reader in readers.values():
                parts.callback(reader.stop, _STOP_S)
                reader.start()

            uploader = self._open_uploader(spool)
            self.view.reporting(spool, self._spooling, uploader, self._uploading)
            uploading = self._start("uploader", uploader.run) if uploader else None

            prepared = self._prepare(recipe, state_dir)
            engine = self._load(recipe, prepared)
            parts.callback(engine.close)
            pipeline = self._assemble(recipe, engine, lanes, ready, spool)
            self.view.looking(pipeline, engine)
            looking = [self._start("inference", pipeline.look), self._start("postprocess", pipeline.tell)]

            self._watch(readers, pipeline)

            self._stop.set()
            for thread in looking:
                thread.join(_STOP_S)
            delivered = self._wind_up(spool, uploader, uploading)
            self._leave_word(state_dir)
        self._raise_crash()
        return self._verdict(readers, delivered)

    def stop(self) -> None:
        """End the run; safe from a signal handler and from any thread."""
        self._stop.set()

    def snapshot(self) -> Snapshot:
        """Return what ``vedette status`` shows."""
        return self.view.snapshot(stopping=self._stop.is_set())

    # Building the parts ---------------------------------------------------------------------------------------

    def _open_spool(self, state_dir: Path) -> Spool:
        section = self._config.spool
        return Spool(state_dir / "spool.sqlite", max_bytes=int(section.max_bytes),
                     commit_events=section.commit_events, commit_interval_s=float(section.commit_interval),
                     heartbeat=self._spooling)

    def _open_sources(self, ready: threading.Condition, spool: Spool) -> tuple[Mapping[str, Reader], list[Lane]]:
        readers, lanes = {}, []
        for name, section in self._config.source.items():
            check_url(section.url)
            slot, meter = LatestFrame(name, ready), SourceMeter()
            readers[name] = Reader(name, _opener(name, section), slot, meter, self._told(spool), ReaderPolicy(
                read_timeout_s=section.read_timeout, open_timeout_s=section.open_timeout,
                retry_max_s=section.retry_max, frozen_after_s=section.frozen_after, black_after_s=section.black_after))
            lanes.append(Lane(slot=slot, meter=meter, max_rate=section.max_rate))
            self.view.watching(name, readers[name], meter)
        return readers, lanes

    def _told(self, spool: Spool) -> Callable[[SourceChange], None]:
        def on_change(change: SourceChange) -> None:
            _LOG.info("source %s is %s: %s", change.source, change.state, change.reason)
            spool.append(self._events.source_state(change))
        return on_change

    def _open_uploader(self, spool: Spool) -> Uploader | None:
        section = self._config.upstream
        if section.url is None:
            return None
        options = HttpsOptions(
            ca_file=Path(section.ca_file) if section.ca_file else None,
            client_cert=Path(section.client_cert) if section.client_cert else None,
            client_key=secret_path(section.client_key) if section.client_key else None,
            token=read_secret(section.token) if section.token else None, proxy=section.proxy,
            connect_timeout_s=section.connect_timeout, read_timeout_s=section.read_timeout)
        policy = UpstreamPolicy(
            url=section.url, batch_events=section.batch_events, batch_interval_s=section.batch_interval,
            retry_min_s=section.retry_min, retry_max_s=section.retry_max, user_agent=f"vedette/{__version__}")
        return Uploader(spool, lambda: open_session(options), policy, stop=self._stop, heartbeat=self._uploading)

    def _prepare(self, recipe: Recipe, state_dir: Path) -> Prepared:
        size = self._config.engine.size
        return prepare(recipe, size=(size[0], size[1]) if size else None, state_dir=state_dir)

    def _load(self, recipe: Recipe, prepared: Prepared) -> Engine:
        section = self._config.engine
        engine = OnnxRuntimeEngine(
            prepared.path, name=recipe.name, identity=prepared.identity, model_sha256=prepared.model_sha256,
            threads=section.threads, provider=section.provider, max_batch=section.max_batch)
        engine.warm_up()
        return engine

    def _assemble(self, recipe: Recipe, engine: Engine, lanes: list[Lane], ready: threading.Condition, spool: Spool
                  ) -> Pipeline:
        section, spec = self._config.engine, engine.spec
        head = make_head(HeadConfig(
            kind=recipe.head.kind, classes=len(recipe.classes), score=section.score or recipe.head.score,
            iou=section.iou or recipe.head.iou, landmarks=recipe.head.landmarks), spec)
        return Pipeline(
            lanes=lanes, ready=ready, engine=engine, place=Letterbox(spec.height, spec.width, recipe.input.pad).place,
            head=head, deliver=self._deliver(recipe, engine.describe(), spool), stop=self._stop,
            pace=Pace(rate=self._config.budget.rate, max_batch=min(section.max_batch, spec.max_batch),
                      batch_deadline_s=section.batch_deadline))

    def _deliver(self, recipe: Recipe, engine: EngineDescription, spool: Spool) -> Callable[[Result], None]:
        def deliver(result: Result) -> None:
            self.view.saw(result)
            if len(result.detections):
                self._found.update(recipe.classes[i] for i in result.detections.class_ids)
                spool.append(self._events.detection(result, recipe.classes, engine))
        return deliver

    # Running --------------------------------------------------------------------------------------------------

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def _crashed(self, args: threading.ExceptHookArgs) -> None:
        """Take the exception that ended a thread, keep the first, and stop everything."""
        self._crash = self._crash or args.exc_value
        if not isinstance(args.exc_value, AgentError):
            _LOG.critical("thread %s ended by a defect", args.thread.name if args.thread else "?",
                          exc_info=(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback))
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
            if all(reader.status().finished for reader in readers.values()) and pipeline.idle():
                _LOG.info("all sources have ended")
                return

    def _wind_up(self, spool: Spool, uploader: Uploader | None, uploading: threading.Thread | None) -> bool:
        """Commit what is found and give the upstream a last chance; tell whether nothing is left to send."""
        spool.flush(_STOP_S)
        if uploader is None or uploading is None:
            return True
        uploading.join(_STOP_S)
        if uploader.drain(self._config.upstream.drain):
            return True
        _LOG.warning("%d events are not delivered; they stay in the spool and go out after the next start (%s)",
                     spool.stats().depth, uploader.status().reason)
        return False

    def _leave_word(self, state_dir: Path) -> None:
        """Keep the last snapshot on disk, for whoever asks why the box went quiet."""
        try:
            write_atomic(state_dir / LAST_STATUS, msgspec.json.encode(self.snapshot()))
        except OSError as error:
            _LOG.warning("the last status cannot be kept: %s", error)

    def _verdict(self, readers: Mapping[str, Reader], delivered: bool) -> int:
        statuses = [reader.status() for reader in readers.values()]
        failed = sum(status.failed for status in statuses)
        if failed and failed == len(statuses):
            return EXIT_DOWN
        return EXIT_DEGRADED if failed or not delivered else EXIT_OK


def _opener(name: str, section: SourceSection) -> Callable[[], Source]:
    options = SourceOptions(
        name=name, url=section.url, username=section.username,
        password=read_secret(section.password) if section.password else None,
        read_timeout_s=section.read_timeout, open_timeout_s=section.open_timeout,
        width=section.width, height=section.height, rate=section.rate)
    return lambda: open_source(options)


def run(config: Config) -> int:
    """Run one agent with signal handlers for SIGTERM and SIGINT; return the exit code.

    Raises:
        AgentError: the agent cannot do its work, and why.
    """
    supervisor = Supervisor(config)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        _LOG.info("stopping: %s", signal.Signals(number).name)
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    began = time.monotonic()
    code = supervisor.run()
    _LOG.info("stopped after %.1f s", time.monotonic() - began)
    return code
