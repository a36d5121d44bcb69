"""The budget on the status screen: limits and readings, what the loop may do and why, what the governor did.

One line where no limit is set and no step was taken. What is not known is ``unknown``, never a made-up 0.
"""

import time
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from agent.cli.words import amount, cell, plain_table, span
from agent.snapshot import GovernorView, LimitView, MemoryView, OrderView, Snapshot, SpentView, StepView

_NAMES = ("watts", "celsius", "memory", "rate")
_UNITS = {"W": "W", "C": "°C", "frames/s": "fps"}
_OLD_S = 2.0  # an older reading is no reading of now: the governor takes none that is older
_ON_CPU = "CPUExecutionProvider"
_KINDS = {"memory": "yellow", "leak": "yellow", "blind": "red", "seeing": "green"}


def budget_lines(s: Snapshot) -> list[Text]:
    """Return the lines on the budget, the most important first; what is least important stands at a line's end."""
    governor = s.governor
    limited = any(view.limit is not None for view in s.budget.values())
    if governor is None or not (limited or governor.count):
        return [_limits(s.budget, limited=limited)]
    return [
        _limits(s.budget, limited=limited), _pace(governor), _sensors(governor),
        _memory(governor.memory, on_cpu=s.engine is not None and s.engine.provider == _ON_CPU), _points(governor),
        *_time_at(governor.spent)]


def share_words(governor: GovernorView | None, source: str) -> Text:
    """Return what a source may have: ``shed``, ``2.5 fps``, or ``all``."""
    share = governor.shares.get(source) if governor else None
    return Text("all") if share is None else Text(f"{share:.3g} fps") if share > 0 else Text("shed", style="red")


def steps_table(governor: GovernorView, rows: int | None, *, fold: bool = False) -> Table:
    """Return the last steps, newest first: at most ``rows`` of them, None = all.

    They have one line each, unless ``fold`` or without ``rows``.
    """
    cut = rows is not None and not fold
    title = "step at" if governor.count <= len(governor.steps) else f"{governor.count} steps"
    table = plain_table(title, "what", "from -> to", "reason", wide=(2, 3) if cut else (3,))
    for step in list(reversed(governor.steps))[:rows]:
        table.add_row(
            time.strftime("%H:%M:%S", time.localtime(step.at)), Text(step.kind, style=_KINDS.get(step.kind, "")),
            cell(_change(step), cut=cut), cell(_line(step.reason), cut=cut))
    return table


def _limits(budget: Mapping[str, LimitView], *, limited: bool) -> Text:
    text = Text("budget    " if limited else "budget    no limit set: ")
    for number, name in enumerate([*filter(budget.__contains__, _NAMES), *(set(budget) - set(_NAMES))]):
        view = budget[name]
        over = view.reading is not None and view.limit is not None and view.reading > view.limit
        text.append(", " if number else "")
        text.append(f"{name} {_of(view)}", style="red" if over and name != "rate" else "")
        text.append("" if view.limit is None or view.enforced else " (shown only)", style="dim")
    return text


def _of(view: LimitView) -> str:
    """Return ``reading of limit``; the unit stands once where both have it."""
    if view.unit == "bytes":
        reading, limit = amount(view.reading), amount(view.limit)
    else:
        unit = _UNITS.get(view.unit, view.unit)
        reading = "unknown" if view.reading is None else f"{view.reading:.1f} {unit}"
        limit = f"{view.limit:g} {unit}" if view.limit is not None else ""
    if view.limit is None:
        return reading
    figure, _, unit = reading.partition(" ")
    return f"{figure if limit.endswith(f' {unit}') else reading} of {limit}"


def _line(words: str) -> str:
    return " ".join(words.split())


def _held(seconds: float) -> str:
    # Milliseconds would flicker on a screen that is drawn once a second.
    return span(seconds) if seconds >= 1 else "less than 1 s"


def _rate(rate: float | None) -> str:
    return "unpaced" if rate is None else "paused" if rate == 0 else f"{rate:.3g} fps"


