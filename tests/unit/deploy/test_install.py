"""install.sh on a made box: what it lays out, and that whatever goes wrong the old version runs on."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.unit.deploy.made_root import ROOT, MadeRoot

UNITS = "usr/local/lib/systemd/system"


def test_a_new_box(box):
    box.configure()
    said = box.install()
    assert (box.current, box.running, box.said("enabled")) == ("1.0.0", "1.0.0", "enabled")
    assert "vedette 1.0.0 is installed" in said
    tree = box.tree()
    assert tree["usr/local/bin/vedette"] == "/opt/vedette/current/bin/vedette"
    assert tree["usr/local/sbin/vedette-setup"] == "/opt/vedette/current/share/vedette/vedette-setup"
    for name in (f"{UNITS}/vedette.service", f"{UNITS}/vedette-tune.service", "usr/local/lib/sysusers.d/vedette.conf", "usr/local/lib/tmpfiles.d/vedette.conf",
                 "etc/vedette/config.toml.example", "etc/systemd/system/vedette.service.d/50-box.conf", "etc/systemd/system/vedette-tune.service.d/50-box.conf"):
        assert name in tree
    assert not list((box.root / "var/tmp").iterdir())
    assert "would report" not in box.said("acts")
    environment = box.root / "opt/vedette/current"
    assert "include-system-site-packages = true" in (environment / "pyvenv.cfg").read_text()


def test_pip_works_before_the_system_becomes_visible(box):
    """Else it leaves out what this very machine has; the system's packages may change under the agent later."""
    box.install()
    assert "-m venv" in box.said("acts")
    assert "--system-site-packages" not in box.said("acts")


def test_without_a_camera_it_is_enabled_and_not_started(box):
    said = box.install()
    assert (box.current, box.said("enabled"), box.running) == ("1.0.0", "enabled", "")
    assert "not started yet: config.toml: no source" in said
    assert "vedette config check && systemctl start vedette" in said
    assert (box.root / "etc/vedette/config.toml").read_bytes() == (ROOT / "deploy/config/config.toml").read_bytes()


def test_settings_and_state_stay_through_an_upgrade(served):
    mine = '[source.mine]\nurl = "rtsp://192.0.2.8/"\n'
    served.configure(mine)
    spool = served.root / "var/lib/vedette/spool.db"
    spool.parent.mkdir()
    spool.write_text("events")
    served.version("1.1.0")
    said = served.install()
    assert (served.current, served.running, served.unit()) == ("1.1.0",) * 3
    assert (served.root / "etc/vedette/config.toml").read_text() == mine
    assert spool.read_text() == "events"
    assert "before it: 1.0.0" in said


def test_the_last_two_versions_are_kept(served):
    for number in ("1.1.0", "1.2.0"):
        served.version(number)
        served.install()
    assert served.versions == ["1.1.0", "1.2.0"]


def test_a_second_run_changes_nothing_and_does_not_restart(served):
    before = served.tree()
    said = served.install()
    assert served.tree() == before
    assert "is installed already" in said
    assert "restart" not in served.said("acts")
    assert "-m pip" not in served.said("acts")


def test_a_second_run_mends_what_is_missing(served):
    whole = served.tree()
    (served.root / UNITS / "vedette.service").unlink()
    (served.root / "usr/local/bin/vedette").unlink()
    (served.root / "etc/systemd/system/vedette.service.d/50-box.conf").unlink()
    served.install()
    assert served.tree() == whole


def test_reinstall_makes_it_anew(served):
    (served.trial / "acts").write_text("")
    assert "making an environment" in served.install("--reinstall")
    assert served.running == "1.0.0"


CAMERA = "warning: source.door.url: /dev/video99: No such file or directory\n  mend: plug the camera in"


def test_a_camera_that_is_not_there_is_told_and_hinders_nothing(box):
    box.configure()
    box.go_wrong("camera")
    for number in ("1.0.0", "1.1.0"):
        box.version(number)
        said = box.install()
        assert (box.current, box.running) == (number, number)
        assert said.count(CAMERA) == 1
        assert ": well" not in said
        assert "not started" not in said
    assert CAMERA in box.install("--rollback")
    assert box.running == "1.0.0"
    box.go_wrong()
    assert "warning: " not in box.install("--rollback")


