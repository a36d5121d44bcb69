"""The real agent (its supervisor, readers, loop, spool) against the bare engine call inside the same run.

CPU figures come from the kernel's per-thread and per-process clocks, read around every engine call, so other work on
the machine hardly moves them. Latencies are wall time and want a quiet machine.
"""

import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from agent import serving
from agent.building.prepare import prepare
from agent.building.recipe import find_recipe
from agent.config import load
from agent.inference.engine import Engine, EngineDescription, Pending, infer
from agent.inference.heads import HeadConfig, make_head
from agent.inference.letterbox import Letterbox
from agent.inference.onnxruntime import OnnxRuntimeEngine
from agent.loading import EngineFile, load_engine
from agent.records import Pixels
from agent.supervisor import Supervisor
from bench.media import bunny, camera_clip, detector, receiving
from bench.row import Row


class MeasuredEngine:
    """An engine that notes the clocks before and after each call."""

    def __init__(self, engine: Engine) -> None:
        self.spec = engine.spec
        self._engine = engine
        self.marks: list[tuple[float, float, float, float, float]] = []

    def start(self, batch: Pixels) -> Pending:
        """Run and note (thread CPU before, after, process CPU before, wall before, after)."""
        process, thread, wall = time.process_time(), time.thread_time(), time.perf_counter()
        pending = self._engine.start(batch)
        self.marks.append((thread, time.thread_time(), process, wall, time.perf_counter()))
        return pending

    def describe(self) -> EngineDescription:
        """Say what really runs."""
        return self._engine.describe()

    def close(self) -> None:
        """Free it."""
        self._engine.close()


def measured_engine(engines: list[MeasuredEngine], file: EngineFile) -> Engine:
    """Load the real engine, wrapped, and keep it in ``engines``."""
    engines.append(MeasuredEngine(load_engine(file)))
    return engines[-1]


class Measured:
    """One run of the agent for ``seconds``, delivering to a receiver; figures leave out the first fifth."""

    def __init__(self, size: int, urls: Sequence[str], seconds: float) -> None:
        with tempfile.TemporaryDirectory() as folder, receiving(Path(folder, "up")) as upstream:
            path = Path(folder, "config.toml")
            path.write_text(f"""
[device]
state_dir = "{folder}/state"
runtime_dir = "{folder}"
[engine]
recipe = "bench{size}"
recipes = ["{detector(size)}"]
threads = 1
{upstream}
""" + "".join(f'[source.s{i}]\nurl = "{url}"\nfrozen_after = "0s"\n' for i, url in enumerate(urls)), "utf-8")
            agent, engines = Supervisor(load(path)), list[MeasuredEngine]()
            with patch.object(serving, "load_engine", partial(measured_engine, engines)):
                thread = threading.Thread(target=agent.run)
                thread.start()
                while not (engines or not thread.is_alive()):
                    time.sleep(0.05)
            while not (agent.view.snapshot().first_result_s or not thread.is_alive()):
                time.sleep(0.05)
            time.sleep(seconds)
            self.snapshot = agent.view.snapshot()
            agent.stop()
            thread.join()
        marks = np.array(engines[0].marks)
        marks = marks[len(marks) // 5:]
        calls = len(marks) - 1
        self.engine_cpu_s = float((marks[:-1, 1] - marks[:-1, 0]).sum()) / calls
        self.thread_cpu_s = float(marks[-1, 0] - marks[0, 0]) / calls
        self.process_cpu_s = float(marks[-1, 2] - marks[0, 2]) / calls
        self.engine_ms = float(np.median(marks[:, 4] - marks[:, 3])) * 1e3
        self.wall_ratio = float((marks[:-1, 4] - marks[:-1, 3]).sum() / (marks[-1, 3] - marks[0, 3]))
        self.p50_ms = self.snapshot.stages["latency"].p50_ms or 0.0
        self.p99_ms = self.snapshot.stages["latency"].p99_ms or 0.0


def bare(size: int, frames: int) -> tuple[float, float, float]:
    """Run the shortest loop there is: read, letterbox, engine, head, in one thread; no reports, no status, no limits.

    Returns:
        CPU seconds a frame of the process, of the engine, and of reading (decoding and conversion to BGR).
    """
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        recipe = find_recipe(f"bench{size}", [detector(size)])
        prepared = prepare(recipe, state_dir=Path(folder))
        engine = OnnxRuntimeEngine(prepared.path, name=recipe.name, identity=prepared.identity,
                                   model_sha256=prepared.model_sha256, threads=1)
        engine.warm_up()
        head = make_head(HeadConfig(kind="yolov8", classes=80, score=0.25, iou=0.45), engine.spec)
        letterbox, canvas = Letterbox(size, size), np.empty((1, size, size, 3), np.uint8)
        capture = cv2.VideoCapture(str(bunny()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        engine_s = read_s = 0.0
        began = time.process_time()
        for _ in range(frames):
            before = time.thread_time()
            _, pixels = capture.read()
            read_s += time.thread_time() - before
            placement = letterbox.place(pixels, canvas[0])
            before = time.thread_time()
            outputs = infer(engine, canvas)
            engine_s += time.thread_time() - before
            head(outputs, [placement])
        return (time.process_time() - began) / frames, engine_s / frames, read_s / frames


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    seconds = 6.0 if quick else 20.0
    rows: list[Row] = []
    for size, most in ((320, 1.13), (640, 1.03)):
        one = Measured(size, [f"{bunny().as_uri()}?loop=1&pace=all"], seconds)
        bare_s, bare_engine_s, bare_read_s = bare(size, 120)
        name = f"one 720p H.264 source, unpaced, {size}"
        rows += [
            Row(f"{name}: engine p50, ms", one.engine_ms),
            Row(f"{name}: engine CPU / inference-thread CPU", one.engine_cpu_s / one.thread_cpu_s, ">= 0.97"),
            Row(f"{name}: process CPU / engine CPU", one.process_cpu_s / one.engine_cpu_s, f"<= {most}"),
            Row(f"{name}: the same for the shortest serial loop", bare_s / bare_engine_s),
            Row(f"{name}: decoding to BGR alone, in that loop / engine CPU", bare_read_s / bare_engine_s),
            Row(f"{name}: share of wall time inside the engine", one.wall_ratio),
            Row(f"{name}: latency (p50 - 2 ms) / engine", (one.p50_ms - 2) / one.engine_ms, "<= 1.2"),
            Row(f"{name}: latency p99 / engine", one.p99_ms / one.engine_ms, "<= 2"),
        ]
    many = Measured(320, [f"{camera_clip().as_uri()}?loop=1&pace=realtime"] * 8, seconds)
    served = [source.processed for source in many.snapshot.sources]
    rows += [
        Row("eight 720p sources at 30 fps, 320: engine p50, ms", many.engine_ms),
        Row("eight 720p sources at 30 fps, 320: frames seen per second",
            sum(source.seen_rate for source in many.snapshot.sources)),
        Row("eight 720p sources at 30 fps, 320: latency p50 / engine", many.p50_ms / many.engine_ms, "<= 2.5"),
        Row("eight 720p sources at 30 fps, 320: latency p99 / engine", many.p99_ms / many.engine_ms, "<= 5"),
        Row("eight 720p sources at 30 fps, 320: fairness, max / min", max(served) / min(served), "<= 1.2"),
        Row("eight 720p sources at 30 fps, 320: share of wall time inside the engine", many.wall_ratio),
    ]
    return rows
