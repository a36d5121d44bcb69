"""Verdicts on made boxes: what is told of a JetPack 6 box with pip's TensorRT, a bare server, a 4 GB Orin Nano and others."""

import pytest
from msgspec.structs import replace

from agent.diagnosis.checks import checks
from agent.diagnosis.facts import (
    Driver,
    Facts,
    Machine,
    OnnxRuntime,
    OpenCv,
    Package,
    StateDirectory,
    TensorRt,
    Wanted,
)
from agent.diagnosis.rows import exit_code

SITE = "/opt/vedette/lib/python3.10/site-packages"
SYSTEM = "/usr/lib/python3.10/dist-packages"
SBSA = "IBuilder::buildSerializedNetwork: Error Code 9: API Usage Error (Target GPU SM 87 is not supported by this TensorRT release.)"
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

BARE = Facts(
    machine=Machine(architecture="x86_64", python="3.11.7", prefix="/opt/vedette", isolated=True, cpu="Xeon avx2", memory_total=16_000_000_000, memory_available=9_000_000_000),
    wanted=Wanted(file="/etc/vedette/config.toml", recipe="centerface", model="ready"),
    state=StateDirectory(path="/var/lib/vedette", free=50_000_000_000),
    driver=Driver(missing=True), pycuda=Package(module="pycuda", missing=True),
    tensorrt=TensorRt(module="tensorrt", missing=True), tensorrt_rtx=TensorRt(module="tensorrt_rtx", missing=True),
    onnxruntime=OnnxRuntime(module="onnxruntime", file=f"{SITE}/onnxruntime/__init__.py", version="1.23.2", packages=("onnxruntime",), providers={CPU: None}),
    onnx=Package(module="onnx", file=f"{SITE}/onnx/__init__.py", version="1.23.2"),
    cv2=OpenCv(module="cv2", file=f"{SITE}/cv2/__init__.py", version="4.11.0", gstreamer=False, ffmpeg=True))
ORIN = Driver(version="12.6", devices=1, name="Orin", sm="8.7", sm_count=8, integrated=True, context=True, free=5_000_000_000, total=7_600_000_000)
JETPACK6 = replace(
    BARE, machine=Machine(architecture="aarch64", python="3.10.12", prefix="/opt/vedette", isolated=False, jetson=True, board="NVIDIA Jetson Orin Nano Developer Kit",
                          l4t="36.4.3", jetpack="6.2", power_mode="25W (1)", cpu="implementer 0x41 part 0xd42 asimddp", memory_total=7_900_000_000, memory_available=6_000_000_000),
    wanted=replace(BARE.wanted, runtime="tensorrt"), driver=ORIN,
    pycuda=Package(module="pycuda", file=f"{SITE}/pycuda/driver.py", version="2025.1"),
    tensorrt=TensorRt(module="tensorrt", file=f"{SYSTEM}/tensorrt/__init__.py", version="10.3.0", library="/usr/lib/aarch64-linux-gnu/libnvinfer.so.10", library_version="10.3.0.30", builds=True),
    cv2=OpenCv(module="cv2", file=f"{SYSTEM}/cv2/__init__.py", version="4.8.0", gstreamer=True, ffmpeg=True))
PIPS = TensorRt(module="tensorrt", file=f"{SITE}/tensorrt/__init__.py", version="10.7.0", library_version="10.7.0.23", builds=False, said=(SBSA,))


def rows(facts):
    return {row.name: row for section in checks(facts) for row in section.rows}


def code(facts):
    return exit_code(checks(facts))


def bad(facts):
    return {name for name, row in rows(facts).items() if row.verdict in {"fail", "warn"}}


@pytest.mark.parametrize("facts", [BARE, JETPACK6], ids=["bare server", "JetPack 6"])
def test_a_box_as_it_should_be_is_well_in_every_row(facts):
    assert {row.verdict for row in rows(facts).values()} == {"ok"}
    assert code(facts) == 0