FAULTS = {
    "venv": "could not make the environment",
    "wheel": "the wheel could not be built",
    "pip": "pip could not install vedette 1.1.0",
    "check": "numpy 3 is not what onnx wants",
    "start": "the new version does not start: Illegal instruction",
    "mixed": "the new version says 'vedette, version 9', not 1.1.0",
    "imports": "the new version lacks something: No module named cv2",
    "config 1.1.0": "does not take the configuration of this box: config.toml: no source",
    "sync versions": "cannot be written to the disk",
    "sync vedette": "the services could not be set up",
    "sysusers": "the services could not be set up",
    "tmpfiles": "the services could not be set up",
    "reload 1.1.0": "the services could not be set up",
    "enable": "the service could not be enabled",
    "restart 1.1.0": "the service did not get ready",
    "gone 1.1.0": "the service did not get ready",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_the_old_version_runs_on(served, fault):
    before = served.tree()
    served.version("1.1.0")
    served.go_wrong(fault)
    said = served.install(code=1)
    assert FAULTS[fault] in said
    assert "mend: " in said
    assert (served.current, served.running, served.versions) == ("1.0.0", "1.0.0", ["1.0.0"])
    assert served.tree() == before
    assert "nothing was changed, 1.0.0" in said or "runs again" in said


@pytest.mark.parametrize("fault", ["pip", "imports", "tmpfiles", "reload 1.1.0", "restart 1.1.0"])
def test_what_went_wrong_on_a_new_box_can_be_done_again(box, fault):
    box.configure()
    box.go_wrong(fault.replace("1.1.0", "1.0.0"))
    box.install(code=1)
    box.go_wrong()
    box.install()
    assert (box.current, box.running, box.versions) == ("1.0.0", "1.0.0", ["1.0.0"])


def test_one_that_is_ended_in_the_middle_clears_up(served):
    before = served.tree()
    served.version("1.1.0")
    served.go_wrong("cut off")
    served.install(code=143)
    assert served.tree() == before
    assert served.running == "1.0.0"


def test_a_second_signal_does_not_end_going_back(served):
    before = served.tree()
    served.version("1.1.0")
    served.go_wrong("restart 1.1.0", "ctrl-c 1.0.0")
    assert "runs again" in served.install(code=1)
    assert served.tree() == before


def test_all_is_on_the_disk_before_the_switch_and_after_it(served):
    """Else a power cut soon after an upgrade boots truncated files."""
    served.version("1.1.0")
    served.install()
    acts = served.said("acts").splitlines()
    new = next((served.root / "opt/vedette/versions").glob("1.1.0-*"))
    root = served.root
    assert [act for act in acts if act.startswith("sync")] == [f"sync -f {new}", f"sync -f {new.parent}", f"sync -f {root}/opt/vedette {root}/usr/local/lib {root}/etc"]
    reload = acts.index("systemctl daemon-reload")
    assert acts.index(f"sync -f {new.parent}") < reload < acts.index(f"sync -f {root}/opt/vedette {root}/usr/local/lib {root}/etc") < acts.index("systemctl restart vedette.service")


def test_after_a_power_cut_before_it_was_ready_the_one_before_comes_back_by_hand(served):
    """Even where a newer one lies beside it: the one from which somebody had gone back."""
    served.version("1.1.0")
    served.install()
    served.install("--rollback")
    served.version("1.2.0")
    versions = served.root / "opt/vedette/versions"
    kept = shutil.copytree(next(versions.glob("1.1.0-*")), served.root.parent / "kept")
    served.install()
    shutil.copytree(kept, versions / "1.1.0-20990101T000000Z")  # nothing was cleared away yet
    served.install("--rollback")
    assert (served.current, served.running) == ("1.0.0", "1.0.0")


@pytest.mark.parametrize("seen", ["cmdline", "maps"])
def test_the_version_that_still_runs_is_kept(served, seen):
    process = served.root / "proc/4321"
    process.mkdir()
    running = next((served.root / "opt/vedette/versions").glob("1.0.0-*")).name
    (process / seen).write_text({"cmdline": f"/opt/vedette/versions/{running}/bin/python\0/opt/vedette/current/bin/vedette\0run\0",
                                 "maps": f"7f00-7f01 r-xp 0 08:01 1 /data/opt/vedette/versions/{running}/lib/numpy.so\n"}[seen])
    (served.trial / "pid").write_text("4321\n")
    for number in ("1.1.0", "1.2.0"):
        served.version(number)
        said = served.install("--no-start")
    assert f"keeping {running}" in said
    assert served.versions == ["1.0.0", "1.1.0", "1.2.0"]
    (served.trial / "pid").write_text("0\n")
    served.install()
    assert served.versions == ["1.1.0", "1.2.0"]


def test_a_fault_of_both_versions_is_said(served):
    served.version("1.1.0")
    served.go_wrong("restart 1.1.0", "restart 1.0.0")
    assert "did not get ready either" in served.install(code=1)
    assert served.current == "1.0.0"


def test_a_service_that_was_stopped_is_so_again_after_a_failed_upgrade(served):
    (served.trial / "active").write_text("inactive\n")
    (served.trial / "running").write_text("")
    served.version("1.1.0")
    served.go_wrong("restart 1.1.0")
    served.install(code=1)
    assert (served.current, served.running, served.said("active")) == ("1.0.0", "", "inactive")


def test_what_a_run_that_was_cut_off_left_is_cleared_away(served):
    half = served.root / "opt/vedette/versions/1.0.5-20260101T000000Z"
    half.mkdir()
    (served.root / "opt/vedette/current.new").symlink_to("versions/nowhere")
    served.version("1.1.0")
    served.install()
    assert served.versions == ["1.0.0", "1.1.0"]
    assert not (served.root / "opt/vedette/current.new").is_symlink()


def test_a_disabled_service_stays_so(served):
    served.install("--no-start")
    (served.trial / "enabled").write_text("disabled\n")
    (served.trial / "active").write_text("inactive\n")
    served.version("1.1.0")
    assert "is disabled and stays so" in served.install()
    assert (served.current, served.said("enabled"), served.said("active")) == ("1.1.0", "disabled", "inactive")


def test_no_start(box):
    box.configure()
    assert "not started, as you asked" in box.install("--no-start")
    assert (box.current, box.said("enabled"), box.running) == ("1.0.0", "enabled", "")


def test_roll_back_and_forward_without_the_checkout(served):
    served.version("1.1.0")
    served.install()
    shutil.rmtree(served.source)
    kept = served.root / "opt/vedette/current/share/vedette/install.sh"
    for number in ("1.0.0", "1.1.0"):
        served.install("--rollback", script=kept)
        assert (served.current, served.running, served.unit()) == (number,) * 3
    assert served.versions == ["1.0.0", "1.1.0"]


def test_a_rollback_that_fails_goes_forward_again(served):
    served.version("1.1.0")
    served.install()
    served.go_wrong("restart 1.0.0")
    served.install("--rollback", code=1)
    assert (served.current, served.running, served.versions) == ("1.1.0", "1.1.0", ["1.0.0", "1.1.0"])


def test_no_version_to_go_back_to(served):
    assert "there is no other version" in served.install("--rollback", code=1)


@pytest.mark.parametrize("arguments", [[], ["--reinstall"], ["--rollback"], ["--uninstall"], ["--uninstall", "--purge"]])
def test_a_dry_run_changes_nothing(served, arguments):
    served.version("1.1.0")
    served.install()
    served.version("1.2.0")
    before = served.tree()
    said = served.install("--dry-run", *arguments)
    assert served.tree() == before
    assert "would run: " in said
    assert not any(line.split()[0] in {"usermod", "userdel", "apt-get", "systemd-sysusers", "systemd-tmpfiles"} for line in served.said("acts").splitlines())
    assert not any(line.startswith(f"systemctl {act}") for line in served.said("acts").splitlines() for act in ("restart", "stop", "enable", "disable", "daemon-reload"))


def test_a_dry_run_on_a_new_box_names_every_act(box):
    before = box.tree()
    said = box.install("--dry-run")
    assert box.tree() == before
    assert said.count("dry run: nothing was changed") == 1
    assert "warning: " not in said
    for act in ("would make: ", "systemd-sysusers", "systemd-tmpfiles", "vedette.service", "vedette-tune.service", "mv -T", "vedette-setup", "daemon-reload", "enable"):
        assert act in said


def test_a_dry_run_tells_what_the_real_run_would_refuse(box):
    (box.root / "run/systemd/system").rmdir()
    assert "the real run would end here: systemd does not run on this machine" in box.install("--dry-run")
    assert "install.sh: systemd does not run on this machine" in box.install(code=1)


def test_uninstall_keeps_what_is_the_operators(box):
    empty = box.tree()
    box.configure()
    box.install()
    own = box.root / "etc/systemd/system/vedette.service.d/override.conf"
    own.write_text("[Service]\nMemoryMax=1G\n")
    (box.root / "var/lib/vedette").mkdir()
    said = box.install("--uninstall")
    left = sorted(name for name in box.tree() if name not in empty and not name.startswith("etc/vedette"))
    assert left == ["etc/systemd", "etc/systemd/system", "etc/systemd/system/vedette.service.d", "etc/systemd/system/vedette.service.d/override.conf", "opt", "usr/local/sbin", "var/lib/vedette"]
    assert (box.root / "etc/vedette/config.toml").read_text().startswith("[source.door]")
    assert (box.running, box.said("enabled")) == ("", "disabled")
    assert "vedette" in box.said("users")
    assert "--uninstall --purge" in said
    box.install("--uninstall")  # again: nothing left to do is no fault


def test_purge_leaves_nothing(box):
    # What every box has already.
    for name in ("opt", "etc/systemd/system", "usr/local/sbin"):
        (box.root / name).mkdir(parents=True)
    empty = box.tree()
    box.configure()
    box.install()
    (box.root / "etc/vedette/credentials/door").write_text("secret")
    (box.root / "etc/systemd/system/vedette.service.d/override.conf").write_text("[Service]\n")
    (box.root / "var/lib/vedette").mkdir()
    (box.root / "var/lib/vedette/spool.db").write_text("events")
    box.install("--uninstall", "--purge")
    assert box.tree() == empty
    assert (box.said("users"), "vedette" in box.said("groups")) == ("root", False)


def test_another_programs_command_of_that_name_stays(served):
    link = served.root / "usr/local/bin/vedette"
    link.unlink()
    link.symlink_to("/usr/bin/true")
    served.install("--uninstall")
    assert link.is_symlink()


def test_offline_takes_all_from_the_wheelhouse(box):
    folder = box.wheelhouse("1.0.0")
    box.install("--offline", str(folder))
    pip = [line for line in box.said("acts").splitlines() if " pip " in line]
    assert any(f"--no-index --find-links {folder} {folder}/vedette-1.0.0-py3-none-any.whl[cpu,build]" in line for line in pip)
    assert all("--isolated" in line for line in pip)
    assert not any(" wheel " in line for line in pip)


def test_a_wheelhouse_with_pip_does_without_debians_venv(box):
    folder = box.wheelhouse("1.0.0")
    box.go_wrong("no venv")
    assert "python3.11-venv is missing" in box.install("--offline", str(folder), code=1)
    wheel = folder / "pip-26.0-py3-none-any.whl"
    wheel.write_text("pip")
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{hashlib.sha256(b'pip').hexdigest()}  {wheel.name}\n")
    box.install("--offline", str(folder))
    assert re.search(rf"-m zipfile -e {re.escape(str(wheel))} \S*/versions/1.0.0-\S+/lib/python3.11/site-packages$", box.said("acts"), re.MULTILINE)
    assert "--without-pip" in box.said("acts")


def made_pip(folder, number, needs):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"pip-{number}-py3-none-any.whl", "w") as file:
        file.writestr(f"pip-{number}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: pip\nVersion: {number}\nRequires-Python: {needs}\n")


