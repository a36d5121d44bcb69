"""What the view keeps between two looks: since when, problems with their times, the grade of each source, when the gate passed."""

import os
import re
import shutil
import time
from collections import Counter
from types import SimpleNamespace

import msgspec
import pytest

from agent.capture.reader import ReaderStatus
from agent.config import Config, Device, SourceSection
from agent.inference.engine import EngineDescription
from agent.meters import Heartbeat, SourceMeter
from agent.metrics import prometheus
from agent.records import SourceState
from agent.snapshot import EndView, Snapshot
from agent.view import View
from tests.helpers.live_spools import open_spool

DOOR, CLIP = "rtsp://camera/1", "file:///clip.mp4?pace=all"


BEAT = SimpleNamespace(name="inference", age_s=lambda: 0.0, fresh=lambda: True)


class Reader:
    def __init__(self, state=SourceState.LIVE):
        self.state, self.since_s = state, time.monotonic() - 100.0
        self.heartbeat = BEAT

    def status(self):
        return ReaderStatus(state=self.state, reason="why", since_s=self.since_s, last_frame_age_s=0.1)


@pytest.fixture
def view(tmp_path):
    config = Config(device=Device(state_dir=str(tmp_path)), source={"door": SourceSection(url=DOOR), "clip": SourceSection(url=CLIP)} |
                    {f"more-{number}": SourceSection(url=DOOR) for number in range(7)})
    made = View(config, "box", "run", Counter())
    made.reader, made.meter = Reader(), SourceMeter()
    made.watching("door", made.reader, made.meter)
    return made


def served(stored=None):
    what = EngineDescription(name="centerface", identity="abc", runtime="onnxruntime 1", provider="CPUExecutionProvider", precision="fp32", threads=1,
                             model_sha256="0" * 64)
    engine = SimpleNamespace(describe=lambda: what, spec=SimpleNamespace(height=64, width=64, max_batch=1))
    pipeline = SimpleNamespace(stages={}, looking=BEAT, telling=BEAT, model=SimpleNamespace(engine=engine))
    return pipeline, SimpleNamespace(served=SimpleNamespace(stored=stored, tier="tuned", checked="well"), tuning="", failed="")


def running(view, stored=None):
    pipeline, serving = served(stored)
    view._pipeline, view._serving = pipeline, (serving, time.monotonic())
    return serving


def test_systemd_hears_that_all_is_well_only_while_all_of_these_move(view):
    def beat(name):
        return SimpleNamespace(name=name)
    view.reader.heartbeat = beat("reader-door")
    view._pipeline = SimpleNamespace(looking=beat("inference"), telling=beat("postprocess"))
    view.governing = SimpleNamespace(heartbeat=beat("governor"))
    view._reporting = [beat("spool"), beat("uploader")]
    assert [each.name for each in view.heartbeats()] == ["inference", "postprocess", "governor", "spool", "uploader", "reader-door"]


@pytest.mark.parametrize(("free", "problems"), [(5_000_000, ["the disk is nearly full, 5 MB are free"]), (900_000_000, []), (None, [])])
def test_the_room_on_the_spools_disk_is_told_and_a_problem_when_it_is_little(view, tmp_path, monkeypatch, free, problems):
    def usage(folder):
        assert folder == tmp_path
        if free is None:
            raise OSError(5, "Input/output error")
        return SimpleNamespace(free=free)
    with open_spool(tmp_path / "spool.sqlite") as spool:
        monkeypatch.setattr(shutil, "disk_usage", usage)
        view.reporting(spool, BEAT, None, BEAT)
        seen = view.snapshot()
        monkeypatch.undo()
    assert seen.spool.disk_free == free
    assert [problem.partition(":")[0] for problem in seen.problems] == problems
    assert re.findall(r"^vedette_spool_disk_free_bytes (\S+)$", prometheus(seen), re.M) == ([f"{free}"] if free else [])


@pytest.mark.parametrize(("looking_s", "telling_s", "named"), [(0, 0, []), (40, 0, ["inference"]), (0, 40, ["postprocess"]), (50, 40, ["inference"]), (40, 50, ["postprocess"])])
def test_of_inference_and_postprocessing_the_one_that_stopped_first_is_named(view, looking_s, telling_s, named):
    def beat(name, age_s):
        return Heartbeat(name, limit_s=30.0, clock=iter([0.0, *[float(age_s)] * 20]).__next__)
    running(view)
    view._pipeline.looking, view._pipeline.telling = beat("inference", looking_s), beat("postprocess", telling_s)
    view._reporting = [beat("spool", 70)]
    assert [words.split()[0] for words in view.snapshot().problems] == ["spool", *named]


