"""Nothing is lost without a word: the real agent against nginx and ClickHouse, under every fault an upstream, a disk, a
clock and a power switch have. The oracle is what ClickHouse holds, compared with what the box had committed.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from agent.report import sealing
from tests.helpers import fault_table
from tests.helpers.agent import Agent, source, write_config
from tests.helpers.events import event
from tests.helpers.reference_upstream import ReferenceUpstream, needs
from tests.helpers.wall_clock import WallClock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
MODEL = '[engine]\nthreads = 1\n[budget]\nrate = "20fps"\n'


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    needs()
    with ReferenceUpstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@pytest.fixture
def upstream(servers):
    servers.clear()
    servers.query("SYSTEM STOP MERGES")  # so that what comes twice can be counted
    yield servers
    servers.clear()
    servers.query("SYSTEM START MERGES")


@pytest.fixture
def box(tmp_path, fresh_state, carphone, upstream):
    return Box(tmp_path, fresh_state, carphone, upstream)


class Box:
    """One box with a camera that sees faces all the time."""

    def __init__(self, folder: Path, state: Path, clip: Path, upstream: ReferenceUpstream) -> None:
        self.folder, self.state, self.upstream = folder, state, upstream
        # A name of its own: what an earlier test wrote and dropped, a killed ClickHouse may have again.
        self.name = f"box-{uuid.uuid4().hex[:12]}"
        self.source = f"urn:vedette:{self.name}"
        self.clip = source("car", f"{clip.as_uri()}?loop=1")
        self.spool = state / "spool.sqlite"
        self.ledger: set[str] = set()

    def config(self, *parts: str, **upstream: object) -> Path:
        own = f'[device]\nid = "{self.name}"\n'
        return write_config(self.folder, own, self.clip, MODEL, self.upstream.upstream_section(**upstream), *parts, state=self.state)

    def agent(self, *parts: str, env: dict | None = None, prefix=(), **upstream: object) -> Agent:
        return Agent(self.config(*parts, **upstream), env, prefix)

    def note_what_is_committed(self) -> int:
        """Read the file of an agent that does not run; return the highest sequence."""
        with closing(sqlite3.connect(self.spool)) as db:
            bodies = [row[0] for row in db.execute("SELECT body FROM event UNION ALL SELECT body FROM dead")]
            for body, kind, encoding in db.execute("SELECT body, content_type, encoding FROM batch"):
                bodies += sealing.decode(body, kind, encoding)
            self.ledger |= {sealing.head(body).id for body in bodies}
            return db.execute("SELECT seq FROM sqlite_sequence").fetchone()[0]

    def prove(self, fault: str, injected: str, how_often: str, duplicates: bool = False) -> list[dict]:
        """All that was committed is at the upstream or declared; return the declared gaps.

        The agent has stopped and delivered all: its last sequence says how many events it ever committed.
        """
        last = self.note_what_is_committed()
        where = f"WHERE source = '{self.source}' AND type != 'heartbeat'"
        rows = self.upstream.query(f"SELECT count() AS n FROM vedette.events {where}")[0]["n"]
        for statement in ("SYSTEM START MERGES", "OPTIMIZE TABLE vedette.events"):
            self.upstream.query(statement)
        stored = self.upstream.query(f"SELECT id, sequence, type, data FROM vedette.events FINAL {where} ORDER BY sequence")
        numbers = [row["sequence"] for row in stored]
        assert len(set(numbers)) == len(numbers), "a sequence came with two ids"
        gaps = [json.loads(row["data"]) for row in stored if row["type"] == "gap"]
        missing = set(range(1, last + 1)) - set(numbers)
        lost = {number for number in missing if not any(gap["first"] <= number <= gap["last"] for gap in gaps if gap["first"])}
        declared = sum(gap["count"] for gap in gaps if gap["count"] and gap["first"])
        twice = rows - len(stored)
        fault_table.ROWS.append(fault_table.Row(fault, injected, how_often, last, len(lost), twice, declared))
        assert not lost, f"neither stored nor declared: {sorted(lost)[:20]}"
        assert len(missing) <= declared
        assert len(self.ledger - {row["id"] for row in stored}) <= declared
        assert duplicates or twice == 0, f"{twice} came twice"
        assert last > 50, "hardly anything was reported, so hardly anything is proven"
        assert [row["verdict"] for row in self.upstream.run("completeness") if row["source"] == self.source] == [
            "declared" if missing else "complete"], "the receiver alone says it too"
        return gaps


def delivers(snapshot) -> bool:
    return snapshot.upstream.state in {"sending", "idle"} and snapshot.upstream.delivered_events > 20


def stopped_well(agent: Agent) -> None:
    assert agent.stop() == 0, agent.said()
    assert agent.last().spool.depth == 0


def through(box: Box, trouble, *, seconds: float = 4.0, state: str = "retrying", **upstream: object) -> Agent:
    """Run: well, in trouble for some seconds, well again, to a good end."""
    with box.agent(**upstream) as agent:
        agent.until(delivers, what="delivers before the fault")
        trouble()
        seen = agent.until(lambda s: s.upstream.state == state, what=f"{state} in the fault")
        time.sleep(seconds)
        agent.saw = seen.upstream.reason
        before = agent.snapshot().upstream.delivered_events
        box.upstream.nginx("normal")
        agent.until(lambda s: delivers(s) and s.upstream.delivered_events > before + 20, what="delivers after the fault")
        stopped_well(agent)
    return agent


@pytest.mark.parametrize(("mode", "options", "reason"), [
    ("502", {}, "502"), ("429", {}, "429"), ("429", {"retry_after": 2}, "429"), ("503", {"retry_after": "date"}, "503")])
def test_a_receiver_that_is_down_or_busy(box, mode, options, reason):
    if options.get("retry_after") == "date":
        options = {"retry_after": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 4))}
    agent = through(box, lambda: box.upstream.nginx(mode, **options))
    assert reason in agent.saw
    after = f", Retry-After: {options['retry_after']}" if options else ""
    assert not box.prove(f"HTTP {mode}{after}", "nginx, by reload", "4 s, once")


def test_the_receivers_real_limit_of_requests(box):
    through(box, lambda: box.upstream.nginx("limit", rate="1r/s"), seconds=6)
    assert not box.prove("HTTP 429", "nginx limit_req 1r/s", "6 s, once")


def test_bodies_that_are_too_large_are_halved_until_they_fit(box):
    with box.agent(batch_interval="3s") as agent:
        agent.until(delivers)
        box.upstream.nginx("413", max_body="1k")
        time.sleep(4)
        before = agent.snapshot().upstream.delivered_events
        agent.until(lambda s: s.upstream.delivered_events > before + 20, what="goes on in smaller pieces")
        box.upstream.nginx("normal")
        stopped_well(agent)
        assert agent.last().spool.dead == 0
    assert not box.prove("HTTP 413", "nginx client_max_body_size 1k", "until the end")


@pytest.mark.parametrize("where", ["request", "answer"])
def test_a_connection_cut_in_the_middle(box, where):
    through(box, lambda: box.upstream.nginx("cut", where=where))
    cut = f"connection cut in the {where}"
    assert not box.prove(cut, "TCP reset after 4000 B" if where == "request" else "nginx hangs up",
                         "every request, 4 s", duplicates=where == "answer")
    assert (fault_table.ROWS[-1].duplicated > 0) == (where == "answer"), "stored again, as nobody heard that it was"


def test_a_receiver_killed_and_started_again(box):
    with box.agent() as agent:
        for _ in range(3):
            agent.until(delivers)
            box.upstream.kill("nginx")
            agent.until(lambda s: s.upstream.state == "retrying")
            time.sleep(1)
            box.upstream.start()
            agent.until(delivers)
        box.upstream.kill("clickhouse")
        agent.until(lambda s: s.upstream.state == "retrying" and "50" in s.upstream.reason)
        box.upstream.start()
        agent.until(delivers)
        stopped_well(agent)
    assert not box.prove("receiver killed", "SIGKILL nginx 3 times, ClickHouse once", "4 times", duplicates=True)


def test_an_expired_client_certificate_buries_nothing_and_a_new_one_is_taken_up(box):
    certificate, key = box.upstream.issue_client(expired=True)
    live = box.folder / "client.pem", box.folder / "client.key"
    for new, place in zip((certificate, key), live, strict=True):
        place.write_bytes(new.read_bytes())
    with box.agent(client_cert=live[0], client_key=f"file:{live[1]}") as agent:
        held = agent.until(lambda s: s.upstream.state == "holding" and s.spool.depth > 100, what="holds")
        assert "400" in held.upstream.reason
        assert held.spool.dead == 0
        assert held.upstream.certificate_expires_in_s < 0
        assert any("certificate" in problem for problem in held.problems)
        for new, place in zip(box.upstream.issue_client(), live, strict=True):  # rotated in place, no restart
            place.write_bytes(new.read_bytes())
        agent.until(lambda s: delivers(s) and s.spool.depth < 100, what="takes the new certificate")
        assert agent.snapshot().upstream.certificate_expires_in_s > 86400
        stopped_well(agent)
        assert agent.last().spool.dead == 0
    assert not box.prove("expired client certificate", "nginx answers 400", "until rotated")


def test_certificates_rotated_while_delivering(box):
    live = box.folder / "client.pem", box.folder / "client.key"

    def rotate() -> None:
        for new, place in zip(box.upstream.issue_client(), live, strict=True):
            place.write_bytes(new.read_bytes())

    rotate()
    with box.agent(client_cert=live[0], client_key=f"file:{live[1]}") as agent:
        for _ in range(5):
            before = agent.until(delivers).upstream.delivered_events
            rotate()
            agent.until(lambda s, before=before: s.upstream.delivered_events > before + 20)
        stopped_well(agent)
    assert not box.prove("client certificate rotated", "files overwritten", "5 times")


def test_names_that_cannot_be_resolved(box, tmp_path):
    """In a mount namespace of its own the agent sees a hosts file of ours, and no name server."""
    if os.geteuid():
        pytest.skip("needs root: a private /etc/hosts")
    hosts, resolv = tmp_path / "hosts", tmp_path / "resolv"
    hosts.write_text("127.0.0.1 localhost\n")
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    enter = tmp_path / "enter"
    enter.write_text(f'#!/bin/sh\nmount --bind {hosts} /etc/hosts && mount --bind {resolv} /etc/resolv.conf && exec "$@"\n')
    enter.chmod(0o755)
    with box.agent(url=box.upstream.url.replace("127.0.0.1", "localhost"), prefix=["unshare", "-m", enter]) as agent:
        agent.until(delivers)
        hosts.write_text("")
        box.upstream.nginx("normal")  # its reload ends the connection: the next one needs the name
        gone = agent.until(lambda s: s.upstream.state == "retrying" and s.spool.depth > 40, what="DNS is gone")
        hosts.write_text("127.0.0.1 localhost\n")
        agent.until(lambda s: delivers(s) and s.spool.depth < 40)
        stopped_well(agent)
    assert "name" in gone.upstream.reason
    assert not box.prove("DNS gone", "private /etc/hosts emptied", "once")


FAST = """
import sys, threading, time
from dataclasses import replace
from pathlib import Path
from agent import assembly
from agent.clock import RecentTrust
from agent.config import load
from agent.meters import Heartbeat
from agent.report import store, upstream
from tests.helpers.events import event
factor = 60
began = time.monotonic(), time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
def fast(n, clock):
    return lambda: began[n] + (clock() - began[n]) * factor
