"""``vedette demo --budget``: the real agent keeps watts, degrees and bytes on a board that is played, in seven acts.

The agent, its inference and its governor are real, and so is the processor time that it takes. The board is not: a
folder of files as the kernel of a Jetson shows them, whose watts and degrees follow that processor time. How many watts
a busy core is worth is measured at the start, so that full speed takes the same on a slow machine and on a fast one.
"""

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from agent.cli import demo
from agent.cli.demo_stage import Stage, shows_of, summary
from agent.config import load
from agent.errors import AgentError
from agent.power.board import Busy, SimulatedBoard, busy_cores, process_busy
from agent.snapshot import Snapshot
from agent.status import fetch
from agent.units import Bytes, Celsius, Watts

# All invented, in the proportions of a small Jetson: 5 W without work, 12 W at full speed, and a heat sink so small
# that it follows within half a minute: nobody wants to wait longer for it.
_IDLE_W, _FULL_W = 5.0, 12.0
_NEIGHBOUR_W = 2.0
_AMBIENT_C, _HOT_C, _WARM_C = 25.0, 10.0, 43.0
_RESISTANCE, _CAPACITY = 2.4, 10.0
_STEP_S, _FETCH_S = 0.1, 0.25
_READY_S = 60.0
_MEASURED_S, _WARM_FRAMES = 4.0, 15  # the first frames of a process take longer
_LEAST_CORES = 0.005  # what is measured as less is nothing

_CONFIG = """\
# Written by `vedette demo --budget`. Change watts, celsius and memory and run it again: they are kept.
[device]
id = "demo-budget"
state_dir = {state}
runtime_dir = {runtime}

[source.clip]
url = {source}

[engine]
recipe = "centerface"
tune = "off"

[budget]
{limits}telemetry = "sysfs"      # the kernel's files ...
sysfs = {board}     # ... of a SIMULATED board; leave both lines out on a real one
"""


class Limits(NamedTuple):
    """What is to be kept: watts, degrees Celsius, bytes."""

    watts: Watts = Watts(9)
    celsius: Celsius = Celsius(50)
    memory: Bytes = Bytes(600e6)

    @property
    def lines(self) -> str:
        """The lines of the configuration."""
        return (f'watts = "{self.watts}"\ncelsius = "{self.celsius}"\nmemory = "{self.memory}"\n'
                'safe_rate = "4fps"         # while a sensor is gone\n')


def limits_in(config: Path) -> Limits:
    """Return the limits that an earlier demo, or its user, left in ``config``; the demo's own where there are none.

    Raises:
        ConfigError: the file cannot be understood any more.
    """
    if not config.exists():
        return Limits()
    budget = load(config).budget
    found = {name: getattr(budget, name) for name in Limits._fields}
    return Limits(**{name: value for name, value in found.items() if value is not None})


class Act(NamedTuple):
    """What happens to the board.

    Attributes:
        title: For people.
        expect: What the governor should do about it.
        length: In acts of usual length.
        extra_watts: What others on the board take.
        hotter: Kelvin above the usual air.
        silent: The sensors are gone.
    """

    title: str
    expect: str
    length: float = 1.0
    extra_watts: float = 0.0
    hotter: float = 0.0
    silent: bool = False


def acts(limits: Limits) -> Sequence[Act]:
    """Return the play."""
    return (
        Act("no pressure", f"it feels its way up to the {limits.watts:g} W it may take", 1.25),
        Act(f"a neighbour wakes up and takes {_NEIGHBOUR_W:g} W", "less is left for frames: down at once",
            extra_watts=_NEIGHBOUR_W),
        Act("the neighbour sleeps again", "slowly up again, 4 s after the last step down"),
        Act(f"the air gets {_HOT_C:g} degrees hotter", f"held back before the board reaches {limits.celsius:g} degrees",
            1.5, hotter=_HOT_C),
        Act("the air is cool again", "slowly up again, once the board cools", 1.75),
        Act("all sensors vanish", "it is blind, says so, and goes at its safest known pace", 0.4, silent=True),
        Act("the sensors are back", "it believes them after a while, and recovers"),
    )


def play(out: Path, clip: Path | None, act_s: float) -> int:
    """Play all acts and sum them up.

    Args:
        out: Where everything goes.
        clip: Another video file than the demo's own.
        act_s: Seconds an act of usual length takes.

    Raises:
        AgentError: the agent cannot do its work, or a file cannot be written.
    """
    with ExitStack() as parts:
        demo.interruptible(parts)
        with demo.writing(out):
            (out / "state").mkdir(parents=True, exist_ok=True)
        runtime = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="vedette-")))
        clip = clip.resolve() if clip else demo.fetch_clip(out)
        demo.fetch_model(out)
        show = _Show(out, clip, runtime)
        click.echo(f"board: SIMULATED, in {show.board.folder}: its watts and degrees are invented and follow the "
                   "agent's\n       real processor time; the agent and its control loop are real")
        show.measure(min(_MEASURED_S, act_s))
        stage = Stage((show.limits.watts, show.limits.celsius), [act.title for act in acts(show.limits)])
        code = show.perform(act_s, stage)
    summary(stage, out)
    return code


