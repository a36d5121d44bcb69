"""docs/status.md keeps to what is there: each series, each label of the screen, each limit of a grade, each word for no answer."""

import re
import typing
from pathlib import Path

from agent import grade
from agent.asking import Absence
from agent.cli import main
from agent.metrics import prometheus
from tests.unit.cli.test_screen import camera, delivery, queue, snapshot
from tests.unit.cli.test_screen_budget import governor, limits
from tests.unit.cli.test_screen_fit import drawn, full

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "status.md").read_text("utf-8")


def section(name):
    return TEXT.split(f"\n## {name}\n")[1].split("\n## ")[0]


def test_every_series_stands_in_a_table_and_every_one_there_exists():
    page = prometheus(snapshot([camera("gate")], governor=governor(), spool=queue(), upstream=delivery()))
    there = {name.removeprefix("vedette_") for name in re.findall(r"^# TYPE (\S+)", page, re.M)}
    here = {name for row in re.findall(r"^\|(.*?)\|", section("Metrics"), re.M) for name in re.findall(r"`(\w+)`", row)}
    budgets = set(re.findall(r"`(\w+)`", (DOCS / "budgets.md").read_text("utf-8")))
    budgets |= {f"{name}_limit" for name in budgets if name.startswith("budget_")}
    assert here <= there, here - there
    assert there <= here | budgets, there - here - budgets


def test_every_label_of_the_screen_is_explained():
    lines = drawn(full(governor=governor(), budget=limits(watts={"limit": 9.0}), spool=queue(dead=1)), 200)
    labels = {line[:10].strip() for line in lines[1:] if line[:10].strip() and line[:8].strip() == line[:10].strip()} - {"gate", "yard"}
    named = set(re.findall(r"`([a-z ]+)`", "".join(row.split("|")[1] for row in section("The screen").splitlines() if row.startswith("|"))))
    stages = {"wait", "infer", "report", "latency"}
    assert {label for label in labels if label not in named | stages} <= {"source"}
    assert {"problem", "past", "upstream", "spool", "lost", "found", "last run", "grades"} <= labels


def test_the_limits_of_grades_are_the_ones_in_force():
    rows = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:5]] for row in section("Grades").splitlines() if row.startswith("|")}
    assert rows["reconnects"] == [f"≤ {most}" for most in grade._RECONNECTS]
    assert rows["frames per second in the last minute, of its usual rate"] == [f"≥ {least * 100:.0f} %" for least in grade._RATE]
    assert rows["time not live (`down`, `connecting`)"] == [f"≤ {most:.0f} s" for most in grade._AWAY_S]
    assert rows["time `frozen` or `black`"] == [f"≤ {most:.0f} s" for most in grade._NOTHING_S]


def test_every_word_for_no_answer_is_explained():
    told = re.findall(r"^\| `([a-z ]+)` \|", section("When nobody answers"), re.M)
    assert {word.replace(" ", "_") for word in told} == set(typing.get_args(Absence))


def test_every_option_is_explained(capsys):
    assert main(["status", "--help"]) == 0
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--config"}
    assert {option for option in options if not re.search(rf"{option}(?![a-z-])", TEXT)} == set()
