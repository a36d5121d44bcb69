"""NVIDIA's real parser and builder (TensorRT-RTX, no GPU needed), driven as the product drives them: in a child process.

What a plan does on a GPU is not seen here, nor how a Jetson's TensorRT chooses its tactics: that one needs its board.
"""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from agent.building.child import Death, Limits, Refusal, run_child
from agent.building.forms import Form
from agent.building.jobs import BuildJob
from agent.building.tensorrt_builder import BuildSettings, Built
from tests.helpers import trt_models

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("tensorrt_rtx") or importlib.util.find_spec("tensorrt_rtx_bindings")),
    reason="NOT BUILT with a real TensorRT: tensorrt-rtx is not installed (pip install -e '.[rtx]')")
MIB = 1 << 20
WORKER = "agent.building.worker"


def settings(**chosen):
    return BuildSettings(**{"runtime": "tensorrt_rtx", "max_batch": 1, "workspace": 256 * MIB, **chosen})


def built(onnx_path, target, report=None, cancel=None, **chosen):
    """The child's answer."""
    job = BuildJob(onnx=str(onnx_path), target=str(target), tensorrt=settings(**chosen))
    return run_child(WORKER, job, Built, Limits(wall_s=120), report=report, cancel=cancel)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return trt_models.prepared_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector_forms(detector, tmp_path_factory):
    return trt_models.forms_of(detector, tmp_path_factory.mktemp("forms"), trt_models.pictures(96, 96))


def expected_inputs(form, convolutions, head):
    """What the types of the convolutions' inputs must be: INT8 but for the head; the head as the rest of the form."""
    if form.precision != "int8":
        return {"Half" if form is Form.FP16 else "Float": convolutions}
    return {"Int8": convolutions - head, "Float" if form is Form.INT8_FP32 else "Half": head}


def count(model_path):
    from agent.building.precision import head_convs

    model = onnx.load(str(model_path))
    return sum(node.op_type == "Conv" for node in model.graph.node), len(head_convs(model))


@pytest.mark.parametrize("form", list(Form), ids=str)
def test_each_form_of_a_detector_is_built_in_the_types_it_names(form, detector, detector_forms, tmp_path):
    convolutions, head = count(detector)
    assert (convolutions, head) == (trt_models.CONVOLUTIONS, trt_models.HEAD)
    answer = built(detector_forms[form], tmp_path / "plan", verbose=True)
    assert isinstance(answer, Built), answer
    assert answer.inputs_at == expected_inputs(form, convolutions, head)
    assert answer.bytes == (tmp_path / "plan").stat().st_size > 100_000
    assert answer.runtime.startswith("tensorrt_rtx 1.")


@pytest.mark.slow
@pytest.mark.parametrize("max_batch", [1, 4])
def test_each_form_of_centerface_is_built_in_the_types_it_names(prepared, tmp_path, max_batch):
    [model] = (prepared / "engines" / "centerface").glob("*.onnx")
    convolutions, head = count(model)
    forms = trt_models.forms_of(model, tmp_path / "forms", trt_models.pictures(320, 320))
    for form in Form:
        answer = built(forms[form], tmp_path / "plan", verbose=True, max_batch=max_batch)
        assert isinstance(answer, Built), (form, answer)
        seen = answer.inputs_at
        print(f"centerface {form} batch {max_batch}: {answer.bytes >> 10} KiB, {answer.seconds:.1f} s, {seen}")
        assert seen == expected_inputs(form, convolutions, head), form
        assert answer.max_batch == max_batch


@pytest.mark.parametrize("max_batch", [1, 4, 8])
def test_a_symbolic_batch_is_built_for_up_to_the_largest_asked(detector, tmp_path, max_batch):
    answer = built(detector, tmp_path / "plan", max_batch=max_batch)
    assert isinstance(answer, Built), answer
    assert answer.max_batch == max_batch
    assert not any("lowered" in text for text in answer.warnings)


