"""What boxes are set up from, really made: a wheelhouse for this machine's Debian, and the .deb out of it.

Both are made once and kept in the tests' cache folder: the wheelhouse fetches only what is missing, the package is built anew when
anything that goes into it, or a tool that builds it, has changed. Copy them before you change them.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.helpers import media
from tests.helpers.wheelhouses import make_wheelhouse

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path("/usr/bin/python3")
PARTS = ("agent", "engines", "deploy", "systemd", "pyproject.toml", "README.md", "LICENSE")
TOOLS = ("dh-virtualenv", "debhelper", "dpkg-dev")


def missing() -> str:
    """Return what is missing on this machine to build a .deb, in words; empty when nothing is."""
    names = [name for name in ("dh_virtualenv", "dpkg-buildpackage", "dh") if not shutil.which(name)]
    if names:
        return f"needs {', '.join(names)}: apt-get install dh-virtualenv debhelper"
    if subprocess.run([PYTHON, "-c", "import ensurepip, venv"], check=False, capture_output=True).returncode:
        return f"needs {PYTHON} with venv: apt-get install python3-venv"
    return ""


@functools.cache
def minor() -> str:
    """Return the minor version of Debian's Python, such as 3.11."""
    return subprocess.run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], check=True, capture_output=True, text=True).stdout.strip()


def version() -> str:
    """Return the version of this checkout."""
    found = re.search(r'^__version__ = "(.*)"$', (ROOT / "agent/__init__.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


@functools.cache
def tree(number: str) -> Path:
    """Return this checkout, or a copy of it that calls itself ``number``, for upgrades."""
    if number == version():
        return ROOT
    copy = _own_folder() / number
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy / part)
    init = copy / "agent/__init__.py"
    init.write_text(re.sub(r'^__version__ = ".*"$', f'__version__ = "{number}"', init.read_text(), flags=re.MULTILINE))
    return copy


def wheelhouse(number: str = "", *, jetson: bool = False) -> Path:
    """Return a wheelhouse for this machine's Debian and the version ``number``. Needs a package index."""
    return _wheelhouse(number or version(), jetson)


def deb(number: str = "", *, jetson: bool = False) -> Path:
    """Return the .deb of version ``number``, built by deploy/deb/build unless that very content was built already."""
    return _deb(number or version(), jetson)


@functools.cache
def _wheelhouse(number: str, jetson: bool) -> Path:
    folder = media.cache_folder() / f"wheels{'-jetson' if jetson else ''}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_wheelhouse(folder, "--python", minor(), "--arch", os.uname().machine, *(["--jetson"] if jetson else []), script=tree(number) / "deploy/wheelhouse")
    # One that the next version, or another session, changes is of no use to who reads it.
    own = _own_folder() / f"{number}-{folder.name}"
    shutil.copytree(folder, own, copy_function=_link)
    return own


@functools.cache
def _deb(number: str, jetson: bool) -> Path:
    wheels, source = _wheelhouse(number, jetson), tree(number)
    out = _own_folder() / f"{number}-deb{'-jetson' if jetson else ''}"
    out.mkdir()
    kind = media.cache_folder() / "debs" / out.name
    kind.mkdir(parents=True, exist_ok=True)
    digest = _digest(source, wheels)
    for kept in kind.glob(f"{digest}-*"):
        os.link(kept, out / kept.name.removeprefix(f"{digest}-"))
    if not any(out.iterdir()):
        done = subprocess.run(["/bin/sh", source / "deploy/deb/build", "--wheels", wheels, "--out", out, *(["--jetson"] if jetson else [])],
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [str(path) for path in out.iterdir()] == done.stdout.splitlines()[-1:]
        for path in out.iterdir():
            if digest == _digest(source, wheels):  # else somebody wrote into the tree meanwhile
                for old in kind.iterdir():
                    old.unlink(missing_ok=True)
                os.link(path, kind / f"{digest}-{path.name}")
    return next(out.iterdir())


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vedette-packages-", dir=media.cache_folder(), ignore_cleanup_errors=True)


def _own_folder() -> Path:
    """Return a folder of this session, on the disk of the cache; it goes when the session ends."""
    media.cache_folder().mkdir(parents=True, exist_ok=True)
    return Path(_scratch().name)


def _link(source: str, target: str) -> None:
    """Copy a file: wheels, which are replaced and never written over, by a link."""
    if source.endswith(".whl"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _digest(source: Path, wheels: Path) -> str:
    """Return a sum over all that makes a package, and the tools that make it."""
    total = hashlib.sha256(subprocess.run(["dpkg-query", "-W", *TOOLS], check=True, capture_output=True).stdout)
    total.update(minor().encode())
    for path in sorted(path for part in PARTS for path in [source / part, *(source / part).rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{path.relative_to(source)} {path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    total.update("".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in sorted(wheels.glob("*.whl"))
                         if not path.name.startswith("vedette-")).encode())
    return total.hexdigest()[:16]
