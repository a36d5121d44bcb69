"""What ONNX Runtime's arena has grown by goes back to the machine: without that no rung of the memory ladder frees anything."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from agent import heap
from agent.inference.onnxruntime import OnnxRuntimeEngine

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def engine(batch):
    return OnnxRuntimeEngine(Path(sys.argv[1]), name="x", identity="0" * 16, model_sha256="0" * 64, threads=1, max_batch=batch)

heap.keep_one()
one = engine(8)
frames = np.zeros((8, one.spec.height, one.spec.width, 3), np.uint8)
told = {"before": resident()}
one.start(frames)()
told["batch of eight"] = resident()
if sys.argv[2] == "trim":
    one.trim()
one.start(frames[:1])()
heap.give_back()
told["batch of one"] = resident()
one.start(frames)()
other = engine(1)
other.start(frames[:1])()
one.close()
heap.give_back()
told["closed"] = resident()
print(json.dumps(told))
"""


def told(prepared, how):
    (model,) = (prepared / "engines" / "centerface").glob("*.onnx")
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(model), how], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_a_smaller_batch_and_a_closed_engine_give_memory_back(prepared):
    kept, given = told(prepared, "keep"), told(prepared, "trim")
    grown = given["batch of eight"] - given["before"]
    assert grown > 40, f"the batch must be worth something: {given}"
    assert given["batch of one"] < given["batch of eight"] - 0.5 * grown, given
    assert kept["batch of one"] > kept["batch of eight"] - 0.2 * grown, f"by itself the arena keeps it: {kept}"
    assert given["closed"] < given["batch of eight"] - 0.5 * grown, given
