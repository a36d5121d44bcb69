"""The store on a real disk: every step of a change fails, or is the last one before the power goes."""

import errno
import itertools
import os
import pathlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from agent.atomic import sha256_of
from agent.building.forms import Form
from agent.building.lock import alone_in, taken
from agent.building.store import TUNED, Card, Rung, Store, Tuning
from agent.errors import ModelError
from tests.helpers.engines import HERE, measured, parts

FP32, INT8 = Form.FP32, Form.INT8_FP32
ROOT = Path(__file__).resolve().parents[3]


def patch_call(patch, owner, name, call):
    """Put ``call`` in the place of a function; Python 3.10's pathlib keeps its own references to those of os."""
    patch.setattr(owner, name, call)
    accessor = getattr(pathlib, "_normal_accessor", None)
    if owner is os and name in {"mkdir", "replace", "unlink"} and accessor is not None:
        patch.setattr(accessor, name, call)


def scrap(folder, content):
    """A built engine that waits for being stored."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"built-{len(list(folder.iterdir()))}"
    path.write_bytes(content)
    return path


def put(state, content=b"engine", form=FP32, of=None):
    return Store(state).put(of or parts(), form, scrap(state / "work", content), 4)


def tuning(kept=FP32, of=None, at=1000.0):
    rungs = [Rung(form=form, outcome="kept" if form is kept else "lost", words="w", measured=measured()) for form in (INT8, FP32)]
    return Tuning(parts=of or parts(), rungs=rungs, kept=kept, at=at, took_s=1.0)


def tuned(state, content=b"engine", kept=FP32, of=None, at=1000.0):
    stored = put(state, content, kept, of)
    Store(state).finish(tuning(kept, of, at))
    return stored


def kept_content(state, of=None):
    """What the store would serve: bytes, or None."""
    found = Store(state).serving(of or parts())
    return found.path.read_bytes() if found else None


def names(state, of=None):
    return {path.name for path in Store(state).folder(of or parts()).iterdir()} - {".lock"}


def quarantined(state):
    return sorted(path.name for path in (state / "engines/small/quarantine").glob("*.engine"))


def test_what_is_kept_serves_and_the_card_says_what_it_is(tmp_path):
    put(tmp_path, b"float", FP32)
    tuned(tmp_path, b"int8", INT8)
    found = Store(tmp_path).serving(parts())
    assert found.path.read_bytes() == b"int8"
    assert found.path.parent == tmp_path / "engines/small/built" / parts().base
    assert (found.card.form, found.card.bytes, found.card.max_batch, found.card.sha256) == (INT8, 4, 4, sha256_of(found.path))
    assert found.identity == parts().identity(INT8)
    assert found.tuning == tuning(INT8)
    assert names(tmp_path) == {"int8-fp32.engine", "int8-fp32.json", TUNED}, "the beaten form is gone"
    assert Store(tmp_path).engine(parts(), FP32) is None
    assert Store(tmp_path).used_bytes() == sum(file.stat().st_size for file in found.path.parent.iterdir())


def test_an_engine_that_was_not_tuned_does_not_serve_but_can_be_had_by_name(tmp_path):
    put(tmp_path, b"float")
    assert kept_content(tmp_path) is None
    assert Store(tmp_path).engine(parts(), FP32).path.read_bytes() == b"float"
    Store(tmp_path).finish(tuning(kept=None))
    assert kept_content(tmp_path) is None
    assert Store(tmp_path).tuning(parts()).kept is None
    assert names(tmp_path) == {"fp32.engine", "fp32.json", TUNED}, "where nothing won, nothing goes"


@pytest.mark.parametrize("damage", [b"engine2", b"engin", b"", b"Engine"])
def test_an_engine_with_another_hash_is_set_aside_with_the_reason(tmp_path, damage):
    stored = tuned(tmp_path)
    stored.path.write_bytes(damage)
    assert Store(tmp_path).serving(parts()) is None
    assert not stored.path.exists()
    name, = quarantined(tmp_path)
    assert name.startswith(stored.identity)
    assert (tmp_path / "engines/small/quarantine" / name).read_bytes() == damage
    reason = (tmp_path / "engines/small/quarantine" / name).with_suffix(".txt").read_text()
    assert "its sha256 is" in reason
    assert f"{parts().base} fp32" in reason
    assert names(tmp_path) == set(), "nothing is left that vouches for it"
    assert Store(tmp_path).serving(parts()) is None
    tuned(tmp_path, b"anew")
    assert kept_content(tmp_path) == b"anew"


def test_an_engine_whose_file_is_gone_does_not_serve(tmp_path):
    stored = tuned(tmp_path)
    stored.path.unlink()
    assert Store(tmp_path).serving(parts()) is None
    assert quarantined(tmp_path) == []


def test_the_quarantine_keeps_the_newest_three(tmp_path):
    for number in range(5):
        of = parts(max_batch=number + 1)
        stored = tuned(tmp_path, b"%d" % number, of=of)
        Store(tmp_path).quarantine(stored, f"reason {number}")
        for file in (tmp_path / "engines/small/quarantine").glob(f"{stored.identity}*"):
            os.utime(file, (number, number))
    Store(tmp_path).quarantine(tuned(tmp_path, b"5", of=parts(max_batch=6)), "reason 5")
    place = tmp_path / "engines/small/quarantine"
    assert sorted(file.read_bytes() for file in place.glob("*.engine")) == [b"3", b"4", b"5"]
    assert len(list(place.glob("*.txt"))) == 3


@pytest.mark.parametrize(("owner", "call"), [(os, "mkdir"), (Path, "write_text"), (os, "replace")])
def test_a_damaged_engine_is_out_of_service_even_where_the_disk_is_full(tmp_path, monkeypatch, owner, call):
    def full(*_given, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    tuned(tmp_path).path.write_bytes(b"damaged")
    asked = []
    with monkeypatch.context() as patch:
        patch_call(patch, owner, call, lambda *given, **named: (asked.append(given), full()))
        assert Store(tmp_path).serving(parts()) is None, "no reason not to start on the lower tier"
    assert asked, "the disk was never asked"
    assert Store(tmp_path).tuning(parts()) is None
    assert names(tmp_path) <= {"fp32.engine"}
    tuned(tmp_path, b"anew")
    assert kept_content(tmp_path) == b"anew"


def test_a_damaged_engine_that_may_not_be_touched_is_said(tmp_path, monkeypatch):
    def denied(*_given, **_named):
        raise OSError(errno.EROFS, "Read-only file system")

    tuned(tmp_path).path.write_bytes(b"damaged")
    patch_call(monkeypatch, os, "unlink", denied)
    with pytest.raises(ModelError, match=r"fp32\.json: cannot be deleted: Read-only"):
        Store(tmp_path).serving(parts())


@pytest.mark.parametrize("change", [
    {"recipe_sha256": "f" * 16}, {"max_batch": 2}, {"level": 0}, {"platform": msgspec.structs.replace(HERE, runtime="onnxruntime 9")}])
def test_an_engine_of_other_parts_is_never_returned_even_from_the_same_folder(tmp_path, change):
    other = parts(**change)
    stored = tuned(tmp_path)
    assert kept_content(tmp_path, other) is None
    folder = Store(tmp_path).folder(other)
    stored.path.parent.rename(folder)  # as if two identities had the same hash, or someone had copied a folder
    assert Store(tmp_path).serving(other) is None
    assert Store(tmp_path).engine(other, FP32) is None
    assert Store(tmp_path).tuning(other) is None
    assert (folder / "fp32.engine").exists(), "it is not ours to judge"


def test_a_card_of_another_form_vouches_for_nothing(tmp_path):
    stored = tuned(tmp_path)
    for ending in (".engine", ".json"):
        stored.path.with_suffix(ending).rename(stored.path.with_name(f"fp16{ending}"))
    assert Store(tmp_path).engine(parts(), Form.FP16) is None


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"\xff\xfe", b'{"schema": 1}', b"[" * 5000, b"0" * 100_000])
@pytest.mark.parametrize("name", ["fp32.json", TUNED])
def test_garbage_in_a_card_or_a_report_means_that_nothing_serves(tmp_path, name, garbage):
    stored = tuned(tmp_path)
    (stored.path.parent / name).write_bytes(garbage)
    store = Store(tmp_path)
    assert store.serving(parts()) is None
    assert [found.card.form for found in store.all()] == ([] if name == "fp32.json" else [FP32])
    assert store.tunings("small") == ([] if name == TUNED else [tuning()])
    tuned(tmp_path, b"anew")
    assert kept_content(tmp_path) == b"anew"


def test_strangers_in_the_folders_are_no_engines(tmp_path):
    stored = tuned(tmp_path)
    built = stored.path.parent.parent
    (built / "file").write_text("x")
    (built / "dir.engine").mkdir()
    (stored.path.parent / "notes.engine").write_text("x")
    (stored.path.parent / "fp16.engine").mkdir()
    (stored.path.parent / "fp16.json").mkdir()
    store = Store(tmp_path)
    assert [found.path for found in store.all()] == [stored.path]
    assert store.engine(parts(), Form.FP16) is None
    assert kept_content(tmp_path) == b"engine"
    assert store.used_bytes() > 0


# Whole or not there ---------------------------------------------------------------------------------------------------


class Power(BaseException):
    """It goes: nothing runs any more, no clean-up either."""


CALLS = ("fsync", "replace", "unlink", "open", "fchmod", "write")


class Steps:
    """Counts the steps that a change takes on the disk, and ends the ``fatal``-th of them."""

    def __init__(self, monkeypatch, fatal=None, kind="fails"):
        self.fatal, self.kind, self.done, self.gone = fatal, kind, [], False
        for name in CALLS:
            patch_call(monkeypatch, os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name, real):
        def call(*given, **named):
            if self.gone:
                raise Power
            if len(self.done) == self.fatal:
                self.done.append(f"{name} {given[0]}: ended")
                if self.kind == "power":
                    self.gone = True
                    raise Power
                raise OSError(errno.ENOSPC, "No space left on device", str(given[0]))
            self.done.append(f"{name} {given[0]}")
            return real(*given, **named)
        return call


def step_by_step(tmp_path, monkeypatch, kind, before, change):
    """Run ``change`` with each of its steps as the last one; yield each state directory."""
    number = 0
    while True:
        state = tmp_path / f"{number}"
        before(state)
        with monkeypatch.context() as patch:
            steps = Steps(patch, number, kind)
            error = None
            try:
                change(state)
            except Power:
                pass
            except ModelError as raised:
                error = raised
        assert error is None or ("No space left on device" in error.what and error.remedy)
        yield state, steps
        if len(steps.done) <= number:
            assert number >= 3, "it goes through os, or this test sees nothing"
            return
        number += 1


@pytest.mark.parametrize("kind", ["fails", "power"])
def test_a_new_engine_is_whole_or_not_there_whichever_step_is_the_last(tmp_path, monkeypatch, kind):
    def before(state):
        scrap(state / "work", b"new")

    def change(state):
        Store(state).put(parts(), FP32, state / "work/built-0", 1)

    seen = set()
    for state, _ in step_by_step(tmp_path, monkeypatch, kind, before, change):
        found = Store(state).engine(parts(), FP32)
        seen.add(found.path.read_bytes() if found else None)
        assert quarantined(state) == [], "a change that was cut short must not look like damage"
        assert put(state, b"again").path.read_bytes() == b"again"
        Store(state).finish(tuning())
        assert kept_content(state) == b"again"
        assert not list(Store(state).folder(parts()).glob(".*.part")), "scraps go with the next change"
    assert seen == {None, b"new"}


@pytest.mark.parametrize("kind", ["fails", "power"])
def test_an_engine_that_takes_anothers_place_is_the_old_or_the_new_or_none(tmp_path, monkeypatch, kind):
    def before(state):
        tuned(state, b"old")
        scrap(state / "work", b"new")

    def change(state):
        Store(state).put(parts(), FP32, max((state / "work").iterdir()), 1)

    seen = []
    for state, steps in step_by_step(tmp_path, monkeypatch, kind, before, change):
        content = kept_content(state)
        seen.append((content, steps.done))
        assert content in {b"old", b"new", None}
        assert quarantined(state) == []
    contents = [content for content, _ in seen]
    assert contents[0] == b"old"
    assert contents[-1] == b"new"
    for content, done in seen:  # while only new files are made and written, nothing is lost
        if not any(step.startswith(("unlink", "replace")) and "/built/" in step and ".part" not in step for step in done):
            assert content == b"old", done


def test_a_full_disk_while_an_engine_is_stored_costs_nothing(tmp_path, monkeypatch):
    tuned(tmp_path, b"old")
    for call in ("open", "fsync"):  # what asks a full disk for room
        def full(*given, **named):
            raise OSError(errno.ENOSPC, "No space left on device")

        waiting = scrap(tmp_path / "work", b"newer")
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(ModelError, match="No space left on device"):
                Store(tmp_path).put(parts(), FP32, waiting, 1)
        assert kept_content(tmp_path) == b"old", call


@pytest.mark.parametrize("kind", ["fails", "power"])
def test_the_end_of_a_tuning_is_all_or_nothing(tmp_path, monkeypatch, kind):
    def before(state):
        tuned(state, b"float")
        put(state, b"int8", INT8)

    seen = []
    for state, _ in step_by_step(tmp_path, monkeypatch, kind, before, lambda state: Store(state).finish(tuning(INT8, at=2000.0))):
        found = Store(state).serving(parts())
        assert found is not None
        assert found.path.read_bytes() == (b"int8" if found.tuning.at == 2000.0 else b"float")
        seen.append(found.card.form)
        Store(state).finish(tuning(INT8))
        assert names(state) == {"int8-fp32.engine", "int8-fp32.json", TUNED}
    assert seen == sorted(seen, key=(FP32, INT8).index), "once the new one serves, it stays"
    assert set(seen) == {FP32, INT8}


@pytest.mark.parametrize("kind", ["fails", "power"])
def test_what_is_set_aside_never_serves_again_once_its_card_is_gone(tmp_path, monkeypatch, kind):
    def before(state):
        tuned(state)

    def change(state):
        Store(state).quarantine(Store(state).serving(parts()), "it fell over")

    gone = False
    for state, steps in step_by_step(tmp_path, monkeypatch, kind, before, change):
        serves = kept_content(state) is not None
        assert not (gone and serves)
        gone = gone or not serves
        if not any("fp32.json" in step and step.startswith("unlink") for step in steps.done):
            assert serves, steps.done
    assert gone


def test_the_card_is_written_last_and_what_it_vouches_for_is_on_the_disk(tmp_path, monkeypatch):
    built = scrap(tmp_path / "work", b"new")
    with monkeypatch.context() as patch:
        done = Steps(patch).done
        Store(tmp_path).put(parts(), FP32, built, 1)
    replaced = [index for index, step in enumerate(done) if step.startswith("replace")]
    assert len(replaced) == 2
    assert "built-0" in done[replaced[0]]
    assert "fp32.json" in done[replaced[1]]
    assert sum(step.startswith("fsync") for step in done[:replaced[0]]) == 2, "engine and card, while the old ones still stand"
    between = done[replaced[0]:replaced[1]]
    assert any(step.startswith("open") and step.endswith(parts().base) for step in between), "the folder is synced before the card comes"


def test_an_engine_that_cannot_be_read_is_refused_and_the_old_one_stays(tmp_path):
    tuned(tmp_path, b"old")
    with pytest.raises(ModelError, match=r"fp32\.engine: cannot be stored: No such file"):
        Store(tmp_path).put(parts(), FP32, tmp_path / "missing", 1)
    assert kept_content(tmp_path) == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written_is_said(tmp_path):
    tuned(tmp_path)
    folder = Store(tmp_path).folder(parts())
    folder.chmod(0o500)
    try:
        with pytest.raises(ModelError, match="cannot be written"):
            Store(tmp_path).finish(tuning())
    finally:
        folder.chmod(0o700)


# Several processes ----------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.helpers.engines import parts
from agent.building.forms import Form
from agent.building.store import Store
state, mark, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
(state / mark).mkdir()
for number in range(count):
    built = state / mark / "built"
    built.write_bytes(f"{mark} {number} ".encode() * 200)
    Store(state).put(parts(), Form.FP32, built, 1)
print("done")
"""


