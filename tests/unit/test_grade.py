"""The grade of a source: each limit from both sides, what counts and for how long, and when nothing is known."""

import pytest

from agent.grade import Look, Record


class Camera:
    """Looks at a source once a second for as long as it does the same."""

    def __init__(self, own_rate=True):
        self.record = Record(own_rate=own_rate)
        self.now, self.seen, self.reconnects = 1000.0, 0, 0
        self.does(0, "connecting")

    def does(self, seconds, state="live", fps=25, reconnects=0):
        self.reconnects += reconnects
        for _ in range(max(seconds, 1)):
            self.record.look(Look(self.now, state, self.seen, self.reconnects))
            self.now += 1.0
            self.seen += fps
        return self

    def grade(self, seconds=1, **last):
        return self.does(seconds, **last).record.grade()


def test_a_steady_camera_is_good_and_its_rate_is_known_after_ten_minutes():
    camera = Camera().does(595)
    assert camera.record.usual_rate is None
    assert camera.grade(10) == ("good", "", pytest.approx(25, rel=0.01))


def test_nothing_is_said_before_a_minute_was_watched():
    camera = Camera().does(50)
    assert camera.grade().grade == "unknown"
    assert "60 s are needed" in camera.grade().why
    assert camera.grade(20).grade == "good"


@pytest.mark.parametrize(("fps", "grade"), [(25, "good"), (21, "good"), (19, "fair"), (13, "fair"), (12, "poor"), (6, "poor"), (4, "bad"), (0, "bad")])
def test_its_rate_is_held_against_its_own_usual_one(fps, grade):
    found = Camera().does(1500).grade(130, fps=fps)
    assert found.grade == grade
    assert ("usually 25.0" in found.why) == (grade != "good")


def test_a_file_that_is_read_as_fast_as_it_is_taken_has_no_usual_rate():
    assert Camera(own_rate=False).does(1500).grade(130, fps=0) == ("good", "", None)


@pytest.mark.parametrize(("count", "grade"), [(2, "good"), (3, "fair"), (10, "fair"), (11, "poor"), (30, "poor"), (31, "bad")])
def test_reconnects_in_the_last_hour(count, grade):
    found = Camera().does(700).does(1, reconnects=count).grade(100)
    assert found.grade == grade
    assert (f"{count} reconnects" in found.why) == (grade != "good")


@pytest.mark.parametrize(("state", "says"), [("down", "not live"), ("connecting", "not live"), ("frozen", "frozen or black"), ("black", "frozen or black")])
@pytest.mark.parametrize(("seconds", "grade"), [(15, "good"), (25, "fair"), (175, "fair"), (185, "poor"), (890, "poor"), (910, "bad")])
def test_time_without_pictures_in_the_last_hour(state, says, seconds, grade):
    found = Camera().does(700).does(seconds, state, fps=0).grade(700)
    assert found.grade == grade
    assert (says in found.why) == (grade != "good")


@pytest.mark.parametrize(("state", "seconds", "grade"), [
    ("connecting", 5, "fair"), ("connecting", 320, "bad"), ("down", 2, "poor"), ("frozen", 5, "poor"), ("black", 5, "poor"), ("down", 320, "bad"), ("black", 320, "bad")])
def test_what_it_does_now_weighs_at_once(state, seconds, grade):
    found = Camera().does(700).grade(seconds, state=state, fps=0)
    assert found.grade == grade
    assert f"{state} now" in found.why


def test_after_an_hour_it_is_forgiven():
    camera = Camera().does(700).does(400, "down", fps=0, reconnects=5)
    assert camera.grade(100).grade == "poor"
    assert camera.grade(3500).grade == "good"


def test_the_worst_reason_decides_and_only_that_is_said():
    found = Camera().does(700).does(25, "frozen", fps=0).does(1, reconnects=12).grade(100)
    assert found.grade == "poor"
    assert found.why == "12 reconnects in the last hour"


def test_a_night_rate_becomes_the_usual_one_in_time():
    camera = Camera().does(6 * 600)
    assert camera.grade(130, fps=10).grade == "poor"
    assert camera.grade(7 * 600, fps=10).grade == "good"


def test_an_ended_source_is_not_judged():
    assert Camera().does(100).grade(2, state="ended")[:2] == ("unknown", "it has ended")


def test_time_in_which_nobody_looked_counts_for_nothing():
    camera = Camera().does(700)
    camera.now += 1800.0
    assert camera.grade(1, state="live", reconnects=99).grade == "good"
    assert camera.grade(30).grade == "good"


def test_counters_that_begin_anew_do_no_harm():
    camera = Camera().does(700)
    camera.seen = camera.reconnects = 0
    assert camera.grade(100).grade == "good"
