"""From sections of the configuration to parts that are ready to run; one function a part. Starts nothing."""

import errno
import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent import __version__
from agent.building.recipe import Recipe, find_recipe, recipe_folders
from agent.capture.opening import SourceOptions, check_url, open_source
from agent.capture.reader import Reader, ReaderPolicy
from agent.capture.source import LatestFrame, Source
from agent.clock import RecentTrust, boot_id
from agent.config import BudgetSection, Config, QuietHours, SourceSection, UpstreamSection
from agent.errors import AgentError, SourceError, unusable
from agent.https import HttpsOptions, open_session
from agent.inference.engine import Engine
from agent.inference.heads import HeadConfig, make_head
from agent.inference.letterbox import Letterbox
from agent.journal import MessageId, about
from agent.meters import Heartbeat, SourceMeter
from agent.pipeline import Deliver, Model, Pipeline
from agent.power.ledger import Step
from agent.power.policy import Hours, Limits, Policy, minute_of_day
from agent.records import Event, SourceChange
from agent.report.credentials import Credentials
from agent.report.events import BudgetReading, EventFactory, WorkingPoint
from agent.report.spool import FilePolicy, Spool
from agent.report.upstream import Uploader, UpstreamPolicy
from agent.schedule import Lane, Pace
from agent.secrets import read_secret, secret_path

