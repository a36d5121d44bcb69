"""The reference receiver of deploy/upstream: real nginx, real ClickHouse, the operator's own script and queries."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import load
from agent.report.events import rfc3339
from tests.helpers.agent import source, write_config
from tests.helpers.reference_upstream import SCRIPT, ReferenceUpstream, needs

pytestmark = pytest.mark.slow
TIME = "2026-09-21T14:13:20.008397Z"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    needs()
    with ReferenceUpstream(tmp_path_factory.mktemp("upstream")) as upstream:
        yield upstream


@pytest.fixture
def upstream(running):
    running.clear()
    return running


def event(number, box="box", **changes):
    """Return an event as the spool seals it: attributes in the wire's order, `sequence` last; None takes one out."""
    made = {"specversion": "1.0", "id": f"{box}-{number}", "source": f"urn:vedette:{box}", "type": "detection", "subject": "door",
            "time": TIME, "datacontenttype": "application/json", "bootid": "5e" * 16, "data": {"number": number},
            "sequence": f"{number:012d}"} | changes
    return {name: value for name, value in made.items() if value is not None}


def gap(number, box, reason, first, last, count):
    return event(number, box, type="gap", subject="", data={
        "reason": reason, "count": count, "first": first, "last": last, "types": {"detection": count or 0},
        "since": TIME, "until": None, "detail": ""})


def send(upstream, events, **more):
    answer = upstream.post(events, **more)
    assert answer.status_code == 200, answer.text


# --- what is stored ---


def test_every_event_is_kept_whole_and_its_columns_are_typed(upstream):
    data = {"text": 'a "quote", a \\ and }{ é \n\t', "list": [1.5, None, {"deep": []}]}
    send(upstream, [event(7, type="watermark.identified", subject="gate", data=data, clock="unsynchronised")])
    [row] = upstream.query("SELECT *, toTypeName(sequence) AS kind, now() - arrived AS age FROM vedette.events")
    assert json.loads(row.pop("data")) == data
    assert 0 <= row.pop("age") < 60
    assert row.pop("arrived")
    assert row == {"source": "urn:vedette:box", "subject": "gate", "type": "watermark.identified", "time": "2026-09-21 14:13:20",
                   "time_us": 1790000000008397, "sequence": 7, "id": "box-7", "bootid": "5e" * 16, "clock": "unsynchronised",
                   "kind": "UInt64"}


def test_names_inside_data_are_not_taken_for_the_envelopes(upstream):
    inner = {"id": "inner", "sequence": "99", "time": "never", "clock": "implausible", "source": "x", "data": {"id": "deeper"}}
    send(upstream, [event(1, data=inner), event(2, data=None), event(3, data="a string")])
    rows = upstream.query("SELECT id, sequence, clock, data FROM vedette.events ORDER BY sequence")
    assert [(row["id"], row["sequence"], row["clock"]) for row in rows] == [("box-1", 1, ""), ("box-2", 2, ""), ("box-3", 3, "")]
    assert json.loads(rows[0]["data"]) == inner
    assert [row["data"] for row in rows[1:]] == ["", '"a string"']


def test_a_batch_sent_twice_is_one(upstream):
    batch = [event(n, time=f"2026-{month:02}-28T23:59:59.999999Z") for n, month in enumerate((1, 2, 2, 12), 1)]
    send(upstream, batch)
    send(upstream, batch)
    assert upstream.raw_count() == 8
    assert upstream.ids() == ["box-1", "box-2", "box-3", "box-4"]


JSON = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(st.characters(codec="utf-8")) | st.text('\\",:{}[] ', max_size=8),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "sequence", "data", "a,", '"', "\\"]) | st.text(), inner))