@pytest.mark.parametrize("facts", [BARE, JETPACK6, replace(JETPACK6, tensorrt=PIPS), replace(BARE, wanted=replace(BARE.wanted, runtime="tensorrt_rtx"))])
def test_whatever_is_wrong_has_a_remedy_and_names_are_unique(facts):
    every = [row for section in checks(facts) for row in section.rows]
    assert len({row.name for row in every}) == len(every)
    assert all(row.remedy for row in every if row.verdict in {"fail", "warn"})
    assert all(row.verdict == "fail" for row in every if row.fatal)


def test_a_good_jetpack_box_is_described():
    told = {name: row.found for name, row in rows(JETPACK6).items()}
    assert told["board"] == "NVIDIA Jetson Orin Nano Developer Kit, Jetson Linux 36.4.3 (JetPack 6.2)"
    assert told["TensorRT"] == f"10.3.0.30 (system package, {SYSTEM}/tensorrt/__init__.py), builds for SM 8.7"
    assert told["device"] == "Orin, SM 8.7, 8 multiprocessors, shares memory with the processor"
    assert told["power mode"] == "25W (1)"


def test_the_server_build_of_pip_on_jetpack_6_is_named_with_the_runtimes_own_words():
    row = rows(replace(JETPACK6, tensorrt=PIPS))["TensorRT"]
    assert (row.verdict, row.fatal) == ("fail", True)
    assert "Target GPU SM 87 is not supported by this TensorRT release" in row.found
    assert "10.7.0.23" in row.found
    assert "python3-libnvinfer" in row.remedy
    assert "--system-site-packages" in row.remedy
    assert "pip uninstall" in row.remedy
    assert "TensorRT" in rows(replace(JETPACK6, tensorrt=PIPS))["[engine] runtime"].found


def test_the_server_build_is_suspected_where_nothing_could_be_built():
    row = rows(replace(JETPACK6, tensorrt=replace(PIPS, builds=None, said=())))["TensorRT"]
    assert row.verdict == "fail"
    assert "SBSA" in row.found
    jetpack7 = replace(JETPACK6.machine, l4t="39.2.0", jetpack="7.2")
    assert rows(replace(JETPACK6, machine=jetpack7, tensorrt=replace(PIPS, builds=None, said=())))["TensorRT"].verdict == "unknown"
    assert rows(replace(JETPACK6, tensorrt=replace(PIPS, builds=True, said=())))["TensorRT"].verdict == "ok", "what it built settles it"


def test_the_server_build_only_warns_where_nothing_asks_for_tensorrt():
    facts = replace(JETPACK6, tensorrt=PIPS, wanted=BARE.wanted)
    assert rows(facts)["TensorRT"].verdict == "warn"
    assert code(facts) == 1


def test_pip_as_root_on_ubuntu_is_no_system_package():
    facts = replace(JETPACK6, tensorrt=replace(PIPS, file="/usr/local/lib/python3.10/dist-packages/tensorrt/__init__.py"))
    assert "(pip, /usr/local" in rows(replace(facts, tensorrt=replace(facts.tensorrt, builds=True, said=())))["TensorRT"].found


def test_a_venv_that_hides_the_systems_tensorrt_is_told_how_to_see_it():
    facts = replace(JETPACK6, machine=replace(JETPACK6.machine, isolated=True),
                    tensorrt=TensorRt(module="tensorrt", missing=True, others=(f"{SYSTEM}/tensorrt/__init__.py",)))
    assert bad(facts) == {"Python", "TensorRT", "[engine] runtime"}
    assert "hidden from this Python" in rows(facts)["TensorRT"].found
    assert "--system-site-packages" in rows(facts)["TensorRT"].remedy
    other = replace(facts, machine=replace(facts.machine, python="3.11.7"))
    assert "is for Python 3.10" in rows(other)["TensorRT"].found
    assert code(facts) == 2


