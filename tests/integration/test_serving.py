"""Tiers and the swap in the whole agent: a real process, a real clip, a small real model, real children that build."""

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import time

import msgspec
import numpy as np
import pytest

from agent.building.forms import Form
from agent.building.prepare import prepare
from agent.building.store import Rung, Store, Tuning
from agent.cli.receiver import Receiver
from agent.config import Config, EngineSection
from agent.plan import plan_for
from tests.helpers.agent import Agent, source, upstream, write_config
from tests.helpers.engines import measured, write_recipe

FP32 = Form.FP32


@pytest.fixture
def box(tmp_path, carphone):
    return Box(tmp_path, carphone)


class Box:
    """A box whose small model is prepared."""

    def __init__(self, folder, clip):
        self.folder, self.clip, self.state = folder, clip, folder / "state"
        self.recipe = write_recipe(folder)
        self.ready = prepare(self.recipe, state_dir=self.state)
        self.store = Store(self.state)
        self.plan = plan_for(Config(engine=EngineSection(recipe="small", threads=1)), self.recipe, self.ready)

    def config(self, *more, clip="?loop=1", **engine):
        shutil.rmtree(self.folder / "conf.d", ignore_errors=True)
        section = "".join(f"{key} = {json.dumps(value)}\n" for key, value in engine.items())
        return write_config(self.folder, source("car", f"{self.clip.as_uri()}{clip}"),
                            f'[engine]\nrecipe = "small"\nrecipes = ["{self.folder}/recipes"]\n{section}', *more, state=self.state)

    def store_engine(self, content, **platform):
        """Put an engine into the store as if it had been tuned here, or on another platform; return its identity."""
        parts = msgspec.structs.replace(self.plan.parts, platform=msgspec.structs.replace(self.plan.platform, **platform))
        built = self.state / "built"
        built.write_bytes(content)
        stored = self.store.put(parts, FP32, built, 1)
        rungs = [Rung(form=FP32, outcome="kept", words="figures", measured=measured())]
        self.store.finish(Tuning(parts=parts, rungs=rungs, kept=FP32, at=1.0, took_s=1.0))
        return stored.identity

    def quarantined(self):
        return [path.read_text() for path in self.state.glob("engines/small/quarantine/*.txt")]


def only_grey(path) -> bytes:
    """The model, but its run fails for every picture that is not all of one grey: warming it up shows nothing."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    graph.node.extend([
        helper.make_node("Cast", [graph.input[0].name], ["trap_f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["trap_f"], ["trap_max"], keepdims=0), helper.make_node("ReduceMin", ["trap_f"], ["trap_min"], keepdims=0),
        helper.make_node("Greater", ["trap_max", "trap_min"], ["trap_colour"]),
        helper.make_node("Cast", ["trap_colour"], ["trap_index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["trap_zero", "trap_index"], ["trap_nothing"]), helper.make_node("Add", ["before", "trap_nothing"], [output])])
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "trap_zero"))
    return model.SerializeToString()


def asked(agent, page):
    """The first line of what the status socket answers, None while it is not there."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(agent.socket))
        client.sendall(f"GET {page} HTTP/1.0\r\n\r\n".encode())
        return client.makefile("rb").readline().split()[1].decode()
    return None


def detections(receiver):
    return sorted((event["data"] for event in receiver.events() if event["type"] == "detection"), key=lambda data: data["frame"]["seq"])


def holes(found):
    """Frames that are neither reported nor counted as skipped on purpose."""
    numbers = [(data["frame"]["seq"], data["frame"]["skipped"]) for data in found]
    return [(before, now, skipped) for (before, _), (now, skipped) in itertools.pairwise(numbers) if now - before != 1 + skipped]


def tuned(snapshot):
    return snapshot.engine and snapshot.engine.tier == "tuned"


def test_a_tuned_engine_takes_over_while_the_loop_runs_and_no_frame_is_lost(box):
    with Receiver(box.folder / "up") as receiver:
        with Agent(box.config(upstream(receiver), tune="background")) as agent:
            first = agent.until(lambda s: s.ready)
            assert (first.engine.tier, first.engine.identity) == ("prepared", box.ready.identity)
            busy = agent.until(lambda s: s.engine.tuning and s.sources[0].processed, what="status says that it tunes")
            assert busy.engine.tier == "prepared", "the lower tier serves meanwhile"
            after = agent.until(tuned, what="it takes over")
            assert after.problems == []
            count = after.sources[0].processed
            last = agent.until(lambda s: s.sources[0].processed > count + 40)
            assert (last.engine.tuning, last.engine.checked != "") == ("", True)
            assert agent.stop() == 0, agent.said()
            ended = agent.last()  # nothing is under way any more
        found = detections(receiver)
    identity = box.plan.parts.identity(FP32)
    by = [data["engine"]["identity"] for data in found]
    assert set(by) == {box.ready.identity, identity}
    assert by == sorted(by, key=[box.ready.identity, identity].index), "from one frame to the next, and never back"
    assert holes(found) == []
    assert found[0]["frame"]["seq"] == found[0]["frame"]["skipped"], "the first ones came while the engine was loaded"
    assert len(found) > count
    assert ended.stages["infer"].total_count == ended.sources[0].processed
    assert not list(box.state.glob("engines/small/built/.work-*"))
    assert box.store.serving(box.plan.parts).identity == identity
    with Agent(box.config(tune="background")) as agent:
        assert agent.until(lambda s: s.ready).engine.identity == identity, "and the next start begins with it"
        assert agent.stop() == 0


