"""Events hold for any result: valid CloudEvents, unique and ordered ids, never over 64 KiB."""

import json
import threading
from datetime import datetime, timezone

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.inference.engine import EngineDescription
from agent.records import Detections, Result, SourceChange, SourceState
from agent.report.events import MAX_BODY, CloudEvent, DetectionData, EngineTag, EventFactory, rfc3339
from agent.report.gaps import Gap
from agent.report.sealing import numbered

TAG = EngineTag(name="centerface", identity="0123456789abcdef", runtime="onnxruntime 1.19.2", precision="fp32")
LABELS = ("person", "bicycle", "car")
RUN = "0123456789abcdef0123456789abcdef"


class Received(CloudEvent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data: DetectionData


def factory(**options):
    return EventFactory("jetson-1", RUN, "0.1.0", boot_id="b" * 32, **options)


def result(n, seed=0, landmarks=0, classes=3):
    draw = np.random.default_rng(seed)
    return Result(
        source="door", seq=123456, index=12345, captured_at=1763761516.123456, age_s=0.0213, width=1920, height=1080,
        skipped=2, detections=Detections(
            xyxy=draw.uniform(0, 1920, (n, 4)).astype(np.float32),
            scores=np.sort(draw.uniform(0, 1, n).astype(np.float32))[::-1].copy(),
            class_ids=draw.integers(0, classes, n).astype(np.int32),
            landmarks=draw.uniform(0, 1920, (n, landmarks, 2)).astype(np.float32) if landmarks else None))


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 2000), landmarks=st.sampled_from([0, 5]), label=st.text(max_size=400), seed=st.integers(0, 9))
def test_any_detection_event_is_valid_bounded_and_keeps_the_best(n, landmarks, label, seed):
    label = label.encode("utf-8", "replace").decode()
    found = result(n, seed, landmarks, classes=1)
    event = factory().detection(found, [label], TAG)
    assert len(numbered(event.body, 10**12)) <= MAX_BODY
    received = msgspec.json.decode(event.body, type=Received)
    assert received == msgspec.json.decode(msgspec.json.encode(received), type=Received)
    assert (received.id, received.type, received.subject) == (event.id, "detection", "door")
    boxes = received.data.detections
    assert len(boxes) + received.data.truncated == n
    assert len(boxes) or not n
    for k, box in enumerate(boxes):
        assert box.label == label
        assert box.score == pytest.approx(float(found.detections.scores[k]), abs=6e-5)
        assert box.box == pytest.approx(found.detections.xyxy[k].tolist(), abs=0.051)
        assert (box.landmarks is None) == (landmarks == 0)
        assert box.landmarks is None or np.allclose(box.landmarks, found.detections.landmarks[k], atol=0.051)


def test_truncation_loses_no_more_than_it_must():
    event = factory().detection(result(2000), LABELS, TAG)
    assert len(event.body) > MAX_BODY * 0.95
    assert json.loads(event.body)["data"]["truncated"] > 0


def test_twelve_detections_are_small():
    assert len(factory().detection(result(12), LABELS, TAG).body) < 1500


def test_envelope_and_frame():
    event = json.loads(factory().detection(result(0), LABELS, TAG).body)
    assert event == {
        "specversion": "1.0", "id": f"{RUN}-1", "source": "urn:vedette:jetson-1", "type": "detection",
        "subject": "door", "time": "2025-11-21T21:45:16.123456Z", "datacontenttype": "application/json",
        "bootid": "b" * 32, "data": {
            "frame": {"index": 12345, "seq": 123456, "width": 1920, "height": 1080, "age_ms": 21.3, "skipped": 2},
            "engine": {"name": "centerface", "identity": "0123456789abcdef", "runtime": "onnxruntime 1.19.2",
                       "precision": "fp32"},
            "detections": []}}