@settings(max_examples=25, deadline=None)
@given(values=st.lists(JSON, min_size=1, max_size=20))
def test_any_data_comes_back_byte_for_byte(running, values):
    running.query("TRUNCATE TABLE vedette.events")
    send(running, [event(n, data=value, subject='do"or\\') | {"data": value} for n, value in enumerate(values, 1)])
    rows = running.query("SELECT data, sequence, subject FROM vedette.events ORDER BY sequence")
    assert [row["data"] for row in rows] == [json.dumps(value, separators=(",", ":"), ensure_ascii=False) for value in values]
    assert [row["sequence"] for row in rows] == list(range(1, len(values) + 1))
    assert {row["subject"] for row in rows} == {'do"or\\'}


@pytest.mark.parametrize("bad", [
    {"time": "yesterday"}, {"time": "2026-02-30T00:00:00.000000Z"}, {"time": "2026-01-01 00:00:00"}, {"time": None}, {"time": 5},
    {"sequence": "abc"}, {"sequence": "-1"}, {"sequence": ""}, {"sequence": None}, {"sequence": 12}, {"sequence": "000000000000"},
    {"id": None}, {"id": ""}, {"source": None}, {"type": None}, {"specversion": "0.3"}, {"specversion": None}], ids=str)
def test_a_malformed_event_fails_the_whole_batch(upstream, bad):
    answer = upstream.post([event(1), event(2), event(3) | bad if None not in bad.values() else event(3, **bad), event(4)])
    assert answer.status_code == 400
    assert "event refused: " in answer.text
    assert upstream.raw_count() == 0


@pytest.mark.parametrize("line", [b"", b"no json", b"[]", b"null", b'"text"', b'{"specversion":"1.0","id":"a', b"{}"], ids=repr)
def test_a_line_that_is_no_event_fails_the_whole_batch(upstream, line):
    answer = upstream.post([event(1), line, event(2)])
    assert (answer.status_code, upstream.raw_count()) == (400, 0)


def test_one_bad_event_among_a_thousand_names_itself_and_the_others_go_without_it(upstream):
    batch = [event(n, time="no time") if n == 567 else event(n) for n in range(1, 1001)]
    answer = upstream.post(batch)
    assert answer.status_code == 400
    assert "box-567" in answer.text
    send(upstream, batch[:566] + batch[567:])
    assert len(upstream.ids()) == 999


def test_a_heartbeat_needs_no_sequence_and_counts_nowhere(upstream):
    send(upstream, [event(1, type="heartbeat", sequence=None, id="beat"), event(1)])
    assert upstream.ids() == ["box-1"]
    assert [row["verdict"] for row in upstream.run("completeness")] == ["complete"]


def test_what_is_stored_survives_a_killed_database(upstream):
    send(upstream, [event(1)])
    upstream.kill("clickhouse")
    assert upstream.post([event(2)]).status_code == 502
    upstream.start()
    assert upstream.ids() == ["box-1"]


# --- the queries ---