def found_pip(*folders):
    """What the snippet of install.sh prints under the Python of this test."""
    snippet = re.search(r"find_pip\(\).*?-c '(.*?)'", (ROOT / "deploy/install.sh").read_text(), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", snippet, *map(str, folders)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_newest_pip_that_takes_this_python(tmp_path):
    """One folder may serve several Pythons."""
    for number, needs in {"9.0.3": ">=3.6", "10.1": "!=3.9.0,>=3.8", "99.0": ">=3.90"}.items():
        made_pip(tmp_path / "wheels [1]", number, needs)
    assert found_pip(tmp_path / "wheels [1]") == str(tmp_path / "wheels [1]/pip-10.1-py3-none-any.whl")
    assert "pip-" in found_pip(tmp_path), "that of the Python itself, where the folder has none"


@pytest.mark.parametrize(("numpy", "kept"), [("1.24.2", False), ("1.26.4", False), ("1.21.5", True)])
def test_a_jetsons_own_opencv_and_numpy_are_not_hidden(box, numpy, kept):
    """JetPack 6 has numpy 1.21.5, too old for vedette: then a newer one of the same major number, which its OpenCV takes."""
    (box.root / "etc/nv_tegra_release").write_text("# R36 (release)\n")
    (box.trial / "numpy").write_text(f"{numpy}\n")
    (box.trial / "cv2").write_text("4.8.0\n")
    said = box.install()
    pip = [line for line in box.said("acts").splitlines() if " pip " in line]
    assert any("-py3-none-any.whl[build] -r " in line and line.endswith("numpy<2") for line in pip)
    assert box.said("cpu.txt") == "onnxruntime<2,>=1.19"
    assert any("uninstall --quiet --yes numpy" in line for line in pip) != kept
    assert ("too old" in said) == kept


def test_a_jetson_without_opencv_gets_one_and_a_warning(box):
    (box.root / "etc/nv_tegra_release").write_text("# R36 (release)\n")
    box.go_wrong("pycuda")
    said = box.install()
    assert "[cpu,build]" in box.said("acts")
    assert "this Jetson has no OpenCV of its own" in said
    assert "TensorRT cannot be used" in said


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "vedette-1.0.0-py3-none-any.whl").write_text("other"), "wheels are not what"),
    (lambda folder: (folder / "SHA256SUMS").unlink(), "has no SHA256SUMS"),
    (lambda folder: (folder / "numpy-9-py3-none-any.whl").write_text("planted"), "numpy-9-py3-none-any.whl is not listed"),
])
def test_a_damaged_wheelhouse_is_refused(box, damage, message):
    folder = box.wheelhouse("1.0.0")
    damage(folder)
    before = box.tree()
    assert message in box.install("--offline", str(folder), code=1)
    assert {**before, "opt": box.tree()["opt"]} == box.tree()