up, wall = fast(0, time.monotonic), fast(1, time.time)
def clocks():
    return real()._replace(boottime=fast(2, lambda: time.clock_gettime(time.CLOCK_BOOTTIME)), wall=wall)
real, store.box_clocks = store.box_clocks, clocks
import agent.report.spool as module
module.box_clocks = clocks
class Uploader(upstream.Uploader):
    def __init__(self, *a, **k):
        super().__init__(*a, **k, clock=up, wall=wall)
assembly.Uploader = Uploader
config = load(Path(sys.argv[1]))
events = assembly.event_factory(config, "fast", RecentTrust())
stop = threading.Event()
with assembly.spool(config, config.state_dir, events, Heartbeat("spool", 60)) as spool:
    uploader = assembly.uploader(config.upstream, spool, stop, Heartbeat("up", 600), canary=lambda: events.heartbeat().body)
    thread = threading.Thread(target=uploader.run)
    thread.start()
    number = 0
    def append():
        global number
        while not stop.wait(0.02):
            made = events.heartbeat()
            spool.append(replace(made, type="source.state", subject="door", body=made.body.replace(b'"heartbeat"', b'"source.state"')))
            number += 1
    appending = threading.Thread(target=append)
    appending.start()
    for line in sys.stdin:
        status = uploader.status()
        print(status.state, int(up() - began[0]), spool.depth, status.attempts, int(status.since_s), flush=True)
    stop.set()
    appending.join()
    thread.join()
    assert spool.flush(20)
    assert uploader.drain(600), uploader.status()
