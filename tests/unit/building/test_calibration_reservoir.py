import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.building import reservoir as module
from agent.building.calibration import Reservoir, reservoirs, status_of, wipe
from agent.building.frame_folder import state_in
from agent.errors import ConfigError, ModelError

BLOCK = 4096
ROOM = 4 * BLOCK


def noise(seed, side=16):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def on_disk(folder):
    """Bytes in whole blocks, and one for the folder."""
    return BLOCK + sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in folder.iterdir())


def room_for(frames):
    """A budget that holds so many 16x16 frames, each less than a block."""
    return ROOM + frames * BLOCK


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def make(folder, frames=8, seed=0, side=16, **more):
    return Reservoir(folder, height=side, width=side, max_bytes=room_for(frames), seed=seed, **more)


def test_what_fits_is_all_kept_and_comes_back_bit_by_bit_in_order(tmp_path):
    times = iter([50.0, 60.0, 70.0])
    kept = make(tmp_path / "s", clock=lambda: next(times))
    pictures = [noise(1), np.zeros((16, 16, 3), np.uint8), noise(2)]
    assert [kept.offer(picture, f"cam{index % 2}") for index, picture in enumerate(pictures)] == [True] * 3
    again = make(tmp_path / "s", seed=9)
    np.testing.assert_array_equal(again.frames(), np.stack(pictures))
    status = again.status()
    assert (status.frames, status.offered, status.oldest, status.newest) == (3, 3, 50.0, 70.0)
    assert status.sources == {"cam0": 2, "cam1": 1}
    assert status.bytes == on_disk(tmp_path / "s") == 5 * BLOCK
    assert status.max_bytes == room_for(8)


def test_nothing_is_made_before_the_first_offer(tmp_path):
    empty = make(tmp_path / "s")
    assert empty.frames().shape == (0, 16, 16, 3)
    assert empty.status().frames == empty.status().bytes == empty.status().offered == 0
    assert empty.status().oldest is None
    assert empty.wipe() == 0
    assert not (tmp_path / "s").exists()


def test_frames_are_for_the_owners_eyes_only(tmp_path, quick):
    folder = tmp_path / "state" / "calibration" / "door" / "16x16"
    sample = make(folder, frames=2)
    for index in range(40):
        sample.offer(noise(index), "cam")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in [folder, *folder.parents][:4]} == {0o700}
    folder.chmod(0o755)
    make(folder, frames=2, seed=1).offer(noise(1), "cam")
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("canvas", [np.zeros((16, 17, 3), np.uint8), np.zeros((16, 16), np.uint8),
                                    np.zeros((16, 16, 3), np.float32)])
def test_a_wrong_canvas_is_refused(canvas, tmp_path):
    with pytest.raises(ValueError, match="expected"):
        make(tmp_path).offer(canvas, "cam")


def test_a_budget_below_one_frame_says_what_is_needed(tmp_path):
    with pytest.raises(ConfigError, match="20000 bytes do not hold one frame of 640x640") as caught:
        Reservoir(tmp_path, height=640, width=640, max_bytes=20_000)
    least = int(caught.value.remedy.split()[3])
    sample = Reservoir(tmp_path, height=640, width=640, max_bytes=least)
    assert sample.offer(noise(0, 640), "cam"), "noise is the largest a frame can be"
    assert on_disk(tmp_path) <= least
    with pytest.raises(ConfigError):
        Reservoir(tmp_path, height=640, width=640, max_bytes=least - 1)


@pytest.mark.parametrize("restart_every", [None, 7])
@pytest.mark.parametrize("mixed", [False, True], ids=["one size", "mixed sizes"])
def test_every_offered_frame_has_the_same_chance(restart_every, mixed, tmp_path, quick):
    """Chi-square over 40 positions; the seeds are fixed, so this either always passes or never."""
    offers, trials, side = 40, 150, 64
    large, small = noise(0, side), np.zeros((side, side, 3), np.uint8)  # 4 blocks and 1
    counts = np.zeros(offers)
    for trial in range(trials):
        folder = tmp_path / str(trial)
        for index in range(offers):
            if index == 0 or (restart_every and index % restart_every == 0):
                sample = make(folder, frames=24, seed=trial * 1000 + index, side=side)
            sample.offer(large if mixed and index % 2 else small if mixed else large, str(index))
        for source in sample.status().sources:
            counts[int(source)] += 1
    expected = counts.mean()
    assert 4 <= expected * offers / trials <= 20
    share = expected / trials
    chi_square = float((((counts - expected) ** 2) / (expected * (1 - share))).sum())
    assert chi_square < 70, counts  # 39 degrees of freedom: 0.16 % lie above
    if mixed:
        loss = 1 - counts[1::2].mean() / counts[::2].mean()
        assert loss < 0.2, "of ten frames the one at the limit is more often a large one; more than that is unfair"