@pytest.mark.parametrize(("events", "expected"), [
    ([event(n) for n in range(1, 11)], {"received": 10, "highest": 10, "missing": 0, "verdict": "complete"}),
    ([event(n) for n in (1, 2, 3, 7, 8, 10)], {"missing": 4, "declared": 0, "undeclared": 4, "holes": "4-6 9-9", "verdict": "LOST"}),
    ([event(n) for n in (3, 4)], {"missing": 2, "holes": "1-2", "verdict": "LOST"}),
    ([event(n) for n in (1, 2, 6)] + [gap(7, "box", "spool_full", 3, 5, 3)],
     {"missing": 3, "declared": 3, "undeclared": 0, "allowed": 3, "holes": "", "verdict": "declared"}),
    ([event(n) for n in (1, 2, 9)] + [gap(8, "box", "spool_full", 3, 5, 3)],
     {"missing": 5, "declared": 3, "undeclared": 2, "holes": "3-7", "verdict": "LOST"}),
    ([event(n) for n in (1, 2)] + [gap(8, "box", "spool_full", 3, 7, 2)],
     {"missing": 5, "declared": 5, "undeclared": 0, "allowed": 2, "verdict": "LOST"}),
    ([event(n) for n in (1, 4, 9)] + [gap(8, "box", "max_age", 2, 7, 5)],
     {"missing": 5, "declared": 5, "allowed": 5, "verdict": "declared"}),
    ([event(n) for n in (1, 9)] + [gap(8, "box", "spool_reset", 2, 7, None), gap(10, "box", "dead_letter", 3, 3, 1),
                                   gap(11, "box", "memory_full", None, None, 5), gap(12, "box", "max_age", 5, 7, 3)],
     {"missing": 6, "declared": 6, "undeclared": 0, "allowed": 10, "verdict": "declared"}),
    ([event(n) for n in (1, 2, 3)] + [event(1, id="new-1"), event(2, id="new-2")],
     {"missing": 0, "restarted": 2, "verdict": "RESTARTED"}),
], ids=["complete", "holes", "no beginning", "declared", "partly declared", "more than admitted", "some within came", "overlapping", "restarted"])
def test_completeness_from_sequence_alone(upstream, events, expected):
    send(upstream, events)
    send(upstream, [event(1, "other")])
    send(upstream, events)  # duplicates change nothing
    rows = {row["source"]: row for row in upstream.run("completeness")}
    assert {name: rows["urn:vedette:box"][name] for name in expected} == expected
    assert rows["urn:vedette:other"]["verdict"] == "complete"


def test_gaps_are_listed_with_what_is_known_of_them(upstream):
    send(upstream, [gap(8, "box", "spool_full", 3, 7, 2), gap(9, "box", "spool_reset", 1, 4, None), gap(10, "box", "unclean_stop", None, None, None)])
    rows = upstream.run("gaps")
    assert [(row["reason"], row["events"], row["first"], row["last"], row["at_most"], row["sequence"]) for row in rows] == [
        ("spool_full", 2, 3, 7, 0, 8), ("spool_reset", 0, 1, 4, 4, 9), ("unclean_stop", 0, 0, 0, 0, 10)]
    assert (rows[0]["types"], rows[0]["since"], rows[0]["until"]) == ('{"detection":2}', TIME, "")


def test_each_camera_by_the_hour(upstream):
    def seen(number, camera, at, objects, **more):
        boxes = [{"label": "person", "class_id": 0, "score": 0.5, "box": [1, 2, 3, 4]}] * objects
        return event(number, subject=camera, time=f"2026-09-21T{at}.000001Z", data={"detections": boxes}, **more)

    batch = [seen(1, "door", "14:00:00", 2), seen(2, "door", "14:59:59", 3), seen(3, "door", "15:00:00", 0),
             seen(4, "gate", "14:30:00", 1, clock="unsynchronised"), seen(5, "gate", "14:31:00", 0, type="source.state")]
    send(upstream, batch)
    send(upstream, batch)
    assert [tuple(row.values())[1:] for row in upstream.run("per_camera_per_hour")] == [
        ("door", "2026-09-21 14:00:00", 2, 5, 0, 0), ("door", "2026-09-21 15:00:00", 1, 0, 0, 0), ("gate", "2026-09-21 14:00:00", 1, 1, 1, 1)]


def test_boxes_behind_quiet_and_without_a_clock(upstream):
    now = time.time()
    send(upstream, [event(1, "fresh", time=rfc3339(now)), event(1, "behind", time=rfc3339(now - 7200)), event(2, "behind", time=rfc3339(now - 3600)),
                    event(1, "lost-clock", time="1970-01-01T00:00:09.000000Z", clock="implausible")])
    # A box that was last heard an hour ago: the arrival is the receiver's own, so it is put there by hand.
    upstream.query("INSERT INTO vedette.events (source, type, time, sequence, id, arrived) "
                   "SELECT 'urn:vedette:quiet', 'detection', now() - 3700, 1, 'q', now() - 3600")
    rows = {row["source"].removeprefix("urn:vedette:"): row for row in upstream.run("boxes")}
    assert {box: row["state"] for box, row in rows.items()} == {
        "fresh": "ok", "behind": "catching up", "lost-clock": "bad clock", "quiet": "quiet"}
    assert 3600 <= rows["behind"]["unsent_at_most_s"] < 3700
    assert rows["behind"]["worst_delay_s"] >= 7200
    assert rows["lost-clock"]["unsent_at_most_s"] is None
    assert rows["quiet"]["quiet_s"] >= 3600
    assert rows["quiet"]["last_delay_s"] == 100