"""


def test_ten_minutes_offline(box):
    """The real spool and the real uploader by clocks that run 60 times as fast: what they wait for comes 60 times as soon."""
    config = box.config('[upstream]\nretry_max = "60s"\nretry_min = "1s"\n')
    with subprocess.Popen([sys.executable, "-c", FAST, str(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        def ask() -> tuple[str, int, int, int, int]:
            child.stdin.write("?\n")
            child.stdin.flush()
            state, *numbers = child.stdout.readline().split()
            return (state, *map(int, numbers))

        time.sleep(2)
        assert ask()[0] in {"sending", "idle"}
        box.upstream.kill("nginx")
        time.sleep(2)
        before = ask()
        time.sleep(10)
        state, _, depth, attempts, _ = ask()
        assert (state, depth > 300) == ("retrying", True)
        # Full jitter up to 60 s: some ten to fifty tries in ten minutes, neither a flood nor a single one.
        assert 5 <= attempts - before[3] <= 60
        box.upstream.start()
        child.stdin.close()
        assert child.wait(60) == 0
    assert not box.prove("10 minutes offline", "nginx killed, clocks 60 times as fast", "once")


def test_the_clock_set_forward_and_back(box, tmp_path):
    """Ten years on, and 56 years back: no event ages by it, and what TLS then refuses is held and goes on afterwards."""
    clock = WallClock(tmp_path)
    with box.agent('[spool]\nmax_age = "1h"\n', env=clock.env) as agent:
        agent.until(delivers)
        for days in (3650, -20600):
            clock.set(days)
            box.upstream.nginx("normal")  # its reload ends the connection, so that TLS must judge again
            held = agent.until(lambda s: s.upstream.state == "holding" and s.spool.depth > 60, what=f"held at {days} days")
            assert "certificate" in held.upstream.reason
            if days < 0:
                told = agent.until(lambda s: s.upstream.clock == "implausible", what="says that its clock is wrong")
                assert any("clock" in problem for problem in told.problems)
            clock.set(0)
            agent.until(lambda s: delivers(s) and s.spool.depth < 40, what="delivers again", timeout_s=40)
        stopped_well(agent)
        assert agent.last().spool.dead == 0
        assert not agent.last().spool.lost
    assert not box.prove("clock set forward and back", "+10 years, -56 years", "2 times")
    told = box.upstream.query("SELECT DISTINCT clock FROM vedette.events WHERE time < '1975-01-01 00:00:00'")
    assert "implausible" in {row["clock"] for row in told}
    assert "" not in {row["clock"] for row in told}


def test_the_disk_full_and_freed(box):
    if os.geteuid():
        pytest.skip("needs root: mounting a small tmpfs to fill it up")
    disk = box.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    try:
        for name in ("models", "engines"):
            (disk / name).symlink_to(box.state / name)
        box.state = disk
        box.spool = disk / "spool.sqlite"
        with box.agent() as agent:
            agent.until(delivers)
            for _ in range(2):
                agent.until(lambda _: (disk / "spool.sqlite.ballast").exists())
                with (disk / "others").open("ab", buffering=0) as others:
                    for size in (1 << 20, 4096):
                        try:
                            while True:
                                others.write(b"x" * size)
                        except OSError:
                            continue
                box.upstream.nginx("502")
                agent.until(lambda s: s.spool.disk_full and s.spool.depth > 60, what="takes events on a full disk", timeout_s=60)
                box.upstream.nginx("normal")
                agent.until(lambda s: s.spool.disk_full and s.spool.depth < 20, what="delivers from a full disk")
                (disk / "others").unlink()
                agent.until(lambda s: not s.spool.disk_full, what="has room again")
            stopped_well(agent)
        box.prove("disk full", "tmpfs of 24 MiB filled to 0 blocks", "2 times")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_killed_every_one_to_three_seconds_for_a_minute(box):
    chance = random.Random(3)
    until, kills = time.monotonic() + 60, 0
    while time.monotonic() < until:
        with box.agent() as agent:
            time.sleep(chance.uniform(1, 3))
            agent.stop(signal.SIGKILL)
        kills += 1
        if box.spool.exists():
            box.note_what_is_committed()
    with box.agent() as agent:
        agent.until(delivers)
        stopped_well(agent)
    gaps = box.prove("agent killed", "SIGKILL every 1 to 3 s", f"{kills} times in 60 s", duplicates=True)
    assert {gap["reason"] for gap in gaps} == {"unclean_stop"}, "each says that what was not yet committed is gone"


def test_a_second_agent_on_the_same_state_directory_is_refused(box):
    with box.agent() as agent:
        agent.until(delivers)
        again = subprocess.run([sys.executable, "-m", "agent", "run", "-c", str(agent.config)], capture_output=True, text=True,
                               check=False, timeout=30)
        assert again.returncode not in {0, 1}
        assert f"in use by process {agent.process.pid}" in again.stderr
        before = agent.snapshot().upstream.delivered_events
        agent.until(lambda s: s.upstream.delivered_events > before + 40)
        stopped_well(agent)
    assert not box.prove("two agents, one state directory", "a second `vedette run`", "once")


PRODUCER = """
import sys, threading
from pathlib import Path
from agent import assembly
from agent.config import load
from agent.meters import Heartbeat
from agent.clock import RecentTrust
from tests.helpers.events import event
config = load(Path(sys.argv[1]))
events = assembly.event_factory(config, "run", RecentTrust())
stop = threading.Event()
with assembly.spool(config, config.state_dir, events, Heartbeat("spool", 60)) as spool:
    uploader = assembly.uploader(config.upstream, spool, stop, Heartbeat("up", 600), canary=lambda: events.heartbeat().body)
    for line in sys.stdin.buffer:
        from agent.records import Event
        name, kind, body = line.rstrip(b"\\n").split(b"\\t", 2)
        spool.append(Event(id=name.decode(), type=kind.decode(), subject="door", body=body))
    assert spool.flush(20)
    assert uploader.drain(120), uploader.status()
    print(spool.stats().dead, uploader.status().canaries)