def test_readers_and_two_writers_at_once_see_whole_engines_only(tmp_path):
    tuned(tmp_path, b"first " * 200)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), mark, "150"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
               for mark in ("one", "two")]
    reads = wholes = 0
    while any(writer.poll() is None for writer in writers):
        reads += 1
        wholes += Store(tmp_path).serving(parts()) is not None
    assert [writer.communicate()[0] for writer in writers] == ["done\n", "done\n"]
    assert quarantined(tmp_path) == [], "an engine that is just being replaced is not damaged"
    assert wholes > 5
    assert reads > wholes // 2
    assert kept_content(tmp_path).startswith((b"one 149", b"two 149"))


def test_the_store_waits_for_whoever_writes_in_that_folder(tmp_path):
    tuned(tmp_path, b"old")
    waiting = threading.Thread(target=put, args=(tmp_path, b"new"))
    with alone_in(Store(tmp_path).folder(parts())):
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        assert kept_content(tmp_path) == b"old", "reading waits for nobody"
    waiting.join(10)
    assert kept_content(tmp_path) == b"new"


def test_who_waits_for_a_folder_is_asked_now_and_again_and_gets_it(tmp_path):
    asked, held = [], threading.Event()

    def take():
        with alone_in(tmp_path, wait=lambda: asked.append(time.monotonic())):
            assert taken(tmp_path)
            held.set()

    waiting = threading.Thread(target=take)
    with alone_in(tmp_path):
        waiting.start()
        time.sleep(0.7)
        assert not held.is_set()
    waiting.join(10)
    assert held.is_set()
    assert 2 <= len(asked) <= 5
    assert all(later - earlier > 0.19 for earlier, later in itertools.pairwise(asked))
    assert not taken(tmp_path)


