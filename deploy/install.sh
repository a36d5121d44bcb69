#!/bin/sh
# install.sh: install, upgrade, roll back or remove vedette as a service of this box. Run it as root.
#
#   deploy/install.sh [OPTIONS]                install, or upgrade, to the version this folder holds
#   deploy/install.sh --rollback               back to the version that ran before
#   deploy/install.sh --uninstall [--purge]    remove it; --purge: settings, secrets, state and user too
#
#   --offline DIR   no network: every package comes from this folder of wheels, which deploy/wheelhouse makes; each is
#                   compared with the folder's SHA256SUMS
#   --python PATH   the Python to use, 3.10 to 3.13 (default: /usr/bin/python3)
#   --extras LIST   optional parts beside those that are needed, for example zstd,nvml
#   --no-start      install and enable, do not start or restart
#   --reinstall     even if this very version is there already
#   --dry-run       print every act, change nothing
#   --root DIR      for trials: write below this folder, which has stand-ins for systemctl and the like in DIR/trial-bin
#
# Each version has a folder of its own below /opt/vedette/versions; /opt/vedette/current points to the one in use. It is
# switched at once, after the new version has passed its checks. When the new one does not get ready, the old one is
# put back and started again. A box that loses power in between boots the new version, unproven as it is: both are whole
# on the disk by then, and --rollback goes back by hand. Settings (/etc/vedette) and state (/var/lib/vedette) are never
# overwritten. Running it again changes nothing and mends what is missing. Exit code: 0 done, 1 failed, 64 wrong usage.
set -u
umask 022
# ONNX Runtime would report to its maker, and leave a device id in the home of whoever imports it.
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 ORT_DISABLE_TELEMETRY=1

here=$(dirname -- "$(readlink -f -- "$0")")
NEEDED_MB=900
UNITS='vedette.service vedette-tune.service'
ACTING='id chown systemctl systemd-sysusers systemd-tmpfiles usermod userdel groupdel getent apt-get dpkg-query'
# Most of what the packages hold and nothing here imports: compiling it would take three times as long as the rest.
UNUSED='/tests?/|/pip/|/pygments/(lexers|styles)/|/onnxruntime/(tools|transformers/(?!__init__|float16|fusion_utils|onnx_))|/onnx/(backend|reference/ops)/|/numpy/(distutils|f2py|testing)/'
SHARED='install.sh vedette-setup vedette.service vedette-tune.service vedette.sysusers vedette.tmpfiles config.toml'

mode=install purge='' offline='' python=/usr/bin/python3 extras='' start=yes again='' dry='' root=''
work='' new='' before='' switched='' began=$(date +%s)

say() { printf '%3d s  %s\n' "$(($(date +%s) - began))" "$*"; }
report() { if [ -n "$dry" ]; then say "dry run: nothing was changed"; else say "$@"; fi; }
warn() { printf '%s\n' "install.sh: warning: $1" "  mend: $2" >&2; }
fail() { # WHAT MEND [CODE]
    printf '%s\n' "install.sh: $1" "  mend: $2" >&2
    exit "${3:-1}"
}
refuse() { # WHAT MEND: a dry run goes on, and says so
    [ -n "$dry" ] || fail "$@"
    warn "the real run would end here: $1" "$2"
}
run() { # do it, or print it
    if [ -n "$dry" ]; then printf '       would run: %s\n' "$*"; else "$@"; fi
}
systemd() { run systemctl "$@"; }

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --offline | --python | --extras | --root)
                [ $# -gt 1 ] && [ -n "$2" ] || fail "$1 needs a value" "deploy/install.sh --help" 64 ;;
        esac
        case $1 in
            --dry-run) dry=yes ;;
            --uninstall) mode=uninstall ;;
            --rollback) mode=rollback ;;
            --purge) purge=yes ;;
            --no-start) start='' ;;
            --reinstall) again=yes ;;
            --offline) offline=$2; shift ;;
            --python) python=$2; shift ;;
            --extras) extras=$2; shift ;;
            --root) root=${2%/}; shift ;;
            --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
            *) fail "unknown argument $1" "deploy/install.sh --help" 64 ;;
        esac
        shift
    done
    [ -z "$purge" ] || [ "$mode" = uninstall ] || fail "--purge goes with --uninstall only" "deploy/install.sh --uninstall --purge" 64
    [ -z "$root" ] || use_stand_ins
    opt=$root/opt/vedette etc=$root/etc/vedette lib=$root/usr/local/lib local=$root/usr/local
}

