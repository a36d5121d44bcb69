"""The lab's tree of a Jetson Orin's /sys: made by ../shared/lab/make_orin_tree.py, which is not part of this repository."""

import importlib.util
import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "shared/lab/make_orin_tree.py"
NX_WATTS = 5080 * 1496 / 1e6  # VDD_IN, millivolts and milliamperes
AGX_WATTS = (19000 * (232 + 41 + 48) + 5040 * 864) / 1e6
NX_RAIL = "bus/i2c/devices/1-0040/hwmon/hwmon1"


def build(root: Path, board: str) -> Path:
    """Write the tree of ``board``, "nx" or "agx", into ``root`` and return it; skips the test where the lab is missing."""
    if not SCRIPT.exists():
        pytest.skip(f"NOT TESTED: the lab's Orin tree, because {SCRIPT} is missing")
    spec = importlib.util.spec_from_file_location("make_orin_tree", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(str(root), board)
    return root


def put(root: Path, name: str, value: object) -> Path:
    """Write one file of a tree as ``echo value > name`` does, and return its path."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else f"{value}\n".encode())
    return path


def swap(root: Path, name: str, value: object) -> Path:
    """Replace one file by a new one of the same name, and return its path."""
    fresh = put(root, f"{name}.fresh", value)
    os.replace(fresh, root / name)
    return root / name
