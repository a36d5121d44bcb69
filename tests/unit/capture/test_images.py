import logging
import os

import cv2
import numpy as np
import pytest

from agent.capture.address import FolderAddress
from agent.capture.images import FolderSource
from agent.capture.opening import SourceOptions, open_source
from agent.errors import EndOfStreamError, SourceError, SourceGoneError
from tests.helpers.scripted_source import Clock


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(["a.png", "b.JPG", "c.bmp", "d.webp"]):
        done, data = cv2.imencode(f".{name.split('.')[1].lower()}", np.full((16, 24, 3), 40 * (i + 1), np.uint8))
        assert done
        (tmp_path / name).write_bytes(data.tobytes())
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def opened(folder, query=""):
    return open_source(SourceOptions(name="pics", url=f"images://{folder}{query}"))


def test_pictures_come_in_the_order_of_their_names(folder):
    source = opened(folder)
    assert not source.live
    means = []
    for i in range(4):
        assert source.grab() == i
        means.append(round(float(source.retrieve().mean()) / 40))
    assert means == [1, 2, 3, 4]
    with pytest.raises(EndOfStreamError):
        source.grab()


def test_looped_folder_begins_again_at_zero(folder):
    source = opened(folder, "?loop=1")
    assert [source.grab() for _ in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_unreadable_picture_is_passed_over_with_a_line_in_the_log(folder, caplog):
    (folder / "b.JPG").write_bytes(b"\xff\xd8 torn")
    (folder / "c.bmp").write_bytes(b"")
    source = opened(folder)
    with caplog.at_level(logging.WARNING):
        assert [source.grab(), source.grab()] == [0, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"picture {folder / 'b.JPG'} cannot be decoded; passed over",
        f"picture {folder / 'c.bmp'} cannot be decoded; passed over"]


def test_a_bad_picture_is_logged_once_however_often_it_comes_round_and_again_when_it_changed(folder, caplog):
    torn = folder / "b.JPG"
    torn.write_bytes(b"\xff\xd8 torn")
    source = opened(folder, "?loop=1")
    assert [source.grab() for _ in range(7)] == [0, 2, 3, 0, 2, 3, 0]
    assert opened(folder, "?loop=1").grab() == 0
    assert len(caplog.records) == 1
    opened_anew = opened(folder, "?loop=1")
    assert [opened_anew.grab() for _ in range(2)] == [0, 2]
    assert len(caplog.records) == 1
    torn.write_bytes(b"\xff\xd8 torn again")
    os.utime(torn, ns=(1, 1))
    assert [source.grab() for _ in range(5)] == [2, 3, 0, 2, 3]
    assert len(caplog.records) == 2
    torn.unlink()
    assert [source.grab() for _ in range(6)] == [0, 2, 3, 0, 2, 3]
    assert len(caplog.records) == 3


@pytest.mark.parametrize(("query", "kind"), [("", SourceGoneError), ("?loop=1", SourceError)])
def test_folder_without_a_readable_picture(tmp_path, query, kind):
    with pytest.raises(SourceError, match="holds no picture") as caught:
        opened(tmp_path, query)
    assert type(caught.value) is kind
    (tmp_path / "a.png").write_bytes(b"torn")
    source = opened(tmp_path, query)
    with pytest.raises(SourceError, match="none of its 1 pictures") as caught:
        source.grab()
    assert type(caught.value) is kind
    with pytest.raises(SourceError, match="No such file") as caught:
        opened(tmp_path / "missing", query)
    assert type(caught.value) is kind


def test_rate_makes_it_live_and_paces_it(folder):
    clock, slept = Clock(), []

    def sleep(seconds):
        slept.append(seconds)
        clock.advance(seconds)

    source = FolderSource(FolderAddress(path=folder, loop=False, rate=2.0), clock, sleep)
    assert source.live
    assert [source.grab() for _ in range(3)] == [0, 1, 2]
    assert slept == [0.5, 0.5]
