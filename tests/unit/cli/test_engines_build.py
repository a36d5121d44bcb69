"""`vedette engines build|show|verify|prune|calibration` in this process, on a small real model."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from rich.console import Console

from agent import machine
from agent import plan as plan_module
from agent import tuning as tuning_module
from agent.building.child import Death
from agent.building.forms import Form
from agent.building.store import TUNED, Rung, Store, Tuning
from agent.cli import engines_build, main
from agent.pictures import reservoir_of
from tests.helpers.engines import ORIN, measured, parts, pictures, write_recipe

FP32, FP16 = Form.FP32, Form.FP16


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration, pictures, and a state directory in which `small` is built."""
    folder = tmp_path_factory.mktemp("made")
    write_recipe(folder)
    config = folder / "config.toml"
    config.write_text(f'[device]\nstate_dir = "{folder}/state"\n[engine]\nrecipe = "small"\nrecipes = ["{folder}/recipes"]\nthreads = 1\n[source.a]\nurl = "rtsp://127.0.0.1/a"\n')
    pictures(folder / "frames")
    assert main(["engines", "build", "small", "-c", str(config), "--frames", str(folder / "frames")]) == 0
    return SimpleNamespace(folder=folder, config=config, frames=folder / "frames", state=folder / "state")


@pytest.fixture
def vedette(made, tmp_path, capsys, monkeypatch):
    """Call `vedette engines …` on a copy of the state; return (exit code, stdout, stderr)."""
    state = tmp_path / "state"
    shutil.copytree(made.state, state)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, state_dir=state):
        code = main(["engines", *map(str, arguments), "-c", str(made.config), "--state-dir", str(state_dir)])
        said = capsys.readouterr()
        return code, said.out, said.err

    call.state, call.store, call.frames = state, Store(state), made.frames
    return call


def stored(vedette):
    return list(vedette.store.all())


def without_reports(vedette):
    """Let nothing be tuned, but everything prepared."""
    for folder in vedette.state.glob("engines/small/built"):
        shutil.rmtree(folder)


def scripted(monkeypatch, **outcomes):
    """Let a tuning end with these outcomes; return the tuners that were run, and the forms they were given."""
    seen = []

    def run(self, forms=None):
        seen.append((self, forms))
        rungs = [Rung(form=Form(form.replace("_", "-")), outcome=outcome, words="because [so] it is", measured=measured(boxes=0),
                      seconds=2.0, bytes=2_000_000) for form, outcome in outcomes.items()]
        kept = next((rung.form for rung in rungs if rung.outcome == "kept"), None)
        return Tuning(parts=self.plan.parts, rungs=rungs, kept=kept, at=0.0, took_s=1.0, note="a note")

    monkeypatch.setattr(tuning_module.Tuner, "run", run)
    return seen


def on_a_jetson(monkeypatch):
    monkeypatch.setattr(plan_module, "platform", lambda *_: ORIN)


# build ----------------------------------------------------------------------------------------------------------------


def test_a_build_shows_the_ladder_the_gate_and_what_is_stored(vedette):
    without_reports(vedette)
    code, out, err = vedette("build", "small", "--frames", vedette.frames)
    assert code == 0
    kept, = stored(vedette)
    assert "kept ✔" in out
    assert "int8-fp32" in out
    assert re.search(r"1\.000 \(\d+ of \d+ boxes\)", out)
    assert f"identity {kept.identity}" in out
    assert f"stored in {kept.path.parent}" in " ".join(out.split())
    assert "45 frames calibrate" in out
    assert "this was there already" not in out
    for words in ("small: frames", "small: convert", "small: build fp32", "small: measure fp32: time", "small: fp32 kept: agreement 1.000"):
        assert words in err
    assert err.count("small: measure fp32: time\n") == 1, "a line a phase"


def test_what_is_there_is_not_built_again_unless_forced(vedette, monkeypatch):
    before, = stored(vedette)
    code, out, _ = vedette("build", "small", "--json")
    assert code == 0
    found, = json.loads(out)
    assert (found["kept"], found["base"]) == ("fp32", before.card.parts.base)
    assert "this was there already" in vedette("build", "small")[1]
    assert stored(vedette) == [before]
    code, out, _ = vedette("build", "small", "--force", "--frames", vedette.frames)
    assert (code, "this was there already" in out) == (0, False)
    after, = stored(vedette)
    assert after.card.at > before.card.at
    assert after.identity == before.identity


