"""A made box below a folder: stand-ins for the commands that act on a system, which keep what they did in plain files.

``install.sh --root`` and ``vedette-setup --root`` take every command that could change this machine from ``trial-bin``.
What the stand-ins know lies in ``trial``: ``acts`` (all calls), ``active`` and ``enabled`` (the service's state),
``running`` (the version that was started), ``users``, ``groups`` (those that exist), ``member`` (vedette's) and
``faults`` (one a line: what is to go wrong), ``pid`` (the service's process, looked up below ``proc``), ``numpy`` and ``cv2`` (the versions the system has).
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# They know the box by the environment, so that a made box can be copied; and fork little, for hundreds of them run.
HEAD = r"""#!/bin/sh
box=$TRIAL_BOX
t=$box/trial
case "$1 $2" in "-c "* | "-s -c"*) ;; *) echo "${0##*/} $*" >>"$t/acts" ;; esac
fault() { while read -r each; do [ "$each" != "$1" ] || return 0; done <"$t/faults"; return 1; }
"""
STAND_INS = {
    "systemctl": r"""
version() { readlink "$box/opt/vedette/current" | sed 's/.*\///'; }
number() { version | sed 's/-.*//'; }
case $1 in
    is-active) [ "$(cat $t/active)" = active ] && ! fault "gone $(number)"; code=$?; [ "$2" = --quiet ] || cat $t/active; exit $code ;;
    is-enabled) cat $t/enabled; grep -q ^enabled $t/enabled ;;
    is-failed) exit 1 ;;
    show) case "$*" in *ActiveState*) cat $t/active ;; *MainPID*) case $* in *vedette.service) cat $t/pid ;; *) echo 0 ;; esac ;; esac ;;
    start) echo active >$t/active; version >$t/running ;;
    daemon-reload) ! fault "reload $(number)" ;;
    enable) fault enable && exit 1; echo enabled >$t/enabled ;;
    disable) echo disabled >$t/enabled; echo inactive >$t/active; : >$t/running ;;
    stop) echo inactive >$t/active; : >$t/running ;;
    restart)
        if fault "ctrl-c $(number)"; then kill -TERM $PPID; fi
        if fault "restart $(number)"; then echo failed >$t/active; : >$t/running; exit 1; fi
        echo active >$t/active; version >$t/running ;;
    *) exit 64 ;;
