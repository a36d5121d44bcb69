"""What the .deb's scripts do around an upgrade, on a made box: stopped before the files change, started again after it."""

import os
import subprocess

import pytest

from tests.unit.deploy.made_root import HEAD, ROOT, MadeRoot

MARK = "run/vedette-before-upgrade"
# As Debian's: it starts none that is disabled, and says nothing of it in its code.
INVOKE = r"""
case $1 in
    stop) systemctl stop vedette.service ;;
    restart) ! grep -q ^enabled $t/enabled || systemctl restart vedette.service ;;
esac
"""


@pytest.fixture
def packaged(served):
    """A box whose service runs, with the commands that the scripts call."""
    MadeRoot.program(served.root / "trial-bin/deb-systemd-invoke", HEAD + INVOKE)
    for name in ("install", "vedette-setup"):
        MadeRoot.program(served.root / "trial-bin" / name, HEAD)
    MadeRoot.program(served.root / "trial-bin/vedette", (served.root / "opt/vedette/current/bin/vedette").read_text())
    return served


def script(box, name, *arguments, code=0):
    """Run a maintainer's script with this box's folders in place of the machine's, and return what it printed."""
    text = (ROOT / "deploy/deb/debian" / name).read_text()
    for folder in ("/run/", "/etc/vedette"):
        text = text.replace(f"={folder}", f"={box.root}{folder}").replace(f" {folder}", f" {box.root}{folder}").replace(f">{folder}", f">{box.root}{folder}")
    # The configuration check gets its file from the agent's own default; the stand-in wants it said.
    text = text.replace("vedette config check 2>&1", f"vedette config check --config {box.root}/etc/vedette/config.toml 2>&1")
    (box.trial / "acts").write_text("")
    done = subprocess.run(["/bin/sh", "-c", text, name, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=30,
                          env={**os.environ, "TRIAL_BOX": str(box.root), "PATH": f"{box.root}/trial-bin:{os.environ['PATH']}"})
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.mark.parametrize("enabled", ["enabled", "disabled"])
def test_it_is_stopped_while_its_files_change_and_runs_again(packaged, enabled):
    (packaged.trial / "enabled").write_text(f"{enabled}\n")
    script(packaged, "prerm", "upgrade", "1.1.0")
    assert (packaged.said("active"), packaged.running) == ("inactive", "")
    script(packaged, "postinst", "configure", "1.0.0")
    assert (packaged.said("active"), packaged.running) == ("active", "1.0.0")
    assert not (packaged.root / MARK).exists()


def test_one_that_was_stopped_stays_so(packaged):
    (packaged.trial / "active").write_text("inactive\n")
    script(packaged, "prerm", "upgrade", "1.1.0")
    assert "was stopped before and stays so" in script(packaged, "postinst", "configure", "1.0.0")
    assert packaged.said("active") == "inactive"
    assert not (packaged.root / MARK).exists()


@pytest.mark.parametrize("was", ["failed", ""])
def test_one_that_had_failed_or_is_new_is_started(packaged, was):
    (packaged.trial / "active").write_text(f"{was or 'inactive'}\n")
    if was:
        script(packaged, "prerm", "upgrade", "1.1.0")
    script(packaged, "postinst", "configure", *(["1.0.0"] if was else []))
    assert packaged.said("active") == "active"


@pytest.mark.parametrize(("fault", "message"), [("restart 1.0.0", "it did not get ready"), ("config 1.0.0", "does not take its configuration: config.toml: no source")])
def test_an_upgrade_that_leaves_nothing_running_fails_and_can_be_done_again(packaged, fault, message):
    script(packaged, "prerm", "upgrade", "1.1.0")
    packaged.go_wrong(fault)
    said = script(packaged, "postinst", "configure", "1.0.0", code=1)
    assert message in said
    assert "mend: " in said
    assert "dpkg --configure vedette" in said
    packaged.go_wrong()
    script(packaged, "postinst", "configure", "1.0.0")
    assert packaged.running == "1.0.0"


@pytest.mark.parametrize("before", [("1.0.0",), ()])
def test_a_camera_that_is_not_there_is_told_and_hinders_nothing(packaged, before):
    if before:
        script(packaged, "prerm", "upgrade", "1.1.0")
    else:
        (packaged.trial / "active").write_text("inactive\n")
    packaged.go_wrong("camera")
    said = script(packaged, "postinst", "configure", *before)
    assert "warning: source.door.url: /dev/video99" in said
    assert "mend: plug the camera in" in said
    assert ": well" not in said
    assert packaged.running == "1.0.0"


def test_without_a_configuration_a_new_one_waits_for_it(packaged):
    (packaged.trial / "active").write_text("inactive\n")
    packaged.go_wrong("config 1.0.0")
    assert "installed, not started yet" in script(packaged, "postinst", "configure")
    assert "restart" not in packaged.said("acts")


def test_an_upgrade_that_is_taken_back_is_not_hindered(packaged):
    script(packaged, "prerm", "upgrade", "1.1.0")
    script(packaged, "postinst", "abort-upgrade", "1.1.0")
    assert packaged.running == "1.0.0"
    packaged.go_wrong("restart 1.0.0")
    assert "it did not get ready" in script(packaged, "postinst", "abort-upgrade", "1.1.0")
