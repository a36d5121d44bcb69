import msgspec

from agent.page.history import History
from agent.page.telling import Now, tell
from tests.unit.test_status import snapshot


def test_a_line_a_second_for_ten_minutes():
    now = [0.0]
    history = History(clock=lambda: now[0])
    for second in range(700):
        now[0] = float(second)
        if second % 2:
            for ms in range(1, 101):
                history.saw(ms / 1e3)
        history.sample(snapshot())
    lines = history.samples()
    assert len(lines) == 600
    assert (lines[-1].at, lines[-1].rate, lines[-1].spool, lines[-1].watts) == (699, 1, 2, None)
    assert (lines[-1].p50_ms, lines[-1].p99_ms) == (51, 100)
    assert (lines[-2].p50_ms, lines[-2].p99_ms) == (None, None)
    assert [line.at for line in history.samples(697.5)] == [698, 699]


def test_only_what_is_chosen_gets_onto_the_page_and_logins_are_hidden():
    told = tell(snapshot(problems=["source door is down: rtsp://admin:hunter2@192.0.2.7/x?token=abc"], doing="loading"), [])
    text = msgspec.json.encode(told).decode()
    assert "hunter2" not in text
    assert "abc" not in text
    assert "rtsp://x" not in text, "addresses of cameras do not belong on the page"
    assert '"run_id"' not in text
    assert msgspec.json.decode(text, type=Now).sources[0].name == 'do"or'
