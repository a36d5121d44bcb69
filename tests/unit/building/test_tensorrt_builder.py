"""The builder against answers that no real TensorRT can be brought to give here."""

import itertools
import os
import sys
import types

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.building import lock, tensorrt_bindings, tensorrt_builder
from agent.building.tensorrt_bindings import Log, Progress, load_bindings
from agent.building.tensorrt_builder import BuildSettings, build
from agent.errors import EngineError, ModelError
from tests.helpers.trt_scripted import Script, module


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def run(script, tmp_path, monkeypatch):
    """Build with the scripted module; returns the Built."""
    (tmp_path / "some.onnx").write_bytes(b"model")

    class Hashable(types.ModuleType):
        pass

    def go(report=lambda *_: None, cancelled=lambda: False, lacks=(), **chosen):
        fake = Hashable("tensorrt")
        vars(fake).update(vars(module(script, lacks=lacks)))
        monkeypatch.setattr(tensorrt_builder, "load_bindings", lambda runtime: fake)
        settings = BuildSettings(**{"runtime": "tensorrt", "max_batch": 8, "workspace": 1 << 28, **chosen})
        return build(tmp_path / "some.onnx", tmp_path / "plan", settings, report=report, cancelled=cancelled)

    return go


def called(script, what):
    return [call[1:] for call in script.calls if call[0] == what]


def test_a_plain_build_sets_what_must_be_set(run, script, tmp_path):
    built = run()
    assert (tmp_path / "plan").read_bytes() == b"plan of 8"
    assert (built.bytes, built.max_batch, built.workspace, built.runtime) == (9, 8, 1 << 28, "tensorrt 10.3.0")
    assert (built.steps, built.inputs_at, built.warnings) == (10, None, [])
    assert called(script, "flags") == [(1 << 5,)]
    assert called(script, "limit") == [("workspace", 1 << 28)]
    assert called(script, "profile") == [("frames", (1, 64, 64, 3), (8, 64, 64, 3), (8, 64, 64, 3))]
    set_on_config = {name for name, _ in called(script, "config")}
    assert set_on_config == {"progress_monitor"}
    assert not called(script, "cache")


def test_level_and_verbosity_are_set_only_when_asked_for(run, script):
    run(level=0, verbose=True)
    assert ("builder_optimization_level", 0) in called(script, "config")
    assert ("profiling_verbosity", "detailed") in called(script, "config")


def test_one_frame_at_a_time_makes_the_shape_fixed(run, script):
    assert run(max_batch=1).max_batch == 1
    assert not called(script, "profile")


def test_a_fixed_batch_stays(run, script):
    script.shape = (2, 64, 64, 3)
    built = run(max_batch=8)
    assert (built.max_batch, built.warnings) == (2, [])
    assert not called(script, "profile")


@pytest.mark.parametrize(("fits", "left", "tries"), [(8, 8, 1), (7, 4, 2), (3, 2, 3), (1, 1, 4)])
def test_too_small_a_workspace_halves_the_batch(run, script, fits, left, tries):
    script.fits = fits
    phases = []
    built = run(report=lambda *seen: phases.append(seen))
    assert built.max_batch == left
    assert built.steps == 10 * tries
    assert len(called(script, "builder")) == tries
    assert [text for text in built.warnings if "lowered from 8" in text] == (
        [] if tries == 1 else [f"max_batch lowered from 8 to {left}: a workspace of 256 MiB is too small for more"])
    assert len({phase for phase, _, _ in phases}) == tries


def test_not_even_one_frame_fits(run, script, tmp_path):
    script.fits = 0
    with pytest.raises(ModelError, match=r"max_batch 1, workspace 256 MiB\): Error Code 2: OutOfMemory") as caught:
        run()
    assert "raise [build] workspace" in caught.value.remedy
    assert not (tmp_path / "plan").exists()


