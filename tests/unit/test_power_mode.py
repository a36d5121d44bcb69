"""The power mode while the agent runs: set, told when it cannot be, put back at any end; over a double of the board."""

import json
import logging
import threading
from dataclasses import replace

import msgspec
import pytest

from agent.config import BudgetSection
from agent.power.jtop import Settings
from agent.power.telemetry import NoSensorsError
from agent.power_mode import REMEMBERED, PowerMode

START = Settings(nvpmodel="25W", modes=("15W", "25W"), reachable=(True, True), changing=False, jetson_clocks=False, clocks_state="inactive")


class Board:
    """Does at once what it is told; ``opened`` and ``closed`` count connections."""

    def __init__(self, now=START):
        self.now, self.trouble, self.opened, self.closed, self.orders = now, "jtop is down", 0, 0, []

    def connect(self):
        self.opened += 1
        return self

    def close(self):
        self.closed += 1

    def settings(self):
        return self.now

    def set_nvpmodel(self, mode):
        self.orders.append(mode)
        self.now = replace(self.now, nvpmodel=mode)
        return ""

    def set_jetson_clocks(self, on):
        self.orders.append(on)
        self.now = replace(self.now, jetson_clocks=on)
        return ""


def mode(board, folder, stop=None, sleep=None, **wanted):
    return PowerMode(msgspec.convert(wanted, BudgetSection), folder, stop or threading.Event(), connect=board.connect, wait_s=0.3,
                     **({"sleep": sleep} if sleep else {}))


def test_what_is_not_configured_needs_no_board(tmp_path):
    board, said = Board(), []
    with mode(board, tmp_path) as power:
        power.apply(said.append)
    assert (board.opened, said, power.trouble) == (0, [], "")


def test_it_is_set_for_as_long_as_the_block_lasts_and_no_connection_stays(tmp_path):
    board, said = Board(), []
    with mode(board, tmp_path, nvpmodel="15W", jetson_clocks=True) as power:
        assert board.orders == [], "cameras connect and status answers first"
        power.apply(said.append)
        assert (board.now.nvpmodel, board.now.jetson_clocks, power.trouble) == ("15W", True, "")
        assert json.loads((tmp_path / REMEMBERED).read_bytes())["nvpmodel"] == "25W"
        assert (board.opened, board.closed) == (1, 1)
    assert (board.now.nvpmodel, board.now.jetson_clocks) == ("25W", False)
    assert not (tmp_path / REMEMBERED).exists()
    assert (board.opened, board.closed) == (2, 2)
    assert said == ["setting the power mode"]


def test_an_exception_puts_it_back_and_goes_on(tmp_path):
    board = Board()

    def fail():
        with mode(board, tmp_path, nvpmodel="15W") as power:
            power.apply()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert board.now.nvpmodel == "25W"


def test_after_a_kill_the_next_start_puts_back_what_is_not_configured_any_more(tmp_path):
    board = Board()
    mode(board, tmp_path, nvpmodel="15W").apply()  # and no end
    with mode(board, tmp_path) as power:
        power.apply()
        assert board.now.nvpmodel == "25W"
    assert board.orders == ["15W", "25W"]


def test_after_a_kill_a_start_with_the_same_config_still_knows_what_was_before(tmp_path):
    board = Board()
    mode(board, tmp_path, nvpmodel="15W").apply()
    with mode(board, tmp_path, nvpmodel="15W") as power:
        power.apply()
    assert board.now.nvpmodel == "25W"


@pytest.mark.parametrize(("now", "wanted", "told"), [
    (START, {"nvpmodel": "9W"}, "no power mode '9W': set [budget] nvpmodel to one of: 15W, 25W"),
    (None, {"nvpmodel": "15W"}, "jtop does not answer: jtop is down"),
    (replace(START, jetson_clocks=None), {"jetson_clocks": True}, "no jetson_clocks on this board"),
])
def test_what_cannot_be_set_is_told_and_stops_nothing(tmp_path, caplog, now, wanted, told):
    board = Board(now)
    with caplog.at_level(logging.ERROR), mode(board, tmp_path, **wanted) as power:
        power.apply()
        assert told in power.trouble
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1
    assert board.opened == board.closed == 1
    assert board.orders == []


def test_without_the_package_it_is_told(tmp_path):
    def nothing():
        raise NoSensorsError("the package jetson-stats is not installed", "install it")

    board = Board()
    board.connect = nothing
    with mode(board, tmp_path, nvpmodel="15W") as power:
        power.apply()
    assert power.trouble == "the package jetson-stats is not installed: install it"


def test_what_cannot_be_put_back_stays_remembered_and_is_told(tmp_path, caplog):
    board = Board()
    with caplog.at_level(logging.ERROR), mode(board, tmp_path, nvpmodel="15W") as power:
        power.apply()
        board.now = None
    assert (tmp_path / REMEMBERED).exists()
    assert "jtop does not answer" in caplog.text


def test_stopping_ends_the_wait_and_nothing_is_set_after_the_end(tmp_path, caplog):
    board, stop, slept = Board(None), threading.Event(), []

    def sleep(seconds):
        slept.append(seconds)
        stop.set()

    power = mode(board, tmp_path, stop, sleep, nvpmodel="15W")
    power.apply()
    assert len(slept) == 1
    assert caplog.records == [], "no trouble that anybody could mend"
    power.restore()
    board.now = START
    power.apply()
    assert board.orders == [], "the loader's thread came late"
