"""Operating points as pictures: a plot of characters for the terminal, and a PNG where matplotlib is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.errors import AgentError, missing_extra
from agent.power.points import Point, Table, pareto

_WIDE, _HIGH = 64, 16  # characters of the plot's field
_MOST_TIERS = 26  # letters


class Axes(NamedTuple):
    """What is drawn: a name for each axis, a pair of values a point, and why it is not frames over watts."""

    across: str
    up: str
    pairs: list[tuple[float, float, Point]]
    why: str


def axes(table: Table) -> Axes:
    """Return frames per second over watts; where no watts are known, the longest calls over frames per second."""
    known = [(point.watts, point.fps, point) for point in table.points if point.watts is not None]
    if known or not table.points:
        left_out = len(table.points) - len(known)
        return Axes(f"watts ({table.measures or 'of what is unknown'})", "frames/s", known,
                    f"{left_out} points without watts are not drawn" if left_out else "")
    return Axes("frames/s", "p99 ms", [(point.fps, point.p99_ms, point) for point in table.points],
                "no watts are known, so the time of a call is drawn over frames per second, and there is no front")


def text_plot(table: Table) -> str:
    """Return the points as lines of characters: a letter a tier, capitals on the front of which no other is better."""
    drawn = axes(table)
    if not drawn.pairs:
        return "nothing is measured yet"
    front = pareto(table.points)
    letters = {tier.name: chr(ord("a") + number % _MOST_TIERS) for number, tier in enumerate(table.tiers)}
    high_x, high_y = _reach([x for x, _, _ in drawn.pairs]), _reach([y for _, y, _ in drawn.pairs])
    field = [[" "] * _WIDE for _ in range(_HIGH)]
    for x, y, point in sorted(drawn.pairs, key=lambda pair: pair[2] in front):  # the front over the others
        column = round(x / high_x * (_WIDE - 1))
        row = _HIGH - 1 - round(y / high_y * (_HIGH - 1))
        letter = letters.get(point.tier, "?")
        field[row][column] = letter.upper() if point in front else letter
    marks = {0: f"{high_y:.4g}", _HIGH - 1: "0"}
    margin = max(map(len, marks.values()))
    lines = [f"{'':{margin}} {drawn.up}"]
    lines += [f"{marks.get(number, ''):>{margin}} |{''.join(row).rstrip()}" for number, row in enumerate(field)]
    ends = "0", f"{high_x:.4g}"
    lines += [f"{'':{margin}} +{'-' * _WIDE}",
              f"{'':{margin}}  {ends[0]}{drawn.across:^{_WIDE - sum(map(len, ends))}}{ends[1]}"]
    lines.append(", ".join(f"{letter} = {name}" for name, letter in letters.items())
                 + ("; capitals: on the Pareto front" if front else ""))
    return "\n".join([*lines, *([drawn.why] if drawn.why else [])])


def _reach(values: Sequence[float]) -> float:
    """Return the end of an axis that begins at 0, for how far from nothing a point is matters most."""
    return max(values) * 1.05 or 1.0


def need_matplotlib() -> tuple[Any, Any]:
    """Return matplotlib's figure and its canvas without a screen.

    Raises:
        AgentError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AgentError(f"no PNG can be drawn: matplotlib cannot be loaded: {error}", missing_extra("plot")) from error
    return Figure, FigureCanvasAgg


def write_png(table: Table, path: Path) -> None:
    """Draw the points into a PNG file.

    Raises:
        AgentError: matplotlib is not installed, or the file cannot be written.
    """
    Figure, FigureCanvasAgg = need_matplotlib()  # noqa: N806 -- classes
    drawn, front = axes(table), pareto(table.points)
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    for number, tier in enumerate(table.tiers):
        for batch in sorted({point.batch for _, _, point in drawn.pairs if point.tier == tier.name}):
            way = sorted((x, y) for x, y, point in drawn.pairs if (point.tier, point.batch) == (tier.name, batch))
            plot.plot([x for x, _ in way], [y for _, y in way], marker="o", markersize=4, linewidth=0.8,
                      color=f"C{number % 10}", alpha=max(1 - 0.12 * (batch.bit_length() - 1), 0.4),
                      label=f"{tier.name}, batch {batch}")
    if front:
        plot.plot([point.watts or 0.0 for point in front], [point.fps for point in front], color="black", linewidth=1.5,
                  linestyle="--", marker="o", markersize=9, markerfacecolor="none", label="Pareto front")
        if table.idle_watts is not None:
            plot.axvline(table.idle_watts, color="grey", linewidth=0.8, linestyle=":",
                         label=f"idle, {table.idle_watts:.2f} W")
    plot.set(xlabel=drawn.across, ylabel=drawn.up, xlim=(0, None), ylim=(0, None))
    plot.set_title(f"{table.recipe}: operating points" + (f"\n{drawn.why}" if drawn.why else ""), fontsize=10)
    plot.grid(alpha=0.3)
    if drawn.pairs:
        plot.legend(fontsize=7)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise AgentError(f"{path}: cannot be written: {error.strerror}", "give --png another file") from error
