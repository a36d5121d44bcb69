"""The real agent loop under a watt limit, with a real GPU as the plant and NVML as its sensor.

Eight clips that can be read at any speed, ONNX Runtime's CUDA provider, the governor's own thread. First what the board
takes idle and unlimited, then limits between the two: down, further down, up again, and a step in the middle. ``--out``
keeps the timeline for the plot of docs/budgets.md. Without a GPU: ``--sysfs DIR`` with a simulated board.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from agent.config import load
from agent.governing import Governing
from agent.power.choose import open_telemetry
from agent.power.governor import PERIOD_S
from agent.power.policy import Limits, Policy
from agent.power.telemetry import Reading
from agent.supervisor import Supervisor
from bench.row import Row

SOURCES = 8
_SETTLED_S = 10.0
_CONFIG = """\
[device]
id = "bench"
state_dir = {state}
runtime_dir = {runtime}
[engine]
recipe = "centerface"
size = {size}
{engine}
[budget]
policy = "max_fps"
{budget}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One sample of the timeline; seconds since the start, watts, frames per second."""

    at: float
    limit: float | None
    watts: float | None
    celsius: float | None
    fps: float
    rate: float | None
    why: str


class Loop:
    """The agent in this process, its limit in our hand."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        state = Path(options.state) if options.state else folder / "state"
        engine = f'tune = "off"\nprecision = "{options.precision}"'
        if not options.sysfs:
            engine += '\nprovider = "CUDAExecutionProvider"\nmax_batch = 8'
        budget = f'telemetry = "sysfs"\nsysfs = "{options.sysfs}"' if options.sysfs else 'telemetry = "nvml"'
        text = _CONFIG.format(state=json.dumps(str(state)), runtime=json.dumps(str(folder)), engine=engine,
                              budget=budget, size=options.size)
        for n in range(SOURCES):
            text += f'[source.clip{n}]\nurl = "{Path(options.clip).absolute().as_uri()}?loop=1&pace=all"\n'
        (folder / "config.toml").write_text(text)
        self.supervisor = Supervisor(load(folder / "config.toml"))
        self._thread = threading.Thread(target=self.supervisor.run, name="agent", daemon=True)
        self._thread.start()
        self.governing = self._wait()
        self.timeline: list[Seen] = []
        self._began = time.monotonic()

    def _wait(self) -> Governing:
        give_up = time.monotonic() + 240
        while time.monotonic() < give_up:
            if found := self.supervisor.view.governing:
                return found
            if not self._thread.is_alive():
                raise SystemExit("the agent has ended before it was ready")
            time.sleep(0.1)
        raise SystemExit("the agent was not ready in time")

    def hold(self, limit: float | None, seconds: float) -> list[Seen]:
        """Let ``limit`` hold for ``seconds``; return what was seen."""
        self.governing.policy = replace(self.governing.policy, limits=Limits(watts=limit))
        first, count = len(self.timeline), self._count()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(PERIOD_S / 2)
            now, decided = self._count(), self.governing.decided
            fps = (now[1] - count[1]) / max(now[0] - count[0], 1e-3)
            count = now
            reading = decided.reading
            self.timeline.append(Seen(
                at=now[0] - self._began, limit=limit, watts=reading.watts if reading else None,
                celsius=reading.celsius if reading else None, fps=fps, rate=decided.order.rate, why=decided.why))
        return self.timeline[first:]

    def _count(self) -> tuple[float, int]:
        return time.monotonic(), sum(source.processed for source in self.supervisor.snapshot().sources)

    def stop(self) -> None:
        self.supervisor.stop()
        self._thread.join(30)


def _idle(sample: Callable[[], Reading | None]) -> float:
    """Return the mean watts of four seconds."""
    found = []
    for _ in range(20):
        reading = sample()
        if reading and reading.watts is not None:
            found.append(reading.watts)
        time.sleep(0.2)
    return statistics.fmean(found)


def _watts(seen: list[Seen]) -> list[float]:
    return [each.watts for each in seen if each.watts is not None]


def _after(seen: list[Seen], seconds: float) -> list[Seen]:
    return [each for each in seen if each.at >= seen[0].at + seconds]


