"""Judge the facts of a box: from facts to rows. Pure; every section is one function, here or in a module of its own."""

from agent.diagnosis.box_rows import clock_rows, disk_rows, sensor_rows, store_rows
from agent.diagnosis.facts import Facts
from agent.diagnosis.rows import Row, Section, size
from agent.diagnosis.runtimes import is_system, needs_gpu, origin, runtime_rows
from agent.diagnosis.sandbox_rows import sandbox_rows
from agent.diagnosis.service_rows import service_rows
from agent.diagnosis.source_rows import source_rows
from agent.diagnosis.upstream_rows import upstream_rows
from agent.errors import missing_extra
from agent.machine import LEAST_DISK

_LEAST_MEMORY = 1_000_000_000
_LEAST_DEVICE_MEMORY = 500_000_000
# Library and workspace of a TensorRT build on an Orin Nano, host and device share: see docs/doctor.md.
_BUILD_MEMORY = 2_500_000_000
_NO_DISK = 10_000_000  # a start writes its spool, 2 MiB of ballast and its locks
_LITTLE_DISK = 2_000_000_000
_SYSTEM_OPENCV = (
    "`pip uninstall opencv-python opencv-python-headless`, `sudo apt install python3-opencv` (JetPack's has GStreamer) "
    "and a virtual environment made with --system-site-packages")


def checks(facts: Facts) -> tuple[Section, ...]:
    """Return all rows, in sections; a section of what was not looked at is left out."""
    sections = (Section(name=name, rows=rows(facts)) for name, rows in (
        ("configuration", _configuration), ("machine", _machine), ("device", _device), ("engines", runtime_rows),
        ("engine store", store_rows), ("pictures", _pictures), ("sources", source_rows), ("upstream", upstream_rows),
        ("sensors", sensor_rows), ("service", service_rows), ("sandbox", sandbox_rows)))
    return tuple(section for section in sections if section.rows)


def _configuration(facts: Facts) -> tuple[Row, ...]:
    wanted = facts.wanted
    if wanted.unsure:
        first = Row(name="configuration", verdict="unknown", found=wanted.fault or "this user may not read it",
                    remedy="run it with sudo, or as a member of group vedette; below, the defaults are taken")
        return first, _state(facts), *disk_rows(facts)
    if wanted.fault is not None and not wanted.recipe:
        first = Row(name="configuration", verdict="fail", found=wanted.fault, remedy=wanted.remedy, fatal=True)
        return first, _state(facts), *disk_rows(facts)
    first = Row(name="configuration", verdict="ok", found=wanted.file or "none, defaults of all keys")
    if wanted.fault is not None:
        recipe = Row(name="recipe", verdict="fail", found=wanted.fault, remedy=wanted.remedy, fatal=True)
    elif wanted.model == "ready":
        recipe = Row(name="recipe", verdict="ok", found=f"{wanted.recipe}: its model is prepared")
    elif wanted.model == "needs your model":
        recipe = Row(name="recipe", verdict="fail", found=f"{wanted.recipe}: needs a model of yours", fatal=True,
                     remedy=f"`vedette engines show {wanted.recipe}` says where it goes")
    else:
        recipe = Row(name="recipe", verdict="warn", remedy=f"`vedette engines fetch {wanted.recipe}`",
                     found=f"{wanted.recipe}: its model is not prepared, the first start fetches it and takes longer")
    return first, recipe, _state(facts), *disk_rows(facts)


def _state(facts: Facts) -> Row:
    state = facts.state
    theirs = next((one.access for one in facts.service.files if one.key == "device.state_dir"), "no") \
        if facts.service else "no"
    if state.fault is not None and state.unsure and theirs in {"yes", "not known"}:
        return Row(name="state directory", verdict="ok" if theirs == "yes" else "unknown",
                   found=f"{state.path}: {state.fault}; the service's user may{'' if theirs == 'yes' else ' or not'}",
                   remedy="" if theirs == "yes" else "run it with sudo")
    if state.fault is not None:
        return Row(name="state directory", verdict="fail", found=f"{state.path}: {state.fault}", fatal=True,
                   remedy=state.remedy)
    if state.free is None:
        return Row(name="state directory", verdict="unknown", found=f"{state.path}: room unknown")
    found, remedy = f"{state.path}: {size(state.free)} free", "make room there, or set [device] state_dir elsewhere"
    if state.free < LEAST_DISK:
        return Row(name="state directory", verdict="fail", found=found, remedy=remedy, fatal=state.free < _NO_DISK)
    return Row(name="state directory", verdict="warn", found=found, remedy=remedy) if state.free < _LITTLE_DISK \
        else Row(name="state directory", verdict="ok", found=found)


def _machine(facts: Facts) -> tuple[Row, ...]:
    box = facts.machine
    if not box.jetson:
        board = Row(name="board", verdict="ok", found=f"no Jetson ({box.architecture})")
    elif box.l4t is None:
        board = Row(name="board", verdict="unknown", found=f"{box.board}, release of Jetson Linux not known",
                    remedy="in a container, mount /etc/nv_tegra_release into it")
    else:
        known = f"JetPack {box.jetpack}" if box.jetpack else "of a JetPack that this version does not know"
        board = Row(name="board", verdict="ok" if box.jetpack else "unknown",
                    found=f"{box.board or 'Jetson'}, Jetson Linux {box.l4t} ({known})")
    cpu = Row(name="processor", verdict="ok" if box.cpu else "unknown", found=box.cpu or "unknown")
    python = Row(name="Python", verdict="ok", found=f"{box.python} in {box.prefix}")
    if box.jetson and box.isolated:
        python = Row(
            name="Python", verdict="warn",
            found=f"{box.python} in {box.prefix}, a virtual environment that hides JetPack's TensorRT and OpenCV",
            remedy="make it anew with the system's Python: `python3 -m venv --system-site-packages`")
    return board, cpu, python, _power_mode(facts), _memory(facts), *clock_rows(facts)