def test_what_the_waiting_raises_ends_it_and_leaves_the_lock_to_its_holder(tmp_path):
    def cancelled():
        raise ModelError("cancelled", "")

    with alone_in(tmp_path):
        began = time.monotonic()
        with pytest.raises(ModelError, match="cancelled"), alone_in(tmp_path, cancelled):
            pytest.fail("two are in there")
        assert time.monotonic() - began < 0.2, "it is asked before the first nap"
        assert taken(tmp_path)
    with alone_in(tmp_path, cancelled):  # free: nobody is asked
        assert taken(tmp_path)


# Engines of another box -----------------------------------------------------------------------------------------------


def test_a_foreign_engine_is_taken_if_it_is_whole_and_of_exactly_these_parts(tmp_path, caplog):
    caplog.set_level("INFO")
    stored = tuned(tmp_path / "other", b"foreign")
    folder, store = stored.path.parent, Store(tmp_path / "mine")
    found = store.foreign(folder, parts(), FP32)
    assert (found.path, found.card, found.tuning) == (stored.path, stored.card, None), "its gate's word counts for nothing here"
    assert store.foreign(folder, parts(), INT8) is None
    other = parts(platform=msgspec.structs.replace(HERE, runtime="onnxruntime 9"))
    assert store.foreign(folder, other, FP32) is None
    assert "runtime onnxruntime 1.23.2 → onnxruntime 9" in caplog.text
    assert store.foreign(tmp_path / "nowhere", parts(), FP32) is None
    stored.path.write_bytes(b"damaged")
    assert store.foreign(folder, parts(), FP32) is None
    assert stored.path.read_bytes() == b"damaged", "another's folder is left alone"
    stored.path.unlink()
    assert store.foreign(folder, parts(), FP32) is None


