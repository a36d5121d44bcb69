"""Files that another user put there: links, pipes, devices and giants are refused at once."""

import errno
import os
import socket
from pathlib import Path

import pytest

from agent.reading import read_small


def test_a_file_is_read_whole_with_its_time(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    os.utime(tmp_path / "a", (5, 7.5))
    assert read_small(tmp_path / "a", 100) == (b"x" * 100, 7.5)
    with pytest.raises(OSError, match="larger than 99 bytes"):
        read_small(tmp_path / "a", 99)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none", 99)


def test_a_link_is_followed_only_where_that_is_said(tmp_path):
    (tmp_path / "a").write_bytes(b"secret")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(OSError) as caught:
        read_small(tmp_path / "link", 100)
    assert caught.value.errno == errno.ELOOP
    assert read_small(tmp_path / "link", 100, links=True).data == b"secret"


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind, links):
    path = tmp_path / "odd"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device" if links:
            path.symlink_to("/dev/zero")
        case "device":
            path = Path("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(os.fspath(path))
    with pytest.raises(OSError):
        read_small(path, 100, links=links)


def test_a_file_as_large_as_a_disk_is_not_read(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 256 bytes"):
        read_small(tmp_path / "a", 256)