def _power_mode(facts: Facts) -> Row:
    box = facts.machine
    if box.power_mode:
        return Row(name="power mode", verdict="ok", found=box.power_mode)
    if not box.jetson:
        return Row(name="power mode", verdict="ok", found="none: no Jetson")
    return Row(name="power mode", verdict="unknown", found="nvpmodel is not there or gave no answer",
               remedy="run `nvpmodel -q` by hand; engines are tuned in the mode they are served in")


def _memory(facts: Facts) -> Row:
    box = facts.machine
    if box.memory_total is None or box.memory_available is None:
        return Row(name="memory", verdict="unknown", found="unknown")
    found = f"{size(box.memory_available)} of {size(box.memory_total)} free"
    remedy = "stop other programs, or the desktop (`sudo systemctl isolate multi-user.target`), before building engines"
    if box.memory_available < _LEAST_MEMORY:
        return Row(name="memory", verdict="warn", found=found, remedy=remedy)
    if facts.driver.integrated and facts.wanted.runtime == "tensorrt" and box.memory_available < _BUILD_MEMORY:
        return Row(name="memory", verdict="warn", remedy=remedy,
                   found=f"{found}; a TensorRT build takes about {size(_BUILD_MEMORY)} here")
    return Row(name="memory", verdict="ok", found=found)


def _device(facts: Facts) -> tuple[Row, ...]:
    driver, asked = facts.driver, needs_gpu(facts)
    remedy = ("in a container start it with the NVIDIA runtime (--runtime nvidia); else reboot, and look at `dmesg`"
              if facts.machine.jetson else "install NVIDIA's driver, or set [engine] runtime and provider to the CPU's")
    name = "CUDA driver"
    if not driver.usable:
        expected = asked or facts.machine.jetson
        if driver.fault is not None:
            found = f"{f'CUDA {driver.version}: ' if driver.version else ''}{driver.fault}"
        elif driver.missing:
            found = "no libcuda.so.1" if expected else "not there, and nothing asks for it"
        else:
            found = f"CUDA {driver.version} and no device"
        if driver.fault is None and not expected:
            return (Row(name=name, verdict="ok", found=found),)
        return (Row(name=name, verdict="fail" if asked else "warn", found=found, remedy=remedy, fatal=asked),)
    rows = [Row(name=name, verdict="ok", found=f"CUDA {driver.version}, primary context retained"),
            Row(name="device", verdict="ok", found=(
                f"{driver.name}, SM {driver.sm}, {driver.sm_count} multiprocessors, "
                f"{'shares memory with the processor' if driver.integrated else 'memory of its own'}"
                f"{f'; the first of {driver.devices}' if (driver.devices or 0) > 1 else ''}"))]
    found = f"{size(driver.free)} of {size(driver.total)} free"
    if driver.free is None:
        rows.append(Row(name="device memory", verdict="unknown", found="unknown"))
    elif driver.free < _LEAST_DEVICE_MEMORY:
        rows.append(Row(name="device memory", verdict="warn", found=found, remedy="stop other programs that use it"))
    else:
        rows.append(Row(name="device memory", verdict="ok", found=found))
    return tuple(rows)


def _pictures(facts: Facts) -> tuple[Row, ...]:
    cv2 = facts.cv2
    if not cv2.usable:
        return (Row(name="OpenCV", verdict="fail", fatal=True,
                    found="not there" if cv2.missing else f"cannot be imported: {cv2.fault} ({cv2.file})",
                    remedy=_SYSTEM_OPENCV if facts.machine.jetson else missing_extra("cpu")),)
    unused = f"; not used: {', '.join(cv2.others)}" if cv2.others else ""
    return (Row(name="OpenCV", verdict="ok", found=f"{cv2.version} ({origin(cv2)}){unused}"),
            _gstreamer(facts), _ffmpeg(facts))


def _gstreamer(facts: Facts) -> Row:
    cv2 = facts.cv2
    if cv2.gstreamer is None:
        return Row(name="GStreamer", verdict="unknown", found="this OpenCV does not say")
    if cv2.gstreamer:
        return Row(name="GStreamer", verdict="ok", found="yes")
    if not facts.machine.jetson:
        return Row(name="GStreamer", verdict="ok", found="no; streams are read through FFmpeg")
    system = next(filter(is_system, cv2.others), None)
    why = (f"pip's OpenCV wins over the system's ({system}) and is built without it" if system
           else "this OpenCV is built without it")
    return Row(name="GStreamer", verdict="fail", remedy=_SYSTEM_OPENCV,
               found=f"{why}: CSI cameras and the hardware decoder are out of reach")


def _ffmpeg(facts: Facts) -> Row:
    cv2 = facts.cv2
    if cv2.ffmpeg is None:
        return Row(name="FFmpeg", verdict="unknown", found="this OpenCV does not say")
    if cv2.ffmpeg or cv2.gstreamer:
        return Row(name="FFmpeg", verdict="ok", found="yes" if cv2.ffmpeg else "no; GStreamer reads streams")
    return Row(name="FFmpeg", verdict="fail", found="neither FFmpeg nor GStreamer: no stream or file can be read",
               remedy=missing_extra("cpu"))