def test_it_says_since_when_it_is_in_its_state(view):
    first = view.snapshot()
    assert (first.state, first.state_since_s) == ("starting", pytest.approx(first.uptime_s, abs=0.05))
    serving = running(view)
    assert view.snapshot().state_since_s == pytest.approx(0, abs=0.05)
    time.sleep(0.2)
    view.tick()
    now = view.snapshot()
    assert now.state == "running"
    assert 0.2 <= now.state_since_s < 0.5
    serving.failed = "no luck"
    assert view.snapshot().state_since_s < 0.1
    assert view.snapshot(stopping=True).state == "stopping"


def test_problems_are_kept_with_their_times_though_nobody_asks(view):
    serving = running(view)
    serving.failed = "tuning failed: 3 of 4"
    began = time.time()
    view.tick()
    time.sleep(0.1)
    serving.failed = ""
    view.tick()
    view.reader.state = SourceState.DOWN
    view.tick()
    now = view.snapshot()
    assert now.problems == ["source door is down for 100 s: why (`vedette doctor` has a row on it)"]
    tuning, door = now.problems_past
    assert (tuning.words, door.words) == ("tuning failed: 3 of 4", now.problems[0])
    assert tuning.began_at == pytest.approx(began, abs=0.05)
    assert tuning.ended_at - tuning.began_at == pytest.approx(0.1, abs=0.05)
    assert door.ended_at is None


def test_a_clock_that_is_set_moves_what_was_before(view, monkeypatch):
    running(view).failed = "x"
    view.tick()
    now = time.time()
    monkeypatch.setattr("agent.view.time.time", lambda: now + 1e6)
    assert view.snapshot().problems_past[0].began_at == pytest.approx(now + 1e6, abs=1)


def test_sources_get_their_grade_from_what_the_ticks_saw(view, monkeypatch):
    running(view)
    view.watching("clip", Reader(), SourceMeter())
    assert [source.grade for source in view.snapshot().sources] == ["unknown", "unknown"]
    start = time.monotonic()
    for second in range(700):
        monkeypatch.setattr("agent.view.time.monotonic", lambda second=second: start + second)
        view.meter.seen += 10
        view.meter.reconnects += second % 100 == 0
        view.tick()
    door, clip = view.snapshot().sources
    assert (door.grade, door.grade_why, clip.grade) == ("fair", "6 reconnects in the last hour", "good")
    assert door.usual_rate == pytest.approx(10, rel=0.01)
    assert clip.usual_rate is None, "it is read as fast as it is taken"


@pytest.mark.parametrize(("tuning", "at"), [
    (SimpleNamespace(at=500.0, kept="int8"), 500.0), (SimpleNamespace(at=500.0, kept="fp16"), 400.0), (None, 400.0)])
def test_when_the_gate_let_a_stored_engine_pass(view, tuning, at):
    running(view, SimpleNamespace(tuning=tuning, card=SimpleNamespace(at=400.0, form="int8")))
    assert view.snapshot().engine.gated_at == at


def test_a_prepared_model_passed_when_its_card_was_written(view, tmp_path):
    card = tmp_path / "engines/centerface/abc.json"
    card.parent.mkdir(parents=True)
    card.touch()
    os.utime(card, (1e9, 1e9))
    running(view)
    assert view.snapshot().engine.gated_at == 1e9


def test_without_a_card_it_is_not_known(view):
    running(view)
    assert view.snapshot().engine.gated_at is None


def test_how_the_runs_before_ended_is_what_it_was_told(view):
    assert view.snapshot().ends == []
    view.ends = [EndView(at=None, how="power", words="the power failed")]
    assert view.snapshot().ends[0].how == "power"


def test_a_snapshot_of_the_schema_before_can_be_read(view):
    running(view)
    old = msgspec.to_builtins(view.snapshot())
    for key in ("state_since_s", "problems_past", "ends"):
        del old[key]
    for key in ("grade", "grade_why", "usual_rate"):
        del old["sources"][0][key]
    del old["engine"]["gated_at"]
    read = msgspec.convert({**old, "schema": 1}, Snapshot)
    assert (read.state_since_s, read.sources[0].grade, read.engine.gated_at) == (None, "unknown", None)


def test_a_tick_is_cheap(view):
    running(view)
    for number in range(7):
        view.watching(f"more-{number}", Reader(), SourceMeter())
    began = time.process_time()
    for _ in range(100):
        view.tick()
    assert (time.process_time() - began) / 100 < 0.005, "half a per cent of a core"