"""


@pytest.mark.parametrize("place", [0, 333, 999])
def test_one_poison_event_among_a_thousand(box, place):
    """ClickHouse refuses a batch whole for one event without a good time: only that one must end as a dead letter."""
    lines = []
    for number in range(1000):
        made = event(number, run="many")
        body = json.loads(made.body) | {"source": box.source, "bootid": "b" * 32,
                                        "time": "2026-01-01T00:00:00.000000Z" if number != place else "half past nine"}
        lines.append(b"\t".join((made.id.encode(), b"detection", json.dumps(body, separators=(",", ":")).encode())))
        if number != place:
            box.ledger.add(made.id)
    done = subprocess.run([sys.executable, "-c", PRODUCER, str(box.config(batch_events=1000))], input=b"\n".join(lines) + b"\n",
                          capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    dead, canaries = map(int, done.stdout.split())
    assert (dead, canaries >= 2) == (1, True)
    with closing(sqlite3.connect(box.spool)) as db:
        ((name, why),) = db.execute("SELECT id, why FROM dead")
    assert name == f"many-{place}"
    assert "400" in why
    assert 'time "half past nine" is no RFC 3339 time' in why, "in the receiver's own words"
    assert box.ledger <= set(box.upstream.ids())
    (gap,) = box.prove("one poison event of 1,000", "a time that is none", f"no. {place + 1}")
    assert (gap["reason"], gap["first"], gap["count"]) == ("dead_letter", place + 1, 1)


def test_the_oracle_can_fail(box):
    """An event taken out of the spool behind everyone's back is found by the sequence alone."""
    with box.agent(url="https://127.0.0.1:1/v1/events") as agent:
        agent.until(lambda s: s.spool.depth > 60)
        agent.stop(signal.SIGKILL)
    with closing(sqlite3.connect(box.spool)) as db:
        (victim,) = db.execute("SELECT seq FROM event ORDER BY seq LIMIT 1 OFFSET 40").fetchone()
        db.execute("DELETE FROM event WHERE seq = ?", (victim,))
        db.commit()
    with box.agent() as agent:
        agent.until(delivers)
        stopped_well(agent)
    rows = len(fault_table.ROWS)
    with pytest.raises(AssertionError, match=rf"neither stored nor declared: \[{victim}\]"):
        box.prove("none", "none", "none")
    del fault_table.ROWS[rows:]