class _Show:
    """The board, the agent upon it, and the clock of the play."""

    def __init__(self, out: Path, clip: Path, runtime: Path) -> None:
        self._out, self._config, self._socket = out, out / "budget.toml", runtime / "status.sock"
        self.board = SimulatedBoard(out / "board", idle_watts=_IDLE_W, ambient=_AMBIENT_C, resistance=_RESISTANCE,
                                    capacity=_CAPACITY, lag_s=0.7)
        self.limits = limits_in(self._config)
        self._fill = {"state": demo.toml(out / "state"), "runtime": demo.toml(runtime),
                      "source": demo.toml(f"{clip.as_uri()}?loop=1&pace=realtime"),
                      "board": demo.toml(self.board.folder)}
        self._busy: Busy | None = None

    def measure(self, seconds: float) -> None:
        """See how busy full speed keeps this machine, and make that the board's full power.

        Raises:
            AgentError: the agent does not start, or looks at nothing.
        """
        with self._agent(self._out / "measure.toml", "") as agent:
            began = self._wait(agent, _WARM_FRAMES)
            before = process_busy(agent.pid)
            time.sleep(seconds)
            after, ended = process_busy(agent.pid), fetch(self._socket)
        if before is None or after is None:
            raise AgentError("the agent ended while it was measured", f"see {self._out / 'agent.log'}")
        cores = max(busy_cores(before, after), _LEAST_CORES)
        fps = (ended.sources[0].processed - began.sources[0].processed) / (after.at_s - before.at_s)
        self.board.watts_per_core = (_FULL_W - _IDLE_W) / cores
        click.echo(f"speed: measured here without limits: {fps:.1f} frames/s keep {cores:.2f} cores busy. The board "
                   f"makes {_FULL_W:g} W\n       of that, {_IDLE_W:g} W without work; the limits in {self._config} "
                   f"are\n       {self.limits.watts}, {self.limits.celsius}, {self.limits.memory}")

    def perform(self, act_s: float, stage: Stage) -> int:
        """Play all acts, or until Ctrl-C; return the exit code."""
        click.echo(f"watch: in a second terminal: vedette status --watch --config {self._config}\n")
        with self._agent(self._config, self.limits.lines) as agent, shows_of(stage) as show:
            try:
                self._wait(agent, 1)
                self.board.watts, self.board.celsius = _IDLE_W, _WARM_C  # the start of the process is not played
                self._busy = self._check(agent)
                for number, act in enumerate(acts(self.limits)):
                    stage.begin(number, act.expect, act.length * act_s)
                    self._stand(act)
                    for now in self._through(agent, time.monotonic() + act.length * act_s, stage):
                        show(now)
            except KeyboardInterrupt:
                stage.cut = True
        return 0

    def _stand(self, act: Act) -> None:
        self.board.extra_watts, self.board.silent = act.extra_watts, act.silent
        self.board.ambient = _AMBIENT_C + act.hotter

    def _through(self, agent: "subprocess.Popen[bytes]", until_s: float, stage: Stage) -> Iterator[Snapshot]:
        """Move the board on until then; yield what the agent says, four times a second."""
        fetch_s = 0.0
        while (now_s := time.monotonic()) < until_s:
            self._move(agent, stage)
            if now_s >= fetch_s:
                fetch_s = now_s + _FETCH_S
                try:
                    yield fetch(self._socket)
                except AgentError:
                    continue  # once it is gone that is noticed above
            time.sleep(_STEP_S)

    def _move(self, agent: "subprocess.Popen[bytes]", stage: Stage) -> None:
        busy = self._check(agent)
        before, self._busy = self._busy or busy, busy
        self.board.step(busy_cores(before, busy), busy.at_s - before.at_s)
        stage.felt(self.board.watts, self.board.celsius, busy.at_s - before.at_s)

    def _check(self, agent: "subprocess.Popen[bytes]") -> Busy:
        busy = process_busy(agent.pid)
        if busy is None or agent.poll() is not None:
            raise AgentError("the agent has ended by itself", f"see {self._out / 'agent.log'}")
        return busy

    def _wait(self, agent: "subprocess.Popen[bytes]", frames: int) -> Snapshot:
        """Return what the agent says once it has looked at so many frames; the board rests meanwhile."""
        until_s = time.monotonic() + _READY_S
        while time.monotonic() < until_s:
            self._check(agent)
            self.board.step(0.0, _STEP_S)
            time.sleep(_STEP_S)
            try:
                now = fetch(self._socket)
            except AgentError:
                continue  # not listening yet
            if now.ready and now.sources[0].processed >= frames:
                return now
        raise AgentError(f"the agent has not looked at {frames} frames within {_READY_S:g} s",
                         f"see {self._out / 'agent.log'}")

    @contextmanager
    def _agent(self, config: Path, limits: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Write the configuration and run an agent with it; it is stopped at the end of the block."""
        with demo.writing(self._out):
            demo.forget(self._out / "state")
            config.write_text(_CONFIG.format(limits=limits, **self._fill), "utf-8")
            log = (self._out / "agent.log").open("wb")
        with log:
            agent = demo.start(config, log)
            ended = True
            try:
                yield agent
            except AgentError:
                ended = agent.poll() is None
                raise
            finally:
                code = demo.end(agent)
                if not ended:
                    demo.judge(code, log)
            demo.judge(code, log)
