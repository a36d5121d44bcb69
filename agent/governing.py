"""The governor's thread: measure, decide, act, tell; twice a second.

What is decided stands in ``power/governor.py`` and knows nothing of threads, sensors or engines; here they are joined.
Sensors that cannot be read, a table that does not fit any more, an engine that cannot be loaded: each is told, none
ends the loop.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.changing import TierChanger
from agent.clock import RecentTrust
from agent.config import Config
from agent.keeping import MemoryKeeper
from agent.meters import Heartbeat
from agent.pipeline import Pipeline
from agent.power import governor
from agent.power.governor import PERIOD_S
from agent.power.ledger import Ledger, Step
from agent.power.orders import Order, Rules, Sample
from agent.power.pinned import Pinned
from agent.power.policy import Limits, Policy, limits_at
from agent.power.reach import served
from agent.power.shares import Demand, shares
from agent.power.telemetry import Reading, Telemetry
from agent.schedule import Lane

_LOG = logging.getLogger(__name__)
_STALE_S = 2.0  # an older reading is none: four periods
_COUNTED = 4  # periods over which served frames are counted
_COARSE = 1.0
_TAKING_OVER_S = 3.0  # until what is counted is the other engine's alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What the governor knew and ordered last; made anew each period, so any thread may read it."""

    order: Order
    why: str
    since_s: float
    limits: Limits
    quiet: str
    reading: Reading | None
    blind: bool
    table: str
    shares: Mapping[str, float | None]


