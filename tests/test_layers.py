"""The import rules of docs/architecture.md, checked on every module's syntax tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "agent").rglob("*.py"))

LEVEL_0 = {"records", "errors", "config", "sections", "faults", "units", "meters", "atomic", "secrets", "backoff", "redact", "https", "heap", "clock", "machine", "journal", "notify", "runs", "reading", "unit", "grade", "timeline", "reception"}
LEVEL_1 = {"capture", "inference", "building", "power", "report"}
LEVEL_2 = {"schedule", "pipeline", "snapshot", "metrics", "status", "problems", "asking"}
LEVEL_3 = {"view", "assembly", "loading", "fingerprint", "plan", "pictures", "gathering", "sampling", "trial", "tuning", "tiers", "points_file", "measuring", "points_walk", "serving", "diagnosis", "changing", "governing", "keeping", "room", "budget_view", "power_mode", "page", "watchdog", "ending", "supervisor"}
# Level 2 may know the seams of level 1, never an implementation.
SEAMS = {"agent.capture.source", "agent.inference.engine"}
# Foreign modules that only these files may import.
KEPT = {
    "cv2": {"capture/", "inference/letterbox.py"},
    "onnx": {"building/graph.py", "building/preparing.py", "building/tail.py", "building/precision.py", "building/quantising.py", "building/heads_of.py"},
    "onnxruntime": {"inference/onnxruntime.py", "inference/ort_cuda.py", "building/preparing.py", "building/precision.py",
                    "building/quantising.py", "building/ort_builder.py"},
    "tensorrt": {"inference/tensorrt.py", "building/tensorrt_bindings.py"},
    "tensorrt_rtx": {"inference/tensorrt.py", "building/tensorrt_bindings.py"},
    "pycuda": {"inference/device.py"},
    "requests": {"https.py", "report/sender.py", "report/credentials.py", "building/fetch.py"},
    "urllib3": {"https.py"},
    "cryptography": {"report/credentials.py"},
    "sqlite3": {"report/"},
    "rich": {"cli/"},
    "click": {"cli/"},
    "matplotlib": {"cli/"},
    "trustme": {"cli/receiver.py"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "agent").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path):
    part = part_of(path)
    for name in imports(path):
        if name.split(".")[0] != "agent" or name == "agent":
            continue
        other = name.split(".")[1]
        if part in LEVEL_0:
            assert other in LEVEL_0, f"{part} is level 0 and imports {name}"
        elif part in LEVEL_1:
            assert other in LEVEL_0 or other == part, f"{part} is level 1 and imports {name}"
        elif part in LEVEL_2:
            assert other in LEVEL_0 | LEVEL_2 or name in SEAMS, f"{part} is level 2 and imports {name}"
        elif part in LEVEL_3:
            assert other != "cli", f"{part} is level 3 and imports {name}"
        else:
            assert part in {"cli", "__init__", "__main__"}, f"{part} has no layer: give it one here and in the docs"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_foreign_libraries_stay_where_they_belong(path):
    here = path.relative_to(ROOT / "agent").as_posix()
    for name in imports(path):
        allowed = KEPT.get(name.split(".")[0])
        if allowed is not None:
            assert any(here.startswith(place) for place in allowed), f"{here} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path):
    text = path.read_text("utf-8")
    assert text.count("\n") <= 310, f"{path}: more than about 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, f"{path}:{node.lineno} {node.name} is too long"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_catches_everything(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            names = {getattr(kind, "id", "") for kind in getattr(node.type, "elts", [node.type])}
            blanket = node.type is None or names & {"Exception", "BaseException"}
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert not blanket or reraises, f"{path}:{node.lineno} swallows every exception"
