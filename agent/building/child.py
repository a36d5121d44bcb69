"""Work that may be killed, hang or crash, done by a child process whose death is a result.

The child is niced, first in line for the kernel's OOM killer, watched for its resident memory and its time, and told
to go by SIGTERM before SIGKILL. It reads its job from the first line of standard input, which stays open: its end
means that the parent has died, and the child follows. It answers on standard output, one JSON object a line: any
number of :class:`Progress`, then one answer.
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from agent.building.lock import beat
from agent.errors import ModelError

Report = Callable[[str, int, int | None], None]
"""Called with a phase, and how many of how many steps of it are done (None: unknown)."""
Cancelled = Callable[[], bool]

_TICK_S = 0.1
_GRACE_S = 5.0
_KEPT_LINES = 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far the child is."""

    phase: str
    done: int
    total: int | None = None


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Why the child could not do its job."""

    what: str
    remedy: str


class Death(msgspec.Struct, frozen=True, kw_only=True, tag="died"):
    """How a child ended without an answer: what happened, how to mend it, and its last words."""

    what: str
    remedy: str
    last_words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may take: seconds of wall time, resident bytes (None = no cap), and how far it steps back."""

    wall_s: float
    memory_bytes: int | None = None
    nice: int = 10


def run_child(module: str, job: msgspec.Struct, answers: Any, limits: Limits, *, report: Report | None = None,
              cancel: threading.Event | None = None) -> Any:
    """Run ``python -m module`` on ``job``; return its answer (of the types ``answers``), a Refusal, or its Death.

    Args:
        module: Calls :func:`answer_one`.
        job: Sent as JSON.
        answers: Type or union of types of the answer.
        limits: What it may take.
        report: Told each Progress.
        cancel: When set the child gets SIGTERM, and SIGKILL five seconds later.
    """
    # -m puts the current directory first on the module path: in the user's a folder agent/ would be run.
    command = [sys.executable, "-m", module]
    if limits.nice and shutil.which("ionice"):
        command = ["ionice", "-c3", "-t", *command]
    process = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, bufsize=0, start_new_session=True)
    watched = _Watched(process, limits, cancel)
    with process:
        try:
            watched.begin(job)
            answer = watched.answer(answers, report)
            # A child that has answered, or closed its output, has nothing left to do; one that lingers is ended.
            watched.end(_GRACE_S)
        finally:
            watched.end(0)
    return answer if answer is not None else watched.death()


class _Watched:
    """Reads a child's lines while its limits are watched."""

    def __init__(self, process: "subprocess.Popen[bytes]", limits: Limits, cancel: threading.Event | None) -> None:
        self._process = process
        self._limits = limits
        self._cancel = cancel
        self._began = time.monotonic()
        self._why = ""
        self._words: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._term_at: float | None = None

    def begin(self, job: msgspec.Struct) -> None:
        """Let the child, not the agent, wait for the processor and die when memory runs out; send it its job."""
        pid = self._process.pid
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, self._limits.nice)
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000", "ascii")
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()

    def answer(self, answers: Any, report: Report | None) -> Any:
        """Return the answer, or None when the child ended, or had to be ended, without one."""
        kinds = answers | Refusal | Progress
        with selectors.DefaultSelector() as selector:
            for stream in (self._process.stdout, self._process.stderr):
                assert stream
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, _Lines(stream))
            while selector.get_map():
                for key, _ in selector.select(_TICK_S):
                    lines: _Lines = key.data
                    for line in lines.read():
                        said = None if lines.stream is self._process.stderr else _understood(line, kinds)
                        if isinstance(said, Progress):
                            if report:
                                report(said.phase, said.done, said.total)
                        elif said is not None:
                            return said
                        else:
                            self._words.append(line)
                    if lines.ended:
                        selector.unregister(lines.stream)
                self._check()
        return None

    def _check(self) -> None:
        beat()
        now, limits = time.monotonic(), self._limits
        if self._term_at is not None:
            if now > self._term_at + _GRACE_S:
                self._kill(signal.SIGKILL)
        elif self._cancel and self._cancel.is_set():
            self._why, self._term_at = "cancelled", now
            self._kill(signal.SIGTERM)
        elif now - self._began > limits.wall_s:
            self._why = f"took longer than {limits.wall_s:g} s and was stopped"
            self._kill(signal.SIGKILL)
        elif limits.memory_bytes and (used := _resident(self._process.pid)) > limits.memory_bytes:
            self._why = f"took {used / 1e6:.0f} MB of memory, the cap is {limits.memory_bytes / 1e6:.0f} MB"
            self._kill(signal.SIGKILL)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, number)

    def end(self, grace_s: float) -> None:
        """Wait for the child's end, at most ``grace_s`` seconds; then end it."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._kill(signal.SIGKILL)
            self._process.wait()

    def death(self) -> Death:
        code = self._process.returncode
        words = b" | ".join(self._words).decode("utf-8", "replace")
        if self._why == "cancelled":
            return Death(what="cancelled", remedy="", last_words=words)
        remedy = "choose a smaller size or model, or allow more under [build]"
        if not self._why and code is not None and code < 0:
            self._why = f"was killed by signal {-code} ({_signal_name(-code)})"
            remedy = ("signal 9 mostly means too little memory: free some, or choose a smaller size or model"
                      if -code == signal.SIGKILL else "a defect of the library in use: try another version or form")
        elif not self._why:
            self._why, remedy = f"ended with {code} and no answer", "see its last words"
        last = self._words[-1].decode("utf-8", "replace").strip() if self._words else "no last words"
        return Death(what=f"{self._why}: {last}", remedy=remedy, last_words=words)


class _Lines:
    """The lines of a pipe that does not block."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.ended = False
        self._rest = b""

    def read(self) -> list[bytes]:
        chunk: bytes | None = self.stream.read(1 << 16)
        if chunk is None:
            return []
        self.ended = not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line for line in ([*lines, self._rest] if self.ended else lines) if line.strip()]


def _understood(line: bytes, kinds: Any) -> Any:
    try:
        return msgspec.json.decode(line, type=kinds)
    except msgspec.MsgspecError:
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "?"


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def answer_one(jobs: Any, work: Callable[[Any, Report, Cancelled], msgspec.Struct]) -> None:
    """Be the child: read one job (of the types ``jobs``), do it, answer; a ModelError becomes a Refusal."""
    # Libraries print; only the answer may reach the real standard output.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gone = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: gone.set())
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=jobs)
    threading.Thread(target=_follow_the_parent, daemon=True).start()
    said = threading.Lock()

    def say(what: msgspec.Struct) -> None:
        with said:
            out.write(msgspec.json.encode(what) + b"\n")
            out.flush()

    def report(phase: str, done: int, total: int | None = None) -> None:
        say(Progress(phase=phase, done=done, total=total))

    try:
        answer = work(job, report, gone.is_set)
    except ModelError as error:
        answer = Refusal(what=error.what, remedy=error.remedy)
    say(answer)
    # No destructor of a native library may turn an answer into a crash, or hold the parent up.
    os._exit(0)


def _follow_the_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