class Governing:
    """Keeps the loop within its budget.

    Args:
        config: Its ``[budget]``.
        policy: The same, as the governor takes it; may be changed while it runs.
        pipeline: Whose pace is set.
        lanes: The pipeline's.
        changer: Changes tiers.
        telemetry: The board's sensors.
        keeper: The memory's.
        tell: Told each step, and what the watts in it are of.
        stop: Ends the thread.
    """

    def __init__(self, config: Config, policy: Policy, *, pipeline: Pipeline, lanes: Sequence[Lane],
                 changer: TierChanger, telemetry: Telemetry, keeper: MemoryKeeper, tell: Callable[[Step, str], None],
                 stop: threading.Event) -> None:
        self._config = config
        self.policy = policy
        self._pipeline = pipeline
        self._lanes = lanes
        self._changer = changer
        self._telemetry = telemetry
        self._tell = tell
        self._stop = stop
        self._pinned = Pinned()
        self._trust = RecentTrust()
        self._counts: deque[tuple[float, int]] = deque([(time.monotonic(), self._processed())], maxlen=_COUNTED + 1)
        self._quiet = ""
        self._since_s = time.monotonic()
        self.keeper = keeper
        self.ledger = Ledger()
        self.heartbeat = Heartbeat("governor", limit_s=30.0)
        limits, self._quiet = limits_at(policy, self._minute())
        self._state = governor.begin(self._rules(limits), changer.way(config.engine.max_batch))
        self._shares: Mapping[str, float | None] = {}
        self._tier = changer.tier
        self._renewed_s = -1e9
        self._held, self._held_batch = self._state.order.rate, self._state.order.batch
        self._act(self._state.order)
        self.decided = self._decided(limits, None)

    def run(self) -> None:
        """Govern until ``stop``."""
        try:
            self._changer.look_around(self._telemetry)
            while not self._stop.wait(PERIOD_S):
                self.heartbeat.beat()
                self._govern()
        finally:
            self._telemetry.close()

    def _govern(self) -> None:
        reading, now_s = self._read(), time.monotonic()
        if (renewed := self._changer.renewed()) or self._changer.tier != self._tier:
            self._renew(asked=not renewed)
        if failure := self._changer.take_failure():
            self._go_back(failure, reading)
        limits, quiet = limits_at(self.policy, self._minute())
        if quiet != self._quiet:
            words = f"quiet hours {quiet} hold" if quiet else f"quiet hours {self._quiet} are over"
            self._quiet = quiet
            self._took("limits", self._state.order, self._state.order, words, reading)
        self._keep_memory(reading)
        rules, sample = self._rules(limits), self._sample(now_s, reading)
        was, told, was_blind = self._state.order, self._state.told, self._state.blind_told
        self._state, why = governor.decide(rules, self._state, sample)
        order = self._state.order
        before = was if _lower(order.rate, was.rate) else told  # the silent rise before a cut belongs to the story
        self._act(order)
        if why:
            kind = "blind" if self._state.blind_told and not was_blind else "step"
            self._since_s = now_s
            self._took(kind, before, order, why, reading)
        elif was_blind and not self._state.blind and self._governed(limits):
            self._took("seeing", before, order, "the sensors tell again what the limits need", reading)
        self.decided = self._decided(limits, reading)

    def _decided(self, limits: Limits, reading: Reading | None) -> Decided:
        state = self._state
        return Decided(
            order=state.order, why=state.why, since_s=self._since_s, limits=limits, quiet=self._quiet, reading=reading,
            blind=reading is not None and state.blind > 0 and self._governed(limits), table=self._changer.table_words,
            shares=self._shares)

    @property
    def telemetry_name(self) -> str:
        """Who reads the sensors."""
        return self._telemetry.name

    @staticmethod
    def _governed(limits: Limits) -> bool:
        return limits.watts is not None or limits.celsius is not None

    # Measuring ------------------------------------------------------------------------------------------------

    def _read(self) -> Reading:
        reading = self._telemetry.sample()
        return self._pinned.check(_believed(reading), table=self._changer.measures,
                                  stand_in=getattr(self._telemetry, "stands_in", False))

    def _sample(self, now_s: float, reading: Reading) -> Sample:
        before_s, before = self._counts[-1]
        self._counts.append((now_s, self._processed()))
        (first_s, first), (_, last) = self._counts[0], self._counts[-1]
        self.ledger.passed(replace(self._state.order, tier=self._tier), now_s - before_s, last - before, reading.watts)
        offered = [demand.fps for demand in self._demands()]
        counted = (last - first) / max(now_s - first_s, 1e-3)
        return Sample(
            now_s=now_s, watts=reading.watts, celsius=reading.celsius,
            fps=served(self._state.order.rate, counted),
            # Where no source gives frames, nobody knows yet what they will give.
            offered=sum(fps or 0.0 for fps in offered) if offered and None not in offered else None,
            alarms=reading.alarms, trouble=reading.trouble, squeeze=self.keeper.force, why_squeezed=self.keeper.why,
            changing=self._state.order.tier != self._tier or now_s - self._renewed_s < _TAKING_OVER_S,
            serving=self._tier)

    def _processed(self) -> int:
        return sum(lane.meter.processed for lane in self._lanes)

    def _demands(self) -> Sequence[Demand]:
        """Return what the sources that give frames could use."""
        return [Demand(source=lane.slot.source, priority=lane.priority, fps=_least(
                    max(lane.meter.seen_rate.per_second(), _COARSE) if lane.slot.live else None, lane.max_rate))
                for lane in self._lanes
                if lane.meter.seen_rate.per_second() > 0 or lane.slot.frame is not None
                or (lane.share == 0 and not lane.slot.live)]  # it gives none because it is not asked for any

    def _minute(self) -> int | None:
        if self.policy.quiet and self._trust.distrust():
            return None
        now = time.localtime()
        return now.tm_hour * 60 + now.tm_min

    def _rules(self, limits: Limits) -> Rules:
        return Rules(objective=self.policy.objective, limits=limits, fps=self.policy.fps,
                     safe_rate=self.policy.safe_rate, ways=self._changer.ways(self._config.engine.max_batch),
                     changeable=self._changer.changeable())

    # Acting ---------------------------------------------------------------------------------------------------

    def _act(self, order: Order) -> None:
        rate = order.rate
        if order.tier != self._changer.tier:
            self._changer.change_to(order.tier, unload_first=self.keeper.force in {"tier", "pause"})
            rate = _least(rate, self._held)  # frames cost what they cost until the other engine has taken over
        else:
            self._held, self._held_batch = rate, order.batch
        self._shares = shares(rate, self._demands())
        self._pipeline.pace(rate, order.batch, self._shares)

    def _keep_memory(self, reading: Reading) -> None:
        kept = self.keeper.look(self._changer.device_bytes, self._changer.rungs(self._state.order.batch),
                                loading=self._changer.loading
                                or time.monotonic() - self._renewed_s < _TAKING_OVER_S)
        taken = self.keeper.state.taken
        self._pipeline.narrow = "queues" in taken
        if kept.move:
            self._changer.make_room(kept.move.rungs if kept.move.down else ())
            what = "gives up" if kept.move.down else "takes back"
            order = self._state.order
            self._took("memory", order, order, f"{what} {' and '.join(kept.move.rungs)}: {kept.move.reason}", reading)
        if kept.leak:
            self._took("leak", self._state.order, self._state.order, kept.leak.words, reading)

    def _renew(self, *, asked: bool) -> None:
        """Another engine serves; when it was not asked for here, a tuned one has taken over."""
        self._tier, self._renewed_s = self._changer.tier, time.monotonic()
        if not asked:
            self._changer.look_around(self._telemetry)  # the table may not know it
        if not asked or self._state.order.tier != self._tier:
            self._state = governor.back(self._state, self._changer.way(self._state.order.batch))
        self.keeper.restart()

    def _go_back(self, failure: str, reading: Reading) -> None:
        """Stay with the engine that serves, at its pace: the one that was ordered cannot be had."""
        before = self._state.order
        state = governor.back(self._state, self._changer.way(min(before.batch, self._held_batch)))
        self._state = replace(state, order=replace(state.order, rate=_least(state.order.rate, self._held)))
        self._took("step", before, self._state.order, failure, reading)

    def _took(self, kind: str, before: Order, after: Order, reason: str, reading: Reading) -> None:
        step = Step(at=time.time(), kind=kind, before=before, after=after, reason=reason, watts=reading.watts,
                    celsius=reading.celsius, memory=self.keeper.reading.own)
        self.ledger.took(step)
        level = logging.WARNING if kind in {"blind", "memory", "leak"} else logging.INFO
        _LOG.log(level, "budget: %s: %s", after, reason)
        self._tell(step, reading.measures)


def _believed(reading: Reading) -> Reading:
    """Return the reading, or what is left of one that is too old: nothing."""
    old_s = time.monotonic() - reading.at_s
    return reading if old_s <= _STALE_S else Reading(
        at_s=reading.at_s, measures=reading.measures, trouble=f"the last reading is {old_s:.1f} s old")


def _lower(rate: float | None, than: float | None) -> bool:
    return rate is not None and (than is None or rate < than)


def _least(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)