def test_a_failure_of_another_kind_is_not_tried_again(run, script):
    script.fails = "Error Code 10: could not find any implementation"
    with pytest.raises(ModelError, match="could not find any implementation"):
        run()
    assert len(called(script, "builder")) == 1


@pytest.mark.parametrize("factory", ["create_network", "OnnxParser", "create_builder_config", "create_optimization_profile",
                                     "build_serialized_network"])
def test_none_is_an_error(run, script, factory, tmp_path):
    script.none = factory
    script.warns = ("something was odd",) if factory == "build_serialized_network" else ()
    with pytest.raises(ModelError) as caught:
        run()
    said = "something was odd" if script.warns else f"TensorRT's {factory} gave nothing"
    assert said in caught.value.what
    assert caught.value.remedy
    assert not (tmp_path / "plan").exists()


def test_a_refused_profile_is_an_error(run, script):
    script.profile = -1
    with pytest.raises(ModelError, match="profile for batches of 1 to 8 is refused"):
        run()


def test_every_flaw_the_parser_names_is_told(run, script):
    script.flaws = ((3, "a", "Foo", "bad"), (4, "", "Bar", "worse"), (-1, "", "", "in all"))
    with pytest.raises(ModelError) as caught:
        run()
    assert "node a (Foo): bad; node number 4 (Bar): worse; in all" in caught.value.what


def test_no_outputs_is_no_model(run, script):
    script.outputs = 0
    with pytest.raises(ModelError, match="no ONNX model, or one without outputs"):
        run()


def test_an_open_size_is_refused(run, script):
    script.shape = (-1, 64, -1, 3)
    with pytest.raises(ModelError, match="only the first size may be open"):
        run()


def test_tensorrt_8_is_out_of_scope(run):
    with pytest.raises(ModelError, match="no strongly typed networks") as caught:
        run(lacks=["STRONGLY_TYPED"])
    assert "JetPack 6" in caught.value.remedy


def test_without_progress_monitors_it_builds_all_the_same(run, tmp_path):
    assert run(lacks=["IProgressMonitor"]).steps == 0
    assert (tmp_path / "plan").exists()


def test_the_build_for_arm_servers_on_a_jetson_is_recognised(run, script):
    script.builder_says = "Target GPU SM 87 is not supported by this TensorRT release"
    with pytest.raises(ModelError, match="SM 87 is not supported") as caught:
        run()
    assert "pip uninstall tensorrt" in caught.value.remedy
    assert "python3-libnvinfer" in caught.value.remedy


def test_a_runtime_that_is_not_there_is_a_model_error_with_how_to_get_it(tmp_path, monkeypatch):
    def missing(runtime):
        raise EngineError("tensorrt is not installed", "get it")

    monkeypatch.setattr(tensorrt_builder, "load_bindings", missing)
    with pytest.raises(ModelError, match="not installed") as caught:
        build(tmp_path / "x", tmp_path / "y", BuildSettings(runtime="tensorrt", max_batch=1, workspace=1),
              report=lambda *_: None, cancelled=lambda: False)
    assert caught.value.remedy == "get it"


def test_warnings_are_passed_on_once_each(run, script):
    script.warns = ("one", "two", "one")
    assert run().warnings == ["one", "two"]


def test_the_log_of_an_earlier_build_is_forgotten(run, script):
    script.warns = ("one",)
    run()
    script.warns = ()
    assert run().warnings == []


# -- cancel and progress -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("asked", [0, 1, 2, 5, 10])
def test_cancelled_at_any_time(run, tmp_path, asked):
    times = itertools.count()
    with pytest.raises(ModelError, match="cancelled"):
        run(cancelled=lambda: next(times) >= asked)
    assert not (tmp_path / "plan").exists()


