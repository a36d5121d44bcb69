"""deploy/wheelhouse: complete for boxes of another Python and processor than this one, and what it says where it is not."""

import email.parser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from tests.helpers.wheelhouses import SCRIPT, make_wheelhouse, needs_index, run_wheelhouse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # each run starts pip two or three times

# The oldest systems with these Pythons: Ubuntu 22.04 (JetPack 6), Debian 12, Ubuntu 24.04 (JetPack 7).
GLIBC = {"3.10": 35, "3.11": 36, "3.12": 39}
KINDS = [(python, arch) for python in ("3.10", "3.11") for arch in ("aarch64", "x86_64")]

BACKEND = """
import os, zipfile
def build_wheel(folder, settings=None, metadata=None):
    name = "vedette-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        lines = os.environ.get("NEEDS", "").split(";;")
        more = "".join(f"Requires-Dist: {line}\\n" for line in lines if line)
        for path, text in {"METADATA": "Metadata-Version: 2.1\\nName: vedette\\nVersion: 1.0\\nProvides-Extra: cpu\\n" + more,
                           "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n", "RECORD": ""}.items():
            z.writestr(zipfile.ZipInfo("vedette-1.0.dist-info/" + path), text)
    return name
"""


def wheel(folder: Path, name: str, version: str, *requires: str, tag: str = "py3-none-any") -> None:
    """Write a wheel with nothing in it."""
    folder.mkdir(exist_ok=True)
    said = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as file:
        for path, text in {"METADATA": said, "WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n", "RECORD": ""}.items():
            file.writestr(f"{name}-{version}.dist-info/{path}", text)


@pytest.fixture
def small(tmp_path):
    """The script in a checkout of a vedette without code; an index of made wheels. Nothing here asks the network."""
    (tmp_path / "tree/deploy").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "tree/deploy")
    (tmp_path / "tree/pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n')
    (tmp_path / "tree/backend.py").write_text(BACKEND)
    index = tmp_path / "index"
    wheel(index, "pip", "99.0")
    wheel(index, "old", "1.0")
    wheel(index, "deep", "1.0", "backport; python_version < '3.11'", "forward; python_version >= '3.12'")
    wheel(index, "backport", "1.0")
    wheel(index, "forward", "1.0")
    wheel(index, "native", "1.0", tag="cp310-cp310-manylinux_2_17_aarch64")
    wheel(index, "native", "2.0", tag="cp310-cp310-manylinux_2_38_aarch64")

    def run(*options: str, needs: str, out: Path = tmp_path / "out") -> subprocess.CompletedProcess[str]:
        env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull, "NEEDS": needs}
        return run_wheelhouse(out, "--extras", "cpu", *options, script=tmp_path / "tree/deploy/wheelhouse", env=env)

    return run


def names(out: Path) -> set[str]:
    """Return what is there beside pip, with which it is installed."""
    found = {path.name.split("-")[0] for path in out.glob("*.whl")}
    assert "pip" in found
    return found - {"pip"}


