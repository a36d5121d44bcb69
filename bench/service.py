"""What the service costs, and how soon it is back: restart to READY, an idle camera's CPU, memory, a status answer.

systemd is played by a socket of ours; the agent is the real one, with the demo's model and clip.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import AgentError
from bench.media import carphone, receiving
from bench.row import Row
from bench.running import answer_s, closed_port, cpu_s, write_config
from bench.start import peak_mb

_RESTART_S = 0.5  # RestartSec= of systemd/vedette.service


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    times, idle_s = (2, 10.0) if quick else (5, 60.0)
    with tempfile.TemporaryDirectory() as folder, receiving(Path(folder, "up")) as upstream:
        clip = f'[source.clip]\nurl = "{carphone().as_uri()}?loop=1&pace=realtime"\n'
        config = write_config(Path(folder), clip + upstream)
        with _service(config, Path(folder)):
            pass  # the first start fetches and prepares; it is not measured
        restarts, answers, peaks = [], [], []
        for _ in range(times):
            began = time.monotonic()
            with _service(config, Path(folder)) as (agent, ready_at):
                restarts.append(ready_at - began)
                time.sleep(4)
                answers.append(answer_s(Path(folder, "status.sock")))
                peaks.append(peak_mb(agent.pid))
                agent.kill()
        dead = write_config(Path(folder), f'[source.door]\nurl = "rtsp://127.0.0.1:{closed_port()}/x"\n')
        unplugged = _idle(dead, Path(folder), idle_s)
        still = write_config(Path(folder), clip + '[budget]\nrate = "1fps"\n')
        slow = _idle(still, Path(folder), idle_s)
    return [
        Row(f"SIGKILL to READY, with systemd's {_RESTART_S} s before the start, s",
            statistics.median(restarts) + _RESTART_S, "<= 3"),
        Row("peak resident memory with the demo's model, delivering, MB", max(peaks), "<= 220"),
        Row("vedette status --json, s", statistics.median(answers), "<= 0.25"),
        Row("a camera that is not there: CPU, % of a core", unplugged, "<= 1"),
        Row("a camera at 29 fps of which one frame a second is looked at: CPU, % of a core", slow),
    ]


@contextmanager
def _service(config: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run the agent as systemd would; yield it and the monotonic time at which it said READY."""
    path = folder / "notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(path))
        heard.settimeout(5)
        (folder / "state/runs.json").unlink(missing_ok=True)  # its waiting after bad ends is not measured
        agent = subprocess.Popen([sys.executable, "-m", "agent", "run", "-c", str(config)], stderr=subprocess.DEVNULL,
                                 env={**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "30000000"})
        try:
            _wait_ready(heard, agent)
            yield agent, time.monotonic()
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()


def _wait_ready(heard: socket.socket, agent: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            if b"READY=1" in heard.recv(4096):
                return
        except TimeoutError:
            if agent.poll() is not None:
                raise AgentError(f"the agent ended with {agent.returncode}", "run the same by hand") from None


def _idle(config: Path, folder: Path, seconds: float) -> float:
    """Return the processor time the agent takes, percent of a core."""
    with _service(config, folder) as (agent, _):
        time.sleep(5)
        before, began = cpu_s(agent.pid), time.monotonic()
        time.sleep(seconds)
        return 100 * (cpu_s(agent.pid) - before) / (time.monotonic() - began)
