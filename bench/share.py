"""How much of the inference thread's time goes into reporting: stacks of a running agent, looked at 200 times a second.

The agent is the real one: supervisor, readers, loop, spool, uploader, and a receiver process that takes the reports.
A sample counts when a function of ``agent/report`` or the loop's ``deliver`` stands on the stack. The interpreter is
made to switch threads fifty times as often as it does by itself, else it would mostly be looked at between two short
pieces of work; the post-processing thread's share by the clock, told beside that by samples, shows how well this works.
Waiting for the interpreter while another thread reports is on no stack; bench ``loop`` has it in the engine's share.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from agent.building.recipe import Recipe
from agent.config import load
from agent.inference.engine import EngineDescription
from agent.pipeline import Deliver
from agent.records import Result
from agent.report.spool import Spool
from agent.supervisor import Supervisor
from bench.media import bunny, detector, receiving
from bench.row import Row

_PERIOD_S = 0.005
_SWITCH_S = 1e-4
_THREADS = ("inference", "postprocess")


class _Timed(Supervisor):
    """The real supervisor; what it takes to deliver a result is timed."""

    delivered_s: list[float]

    def _deliver(self, recipe: Recipe, spool: Spool) -> Deliver:
        work = super()._deliver(recipe, spool)
        self.delivered_s = []

        def timed(result: Result, what: EngineDescription) -> None:
            began = time.perf_counter()
            work(result, what)
            self.delivered_s.append(time.perf_counter() - began)
        return timed


def run(seconds: float) -> list[Row]:
    """Measure for so long and return the rows."""
    with tempfile.TemporaryDirectory() as folder, receiving(Path(folder, "up")) as upstream:
        path = Path(folder, "config.toml")
        path.write_text(f"""
[device]
state_dir = "{folder}/state"
runtime_dir = "{folder}"
[engine]
recipe = "bench320"
recipes = ["{detector(320)}"]
threads = 1
{upstream}
[source.clip]
url = "{bunny().as_uri()}?loop=1&pace=all"
frozen_after = "0s"
""", "utf-8")
        agent = _Timed(load(path))
        thread = threading.Thread(target=agent.run)
        thread.start()
        while not (agent.view.snapshot().first_result_s or not thread.is_alive()):
            time.sleep(0.05)
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        events, delivered_s = len(agent.delivered_s), sum(agent.delivered_s)
        seen, reporting = _watch(seconds)
        events, delivered_s = len(agent.delivered_s) - events, sum(agent.delivered_s) - delivered_s
        sys.setswitchinterval(usual_s)
        agent.stop()
        thread.join()
    return [
        Row("inference thread: share of time in reporting", reporting["inference"] / seen["inference"], "<= 0.01"),
        Row("inference thread: samples", seen["inference"]),
        Row("post-processing thread: share of time in reporting", reporting["postprocess"] / seen["postprocess"]),
        Row("the same by the clock around deliver()", delivered_s / seconds),
        Row("results delivered a second meanwhile", events / seconds),
    ]


def _watch(seconds: float) -> tuple[Counter[str], Counter[str]]:
    """Return how often each thread was looked at, and how often it was found reporting."""
    seen: Counter[str] = Counter()
    reporting: Counter[str] = Counter()
    threads = {thread.ident: thread.name for thread in threading.enumerate() if thread.name in _THREADS}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(_PERIOD_S)
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 -- the documented way to see other stacks
            if name := threads.get(ident):
                seen[name] += 1
                reporting[name] += _reports(frame)
    return seen, reporting


def _reports(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if "/agent/report/" in code.co_filename or code.co_name in {"deliver", "_deliver"}:
            return True
        frame = frame.f_back
    return False
