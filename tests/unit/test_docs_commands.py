"""What the pages say of commands, metrics and ends of runs, against the program."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agent import metrics, runs
from agent.cli.commands import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")


def test_the_page_of_commands_is_what_they_say_themselves():
    page = subprocess.run([sys.executable, "docs/commands.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert page == (ROOT / "docs/commands.md").read_text("utf-8"), "run: python docs/commands.py > docs/commands.md"


def known(words):
    """Tell whether `vedette WORDS` names commands and options that there are."""
    command, context = cli, click.Context(cli, info_name="vedette")
    for word in words:
        if word.startswith("--"):
            options = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
            if word.split("=")[0] not in options:
                return False
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
            if (inner := command.get_command(context, word)) is None:
                return False
            command, context = inner, click.Context(inner, info_name=word, parent=context)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_line_in_the_pages_can_be_typed(page):
    text = page.read_text("utf-8")
    lines = re.findall(r"(?:^[#$] |\n[#$] |`|\n)vedette ([a-z][^`\n#|]*)", text)
    wrong = [line for line in lines if line.split()[0].strip(":,.") in COMMANDS and not known(line.replace("|", " ").split())]
    assert not wrong


def test_the_words_are_looked_up():
    assert known(["status", "--json"])
    assert known(["engines", "build", "--configured"])
    assert not known(["status", "--jason"])
    assert not known(["engines", "bild"])


def test_metrics_in_the_operations_page_exist():
    source = Path(metrics.__file__).read_text("utf-8")
    for name in re.findall(r"`vedette_([a-z_]+)`", OPERATIONS):
        assert f'"{name}"' in source, name


def test_every_way_a_run_can_end_is_explained():
    table = OPERATIONS.split("| how it ended |")[1].split("\n\n")[0]
    ways = set(runs._RESULTS) - {"core-dump", "resources"} | {"power", "stopped", "failed", "defect", "signal"}
    for way in ways:
        assert f"`{way}`" in table, way


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_placeholder_is_left(page):
    assert not re.search(r"@[A-Z]+@", page.read_text("utf-8"))