def test_bindings_and_library_of_different_versions_are_told():
    row = rows(replace(JETPACK6, tensorrt=replace(JETPACK6.tensorrt, library_version="10.7.0.23")))["TensorRT"]
    assert row.verdict == "warn"
    assert "10.3.0" in row.found
    assert "10.7.0.23" in row.found


def test_a_build_that_fails_gives_the_loggers_words():
    row = rows(replace(JETPACK6, tensorrt=replace(JETPACK6.tensorrt, builds=False, said=("CUDA initialization failure with error: 35",))))["TensorRT"]
    assert (row.verdict, row.fatal) == ("fail", True)
    assert "error: 35" in row.found


def test_a_gpu_that_tensorrt_rtx_does_not_list_is_a_warning():
    rtx = TensorRt(module="tensorrt_rtx", file=f"{SITE}/x.py", version="1.7.1.116", library_version="1.7.1.116", builds=True, sms=("75", "86", "120"))
    facts = replace(JETPACK6, tensorrt_rtx=rtx, wanted=replace(BARE.wanted, runtime="tensorrt_rtx"))
    assert rows(facts)["TensorRT-RTX"].verdict == "warn"
    assert "SM 87" in rows(facts)["TensorRT-RTX"].found
    listed = replace(facts, tensorrt_rtx=replace(rtx, sms=("86", "87")))
    assert rows(listed)["TensorRT-RTX"].found.endswith("builds engines"), "that it can load them here is not shown by building"
    assert rows(listed)["TensorRT-RTX"].verdict == "ok"


def test_a_runtime_that_kills_its_process_is_a_problem_only_where_it_is_asked_for():
    crash = TensorRt(module="tensorrt_rtx", fault="it crashes: SIGSEGV ended the process that looked at it", file=f"{SITE}/x")
    assert code(replace(BARE, tensorrt_rtx=crash)) == 1
    facts = replace(BARE, tensorrt_rtx=crash, wanted=replace(BARE.wanted, runtime="tensorrt_rtx"))
    assert code(facts) == 2
    assert "SIGSEGV" in rows(facts)["TensorRT-RTX"].found


def test_tensorrt_on_a_bare_server_lists_all_that_hinders():
    facts = replace(BARE, wanted=replace(BARE.wanted, runtime="tensorrt"))
    assert code(facts) == 2
    row = rows(facts)["[engine] runtime"]
    assert all(name in row.found for name in ("TensorRT", "CUDA driver", "pycuda"))
    assert {"TensorRT", "CUDA driver", "pycuda"} <= {name for name, row in rows(facts).items() if row.fatal}


def test_a_runtime_left_to_the_agent_needs_only_one_that_can():
    assert rows(replace(BARE, wanted=replace(BARE.wanted, runtime="auto")))["[engine] runtime"].verdict == "ok"
    none = replace(BARE, wanted=replace(BARE.wanted, runtime="auto"), onnxruntime=OnnxRuntime(module="onnxruntime", missing=True))
    assert rows(none)["[engine] runtime"].fatal


@pytest.mark.parametrize(("driver", "said"), [
    (Driver(missing=True), "no libcuda.so.1"),
    (Driver(version="12.6", fault="cuInit: CUDA_ERROR_NO_DEVICE (100)"), "CUDA_ERROR_NO_DEVICE"),
    (Driver(version="12.6", devices=0), "no device"),
    (Driver(fault="it hangs: no answer within 30 s"), "hangs"),
    (Driver(version="12.6", devices=1, name="Orin", fault="cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY (2)"), "OUT_OF_MEMORY"),
])
def test_a_device_that_cannot_be_used_stops_tensorrt(driver, said):
    facts = replace(JETPACK6, driver=driver)
    assert code(facts) == 2
    row = rows(facts)["CUDA driver"]
    assert said in row.found
    assert (row.verdict, row.fatal) == ("fail", True)
    calm = replace(facts, wanted=BARE.wanted)
    assert rows(calm)["CUDA driver"].verdict == "warn", "a Jetson should have one"


