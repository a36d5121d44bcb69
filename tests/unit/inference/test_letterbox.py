import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import EngineError, SourceError, missing_extra
from agent.inference.letterbox import Letterbox

side = st.integers(1, 80) | st.sampled_from([319, 320, 321, 1080, 3000, 4000])


def picture(height: int, width: int, value: int = 200) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@settings(max_examples=120, deadline=None)
@given(height=side, width=side, canvas=st.tuples(st.integers(16, 97), st.integers(16, 97)), pad=st.integers(0, 150))
def test_the_picture_lies_centred_in_full_between_grey_bands(height, width, canvas, pad):
    out = np.random.default_rng(0).integers(0, 256, (*canvas, 3), np.uint8)
    placement = Letterbox(*canvas, pad).place(picture(height, width), out)
    inside = (out == 200).all(2)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (rows[0], columns[0]) == (placement.top, placement.left)
    assert inside.sum() == len(rows) * len(columns), "the picture is a whole rectangle"
    assert (out[~inside] == pad).all(), "everything else is grey"
    assert len(rows) == canvas[0] or len(columns) == canvas[1], "it touches two edges"
    for start, length, whole in ((placement.top, len(rows), canvas[0]), (placement.left, len(columns), canvas[1])):
        assert abs(2 * start + length - whole) <= 1, "it is centred"


@settings(max_examples=120, deadline=None)
@given(height=side, width=side, canvas=st.tuples(st.integers(16, 640), st.integers(16, 640)))
def test_corners_come_back_to_within_half_a_canvas_pixel(height, width, canvas):
    out = np.zeros((*canvas, 3), np.uint8)
    placement = Letterbox(*canvas, 0).place(picture(height, width), out)
    inside = (out == 200).all(2)
    top, bottom = np.flatnonzero(inside.any(1))[[0, -1]]
    left, right = np.flatnonzero(inside.any(0))[[0, -1]]
    corners = placement.to_source(np.array([[left, top], [right + 1, bottom + 1]], np.float32))
    assert corners[0].tolist() == [0, 0]
    allowed = 0.5 / placement.scale + 1e-2
    assert abs(corners[1, 0] - width) <= allowed
    assert abs(corners[1, 1] - height) <= allowed


@pytest.mark.parametrize(("size", "canvas"), [((720, 1280), (320, 320)), ((576, 768), (320, 320)), ((1080, 1920), (640, 640)),
                                              ((480, 640), (480, 640)), ((144, 176), (320, 320))])
def test_usual_cameras_come_back_to_within_one_pixel(size, canvas):
    out = np.zeros((*canvas, 3), np.uint8)
    placement = Letterbox(*canvas, 0).place(picture(*size), out)
    right, bottom = (int(np.flatnonzero((out == 200).any(axis=(axis, 2)))[-1]) + 1 for axis in (0, 1))
    corner = placement.to_source(np.array([right, bottom], np.float32))
    assert np.abs(corner - [size[1], size[0]]).max() <= 1


def test_the_same_size_is_copied_bit_by_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    out = np.zeros_like(pixels)
    placement = Letterbox(32, 64).place(pixels, out)
    assert (out == pixels).all()
    assert (placement.scale, placement.left, placement.top) == (1, 0, 0)


def test_the_order_of_rows_columns_and_channels_is_kept():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    out = np.zeros((64, 64, 3), np.uint8)
    Letterbox(64, 64).place(pixels, out)
    assert [out[0, 0].tolist(), out[0, -1].tolist(), out[-1, 0].tolist()] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_slots_of_one_batch_do_not_touch_each_other():
    batch = np.zeros((3, 32, 32, 3), np.uint8)
    box = Letterbox(32, 32, 7)
    for turn, size in enumerate([(10, 20), (20, 10), (50, 50), (1, 90)]):
        before = batch.copy()
        box.place(picture(*size), batch[turn % 3])
        others = [slot for slot in range(3) if slot != turn % 3]
        assert (batch[others] == before[others]).all()
        fresh = np.zeros((32, 32, 3), np.uint8)
        Letterbox(32, 32, 7).place(picture(*size), fresh)
        assert (batch[turn % 3] == fresh).all(), "nothing of an earlier picture is left"


def test_a_view_with_steps_is_placed_as_its_copy():
    wide = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for view in (wide[::2, ::-1], wide[:, 5:40], wide[..., ::-1]):
        one, other = np.zeros((2, 32, 32, 3), np.uint8)
        Letterbox(32, 32).place(view, one)
        Letterbox(32, 32).place(view.copy(), other)
        assert (one == other).all()


def test_an_empty_picture_is_refused():
    with pytest.raises(SourceError, match="0x5"):
        Letterbox(32, 32).place(np.zeros((5, 0, 3), np.uint8), np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize("out", [np.zeros((32, 31, 3), np.uint8), np.zeros((32, 32, 3), np.float32)])
def test_a_wrong_canvas_is_refused(out):
    with pytest.raises(ValueError, match="out must be"):
        Letterbox(32, 32).place(picture(5, 5), out)


def test_a_missing_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(EngineError, match="OpenCV cannot be loaded") as caught:
        Letterbox(32, 32)
    assert caught.value.remedy.endswith(missing_extra("cpu"))


def test_the_agents_parts_can_be_imported_on_a_base_install():
    code = "import sys; sys.modules.update(cv2=None, onnxruntime=None, onnx=None); import agent.assembly, agent.supervisor"
    subprocess.run([sys.executable, "-c", code], cwd="/", check=True)