def test_a_damaged_engine_is_built_anew_without_being_asked(vedette):
    before, = stored(vedette)
    before.path.write_bytes(b"damaged")
    code, out, _ = vedette("build", "small", "--frames", vedette.frames)
    assert code == 0
    assert "this was there already" not in out
    after, = stored(vedette)
    assert vedette.store.serving(after.card.parts) is not None
    assert list(vedette.state.glob("engines/small/quarantine/*.engine"))


def test_json_goes_to_stdout_alone_and_holds_the_whole_report(vedette):
    without_reports(vedette)
    code, out, err = vedette("build", "small", "--json", "--precision", "fp32")
    assert code == 0
    report, = json.loads(out)
    assert [rung["form"] for rung in report["rungs"]] == ["fp32"]
    assert report["rungs"][0]["measured"]["frames_kind"] == "synthetic"
    assert report["parts"]["precision"] == "fp32"
    assert "no calibration frames" in report["note"]
    assert "small: build fp32" in err


def test_without_frames_the_table_says_why_int8_was_not_tried(vedette):
    without_reports(vedette)
    code, out, _ = vedette("build", "small")
    assert code == 0
    assert "int8-fp32: not tried: there are no calibration frames: give --frames FOLDER" in " ".join(out.split())


def test_the_quick_tier_is_an_identity_of_its_own(vedette, monkeypatch):
    seen = scripted(monkeypatch, fp16="kept")
    on_a_jetson(monkeypatch)
    code, out, _ = vedette("build", "small", "--quick", "--runtime", "tensorrt", "--json")
    assert code == 0
    assert json.loads(out)[0]["parts"]["level"] == 0
    assert "ladder (quick tier)" in vedette("build", "small", "--quick", "--runtime", "tensorrt")[1]
    for tuner, forms in seen:
        assert tuner.plan.level == 0
        assert forms == tuner.plan.quick_forms
        assert {form.precision for form in forms} == {"fp16", "fp32"}
    vedette("build", "small", "--runtime", "tensorrt")
    full, forms = seen[-1]
    assert (full.plan.level, forms) == (None, None)
    assert full.plan.parts.base != seen[0][0].plan.parts.base


def test_a_cpu_has_no_quick_tier_and_that_is_said_before_anything_is_fetched(vedette):
    shutil.rmtree(vedette.state)
    code, out, err = vedette("build", "small", "--quick")
    assert (code, out) == (64, "")
    assert "no quick tier on a CPU: the prepared model serves until" in " ".join(err.split())
    assert not vedette.state.exists()


@pytest.mark.parametrize("option", ["--frames", "--from"])
def test_frames_and_engines_of_ones_own_are_a_wish_to_build(vedette, monkeypatch, tmp_path, option):
    """Relative names are of this process's directory; children work elsewhere."""
    seen = scripted(monkeypatch, fp32="kept")
    (tmp_path / "given").mkdir()
    monkeypatch.chdir(tmp_path)
    code, out, _ = vedette("build", "small", option, "given", state_dir="state")
    assert (code, "this was there already" in out) == (0, False)
    (tuner, _), = seen
    given, other = (tuner.frames_from, tuner.prebuilt)[::1 if option == "--frames" else -1]
    assert (given, other, tuner.state_dir) == (tmp_path / "given", None, vedette.state)


def test_relative_directories_serve_a_real_build(vedette, made, monkeypatch):
    without_reports(vedette)
    monkeypatch.chdir(vedette.state.parent)
    shutil.copytree(made.frames, "mine")
    code, out, _ = vedette("build", "small", "--frames", "mine", "--precision", "fp32", state_dir="state")
    assert (code, "no engine may serve" in out) == (0, False)
    assert f"stored in {vedette.state}/engines" in " ".join(out.split())


