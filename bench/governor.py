"""The governor on 1,000 simulated boards: is it within its limits, does it settle, what does it cost in frames.

Judged on the board's true power as a mean over each control period, never on what the sensor said of it. The best
static point is known exactly, as no governor knows it, and has to keep below the limit in 99 % of the periods, too.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.power import governor
from agent.power.board import SimulatedBoard
from agent.power.governor import PERIOD_S
from agent.power.memory import MemoryWatch
from agent.power.orders import Rules, Sample
from agent.power.points import Way
from agent.power.policy import Limits
from agent.power.sysfs import SysfsTelemetry
from bench.boards import COMES_S, DOWN_S, END_S, UP_S, WARM_S, Board, Told, draw, draw_tight, drive
from bench.row import Row

_CHANGES = (DOWN_S, UP_S, COMES_S)
_SETTLING_S = 10.0  # after a change; what follows is steady state
_SWING = 0.08
_ABOVE = 1.005  # of the limit: less is the sensor's grain


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One board's figures; shares are 0..1."""

    table: bool
    within: float
    down_s: float
    overshoot: float
    overshoot_s: float
    throughput: float
    ideal: float
    swings_a_minute: float
    changes_a_minute: float
    ramp_s: float


def steady(at: float) -> bool:
    """Tell whether nothing has changed for long enough."""
    return at >= WARM_S and all(not change <= at < change + _SETTLING_S for change in _CHANGES)


def score(board: Board, told: Told) -> Score:
    """Judge one run against a watt limit."""
    rows = told.rows()
    calm = [row for row in rows if steady(row[0])]
    noise = sorted(each for at, each in zip(told.at, told.noise, strict=True) if steady(at))
    worst = noise[int(0.99 * len(noise))]

    def best(at: float, limit: float, extra: float = 0.0) -> float:
        return board.best(limit, board.neighbour if at >= COMES_S else 0.0, extra)

    down = next((at - DOWN_S for at, watts, _, limit in rows if at >= DOWN_S and watts <= 1.05 * limit), END_S)
    rises = [row for row in rows if UP_S <= row[0] < UP_S + 30 or row[0] < 30]
    changes = sum(one.tier != other.tier for at, one, other in zip(
        told.at, told.orders, told.orders[1:], strict=False) if steady(at))
    minutes = len(calm) * PERIOD_S / 60
    return Score(
        table=board.has_table, within=_mean([watts <= limit for _, watts, _, limit in calm]), down_s=down + PERIOD_S,
        overshoot=max(max(watts / limit for _, watts, _, limit in rises) - 1, 0.0),
        overshoot_s=_longest([watts > limit * _ABOVE for _, watts, _, limit in rises]) * PERIOD_S,
        throughput=_mean([fps / best(at, limit, worst) for at, _, fps, limit in calm]),
        ideal=_mean([fps / best(at, limit) for at, _, fps, limit in calm]),
        swings_a_minute=_swings([fps for at, _, fps, _ in calm if at < DOWN_S]) / ((DOWN_S - WARM_S) / 60),
        changes_a_minute=changes / minutes,
        ramp_s=next((at for at, _, fps, limit in rows if fps >= 0.85 * best(at, limit)), END_S))


def heat(board: Board) -> tuple[float, float, float, int]:
    """Return of a run under a temperature limit: kelvin above it at most, share of periods within, throughput, swings.

    The throughput is that of the last two minutes of ten, without changes, against the static point whose balance is
    exactly at the limit.
    """
    limit, plant = board.rules.limits.celsius or 0.0, board.plant
    ambient, idle = plant.ambient, plant.idle
    told = drive(board, length_s=600.0, changes=False)
    last = told.fps[-round(120 / PERIOD_S):]
    spare = (limit - ambient) / plant.resistance - idle
    best = max(min(spare / joules, capacity) for joules, capacity in board.tiers.values())
    best = best if board.offered is None else min(best, board.offered)
    return (max(told.celsius) - limit, _mean([celsius <= limit for celsius in told.celsius]), _mean(last) / best,
            _swings(last))


def just_above_idle(board: Board) -> tuple[float, float, float]:
    """Return the share of periods within the limit, steps and pauses a minute, of four minutes after the first."""
    told = drive(board, changes=False)
    calm = [watts <= limit for at, watts, _, limit in told.rows() if at >= WARM_S]
    steps, minutes = [order.rate for at, order, _ in told.steps if at >= WARM_S], len(calm) * PERIOD_S / 60
    return _mean(calm), len(steps) / minutes, steps.count(0.0) / minutes