# Pruning --------------------------------------------------------------------------------------------------------------


def full_store(state):
    """Three tuned engines of three ages, one set aside, one killed tuning's scraps; each some kilobytes."""
    bases = {}
    for age, batch in ((300, 3), (100, 1), (200, 2)):
        of = parts(max_batch=batch)
        stored = tuned(state, b"x" * 10_000, of=of)
        os.utime(stored.path.parent / TUNED, (age, age))
        bases[age] = of.base
    put(state, b"q" * 10_000, of=parts(max_batch=9))
    Store(state).quarantine(Store(state).engine(parts(max_batch=9), FP32), "bad")
    Store(state).folder(parts(max_batch=9)).joinpath(".lock").unlink()
    Store(state).folder(parts(max_batch=9)).rmdir()
    scraps = state / "engines/small/built/.work-abc"
    scraps.mkdir()
    (scraps / "fp32.onnx").write_bytes(b"w" * 10_000)
    return bases


def test_pruning_takes_quarantine_then_scraps_then_the_oldest_until_it_is_enough(tmp_path):
    bases = full_store(tmp_path)
    store = Store(tmp_path)
    would = store.prune(0, set(), dry_run=True)
    order = [path.name for path, _ in would]
    assert order == [quarantined(tmp_path)[0], ".work-abc", bases[100], bases[200], bases[300]]
    assert len(list(store.all())) == 3, "a dry run deletes nothing"
    assert quarantined(tmp_path)
    used = store.used_bytes()
    gone = store.prune(used - 1, set())
    assert [path.name for path, _ in gone] == order[:1]
    assert store.used_bytes() == used - gone[0][1] == used - 10_000
    gone = store.prune(store.used_bytes() - 15_000, set())
    assert [path.name for path, _ in gone] == order[1:3]
    assert {stored.card.parts.base for stored in store.all()} == {bases[200], bases[300]}
    assert store.prune(1 << 40, set()) == []
    assert [path.name for path, _ in store.prune(0, set())] == order[3:]
    assert list(store.all()) == []