@pytest.mark.parametrize(("outcome", "told"), [("failed", True), ("lost", False)])
def test_an_engine_tuned_before_that_goes_on_serving_is_told(vedette, monkeypatch, outcome, told):
    before, = stored(vedette)
    scripted(monkeypatch, fp32=outcome)
    if not told:
        without_reports(vedette)
    code, out, _ = vedette("build", "small", "--force")
    out = " ".join(out.split())
    assert code == (1 if told else 2)
    assert ("no engine may serve" in out) == (not told)
    assert bool(re.search(r"this build kept nothing; the engine of \d{4}-\d\d-\d\d \d\d:\d\d goes on serving", out)) == told
    assert (f"stored in {before.path.parent}" in out) == told


def test_on_a_terminal_form_and_outcome_stand_before_their_words_in_one_line(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    with engines_build._bar("small", Console(file=out, force_terminal=True, width=50)) as (report, told):
        report("measure fp32: time", 3, 9)
        told(Rung(form=FP32, outcome="kept", words="agreement [1.000], " + "and many words " * 9 + "to the end"))
        report("measure fp32: time", 4, 9)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n").splitlines()
    assert "small: fp32 kept: agreement [1.000], " + "and many words " * 9 + "to the end" in lines
    assert any("small: measure fp32:" in line for line in lines), "the bar is drawn too"


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")])
def test_a_build_that_is_told_to_end_leaves_no_scraps_and_no_child(vedette, made, number, code, said):
    without_reports(vedette)
    process = subprocess.Popen([sys.executable, "-m", "agent", "engines", "build", "small", "-c", made.config, "--state-dir", vedette.state, "--frames", made.frames],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            for line in process.stderr:
                if line.startswith("small: build fp32"):  # a child says so
                    break
            assert list(vedette.state.glob("engines/small/built/.work-*")), "it works"
            children = children_of(process.pid)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, err.splitlines()[-1]) == (code, said)
    assert "Traceback" not in err
    assert not list(vedette.state.glob("engines/small/built/.work-*"))
    assert children
    assert not [child for child in children if os.path.exists(f"/proc/{child}")]


def test_sigterm_means_what_it_did_before_after_a_build(vedette):
    before = signal.getsignal(signal.SIGTERM)
    assert vedette("build", "small")[0] == 0
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("outcomes", "code"), [
    ({"fp16": "kept"}, 0), ({"fp16": "not measured", "fp32": "not measured"}, 1), ({"fp16": "failed", "fp32": "not measured"}, 1),
    ({"fp16": "lost", "fp32": "failed"}, 2)])
def test_the_exit_code_says_whether_it_may_serve(vedette, monkeypatch, outcomes, code):
    without_reports(vedette)
    scripted(monkeypatch, **outcomes)
    found, out, _ = vedette("build", "small")
    assert found == code
    assert ("no engine may serve" in out) == (code != 0)
    assert "a note" in out
    if code:
        assert "because [so] it is" in out, "no markup"


def test_a_child_that_dies_is_a_failed_rung_and_exit_code_2(vedette, monkeypatch):
    without_reports(vedette)
    real, dead = tuning_module.run_child, Death(what="was killed by signal 9 (SIGKILL)", remedy="free some")
    monkeypatch.setattr(tuning_module, "run_child", lambda module, *given, **named: dead if module == "agent.building.worker" else real(module, *given, **named))
    code, out, _ = vedette("build", "small")
    assert code == 2
    assert "fp32: failed: was killed by signal 9 (SIGKILL) (mend: free some)" in " ".join(out.split())


@pytest.mark.parametrize(("arguments", "code", "words"), [
    ((), 64, "give the names of recipes, --all, or --configured"), (("small", "--all"), 64, "give the names"), (("--configured", "--all"), 64, "give the names"),
    (("unknown",), 78, "unknown"), (("small", "--frames", "/nowhere"), 64, "does not exist"),
    (("small", "--from", "/nowhere"), 64, "does not exist"), (("small", "--precision", "int4"), 64, "int4"),
    (("small", "--runtime", "torch"), 64, "torch")])
