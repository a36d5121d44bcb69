"""Processes that bear a mark in their environment: what a command under test has started, and left behind."""

import contextlib
import time
import uuid
from pathlib import Path


class Marked:
    """Gives a mark to hand on, and finds who bears it."""

    def __init__(self):
        self.mark = f"VEDETTE_TEST_MARK={uuid.uuid4().hex}"

    def children(self):
        """Command lines of what was started by our commands and still lives."""
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdecimal() and self.mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" "))
        return found

    def childless(self, within_s=8.0):
        deadline = time.monotonic() + within_s
        while (left := self.children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left == []