def test_duplicates_are_counted_and_a_changed_one_is_found(upstream):
    batch = [event(n) for n in range(1, 6)]
    for _ in range(3):
        send(upstream, batch)
    send(upstream, [event(1, "liar"), event(1, "liar", data={"number": 2})])
    assert [tuple(row.values()) for row in upstream.run("duplicates")] == [
        ("urn:vedette:box", 15, 5, 10, 0), ("urn:vedette:liar", 2, 1, 1, 1)]


# --- the door ---


def test_only_our_boxes_come_in(upstream):
    for shown in (None, upstream.issue_client(expired=True), upstream.issue_client(foreign=True)):
        answer = upstream.post([event(1)], cert=shown)
        assert (answer.status_code, answer.headers["Server"]) == (400, "nginx")
    assert upstream.raw_count() == 0
    assert upstream.post([event(1)], cert=upstream.issue_client("box-777", days=1)).status_code == 200


def test_nothing_older_than_tls_1_2(upstream):
    context = ssl.create_default_context(cafile=str(upstream.ca_file))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", upstream.settings["port"])) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_client_cannot_send_a_statement_of_its_own(upstream):
    send(upstream, [event(1)])
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(upstream.ca_file)
        session.cert = (str(upstream.client_cert), str(upstream.client_key))
        attempts = [session.post(f"{upstream.url}?query=TRUNCATE+TABLE+vedette.events", data=b"", headers={"Content-Type": "application/x-ndjson"}),
                    session.post(upstream.url.replace("/v1/events", "/?query=TRUNCATE+TABLE+vedette.events")), session.get(upstream.url)]
    assert [answer.status_code for answer in attempts] == [200, 404, 405]
    assert upstream.ids() == ["box-1"]


def test_what_clickhouse_could_not_read_is_refused_at_the_door(upstream):
    assert upstream.post([event(1)], Content_Type="application/json").status_code == 415
    assert upstream.post([event(1)], Content_Encoding="zstd").status_code == 415
    assert upstream.raw_count() == 0


# --- the faults ---


