"""From nothing to the first detection, how much memory, and how quick a status answer is; child processes all.

They find their bytecode compiled, as deploy/install.sh and the .deb leave it; compiling the agent alone takes 0.1 s.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from agent.errors import AgentError
from agent.snapshot import Snapshot
from agent.status import fetch
from bench.media import bunny, carphone, receiving
from bench.row import Row
from bench.running import answer_s, wait_for_result, write_config


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    times = 3 if quick else 7
    with (tempfile.TemporaryDirectory() as folder,
          patch.dict(os.environ, PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=f"{folder}/bytecode"),
          receiving(Path(folder, "up")) as upstream):
        rows = [Row("interpreter start (python -c pass), s", _median(times, [sys.executable, "-c", "pass"]))]
        for size in (320, 640):
            config = write_config(Path(folder), f"""size = [{size}, {size}]
[source.clip]
url = "{carphone().as_uri()}?loop=1&pace=realtime"
[source.street]
url = "{bunny().as_uri()}?loop=1&pace=realtime"
{upstream}
""", str(size))
            _agent(config, Path(folder), 0.0)  # the first start fetches, prepares and compiles; it is not measured
            firsts, peaks, answers = [], [], []
            for _ in range(times):
                snapshot, peak, answer = _agent(config, Path(folder), 4.0)
                firsts.append(snapshot.first_result_s or 99.0)
                peaks.append(peak)
                answers.append(answer)
            rows += [
                Row(f"{size}: process start to first detection less interpreter start, s",
                    statistics.median(firsts) - rows[0].value, "<= 0.6"),
                Row(f"{size}: peak resident memory, a 720p source and delivery, MB", max(peaks), "<= 220"),
                Row(f"{size}: vedette status --json, s", statistics.median(answers), "<= 0.25"),
            ]
    return rows


def _agent(config: Path, folder: Path, seconds: float) -> tuple[Snapshot, float, float]:
    """Run the agent; return its snapshot, its peak memory (MB) and the time of one status command (s)."""
    agent = subprocess.Popen([sys.executable, "-m", "agent", "run", "-c", str(config)], stderr=subprocess.DEVNULL)
    socket = folder / "status.sock"
    try:
        wait_for_result(agent, socket, config)
        time.sleep(seconds)
        answer = answer_s(socket)
        return fetch(socket), peak_mb(agent.pid), answer
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait()


def peak_mb(pid: int) -> float:
    """Return the most resident memory a process ever had, MB."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AgentError(f"/proc/{pid}/status names no peak", f"is this Linux? ({os.uname().sysname})")


def _median(times: int, command: list[str]) -> float:
    spans = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, check=True)
        spans.append(time.perf_counter() - began)
    return statistics.median(spans)
