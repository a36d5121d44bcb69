"""Simulated boards for ``bench governor``: drawn around published figures, driven under the real governor.

Power from 6 to 50 W: the power modes of NVIDIA's Orin modules go from 7 W (Orin Nano) to 60 W (AGX Orin). Heat sinks
are sized for their module: 25 to 50 K above the air at full load, a time constant of one to seven minutes. The sensor
has the grain of an INA3221 (20 to 100 mW) and shows a mean over the control period. Each load has noise of its own, a
neighbour that comes and goes, and a table of `vedette tune` that is wrong by up to 15 %, or none.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.power import governor
from agent.power.governor import PERIOD_S
from agent.power.orders import Order, Rules, Sample
from agent.power.plant import Plant
from agent.power.points import Way
from agent.power.policy import Limits
from agent.power.reach import served

STEP_S = 0.05
WARM_S = 60.0  # from the start until the rest counts as steady state
DOWN_S, UP_S, COMES_S, END_S = 120.0, 180.0, 240.0, 300.0  # limit down, limit up, a neighbour comes


@dataclass(slots=True, kw_only=True)
class Board:
    """A plant with its noise, its sensor, its limits, and what the governor believes of it.

    Attributes:
        plant: The truth.
        tiers: Joules of a frame and frames per second of each tier, in truth.
        rules: What the governor is given.
        noise: Of the power, relative standard deviation.
        correlation_s: How long the noise keeps its sign.
        grain: Watts, of the sensor.
        slow: It shows the mean of two control periods, as NVML does on recent GPUs.
        neighbour: Watts of something else, from ``COMES_S`` on.
        low: The limit between ``DOWN_S`` and ``UP_S``, watts.
        warmer: Kelvin by which the air gets warmer at ``DOWN_S``; at ``UP_S`` it gets colder by half as much again.
        offered: Frames per second of the cameras; None = as many as are taken.
        random: Its own.
    """

    plant: Plant
    tiers: Mapping[str, tuple[float, float]]
    rules: Rules
    noise: float
    correlation_s: float
    grain: float
    slow: bool
    neighbour: float
    low: float
    warmer: float
    offered: float | None
    random: random.Random
    wobble: float = 0.0

    @property
    def has_table(self) -> bool:
        """Whether the governor was given figures."""
        return self.rules.ways[0].joules is not None

    def disturb(self, dt_s: float) -> float:
        """Move the noise of the load on; return its watts now."""
        keep = 1 - dt_s / self.correlation_s
        sigma = self.noise * self.plant.watts
        self.wobble = keep * self.wobble + math.sqrt(1 - keep * keep) * self.random.gauss(0, sigma)
        return self.wobble

    def best(self, limit: float, neighbour: float, noise: float = 0.0) -> float:
        """Return the frames per second of the best static point.

        Args:
            limit: Watts.
            neighbour: Watts of something else.
            noise: Watts by which the load's noise goes up in the worst 1 % of the periods; 0 = as if there were none.
        """
        spare = limit - noise - self.plant.idle - neighbour
        fps = max(min(spare / joules, capacity) for joules, capacity in self.tiers.values())
        return max(fps if self.offered is None else min(fps, self.offered), 1e-9)


@dataclass(slots=True, kw_only=True)
class Told:
    """What one run showed; one entry a control period. ``noise`` is what the load's own noise added."""

    at: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    celsius: list[float] = field(default_factory=list)
    fps: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    steps: list[tuple[float, Order, str]] = field(default_factory=list)

    def rows(self) -> Sequence[tuple[float, float, float, float]]:
        """Return time, watts, frames per second and limit of each period."""
        return list(zip(self.at, self.watts, self.fps, self.limit, strict=True))


