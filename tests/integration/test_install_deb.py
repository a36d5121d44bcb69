"""The .deb, really built for this machine's Debian Python: what is in it, and what Debian's own checker says.

That it is installed, upgraded and purged on a real systemd is shown in test_service_box.py.
"""

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path("/usr/bin/python3")
ENVIRONMENT = "./opt/vedette/current"


def lacks() -> str:
    """Return what is missing on this machine to build it, in words."""
    names = [name for name in ("dh_virtualenv", "dpkg-buildpackage", "dh", "lintian") if not shutil.which(name)]
    if names:
        return f"needs {', '.join(names)}: apt-get install dh-virtualenv debhelper lintian"
    if subprocess.run([PYTHON, "-c", "import ensurepip, venv"], check=False, capture_output=True).returncode:
        return f"needs {PYTHON} with venv: apt-get install python3-venv"
    return ""


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(bool(lacks()), reason=lacks() or "-")]


@pytest.fixture(scope="module")
def minor():
    return subprocess.run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The .deb, built in a folder of its own."""
    out = tmp_path_factory.mktemp("deb")
    done = subprocess.run(["/bin/sh", ROOT / "deploy/deb/build", "--out", out], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    built = Path(done.stdout.strip().splitlines()[-1])
    assert list(out.iterdir()) == [built]
    return built


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
    assert f"Version: {read_version()}+py{minor}\n" in said
    assert f"Architecture: {arch}\n" in said
    assert f"python3 (>= {minor}), python3 (<< 3.{int(minor.split('.')[1]) + 1})" in said
    assert "python3-systemd" in said
    assert package.name == f"vedette_{read_version()}+py{minor}_{arch}.deb"


def read_version():
    return re.search(r'^__version__ = "(.*)"$', (ROOT / "agent/__init__.py").read_text(), re.MULTILINE)[1]


def test_everything_it_needs_is_inside(files, minor):
    """A build machine with Debian's numpy made a package without numpy, once."""
    site = f"{ENVIRONMENT}/lib/python{minor}/site-packages"
    for name in ("agent", "numpy", "cv2", "onnxruntime", "onnx", "msgspec", "requests", "cryptography", "click", "rich"):
        assert any(each.startswith((f"{site}/{name}/", f"{site}/{name}.")) for each in files[0]), name
    assert f"{site}/agent/engines/centerface/recipe.toml" in files[0]
    for name in ("pip", "setuptools", "systemd"):
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


def test_it_starts_where_it_is_unpacked(package, tmp_path):
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    environment = tmp_path / "opt/vedette/current"
    said = subprocess.run([environment / "bin/python", "-B", "-s", "-m", "agent", "--version"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert read_version() in said.stdout, said.stderr
    said = subprocess.run([environment / "bin/python", "-B", "-s", "-c", "import cv2, numpy; print(cv2.__file__); print(numpy.__file__)"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert all(line.startswith(str(environment)) for line in said.stdout.splitlines())


def test_nothing_it_calls_reports_to_anybody(package):
    """ONNX Runtime does when it is imported, as the check of the configuration does."""
    calls = [line for line in control(package, "postinst").splitlines() if "vedette config" in line and "$(" in line]
    assert calls
    assert all("ORT_DISABLE_TELEMETRY=1" in line for line in calls)


def test_debians_checker_finds_no_error(package):
    options = ["--allow-root"] if "--allow-root" in subprocess.run(["lintian", "--help"], capture_output=True, text=True, check=False).stdout else []
    said = subprocess.run(["lintian", *options, "--tag-display-limit", "0", package], capture_output=True, text=True, check=False).stdout
    assert [line for line in said.splitlines() if line.startswith("E:")] == []
