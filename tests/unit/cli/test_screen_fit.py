"""Rows to spare go where they help most: nothing that matters is cut short while a row stands empty."""

import io
import time

import msgspec
import pytest
from rich.console import Console
from rich.text import Text

from agent.cli.layout import cut, folded, spread
from agent.cli.screen import screen
from agent.cli.words import ago, minute, when
from agent.snapshot import EndView, ProblemView
from tests.unit.cli.test_screen import camera, delivery, drawn, position, queue, snapshot
from tests.unit.cli.test_screen_budget import governor, limits, step

REASON = "source gate is down for 12 s: rtsp://10.0.0.7/1: " + " ".join(f"word{number}" for number in range(25)) + " END"


def full(**changes):
    now = time.time()
    view = snapshot([camera("gate", "down", grade="poor", grade_why="down now"), camera("yard", grade="good")], **{**dict(
        problems=[REASON], upstream=delivery(), spool=queue(), state_since_s=190.0, uptime_s=7000.0,
        problems_past=[ProblemView(words=f"past {n}", began_at=now - 500 + n, ended_at=now - 400, times=n) for n in range(1, 6)] +
        [ProblemView(words=REASON, began_at=now - 12, ended_at=None)],
        ends=[EndView(at=None, how="stopped", words="it was stopped"), EndView(at=now - 3 * 3600, how="watchdog", words="the watchdog ended it")]), **changes})
    return msgspec.structs.replace(view, engine=msgspec.structs.replace(view.engine, gated_at=now - 3 * 86400 - 7200))


def joined(lines):
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (80, 40), (200, 24)])
def test_a_long_reason_stands_whole_where_rows_are_to_spare(width, height):
    lines = drawn(full(), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert REASON in joined(lines)
    start = position(lines, "problem")
    assert all(line.startswith(" " * 10) and line[10] != " " for line in lines[start + 1:position(lines, "upstream")] if not line.startswith("past"))


def test_on_a_screen_with_room_nothing_is_cut_at_all():
    text = "\n".join(drawn(full(governor=governor(steps=[step(n, reason="long " * 30 + "end") for n in range(3)], count=3)), 80, 80))
    assert "…" not in text
    assert text.count("end") >= 3
    assert "gated 3 d 2 h ago" in " ".join(text.split())


@pytest.mark.parametrize("height", range(14, 45))
def test_no_row_is_wasted_while_something_is_cut(height):
    lines = drawn(full(), 80, height)
    assert len(lines) <= height
    # One row more does not help the rows of a table, which are folded all or none.
    assert len(lines) == height or not any(line.endswith("…") for line in lines[:position(lines, "source  ")])


def test_problems_have_the_time_they_began_and_what_is_over_both_times():
    lines = drawn(full(), 110)
    assert lines[position(lines, "problem")].startswith(f"problem   {when(time.time() - 12)[:5]}")
    past = [line for line in lines if line.startswith("past")]
    assert [line.split()[-1] for line in past] == ["5", "4", "3", "2", "1"], "the newest first"
    assert ", 5 times" in past[0]
    assert "times" not in past[-1]
    assert sum(line.startswith("past") for line in drawn(full(), 110, 60)) == 3


def test_a_problem_of_an_earlier_version_has_no_time():
    lines = drawn(full(problems_past=[]), 110)
    assert lines[position(lines, "problem")].startswith("problem   source gate is down")


def test_the_state_says_since_when():
    assert f"degraded for 3 min, since {minute(time.time() - 190)}, up 116 min, pid" in drawn(full(), 110)[0]
    assert "degraded for 116 min, pid" in drawn(full(state_since_s=None), 110)[0]


@pytest.mark.parametrize(("ends", "says"), [
    ([], None),
    ([EndView(at=None, how="power", words="the power failed")], "last run  ended unknown when: the power failed"),
    ([EndView(at=1.0, how="watchdog", words=""), EndView(at=None, how="stopped", words="it was stopped")],
     "last run  ended unknown when: it was stopped; 1 of the last 2 runs ended badly"),
])
def test_how_the_last_run_ended(ends, says):
    lines = [line.rstrip() for line in drawn(full(ends=ends), 110)]
    assert [line for line in lines if line.startswith("last run")] == ([says] if says else [])


def test_grades_stand_in_the_table_and_their_reasons_below():
    lines = drawn(full(), 110)
    rows = {line.split()[0]: line for line in lines if line.startswith(("gate ", "yard "))}
    assert "poor" in rows["gate"]
    assert "good" in rows["yard"]
    assert lines[position(lines, "grades")].strip() == "grades    gate poor: down now"
    assert not any(line.startswith("grades") for line in drawn(snapshot([camera("a", grade_why="watched for 3 s")]), 110))


def test_notes_stand_on_top():
    console = Console(width=110, file=io.StringIO(), color_system=None)
    console.print(screen(full(), None, ["the agent is of another version"]))
    assert console.file.getvalue().splitlines()[1].rstrip() == "note      the agent is of another version"


def test_folding_and_cutting_of_a_line():
    console, line = Console(width=30), Text("problem   one two three four five six seven eight")
    assert [row.plain for row in folded(console, line, 25)] == ["problem   one two three", "          four five six", "          seven eight"]
    assert [row.plain for row in folded(console, line, 60)] == [line.plain]
    assert cut(line, 20).plain == "problem   one two t…"
    for spare, rows, left in ((0, ["problem   one two three …"], 0), (1, ["problem   one two three", "          four five six …"], 0), (5, None, 3)):
        found, still = spread(console, [line], 25, spare)
        assert still == left
        assert rows is None or [row.plain for row in found] == rows


def test_times_as_a_clock_says_them():
    now = 1_790_000_000.0
    assert when(now - 60, now) == time.strftime("%H:%M:%S", time.localtime(now - 60))
    assert when(now - 86400, now) == time.strftime("%m-%d %H:%M", time.localtime(now - 86400))
    assert minute(now - 60, now) == time.strftime("%H:%M", time.localtime(now - 60))
    assert minute(now - 86400, now) == when(now - 86400, now)
    assert (ago(None), ago(now - 7200, now), ago(now + 5, now)) == ("unknown when", "2 h 0 min ago", "just now")


def test_the_last_lines_on_the_budget_go_for_a_problem_that_takes_more_than_a_line():
    changes = dict(governor=governor(), budget=limits(watts={"limit": 9.0}), problems_past=[], ends=[])
    calm, ill = drawn(full(**changes, problems=["short"]), 80, 24), drawn(full(**changes), 80, 24)
    assert any(line.startswith("time at") for line in calm)
    assert not any(line.startswith("time at") for line in ill)
    assert any(line.startswith("budget") for line in ill)
    assert REASON in joined(ill)
    assert len(ill) == 24