def run(*, quick: bool) -> list[Row]:
    """Return the rows."""
    count = 100 if quick else 1000
    scores = [score(board, drive(board)) for board in map(draw, range(count))]
    known, unknown = ([each for each in scores if each.table is there] for there in (True, False))
    tight = [just_above_idle(draw_tight(seed)) for seed in range(count // 4)]
    hot = [_changing_air(draw(seed, thermal=True)) for seed in range(count // 4)]
    steady_heat = [heat(draw(seed, thermal=True)) for seed in range(count // 4)]
    return [
        *_watts(f"{len(known)} boards with a table", known), *_watts(f"{len(unknown)} without", unknown),
        Row(f"{len(tight)} boards with a limit just above idle: periods within the limit, %, mean",
            100 * _mean([each[0] for each in tight]), ">= 99"),
        Row("  the same, the worst 1 % of boards", 100 * _at([each[0] for each in tight], 0.01), ">= 99"),
        Row("  pauses a minute, 99 % of boards", _at([each[2] for each in tight], 0.99), "<= 1"),
        Row("  steps a minute, mean", _mean([each[1] for each in tight])),
        Row("  the same, 99 % of boards", _at([each[1] for each in tight], 0.99)),
        Row(f"{len(hot)} boards, air changes: kelvin above the limit at most", max(each[0] for each in hot), "<= 1.0"),
        Row("  periods within the temperature limit, %, mean", 100 * _mean([each[1] for each in hot]), ">= 99"),
        Row("  in balance: throughput / best static point, mean", _mean([each[2] for each in steady_heat]), ">= 0.92"),
        Row("  in balance: swings of more than 8 %, a minute, 99 % of boards",
            _at([each[3] / 2 for each in steady_heat], 0.99), "<= 1"),
        *costs(),
    ]


def _watts(name: str, scores: Sequence[Score]) -> list[Row]:
    def each(figure: Callable[[Score], float]) -> list[float]:
        return [figure(one) for one in scores]

    return [
        Row(f"{name}: periods within the limit, %, mean", 100 * _mean(each(lambda s: s.within)), ">= 99"),
        Row("  the same, the worst 1 % of boards", 100 * _at(each(lambda s: s.within), 0.01), ">= 99"),
        Row("  limit down: seconds until power is below 105 %, 99 % of boards", _at(each(lambda s: s.down_s), 0.99),
            "<= 2"),
        Row("  start, limit up: overshoot, %, worst board", 100 * max(each(lambda s: s.overshoot)), "<= 5"),
        Row("  its length, seconds, worst board", max(each(lambda s: s.overshoot_s)), "<= 2"),
        Row("  throughput / best static point, mean", _mean(each(lambda s: s.throughput)), ">= 0.92"),
        Row("  the same, the worst 5 % of boards", _at(each(lambda s: s.throughput), 0.05), ">= 0.92"),
        Row("  throughput / best point if there were no noise, mean", _mean(each(lambda s: s.ideal))),
        Row("  tier changes a minute in steady state, worst board", max(each(lambda s: s.changes_a_minute)), "<= 1"),
        Row("  swings of more than 8 %, a minute, 99 % of boards", _at(each(lambda s: s.swings_a_minute), 0.99),
            "<= 1"),
        Row("  seconds from the start to 85 % of the best, median", _at(each(lambda s: s.ramp_s), 0.5)),
    ]


def costs() -> list[Row]:
    """Return what a second of governing costs: two decisions, two readings of an NX's files, one look at the memory."""
    with tempfile.TemporaryDirectory() as folder:
        SimulatedBoard(Path(folder)).step(1.0, 0.1)
        sensors, watch = SysfsTelemetry(Path(folder)), MemoryWatch()
        ways = [Way(tier=f"t{n}", batch=1, rank=n, base=5.0, joules=0.1 / (n + 1), capacity=50.0) for n in range(4)]
        rules = Rules(limits=Limits(watts=9.0, celsius=85.0), ways=ways,
                      changeable=frozenset(f"t{n}" for n in range(4)))
        state = governor.begin(rules, ways[0])

        def decide(n: int) -> None:
            nonlocal state
            state, _ = governor.decide(rules, state, Sample(now_s=n * PERIOD_S, watts=8.0 + n % 5 * 0.2, celsius=60.0,
                                                            fps=30.0, offered=60.0))

        parts = [_cpu(decide) / PERIOD_S, _cpu(lambda _: sensors.sample()) / PERIOD_S, _cpu(lambda _: watch.read(None))]
        sensors.close()
    names = ("deciding", "reading the board's files", "looking at the memory")
    return [*(Row(f"{name}, % of a core", 100 * part) for name, part in zip(names, parts, strict=True)),
            Row("governor and sensors together, % of a core", 100 * sum(parts), "<= 1")]


def _cpu(work: Callable[[int], object], times: int = 400) -> float:
    """Return seconds of processor time of one call."""
    began = time.process_time()
    for n in range(times):
        work(n)
    return (time.process_time() - began) / times


def _changing_air(board: Board) -> tuple[float, float]:
    told, limit = drive(board), board.rules.limits.celsius or 0.0
    return max(told.celsius) - limit, _mean([celsius <= limit for celsius in told.celsius])


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _longest(flags: Sequence[bool]) -> int:
    longest = length = 0
    for flag in flags:
        length = length + 1 if flag else 0
        longest = max(longest, length)
    return longest


def _swings(rates: Sequence[float]) -> int:
    """Count how often the rate turns round after it has moved by more than 8 %."""
    count, last, direction = 0, rates[0], 0
    for rate in rates:
        if abs(rate - last) > _SWING * max(last, 1e-9):
            turn = 1 if rate > last else -1
            count += direction not in {0, turn}
            direction, last = turn, rate
        elif direction == 0 or (rate > last) == (direction > 0):
            last = rate
    return count