def test_a_loaded_engines_description_serves_as_it_is():
    described = EngineDescription(name="n", identity="i", runtime="r", provider="p", precision="fp16", threads=2,
                                  model_sha256="0")
    assert json.loads(factory().detection(result(0), LABELS, described).body)["data"]["engine"] == {
        "name": "n", "identity": "i", "runtime": "r", "precision": "fp16"}


def test_class_without_a_name_is_called_by_its_number():
    event = json.loads(factory().detection(result(5), [], TAG).body)
    assert {box["label"] for box in event["data"]["detections"]} <= {"0", "1", "2"}


def test_source_state():
    change = SourceChange(source="door", state=SourceState.FROZEN, reason="no change for 10 s", at=0.5, since_s=12.34567)
    event = factory().source_state(change)
    assert (event.type, event.subject) == ("source.state", "door")
    told = json.loads(event.body)
    assert told["time"] == "1970-01-01T00:00:00.500000Z"
    assert told["data"] == {"state": "frozen", "reason": "no change for 10 s", "previous_s": 12.346, "agent": "0.1.0"}


@given(reason=st.text(st.characters(), max_size=5000))
def test_any_reason_makes_a_valid_event(reason):
    change = SourceChange(source="door", state=SourceState.DOWN, reason=reason, at=0, since_s=0)
    body = factory().source_state(change).body
    assert len(body) <= MAX_BODY
    assert json.loads(body)["data"]["state"] == "down"


def test_lone_surrogates_are_replaced():
    change = SourceChange(source="door", state=SourceState.DOWN, reason="/clips/\udce9.mp4", at=0, since_s=0)
    assert json.loads(factory().source_state(change).body)["data"]["reason"] == "/clips/?.mp4"


def test_ids_are_unique_and_ordered_over_threads_and_runs():
    makers = [EventFactory("box", run * 32, "0") for run in "ab"]
    made = {maker: [] for maker in makers}

    def work(maker):
        made[maker] += [maker.detection(result(0), LABELS, TAG) for _ in range(200)]

    threads = [threading.Thread(target=work, args=(maker,)) for maker in makers for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = {event.id for events in made.values() for event in events}
    assert len(ids) == 1200
    for events in made.values():
        assert sorted(int(event.id.split("-")[1]) for event in events) == list(range(1, 601))


@given(st.floats(0, 4e9))
def test_rfc3339_is_utc_with_microseconds_and_right(at):
    text = rfc3339(at)
    assert len(text) == 27
    assert text.endswith("Z")
    assert datetime.fromisoformat(text[:-1]).replace(tzinfo=timezone.utc).timestamp() == pytest.approx(at, abs=1e-6)


def test_the_sequence_is_added_to_the_body_as_its_last_attribute():
    body = factory().detection(result(0), LABELS, TAG).body
    event = json.loads(numbered(body, 7))
    assert list(event)[-1] == "sequence"
    assert event.pop("sequence") == "000000000007"
    assert event == json.loads(body)


def test_a_clock_that_is_not_to_be_trusted_is_told_in_the_event():
    assert "clock" not in json.loads(factory().heartbeat().body)
    assert json.loads(factory(distrust=lambda: "implausible").heartbeat().body)["clock"] == "implausible"


def test_a_gap_event_says_what_is_known_and_null_for_what_is_not():
    gap = Gap(reason="spool_full", count=3, first=5, last=9, types={"detection": 3}, since="2026-01-01T00:00:00.000000Z")
    event = factory(wall=lambda: 0.0).gap(gap)
    assert json.loads(event.body) == {
        "specversion": "1.0", "id": f"{RUN}-1", "source": "urn:vedette:jetson-1", "type": "gap",
        "time": "1970-01-01T00:00:00.000000Z", "datacontenttype": "application/json", "bootid": "b" * 32, "data": {
            "reason": "spool_full", "count": 3, "first": 5, "last": 9, "types": {"detection": 3},
            "since": "2026-01-01T00:00:00.000000Z", "until": None, "detail": ""}}
    assert factory().gap(gap, "earlier").id == "earlier"
