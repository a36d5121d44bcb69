"""Judge what runs and builds engines: TensorRT, TensorRT-RTX, pycuda, ONNX Runtime and its providers, onnx. Pure."""

import re

from agent.diagnosis.facts import Facts, Package, TensorRt
from agent.diagnosis.rows import Row, Verdict
from agent.errors import missing_extra

_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX", "onnxruntime": "ONNX Runtime"}
_SYSTEM = re.compile(r"/usr/lib/python3(?:\.(\d+))?[^/]*/dist-packages/")
_UNSUPPORTED = "is not supported by this TensorRT release"
_USE_SYSTEM = ("`sudo apt install python3-libnvinfer`, then make the virtual environment with the system's Python: "
               "`python3 -m venv --system-site-packages`")
_CPU = "CPUExecutionProvider"
_GPU_PROVIDERS = ("CUDA", "Tensorrt", "NvTensorRTRTX")


def is_system(path: str | None) -> bool:
    """Tell whether a module comes from a Debian or Ubuntu package; pip as root writes elsewhere, to /usr/local."""
    return path is not None and _SYSTEM.search(path) is not None


def origin(package: Package) -> str:
    """Say where a module comes from."""
    return f"{'system package' if is_system(package.file) else 'pip'}, {package.file}"


def needs_gpu(facts: Facts) -> bool:
    """Tell whether the configuration asks for something that computes on a CUDA device."""
    wanted = facts.wanted
    return wanted.runtime in {"tensorrt", "tensorrt_rtx"} or (wanted.provider or "").startswith(_GPU_PROVIDERS)


def hindrances(facts: Facts, runtime: str) -> list[str]:
    """Return why ``runtime`` cannot run here, each reason the name of a row; none when nothing is known against it."""
    if runtime == "onnxruntime":
        if not facts.onnxruntime.usable:
            return ["ONNX Runtime"]
        provider, providers = facts.wanted.provider or _CPU, facts.onnxruntime.providers
        return [] if provider in providers and providers[provider] is None else [f"provider {provider}"]
    found = facts.tensorrt if runtime == "tensorrt" else facts.tensorrt_rtx
    bad = [] if found.usable and not _unsupported(facts, found) else [_NAMES[runtime]]
    return [*bad, *([] if facts.driver.usable else ["CUDA driver"]), *([] if facts.pycuda.usable else ["pycuda"])]


def runtime_row(facts: Facts) -> Row:
    """Judge whether what ``[engine] runtime`` and ``provider`` ask for can run here."""
    wanted = facts.wanted
    if not wanted.recipe:
        return Row(name="[engine] runtime", verdict="unknown", found="the configuration cannot be used; below, the "
                   "defaults of its keys are taken")
    asked = f"{wanted.runtime} on {wanted.provider}" if wanted.provider else wanted.runtime
    choices = [wanted.runtime] if wanted.runtime in _NAMES else list(_NAMES)
    against = {choice: hindrances(facts, choice) for choice in choices}
    can = [choice for choice in choices if not against[choice]]
    if can:
        said = asked if wanted.runtime in _NAMES else f"{asked}: {', '.join(can)} can run"
        return Row(name="[engine] runtime", verdict="ok", found=f"{said}: nothing found that speaks against it")
    why = dict.fromkeys(reason for reasons in against.values() for reason in reasons)
    return Row(name="[engine] runtime", verdict="fail", fatal=True,
               found=f"{asked} cannot run here, because of: {', '.join(why)}",
               remedy="mend those rows, or set [engine] runtime (and provider) to what this box has")