use_stand_ins() { # so that a trial never touches this machine's own services and users
    for command in $ACTING; do
        [ -x "$root/trial-bin/$command" ] || fail "--root: $root/trial-bin has no stand-in for $command" "--root is for trials only; leave it out" 64
    done
    PATH=$root/trial-bin:$PATH
}

# --- is this a box it can go on? -------------------------------------------------------------------------------------

check_box() {
    [ -n "$dry" ] || [ "$(id -u)" -eq 0 ] || fail "only root may install a service" "sudo deploy/install.sh"
    [ -d "$root/run/systemd/system" ] ||
        refuse "systemd does not run on this machine ($root/run/systemd/system is not there)" "install on a box that systemd has started; in a container use \`vedette run\`"
    case $(dpkg-query -W -f '${db:Status-Status}' vedette 2>/dev/null) in
        '' | not-installed | config-files) ;;
        *) fail "vedette is installed here by its .deb" "upgrade it with apt, or first: apt remove vedette" ;;
    esac
    [ ! -d "$opt/current" ] || [ -L "$opt/current" ] ||
        fail "$opt/current is a folder, not the link this script makes" "if nothing needs it: rm -r $opt/current"
    if [ -n "$dry" ]; then return; fi
    mkdir -p "$root/opt" && exec 9<"$root/opt" && flock -n 9 || fail "another install.sh is at work" "wait until it has ended"
}

find_before() {
    before=$(readlink "$opt/current" 2>/dev/null) || before=''
    before=${before#versions/}
    [ -e "$opt/versions/$before/complete" ] || before=''
}

check_source() {
    for file in $SHARED; do
        [ -f "$(source_of "$file")" ] || fail "$(source_of "$file") is not there" "run install.sh from a checkout or an unpacked sdist of vedette"
    done
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$here/../agent/__init__.py" 2>/dev/null)
    [ -n "$version" ] || fail "$here/../agent/__init__.py tells no version" "run install.sh from a checkout or an unpacked sdist of vedette"
}

source_of() {
    case $1 in
        install.sh | vedette-setup) echo "$here/$1" ;;
        config.toml) echo "$here/config/$1" ;;
        *) echo "$here/../systemd/$1" ;;
    esac
}

check_python() {
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null ||
        fail "$python is no Python of 3.10 to 3.13" "name one: --python /usr/bin/python3.11"
    minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    missing=''
    can_make_environments || missing="python$minor-venv"
    "$python" -s -c 'import systemd.daemon' 2>/dev/null || missing="$missing python3-systemd"
    if [ -z "$missing" ]; then return; fi
    if [ -z "$offline" ] && command -v apt-get >/dev/null; then
        say "installing Debian packages: $missing"
        export DEBIAN_FRONTEND=noninteractive
        run apt-get update -qq || say "the package lists could not be refreshed; trying with what is known"
        # shellcheck disable=SC2086  # one word a package
        run apt-get install -y -qq --no-install-recommends $missing || warn "apt-get could not install $missing" "apt-get install $missing"
        if [ -n "$dry" ]; then return; fi
    fi
    can_make_environments ||
        fail "$python cannot make environments: python$minor-venv is missing" "apt-get install python$minor-venv, from your own mirror where there is no network"
    "$python" -s -c 'import systemd.daemon' 2>/dev/null ||
        warn "$python has no systemd module: the journal gets plain lines without fields" "apt-get install python3-systemd"
}

can_make_environments() { # Debian has split ensurepip off; a wheelhouse with pip does without it
    pip_wheel=$(find_pip)
    "$python" -c 'import venv' 2>/dev/null && [ -n "$pip_wheel" ]
}

