"""Room kept for a full disk: a file that is given up so that SQLite can write its journal, delete and deliver.

On a full file system SQLite in WAL mode can neither insert nor delete. The ballast is big enough for a journal at its
limit and a few pages. Does not decide what is deleted.
"""

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)
BALLAST_BYTES = 2 * 1024 * 1024
# Taken again only when so much more is free, so that it does not come and go.
_MARGIN_BYTES = 6 * 1024 * 1024
_FULL_BYTES = 1024 * 1024


class Ballast:
    """The file ``<spool>.ballast``.

    Args:
        path: Of the spool.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.ballast")

    @property
    def held(self) -> bool:
        """Whether it is there, whole."""
        try:
            return self._path.stat().st_blocks * 512 >= BALLAST_BYTES
        except OSError:
            return False

    def release(self) -> bool:
        """Give the room up; False when there was none."""
        had = self.held
        self._path.unlink(missing_ok=True)
        return had

    def disk_is_full(self) -> bool:
        """Tell whether it is the disk that is full, not the spool."""
        return self._free() < _FULL_BYTES

    def _free(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def take(self) -> bool:
        """Take the room if the disk has plenty, or has it already; tell whether the ballast is there."""
        if self.held:
            return True
        try:
            if self._free() < BALLAST_BYTES + _MARGIN_BYTES:
                return False
            # Written, not only allocated: a file system may promise blocks that it does not have.
            with self._path.open("wb") as file:
                file.write(os.urandom(BALLAST_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            _log.warning("spool: no ballast can be made: %s", error.strerror)
            self._path.unlink(missing_ok=True)
            return False
        return True