def _pace(governor: GovernorView) -> Text:
    order = governor.order
    # The problem tells everything that a blind governor misses; here the first of it will do.
    why = _line(governor.why).split("; ")[0] if governor.blind else _line(governor.why)
    text = Text("pace      ")
    text.append("blind, " if governor.blind else "", style="bold red")
    text.append(_rate(order.rate), style="bold red" if order.rate == 0 else "bold")
    text.append(f", {order.tier}, batch {order.batch}, for {_held(governor.since_s)}")
    text.append(f" (quiet hours {governor.quiet})" if governor.quiet else "", style="cyan")
    text.append("" if governor.policy == "max_fps" else f" (policy {governor.policy})")
    return text.append("" if why in {"", "start"} else f": {why}")


def _sensors(governor: GovernorView) -> Text:
    reading = governor.reading
    text = Text(f"sensors   {reading.telemetry}")
    old = reading.age_s is not None and reading.age_s > _OLD_S
    if old:
        text.append(f", last reading {span(reading.age_s)} old", style="red")
    trouble = reading.trouble if reading.trouble not in governor.why else ""
    if trouble:
        text.append(f": {_line(trouble)}", style="yellow")
    parts = [f"watts of {reading.measures}" if reading.measures else "",
             f"hottest {reading.hottest}" if reading.hottest else ""]
    if not old:
        parts += [
            "" if reading.gpu_load is None else f"GPU {100 * reading.gpu_load:.0f} % busy",
            _each(reading.rails, "{:.2f} W", but=reading.measures),
            _each(reading.zones, "{:.1f} °C", but=reading.hottest),
            "since boot " + _each(reading.events, "{}") if any(reading.events.values()) else ""]
    if told := "; ".join(filter(None, parts)):
        text.append(f"; {told}" if trouble else f": {told}")
    return text


def _each(values: Mapping[str, float] | Mapping[str, int], form: str, but: str = "") -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items() if name != but)


def _memory(memory: MemoryView, *, on_cpu: bool) -> Text:
    text = Text(f"memory    {amount(memory.resident)} resident")
    if memory.device is not None or not on_cpu:
        text.append(f" + {amount(memory.device)} on the device")
    if memory.resident is not None and memory.device is not None:
        text.append(f" = {amount(memory.resident + memory.device)}")
    if memory.children != 0:  # builds, which the budget leaves out
        text.append(f"; children {amount(memory.children)}, all together {amount(memory.total)}")
    if memory.given_up:
        text.append("; ").append(f"gave up {', '.join(memory.given_up)}", style="yellow")
    if memory.leak:
        text.append("; ").append("grows steadily", style="yellow")
    if memory.limit is not None:
        text.append(f"; control group {amount(memory.used)} of {amount(memory.limit)}")
    if memory.pressure:
        text.append(f"; {memory.pressure:.1f} % of the time short of it")
    text.append(f"; machine has {amount(memory.available)} left")
    return text


def _points(governor: GovernorView) -> Text:
    text = Text("points    ")
    text.append(governor.table, style="yellow" if governor.table.startswith(("stale", "cannot")) else "")
    rate = governor.frames_per_joule
    return text.append("; frames per joule " + ("unknown" if rate is None else f"{rate:.2f} in the last minute"))


def _time_at(spent: list[SpentView]) -> list[Text]:
    """Return one line on the time spent at each way of working, none when there is none yet."""
    total = sum(each.seconds for each in spent)
    if total <= 0:
        return []
    told = "; ".join(
        f"{each.name}: {span(each.seconds)} ({100 * each.seconds / total:.0f} %"
        + (f", {each.frames_per_joule:.2f} frames/J)" if each.frames_per_joule else ")") for each in spent)
    return [Text(f"time at   {told}")]


def _change(step: StepView) -> str:
    """Return what changed, in as few words as tell it."""
    before, after = step.before, step.after
    if before == after:
        return _rate(after.rate)
    if _way(before) == _way(after):
        return f"{_rate(before.rate).removesuffix(' fps' if after.rate else '')} -> {_rate(after.rate)}"
    return f"{_way(before)}, {_rate(before.rate)} -> {_way(after)}, {_rate(after.rate)}"


def _way(order: OrderView) -> str:
    return f"{order.tier}, batch {order.batch}"
