"""Problems with their times: one and the same while its words change, ended when it is gone, and never more than twenty."""

import pytest

from agent.timeline import KEPT, Problem, Timeline, keyed


@pytest.fixture
def line():
    class Line:
        now = 100.0

        def __init__(self):
            self.timeline = Timeline(clock=lambda: self.now)

        def at(self, now, *problems):
            self.now = now
            return [(e.words, e.began_s, e.ended_s, e.times) for e in self.timeline.see(problems)]
    return Line()


def test_it_is_one_problem_while_its_words_change(line):
    line.at(100, Problem("gate down", "down for 1 s"))
    assert line.at(110, Problem("gate down", "down for 11 s")) == [("down for 11 s", 100, None, 1)]
    assert line.at(120) == [("down for 11 s", 100, 120, 1)]


def test_one_that_flaps_is_one_and_counted(line):
    for now in range(100, 200, 10):
        line.at(now, Problem("a", "a"))
        line.at(now + 5)
    assert line.at(300) == [("a", 100, 195, 10)]
    assert line.at(310, Problem("a", "a")) == [("a", 100, 195, 10), ("a", 310, None, 1)]


def test_a_minute_later_it_is_another_one(line):
    line.at(100, Problem("a", "a"))
    line.at(110)
    assert len(line.at(170, Problem("a", "a"))) == 1
    line.at(180)
    assert len(line.at(240.5, Problem("a", "a"))) == 2


def test_the_newest_are_kept_and_what_lasts_outlives_what_is_over(line):
    line.at(0, Problem("lasts", "lasts"))
    for number in range(1, 50):
        line.at(number, Problem("lasts", "lasts"), Problem(f"p{number}", f"p{number}"))
    kept = [words for words, *_ in line.at(50, Problem("lasts", "lasts"))]
    assert len(kept) == KEPT
    assert kept[0] == "lasts"
    assert kept[1:] == [f"p{number}" for number in range(31, 50)]


def test_more_than_can_be_kept_at_once(line):
    problems = [Problem(str(number), str(number)) for number in range(30)]
    assert len(line.at(1, *problems)) == KEPT


def test_what_it_returns_is_not_what_it_keeps(line):
    line.at(1, Problem("a", "a"))
    line.timeline.see([Problem("a", "a")])[0].words = "spoilt"
    assert line.at(2)[0][0] == "a"


@pytest.mark.parametrize(("one", "other", "same"), [
    ("uploader has not moved for 61 s", "uploader has not moved for 62 s", True),
    ("the client certificate ends in 12.2 days", "the client certificate ends in 11.9 days", True),
    ("source gate-1 is down", "source gate-2 is down", False),
    ("set aside: vedette spool export --file spool.sqlite.bad-1", "set aside: vedette spool export --file spool.sqlite.bad-2", False),
    ("3 events were lost since the start: the disk was full (disk_full)", "4 events were lost since the start: the disk was full (disk_full)", True),
    ("memory 1,024 of 2,048 bytes", "memory 1,025 of 2,048 bytes", True),
])
def test_numbers_that_change_do_not_make_it_another_problem(one, other, same):
    assert (keyed(one).key == keyed(other).key) == same
    assert keyed(one).words == one