def runtime_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge all runtimes, whether asked for or not."""
    return (runtime_row(facts), _tensorrt(facts, facts.tensorrt), _tensorrt(facts, facts.tensorrt_rtx),
            _pycuda(facts), _onnxruntime(facts), *_providers(facts), _onnx(facts))


def _tensorrt(facts: Facts, found: TensorRt) -> Row:
    name = _NAMES[found.module]
    asked = facts.wanted.runtime == found.module
    bad: Verdict = "fail" if asked else "warn"
    if found.missing:
        return _no_tensorrt(facts, found, name, asked=asked)
    if found.fault is not None:
        return Row(name=name, verdict=bad, fatal=asked, found=f"cannot be imported: {found.fault} ({found.file})",
                   remedy=_USE_SYSTEM if facts.machine.jetson and found.module == "tensorrt" else
                   "install it anew, its library and its bindings in one version")
    version = found.library_version or found.version or "unknown"
    told = f"{version} ({origin(found)})"
    if _unsupported(facts, found):
        said = next((text for text in found.said if _UNSUPPORTED in text), None)
        return Row(name=name, verdict=bad, fatal=asked, found=(
            f"{told} does not support this GPU: {said.strip()}" if said else
            f"{told}: pip's aarch64 build is for servers (SBSA) and does not support the GPU of JetPack 6"),
            remedy=f"`pip uninstall` it in {facts.machine.prefix}; {_USE_SYSTEM}")
    sm = (facts.driver.sm or "").replace(".", "")
    if found.sms and sm and sm not in found.sms:
        return Row(name=name, verdict="warn", found=f"{told} does not list SM {sm} of this GPU, only "
                   f"{', '.join(found.sms)}: it may build engines that cannot be loaded here",
                   remedy="use TensorRT instead" if found.module == "tensorrt_rtx" else "use a version that lists it")
    return _built(facts, found, name, told, asked=asked)


def _built(facts: Facts, found: TensorRt, name: str, told: str, *, asked: bool) -> Row:
    """Judge a TensorRT that could be imported by its versions and by what it built."""
    if found.version and found.library_version and not _agree(found.version, found.library_version):
        return Row(name=name, verdict="warn",
                   found=f"its bindings are {found.version}, its library {found.library_version} ({found.library})",
                   remedy="have both in one version; another copy of the library lies earlier on the linker's path")
    if found.builds is False:
        said = "; ".join(found.said) or "it gave no reason"
        return Row(name=name, verdict="fail" if asked else "warn", fatal=asked,
                   found=f"{told} could not build a network of one layer: {said}",
                   remedy="mend the rows of the device; where they are ok, install a TensorRT that fits the driver")
    if found.builds is None:
        why = "it was not tried: too little free memory" if facts.driver.usable else "no usable device"
        return Row(name=name, verdict="unknown", found=f"{told}; whether it builds for this GPU is unknown: {why}")
    return Row(name=name, verdict="ok", found=f"{told}, {_built_for(facts, found)}")


def _built_for(facts: Facts, found: TensorRt) -> str:
    """Say what a successful build proves: TensorRT-RTX finishes its engines only when they are loaded."""
    return f"builds for SM {facts.driver.sm}" if found.module == "tensorrt" else "builds engines"


def _no_tensorrt(facts: Facts, found: TensorRt, name: str, *, asked: bool) -> Row:
    hidden = next(filter(is_system, found.others), None)
    jetson = facts.machine.jetson and found.module == "tensorrt"
    if not asked and not jetson:
        return Row(name=name, verdict="ok", found="not there, and not asked for")
    if hidden:
        minor = (_SYSTEM.search(hidden) or [None, None])[1]
        other = minor is not None and facts.machine.python.split(".")[:2] != ["3", minor]
        text = f"the system's ({hidden}) is {f'for Python 3.{minor}' if other else 'hidden from this Python'}"
    else:
        text = "not there"
    return Row(name=name, verdict="fail" if asked else "warn", fatal=asked,
               found=text + ("" if asked else "; engines run slower without it"),
               remedy=_USE_SYSTEM if jetson or hidden else f"install {name} for this driver from NVIDIA's packages, or "
               "set [engine] runtime to another one")


def _unsupported(facts: Facts, found: TensorRt) -> bool:
    """Tell whether this TensorRT is known not to support the GPU. That it built something settles it."""
    if found.builds or not found.usable:
        return False
    if any(_UNSUPPORTED in text for text in found.said):
        return True
    return (found.module == "tensorrt" and facts.machine.jetson and (facts.machine.l4t or "").startswith("36.")
            and not is_system(found.file))


def _agree(bindings: str, library: str) -> bool:
    """Compare as many parts as both tell: bindings often say three, the library four."""
    return all(one == other for one, other in zip(bindings.split("."), library.split("."), strict=False))


def _pycuda(facts: Facts) -> Row:
    found, asked = facts.pycuda, facts.wanted.runtime in {"tensorrt", "tensorrt_rtx"}
    if found.usable:
        return Row(name="pycuda", verdict="ok", found=f"{found.version or 'unknown version'} ({origin(found)})")
    if not asked and found.missing:
        return Row(name="pycuda", verdict="ok", found="not there, and not asked for: only TensorRT engines need it")
    return Row(name="pycuda", verdict="fail" if asked else "warn", fatal=asked,
               found="not there" if found.missing else f"cannot be imported: {found.fault}",
               remedy=f"{missing_extra('jetson')}; it is built on this box and needs g++ and CUDA's headers")


def _onnxruntime(facts: Facts) -> Row:
    found, asked = facts.onnxruntime, facts.wanted.runtime == "onnxruntime"
    if not found.usable:
        return Row(name="ONNX Runtime", verdict="fail", fatal=asked, remedy=missing_extra("cpu"),
                   found=("not there" if found.missing else f"cannot be imported: {found.fault}")
                   + ("" if asked else "; engines cannot be checked against it"))
    told = f"{found.version} ({origin(found)})"
    if len(found.packages) > 1:
        both = " and ".join(found.packages)
        return Row(name="ONNX Runtime", verdict="warn", found=f"{told}; {both} are installed over each other",
                   remedy="`pip uninstall` all of them, then install the one that is wanted")
    return Row(name="ONNX Runtime", verdict="ok", found=told)


def _providers(facts: Facts) -> list[Row]:
    listed, wanted = facts.onnxruntime.providers, facts.wanted.provider or _CPU
    here = facts.wanted.runtime == "onnxruntime"
    rows = []
    for name, fault in listed.items():
        asked = here and wanted == name
        rows.append(
            Row(name=f"provider {name}", verdict="ok", found="loads and runs") if fault is None else
            Row(name=f"provider {name}", verdict="fail" if asked else "warn", fatal=asked,
                found=f"is listed but does not work: {fault}",
                remedy="install the libraries it needs in the versions of ONNX Runtime's own table (CUDA, cuDNN)"))
    if facts.onnxruntime.usable and wanted not in listed:
        rows.append(Row(name=f"provider {wanted}", verdict="fail", fatal=here,
                        found=f"is not in this ONNX Runtime, which has {', '.join(listed) or 'none'}",
                        remedy="install the ONNX Runtime that brings it, or change [engine] provider"))
    return rows


def _onnx(facts: Facts) -> Row:
    found = facts.onnx
    if found.usable:
        return Row(name="onnx", verdict="ok", found=f"{found.version} ({origin(found)}), for preparing and building")
    needed = facts.wanted.model == "needs preparing"
    return Row(name="onnx", verdict="fail" if needed else "warn", fatal=needed, remedy=missing_extra("build"),
               found=("not there" if found.missing else f"cannot be imported: {found.fault}")
               + ": models can be neither prepared nor built")