def draw(seed: int, *, thermal: bool = False) -> Board:
    """Return a random board with a limit of watts, or of degrees."""
    r = random.Random(seed)
    idle, dynamic = r.uniform(3.0, 14.0), r.uniform(3.0, 35.0)
    capacity = 10 ** r.uniform(1.0, 2.3)
    plant = Plant(idle=idle, joules=dynamic / capacity, capacity=capacity, lag_s=r.uniform(0.15, 0.8),
                  resistance=r.uniform(25, 50) / (idle + dynamic), heat_capacity=r.uniform(2.5, 8) * (idle + dynamic),
                  ambient=r.uniform(10, 40))
    plant.rest()
    tiers = {"large": (plant.joules, capacity)}
    if r.random() < 0.4:  # smaller canvases: a quarter to a half of the work
        for name in ("middle", "small")[: r.randint(1, 2)]:
            joules, most = list(tiers.values())[-1]
            factor = r.uniform(0.25, 0.6)
            tiers[name] = (joules * factor, most / factor * r.uniform(0.7, 1.0))
    limit = idle + dynamic * r.uniform(0.3, 0.9)
    ways = _believed(r, idle, tiers) if r.random() < 0.75 else [Way(tier="large", batch=1)]
    celsius, warmer = None, 0.0
    if thermal:
        rest, full = (plant.ambient + plant.resistance * watts for watts in (idle, idle + dynamic))
        celsius = rest + (full - rest) * r.uniform(0.4, 0.8)
        warmer = 0.5 * (celsius - rest)
    return Board(
        plant=plant, tiers=tiers if ways[0].joules is not None else {"large": tiers["large"]},
        rules=Rules(limits=Limits(watts=None if thermal else limit, celsius=celsius), ways=ways,
                    changeable=frozenset(tiers)),
        noise=r.uniform(0.002, 0.012), correlation_s=r.uniform(0.3, 3.0), grain=r.choice((0.02, 0.04, 0.1)),
        slow=r.random() < 0.3,
        neighbour=r.uniform(0, 0.4) * (limit - idle), low=idle + (limit - idle) * r.uniform(0.4, 0.8), warmer=warmer,
        offered=None if r.random() < 0.5 else capacity * r.uniform(1.0, 2.0), random=r)


def draw_tight(seed: int) -> Board:
    """Return a random board whose limit is 2 to 10 % of what frames can add above its idle power.

    The rate to begin with is up to 5 frames a second: more than many of them can keep.
    """
    board = draw(seed)
    r, idle, dynamic = board.random, board.plant.idle, board.plant.joules * board.plant.capacity
    limit = idle + dynamic * r.uniform(0.02, 0.10)
    rules = replace(board.rules, limits=Limits(watts=limit), safe_rate=r.uniform(0.5, 5.0))
    return replace(board, rules=rules, neighbour=0.0, low=limit)


def _believed(r: random.Random, idle: float, tiers: Mapping[str, tuple[float, float]]) -> list[Way]:
    """Return the table: what is true, wrong by up to 15 % (joules) and 10 % (the rest)."""
    base, wrong = idle * r.uniform(0.9, 1.1), r.uniform(0.85, 1.15)
    return [Way(tier=name, batch=1, rank=rank, base=base, joules=joules * wrong * r.uniform(0.97, 1.03),
                capacity=capacity * r.uniform(0.9, 1.1))
            for rank, (name, (joules, capacity)) in enumerate(tiers.items())]


def drive(board: Board, *, length_s: float = END_S, changes: bool = True) -> Told:
    """Run a board under the governor: warm up; limit (or air) down, up; a neighbour."""
    told, plant, rules = Told(), board.plant, board.rules
    state = governor.begin(rules, rules.ways[0])
    high, quiet, frames, neighbour = rules.limits.watts, plant.watts, 0.0, 0.0
    counts: list[int] = []
    for n in range(round(length_s / PERIOD_S)):
        now = n * PERIOD_S
        if changes and high is not None:
            limits = replace(rules.limits, watts=board.low if DOWN_S <= now < UP_S else high)
            rules, neighbour = replace(rules, limits=limits), board.neighbour if now >= COMES_S else 0.0
        elif changes:
            plant.ambient += {DOWN_S: board.warmer, UP_S: -1.5 * board.warmer}.get(now, 0.0)
        plant.joules, plant.capacity = board.tiers[state.order.tier]
        mean = 0.0
        for _ in range(round(PERIOD_S / STEP_S)):
            plant.step(_least(state.order.rate, board.offered), STEP_S, neighbour + board.disturb(STEP_S))
            mean += plant.watts * STEP_S / PERIOD_S
            settled = neighbour + plant.idle + plant.joules * plant.fps
            quiet += (settled - quiet) * (1 - math.exp(-STEP_S / plant.lag_s))
            frames += plant.fps * STEP_S
        counts = [*counts[-3:], math.floor(frames)]
        frames -= counts[-1]
        told.orders.append(state.order)
        seen = statistics.fmean([*told.watts[-1:], mean]) if board.slow else mean
        state, why = governor.decide(rules, state, Sample(
            now_s=now, watts=round(seen / board.grain) * board.grain, celsius=round(plant.celsius * 2) / 2,
            fps=served(state.order.rate, sum(counts) / (len(counts) * PERIOD_S)), offered=board.offered))
        told.at.append(now)
        told.watts.append(mean)
        told.noise.append(mean - quiet)
        told.celsius.append(plant.celsius)
        told.fps.append(plant.fps)
        told.limit.append(rules.limits.watts or rules.limits.celsius or 0.0)
        if why:
            told.steps.append((now, state.order, why))
    return told


def _least(rate: float | None, offered: float | None) -> float | None:
    return min((value for value in (rate, offered) if value is not None), default=None)