def test_a_wheelhouse_of_another_version_is_refused(box):
    assert "holds no vedette 1.0.0" in box.install("--offline", str(box.wheelhouse("2.0.0")), code=1)


@pytest.mark.parametrize(("faults", "code", "message"), [
    (["not root"], 1, "only root may install"),
    (["deb"], 1, "installed here by its .deb"),
    (["old python"], 1, "is no Python of 3.10 to 3.13"),
    (["no venv", "apt-get"], 1, "apt-get install python3.11-venv"),
    (["no systemd", "apt-get"], 0, "warning: "),
    (["no venv", "no systemd"], 0, "installing Debian packages: python3.11-venv python3-systemd"),
])
def test_what_the_box_lacks(box, faults, code, message):
    box.go_wrong(*faults)
    assert message in box.install(code=code)
    assert box.current == ("" if code else "1.0.0")


def test_where_systemd_does_not_run(box):
    (box.root / "run/systemd/system").rmdir()
    assert "systemd does not run on this machine" in box.install(code=1)


def test_a_disk_without_room(box):
    box.program(box.root / "trial-bin/df", "#!/bin/sh\nprintf 'Filesystem\\n/dev/vda 1 1 200 99%% /\\n'\n")
    assert "200 MB free, a version takes up to 900 MB" in box.install(code=1)