@pytest.mark.parametrize("platform", [{"runtime": "onnxruntime 1.0.0"}, pytest.param({"l4t": "36.4.3"}, marks=pytest.mark.slow)])
def test_after_an_update_the_old_engine_is_not_loaded_and_a_new_one_is_built_beside_the_loop(box, platform):
    old = box.store_engine(b"would crash whoever loads it", **platform)
    with Receiver(box.folder / "up") as receiver:
        with Agent(box.config(upstream(receiver))) as agent:  # tune = "auto"
            assert agent.until(lambda s: s.ready).engine.tier == "prepared"
            agent.until(tuned, what="it is built anew without being asked")
            count = agent.snapshot().sources[0].processed
            agent.until(lambda s: s.sources[0].processed > count + 5)
            assert agent.stop() == 0, agent.said()
        found = detections(receiver)
    assert holes(found) == []
    assert {data["engine"]["identity"] for data in found} == {box.ready.identity, box.plan.parts.identity(FP32)} != {old}
    assert "does not fit any more" in agent.said()
    assert box.quarantined() == []


@pytest.mark.slow
def test_on_a_cpu_auto_never_tunes_by_itself(box):
    with Agent(box.config()) as agent:
        agent.until(lambda s: s.ready and s.sources[0].processed > 20)
        snapshot = agent.snapshot()
        assert (snapshot.engine.tier, snapshot.engine.tuning, snapshot.problems) == ("prepared", "", [])
        assert agent.stop() == 0
    assert not list(box.state.glob("engines/small/built/*"))


@pytest.mark.slow
def test_an_engine_that_cannot_be_loaded_is_set_aside_and_the_loop_runs_on_the_lower_tier(box):
    box.store_engine(b"garbage, but with the right hash")
    with Agent(box.config()) as agent:
        snapshot = agent.until(lambda s: s.ready and s.sources[0].processed > 5)
        assert snapshot.engine.tier == "prepared"
        assert agent.stop() == 0
    assert len(box.quarantined()) == 1
    assert "is set aside" in agent.said()


def test_without_room_for_any_engine_the_start_ends_with_the_figures_and_what_to_do(box):
    with Agent(box.config('[budget]\nmemory = "32MB"\n')) as agent:
        assert agent.wait() == 2, agent.said()
    assert "the engine 64x64 takes" in agent.said()
    assert "of the budget of 32 MB" in agent.said()
    assert "[budget] sizes" in agent.said()


def test_a_tuned_engine_whose_run_fails_ends_the_agent_and_the_next_start_has_the_lower_tier(box):
    identity = box.store_engine(only_grey(box.ready.path))
    with Agent(box.config()) as agent:
        assert agent.wait() == 2, agent.said()
    assert identity in agent.said()
    assert len(box.quarantined()) == 1
    with Agent(box.config()) as agent:
        snapshot = agent.until(lambda s: s.ready and s.sources[0].processed > 5)
        assert snapshot.engine.tier == "prepared"
        assert agent.stop() == 0


def test_health_is_not_ready_before_an_engine_serves(box):
    seen = []
    with Agent(box.config()) as agent:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and "200" not in seen:
            answer, snapshot = asked(agent, "/health/ready"), agent.snapshot()
            if answer:
                seen.append(answer)
                assert snapshot is None or answer == "503" or snapshot.engine is not None
            assert agent.process.poll() is None, agent.said()
        assert seen[0] == "503"
        assert seen[-1] == "200"
        assert asked(agent, "/health/live") == "200"
        assert agent.stop() == 0


def test_tensorrt_rtx_without_a_gpu_ends_clearly_and_is_never_ready(box):
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("needs tensorrt_rtx: pip install -e '.[rtx]'")
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a GPU: the start would succeed")
    seen = set()
    with Agent(box.config(runtime="tensorrt_rtx")) as agent:
        while agent.process.poll() is None:
            seen.add(asked(agent, "/health/ready"))
            time.sleep(0.01)
        assert agent.process.returncode == 2, agent.said()
    assert seen <= {None, "503"}
    assert "[engine] runtime = 'tensorrt_rtx' cannot run: this machine has no CUDA device" in agent.said()
    assert "vedette doctor" in agent.said()
    assert "Traceback" not in agent.said()


def test_a_full_disk_while_it_tunes_is_a_problem_and_no_end(box):
    """The store's folder is a file: as good as a disk that takes nothing."""
    (box.state / "engines/small/built").write_text("in the way")
    with Agent(box.config(tune="background")) as agent:
        told = agent.until(lambda s: s.problems, what="it is said")
        assert "tuning failed" in told.problems[0]
        assert "built" in told.problems[0]
        count = told.sources[0].processed
        agent.until(lambda s: s.sources[0].processed > count + 10)
        assert agent.stop() == 0


@pytest.mark.parametrize("number", [0, *[pytest.param(number, marks=pytest.mark.slow) for number in range(1, 6)]])
def test_stopped_while_it_tunes_it_ends_at_once_and_leaves_nothing_behind(box, number):
    with Agent(box.config(tune="background")) as agent:
        agent.until(lambda s: s.engine and s.engine.tuning.startswith(("frames", "convert", "build", "measure")), what="it tunes")
        time.sleep(0.3 * number)
        assert agent.stop(timeout_s=10) == 0, agent.said()
        assert "Traceback" not in agent.said()
    assert not list(box.state.glob("engines/small/built/.work-*"))
    children = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(box.state) not in children


@pytest.mark.slow
def test_live_frames_are_kept_when_the_configuration_says_so(box):
    with Agent(box.config('[calibration]\nlive = true\ninterval = "100ms"\nmax_bytes = "2MB"\n')) as agent:
        agent.until(lambda s: s.ready and s.sources[0].processed > 60)
        assert agent.stop() == 0
    assert len(list(box.state.glob("calibration/small/64x64/*.frame"))) > 5
