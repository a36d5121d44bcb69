"""When systemd is told what."""

from types import SimpleNamespace

import msgspec
import pytest

from agent.capture.reader import STUCK_S
from agent.meters import Heartbeat
from agent.records import SourceState
from agent.snapshot import Snapshot
from agent.watchdog import Watchdog, has_started, line, reader_patience_s

SOURCE = {"name": "door", "url": "x", "state": "live", "reason": "", "since_s": 1.0, "last_frame_age_s": 0.1, "width": 1, "height": 1, "seen": 5,
          "processed": 0, "skipped": {}, "reconnects": 0, "hung": 0, "seen_rate": 5.0, "processed_rate": 4.5}


def snapshot(first=None, source=None, rate=None, problems=()):
    order = {"tier": "", "batch": 1, "rate": rate}
    reading = {"telemetry": "", "age_s": None, "watts": None, "measures": "", "celsius": None, "hottest": "", "gpu_load": None, "rails": {},
               "zones": {}, "alarms": [], "events": {}, "trouble": ""}
    memory = {"resident": None, "children": None, "device": None, "total": None, "available": None, "limit": None, "limit_of": "", "used": None,
              "pressure": None, "given_up": [], "why": "", "leak": ""}
    governor = {"policy": "max_fps", "order": order, "why": "", "since_s": 0, "quiet": "", "blind": False, "table": "", "shares": {}, "reading": reading,
                "memory": memory, "frames_per_joule": None, "spent": [], "steps": [], "count": 0}
    return msgspec.convert({
        "schema": 2, "version": "0", "device": "box", "run_id": "r", "pid": 1, "state": "running", "doing": "", "ready": True, "uptime_s": 1.0,
        "first_result_s": first, "problems": list(problems), "sources": [{**SOURCE, **(source or {})}], "stages": {}, "engine": None, "found": {},
        "spool": None, "upstream": None, "budget": {}, "heartbeats": {}, "governor": governor}, Snapshot)


@pytest.mark.parametrize(("result", "pictures", "paused", "loaded_for_s", "started"), [
    (True, True, False, 0.0, True),
    (False, True, False, 100.0, False),  # pictures come and no result does: that is no start
    (False, False, False, 4.9, False),
    (False, False, False, 5.0, True),
    (False, True, True, 5.0, True),
    (False, True, True, 1.0, False),
])
def test_it_has_started_with_a_result_or_without_a_picture_to_have_one_of(result, pictures, paused, loaded_for_s, started):
    assert has_started(result=result, pictures=pictures, paused=paused, loaded_for_s=loaded_for_s) is started


def test_the_line():
    assert line(snapshot()) == "running: 1 of 1 sources live, 4.5 frames/s"
    assert line(snapshot(problems=["it hurts", "more"])) == "running: 1 of 1 sources live, 4.5 frames/s, 2 problems: vedette status"
    assert line(snapshot(source={"state": "down"}, problems=["rtsp://10.0.0.7/x: no"])) == "running: 0 of 1 sources live (door down), 4.5 frames/s, 1 problem: vedette status"
    assert line(msgspec.structs.replace(snapshot(), state="starting", doing="loading")) == "starting: loading"


def test_a_reader_that_stands_still_ends_the_process_at_once_only_when_nobody_else_sees():
    assert reader_patience_s([]) == STUCK_S
    assert reader_patience_s([False, False]) == STUCK_S
    assert reader_patience_s([False, True]) == 3600


class World:
    """A clock, a view with one heartbeat and one reader, and what was said."""

    def __init__(self, limit_s=30.0):
        self.now, self.said, self.ticks = 0.0, [], 0
        self.has_result, self.paused, self.state = False, False, SourceState.LIVE
        self.beat = Heartbeat("inference", 30.0, clock=lambda: self.now)
        self.shown = snapshot()
        self.watchdog_s = limit_s
        self.reader = SimpleNamespace(status=lambda: SimpleNamespace(state=self.state, width=1), heartbeat=Heartbeat("reader-door", 0.0, clock=lambda: self.now))
        self.dog = Watchdog(self, self, clock=lambda: self.now)

    # A view
    def tick(self):
        self.ticks += 1

    def heartbeats(self):
        return [self.beat, self.reader.heartbeat]

    def snapshot(self):
        return self.shown

    # A notifier
    def ready(self):
        self.said.append("ready")

    def alive(self):
        self.said.append("alive")

    def status(self, text):
        self.said.append(text)

    def extend(self, seconds):
        self.said.append("extend")

    def go(self, seconds, *, beat=True, read=True):
        for _ in range(int(seconds * 10)):
            self.now += 0.1
            if beat:
                self.beat.beat()
            if read:
                self.reader.heartbeat.beat()
            self.dog.running({"door": self.reader})


def test_a_start_asks_for_time_while_it_goes_forward():
    it = World()
    for _ in range(30):
        it.now += 0.1
        it.dog.starting(progress=it.now < 2)
    assert it.said == ["extend", "extend"]


def test_systemd_hears_ready_once_and_then_that_all_is_well_as_long_as_it_is():
    it = World()
    it.go(8)
    assert it.said == [], "pictures come and no result does"
    it.has_result = True
    it.go(1.1)
    assert it.said[0] == "ready"
    it.go(10)
    assert it.said.count("ready") == 1
    assert 10 <= it.said.count("alive") <= 12
    before = it.said.count("alive")
    it.go(29, beat=False)
    assert it.said.count("alive") > before + 27
    before = it.said.count("alive")
    it.go(60, beat=False)
    assert it.said.count("alive") <= before + 2, "a part stands still"
    it.go(5)
    assert it.said.count("alive") > before + 3, "it moves again"


def test_a_reader_that_stands_still_is_a_part():
    it = World()
    it.has_result = True
    it.go(5)
    it.go(40, read=False)
    before = it.said.count("alive")
    it.go(10, read=False)
    assert it.said.count("alive") == before


def test_nothing_stuck_is_ready(caplog):
    it = World()
    it.go(40, beat=False)
    it.has_result = True
    it.go(10, beat=False)
    assert it.said == []
    assert [record.vedette["stage"] for record in caplog.records if hasattr(record, "vedette")] == ["inference"], "told once"


def test_without_a_picture_it_is_ready_after_a_moment():
    it = World()
    it.state = SourceState.DOWN
    it.go(4.5)
    assert it.said == []
    it.go(2)
    assert it.said[0] == "ready"


def test_a_short_limit_is_served_in_time():
    it = World(limit_s=2.0)
    it.has_result = True
    it.go(4)
    assert it.said.count("alive") >= 6


def test_the_teller_keeps_the_line_and_the_views_memory_until_it_is_stopped():
    it, rounds = World(limit_s=0.04), []

    class Stop:
        def wait(self, _):
            it.now += 1.0
            rounds.append(None)
            return len(rounds) > 12
    it.dog.tell(Stop())
    assert it.ticks == 12
    assert it.said == ["running: 1 of 1 sources live, 4.5 frames/s"] * 12, "before it is ready each second"
    it.has_result, it.said = True, []
    it.go(1)
    assert it.said[0] == "ready"
    rounds.clear()
    it.dog.tell(Stop())
    assert it.said.count("running: 1 of 1 sources live, 4.5 frames/s") == 3, "at once, then every five"