def test_the_environment_of_a_deb_is_left_alone(box):
    (box.root / "opt/vedette/current").mkdir(parents=True)
    assert "is a folder, not the link" in box.install(code=1)


@pytest.mark.parametrize("arguments", [["--colour"], ["--offline"], ["--purge"], ["--root", "/nowhere"]])
def test_wrong_usage(box, arguments):
    assert "mend: " in box.install(*arguments, code=64)


@pytest.mark.parametrize("name", ["deploy/install.sh", "deploy/vedette-setup", "deploy/deb/build"])
def test_help_tells_every_option(name):
    text = (ROOT / name).read_text()
    said = subprocess.run(["/bin/sh", ROOT / name, "--help"], capture_output=True, text=True, check=True).stdout
    for option in {word for line in text.splitlines() if line.lstrip().startswith("--") and ") " in line for word in line.split(")")[0].replace("|", " ").split()} - {"-h", "--help"}:
        assert option in said


def test_the_scripts_are_sound():
    for name in ("deploy/install.sh", "deploy/vedette-setup", "deploy/deb/build", *(f"deploy/deb/debian/{each}" for each in ("preinst", "postinst", "prerm", "postrm"))):
        assert subprocess.run(["/bin/sh", "-n", ROOT / name], check=False).returncode == 0
    if shutil.which("shellcheck"):
        # SC2317, SC2015: functions called by name, and `a && b || fail`, which is meant.
        subprocess.run(["shellcheck", "-e", "SC2317,SC2015", ROOT / "deploy/install.sh", ROOT / "deploy/vedette-setup", ROOT / "deploy/deb/build"], check=True)


def test_script_and_package_compile_the_same():
    said = {re.search(r"^UNUSED ?= ?'?([^'\n]*)", (ROOT / name).read_text(), re.MULTILINE)[1] for name in ("deploy/install.sh", "deploy/deb/debian/rules")}
    assert len(said) == 1


def test_two_at_once_are_refused(box):
    assert isinstance(box, MadeRoot)
    (box.root / "opt").mkdir()
    with subprocess.Popen(["flock", str(box.root / "opt"), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdin.write(b"x")
        holder.stdin.flush()
        holder.stdout.read(1)
        assert "another install.sh is at work" in box.install(code=1)
        holder.stdin.close()