esac""",
    "id": 'case $1 in -u) fault "not root" && echo 1000 || echo 0 ;; -nG) cat $t/member ;; esac',
    "getent": 'case $1 in passwd) grep -qx "$2" $t/users ;; group) grep -qx "$2" $t/groups ;; esac',
    "usermod": 'fault usermod && exit 1; echo "$(cat $t/member) $3" >$t/member',
    "userdel": 'sed -i "/^$1$/d" $t/users',
    "groupdel": 'sed -i "/^$1$/d" $t/groups',
    "systemd-sysusers": "fault sysusers && exit 1; grep -qx vedette $t/users || { echo vedette >>$t/users; echo vedette >>$t/groups; echo vedette >$t/member; }",
    "systemd-tmpfiles": "fault tmpfiles && exit 1; cd $box/etc/vedette && mkdir -p conf.d credentials && chmod 700 credentials && chmod 640 config.toml",
    "apt-get": "! fault apt-get || exit 100; [ $1 != install ] || sed -i '/^no /d' $t/faults",
    "dpkg-query": "fault deb && printf installed || exit 1",
    "chown": "",
    "sync": '! fault "sync ${2##*/}"',
    "sleep": "",
}
# A Python that makes environments and installs in no time; what it installs is a shell script that says its version.
PYTHON = r"""
here=$(readlink -f "$0"); env=${here%/bin/python}
[ "$1" != -s ] || shift
case "$1 $2" in
    "-c import venv"*) ;;
    "-c "*ensurepip*) [ -z "$3" ] || pip=$(ls "$3"/pip-*.whl 2>/dev/null); [ -n "$pip" ] || fault "no venv" || pip=/usr/share/python-wheels/pip-23.0.1-py3-none-any.whl; echo "$pip" ;;
    "-c import systemd"*) ! fault "no systemd" ;;
    "-c import sys; sys.exit(not"*) ! fault "old python" ;;
    "-c import sys; print("*) echo 3.11 ;;
    "-c import numpy;"*) grep . "$t/numpy" ;;
    "-c import cv2;"*) grep . "$t/cv2" ;;
    "-c import sys, numpy;"*) grep -q '^1\.2[4-9]' "$t/numpy" ;;
    "-c import pycuda"*) exit 1 ;;
    "-c "*Requires-Dist*) printf 'onnxruntime<2,>=1.19\nopencv-python-headless<5,>=4.8\n' ;;
    "-c "*) if fault imports; then echo "No module named cv2" >&2; exit 1; fi ;;
    "-m venv")
        fault venv && exit 1
        for env; do :; done
        mkdir -p "$env/bin" "$env/lib" && cp "$here" "$env/bin/python" && echo "include-system-site-packages = false" >"$env/pyvenv.cfg" ;;
    "-m zipfile") [ -n "$4" ] && mkdir -p "$5" ;;
    "-m compileall") ;;
    "-m pip")
        for last; do :; done
        [ ! -f "$TMPDIR/cpu.txt" ] || cp "$TMPDIR/cpu.txt" "$t/"
        case " $* " in
            *" wheel "*) fault wheel && exit 1; number=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$last/agent/__init__.py"); echo "$number" >"$TMPDIR/vedette-$number-py3-none-any.whl" ;;
            *" check "*) if fault check; then echo "numpy 3 is not what onnx wants"; exit 1; fi ;;
            *" install "*)
                case $last in pycuda*) ! fault pycuda; exit ;; esac
                if fault "cut off"; then kill -TERM $PPID; exit 0; fi
                if fault pip; then echo "ERROR: No matching distribution found" >&2; exit 1; fi
                number=${env##*/}; number=${number%%-*}
                sed "s/NUMBER/$number/g" "$t/vedette" >"$env/bin/vedette"; chmod +x "$env/bin/vedette" ;;
        esac ;;
    *) exit 64 ;;
esac
"""
VEDETTE = r"""
[ "$ORT_DISABLE_TELEMETRY" = 1 ] || echo "would report to the maker of ONNX Runtime" >>"$t/acts"
case "$1 $2" in
    "--version ") if fault start; then echo "Illegal instruction" >&2; exit 132; fi; fault mixed && echo "vedette, version 9" || echo "vedette, version NUMBER" ;;
    "config check") if fault "config NUMBER" || ! grep -q '^\[source' "$4"; then echo "config.toml: no source" >&2; exit 78; fi
        if fault camera; then printf 'warning: source.door.url: /dev/video99: No such file or directory\n  mend: plug the camera in, or correct the address\n'; fi; echo "$4: well" ;;