def test_wrong_usage_is_one_message(vedette, arguments, code, words):
    found, out, err = vedette("build", *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_configured_builds_the_recipe_of_the_configuration(vedette, monkeypatch):
    without_reports(vedette)
    scripted(monkeypatch, fp16="kept")
    code, out, _ = vedette("build", "--configured")
    assert (code, "small" in out) == (0, True)


def test_frames_that_cannot_be_read_are_one_message(vedette, tmp_path):
    without_reports(vedette)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("no picture")
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    for place in (tmp_path / "texts", tmp_path / "a.mp4"):
        code, _, err = vedette("build", "small", "--frames", place)
        assert code == 2
        assert str(place) in err
        assert "Traceback" not in err
    assert not list(vedette.state.glob("engines/small/built/.work-*"))


def test_a_runtime_that_is_not_installed_is_one_message(vedette):
    code, _, err = vedette("build", "small", "--runtime", "tensorrt")
    assert code == 2
    assert "tensorrt" in err.lower()
    assert "mend:" in err


def test_an_engine_of_a_box_just_like_this_one_is_judged_instead_of_built(vedette, tmp_path, monkeypatch):
    there, = stored(vedette)
    prebuilt = tmp_path / "prebuilt"
    shutil.copytree(there.path.parent, prebuilt)
    without_reports(vedette)
    jobs, real = [], tuning_module.run_child
    monkeypatch.setattr(tuning_module, "run_child", lambda module, job, *given, **named: jobs.append(type(job).__name__) or real(module, job, *given, **named))
    code, _, _ = vedette("build", "small", "--from", prebuilt, "--precision", "auto")
    assert code == 0
    assert [job for job in jobs if job != "GatherJob"] == ["ConvertJob", "TrialJob"]
    here, = stored(vedette)
    assert here.card.sha256 == there.card.sha256


# show, verify, prune --------------------------------------------------------------------------------------------------


def test_show_tells_the_ladder_the_identity_and_whether_it_fits(vedette, monkeypatch):
    there, = stored(vedette)
    code, out, _ = vedette("show", "small")
    assert code == 0
    assert f"identity {there.identity}" in out
    assert "does not fit" not in out
    found = json.loads(vedette("show", "small", "--json")[1])["tunings"]
    assert [(each["kept"], each["misfit"], each["base"]) for each in found] == [("fp32", [], there.card.parts.base)]
    other = msgspec.structs.replace(there.card.parts.platform, runtime="onnxruntime 9.9")
    monkeypatch.setattr(plan_module, "platform", lambda *_: other)
    assert f"does not fit this device any more: runtime {there.card.parts.platform.runtime} → onnxruntime 9.9" in " ".join(vedette("show", "small")[1].split())
    assert len(json.loads(vedette("show", "small", "--json")[1])["tunings"][0]["misfit"]) == 1


def test_verify_says_whole_damaged_or_of_another_device(vedette):
    there, = stored(vedette)
    foreign = parts(platform=ORIN)
    built = vedette.state / "built"
    built.write_bytes(b"plan")
    vedette.store.put(foreign, FP16, built, 1)
    code, out, _ = vedette("verify", "--json")
    assert code == 0
    verdicts = {row["form"]: row for row in json.loads(out)}
    assert verdicts["fp32"]["verdict"] == "whole"
    assert verdicts["fp32"]["bytes"] == there.card.bytes
    assert verdicts["fp16"]["verdict"] == "other device: never loaded here"
    assert verdicts["fp16"]["why"]
    there.path.write_bytes(b"damaged")
    code, out, _ = vedette("verify")
    assert code == 1
    assert "damaged: set aside" in out
    assert not there.path.exists()
    assert vedette("verify")[0] == 0, "what is set aside is not there any more"
    assert vedette("verify", "another")[1].startswith("no engine is stored in")


@pytest.mark.parametrize("mend", ["another's card", "another form's card", "not a file"])
def test_verify_says_of_what_stays_that_it_cannot_be_used(vedette, mend):
    there, = stored(vedette)
    if mend == "another's card":
        place = there.path.parent.with_name("0" * 16)
        shutil.copytree(there.path.parent, place)
    elif mend == "another form's card":
        place = there.path.parent
        for end in (".engine", ".json"):
            shutil.copy(there.path.with_suffix(end), place / f"fp16{end}")
    else:
        place = there.path.parent
        there.path.unlink()
        there.path.mkdir()
    code, out, _ = vedette("verify", "--json")
    assert code == 1
    verdicts = [row["verdict"] for row in json.loads(out) if Path(row["path"]).parent == place and (row["path"] != str(there.path) or mend == "not a file")]
    assert verdicts == ["not usable: its card is another's, or it cannot be read"]
    assert not list(vedette.state.glob("engines/small/quarantine/*"))
    assert vedette("verify")[0] == 1, "it is still there"


@pytest.mark.parametrize("garbage", [b"{}", *[pytest.param(garbage, marks=pytest.mark.slow) for garbage in (b"", b"\xff", b"[1")]])
@pytest.mark.parametrize("name", ["fp32.json", TUNED])
def test_garbage_in_the_store_breaks_no_command(vedette, name, garbage):
    there, = stored(vedette)
    (there.path.parent / name).write_bytes(garbage)
    (there.path.parent.parent / "stranger").write_text("x")
    (there.path.parent.parent / "empty").mkdir()
    for command in (("show", "small"), ("show", "small", "--json"), ("verify",), ("prune", "--dry-run"), ("list",)):
        code, _, err = vedette(*command)
        assert (code, err) == (0, ""), command
    code, out, _ = vedette("build", "small")
    assert code == 0
    assert "this was there already" not in out
    assert vedette.store.serving(there.card.parts) is not None


def test_prune_deletes_what_does_not_fit_and_never_what_does(vedette):
    there, = stored(vedette)
    built = vedette.state / "built"
    built.write_bytes(b"x" * 5_000_000)
    foreign = vedette.store.put(parts(), FP16, built, 1)  # of another CPU
    code, out, _ = vedette("prune", "--dry-run")
    assert code == 0
    assert str(foreign.path.parent) in out.replace("\n", "")
    assert "5.0 MB would be freed" in out
    assert foreign.path.exists()
    assert "0.0 MB were freed" in vedette("prune", "--keep", "500MB")[1]
    code, out, _ = vedette("prune", "--json")
    assert code == 0
    assert [row["path"] for row in json.loads(out)] == [str(foreign.path.parent)]
    assert not foreign.path.exists()
    assert vedette.store.serving(there.card.parts) is not None


@pytest.mark.parametrize("keep", ["banana", "5", "-1MB", ""])
def test_a_size_that_is_none_is_wrong_usage(vedette, keep):
    code, _, err = vedette("prune", "--keep", keep)
    assert code == 64
    assert "--keep" in err


def test_an_empty_state_directory_has_nothing_to_show(vedette, tmp_path):
    for command in (("verify",), ("prune",), ("show", "small"), ("calibration", "status"), ("calibration", "wipe")):
        code, _, err = vedette(*command, state_dir=tmp_path / "nowhere")
        assert (code, err) == (0, ""), command
    assert not (tmp_path / "nowhere").exists(), "asking makes nothing"


def test_calibration_frames_are_counted_and_wiped(vedette, made):
    from agent.building.recipe import find_recipe

    recipe = find_recipe("small", [made.folder / "recipes"])
    place = reservoir_of(vedette.state, recipe, (64, 64), 1 << 30)
    for number in range(4):
        place.offer(np.full((64, 64, 3), number * 40, np.uint8), "door" if number else "gate")
    code, out, _ = vedette("calibration", "status")
    assert code == 0
    assert "live frames are not kept" in out
    assert "door 3, gate 1" in out
    kept, = json.loads(vedette("calibration", "status", "--json")[1])["kept"]
    assert (kept["recipe"], kept["canvas"], kept["frames"], kept["sources"]) == ("small", "64x64", 4, {"door": 3, "gate": 1})
    assert vedette("calibration", "wipe")[1] == "4 frames wiped\n"
    assert json.loads(vedette("calibration", "wipe", "--json")[1]) == {"wiped": 0}
    assert len(place.frames()) == 0


def test_what_it_runs_on_is_told_in_the_table(vedette, monkeypatch):
    without_reports(vedette)
    jetson = msgspec.structs.replace(ORIN, runtime="onnxruntime 1.0", provider="CPUExecutionProvider")
    monkeypatch.setattr(plan_module, "platform", lambda *_: jetson)
    scripted(monkeypatch, fp32="kept", int8_fp32="lost")
    out = " ".join(vedette("build", "small")[1].split())
    assert "onnxruntime 1.0, CPUExecutionProvider on Orin (nvgpu), sm 8.7, 16 SMs, L4T 36.4.3, MAXN (0)" in out
    assert "no boxes" in out
    assert "2.0 MB" in out
    assert machine.memory() is not None
