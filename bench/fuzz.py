"""What an attack on the status socket and on the page costs the loop: latency of its frames before and during it."""

import datetime as dt
import json
import os
import signal
import socket
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

_SETTLE_S = 6.0
_ASK_EVERY_S = 0.5


def run(quick: bool) -> list[Row]:
    """Measure and return the rows; quiet and attacked spans take turns in one run, so that drifts fall on both."""
    span_s, turns = (10.0, 2) if quick else (30.0, 4)
    with tempfile.TemporaryDirectory() as folder:
        config, port = Path(folder, "config.toml"), _free_port()
        config.write_text(f"""
[device]
state_dir = "{folder}/state"
runtime_dir = "{folder}"
[engine]
recipe = "centerface"
threads = 1
[source.clip]
url = "{carphone().as_uri()}?loop=1&pace=realtime"
[status]
listen = "127.0.0.1:{port}"
""", "utf-8")
        agent = subprocess.Popen([sys.executable, "-m", "agent", "run", "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            _wait_for_result(agent, Path(folder, "status.sock"), config)
            time.sleep(_SETTLE_S)
            spans: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            spent: dict[bool, list[float]] = {False: [], True: []}
            answers, made = [], 0
            for turn in range(2 * turns):
                began, cpu_s = time.time(), _cpu_s(agent.pid)
                if turn % 2:
                    asked, connections = _attacked(Path(folder, "status.sock"), port, span_s)
                    answers += asked
                    made += connections
                else:
                    time.sleep(span_s)
                spans[bool(turn % 2)].append((began, time.time()))
                spent[bool(turn % 2)].append((_cpu_s(agent.pid) - cpu_s) / (time.time() - began))
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


def _wait_for_result(agent: "subprocess.Popen[bytes]", path: Path, config: Path) -> None:
    while True:
        time.sleep(0.1)
        if agent.poll() is not None:
            raise AgentError(f"the agent ended with {agent.returncode}", f"run: vedette run -c {config}")
        try:
            if fetch(path).first_result_s is not None:
                return
        except AgentError:
            continue


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