find_pip() { # the newest wheel of pip that takes this Python, of the first place that has one
    "$python" -c '
import email, glob, importlib.util, os, re, sys, zipfile
spec = importlib.util.find_spec("ensurepip")
folders = [*sys.argv[1:], *(["/usr/share/python-wheels", os.path.join(os.path.dirname(spec.origin), "_bundled")] if spec else [])]
for folder in folders:
    fit = []
    for path in glob.glob(os.path.join(glob.escape(folder), "pip-*.whl")):
        with zipfile.ZipFile(path) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            said = email.message_from_bytes(wheel.read(name))
        least = re.search(r">=\s*3\.(\d+)", said["Requires-Python"] or "")
        if not least or sys.version_info[1] >= int(least[1]):
            fit.append(([int(part) for part in re.findall(r"\d+", said["Version"])], path))
    if fit:
        print(max(fit)[1])
        break
' ${offline:+"$offline"} 2>/dev/null
}

check_room() {
    folder=$opt
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    free=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
    [ "${free:-0}" -ge "$NEEDED_MB" ] || fail "$folder has ${free:-?} MB free, a version takes up to $NEEDED_MB MB" "free some, for example: journalctl --vacuum-size=100M; apt-get clean"
}

check_wheelhouse() {
    [ -n "$offline" ] || return 0
    offline=$(readlink -f -- "$offline")
    [ -f "$offline/SHA256SUMS" ] || fail "$offline has no SHA256SUMS" "make the folder with deploy/wheelhouse"
    said=$(cd "$offline" && sha256sum --quiet --check SHA256SUMS 2>&1) ||
        fail "wheels are not what $offline/SHA256SUMS says: $said" "copy the wheelhouse again"
    for wheel in "$offline"/*.whl; do
        grep -q "[ *]\(\./\)\{0,1\}${wheel##*/}\$" "$offline/SHA256SUMS" || fail "$wheel is not listed in SHA256SUMS" "copy the wheelhouse again, or take the file away"
    done
    [ -f "$offline/vedette-$version-py3-none-any.whl" ] ||
        fail "$offline holds no vedette $version, which this install.sh belongs to" "use wheelhouse and install.sh of the same version; it holds: $(cd "$offline" && echo vedette-*.whl)"
}

fingerprint() { # of all that makes a version: when it is the same, there is nothing to build
    {
        echo "$version $minor $extras"
        if [ -n "$offline" ]; then cat "$offline/SHA256SUMS"; else
            (cd "$here/.." && find agent engines pyproject.toml -type f ! -name '*.pyc' | LC_ALL=C sort | xargs -d '\n' sha256sum)
        fi
        for file in $SHARED; do cat "$(source_of "$file")"; done
    } | sha256sum | cut -d ' ' -f 1
}

# --- a new version beside the old one --------------------------------------------------------------------------------

pip() { # its cache would stay behind, and settings bring wheels that are not in the wheelhouse
    PYTHONDONTWRITEBYTECODE='' PYTHONPYCACHEPREFIX="$work/compiled" "$new/bin/python" -m pip ${offline:+--isolated} --disable-pip-version-check --no-cache-dir "$@"
}

