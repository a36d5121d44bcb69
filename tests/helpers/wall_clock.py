"""A wall clock that jumps under a running process, as when a network or a person sets a box's clock."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("wall_clock.c")


class WallClock:
    """``env`` makes a process see the time that :meth:`set` has moved."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler: deploy/dev/setup packages all")
        library, self._offset = folder / "wall_clock.so", folder / "wall_clock.offset"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl"], check=True)
        self._offset.write_bytes(bytes(8))
        self.env = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._offset)}

    def set(self, days: float) -> None:
        """Let the process be so many days ahead."""
        with self._offset.open("r+b") as file:  # the same file: it is mapped
            file.write(struct.pack("l", int(days * 86400)))
