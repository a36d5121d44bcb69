"""The page on budgets against what it speaks of: examples that do not load, names that are not there, are failures."""

import re
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from agent.assembly import policy
from agent.building.recipe_tables import InputTable
from agent.config import Config, load
from agent.power import admission, caps, governor, orders, pauses, squeeze
from agent.power import policy as hours
from agent.power.choose import KINDS
from agent.sections import BudgetSection, SourceSection

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/budgets.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
WORKED = 1


def loaded(tmp_path, number) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(EXAMPLES[number], "utf-8")
    return load(file)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_each_example_is_a_whole_configuration(tmp_path, number):
    budget = loaded(tmp_path, number).budget
    assert (budget.watts, budget.memory, budget.celsius) == (9.0, 600_000_000, 85.0)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_its_canvases_shrink_and_are_multiples_of_what_most_recipes_ask_for(tmp_path, number):
    config = loaded(tmp_path, number)
    multiple = next(field.default for field in msgspec.structs.fields(InputTable) if field.name == "multiple")
    sizes = [config.engine.size or [640, 640], *config.budget.sizes]
    assert all(height % multiple == 0 == width % multiple for height, width in sizes)
    assert all(h1 * w1 > h2 * w2 for (h1, w1), (h2, w2) in pairwise(sizes))


def test_the_worked_example_asks_for_what_the_text_says(tmp_path):
    config = loaded(tmp_path, WORKED)
    assert (config.engine.size, config.budget.rate, config.budget.policy) == ([640, 640], 30.0, "max_fps")
    assert config.source["gate"].priority > config.source["yard"].priority
    wanted = policy(config.budget)
    assert hours.limits_at(wanted, hours.minute_of_day("12:00"))[0].watts == 9.0
    assert hours.limits_at(wanted, hours.minute_of_day("23:30"))[0].watts == hours.limits_at(wanted, None)[0].watts == 7.0


def rows(head):
    """Return the first cells of the table that begins with ``head``."""
    table = PAGE.partition(f"\n{head}")[2].partition("\n\n")[0]
    return [line.split("|")[1] for line in table.splitlines()[2:]]


def test_the_keys_it_speaks_of_are_there():
    keys = {field.name for field in msgspec.structs.fields(BudgetSection)}
    named = [re.search(r"`(?:\[+budget\.)?(\w+)\]*`", row)[1] for row in rows("| key of `[budget]`") if "source" not in row]
    assert set(named) <= keys
    assert {"watts", "celsius", "memory", "sizes", "quiet_hours"} <= set(named)
    assert "priority" in {field.name for field in msgspec.structs.fields(SourceSection)}


def test_readers_and_rungs_stand_in_their_order():
    assert [row.strip(" `") for row in rows("| reader |")] == list(KINDS)
    assert [row.strip(" `") for row in rows("| rung |")] == list(squeeze.RUNGS)


def test_each_series_it_names_is_exported():
    source = (ROOT / "agent/metrics.py").read_text("utf-8").replace('"budget_{name}', '"budget_').replace("{name}", "")
    listed = {name for row in rows("| series |") for name in re.findall(r"`(\w+)`", row)} - {"_limit"}
    listed -= {f"budget_{name}" for name in ("watts", "celsius", "memory", "rate")}
    series = listed | {name.removeprefix("vedette_") for name in re.findall(r"`(vedette_\w+)`", PAGE)}
    assert len(series) > 20
    assert not [name for name in sorted(series) if f'"{name}"' not in source]


@pytest.mark.parametrize(("words", "figure"), [
    (r"goes back the other way within (\d+) s, a batch", governor._WAY_DWELL_S),
    (r"a batch within (\d+) s", governor._BATCH_DWELL_S),
    (r"never rises within (\d+) s after it fell", governor._DWELL_S),
    (r"the loop pauses; it tries again when there is room, (\d+) seconds", pauses._WAIT_S),
    (r"falls by\s(\d+) % of the way", 100 * governor._GENTLY_DOWN),
    (r"rises by (\d+) % of it", 100 * governor._UP),
    (r"\((\d+) % without a table\)", 100 * governor._UP_UNKNOWN),
    (r"Below ([\d.]+) frames a second the loop pauses", orders.LEAST_RATE),
    (r"the table saw (\d+) % of the limit", 100 * orders._SAFE_SHARE),
    (r"a margin of ([\d.]+) standard", caps._SIGMAS),
    (r"at least ([\d.]+) % and at most", 100 * caps._LEAST_MARGIN),
    (r"and at most (\d+) % of the limit", 100 * caps._MOST_MARGIN),
    (r"1 °C below the limit, divided by (\d+) s", caps._APPROACH_S),
    (r"take the rate down by (\d+) %", 100 * (1 - governor._ALARM_FACTOR)),
    (r"less than (\d+) MiB is not begun", admission.FLOOR_BYTES / 2**20),
    (r"\n(\d+) % of the control group|exceeded; (\d+) % of the control group", 100 * squeeze.Rules().high),
    (r"\(below (\d+) %\) for 30 seconds", 100 * squeeze.Rules().low),
    (r"for (\d+) seconds or, on trial", squeeze.Rules().relief_s),
    (r"on trial, after (\d+)\sminutes without", squeeze.Rules().patience_s / 60),
    (r"the next time, (\d+) times", 2 ** squeeze.Rules().doublings),
    (r"in more than (\d+) % of the last ten", squeeze.Rules().stalled),
    (r"reach a limit within (\d+) seconds", squeeze.Rules().ahead_s),
])
def test_its_figures_are_those_of_the_code(words, figure):
    found = re.search(words, PAGE)
    assert found, words
    assert float(next(group for group in found.groups() if group)) == pytest.approx(figure)


def test_what_it_links_to_is_there():
    for target in re.findall(r"\]\(([^)#:]+)[#)]", PAGE):
        assert (ROOT / "docs" / target).exists(), target