build() {
    new=$opt/versions/$version-$(date -u +%Y%m%dT%H%M%SZ)
    if [ -n "$dry" ]; then
        printf '       would make: %s\n' "$new: an environment of $python with vedette $version and all it needs${offline:+, from $offline}"
        return
    fi
    find "$opt/versions" -mindepth 1 -maxdepth 1 -type d ! -exec test -e '{}/complete' ';' -exec rm -rf '{}' + 2>/dev/null # of a run that was cut off
    work=$(mktemp -d "$root/var/tmp/vedette-install.XXXXXX") || fail "no temporary folder in $root/var/tmp" "see the message above"
    export TMPDIR="$work"
    say "making an environment with $python"
    # Without a sight of the system's packages, so that pip leaves nothing out that the system happens to have.
    # pip, which the agent calls to fetch models, is only unpacked: venv would install it, most of a minute on a small box.
    mkdir -p "$opt/versions" && "$python" -m venv --without-pip "$new" &&
        "$python" -m zipfile -e "$pip_wheel" "$new/lib/python$minor/site-packages" || fail "$python could not make the environment $new" "see its message above"
    wheel=$offline/vedette-$version-py3-none-any.whl
    if [ -z "$offline" ]; then
        say "building the wheel of vedette $version"
        pip wheel --quiet --no-deps --wheel-dir "$work" "$here/.." || fail "the wheel could not be built" "see pip's message above; is there a network? else --offline WHEELHOUSE"
        wheel=$work/vedette-$version-py3-none-any.whl
    fi
    say "installing it with all it needs"
    install_packages || fail "pip could not install vedette $version" "see its message above; a wheelhouse must be made for Python $minor on $(uname -m)"
    pip check >"$work/said" || fail "the packages do not fit together: $(cat "$work/said")" "report this as a fault of vedette $version"
    prefer_the_system
    sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' "$new/pyvenv.cfg"
    # Now and on all cores, for its user cannot write here.
    "$new/bin/python" -m compileall -q -j 0 -x "$UNUSED" "$new/lib" >"$work/said" 2>&1 || say "not all could be compiled beforehand"
    mkdir -p "$new/share/vedette"
    for file in $SHARED; do
        install -m 644 "$(source_of "$file")" "$new/share/vedette/$file" || fail "$file could not be copied" "see the message above"
    done
    chmod 755 "$new/share/vedette/install.sh" "$new/share/vedette/vedette-setup"
}

install_packages() {
    if [ ! -e "$root/etc/nv_tegra_release" ]; then
        quiet_pip "${wheel}[cpu,build${extras:+,$extras}]"
        return
    fi
    # A Jetson's own OpenCV has GStreamer; modules built on its numpy need one of the same major number.
    look_at_system
    if [ -n "$system_cv2" ]; then
        wheel_requires cpu | grep -v '^opencv' >"$work/cpu.txt"
        set -- "${wheel}[build${extras:+,$extras}]" -r "$work/cpu.txt"
    else
        warn "this Jetson has no OpenCV of its own: cameras that need GStreamer (csi://) will not open" "apt-get install nvidia-opencv, then install.sh --reinstall"
        set -- "${wheel}[cpu,build${extras:+,$extras}]"
    fi
    [ -z "$system_numpy" ] || set -- "$@" "numpy<$((${system_numpy%%.*} + 1))"
    quiet_pip "$@" || return 1
    if ! "$python" -s -c 'import pycuda.driver' 2>/dev/null; then
        quiet_pip "pycuda>=2024.1" || warn "pycuda could not be installed, so TensorRT cannot be used" "apt-get install cuda-toolkit build-essential python3-dev, then install.sh --reinstall; or a wheelhouse with pycuda"
    fi
}

quiet_pip() {
    if [ -n "$offline" ]; then
        pip install --quiet --no-compile --no-index --find-links "$offline" "$@"
    else
        pip install --quiet --no-compile "$@"
    fi
}

wheel_requires() { # EXTRA: what the wheel asks for under it, one a line
    "$python" -c '
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in metadata.splitlines():
    name, _, value = line.partition(": ")
    requirement, _, marker = value.partition(";")
    if name == "Requires-Dist" and "extra ==" in marker and marker.strip(" \"\x27").endswith(sys.argv[2]):
        print(requirement.strip())
' "$wheel" "$1"
}

look_at_system() {
    system_numpy=$("$python" -s -c 'import numpy; print(numpy.__version__)' 2>/dev/null)
    system_cv2=$("$python" -s -c 'import cv2; print(cv2.__version__)' 2>/dev/null)
}

prefer_the_system() { # numpy of pip goes where the system's is new enough
    [ -e "$root/etc/nv_tegra_release" ] && [ -n "$system_numpy" ] || return 0
    if "$python" -s -c 'import sys, numpy; sys.exit(tuple(map(int, numpy.__version__.split(".")[:2])) < (1, 24))'; then
        pip uninstall --quiet --yes numpy
        say "this Jetson's own numpy $system_numpy and OpenCV ${system_cv2:-(none)} are used"
    else
        say "this Jetson's numpy $system_numpy is too old for vedette: a newer one of the same major number is used beside it"
    fi
}

