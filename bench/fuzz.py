"""What an attack on the status socket and on the page costs the loop: latency of its frames before and during it."""

import datetime as dt
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.errors import AgentError
from agent.status import fetch
from bench.media import carphone
from bench.row import Row
from bench.running import closed_port, cpu_s, wait_for_result, write_config

_SETTLE_S = 6.0
_ASK_EVERY_S = 0.5


def run(quick: bool) -> list[Row]:
    """Measure and return the rows; quiet and attacked spans take turns in one run, so that drifts fall on both."""
    span_s, turns = (10.0, 2) if quick else (30.0, 4)
    with tempfile.TemporaryDirectory() as folder:
        port = closed_port()
        config = write_config(Path(folder), f"""
[source.clip]
url = "{carphone().as_uri()}?loop=1&pace=realtime"
[status]
listen = "127.0.0.1:{port}"
""")
        agent = subprocess.Popen([sys.executable, "-m", "agent", "run", "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            wait_for_result(agent, Path(folder, "status.sock"), config)
            time.sleep(_SETTLE_S)
            spans: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            spent: dict[bool, list[float]] = {False: [], True: []}
            answers, made = [], 0
            for turn in range(2 * turns):
                began, spent_s = time.time(), cpu_s(agent.pid)
                if turn % 2:
                    asked, connections = _attacked(Path(folder, "status.sock"), port, span_s)
                    answers += asked
                    made += connections
                else:
                    time.sleep(span_s)
                spans[bool(turn % 2)].append((began, time.time()))
                spent[bool(turn % 2)].append((cpu_s(agent.pid) - spent_s) / (time.time() - began))
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()
        return [Row("connections tried, /s, up to 1,000 held", made / span_s / turns),
                *_rows(_latencies(config), spans, answers),
                Row("processor time the attack costs the agent, share of a core",
                    statistics.median(spent[True]) - statistics.median(spent[False]), "<= 0.10")]


def _rows(latencies: list[tuple[float, float]], spans: dict[bool, list[tuple[float, float]]], answers: list[float]
          ) -> list[Row]:
    quiet, attacked = ([ms for at, ms in latencies if any(a <= at < b for a, b in spans[kind])]
                       for kind in (False, True))
    p99 = [sorted(values)[int(len(values) * 0.99)] for values in (quiet, attacked)]
    rate = [len(values) / sum(b - a for a, b in spans[kind]) for kind, values in ((False, quiet), (True, attacked))]
    return [
        Row("latency p99 when quiet, ms", p99[0]), Row("latency p99 under attack, ms", p99[1]),
        Row("latency p99, attacked : quiet", p99[1] / p99[0], "<= 1.10"),
        Row("latency p50, attacked : quiet", statistics.median(attacked) / statistics.median(quiet), "<= 1.10"),
        Row("frames looked at, attacked : quiet", rate[1] / rate[0], ">= 0.98"),
        Row("questions answered under attack, share", sum(a < 99 for a in answers) / len(answers), ">= 0.99"),
        Row("a question under attack, longest, s", max(answers), "<= 2"),
    ]


def _attacked(path: Path, port: int, span_s: float) -> tuple[list[float], int]:
    """Attack for ``span_s`` while one who may ask does; return the seconds his answers took, and the connections."""
    command = [sys.executable, "-m", "bench.attack", str(span_s), str(path), "127.0.0.1", str(port)]
    answers = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attack:
        until = time.monotonic() + span_s
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                fetch(path)
                answers.append(time.monotonic() - began)
            except AgentError:
                answers.append(99.0)
            time.sleep(_ASK_EVERY_S)
        made, _ = attack.communicate()
    return answers, int(made)


def _latencies(config: Path) -> list[tuple[float, float]]:
    """Return (time of capture, milliseconds to its detections) of every frame with a detection, from the spool."""
    out = config.parent / "events.ndjson"
    subprocess.run([sys.executable, "-m", "agent", "spool", "export", "-c", str(config), "-o", str(out)], check=True,
                   stdout=subprocess.DEVNULL)
    events = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    return [(_timestamp(event["time"]), event["data"]["frame"]["age_ms"])
            for event in events if event["type"] == "detection"]


def _timestamp(written: str) -> float:
    return dt.datetime.fromisoformat(written.replace("Z", "+00:00")).timestamp()
