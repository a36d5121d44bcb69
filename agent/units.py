"""Quantities as people write them: ``9W``, ``600MB``, ``250ms``, ``85C``. A bare number is refused.

Each type is a plain ``float`` or ``int`` in its base unit (seconds, bytes, watts, degrees Celsius, per second), so
code that computes with it needs nothing else.
"""

import math
import re
from typing import ClassVar

_WRITTEN = re.compile(r"\s*([-+]?[0-9]*\.?[0-9]+)\s*([A-Za-z/°%]*)\s*")


class Quantity(float):
    """A number with a unit; subclasses name the units they take."""

    units: ClassVar[dict[str, float]] = {}
    example: ClassVar[str] = ""
    lowest: ClassVar[float] = 0.0

    @classmethod
    def parse(cls, written: object) -> "Quantity":
        """Read ``written`` (a string such as ``250ms``).

        Raises:
            ValueError: not a string of number and unit, an unknown unit, or a value below what is possible.
        """
        if isinstance(written, cls):
            return written
        names = ", ".join(cls.units)
        if not isinstance(written, str) or not (match := _WRITTEN.fullmatch(written)):
            raise ValueError(f"{written!r} is not a number with a unit; write it like {cls.example!r} (units: {names})")
        number, unit = match.groups()
        if unit not in cls.units:
            raise ValueError(f"{written!r} has {'no unit' if not unit else f'the unknown unit {unit!r}'}; "
                             f"write it like {cls.example!r} (units: {names})")
        value = float(number) * cls.units[unit]
        if value < cls.lowest or not math.isfinite(value):
            raise ValueError(f"{written!r} is below the least possible value; write it like {cls.example!r}")
        return cls(value)

    def __str__(self) -> str:
        """Return it in the largest unit that keeps it a short number, so that ``parse`` reads it back."""
        for unit, factor in sorted(self.units.items(), key=lambda item: -item[1]):
            number = float(self) / factor
            if number >= 1 and round(number, 3) == number:
                return f"{number:.3f}".rstrip("0").rstrip(".") + unit
        unit, factor = min(self.units.items(), key=lambda item: item[1])
        return f"{float(self) / factor:.6f}".rstrip("0").rstrip(".") + unit


class Seconds(Quantity):
    """A span of time in seconds."""

    units: ClassVar[dict[str, float]] = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    example: ClassVar[str] = "250ms"


class Bytes(Quantity):
    """An amount of memory or disk in bytes."""

    units: ClassVar[dict[str, float]] = {
        "B": 1.0, "kB": 1e3, "KiB": 1024.0, "MB": 1e6, "MiB": 1024.0**2, "GB": 1e9, "GiB": 1024.0**3}
    example: ClassVar[str] = "600MB"


class Watts(Quantity):
    """Power in watts."""

    units: ClassVar[dict[str, float]] = {"mW": 1e-3, "W": 1.0}
    example: ClassVar[str] = "9W"


class Celsius(Quantity):
    """A temperature in degrees Celsius."""

    units: ClassVar[dict[str, float]] = {"C": 1.0, "°C": 1.0}
    example: ClassVar[str] = "85C"
    lowest: ClassVar[float] = -273.15


class PerSecond(Quantity):
    """A rate, per second."""

    units: ClassVar[dict[str, float]] = {"fps": 1.0, "/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}
    example: ClassVar[str] = "10fps"