check_new() { # before anything of the old version is touched
    said=$("$new/bin/vedette" --version 2>&1) || fail "the new version does not start: $said" "report this as a fault of vedette $version"
    case $said in *"$version"*) ;; *) fail "the new version says '$said', not $version" "use install.sh of the version you install" ;; esac
    # shellcheck disable=SC2016  # Python's own text
    said=$("$new/bin/python" -c '
import sys, os
import agent.cli, cryptography, cv2, msgspec, numpy, onnx, onnxruntime, requests, rich
inside = os.path.realpath(cv2.__file__).startswith(os.path.realpath(sys.prefix) + os.sep)
if inside and sys.argv[1]:
    sys.exit("OpenCV of pip, " + cv2.__file__ + ", hides the one of the Jetson")
' "${system_cv2:-}" 2>&1) || fail "the new version lacks something: $said" "report this as a fault of vedette $version"
}

# --- switching -------------------------------------------------------------------------------------------------------

look_at_config() { # VERSION'S FOLDER: set problem to why it does not start with the configuration of this box; '' when it does
    problem="there is no $etc/config.toml"
    [ -f "$etc/config.toml" ] || return 0
    if problem=$(CREDENTIALS_DIRECTORY=$etc/credentials "$1/bin/vedette" config check --config "$etc/config.toml" 2>&1); then
        # What it starts with all the same, a camera that is not there for one.
        printf '%s\n' "$problem" | grep -e '^warning: ' -e '^  mend: ' >&2
        problem=''
    fi
}

lay_out() { # VERSION'S FOLDER: user, folders, units, commands
    share=$1/share/vedette
    run install -D -m 644 "$share/vedette.sysusers" "$lib/sysusers.d/vedette.conf" &&
        run install -D -m 644 "$share/vedette.tmpfiles" "$lib/tmpfiles.d/vedette.conf" &&
        run install -D -m 644 "$share/config.toml" "$etc/config.toml.example" || return 1
    [ -f "$etc/config.toml" ] || run install -m 600 "$share/config.toml" "$etc/config.toml" || return 1
    # The owners and rights of those folders and files are said in vedette.tmpfiles.
    run systemd-sysusers "$lib/sysusers.d/vedette.conf" && run systemd-tmpfiles --create "$lib/tmpfiles.d/vedette.conf" || return 1
    for unit in $UNITS; do
        run install -D -m 644 "$share/$unit" "$lib/systemd/system/$unit" || return 1
    done
    run mkdir -p "$local/bin" "$local/sbin" &&
        run ln -sfn /opt/vedette/current/bin/vedette "$local/bin/vedette" &&
        run ln -sfn /opt/vedette/current/share/vedette/vedette-setup "$local/sbin/vedette-setup"
}

point_to() { # VERSION: at once, so that there is always one
    run ln -sfn "versions/$1" "$opt/current.new" && run mv -T "$opt/current.new" "$opt/current"
}

switch_to() { # VERSION
    lay_out "$opt/versions/$1" && point_to "$1" &&
        run env VEDETTE_INSTALLING=yes "$opt/versions/$1/share/vedette/vedette-setup" ${root:+--root "$root"} && systemd daemon-reload &&
        run sync -f "$opt" "$lib" "$root/etc"
}

remember_before() { # VERSION: which one --rollback goes back to, even if the power fails before this one is ready
    [ -n "$before" ] && [ "$before" != "$1" ] || return 0
    if [ -n "$dry" ]; then return; fi
    echo "$before" >"$opt/versions/$1/before"
}

settled() { # it said that it is ready; is it still there a moment later?
    systemd restart vedette.service || return 1
    if [ -z "$dry" ]; then sleep 2; fi
    systemd is-active --quiet vedette.service
}