def test_a_fixed_batch_wins_over_what_is_asked(detector, tmp_path):
    model = onnx.load(str(detector))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    answer = built(tmp_path / "fixed.onnx", tmp_path / "plan", max_batch=8)
    assert isinstance(answer, Built), answer
    assert answer.max_batch == 1
    assert not answer.warnings


def test_the_level_is_passed_on(detector, tmp_path):
    assert isinstance(built(detector, tmp_path / "plan", level=0), Built)
    answer = built(detector, tmp_path / "plan", level=5)
    assert isinstance(answer, Built), answer


def test_no_workspace_at_all_is_said_with_the_builders_words(detector, tmp_path):
    phases = []
    answer = built(detector, tmp_path / "plan", report=lambda *seen: phases.append(seen[0]), max_batch=4, workspace=1)
    assert isinstance(answer, Refusal), answer
    assert "within workspace limit" in answer.what
    assert "max_batch 1, workspace 1 bytes" in answer.what
    assert "raise [build] workspace" in answer.remedy
    assert not (tmp_path / "plan").exists()


def test_a_small_workspace_lowers_the_batch(tmp_path):
    big = trt_models.prepared_detector(tmp_path, 640, width=16)
    seen = []
    answer = built(big, tmp_path / "plan", report=lambda *at: seen.append(at), max_batch=8, workspace=64 * MIB)
    assert isinstance(answer, Built), answer
    assert answer.max_batch == 2
    assert answer.warnings[0] == "max_batch lowered from 8 to 2: a workspace of 64 MiB is too small for more"
    assert list(dict.fromkeys(phase for phase, _, _ in seen)) == ["building", "building (batch 4)", "building (batch 2)"]
    monotone(seen)
    assert built(big, tmp_path / "plan", max_batch=8, workspace=512 * MIB).max_batch == 8


def monotone(seen):
    """Within a phase nothing falls; the last phase ends at the whole."""
    by_phase = {}
    for phase, done, total in seen:
        assert total == 1000
        by_phase.setdefault(phase, []).append(done)
    for shares in by_phase.values():
        assert shares == sorted(set(shares))
    assert shares[-1] == 1000


def test_progress_only_rises_and_ends_with_the_plan(detector_forms, tmp_path):
    seen = []
    answer = built(detector_forms[Form.INT8_FP16], tmp_path / "plan", report=lambda *at: seen.append(at))
    assert isinstance(answer, Built), answer
    monotone(seen)
    assert len(seen) > 50
    assert answer.steps > len(seen)


def test_a_cancelled_build_says_so_and_leaves_nothing(detector_forms, tmp_path):
    cancel = threading.Event()
    seen = []

    def report(*at):
        seen.append(at)
        if at[1] >= 200:
            cancel.set()

    target = tmp_path / "out" / "plan"
    target.parent.mkdir()
    answer = built(detector_forms[Form.INT8_FP16], target, report=report, cancel=cancel)
    if isinstance(answer, Built):
        pytest.fail("the build ended before the request to stop reached it: the model is too small for this test")
    assert isinstance(answer, Refusal | Death), answer
    assert "cancelled" in answer.what
    assert not list(target.parent.iterdir())


# -- files that cannot be built ---------------------------------------------------------------------------------
def small(nodes, outputs=("out",), shape=("b", 32, 32, 3), more=(), domains=()):
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("frames", TensorProto.FLOAT, shape), *more],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs])
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", 17), *((name, 1) for name in domains))]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def relu(*names, **settings):
    return helper.make_node("Relu", [names[0]], [names[1]], **settings)


def warp(name, data, out):
    return helper.make_node("Warp", [data], [out], domain="com.example", name=name)