@pytest.mark.parametrize(("fault", "status", "retry_after"), [
    ({"mode": "502"}, 502, None), ({"mode": "429"}, 429, None), ({"mode": "429", "retry_after": 7}, 429, "7"),
    ({"mode": "503", "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 503, "Wed, 21 Oct 2026 07:28:00 GMT"), ({"mode": "403"}, 403, None)], ids=str)
def test_a_fault_is_what_the_client_sees_until_it_is_over(upstream, fault, status, retry_after):
    upstream.nginx(**fault)
    answer = upstream.post([event(1)])
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry_after)
    assert upstream.raw_count() == 0
    upstream.nginx("normal")
    send(upstream, [event(1)])


def test_413_is_for_large_bodies_only(upstream):
    upstream.nginx("413", max_body="1k")
    assert upstream.post([event(n, data=os.urandom(200).hex()) for n in range(1, 100)]).status_code == 413
    send(upstream, [event(1)])


def test_the_limit_of_one_box_does_not_touch_another(upstream):
    upstream.nginx("limit", rate="1r/m")
    assert [upstream.post([event(n)]).status_code for n in range(1, 5)].count(429) >= 2
    assert upstream.post([event(1, "two")], cert=upstream.issue_client("box-002")).status_code == 200


def test_a_request_cut_in_its_body_stores_nothing(upstream):
    upstream.nginx("cut")
    with pytest.raises(requests.ConnectionError):
        upstream.post([event(n, data=os.urandom(500).hex()) for n in range(1, 100)])
    assert upstream.raw_count() == 0


def test_a_cut_answer_leaves_a_batch_that_is_stored(upstream):
    upstream.nginx("cut", where="answer")
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            upstream.post([event(1), event(2)])
    assert (upstream.raw_count(), upstream.ids()) == (4, ["box-1", "box-2"])


def test_a_slow_line_makes_the_client_wait(upstream):
    upstream.nginx("slow", bytes_per_s=100)
    with pytest.raises(requests.Timeout):
        upstream.post([event(n, data=os.urandom(500).hex()) for n in range(1, 50)], timeout=0.5)
    assert upstream.raw_count() == 0


def test_nginx_gone_and_back_on_the_same_port(upstream):
    upstream.kill()
    with pytest.raises(requests.ConnectionError):
        upstream.post([event(1)])
    before = upstream.url
    upstream.start()
    assert upstream.url == before
    send(upstream, [event(1)])


def test_vedette_takes_the_printed_section(upstream, tmp_path):
    config = load(write_config(tmp_path, source("door", "rtsp://127.0.0.1/"), upstream.upstream_section(batch_events=7)))
    assert (config.upstream.url, config.upstream.format, config.upstream.batch_events) == (upstream.url, "ndjson", 7)
    assert config.upstream.ca_file == str(upstream.ca_file)


# --- the script ---


def script(*arguments, **env):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=100, env=os.environ | env)


def test_up_again_changes_nothing_and_down_keeps_the_data(tmp_path):
    needs()
    folder = tmp_path / "receiver"
    with ReferenceUpstream(folder) as upstream:
        send(upstream, [event(1)])
        files = [folder / "tls/ca.pem", folder / "tls/server.pem", folder / "tls/box-001.pem", folder / "settings.json", folder / "run/clickhouse.pid"]
        before = [path.read_bytes() for path in files]
        again = script(folder, "--client", "box-017")
        assert again.returncode == 0, again.stderr
        assert upstream.url in again.stdout
        assert "box-017.pem" in again.stdout
        assert [path.read_bytes() for path in files] == before
        assert (script(folder, "--status").returncode, "1 ids" in script(folder, "--status").stdout) == (0, True)
        assert script(folder, "--down").returncode == 0
        down = script(folder, "--status")
        assert (down.returncode, down.stdout) == (1, "nginx: not running\nclickhouse: not running\n")
        assert script(folder, "--down").returncode == 0
        assert script(folder).returncode == 0
        assert upstream.ids() == ["box-1"]


def test_private_keys_are_for_the_owner_only(upstream):
    keys = list((upstream.folder / "tls").glob("*.key"))
    assert keys
    assert {path.stat().st_mode & 0o077 for path in keys} == {0}


def test_errors_say_what_to_do(upstream, tmp_path):
    cases = [
        (script(tmp_path / "a", PATH="/nonexistent"), "openssl is not installed; as root:  apt-get install openssl"),
        (script(tmp_path / "b", "--clickhouse-port", str(upstream.settings["clickhouse_port"])), "choose another with --clickhouse-port"),
        (script(tmp_path / "c", "--clickhouse-port", "0", "--port", str(upstream.settings["port"])), "choose another with --port"),
        (script(tmp_path / "d", "--status"), "holds no receiver; bring one up with"),
        (script(tmp_path / "e", "--client", "../x"), "a client's name is letters"),
        (script(tmp_path / "f", "--rate", "fast", "--clickhouse-port", "0", "--port", "0"), "invalid rate"),
    ]
    try:
        assert [(done.returncode, words in done.stderr, done.stderr.count("Traceback")) for done, words in cases] == [(1, True, 0)] * len(cases), \
            [done.stderr for done, _ in cases]
    finally:
        for folder in tmp_path.iterdir():  # ClickHouse may have started before nginx could not
            upstream.script.stop(folder, "clickhouse")
