"""A real agent under measurement: its configuration, its first result, what it takes and how quickly it answers."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from agent.errors import AgentError
from agent.status import fetch

_AGAIN_S = 0.05


def write_config(folder: Path, rest: str, name: str = "config") -> Path:
    """Write the configuration of an agent with the demo's model, its state and socket in ``folder``."""
    config = folder / f"{name}.toml"
    config.write_text(f"""
[device]
state_dir = "{folder}/state"
runtime_dir = "{folder}"
[engine]
recipe = "centerface"
threads = 1
{rest}
""", "utf-8")
    return config


def wait_for_result(agent: "subprocess.Popen[bytes]", path: Path, config: Path) -> None:
    """Wait until a frame has gone all the way.

    Raises:
        AgentError: the agent has ended.
    """
    while True:
        time.sleep(_AGAIN_S)
        if agent.poll() is not None:
            raise AgentError(f"the agent ended with {agent.returncode}", f"run: vedette run -c {config}")
        try:
            if fetch(path).first_result_s is not None:
                return
        except AgentError:
            continue


def answer_s(path: Path) -> float:
    """Return the seconds that ``vedette status --json`` takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "agent", "status", "--json", "--socket", str(path)],
                   stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def cpu_s(pid: int) -> float:
    """Return the processor time a process has taken, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def closed_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return int(nobody.getsockname()[1])