def test_a_parent_that_is_gone_stops_the_build_and_reaches_no_library_thread(run, script, tmp_path):
    seen = []

    def report(*at):
        seen.append(at)
        raise BrokenPipeError("gone")

    with pytest.raises(ModelError, match="nobody listens: gone"):
        run(report=report)
    assert len(seen) == 1
    assert not (tmp_path / "plan").exists()


def test_the_last_report_is_the_whole(run):
    seen = []
    run(report=lambda *at: seen.append(at))
    assert seen[-1] == ("building", 1000, 1000)
    assert [done for _, done, _ in seen[:-1]] == [100, 200, 300, 400, 500, 600, 700, 800, 900, 999]


phases = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "a", "b", "c"]), st.integers(-1, 5),
                            st.sampled_from(["begin", "step", "finish"])), max_size=60)


@given(phases)
def test_whatever_the_library_says_progress_stays_within_bounds_and_rises(events):
    seen = []
    progress = Progress("x", lambda _, done, total: seen.append((done, total)), lambda: False)
    for name, parent, number, what in events:
        if what == "begin" and parent != name and not (parent or "") > name:
            progress.begin(name, parent, number)
        elif what == "step":
            assert progress.step(name, max(number, 0))
        else:
            progress.finish(name)
    assert seen == sorted(set(seen))
    assert all(0 <= done <= 999 and total == 1000 for done, total in seen)


def test_steps_within_steps():
    seen = []
    progress = Progress("x", lambda _, done, total: seen.append(done), lambda: False)
    progress.begin("whole", None, 4)
    progress.step("whole", 0)
    progress.begin("part", "whole", 2)
    progress.step("part", 0)
    progress.step("part", 1)
    progress.finish("part")
    progress.step("whole", 1)
    progress.step("whole", 2)
    assert seen == [250, 375, 500, 750]


# -- timing cache ------------------------------------------------------------------------------------------------
def test_a_new_timing_cache_is_made(run, script, tmp_path):
    built = run(timing_cache=str(tmp_path / "deep" / "cache"))
    assert (tmp_path / "deep" / "cache").read_bytes() == b"!"
    assert called(script, "cache") == [(b"", False)]
    assert not called(script, "combine")
    assert built.warnings == []


def test_times_measured_by_another_build_meanwhile_are_kept(run, script, tmp_path):
    (tmp_path / "cache").write_bytes(b"old")
    script.during = lambda: (tmp_path / "cache").write_bytes(b"new")
    run(timing_cache=str(tmp_path / "cache"))
    assert called(script, "cache") == [(b"old", False)]
    assert called(script, "combine") == [(b"new", False)]
    assert (tmp_path / "cache").read_bytes() == b"old+new!"


def test_a_damaged_cache_is_set_aside(run, script, tmp_path):
    (tmp_path / "cache").write_bytes(b"bad")
    built = run(timing_cache=str(tmp_path / "cache"))
    assert (tmp_path / "cache.refused").read_bytes() == b"bad"
    assert (tmp_path / "cache").read_bytes() == b"!"
    assert built.warnings[0].endswith("refused, set aside as cache.refused")


@pytest.mark.parametrize(("what", "words"), [("none", "TensorRT takes none"), ("refused", "TensorRT takes none"),
                                             ("other", "made by another TensorRT or GPU; replaced")])
def test_a_cache_that_tensorrt_does_not_want_fails_no_build(run, script, tmp_path, what, words):
    script.cache = what
    script.during = lambda: (tmp_path / "cache").write_bytes(b"new")
    built = run(timing_cache=str(tmp_path / "cache"))
    assert any(words in text for text in built.warnings), built.warnings
    assert (tmp_path / "plan").exists()


def test_a_failed_build_keeps_the_cache(run, script, tmp_path):
    (tmp_path / "cache").write_bytes(b"old")
    script.fails = "no"
    with pytest.raises(ModelError):
        run(timing_cache=str(tmp_path / "cache"))
    assert (tmp_path / "cache").read_bytes().startswith(b"old")


