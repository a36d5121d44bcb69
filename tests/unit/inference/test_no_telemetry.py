"""ONNX Runtime leaves no trace of this device where it could be sent from."""

import os
import subprocess
import sys

import pytest


def traces(home, program):
    environment = {name: value for name, value in os.environ.items() if name not in {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}}
    subprocess.run([sys.executable, "-c", program], env={**environment, "HOME": str(home)}, check=True, timeout=60)
    return [path for path in home.rglob("*") if "Microsoft" in path.name]


def test_the_agent_switches_it_off_before_the_import(tmp_path):
    agent, bare = tmp_path / "agent", tmp_path / "bare"
    agent.mkdir()
    bare.mkdir()
    assert traces(agent, "import agent.inference.onnxruntime as x; x.import_runtime()") == []
    if not traces(bare, "import onnxruntime"):
        pytest.skip("this version of ONNX Runtime keeps nothing anyway")