def test_a_broken_driver_degrades_a_server_that_does_not_need_it():
    assert code(replace(BARE, driver=Driver(version="12.6", fault="cuInit: CUDA_ERROR_UNKNOWN (999)"))) == 1


@pytest.mark.parametrize(("providers", "verdict", "fatal"), [
    ({CPU: None, CUDA: None}, "ok", False),
    ({CPU: None, CUDA: "libcublasLt.so.12: cannot open shared object file"}, "fail", True),
    ({CPU: None}, "fail", True),
])
def test_a_provider_that_is_asked_for_must_load(providers, verdict, fatal):
    facts = replace(BARE, driver=replace(ORIN, integrated=False), wanted=replace(BARE.wanted, provider=CUDA), onnxruntime=replace(BARE.onnxruntime, providers=providers))
    row = rows(facts)[f"provider {CUDA}"]
    assert (row.verdict, row.fatal) == (verdict, fatal)
    assert rows(facts)["[engine] runtime"].fatal == fatal


def test_a_listed_provider_that_does_not_load_is_told_also_when_not_asked_for():
    facts = replace(BARE, onnxruntime=replace(BARE.onnxruntime, providers={CPU: None, CUDA: "libcudnn.so.9 is not there"}))
    assert rows(facts)[f"provider {CUDA}"].verdict == "warn"
    assert code(facts) == 1
    broken = replace(BARE, onnxruntime=replace(BARE.onnxruntime, providers={CPU: "it crashes: SIGILL ended the process that looked at it"}))
    assert code(broken) == 2
    assert rows(broken)[f"provider {CPU}"].fatal
    assert rows(broken)["[engine] runtime"].fatal


def test_two_onnx_runtimes_over_each_other_are_told():
    facts = replace(BARE, onnxruntime=replace(BARE.onnxruntime, packages=("onnxruntime", "onnxruntime-gpu")))
    assert rows(facts)["ONNX Runtime"].verdict == "warn"


def test_onnx_runtime_is_needed_by_engines_it_runs_and_for_checking_the_others():
    gone = OnnxRuntime(module="onnxruntime", missing=True)
    assert code(replace(BARE, onnxruntime=gone)) == 2
    assert code(replace(JETPACK6, onnxruntime=gone)) == 1
    assert "checked against" in rows(replace(JETPACK6, onnxruntime=gone))["ONNX Runtime"].found


def test_without_onnx_a_prepared_model_still_runs():
    gone = Package(module="onnx", missing=True)
    assert code(replace(BARE, onnx=gone)) == 1
    assert code(replace(BARE, onnx=gone, wanted=replace(BARE.wanted, model="needs preparing"))) == 2


def test_pips_opencv_that_wins_over_jetpacks_is_a_problem_on_a_jetson_only():
    pips = replace(BARE.cv2, others=(f"{SYSTEM}/cv2/__init__.py",))
    row = rows(replace(JETPACK6, cv2=pips))["GStreamer"]
    assert row.verdict == "fail"
    assert "wins over the system's" in row.found
    assert "python3-opencv" in row.remedy
    assert code(replace(JETPACK6, cv2=pips)) == 1, "network cameras still work, through FFmpeg"
    assert rows(replace(BARE, cv2=pips))["GStreamer"].verdict == "ok"
    assert f"{SYSTEM}/cv2/__init__.py" in rows(replace(BARE, cv2=pips))["OpenCV"].found


def test_opencv_without_any_way_to_read_a_stream_is_a_problem():
    assert rows(replace(BARE, cv2=replace(BARE.cv2, ffmpeg=False)))["FFmpeg"].verdict == "fail"
    assert rows(replace(JETPACK6, cv2=replace(JETPACK6.cv2, ffmpeg=False)))["FFmpeg"].verdict == "ok"
    silent = rows(replace(JETPACK6, cv2=replace(JETPACK6.cv2, ffmpeg=None, gstreamer=None)))
    assert silent["FFmpeg"].verdict == silent["GStreamer"].verdict == "unknown"