_LOG = logging.getLogger(__name__)
_FULL = {errno.ENOSPC, errno.EDQUOT}


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

    A full disk is no reason not to run: the spool lives with it.

    Raises:
        ConfigError: it is a wrong place.
        AgentError: it cannot be used now.
    """
    state_dir = config.state_dir
    probe = state_dir / f".writable.{os.getpid()}"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno in _FULL and state_dir.is_dir():
            _LOG.warning("state directory %s: %s", state_dir, error.strerror, extra=about(MessageId.SPOOL))
            return state_dir
        raise unusable(error, f"state directory {state_dir}",
                       "set [device] state_dir to a directory that this user may write") from error
    return state_dir


def recipe_of(config: Config) -> Recipe:
    """Return the configured recipe.

    Raises:
        ConfigError: there is none of that name, or it is faulty.
    """
    return find_recipe(config.engine.recipe, recipe_folders(config.own_recipes))


def event_factory(config: Config, run_id: str, trust: RecentTrust) -> EventFactory:
    """Return what makes the events of this run."""
    return EventFactory(device_id(config), run_id, __version__, boot_id=boot_id(), distrust=trust.distrust)


def spool(config: Config, state_dir: Path, events: EventFactory, heartbeat: Heartbeat) -> Spool:
    """Open the spool.

    Raises:
        SpoolError: another agent uses it, or it cannot be opened.
        ConfigError: the compression's package is not installed.
    """
    section, upstream = config.spool, config.upstream
    policy = FilePolicy(max_bytes=int(section.max_bytes), max_dead=section.dead_letters, format=upstream.format,
                        compression=upstream.compression)
    return Spool(state_dir / "spool.sqlite", policy, events.gap, commit_events=section.commit_events,
                 commit_interval_s=section.commit_interval, max_age_s=section.max_age, heartbeat=heartbeat)


def source(name: str, section: SourceSection, ready: threading.Condition, on_change: Callable[[SourceChange], None]
           ) -> tuple[Reader, Lane]:
    """Return a source's reader and its lane to the loop.

    Raises:
        ConfigError: its address cannot be used.
    """
    check_url(section.url)
    options = SourceOptions(
        name=name, url=section.url, username=section.username,
        read_timeout_s=section.read_timeout, open_timeout_s=section.open_timeout,
        width=section.width, height=section.height, rate=section.rate)
    policy = ReaderPolicy(
        read_timeout_s=section.read_timeout, open_timeout_s=section.open_timeout, retry_max_s=section.retry_max,
        frozen_after_s=section.frozen_after, black_after_s=section.black_after)

    def opened() -> Source:  # reads the password each time: a new one is used, a missing one is waited for
        return open_source(replace(options, password=_password(name, section.password)))

    slot, meter = LatestFrame(name, ready), SourceMeter()
    reader = Reader(name, opened, slot, meter, on_change, policy)
    return reader, Lane(slot=slot, meter=meter, max_rate=_plain(section.max_rate), priority=section.priority)


def _password(name: str, reference: str | None) -> str | None:
    try:
        return read_secret(reference) if reference else None
    except AgentError as error:  # this source's own trouble, as a camera's that does not answer
        raise SourceError(f"source.{name}.password: {error.what}", error.remedy) from error


def uploader(section: UpstreamSection, events: Spool, stop: threading.Event, heartbeat: Heartbeat, *,
             canary: Callable[[], bytes]) -> Uploader | None:
    """Return the uploader; None without an upstream.

    Args:
        section: Its configuration.
        events: What it delivers.
        stop: Ends it.
        heartbeat: Beaten by it.
        canary: Makes a harmless event that asks whether the receiver takes any.

    Raises:
        ConfigError: a secret it needs is not there.
    """
    if section.url is None:
        return None
    ca_file, client_cert = (Path(file) if file else None for file in (section.ca_file, section.client_cert))
    client_key, token = (secret_path(file) if file else None for file in (section.client_key, section.token))
    options = HttpsOptions(
        ca_file=ca_file, client_cert=client_cert, client_key=client_key, proxy=section.proxy,
        connect_timeout_s=section.connect_timeout, read_timeout_s=section.read_timeout,
        total_timeout_s=section.request_timeout, follow_redirects=False)

    def token_now() -> str | None:
        return read_secret(section.token) if section.token else None

    token_now()  # at the start a missing secret is a fault; later it is waited for
    trust = RecentTrust()
    credentials = Credentials(
        lambda: open_session(replace(options, token=token_now())),
        [file for file in (ca_file, client_cert, client_key, token) if file], client_cert=client_cert, trust=trust)
    policy = UpstreamPolicy(
        url=section.url, batch_events=section.batch_events, batch_interval_s=section.batch_interval,
        bandwidth=section.bandwidth, retry_min_s=section.retry_min, retry_max_s=section.retry_max,
        user_agent=f"vedette/{__version__}")
    return Uploader(events, credentials, policy, canary=canary, stop=stop, heartbeat=heartbeat, trust=trust)


def model(config: Config, recipe: Recipe, loaded: Engine) -> Model:
    """Return the engine with its head and its canvas.

    Raises:
        ModelError: no head fits the engine's outputs.
    """
    section, spec = config.engine, loaded.spec
    head = make_head(HeadConfig(
        kind=recipe.head.kind, classes=len(recipe.classes), score=section.score or recipe.head.score,
        iou=section.iou or recipe.head.iou, landmarks=recipe.head.landmarks), spec)
    return Model(engine=loaded, place=Letterbox(spec.height, spec.width, recipe.input.pad).place, head=head)


def pipeline(config: Config, first: Model, lanes: list[Lane], *, ready: threading.Condition, deliver: Deliver,
             stop: threading.Event) -> Pipeline:
    """Return the loop, which begins with the model ``first``."""
    pace = Pace(rate=config.budget.rate, max_batch=config.engine.max_batch,
                batch_deadline_s=config.engine.batch_deadline)
    return Pipeline(lanes=lanes, ready=ready, model=first, deliver=deliver, pace=pace, stop=stop)


def policy(section: BudgetSection) -> Policy:
    """Return what is wanted of the governor, in plain numbers: they travel on to status and events."""
    return Policy(
        objective=section.policy, fps=_plain(section.fps), safe_rate=float(section.safe_rate), limits=_limits(section),
        quiet=[Hours(begin=minute_of_day(hours.begin), end=minute_of_day(hours.end), limits=_limits(hours))
               for hours in section.quiet_hours])


def _limits(section: BudgetSection | QuietHours) -> Limits:
    return Limits(watts=_plain(section.watts), celsius=_plain(section.celsius), rate=_plain(section.rate))


def _plain(value: float | None) -> float | None:
    return None if value is None else float(value)


def budget_step(events: EventFactory, step: Step, measures: str) -> Event:
    """Return the event that tells a step of the governor."""
    before, after = (WorkingPoint(tier=order.tier, batch=order.batch, rate=order.rate)
                     for order in (step.before, step.after))
    reading = BudgetReading(watts=step.watts, measures=measures, celsius=step.celsius, memory=step.memory)
    return events.budget_step(step.kind, before=before, after=after, reason=step.reason, reading=reading, at=step.at)
