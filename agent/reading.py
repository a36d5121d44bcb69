"""Read small files that another user may have put where they are: root reads what the service's user owns.

Such a file may be a link to what only root may read, a pipe that never ends, or as large as the disk.
"""

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Content(NamedTuple):
    """What is in a file, and when it was last changed, in seconds since the epoch."""

    data: bytes
    at: float


def read_small(path: Path, most: int, *, links: bool = False) -> Content:
    """Return what is in a regular file; never waits for anybody.

    Args:
        path: Its folder must belong to root or to whoever runs this; only the last part is looked at.
        most: Bytes; a larger file is refused.
        links: Follow a symbolic link: for folders into which only root may write.

    Raises:
        OSError: it cannot be read, is a link or no regular file (a pipe, a device), or is larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
    with os.fdopen(handle, "rb", buffering=0) as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        data = bytearray()
        while len(data) <= most and (chunk := file.read(most + 1 - len(data))):
            data += chunk
    if len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most} bytes", str(path))
    return Content(bytes(data), found.st_mtime)