def test_no_opencv_and_a_broken_one_are_fatal():
    assert code(replace(BARE, cv2=OpenCv(module="cv2", missing=True))) == 2
    broken = replace(BARE, cv2=OpenCv(module="cv2", fault="ImportError: libGL.so.1: cannot open shared object file", file="/x"))
    assert "libGL.so.1" in rows(broken)["OpenCV"].found
    assert code(broken) == 2


def test_a_small_orin_nano_is_warned_before_a_build():
    small = replace(JETPACK6, machine=replace(JETPACK6.machine, memory_total=3_900_000_000, memory_available=1_800_000_000),
                    tensorrt=replace(JETPACK6.tensorrt, builds=None))
    assert rows(small)["memory"].verdict == "warn"
    assert "2.5 GB" in rows(small)["memory"].found
    assert "desktop" in rows(small)["memory"].remedy
    assert rows(small)["TensorRT"].verdict == "unknown"
    assert "too little free memory" in rows(small)["TensorRT"].found
    assert code(small) == 1
    assert rows(replace(small, wanted=BARE.wanted))["memory"].verdict == "ok", "nothing will be built"
    tiny = replace(BARE, machine=replace(BARE.machine, memory_available=900_000_000))
    assert bad(tiny) == {"memory"}


def test_little_device_memory_is_a_warning():
    assert bad(replace(JETPACK6, driver=replace(ORIN, free=400_000_000))) == {"device memory"}
    assert rows(replace(JETPACK6, driver=replace(ORIN, free=None, total=None)))["device memory"].verdict == "unknown"


@pytest.mark.parametrize(("state", "verdict", "expected"), [
    (StateDirectory(path="/s", free=1_999_999_999), "warn", 1),
    (StateDirectory(path="/s", free=2_000_000_000), "ok", 0),
    (StateDirectory(path="/s", free=199_999_999), "fail", 1),
    (StateDirectory(path="/s", free=9_999_999), "fail", 2),
    (StateDirectory(path="/s", free=9_000_000_000, fault="it cannot be written to by this user", remedy="x"), "fail", 2),
    (StateDirectory(path="/s"), "unknown", 0),
])
def test_room_and_rights_in_the_state_directory(state, verdict, expected):
    assert rows(replace(BARE, state=state))["state directory"].verdict == verdict
    assert code(replace(BARE, state=state)) == expected


@pytest.mark.parametrize(("wanted", "name", "verdict", "expected"), [
    (Wanted(file="/c.toml", fault="/c.toml: [engine] nme: unknown key", remedy="remove it"), "configuration", "fail", 2),
    (Wanted(recipe="nobody", fault="no recipe nobody", remedy="`vedette engines list`"), "recipe", "fail", 2),
    (Wanted(recipe="yolo", model="needs your model"), "recipe", "fail", 2),
    (Wanted(recipe="yolo", model="needs preparing"), "recipe", "warn", 1),
])
def test_configuration_and_recipe(wanted, name, verdict, expected):
    facts = replace(BARE, wanted=wanted)
    assert rows(facts)[name].verdict == verdict
    assert code(facts) == expected


def test_what_an_unusable_configuration_asks_for_is_unknown():
    facts = replace(BARE, wanted=Wanted(file="/c.toml", fault="/c.toml: [engine] nme: unknown key", remedy="remove it"))
    assert rows(facts)["[engine] runtime"].verdict == "unknown"


def test_what_cannot_be_known_is_unknown_and_degrades_nothing():
    box = Machine(architecture="aarch64", python="3.10.12", prefix="/x", isolated=False, jetson=True, board="NVIDIA Jetson AGX Orin")
    facts = replace(JETPACK6, machine=box)
    told = rows(facts)
    assert {name for name, row in told.items() if row.verdict == "unknown"} == {"board", "processor", "power mode", "memory"}
    assert code(facts) == 0
    newer = replace(facts, machine=replace(box, l4t="41.0.0"))
    assert "a JetPack that this version does not know" in rows(newer)["board"].found