def test_a_build_that_hangs_over_the_cache_fails_no_other(run, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.3)
    with lock.alone_in(tmp_path):
        built = run(timing_cache=str(tmp_path / "cache"))
    assert any("no sign of work" in text for text in built.warnings), built.warnings
    assert (tmp_path / "plan").exists()


def test_a_cache_that_cannot_be_read_or_written_fails_no_build(run, tmp_path):
    (tmp_path / "cache").mkdir()
    built = run(timing_cache=str(tmp_path / "cache"))
    assert sum("cannot be" in text for text in built.warnings) >= 2
    assert (tmp_path / "plan").exists()


def test_a_plan_that_cannot_be_written_is_said(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="cannot be written: No space left") as caught:
        run()
    assert "room" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.onnx"]


# -- bindings and log --------------------------------------------------------------------------------------------
def test_bindings_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", None)
    with pytest.raises(EngineError, match="tensorrt ") as caught:
        load_bindings("tensorrt")
    assert "--system-site-packages" in caught.value.remedy


def test_bindings_whose_library_is_missing_name_it(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=r"libnvinfer\.so\.10: cannot open"):
        load_bindings("tensorrt")


def test_a_folder_of_that_name_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match="holds no Builder"):
        load_bindings("tensorrt")
    sys.modules.pop("tensorrt", None)


def test_bindings_without_the_package_that_joins_them_will_do(tmp_path, monkeypatch):
    (tmp_path / "tensorrt_bindings.py").write_text("class Builder: pass")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_bindings", raising=False)
    assert load_bindings("tensorrt").__name__ == "tensorrt_bindings"
    sys.modules.pop("tensorrt_bindings", None)


def test_the_log_is_bounded():
    log = Log()
    for number in range(10_000):
        log.add(1, f"error {number}")
        log.add(2, f"warning {number}")
        log.add(3, "info")
    assert (len(log.errors), len(log.warnings), len(log.layers)) == (40, 40, 0)
    assert log.errors[-1] == "error 9999"


def test_the_newest_error_decides_the_remedy():
    log = Log()
    log.add(1, "cudaError 35: CUDA driver version is insufficient for CUDA runtime version")
    log.add(1, "no tactics to implement the operation within workspace limit")
    error = log.failed("x")
    assert error.what.startswith("x: no tactics")
    assert "workspace" in error.remedy


def layer(kind, names, dtype, word="Datatype"):
    listed = "".join(f"[ONNX Layer: {name}]" for name in names)
    return f"Name: l, LayerType: {kind}, Inputs: [ {{ Name: x, Dimensions: [1,2], {word}: {dtype}, Format: y }}], Metadata: {listed}"


def test_convolutions_are_counted_in_the_layers_that_compute_them():
    log = Log()
    log.add(4, "\n".join([
        "Engine layers", layer("kgen", ["c1", "q"], "UInt8"), layer("correlation", ["c1"], "Int8"), layer("kgen", ["c1"], "Float"),
        layer("runtime_fusion", ["c2", "c3"], "Half"), layer("CaskConvolution", ["c4"], "Row major Int8 format", "Format/Datatype"),
        layer("correlation", ["other"], "Float")]))
    assert log.inputs_at({"c1", "c2", "c3", "c4", "lost"}) == {"Int8": 2, "Half": 2, "unknown": 1}
    assert Log().inputs_at({"c1"}) is None


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"workspace": 0}, {"level": 6}, {"level": -1}, {"runtime": "trt"}])
def test_settings_out_of_bounds_are_refused_where_they_are_read(wrong):
    asked = {"runtime": "tensorrt", "max_batch": 1, "workspace": 1, **wrong}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(asked, BuildSettings)


def test_one_logger_a_process():
    made = module(Script())
    one = types.ModuleType("one")
    vars(one).update(vars(made))
    assert tensorrt_bindings.logger_of(one) is tensorrt_bindings.logger_of(one)
