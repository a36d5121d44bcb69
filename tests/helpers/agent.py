"""The real agent as a child process, asked through its real status socket."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.cli.receiver import make_certificates
from agent.errors import AgentError
from agent.snapshot import LAST_STATUS, Snapshot
from agent.status import fetch

BASE = """
[device]
id = "test-box"
state_dir = "{state}"
runtime_dir = "{runtime}"
[engine]
recipe = "centerface"
threads = 1
[upstream]
batch_interval = "100ms"
retry_min = "100ms"
retry_max = "1s"
"""


def write_config(folder: Path, *parts: str, state: Path | None = None) -> Path:
    """Write config.toml into folder: the base, and `[section]` blocks whose keys win over the base's."""
    (folder / "conf.d").mkdir(parents=True, exist_ok=True)
    # A socket's path may have 107 bytes; pytest's folders are longer.
    runtime = tempfile.mkdtemp(prefix="vt-")
    (folder / "config.toml").write_text(BASE.format(state=state or folder / "state", runtime=runtime))
    for number, part in enumerate(parts):
        (folder / f"conf.d/{number:02}.toml").write_text(part)
    return folder / "config.toml"


def write_recipe(folder: Path, name: str, model: str, *, sha256: str = "", classes: str = '"a", "b"') -> str:
    """Write folder/recipes/NAME/recipe.toml for a small model; return the `[engine]` section that uses it."""
    place = folder / "recipes" / name
    place.mkdir(parents=True, exist_ok=True)
    given = f'sha256 = "{sha256}"' if sha256 else ""
    (place / "recipe.toml").write_text(f"""
schema = 1
name = "{name}"
task = "detect"
summary = "{name}"
licence = "none"
[model]
source = "{model}"
{given}
[input]
size = [64, 64]
colour = "rgb"
scale = 0.00392156862745098
[head]
classes = [{classes}]
""")
    return f'[engine]\nrecipe = "{name}"\nrecipes = ["{folder}/recipes"]\n'


def source(name: str, url: str, **more: str) -> str:
    return f'[source.{name}]\nurl = "{url}"\n' + "".join(f'{key} = "{value}"\n' for key, value in more.items())


def upstream(receiver) -> str:
    return f'[upstream]\nurl = "{receiver.url}"\nca_file = "{receiver.certificates.ca_file}"\n'


class ReceiverProcess:
    """`vedette receiver` as a process, which can be killed and come back on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.url = folder, 0, ""
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-u", "-m", "agent", "receiver", "--listen", f"127.0.0.1:{self.port}", "--folder",
                                         str(self.folder)], stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[1]
        self.port = int(self.url.rsplit(":", 1)[1].strip("/"))
        self.certificates = make_certificates(self.folder)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def events(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "events.ndjson").read_text().splitlines()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class Agent:
    def __init__(self, config: Path, env: dict[str, str] | None = None, prefix: Sequence[str | Path] = ()) -> None:
        self.config, self.folder = config, config.parent
        self.log = self.folder / "agent.log"
        values = msgspec.toml.decode((config).read_bytes())
        self.socket = Path(values["device"]["runtime_dir"], "status.sock")
        self.state = Path(values["device"]["state_dir"])
        with self.log.open("ab") as output:
            self.process = subprocess.Popen([*prefix, sys.executable, "-m", "agent", "run", "-c", str(config)], stdout=output, stderr=output,
                                            stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def snapshot(self) -> Snapshot | None:
        try:
            return fetch(self.socket)
        except AgentError:
            return None

    def until(self, condition, timeout_s: float = 30.0, what: str = "") -> Snapshot:
        """Wait until condition(snapshot) holds; fail with the log when it does not or the agent has ended."""
        deadline = time.monotonic() + timeout_s
        snapshot = None
        while time.monotonic() < deadline:
            snapshot = self.snapshot()
            with suppress(StopIteration):  # `source_named` of a source that the agent has not come to yet
                if snapshot is not None and condition(snapshot):
                    return snapshot
            assert self.process.poll() is None, f"the agent ended with {self.process.returncode}:\n{self.said()}"
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s} s: {what}\n{snapshot}\n{self.said()}")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)

    def said(self) -> str:
        return self.log.read_text()

    def last(self) -> Snapshot:
        return msgspec.json.decode((self.state / LAST_STATUS).read_bytes(), type=Snapshot)


def source_named(snapshot: Snapshot, name: str):
    return next(source for source in snapshot.sources if source.name == name)