looks() { # what a running service was started from: if it is the same afterwards, it need not be restarted
    cat "$lib/systemd/system/vedette.service" "$root"/etc/systemd/system/vedette.service.d/*.conf 2>/dev/null | sha256sum
    readlink "$opt/current"
}

bring_up() { # VERSION: switch to it and start it, or put back what was
    target=$1
    active='' enabled=yes
    case $(systemctl is-active vedette.service 2>/dev/null) in active | activating | reloading) active=yes ;; esac
    if [ -n "$before" ]; then
        case $(systemctl is-enabled vedette.service 2>/dev/null) in disabled | masked*) enabled='' ;; esac
    fi
    looked=$(looks)
    problem='' looked_at=''
    if [ -x "$opt/versions/$target/bin/vedette" ] && [ -f "$etc/config.toml" ]; then
        look_at_config "$opt/versions/$target"
        looked_at=yes
    fi
    if [ -n "$problem" ] && [ -n "$active" ]; then
        fail "this version does not take the configuration of this box: $problem" "change $etc/config.toml so that both do; the old version goes on running"
    fi
    say "switching to $target"
    remember_before "$target" && run sync -f "$opt/versions" || fail "$opt/versions cannot be written to the disk" "see the message above"
    # From here until it is ready, a power cut boots this version unproven.
    switched=yes
    switch_to "$target" || fail "the services could not be set up" "see the message above"
    if [ -z "$enabled" ]; then
        say "the service is disabled and stays so; start it with:  systemctl enable --now vedette"
        return
    fi
    systemd enable --quiet vedette.service || fail "the service could not be enabled" "see systemctl's message above"
    if [ -z "$dry" ]; then
        [ -n "$looked_at" ] || look_at_config "$opt/versions/$target"
    elif [ ! -f "$etc/config.toml" ]; then
        problem="$etc/config.toml would be the example, which names no camera"
    fi
    if [ -z "$start" ]; then
        say "not started, as you asked; start it with:  systemctl restart vedette"
    elif [ -n "$problem" ]; then
        say "${dry:+would be }installed, not started yet: $problem"
        say "next: edit $etc/config.toml, then:  vedette config check && systemctl start vedette"
    elif [ -n "$active" ] && [ "$looked" = "$(looks)" ]; then
        say "the service runs already, and nothing of it has changed"
    else
        say "starting it, and waiting until it is ready; on a new box an engine may have to be built first"
        settled || fail "the service did not get ready" "journalctl -u vedette -n 50; vedette doctor"
    fi
}

go_back() { # after a failure behind the switch
    if [ -z "$before" ] || [ "$before" = "${target:-}" ]; then
        printf '%s\n' "install.sh: there is no older version to go back to; ${target:-it} stays, so that \`vedette doctor\` can tell more" >&2
        return
    fi
    printf '%s\n' "install.sh: going back to $before" >&2
    if ! switch_to "$before"; then
        point_to "$before"
        systemd daemon-reload
    fi
    if [ -n "$active" ]; then
        if settled; then echo "install.sh: $before runs again" >&2; else echo "install.sh: $before did not get ready either: journalctl -u vedette -n 50" >&2; fi
    else
        systemd stop vedette.service # as it was
    fi
    [ -z "$new" ] || rm -rf "$new"
}

leave() { # EXIT CODE: whatever happens, an old version runs on
    trap '' HUP INT TERM # a second Ctrl-C would end going back half way
    trap - EXIT
    [ -z "$work" ] || rm -rf "$work"
    if [ "$1" -ne 0 ] && [ -z "$dry" ]; then
        if [ -n "$switched" ]; then
            go_back
        elif [ -n "$new" ]; then
            rm -rf "$new"
            rmdir "$opt/versions" "$opt" 2>/dev/null
            if [ -n "$before" ]; then echo "install.sh: nothing was changed, $before is still in use" >&2; fi
        fi
    fi
    exit "$1"
}

forget_old() { # all but this version, the one before it, and one that still runs (--no-start)
    kept=$before
    [ "$before" != "$target" ] || kept=$(other_version)
    for folder in "$opt"/versions/*; do
        case ${folder##*/} in "$target" | "$kept" | '*') continue ;; esac
        if still_runs "$folder"; then
            say "keeping ${folder##*/}: a service still runs from it"
            continue
        fi
        say "removing ${folder##*/}"
        run rm -rf "$folder"
    done
}

still_runs() { # VERSION'S FOLDER: /proc/PID/exe is the system's Python, so ask what it was called by and what it has loaded
    for unit in $UNITS; do
        pid=$(systemctl show -p MainPID --value "$unit" 2>/dev/null)
        case $pid in '' | 0 | *[!0-9]*) continue ;; esac
        cat "$root/proc/$pid/cmdline" "$root/proc/$pid/maps" 2>/dev/null | grep -aqF "/vedette/versions/${1##*/}/" && return
    done
    return 1
}

