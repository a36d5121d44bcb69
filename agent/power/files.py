"""Sensor files of the kernel, opened once and read often: one number a file, and the folders they stand in.

Promises: nothing here raises for a sensor, and nothing but whole numbers within the given limits gets through. What a
file does not tell is None, and the file says why. Reading a file that is open costs one pread and one fstat: some
microseconds, so dozens of sensors cost a small part of a millisecond.
"""

import errno
import os
import re
from collections.abc import Iterable, MutableSequence, Sequence
from pathlib import Path

# No number of a sensor is longer; a file that holds more is not one.
_LONGEST = 24
_WHOLE = re.compile(rb"[+-]?[0-9]{1,19}\Z")
# A Tegra zone whose part of the chip is switched off: the read fails so, or tells this figure (the kernel documents
# neither; jetson-stats treats -256 degrees as offline).
_ASLEEP = frozenset({errno.EAGAIN, errno.ENODATA})
_OFFLINE_MILLICELSIUS = -256_000
# Beyond these no chip works: what says so is broken or offline.
COLDEST, HOTTEST = -40.0, 150.0
_UNREAD = " cannot be read: "
_MOST_UNREAD = 2  # each is named


class SensorFile:
    """One file with one whole number, kept open.

    It is opened again when it vanished, was replaced, or could not be read: a driver that was loaded anew, a file that
    was renamed into place.

    Attributes:
        path: Where it is.
        why: Why the last read told nothing, in words; empty when it did tell.
        asleep: The last read told nothing because the sensor is switched off, which is not a fault.
        gone: The last read found no such file.
    """

    __slots__ = ("_handle", "asleep", "gone", "path", "why")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.why = ""
        self.asleep = False
        self.gone = False
        self._handle = -1

    def read(self, least: int, most: int) -> int | None:
        """Return the number; None when there is none between ``least`` and ``most``."""
        self.why, self.asleep, self.gone = "", False, False
        text = self._bytes().strip()
        if self.why:
            return None
        if not _WHOLE.match(text):
            self.why = f"{self.path} holds no number: {text[:_LONGEST]!r}"
            return None
        value = int(text)
        if not least <= value <= most:
            self.why = f"{self.path} says {value}, which cannot be"
            return None
        return value

    def _bytes(self) -> bytes:
        # A file that is not sysfs may be seen between its emptying and its writing, so an empty one is read once more.
        for last in (False, True):
            fresh = self._handle < 0
            try:
                if fresh:
                    self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                elif os.fstat(self._handle).st_nlink == 0:
                    self.close()
                    continue
                raw = os.pread(self._handle, _LONGEST + 1, 0)
            except OSError as error:
                self.close()
                if fresh or error.errno in _ASLEEP:
                    self._explain(error)
                    return b""
                continue
            if raw or last:
                return raw
            self.close()
        return b""

    def _explain(self, error: OSError) -> None:
        self.asleep = error.errno in _ASLEEP
        self.gone = error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR}
        self.why = f"{self.path}{_UNREAD}{error.strerror}"

    def close(self) -> None:
        """Let go of the open file; the next read opens it again."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Zones:
    """The temperatures: thermal zones, or the inputs of hwmon chips, by name.

    Args:
        files: Name and file of each, thousandths of a degree Celsius.

    Attributes:
        files: The same, each name once.
    """

    def __init__(self, files: Iterable[tuple[str, SensorFile]]) -> None:
        self.files: dict[str, SensorFile] = {}
        for name, file in files:
            self.files[unused(name, self.files, file.path.parent.name)] = file

    def __len__(self) -> int:
        return len(self.files)

    @property
    def gone(self) -> bool:
        """Whether the last look at one of them found no such file."""
        return any(file.gone for file in self.files.values())

    def keep(self, before: "Zones") -> None:
        """Take over those of ``before`` that are missing here, so that it is told that they tell nothing any more."""
        paths = {file.path for file in self.files.values()}
        for name, file in before.files.items():
            # A number is given out again: then the file would tell another zone's temperature.
            if name not in self.files and file.path not in paths:
                self.files[name] = file

    def sample(self, troubles: MutableSequence[str]) -> dict[str, float]:
        """Return each zone's temperature, degrees Celsius, without those that are offline or broken.

        Args:
            troubles: Gets a sentence for each that is broken; being switched off is no trouble.
        """
        found = {}
        for name, file in self.files.items():
            value = file.read(_OFFLINE_MILLICELSIUS, 10_000_000)
            if value is None:
                if not file.asleep:
                    troubles.append(file.why)
            elif COLDEST <= value / 1000 <= HOTTEST:
                found[name] = value / 1000
            elif value != _OFFLINE_MILLICELSIUS:
                troubles.append(f"{file.path} says {value / 1000:g} degrees, which cannot be")
        return found

    def close(self) -> None:
        """Let go of the open files."""
        for file in self.files.values():
            file.close()


def summed(troubles: Sequence[str]) -> str:
    """Return the troubles as one text; of many files that cannot be read, the first and how many more there are."""
    unread = [trouble for trouble in troubles if _UNREAD in trouble]
    if len(unread) <= _MOST_UNREAD:
        return "; ".join(troubles)
    first = f"{unread[0]}, and {len(unread) - 1} more"
    return "; ".join([first, *(trouble for trouble in troubles if _UNREAD not in trouble)])


def hottest(zones: dict[str, float]) -> tuple[float | None, str]:
    """Return the highest temperature, degrees Celsius, and its zone's name; (None, "") without any."""
    name = max(zones, key=zones.__getitem__, default="")
    return (zones[name], name) if name else (None, "")


def thermal_zones(root: Path) -> list[tuple[str, SensorFile]]:
    """Return name (as the kernel calls its type) and file of each thermal zone under the sysfs ``root``."""
    folders = distinct(root, ("class/thermal/thermal_zone*", "devices/virtual/thermal/thermal_zone*"))
    return [(line(folder / "type") or folder.name, SensorFile(folder / "temp")) for folder in folders
            if (folder / "temp").exists()]


def hwmon_folders(root: Path) -> list[tuple[str, Path]]:
    """Return the chip's name and the folder of each hwmon device under the sysfs ``root``.

    JetPack's trees differ: some chips are found by their class, some only below their I2C device.
    """
    return [(line(folder / "name") or line(folder / "device/name") or "", folder)
            for folder in distinct(root, ("class/hwmon/hwmon*", "bus/i2c/devices/*/hwmon/hwmon*"))]


def distinct(root: Path, patterns: Iterable[str]) -> list[Path]:
    """Return what fits the patterns below ``root``, numbers in counting order, each real folder once."""
    found: dict[str, Path] = {}
    for pattern in patterns:
        try:
            paths = sorted(root.glob(pattern), key=_counting)
        except OSError:  # pathlib of Python 3.10 lets some through
            continue
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _counting(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path.as_posix()))


def line(path: Path) -> str | None:
    """Return the text of a small file without its line end, unprintable characters left out; None when unreadable."""
    try:
        with path.open("rb") as file:
            text = file.read(200).decode("utf-8", "replace")
    except OSError:
        return None
    return "".join(letter for letter in text if letter.isprintable()).strip()


def unused(name: str, taken: Iterable[str], hint: str) -> str:
    """Return ``name``, or with ``hint`` when it is ``taken``, and with a number when that is taken as well."""
    known = set(taken)
    if name not in known:
        return name
    name = f"{name} {hint}"
    return next(f"{name}{end}" for end in ("", *(f" {n}" for n in range(2, len(known) + 3)))
                if f"{name}{end}" not in known)