esac
"""


class MadeRoot:
    """A box with systemd on it and nothing of vedette, and a checkout of a made version of it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.source = folder / "box", folder / "check out"
        self.trial = self.root / "trial"
        for name in ("trial", "trial-bin", "run/systemd/system", "var/tmp", "var/lib", "etc", "proc", "dev", "usr/local/bin", "usr/local/lib"):
            (self.root / name).mkdir(parents=True)
        (self.root / "proc/meminfo").write_text("MemTotal:        8000000 kB\n")
        for name, text in {"active": "inactive\n", "enabled": "", "running": "", "users": "root\n", "groups": "video\nrender\n", "member": "", "faults": "", "acts": "", "numpy": "", "cv2": "", "pid": "0\n"}.items():
            (self.trial / name).write_text(text)
        for name, text in {**STAND_INS, "python3": PYTHON}.items():
            self.program(self.root / "trial-bin" / name, HEAD + text)
        (self.trial / "vedette").write_text(HEAD + VEDETTE)
        for name in ("deploy", "systemd"):
            shutil.copytree(ROOT / name, self.source / name, ignore=shutil.ignore_patterns("deb", "dev", "upstream"))
        (self.source / "engines").mkdir()
        self.version("1.0.0")

    def copy(self, folder: Path) -> "MadeRoot":
        """Return a box like this one in another folder."""
        made = object.__new__(MadeRoot)
        made.root, made.source, made.trial = folder / "box", folder / "check out", folder / "box/trial"
        shutil.copytree(self.root.parent, folder, symlinks=True, dirs_exist_ok=True)
        return made

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def version(self, number: str) -> None:
        """Make the checkout one of this version; its unit says so as well."""
        (self.source / "agent").mkdir(exist_ok=True)
        (self.source / "agent/__init__.py").write_text(f'"""."""\n\n__version__ = "{number}"\n')
        (self.source / "pyproject.toml").write_text(f"# {number}\n")
        unit = self.source / "systemd/vedette.service"
        unit.write_text(re.sub(r"^# version .*\n", "", unit.read_text(), flags=re.MULTILINE) + f"# version {number}\n")

    def wheelhouse(self, number: str) -> Path:
        """Make a folder of one wheel, with its sum."""
        folder = self.root.parent / "wheels"
        folder.mkdir(exist_ok=True)
        wheel = folder / f"vedette-{number}-py3-none-any.whl"
        wheel.write_text(number)
        (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n")
        return folder

    def go_wrong(self, *faults: str) -> None:
        (self.trial / "faults").write_text("".join(f"{fault}\n" for fault in faults))

    def configure(self, text: str = '[source.door]\nurl = "rtsp://192.0.2.7/"\n') -> None:
        (self.root / "etc/vedette").mkdir(exist_ok=True)
        (self.root / "etc/vedette/config.toml").write_text(text)

    def install(self, *arguments: str, code: int = 0, script: Path | None = None) -> str:
        """Run install.sh and return what it printed, both streams together."""
        said = self._run(script or self.source / "deploy/install.sh", "--root", self.root, "--python", self.root / "trial-bin/python3", *arguments)
        assert said.returncode == code, said.stdout
        return said.stdout

    def setup(self, *arguments: str, code: int = 0) -> str:
        said = self._run(self.source / "deploy/vedette-setup", "--root", self.root, *arguments)
        assert said.returncode == code, said.stdout
        return said.stdout

    def _run(self, *words) -> subprocess.CompletedProcess:
        (self.trial / "acts").write_text("")
        return subprocess.run(["/bin/sh", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False, timeout=60,
                              env={**os.environ, "TRIAL_BOX": str(self.root)})

    def said(self, name: str) -> str:
        return (self.trial / name).read_text().strip()

    @property
    def current(self) -> str:
        """The number of the version in use; empty when there is none."""
        link = self.root / "opt/vedette/current"
        return link.readlink().name.split("-")[0] if link.is_symlink() else ""

    @property
    def running(self) -> str:
        """The number of the version that was started last and still runs."""
        return self.said("running").split("-")[0]

    @property
    def versions(self) -> list[str]:
        """The numbers of all versions that are there, in the order of their folders."""
        return [folder.name.split("-")[0] for folder in sorted((self.root / "opt/vedette/versions").glob("*"))]

    def unit(self) -> str:
        """The version that the unit file in use belongs to."""
        return re.search(r"^# version (.*)", (self.root / "usr/local/lib/systemd/system/vedette.service").read_text(), re.MULTILINE)[1]

    def tree(self) -> dict[str, str]:
        """Every file, link and folder of the box but the stand-ins' own, with a sum of what is in it."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if name.startswith("trial"):
                continue
            if path.is_symlink():
                found[name] = str(path.readlink())
            else:
                found[name] = f"{path.stat().st_mode:o} " + (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder")
        return found
