"""The published JSON Schema is the one of the structs, and what status prints keeps to it."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from agent.asking import Place, look
from agent.cli import main
from agent.config import Config
from agent.snapshot import EndView, ProblemView
from agent.view import View
from tests.helpers.json_schema import faults
from tests.unit.cli.test_check import absent
from tests.unit.cli.test_screen import camera, delivery, queue, snapshot
from tests.unit.cli.test_screen_budget import governor, step
from tests.unit.test_asking import unit

PUBLISHED = Path(__file__).resolve().parents[3] / "docs/status.schema.json"


@pytest.fixture(scope="module")
def schema():
    return json.loads(PUBLISHED.read_text("utf-8"))


def full():
    return snapshot([camera("gate", grade="fair", grade_why="x", usual_rate=25.0), camera("yard", width=None, last_frame_age_s=None)],
                    governor=governor(steps=[step(1)], shares={"gate": 0.0}), spool=queue(lost={"closed": 1}), upstream=delivery(), state_since_s=3.0,
                    problems_past=[ProblemView(words="x", began_at=1.0, ended_at=None)], ends=[EndView(at=None, how="power", words="y")])


def plain(answer):
    return json.loads(msgspec.json.encode(answer))


def test_the_published_schema_is_the_one_the_command_prints(capsys):
    assert main(["status", "--schema"]) == 0
    assert capsys.readouterr().out == PUBLISHED.read_text("utf-8"), "write it anew: vedette status --schema > docs/status.schema.json"


def test_snapshots_keep_to_it(schema):
    for answer in (snapshot(), full(), View(Config(), "box", "run", Counter()).snapshot()):
        assert faults(plain(answer), schema, schema) == []


def test_answers_that_are_none_keep_to_it(schema, tmp_path):
    for answer in (look(Place(tmp_path / "none")), absent("failed", unit=unit(), last_end=EndView(at=1.0, how="oom-kill", words="x"), pid=3)):
        assert faults(plain(answer), schema, schema) == []


@pytest.mark.parametrize("spoil", [
    lambda s: s.pop("state"), lambda s: s.update(uptime_s="3"), lambda s: s["sources"][0].update(seen=1.5), lambda s: s["sources"][0].pop("name"),
    lambda s: s["spool"].update(lost={"closed": "1"}), lambda s: s.update(ready=1), lambda s: s["problems_past"][0].update(ended_at="now"),
    lambda s: s["governor"]["steps"][0]["after"].pop("tier"), lambda s: s.update(problems=[3])])
def test_what_does_not_keep_to_it_is_found(schema, spoil):
    answer = plain(full())
    spoil(answer)
    assert faults(answer, schema, schema)


def test_one_that_is_none_must_say_so(schema):
    for key, value in (("answer", 3), ("state", "sleepy"), ("why", None)):
        assert faults({**plain(absent("hung")), key: value}, schema, schema)


def test_every_object_says_what_it_is(schema):
    assert all(part.get("description") for part in schema["$defs"].values())