BAD = {
    "missing": (None, ["missing or empty"], "fetch"),
    "empty": (b"", ["missing or empty"], "fetch"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n" * 9, ["parser refuses it|no ONNX model"], "fetch or export"),
    "other protobuf": (b"hello world" * 100, ["no ONNX model, or one without outputs"], "fetch or export"),
    "cut short": ("cut", ["Failed to parse the ONNX model"], "fetch or export"),
    "unknown operator": (small([warp("bend", "frames", "a"), relu("a", "out")], domains=["com.example"]),
                         ["node bend (Warp)", "Plugin not found"], "export the model without it"),
    "two unknown operators": (small([warp("bend", "frames", "a"), warp("twist", "a", "out")], domains=["com.example"]),
                              ["node bend (Warp)", "node twist (Warp)"], "export the model without it"),
    "dangling input": (small([helper.make_node("Add", ["frames", "nowhere"], ["out"], name="adder")]),
                       ["node adder (Add)", "not registered"], "export it anew"),
    "nameless node": (small([helper.make_node("Add", ["frames", "nowhere"], ["out"])]), ["node number 0 (Add)"],
                      "export it anew"),
    "no such output": (small([relu("frames", "other")]), ["parser refuses it"], "export it anew"),
    "two inputs": (small([helper.make_node("Add", ["frames", "second"], ["out"])],
                         more=[helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 32, 32, 3])]),
                   ["has 2 inputs"], "vedette engines fetch"),
    "open size": (small([relu("frames", "out")], shape=("b", "h", 32, 3)), ["'frames' has shape [-1, -1, 32, 3]"],
                  "vedette engines fetch"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_built_is_named_with_node_and_remedy(case, detector, tmp_path):
    content, words, remedy = BAD[case]
    path = tmp_path / "bad.onnx"
    if content == "cut":
        content = detector.read_bytes()[:detector.stat().st_size // 2]
    if content is not None:
        path.write_bytes(content)
    answer = built(path, tmp_path / "plan", max_batch=2)
    assert isinstance(answer, Refusal), answer
    assert "bad.onnx" in answer.what
    for word in words:
        assert any(part in answer.what for part in word.split("|")), answer.what
    assert remedy in answer.remedy
    assert not (tmp_path / "plan").exists()


# -- timing cache ----------------------------------------------------------------------------------------------
def test_the_timing_cache_is_written_and_taken_again(detector, tmp_path):
    """TensorRT-RTX keeps nothing in it; that it is handled rightly is all that can be seen without a GPU."""
    cache = tmp_path / "caches" / "one"
    assert isinstance(built(detector, tmp_path / "plan", timing_cache=str(cache)), Built)
    first = cache.read_bytes()
    assert 0 < len(first) < 4096
    assert isinstance(built(detector, tmp_path / "plan", timing_cache=str(cache)), Built)
    assert len(cache.read_bytes()) == len(first)


def test_a_damaged_timing_cache_is_set_aside_and_the_build_goes_on(detector, tmp_path):
    cache = tmp_path / "one"
    cache.write_bytes(b"junk" * 50)
    answer = built(detector, tmp_path / "plan", timing_cache=str(cache))
    assert isinstance(answer, Built), answer
    assert any("refused, set aside as one.refused" in text for text in answer.warnings)
    assert (tmp_path / "one.refused").read_bytes() == b"junk" * 50
    assert cache.read_bytes() != b"junk" * 50


def test_a_timing_cache_that_cannot_be_written_does_not_fail_the_build(detector, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    answer = built(detector, tmp_path / "plan", timing_cache=str(tmp_path / "file" / "cache"))
    assert isinstance(answer, Built), answer
    assert any("timing cache" in text and "cannot be" in text for text in answer.warnings)


def test_a_full_disk_is_a_clear_error(detector):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    answer = built(detector, "/proc/self/plan")
    assert isinstance(answer, Refusal), answer
    assert "/proc/self/plan: cannot be written" in answer.what


# -- one process, several builds ---------------------------------------------------------------------------------
SEVERAL = """
import json, sys
from pathlib import Path
import msgspec
from agent.building.tensorrt_builder import BuildSettings, build
from agent.errors import ModelError
said = []
for path, chosen in json.loads(sys.argv[1]):
    settings = msgspec.convert(chosen, BuildSettings)
    try:
        made = build(Path(path), Path(sys.argv[2]), settings, report=lambda *at: None, cancelled=lambda: False)
        said.append(msgspec.to_builtins(made))
    except ModelError as error:
        said.append(error.what)
print(json.dumps(said))
"""


def test_builds_after_one_another_in_one_process_know_nothing_of_each_other(detector, detector_forms, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(BAD["unknown operator"][0])
    (tmp_path / "dangling.onnx").write_bytes(BAD["dangling input"][0])
    # The first one with a cache: TensorRT-RTX warns of its calls, which -W error makes a failure.
    work = [(detector, {"timing_cache": str(tmp_path / "cache")}), (tmp_path / "bad.onnx", {}), (detector_forms[Form.INT8_FP16], {"verbose": True}),
            (tmp_path / "dangling.onnx", {}), (detector, {"verbose": True}), (detector, {"workspace": 1}), (detector, {})]
    job = json.dumps([(str(path), {"runtime": "tensorrt_rtx", "max_batch": 1, "workspace": 256 * MIB, **chosen})
                      for path, chosen in work])
    done = subprocess.run([sys.executable, "-W", "error", "-c", SEVERAL, job, str(tmp_path / "plan")], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, bad, int8, dangling, again, starved, last = json.loads(done.stdout)
    assert "bend" in bad
    assert "adder" in dangling
    assert "bend" not in dangling
    assert "workspace limit" in starved
    assert "adder" not in starved
    assert first["bytes"] == last["bytes"]
    assert first["warnings"] == last["warnings"] == []
    assert int8["inputs_at"]["Int8"] == trt_models.CONVOLUTIONS - trt_models.HEAD
    assert again["inputs_at"] == {"Float": trt_models.CONVOLUTIONS}


# -- killed ------------------------------------------------------------------------------------------------------
def killed_after(seconds, onnx_path, target):
    """Start a build as the agent does, kill it with SIGKILL; return whether it was still at work."""
    job = BuildJob(onnx=str(onnx_path), target=str(target), tensorrt=settings())
    child = subprocess.Popen([sys.executable, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, cwd="/")
    with child:
        child.stdin.write(msgspec.json.encode(job) + b"\n")
        child.stdin.flush()
        time.sleep(seconds)
        at_work = child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.stdin.close()
        child.wait()
    return at_work


def kill_and_retry(times, onnx_path, folder):
    began = time.monotonic()
    whole = built(onnx_path, folder / "whole")
    took = time.monotonic() - began
    assert isinstance(whole, Built), whole
    draw, at_work = random.Random(times), 0
    for number in range(times):
        target = folder / f"plan{number}"
        at_work += killed_after(draw.uniform(0, took), onnx_path, target)
        assert not target.exists() or target.stat().st_size == whole.bytes
    for number in {0, times - 1}:
        retried = built(onnx_path, folder / f"plan{number}")
        assert isinstance(retried, Built), retried
        assert (folder / f"plan{number}").stat().st_size == whole.bytes
        assert not list(folder.glob(f".plan{number}.*"))
    return at_work


def test_a_killed_build_leaves_no_half_plan(detector, tmp_path):
    assert kill_and_retry(4, detector, tmp_path) >= 2


@pytest.mark.slow
def test_builds_killed_at_thirty_random_times_leave_no_half_plan(detector_forms, tmp_path):
    assert kill_and_retry(30, detector_forms[Form.INT8_FP16], tmp_path) >= 20


def test_a_build_killed_while_it_writes_leaves_the_old_plan_and_its_scrap_goes_with_the_next(detector, tmp_path):
    target = tmp_path / "plan"
    target.write_bytes(b"old")
    (tmp_path / ".plan.abcd.part").write_bytes(b"half")  # what a SIGKILL between open and rename leaves
    (tmp_path / ".plan2.abcd.part").write_bytes(b"another's")
    assert isinstance(built(detector, target), Built)
    assert target.stat().st_size > 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [".plan2.abcd.part", "plan"]


def test_a_failed_build_leaves_the_old_plan(detector, tmp_path):
    (tmp_path / "plan").write_bytes(b"old")
    assert isinstance(built(detector, tmp_path / "plan", workspace=1), Refusal)
    assert (tmp_path / "plan").read_bytes() == b"old"
