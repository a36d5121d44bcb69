"""Every name of TensorRT that our code uses exists in every version we support, or stands behind a feature test.

The quick form holds the code against recorded surfaces of NVIDIA's real bindings. The slow form downloads those bindings,
imports them over empty stand-ins for NVIDIA's libraries and touches the same names for real.
"""

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.contracts.walker import Surface, Walker

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT.parent / "shared" / "lab"
VERSIONS = {"10.3.0": "tensorrt", "10.13.3.9": "tensorrt", "10.16.1.11": "tensorrt", "11.4.0.106": "tensorrt",
            "1.7.1.116": "tensorrt_rtx"}

# Expressions of the code and what they are; what follows from them (returned objects, loops) is found by itself.
CODE = {
    "agent/building/tensorrt_bindings.py": {"trt": "module", "module": "module"},
    "agent/building/tensorrt_timing.py": {"config": "IBuilderConfig", "cache": "ITimingCache", "other": "ITimingCache"},
    "agent/building/tensorrt_builder.py": {
        "trt": "module", "self.trt": "module", "builder": "Builder", "network": "INetworkDefinition",
        "parser": "OnnxParser", "config": "IBuilderConfig", "profile": "IOptimizationProfile", "plan": "IHostMemory"},
    "agent/diagnosis/probe.py": {"trt": "module"},
    "agent/inference/tensorrt.py": {
        "trt": "module", "self._trt": "module", "runtime": "Runtime", "self._runtime": "Runtime", "engine": "ICudaEngine",
        "self._engine": "ICudaEngine", "context": "IExecutionContext", "self._context": "IExecutionContext"},
}
# A walker that loses its way finds nothing and complains about nothing.
AT_LEAST = {"agent/building/tensorrt_bindings.py": 8, "agent/building/tensorrt_timing.py": 5,
            "agent/building/tensorrt_builder.py": 30, "agent/diagnosis/probe.py": 12,
            "agent/inference/tensorrt.py": 25}


def surface(version):
    path = LAB / "surface" / f"{VERSIONS[version]}-{version}.json"
    if not path.is_file():
        pytest.skip(f"NOT CHECKED against TensorRT {version}: {path} is not on this machine")
    return Surface(json.loads(path.read_text()))


def walked(code, version, table):
    return Walker(surface(version), table).walk(textwrap.dedent(code))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", CODE)
def test_every_name_exists_in_every_version(path, version):
    found = walked((ROOT / path).read_text(), version, CODE[path])
    assert not found.faults
    assert len({(touch.owner, touch.name) for touch in found.touches}) >= AT_LEAST[path], found.touches


def test_no_other_module_speaks_to_tensorrt():
    speaks = set()
    for path in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            used = [node.value.id] if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else []
            if {"trt", "tensorrt", "tensorrt_rtx"} & {*imported, *used}:
                speaks.add(str(path.relative_to(ROOT)))
    assert speaks <= set(CODE), "give a new file its table in CODE"


TABLE = {"trt": "module", "engine": "ICudaEngine", "config": "IBuilderConfig", "parser": "OnnxParser"}


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("trt.Bilder(None)", "has no 'Bilder'"),
        ("engine.made_up", "has no 'made_up'"),
        ("engine.create_execution_context().made_up()", "IExecutionContext has no 'made_up'"),
        ("parser.get_error(0).nodename()", "ParserError has no 'nodename'"),
        ("x = trt.Runtime(None)\nx.made_up", "Runtime has no 'made_up'"),
        ("for x in engine.get_tensor_profile_shape('a', 0):\n    x.made_up", "Dims has no 'made_up'"),
        ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACES, 1)", "has no 'WORKSPACES'"),
        ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit=1)", "cannot be called with limit"),
        ("config.set_memory_pool_limit(1, 2, 3)", "cannot be called with 3 arguments"),
        ("config.made_up = 1", "has no 'made_up'"),
        ("if trt.made_up:\n    pass", "has no 'made_up'"),
        ("trt.ILogger.Severity.FATAL", "has no 'FATAL'"),
        ("class L(trt.ILogger):\n    def lg(self, a, b): ...", "no method 'lg' to override"),
        ("class L(trt.ILogger):\n    def log(self, msg): ...", "other arguments"),
        ("getattr(engine, 'made_up')", "has no 'made_up'"),
    ],
)
def test_a_made_up_name_is_caught(code, fault):
    for version in VERSIONS:
        assert any(fault in said for said in walked(code, version, TABLE).faults), (version, fault)