STEPS = st.lists(st.one_of(
    st.tuples(st.just("offer"), st.integers(0, 3)),
    st.tuples(st.just("restart"), st.integers(6, 30)),
    st.tuples(st.just("truncate"), st.integers(0, 10**6)),
    st.tuples(st.just("flip"), st.integers(0, 10**6)),
    st.tuples(st.just("half"), st.integers(1, 9000)),
    st.tuples(st.just("wipe"), st.just(0)),
), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_the_budget_holds_whatever_happens(steps, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    pictures = [noise(1, 32), noise(2, 32), np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 7, np.uint8)]
    blocks, write = 12, module.write_atomic

    def checked(path, content, mode):
        assert on_disk(folder) + -(-len(content) // BLOCK) * BLOCK <= ROOM + blocks * BLOCK, "over while writing"
        write(path, content, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_atomic", checked)
        patch.setattr(os, "fsync", lambda handle: None)
        sample = Reservoir(folder, height=32, width=32, max_bytes=ROOM + blocks * BLOCK, seed=seed)
        for step, value in steps:
            victims = sorted(folder.iterdir())
            if step == "offer":
                sample.offer(pictures[value], "cam")
            elif step == "wipe":
                before = len(list(folder.glob("*.frame")))
                assert wipe(folder) == before
                assert list(folder.iterdir()) == []
            elif step == "restart":
                blocks = value
                sample = Reservoir(folder, height=32, width=32, max_bytes=ROOM + blocks * BLOCK, seed=seed + 1)
                patch.setattr(module, "write_atomic", write)  # a lowered budget is met by the first offer's end
                sample.offer(pictures[0], "cam")
                patch.setattr(module, "write_atomic", checked)
            elif step in {"truncate", "flip"} and victims:
                victim = victims[value % len(victims)]
                content = bytearray(victim.read_bytes())
                if step == "truncate":
                    victim.write_bytes(content[: value % (len(content) + 1)])
                elif content:
                    content[value % len(content)] ^= 1 + value % 255
                    victim.write_bytes(content)
            elif step == "half":  # as a kill leaves it; it was within the budget when it was being written
                fitting = min(value, ROOM + blocks * BLOCK - on_disk(folder))
                (folder / ".0123.frame.xyz.part").write_bytes(bytes(fitting))
                sample = Reservoir(folder, height=32, width=32, max_bytes=ROOM + blocks * BLOCK, seed=seed + 2)
                sample.offer(pictures[3], "cam")
                assert not list(folder.glob("*.part"))
            assert on_disk(folder) <= ROOM + blocks * BLOCK
            assert sample.status().bytes <= sample.status().max_bytes
        frames = sample.frames()
        assert all(any((frame == picture).all() for picture in pictures) for frame in frames), "a damaged frame came out"
        assert len(frames) == len(list(folder.glob("*.frame"))), "damaged files are gone"


def test_a_damaged_frame_is_removed_and_said(tmp_path, caplog):
    sample = make(tmp_path)
    for index in range(4):
        sample.offer(noise(index), "cam")
    first, second, *_ = sorted(tmp_path.glob("*.frame"))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    assert sample.status().frames == 3, "status reads no pictures, so it sees the empty file only"
    assert len(sample.frames()) == 2
    assert not first.exists()
    assert not second.exists()
    assert caplog.text.count("removed a damaged calibration frame") == 2


def test_another_process_may_wipe_meanwhile(tmp_path, quick):
    sample = make(tmp_path, frames=3)
    for index in range(300):
        sample.offer(noise(index), "old")
    (tmp_path / ".leftover.part").write_bytes(b"x" * 100)
    assert wipe(tmp_path) == 3
    assert list(tmp_path.iterdir()) == []
    assert [sample.offer(noise(index), "new") for index in range(3)] == [True] * 3, "the limit went with the frames"
    status = sample.status()
    assert (status.sources, status.offered) == ({"new": 3}, 3)


def test_exactly_the_frames_with_numbers_below_the_limit_are_kept(tmp_path, quick):
    """Whatever their sizes: this is what makes the sample fair."""
    pictures, numbers = [noise(0, 64), np.zeros((64, 64, 3), np.uint8)], random.Random(3)
    sample = make(tmp_path, frames=24, seed=3, side=64)
    offered = set()
    for index in range(200):
        sample.offer(pictures[index % 3 == 0], "cam")
        offered.add(numbers.getrandbits(64))
        limit = int(state_in(tmp_path).limit, 16)
        assert {int(path.stem, 16) for path in tmp_path.glob("*.frame")} == {n for n in offered if n < limit}
    assert len(offered) == 200


@pytest.mark.timeout(20)
def test_offering_never_waits_for_the_lock(tmp_path):
    sample = make(tmp_path)
    assert sample.offer(noise(0), "cam")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert not sample.offer(noise(1), "cam")
    finally:
        os.close(handle)
    assert sample.offer(noise(2), "cam")


def test_a_full_disk_fails_nobody_and_is_said_once(tmp_path, monkeypatch, caplog):
    sample = make(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", full)
        assert [sample.offer(noise(index), "cam") for index in range(3)] == [False] * 3
    assert caplog.text.count("No space left on device") == 1
    assert sample.offer(noise(3), "cam")


def test_the_count_of_offers_survives_restarts_and_is_at_most_256_behind(tmp_path, quick):
    sample = make(tmp_path, frames=2)
    for index in range(3000):
        sample.offer(noise(index % 5), "cam")
    assert sample.status().offered == 3000
    assert 3000 - 256 <= status_of(tmp_path, 1).offered <= 3000
    later = make(tmp_path, frames=2, seed=5)
    later.offer(noise(1), "cam")
    assert 3000 - 256 < later.status().offered <= 3001


def test_a_frame_that_is_not_drawn_costs_little(tmp_path, quick):
    sample = make(tmp_path, frames=2)
    for _ in range(2000):
        sample.offer(noise(0), "cam")
    started = time.perf_counter()
    for _ in range(200):
        sample.offer(noise(0), "cam")
    assert time.perf_counter() - started < 0.2


CHILD = """
import sys
from pathlib import Path
import numpy as np
from agent.building.calibration import Reservoir
sample = Reservoir(Path(sys.argv[1]), height=64, width=64, max_bytes=int(sys.argv[2]))
pictures = [np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8) for index in range(3)]
print("started", flush=True)
for index in range(10**9):
    sample.offer(pictures[index % 3], "cam")
    if index % 4000 == 3999:
        sample.wipe()
"""


def test_killed_at_any_time_it_keeps_its_promises(tmp_path):
    pictures = [np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8) for index in range(3)]
    budget, chance = ROOM + 40 * BLOCK, random.Random(1)
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(budget)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(chance.uniform(0, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert on_disk(tmp_path) <= budget
        frames = Reservoir(tmp_path, height=64, width=64, max_bytes=budget).frames()
        assert all(any((frame == picture).all() for picture in pictures) for frame in frames)
    sample = Reservoir(tmp_path, height=64, width=64, max_bytes=budget)
    sample.offer(pictures[0], "cam")
    assert not list(tmp_path.glob("*.part"))
    sample.wipe()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_all_recipes_and_sizes_are_found(tmp_path):
    for name in ("door/320x320", "door/640x480", "face/32x32"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "door" / "notes").mkdir()
    (tmp_path / "16x16").mkdir()
    assert reservoirs(tmp_path) == [tmp_path / "door/320x320", tmp_path / "door/640x480", tmp_path / "face/32x32"]
    assert reservoirs(tmp_path / "gone") == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make(tmp_path).offer(noise(0), "cam")

    def refused(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    for ask in (lambda: status_of(tmp_path, 1), lambda: wipe(tmp_path), make(tmp_path).frames):
        with pytest.raises(ModelError, match="Permission denied") as caught:
            ask()
        assert str(tmp_path) in caught.value.what