@pytest.mark.parametrize(("python", "expected"), [("3.10", {"deep", "backport"}), ("3.11", {"deep"}), ("3.12", {"deep", "forward"})])
def test_markers_are_those_of_the_boxes_python_not_of_this_one(small, tmp_path, python, expected):
    done = small("--python", python, needs="deep;;old; python_version < '3.0'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert names(tmp_path / "out") == expected | {"vedette"}


def test_a_wheel_for_a_newer_system_is_not_taken(small, tmp_path):
    assert small(needs="native").returncode == 0
    assert [path.name for path in (tmp_path / "out").glob("native*")] == ["native-1.0-cp310-cp310-manylinux_2_17_aarch64.whl"]
    done = small("--arch", "x86_64", needs="native")
    assert done.returncode == 1
    assert "native" in done.stderr
    assert "mend:" in done.stderr


def test_a_second_run_changes_nothing_and_a_damaged_wheel_is_fetched_again(small, tmp_path):
    out = tmp_path / "out"
    assert small(needs="deep").returncode == 0
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.whl")}
    manifest = (out / "MANIFEST.json").read_bytes()
    done = small(needs="deep")
    assert "0 new" in done.stdout
    assert (out / "MANIFEST.json").read_bytes() == manifest
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.whl")} == before
    (out / "deep-1.0-py3-none-any.whl").write_bytes(b"PK")
    done = small(needs="deep")
    assert "changed; fetching it again" in done.stdout
    assert "1 new" in done.stdout
    assert (out / "deep-1.0-py3-none-any.whl").read_bytes() == before["deep-1.0-py3-none-any.whl"][0]
    check_sums(out)


def test_one_folder_serves_several_and_what_none_needs_goes(small, tmp_path):
    out = tmp_path / "out"
    assert small("--python", "3.10", needs="deep;;old").returncode == 0
    assert small("--python", "3.12", needs="deep;;old").returncode == 0
    assert names(out) == {"vedette", "deep", "backport", "forward", "old"}
    wheel(out, "mine", "1.0")
    done = small("--python", "3.12", needs="deep")
    assert "old-1.0-py3-none-any.whl: no longer needed" in done.stdout
    assert names(out) == {"vedette", "deep", "backport", "forward", "mine"}, "what a person put there stays"
    assert [(each["python"], each["arch"]) for each in json.loads((out / "MANIFEST.json").read_text())["targets"]] == [("3.10", "aarch64"), ("3.12", "aarch64")]
    check_sums(out)


def test_a_failed_run_leaves_what_was_there(small, tmp_path):
    out = tmp_path / "out"
    assert small(needs="deep").returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert small(needs="deep;;nowhere").returncode == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_jetsons_opencv_is_left_out_and_its_numpy_stays_below_2(small, tmp_path):
    for version in ("1.26.4", "2.2.6"):
        wheel(tmp_path / "index", "numpy", version)
    wheel(tmp_path / "index", "opencv_python_headless", "4.10.0")
    needs = "numpy>=1.23;;opencv-python-headless>=4.8; extra == 'cpu'"
    assert small("--jetson", needs=needs).returncode == 0
    assert names(tmp_path / "out") == {"vedette", "numpy"}
    assert [path.name for path in (tmp_path / "out").glob("numpy*")] == ["numpy-1.26.4-py3-none-any.whl"]
    mixed = small(needs=needs)
    assert mixed.returncode == 1
    assert "one folder for Jetsons, another for the rest" in mixed.stderr
    assert small(needs=needs, out=tmp_path / "other").returncode == 0
    assert names(tmp_path / "other") == {"vedette", "numpy", "opencv_python_headless"}


def test_a_wheel_built_on_a_box_is_taken_with_what_it_needs(small, tmp_path):
    needs = "built>=2; platform_machine == 'aarch64'"
    refused = small(needs=needs)
    assert refused.returncode == 1
    assert "built>=2" in refused.stderr
    assert "build it on such a box and put the wheel into the folder" in refused.stderr
    wheel(tmp_path / "out", "built", "2.1", "old", tag="cp310-cp310-linux_aarch64")
    assert small(needs=needs).returncode == 0
    assert names(tmp_path / "out") == {"vedette", "built", "old"}
    assert small(needs="old").returncode == 0
    assert names(tmp_path / "out") == {"vedette", "built", "old"}, "what a person put there stays"


@pytest.mark.parametrize(("options", "code", "said"), [
    (["--arch", "riscv64"], 64, "riscv64"), (["--glibc", "musl"], 64, "--glibc musl"), (["--extras", "gpu"], 1, "--extras gpu: there is none")])
def test_wrong_usage_is_said(small, options, code, said):
    done = small(*options, needs="")
    assert done.returncode == code
    assert said in done.stderr
    assert "mend:" in done.stderr
    assert "Traceback" not in done.stderr


# --- the real one ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """One folder for two Pythons and two processors."""
    needs_index()
    out = tmp_path_factory.mktemp("house")
    for python, arch in KINDS:
        print(make_wheelhouse(out, "--python", python, "--arch", arch))
    return out


@pytest.mark.parametrize(("python", "arch"), KINDS)
def test_all_that_is_required_is_there(house, python, arch):
    """Read every METADATA with this test's own eyes: the script's view of markers is not asked."""
    tags = set(cpython_tags((3, int(python[2:])), platforms=[f"manylinux_2_{n}_{arch}" for n in range(GLIBC[python] + 1)] + [f"manylinux2014_{arch}"]))
    fit, wanted, seen = {}, [("vedette", {"", "cpu", "build"}), ("pip", {""})], set()
    for path in sorted(house.glob("*.whl")):
        name, version, _, its = parse_wheel_filename(path.name)
        if its & tags or any(tag.platform == "any" for tag in its):
            fit.setdefault(name, []).append((version, path))
    while wanted:
        name, extras = wanted.pop()
        assert name in fit, f"{name} is not there for {python}, {arch}"
        for version, path in fit[name]:
            for line in requirements(path):
                needed = Requirement(line)
                environment = {"python_version": python, "python_full_version": f"{python}.1", "platform_machine": arch, "sys_platform": "linux",
                               "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython", "platform_python_implementation": "CPython"}
                if needed.marker is None or any(needed.marker.evaluate({**environment, "extra": extra}) for extra in extras):
                    key = (canonicalize_name(needed.name), frozenset({"", *needed.extras}))
                    have = [found for found, _ in fit.get(key[0], [])]
                    assert any(needed.specifier.contains(found) for found in have), f"{name} {version} needs {line}; there is {have}"
                    if key not in seen:
                        seen.add(key)
                        wanted.append(key)
    assert ("tomli" in {name for name, _ in seen}) == (python == "3.10")
    assert {"numpy", "onnx", "onnxruntime", "opencv-python-headless", "msgspec", "cryptography"} <= {name for name, _ in seen}


@pytest.mark.parametrize("python", ["3.10", "3.11"])
def test_pip_of_that_very_python_is_content(house, python, tmp_path):
    programs = [Path(sys.executable), *(Path.home() / ".pyenv/versions").glob(f"{python}.*/bin/python"), Path(f"/usr/bin/python{python}")]
    for program in programs:
        if program.exists() and subprocess.run([program, "-c", f"import sys, pip; sys.exit(sys.version_info[:2] != (3, {python[2:]}))"], check=False,
                                               capture_output=True).returncode == 0:
            break
    else:
        pytest.skip(f"needs a Python {python} with pip")
    done = subprocess.run([program, "-m", "pip", "install", "--isolated", "--dry-run", "--ignore-installed", "--no-index", f"--find-links={house}",
                           f"--target={tmp_path}", "vedette[cpu,build]"], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Would install .*\bvedette-", done.stdout)


def test_the_lists_are_right_and_again_is_quick(house):
    check_sums(house)
    manifest = json.loads((house / "MANIFEST.json").read_text())
    assert {name for target in manifest["targets"] for name in target["files"]} == {path.name for path in house.glob("*.whl")}
    said = make_wheelhouse(house, "--python", "3.10", "--arch", "aarch64")
    assert "fetching" not in said
    assert not list(house.glob(".part*"))


def requirements(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(inside).decode()).get_all("Requires-Dist") or []


def check_sums(out: Path) -> None:
    lines = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert lines == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.whl")}
