"""What is said of the clock for each thing the kernel may say, and the real kernel's own words."""

import re
import time

import pytest

from agent.clock import BUILD_FLOOR, RecentTrust, _adjtimex, boot_id, boottime, trust, untrusted, words

GOOD = BUILD_FLOOR + 1
TIME_OK, TIME_INS, TIME_ERROR = 0, 1, 5
STA_PLL, STA_UNSYNC = 0x1, 0x40


@pytest.mark.parametrize(("wall", "answer", "expected"), [
    (GOOD, (TIME_OK, STA_PLL), "synchronised"), (GOOD, (TIME_OK, 0), "synchronised"), (GOOD, (TIME_INS, STA_PLL), "synchronised"),
    (GOOD, (TIME_ERROR, STA_UNSYNC), "unsynchronised"), (GOOD, (TIME_ERROR, 0), "unsynchronised"),
    (GOOD, (TIME_OK, STA_PLL | STA_UNSYNC), "unsynchronised"), (GOOD, None, "unknown"),
    (BUILD_FLOOR - 1, (TIME_OK, STA_PLL), "implausible"), (0.0, None, "implausible"), (-1.0, (TIME_OK, 0), "implausible")])
def test_trust(wall, answer, expected):
    assert trust(lambda: wall, lambda: answer) == expected


@pytest.mark.parametrize(("how", "wrong"), [("synchronised", False), ("unknown", False), ("unsynchronised", True), ("implausible", True)])
def test_untrusted_has_words_and_an_attribute(how, wrong):
    assert untrusted(how) is wrong
    assert bool(words(how)) is wrong
    assert RecentTrust(lambda: how).distrust() == (how if wrong else "")


def test_the_build_floor_has_passed():
    assert time.time() > BUILD_FLOOR


def test_this_kernel_answers_or_refuses():
    answer = _adjtimex()
    if answer is None:
        pytest.skip("needs adjtimex(2): this sandbox forbids it")
    state, status = answer
    assert 0 <= state <= 5
    assert 0 <= status < 0x10000
    assert (state == TIME_ERROR) >= bool(status & STA_UNSYNC)  # the kernel never says unsynchronised and well at once
    assert trust() == ("unsynchronised" if state == TIME_ERROR else "synchronised")


def test_recent_trust_asks_every_ten_seconds():
    now, asked = [0.0], []
    recent = RecentTrust(lambda: asked.append(now[0]) or "synchronised", clock=lambda: now[0], wall=lambda: 1e9 + now[0])
    for second in range(35):
        now[0] = float(second)
        assert recent() == "synchronised"
    assert asked == [0, 10, 20, 30]


def test_boot_id_is_the_kernels():
    assert re.fullmatch(r"[0-9a-f]{32}", boot_id())
    assert boot_id() == boot_id()


@pytest.mark.parametrize("content", [None, "", "no id", "é"])
def test_without_a_kernels_id_one_stands_for_the_process(tmp_path, content):
    path = tmp_path / "boot_id"
    if content is not None:
        path.write_text(content)
    assert re.fullmatch(r"[0-9a-f]{32}", boot_id(path))
    assert boot_id(path) == boot_id(path) != boot_id()


def test_boot_id_is_read_without_dashes(tmp_path):
    path = tmp_path / "boot_id"
    path.write_text("0d9c1e3a-5f7b-4c2d-8e6f-a1b2c3d4e5f6\n")
    assert boot_id(path) == "0d9c1e3a5f7b4c2d8e6fa1b2c3d4e5f6"


def test_boottime_goes_on():
    first = boottime()
    assert 0 < first <= boottime()
    assert boottime() >= time.monotonic() - 1  # it counts sleep as well


def test_recent_trust_asks_at_once_when_the_clock_is_set():
    wall, answers = [1e9], iter(["implausible", "synchronised"])
    recent = RecentTrust(lambda: next(answers), clock=lambda: 0.0, wall=lambda: wall[0])
    assert recent() == recent() == "implausible"
    wall[0] = 1.8e9
    assert recent() == "synchronised"