other_version() { # the one that was in use before this one; else the newest complete one that is not in use
    kept=$(cat "$opt/versions/$before/before" 2>/dev/null)
    if [ -n "$kept" ] && [ "$kept" != "$before" ] && [ -e "$opt/versions/$kept/complete" ]; then
        echo "$kept"
        return
    fi
    for folder in "$opt"/versions/*; do
        [ -e "$folder/complete" ] && [ "${folder##*/}" != "$before" ] || continue
        printf '%s %s\n' "${folder##*-}" "${folder##*/}"
    done | LC_ALL=C sort | tail -n 1 | cut -d ' ' -f 2
}

# --- the three things it does ----------------------------------------------------------------------------------------

do_install() {
    check_source
    check_wheelhouse
    check_python
    print=$(fingerprint)
    if [ -n "$before" ] && [ -z "$again" ] && [ "$(cat "$opt/versions/$before/complete")" = "$print" ]; then
        say "$before is installed already"
        bring_up "$before"
        forget_old
        return
    fi
    check_room
    build
    if [ -z "$dry" ]; then
        check_new
        # A name may be on the disk before its data: without this, a power cut could leave a version that is complete by
        # name and has truncated files.
        sync -f "$new" && echo "$print" >"$new/complete" || fail "$new cannot be written to the disk" "see the message above"
    fi
    bring_up "${new##*/}"
    forget_old
    report "vedette $version is installed${before:+; before it: $before, to which --rollback goes back}"
}

do_rollback() {
    target=$(other_version)
    [ -n "$target" ] || fail "there is no other version in $opt/versions" "install the one you want from its own checkout"
    said=$("$opt/versions/$target/bin/vedette" --version 2>&1) || fail "$target does not start any more: $said" "install the version you want from its own checkout"
    bring_up "$target"
    say "$target is in use again; --rollback once more goes forward to ${before:-nothing}"
}

do_uninstall() {
    for unit in $UNITS; do
        if [ -e "$lib/systemd/system/$unit" ]; then
            systemd disable --quiet --now "$unit" || warn "$unit could not be stopped" "systemctl status $unit"
        fi
        run rm -f "$lib/systemd/system/$unit" "$root/etc/systemd/system/$unit.d/50-box.conf"
        if [ -n "$purge" ]; then run rm -rf "$root/etc/systemd/system/$unit.d"; fi
        [ ! -d "$root/etc/systemd/system/$unit.d" ] || run rmdir --ignore-fail-on-non-empty "$root/etc/systemd/system/$unit.d"
    done
    run rm -rf "$opt" "$lib/sysusers.d/vedette.conf" "$lib/tmpfiles.d/vedette.conf"
    for link in "$local/bin/vedette" "$local/sbin/vedette-setup"; do
        case $(readlink "$link") in /opt/vedette/*) run rm -f "$link" ;; esac
    done
    for folder in sysusers.d tmpfiles.d systemd/system systemd; do
        [ ! -d "$lib/$folder" ] || run rmdir --ignore-fail-on-non-empty "$lib/$folder"
    done
    systemd daemon-reload
    for unit in $UNITS; do systemctl is-failed --quiet "$unit" 2>/dev/null && systemd reset-failed "$unit"; done
    if [ -z "$purge" ]; then
        report "vedette is removed; $etc, $root/var/lib/vedette and the user vedette stay. --uninstall --purge removes them too"
        return
    fi
    run rm -rf "$etc" "$root/var/lib/vedette" "$root/run/vedette"
    if getent passwd vedette >/dev/null; then run userdel vedette || warn "the user vedette could not be removed" "userdel vedette"; fi
    if [ -n "$dry" ] || getent group vedette >/dev/null; then run groupdel vedette 2>/dev/null; fi
    report "vedette is removed, with its settings, secrets, state and user"
}

main() {
    read_arguments "$@"
    check_box
    find_before
    trap 'leave $?' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "do_$mode"
}
main "$@"
exit
