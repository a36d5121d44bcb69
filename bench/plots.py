"""The pictures of docs/budgets.md: ``python -m bench.plots docs [--gpu TIMELINE.json --points POINTS.json]``.

Simulated boards are driven anew; what was measured on a GPU comes from the files of ``python -m bench.budget --out``
and ``vedette tune`` (``points.json`` in the state directory). Needs matplotlib (extra ``plot``).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "vedette"  # the same picture gives the same file
from matplotlib import pyplot as plt  # noqa: E402 -- after the choice of what draws

from bench.boards import COMES_S, DOWN_S, UP_S, draw, drive  # noqa: E402
from bench.governor import score  # noqa: E402

_SHOWN = 1  # the seed of the board whose run is shown
_WIDTH, _HEIGHT = 9.0, 4.6


def _axes(title: str) -> tuple[Any, Any, Any]:
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(_WIDTH, _HEIGHT), height_ratios=(3, 2))
    upper.set_title(title, fontsize=10, loc="left")
    upper.set_ylabel("watts")
    lower.set_ylabel("frames per second")
    lower.set_xlabel("seconds")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure, upper, lower


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


def board(path: Path) -> None:
    """Draw one simulated board: limit down, limit up, a neighbour."""
    one = draw(_SHOWN)
    told = drive(one)
    figure, upper, lower = _axes(f"One simulated board (seed {_SHOWN}): the limit goes down and up, then a neighbour "
                                 f"takes {one.neighbour:.1f} W")
    upper.plot(told.at, told.watts, lw=1, label="power (true, mean over a control period)")
    upper.step(told.at, told.limit, "r--", where="post", lw=1, label="limit")
    upper.legend(fontsize=8)
    best = [one.best(limit, one.neighbour if at >= COMES_S else 0.0)
            for at, limit in zip(told.at, told.limit, strict=True)]
    lower.plot(told.at, told.fps, lw=1, label="served")
    lower.step(told.at, best, "g:", where="post", lw=1, label="best static point, no noise")
    lower.legend(fontsize=8)
    for at in (DOWN_S, UP_S, COMES_S):
        upper.axvline(at, color="grey", lw=0.5)
    _save(figure, path)


def boards(path: Path, count: int) -> None:
    """Draw how many boards keep their limit how well, and what it costs them."""
    scores = [score(each, drive(each)) for each in map(draw, range(count))]
    figure, (left, right) = plt.subplots(1, 2, figsize=(_WIDTH, 3.2))
    for table, colour, label in ((True, "tab:blue", "with a table"), (False, "tab:orange", "without")):
        some = [each for each in scores if each.table is table]
        left.hist([100 * each.within for each in some], bins=40, range=(96, 100), alpha=0.6, color=colour, label=label)
        right.hist([each.throughput for each in some], bins=40, range=(0.8, 1.05), alpha=0.6, color=colour, label=label)
    left.set_xlabel("control periods within the watt limit, %, steady state")
    right.set_xlabel("throughput / best static point that keeps 99 % as well")
    left.set_ylabel(f"boards of {count}")
    left.axvline(99, color="red", lw=0.8)
    right.axvline(0.92, color="red", lw=0.8)
    left.legend(fontsize=8)
    _save(figure, path)


def gpu(path: Path, source: Path) -> None:
    """Draw the timeline of ``bench.budget``."""
    data = json.loads(source.read_bytes())
    seen = data["timeline"]
    figure, upper, lower = _axes(
        f"The real loop on {data['device']} under a watt limit (NVML, twice a second)")
    at = [each["at"] for each in seen]
    upper.plot(at, [each["watts"] for each in seen], lw=1, label="power, measured")
    upper.step(at, [each["limit"] for each in seen], "r--", where="post", lw=1, label="limit (none at first)")
    upper.axhline(data["base"], color="grey", lw=0.7, ls=":", label="at one frame a second")
    upper.legend(fontsize=8)
    lower.plot(at, [each["fps"] for each in seen], lw=1, label="served")
    lower.plot(at, [each["rate"] for each in seen], lw=0.8, alpha=0.7, label="pace")
    lower.legend(fontsize=8)
    _save(figure, path)


def points(path: Path, source: Path) -> None:
    """Draw the operating points of a table, and which are on the Pareto front."""
    import msgspec

    from agent.power.points import Table, pareto

    table = msgspec.json.decode(source.read_bytes(), type=Table)
    figure, axes = plt.subplots(figsize=(_WIDTH, 3.6))
    for name in sorted({(point.tier, point.batch) for point in table.points}):
        mine = sorted((point for point in table.points if (point.tier, point.batch) == name),
                      key=lambda point: point.fps)
        axes.plot([point.watts or 0.0 for point in mine], [point.fps for point in mine], "o-", lw=1, ms=5,
                  label=f"{name[0]}, batch {name[1]}")
    front = pareto(table.points)
    axes.plot([point.watts or 0.0 for point in front], [point.fps for point in front], "r*", ms=12, mfc="none",
              label="on the Pareto front")
    axes.set_xlabel(f"watts ({table.measures}), idle {table.idle_watts:.0f} W" if table.idle_watts else "watts")
    axes.set_ylabel("frames per second")
    axes.set_title(f"{table.recipe}: {table.runs_on}", fontsize=9, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu", type=Path)
    parser.add_argument("--points", type=Path)
    parser.add_argument("--boards", type=int, default=1000)
    options = parser.parse_args()
    board(options.folder / "budgets-board.svg")
    boards(options.folder / "budgets-boards.svg", options.boards)
    if options.gpu:
        gpu(options.folder / "budgets-gpu.svg", options.gpu)
    if options.points:
        points(options.folder / "budgets-points.svg", options.points)


if __name__ == "__main__":
    main()