def test_pruning_never_touches_what_is_in_use(tmp_path):
    bases = full_store(tmp_path)
    store = Store(tmp_path)
    store.prune(0, {bases[100], bases[300]})
    assert {stored.card.parts.base for stored in store.all()} == {bases[100], bases[300]}
    assert kept_content(tmp_path, parts(max_batch=1)) == b"x" * 10_000


def test_the_parts_of_cards_and_of_reports_are_told_once(tmp_path):
    store = Store(tmp_path)
    assert store.parts() == []
    won, lost, card, large = (parts(max_batch=1), parts(max_batch=2), parts(max_batch=3), parts(recipe="large"))
    tuned(tmp_path, of=won)
    put(tmp_path, form=INT8, of=card)
    put(tmp_path, form=FP32, of=card)
    store.finish(tuning(kept=None, of=lost))
    store.finish(tuning(kept=None, of=large))
    found = store.parts()
    assert len(found) == 4
    assert set(found) == {won, lost, card, large}
    (store.folder(lost) / TUNED).write_bytes(b"{")
    (store.folder(card) / "fp16.json").mkdir()
    (store.folder(card) / "notes.json").write_text("{}")
    assert set(store.parts()) == {won, card, large}
    store.prune(0, {large.base})
    assert store.parts() == [large], "a ladder that nothing won is kept like any other"