def measure(options: argparse.Namespace) -> tuple[list[Row], dict[str, object]]:
    """Run the story; return rows and the timeline."""
    with tempfile.TemporaryDirectory() as name:
        telemetry = open_telemetry("sysfs" if options.sysfs else "nvml", Path(options.sysfs or "/sys"))
        idle = _idle(telemetry.sample)
        telemetry.close()
        loop = Loop(Path(name), options)
        part = options.seconds
        free = loop.hold(None, part / 2)
        most = statistics.fmean(_watts(_after(free, part / 4)))
        unpaced = statistics.fmean([each.fps for each in _after(free, part / 4)])
        loop.governing.policy = Policy(objective="max_fps", limits=Limits(rate=1.0))
        time.sleep(4)  # what is under way ends, clocks go down
        base = _idle(lambda: loop.governing.decided.reading)
        levels = [most - share * (most - base) for share in (0.3, 0.6, 0.15, 0.45)]
        phases = [(limit, loop.hold(limit, part)) for limit in levels]
        governor = _governor_cpu(loop, 10.0)
        steps = [asdict(step) for step in loop.governing.ledger.steps()]
        loop.stop()
    rows = [Row("watts without a loop", idle), Row("watts at 1 frame a second", base), Row("watts unlimited", most),
            Row("frames per second unlimited", unpaced)]
    before: float | None = None
    for limit, seen in phases:
        rows += _phase(limit, seen, before, base, most, unpaced)
        before = limit
    rows.append(Row("governor and sensors, % of a core", 100 * governor, "<= 1"))
    data: dict[str, object] = {
        "device": options.device, "idle": idle, "base": base, "most": most, "unpaced": unpaced,
        "steps": steps, "timeline": [asdict(each) for each in loop.timeline]}
    return rows, data


def _phase(limit: float, seen: list[Seen], before: float | None, base: float, most: float, unpaced: float) -> list[Row]:
    start, watts = seen[0].at, _watts(_after(seen, _SETTLED_S))
    joules = (most - base) / unpaced
    best = min((limit - base) / joules, unpaced)
    what = f"limit {limit:.0f} W"
    rows = [Row(f"{what}: samples within it in steady state, %", 100 * statistics.fmean(w <= limit for w in watts),
                ">= 99"),
            Row("  mean watts / limit", statistics.fmean(watts) / limit),
            Row("  frames per second / those of a straight line between rest and unlimited",
                statistics.fmean(each.fps for each in _after(seen, _SETTLED_S)) / best, ">= 0.92")]
    above = [each.at - start for each in seen if (each.watts or 0.0) > 1.05 * limit]
    if before is not None and before > limit:
        rows.append(Row("  after the step down: seconds until below 105 % for good", max(above, default=0.0), "<= 2"))
    else:
        rows.append(Row("  overshoot after the step up, %", max(100 * (max(_watts(seen)) / limit - 1), 0.0), "<= 5"))
    return rows


def _governor_cpu(loop: Loop, seconds: float) -> float:
    """Return the share of a core that the governor's thread takes."""
    thread = next(each for each in threading.enumerate() if each.name == "governor")
    clock = time.pthread_getcpuclockid(thread.ident or 0)
    began, cpu = time.monotonic(), time.clock_gettime(clock)
    loop.hold(loop.governing.policy.limits.watts, seconds)
    return (time.clock_gettime(clock) - cpu) / (time.monotonic() - began)


def main() -> None:
    """Run with options of its own: ``python -m bench.budget``."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("--clip", required=True, help="video file that is looked at")
    parser.add_argument("--state", help="state directory with the prepared model")
    parser.add_argument("--size", default="[640, 640]", help="canvas, [height, width]")
    parser.add_argument("--device", default="a GPU", help="its name, for the plot")
    parser.add_argument("--precision", default="auto", help="as in [engine]")
    parser.add_argument("--sysfs", help="folder of a simulated board instead of NVML")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each limit")
    parser.add_argument("--out", type=Path, help="where the timeline goes, JSON")
    options = parser.parse_args()
    rows, data = measure(options)
    for row in rows:
        print(f"  {row.name:<75} {row.value:9.3f}  {row.target:<8} {row.verdict}")
    sys.stdout.flush()
    if options.out:
        options.out.write_bytes(msgspec.json.encode({**data, "rows": [row.as_dict() for row in rows]}))


if __name__ == "__main__":
    main()
