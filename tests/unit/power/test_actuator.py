"""The actuator over a double of the board: what is remembered when, what is put back, and what cannot be set."""

import json
from dataclasses import replace

import pytest

from agent.power.actuator import ActuatorError, PowerActuator
from agent.power.jtop import Settings

START = Settings(nvpmodel="25W", modes=("15W", "25W", "MAXN"), reachable=(True, True, False), changing=False, jetson_clocks=False,
                 clocks_state="inactive")


class Board:
    """Follows an order ``after_s`` seconds later, busy until then; drops orders while it is busy, as jtop does."""

    def __init__(self, now=START, after_s=0.5, deaf=False):
        self.now, self.after_s, self.deaf, self.time, self.pending, self.orders, self.trouble, self.refusal = now, after_s, deaf, 0.0, None, [], "", ""
        self.before_order = lambda: None

    def clock(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        if self.pending and self.time >= self.pending[0]:
            self.now, self.pending = replace(self.now, changing=False, **self.pending[1]), None

    def settings(self):
        return self.now

    def _order(self, what, **change):
        self.before_order()
        self.orders.append(what)
        if not self.refusal and not self.deaf and self.pending is None:
            self.pending = (self.time + self.after_s, change)
            self.now = replace(self.now, changing=True)
        return self.refusal

    def set_nvpmodel(self, mode):
        return self._order(mode, nvpmodel=mode)

    def set_jetson_clocks(self, on):
        return self._order(on, jetson_clocks=on, clocks_state="running" if on else "inactive")


@pytest.fixture
def state(tmp_path):
    return tmp_path / "power.json"


def actuator(board, state, mode=None, clocks=None):
    return PowerActuator(mode, clocks, state, board, wait_s=5.0, clock=board.clock, sleep=board.sleep)


def test_nothing_configured_asks_nothing_and_changes_nothing(state):
    board = Board(None)
    assert actuator(board, state).apply() == []
    assert actuator(board, state).restore() == []
    assert not state.exists()
    assert board.time == 0


def test_what_is_configured_is_set_verified_and_put_back(state):
    board = Board()
    power = actuator(board, state, "15W", True)
    assert power.apply() == ["power mode 25W -> 15W", "jetson_clocks off -> on"]
    assert (board.now.nvpmodel, board.now.jetson_clocks) == ("15W", True)
    assert power.restore() == ["jetson_clocks on -> off", "power mode 15W -> 25W"]
    assert (board.now.nvpmodel, board.now.jetson_clocks) == ("25W", False)
    assert not state.exists()
    assert power.restore() == []


def test_only_what_is_configured_is_touched(state):
    board = Board()
    power = actuator(board, state, "15W")
    power.apply()
    power.restore()
    assert board.orders == ["15W", "25W"]


def test_the_former_setting_is_on_the_disk_before_anything_changes(state):
    board = Board()
    seen = []
    board.before_order = lambda: seen.append(json.loads(state.read_bytes())["nvpmodel"])
    actuator(board, state, "15W").apply()
    assert seen == ["25W"]


def test_what_is_so_already_is_not_set_again(state):
    board = Board()
    assert actuator(board, state, "25W", False).apply() == []
    assert board.orders == []


@pytest.mark.parametrize("second", ["15W", "10W"])
def test_a_start_after_a_crash_keeps_what_was_before_the_first_change(state, second):
    board = Board(replace(START, modes=("15W", "25W", "10W"), reachable=(True, True, True)))
    actuator(board, state, "15W").apply()
    power = actuator(board, state, second)
    power.apply()
    assert json.loads(state.read_bytes())["nvpmodel"] == "25W"
    power.restore()
    assert board.now.nvpmodel == "25W"


def test_a_start_whose_config_leaves_it_alone_now_puts_back_what_a_crash_left(state):
    board = Board()
    actuator(board, state, "15W", True).apply()
    power = actuator(board, state, None, True)
    assert power.apply() == ["power mode 15W -> 25W"]
    assert json.loads(state.read_bytes())["jetson_clocks"] is False
    assert actuator(board, state).apply() == ["jetson_clocks on -> off"]
    assert not state.exists()


def test_what_somebody_else_changed_meanwhile_is_left_to_them(state):
    board = Board()
    power = actuator(board, state, "15W")
    power.apply()
    board.now = replace(board.now, nvpmodel="MAXN")
    [text] = power.restore()
    assert "MAXN" in text
    assert "left alone" in text
    assert board.now.nvpmodel == "MAXN"
    assert not state.exists()


@pytest.mark.parametrize(("mode", "clocks", "now", "words"), [
    ("40W", None, START, ["no power mode '40W'", "15W, 25W, MAXN"]),
    ("MAXN", None, START, ["needs a reboot", "sudo nvpmodel -m 2"]),
    ("15W", None, replace(START, nvpmodel=None, modes=()), ["knows no power modes"]),
    (None, True, replace(START, jetson_clocks=None), ["knows no jetson_clocks"]),
    ("15W", None, None, ["does not answer", "systemctl restart jtop"]),
])
def test_what_cannot_be_set_is_said_before_anything_is_touched(state, mode, clocks, now, words):
    board = Board(now)
    with pytest.raises(ActuatorError) as caught:
        actuator(board, state, mode, clocks).apply()
    for word in words:
        assert word in str(caught.value)
    assert board.orders == []
    assert not state.exists()


def test_the_boards_trouble_is_the_remedy_when_it_cannot_be_asked(state):
    board = Board(None)
    board.trouble = "no permission for /run/jtop.sock: `sudo usermod -aG jtop edge`"
    with pytest.raises(ActuatorError, match="usermod -aG jtop edge"):
        actuator(board, state, "15W").apply()
    assert board.time == pytest.approx(5.0, abs=0.2)


def test_a_board_that_does_not_follow_is_an_error_and_stays_remembered(state):
    board = Board(deaf=True)
    with pytest.raises(ActuatorError, match="did not become 15W within 5 s; it is 25W"):
        actuator(board, state, "15W").apply()
    with pytest.raises(ActuatorError, match="did not go on within 5 s"):
        actuator(board, state, None, True).apply()
    assert state.exists()


def test_an_order_that_cannot_be_sent_says_why(state):
    board = Board()
    board.refusal = "jtop.service took no order"
    with pytest.raises(ActuatorError, match=r"the power mode cannot be set: jtop\.service took no order"):
        actuator(board, state, "15W").apply()


def test_a_busy_board_gets_its_order_when_it_listens_again(state):
    board = Board(replace(START, clocks_state="booting"))
    board.pending = (2.0, {"clocks_state": "inactive"})
    assert actuator(board, state, None, True).apply() == ["jetson_clocks off -> on"]
    assert board.orders == [True]
    assert board.time >= 2.0


def test_clocks_that_jtop_does_not_rule_are_an_error(state):
    with pytest.raises(ActuatorError, match=r"outside jtop(.|\n)*jetson_clocks --restore"):
        actuator(Board(replace(START, clocks_state="uncontrolled")), state, None, True).apply()


def test_a_state_that_cannot_be_kept_changes_nothing(tmp_path):
    board = Board()
    with pytest.raises(ActuatorError, match="cannot be kept"):
        actuator(board, tmp_path / "none" / "power.json", "15W").apply()
    assert board.orders == []


def test_a_damaged_state_is_an_error_and_no_guess(state):
    state.write_text("{")
    board = Board()
    for call in (actuator(board, state, "15W").apply, actuator(board, state).restore):
        with pytest.raises(ActuatorError, match="cannot be read"):
            call()
    assert board.orders == []