def test_pruning_leaves_the_work_of_a_tuning_that_goes_on(tmp_path):
    scraps = tmp_path / "engines/small/built/.work-abc"
    with alone_in(scraps.parent):
        scraps.mkdir()
        (scraps / "fp32.onnx").write_bytes(b"w" * 100)
        assert Store(tmp_path).prune(0, set()) == []
        assert scraps.exists()
    assert Store(tmp_path).prune(0, set()) == [(scraps, 100)]


def test_all_engines_are_listed_newest_first_of_one_recipe_or_all(tmp_path):
    for recipe, batch in (("small", 1), ("small", 2), ("large", 1)):
        put(tmp_path, b"x", of=parts(recipe=recipe, max_batch=batch))
        time.sleep(0.002)
    store = Store(tmp_path)
    assert [(stored.card.parts.recipe, stored.card.parts.max_batch) for stored in store.all()] == [("large", 1), ("small", 2), ("small", 1)]
    assert [stored.card.parts.max_batch for stored in store.all("small")] == [2, 1]
    assert list(Store(tmp_path / "empty").all()) == []
    for at, batch in ((5.0, 1), (9.0, 2)):
        store.finish(tuning(of=parts(max_batch=batch), at=at))
    assert [found.at for found in store.tunings("small")] == [9.0, 5.0]
    assert store.tunings("unknown") == []


def test_a_card_reads_back_as_it_was_written(tmp_path):
    stored = tuned(tmp_path, of=parts(level=0, workspace=1 << 30))
    assert msgspec.json.decode(stored.path.with_suffix(".json").read_bytes(), type=Card) == stored.card
