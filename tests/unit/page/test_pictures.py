import json
import weakref

import cv2
import numpy as np
import pytest

from agent.capture.jpeg import picture
from agent.page.pictures import Pictures
from agent.records import Detections, Frame, Result


def noise(height=144, width=176, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def seen(pixels, seq=1, source="door", captured=0.0, boxes=1):
    height, width = pixels.shape[:2]
    frame = Frame(source=source, seq=seq, index=seq, pixels=pixels, captured_ns=int(captured * 1e9), captured_at=0)
    found = Detections(xyxy=np.tile(np.array([[0, 0, width / 2, height]], np.float32), (boxes, 1)), scores=np.full(boxes, 0.5, np.float32),
                       class_ids=np.zeros(boxes, np.int32))
    return frame, Result(source=source, seq=seq, index=seq, captured_at=0, age_s=0.02, width=width, height=height, skipped=0, detections=found)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pictures(clock):
    return Pictures(["door"], ["Gesicht ä"], clock)


def test_nothing_is_kept_until_somebody_asks_nor_when_nobody_does_any_more(pictures, clock):
    frame, result = seen(noise())
    kept = weakref.ref(frame.pixels)
    pictures.onlooker(frame, result)
    del frame
    assert kept() is None
    assert pictures.ask("door") is None
    pictures.onlooker(*seen(noise(), 2))
    clock.now += 5.1
    frame, result = seen(noise(), 3)
    kept = weakref.ref(frame.pixels)
    pictures.onlooker(frame, result)
    pictures.forget()
    del frame
    assert kept() is None
    assert pictures.ask("door") is None


def test_a_picture_with_its_boxes(pictures, clock):
    pictures.ask("door")
    pictures.onlooker(*seen(noise(), 7, captured=99.5))
    shown = pictures.ask("door")
    assert cv2.imdecode(np.frombuffer(shown.jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (144, 176, 3)
    said = shown.caption_now(clock.now)
    assert said.isascii()
    caption = json.loads(said)
    assert (caption["seq"], caption["age_s"], caption["seen"], caption["width"]) == (7, 0.5, 1, 176)
    assert caption["boxes"] == [[0, 0, 0.5, 1, "Gesicht ä", 0.5]]


def test_however_many_ask_four_pictures_a_second_are_made(pictures, clock):
    pictures.ask("door")
    made = set()
    for step in range(101):
        clock.now = 100 + step / 100
        pictures.onlooker(*seen(noise(16, 16), step))
        made |= {pictures.ask("door").caption.seq for _ in range(3)}
    assert 4 <= len(made) <= 5


def test_of_many_boxes_the_best_are_shown_and_all_are_counted(pictures):
    pictures.ask("door")
    pictures.onlooker(*seen(noise(), boxes=500))
    shown = pictures.ask("door")
    assert (shown.caption.seen, len(shown.caption.boxes)) == (500, 60)
    assert len(shown.caption_now(100.0)) < 8000


def test_an_unknown_source_is_no_source(pictures):
    pictures.onlooker(*seen(noise(), source="elsewhere"))
    with pytest.raises(KeyError):
        pictures.ask("elsewhere")


def test_sharpness_falls_as_the_picture_blurs_and_counts_from_the_last_minutes_best(pictures, clock):
    sharp = noise()
    pictures.ask("door")
    found = []
    for wait, pixels in ((0, sharp), (1, cv2.GaussianBlur(sharp, (0, 0), 1.5)), (1, cv2.GaussianBlur(sharp, (0, 0), 4)), (61, cv2.GaussianBlur(sharp, (0, 0), 4))):
        clock.now += wait
        pictures.ask("door")
        pictures.onlooker(*seen(pixels))
        found.append(pictures.ask("door").caption.sharpness)
    assert found[0] == found[3] == 1
    assert 1 > found[1] > found[2]


@pytest.mark.parametrize(("shape", "size"), [((1080, 1920, 3), (540, 960)), ((4000, 300, 3), (4000, 300)), ((1, 1, 3), (1, 1)), ((2, 3000, 3), (1, 960))])
def test_wide_pictures_are_made_smaller(shape, size):
    jpeg, sharpness = picture(np.zeros(shape, np.uint8))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2] == size
    assert sharpness == 0


def test_a_flat_picture_has_no_sharpness(pictures):
    pictures.ask("door")
    pictures.onlooker(*seen(np.zeros((20, 20, 3), np.uint8)))
    assert pictures.ask("door").caption.sharpness == 0
