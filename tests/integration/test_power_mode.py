"""The power mode over the life of real agents: set before an engine is chosen, put back by SIGTERM, remembered by SIGKILL."""

import json
import os
import signal

import pytest

from tests.helpers.agent import Agent, source, write_config

# A board in a file, which every agent started with it finds; it is jtop's double and writes down what it is told and when.
BOARD = """
import json, os
from dataclasses import replace
from pathlib import Path
from agent import power_mode, serving
from agent.power.jtop import Settings

FILE = Path(os.environ["BOARD"])
told = lambda what: FILE.write_text(json.dumps(json.loads(FILE.read_text()) + [what]))

class Board:
    trouble = ""
    def settings(self):
        mode = [word for word in json.loads(FILE.read_text()) if word != "engine"][-1]
        return Settings(nvpmodel=mode, modes=("15W", "25W"), reachable=(True, True), changing=False, jetson_clocks=None, clocks_state="")
    def set_nvpmodel(self, mode):
        told(mode)
        return ""
    def close(self):
        pass

power_mode._jtop = Board
first = serving.Serving.first
serving.Serving.first = lambda self: (told("engine"), first(self))[1]
"""


@pytest.fixture
def board(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(BOARD)
    (tmp_path / "board.json").write_text('["25W"]')
    return tmp_path / "board.json"


def started(tmp_path, state, clip, board, budget):
    config = write_config(tmp_path, source("car", f"{clip.as_uri()}?loop=1"), f"[budget]\n{budget}\n", state=state)
    return Agent(config, env={"BOARD": str(board), "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))})


def test_it_is_set_before_the_engine_is_chosen_and_put_back_by_sigterm(tmp_path, fresh_state, carphone, board):
    with started(tmp_path, fresh_state, carphone, board, 'nvpmodel = "15W"') as agent:
        now = agent.until(lambda s: s.ready)
        assert not [problem for problem in now.problems if "power mode" in problem]
        assert json.loads(board.read_text()) == ["25W", "15W", "engine"]
        assert agent.stop() == 0, agent.said()
    assert json.loads(board.read_text()) == ["25W", "15W", "engine", "25W"]


def test_what_a_killed_agent_left_is_put_back_by_the_next_start(tmp_path, fresh_state, carphone, board):
    with started(tmp_path, fresh_state, carphone, board, 'nvpmodel = "15W"') as agent:
        agent.until(lambda s: s.ready)
        agent.stop(signal.SIGKILL)
    assert json.loads(board.read_text()) == ["25W", "15W", "engine"]
    with started(tmp_path, fresh_state, carphone, board, "") as agent:
        agent.until(lambda s: s.ready)
        assert json.loads(board.read_text()) == ["25W", "15W", "engine", "25W", "engine"]
        assert agent.stop() == 0


def test_a_mode_that_the_board_lacks_is_a_problem_and_the_agent_looks(tmp_path, fresh_state, carphone, board):
    with started(tmp_path, fresh_state, carphone, board, 'nvpmodel = "9W"') as agent:
        now = agent.until(lambda s: s.found.get("face", 0) > 0)
        assert any("the power mode is not as configured: this board has no power mode '9W'" in problem for problem in now.problems)
        assert now.state == "degraded"
        assert agent.stop() == 0
        assert "ERROR agent.power_mode: power mode: this board has no power mode '9W'" in agent.said()