GONE = "engine.device_memory_size"  # in 10.x only


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        (GONE, False),
        (f"if hasattr(engine, 'device_memory_size'):\n    {GONE}", True),
        (f"if hasattr(engine, 'device_memory_size_v2'):\n    engine.device_memory_size_v2\nelse:\n    {GONE}", True),
        (f"{GONE} if hasattr(engine, 'device_memory_size') else 0", True),
        (f"hasattr(engine, 'device_memory_size') and {GONE}", True),
        ("getattr(engine, 'device_memory_size', None)", True),
        (f"def f():\n    if not hasattr(engine, 'device_memory_size'):\n        return 0\n    return {GONE}", True),
        # Tests that do not protect.
        (f"if hasattr(engine, 'device_memory_size_v2'):\n    {GONE}", False),
        (f"if not hasattr(engine, 'device_memory_size'):\n    {GONE}", False),
        (f"if hasattr(engine, 'device_memory_size') or other:\n    {GONE}", False),
        (f"if trt.__version__ > '11':\n    pass\nelse:\n    {GONE}", False),
        (f"def f():\n    if not hasattr(engine, 'device_memory_size'):\n        print()\n    return {GONE}", False),
        ("getattr(engine, 'device_memory_size')", False),
        ("trt.BuilderFlag.FP16", False),
        ("if hasattr(trt.BuilderFlag, 'FP16'):\n    trt.BuilderFlag.FP16", True),
    ],
)
def test_a_name_of_some_versions_passes_only_behind_a_feature_test(code, passes):
    assert not walked(code, "10.3.0", TABLE).faults or "v2" in code
    assert bool(walked(code, "11.4.0.106", TABLE).faults) is not passes


TOUCH = """
import importlib, json, os, sys
from pathlib import Path
job = json.load(sys.stdin)
trt = importlib.import_module(job["module"])
assert trt.__version__ == job["version"], trt.__version__
for owner, name in job["touches"]:
    what = trt
    for part in [] if owner == "module" else owner.split("."):
        what = getattr(what, part)
    getattr(what, name)

# The classes we subclass, made and called as the library does it; the builder itself is hollow here.
from agent.building.tensorrt_bindings import Progress, logger_of, monitor_of
from agent.building.tensorrt_builder import BuildSettings, build
from agent.errors import ModelError
logger, log = logger_of(trt)
logger.log(trt.ILogger.Severity.ERROR, "a"); logger.log(trt.ILogger.Severity.WARNING, "b"); logger.log(trt.ILogger.Severity.VERBOSE, "c")
assert (list(log.errors), list(log.warnings)) == (["a"], ["b"])
told = []
monitor = monitor_of(trt, Progress("p", lambda *a: told.append(a), lambda: False))
monitor.phase_start("whole", None, 2)
assert monitor.step_complete("whole", 0) is True
assert told == [("p", 500, 1000)]
Path("some.onnx").write_bytes(b"x")
try:
    build(Path("some.onnx"), Path("plan"), BuildSettings(runtime=job["module"], max_batch=1, workspace=1 << 20),
          report=print, cancelled=lambda: False)
except ModelError as error:
    assert "does not start" in error.what, error
else:
    raise AssertionError("the hollow builder built")
assert 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) in (1, 2)
print("touched", len(job["touches"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_bindings_have_every_name(version, tmp_path):
    script = LAB / "trt_api_surface.py"
    if not script.is_file():
        pytest.skip(f"NOT CHECKED against the real bindings of {version}: {script} is not on this machine")
    rtx = ["--rtx"] if VERSIONS[version] == "tensorrt_rtx" else []
    cuda = ["--cuda", "13"] if version.startswith("11.") else []
    made = subprocess.run([sys.executable, script, version, tmp_path / "json", "--keep", tmp_path / "mods", *rtx, *cuda],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT CHECKED against the real bindings of {version}; they, gcc or binutils cannot be had: "
                    f"{made.stderr.strip().splitlines()[-1]}")
    fresh = json.loads((tmp_path / "json" / f"{VERSIONS[version]}-{version}.json").read_text())
    touches = set()
    for path, table in CODE.items():
        found = Walker(Surface(fresh), table).walk((ROOT / path).read_text())
        assert not found.faults
        touches |= {(touch.owner, touch.name) for touch in found.touches}
    job = json.dumps({"module": VERSIONS[version], "version": version, "touches": sorted(touches)})
    done = subprocess.run([sys.executable, "-c", TOUCH], input=job, capture_output=True, text=True, cwd=tmp_path,
                          env={"PYTHONPATH": f"{tmp_path / 'mods' / version}:{ROOT}", "PATH": "/usr/bin:/bin"}, check=False)
    assert done.returncode == 0, done.stderr
    assert f"touched {len(touches)}" in done.stdout
