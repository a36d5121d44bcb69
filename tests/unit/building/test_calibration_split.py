import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.building.calibration import check_variety, split
from agent.errors import ModelError
from tests.helpers import media

NONE = np.zeros((0, 32, 48, 3), np.uint8)


def scene(seed, noise=0):
    """A picture of 16x16 large patches; `noise` is what a camera's sensor would add."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(30, 220, (16, 16, 1)), np.ones((2, 3, 3), int))
    return np.clip(picture + np.random.default_rng(noise).integers(-2, 3, picture.shape), 0, 255).astype(np.uint8)


def clip(*seeds):
    return np.stack([scene(seed) for seed in seeds])


def hashes(frames):
    return [hashlib.sha256(np.ascontiguousarray(frame)).hexdigest() for frame in frames]


def test_the_last_quarter_of_each_clip_is_held_out():
    first, second = clip(*range(20)), clip(*range(100, 140))
    parts = split(NONE, [first, second], least=10, most=100)
    np.testing.assert_array_equal(parts.calibration, np.concatenate([first[:15], second[:30]]))
    np.testing.assert_array_equal(parts.held_out, np.concatenate([first[15:], second[30:]]))
    assert parts.note == "45 frames calibrate (0 of this device, 45 of 2 sets); 15 are held out"


def test_live_frames_stay_on_their_side_when_others_come_and_go():
    before = split(clip(*range(80)), [], least=10, most=200)
    after = split(clip(*range(40, 160)), [], least=10, most=200)
    assert 10 <= len(before.held_out) <= 30
    assert "look like" not in before.note, "a frame stands on one side only, not only after twins are removed"
    common = set(hashes(clip(*range(40, 80))))
    for side in ("calibration", "held_out"):
        assert common & set(hashes(getattr(before, side))) == common & set(hashes(getattr(after, side)))


def test_the_order_of_live_frames_does_not_matter():
    one, other = (split(clip(*seeds), [], least=10, most=30) for seeds in (range(80), reversed(range(80))))
    np.testing.assert_array_equal(one.calibration, other.calibration)
    assert one.sha256 == other.sha256


@settings(max_examples=25, deadline=None)
@given(live=st.lists(st.integers(0, 60), max_size=60), lengths=st.lists(st.integers(0, 30), max_size=4),
       most=st.integers(4, 60))
def test_no_frame_stands_on_both_sides(live, lengths, most):
    sets = [clip(*range(30 + index, 30 + index + length)) if length else NONE for index, length in enumerate(lengths)]
    try:
        parts = split(clip(*live) if live else NONE, sets, least=4, most=most)
    except ModelError:
        return
    assert not set(hashes(parts.calibration)) & set(hashes(parts.held_out))
    assert 4 <= len(parts.calibration) <= most
    assert len(parts.held_out) <= most
    assert len(set(hashes(parts.held_out))) == len(parts.held_out)


def test_a_twin_of_a_calibration_frame_judges_nothing():
    still = np.stack([scene(index if index < 10 else 3, noise=index) for index in range(40)])
    parts = split(NONE, [still], least=10, most=100)
    assert len(set(hashes(still))) == 40, "sensor noise makes each frame another"
    assert len(parts.calibration) == 30
    assert len(parts.held_out) == 0
    assert "10 more look like one of these" in parts.note


def test_something_small_that_moved_makes_another_picture():
    frames = np.stack([scene(index if index < 30 else 3) for index in range(40)])
    for index in range(30, 40):
        frames[index, 2 * (index - 30) : 2 * (index - 30) + 3, 10:16] = 255
    assert len(split(NONE, [frames], least=10, most=100).held_out) == 10


def test_live_frames_come_first_and_clips_fill_up():
    live, sets = clip(*range(40)), [clip(*range(100, 140)), clip(*range(200, 280))]
    parts = split(live, sets, least=10, most=60)
    own = len(set(hashes(live)) & set(hashes(parts.calibration)))
    filled = [len(set(hashes(frames)) & set(hashes(parts.calibration))) for frames in sets]
    assert len(parts.calibration) == 60
    assert own + sum(filled) == 60
    assert 20 < own < 40
    assert abs(filled[1] - 2 * filled[0]) <= 2, "in proportion to their lengths"
    assert f"({own} of this device, {sum(filled)} of 2 sets)" in parts.note


def test_what_is_too_many_is_thinned_out_evenly():
    frames = clip(*range(400))
    order = {digest: index for index, digest in enumerate(hashes(frames))}
    parts = split(NONE, [frames], least=10, most=30)
    for chosen, first, last in ((parts.calibration, 0, 300), (parts.held_out, 300, 400)):
        indices = [order[digest] for digest in hashes(chosen)]
        assert len(indices) == 30
        assert indices == sorted(indices)
        steps = np.diff([first - 1, *indices, last])
        assert max(steps) <= 1.6 * (last - first) / 30


def test_pictures_are_divided_like_live_frames():
    pictures = [clip(index) for index in range(60)]
    parts = split(NONE, pictures, least=10, most=100)
    assert len(parts.calibration) + len(parts.held_out) == 60
    assert 5 <= len(parts.held_out) <= 25


def test_the_hash_is_of_the_content_of_both_sides():
    frames = clip(*range(40))
    first = split(NONE, [frames], least=10, most=100)
    assert re.fullmatch("[0-9a-f]{64}", first.sha256)
    assert first.sha256 == split(NONE, [frames.copy()], least=10, most=100).sha256
    for index in (0, 39):
        changed = frames.copy()
        changed[index, 0, 0, 0] ^= 1
        assert split(NONE, [changed], least=10, most=100).sha256 != first.sha256
    assert split(NONE, [frames], least=10, most=25).sha256 != first.sha256


def test_too_few_frames_are_refused_with_the_numbers():
    with pytest.raises(ModelError, match="30 calibration frames are too few: 32 are needed") as caught:
        split(NONE, [clip(*range(40))], least=32, most=100)
    assert "[calibration]" in caught.value.remedy
    with pytest.raises(ModelError, match="0 calibration frames are too few"):
        split(NONE, [], least=32, most=100)
    with pytest.raises(ModelError, match="0 calibration frames are too few"):
        check_variety(NONE)


def test_one_picture_forty_times_is_no_variety():
    still = np.stack([scene(3, noise=index) for index in range(40)])
    with pytest.raises(ModelError, match=r"40 calibration frames show no variety: 1 different pictures, 8 are needed"):
        check_variety(still, least=32)
    check_variety(np.stack([scene(index % 8, noise=index) for index in range(40)]), least=32)
    with pytest.raises(ModelError, match="7 different pictures"):
        check_variety(np.stack([scene(index % 7, noise=index) for index in range(40)]), least=32)


@pytest.mark.parametrize("bands", ["none", "above and below", "left and right"])
def test_flat_pictures_teach_nothing(bands):
    frames = np.empty((40, 32, 48, 3), np.uint8)
    for index in range(40):
        frames[index] = 6 * index
    if bands == "above and below":
        frames[:, :8] = frames[:, 24:] = 114
    elif bands == "left and right":
        frames[:, :, :11] = frames[:, :, 37:] = 114
    with pytest.raises(ModelError, match=r"0 different pictures.*40 are of one flat colour"):
        check_variety(frames, least=32)


@pytest.mark.parametrize("wrong", [
    np.zeros((40, 32, 3), np.uint8), np.zeros((40, 32, 48, 4), np.uint8), np.zeros((40, 32, 48, 3), np.float32),
    np.zeros((40, 32, 50, 3), np.uint8), np.zeros((40, 8, 48, 3), np.uint8)])
def test_shapes_that_do_not_fit_are_named(wrong):
    with pytest.raises(ModelError, match=re.escape(str(wrong.shape))):
        split(NONE, [clip(*range(40)), wrong], least=32, most=100)
    with pytest.raises(ModelError, match=re.escape(str(wrong.shape))):
        check_variety(wrong) if wrong.shape[1:] != (32, 50, 3) else split(clip(1), [wrong], least=1, most=100)


def test_the_clips_of_the_face_recipe_have_variety_and_leave_enough_to_judge():
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV to read the clips: install the extra `cpu`")
    sets = []
    for item in (media.CARPHONE, media.BIKES):
        reader, frames = cv2.VideoCapture(str(media.fetch(*item))), []
        while (read := reader.read())[0]:
            frames.append(cv2.resize(read[1], (160, 96)))
        reader.release()
        sets.append(np.stack(frames))
    parts = split(np.zeros((0, 96, 160, 3), np.uint8), sets, least=32, most=200)
    assert len(parts.calibration) == 200
    assert len(parts.held_out) >= 60, parts.note
