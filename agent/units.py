"""Quantities as people write them: ``9W``, ``600MB``, ``250ms``, ``85C``. A bare number is refused.

Each type is a plain ``float`` or ``int`` in its base unit (seconds, bytes, watts, degrees Celsius, per second), so
code that computes with it needs nothing else.
"""

import math
import re
from decimal import Decimal
from typing import Any, ClassVar

_WRITTEN = re.compile(r"\s*([-+]?[0-9]*\.?[0-9]+)\s*([A-Za-z/°%]*)\s*")


class Quantity(float):
    """A number with a unit; subclasses name the units they take and the bounds they keep."""

    units: ClassVar[dict[str, float]] = {}
    example: ClassVar[str] = ""
    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = math.inf
    zero: ClassVar[str | None] = None  # where 0 makes no sense: what to do instead of writing it

    @classmethod
    def parse(cls, written: object) -> "Quantity":
        """Read ``written`` (a string such as ``250ms``).

        Raises:
            ValueError: not a string of number and unit, an unknown unit, or a value outside of what is possible.
        """
        names = ", ".join(cls.units)
        if not isinstance(written, str) or not (match := _WRITTEN.fullmatch(written)):
            raise ValueError(f"{written!r} is not a number with a unit; write it like {cls.example!r} (units: {names})")
        number, unit = match.groups()
        if unit not in cls.units:
            raise ValueError(f"{written!r} has {'no unit' if not unit else f'the unknown unit {unit!r}'}; "
                             f"write it like {cls.example!r} (units: {names})")
        value = cls(float(number) * cls.units[unit])
        if not value and cls.zero is not None:
            raise ValueError(f"{written!r} must be more than 0: {cls.zero}")
        if value < cls.lowest:
            least = cls(cls.lowest) if cls.zero is None else "it must be more than 0"
            raise ValueError(f"{written!r} is below the least possible value: {least}; write it like {cls.example!r}")
        if value > cls.highest or not math.isfinite(value):
            raise ValueError(f"{written!r} is above the greatest possible value"
                             f"{f', {cls(cls.highest)}' if math.isfinite(cls.highest) else ''}; "
                             f"write it like {cls.example!r}")
        return value

    def __str__(self) -> str:
        """Return it in the largest unit that keeps it a short number; ``parse`` reads exactly the same value back."""
        for unit, factor in sorted(self.units.items(), key=lambda item: -item[1]):
            number = round(float(self) / factor, 3)
            if number >= 1 and number * factor == float(self):
                return _plain(number) + unit
        return _plain(float(self)) + next(unit for unit, factor in self.units.items() if factor == 1)


def _plain(number: float) -> str:
    """Return the shortest text that is exactly ``number``, without an exponent."""
    text = format(Decimal(repr(number)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(kind: type, written: object) -> Any:
    """Read a value of type ``kind``; msgspec's ``dec_hook``."""
    if issubclass(kind, Quantity):
        return kind.parse(written)
    raise NotImplementedError(kind)


class Seconds(Quantity):
    """A span of time in seconds."""

    units: ClassVar[dict[str, float]] = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    example: ClassVar[str] = "250ms"


class Timeout(Seconds):
    """A time limit or a wait in seconds: without one a thread would wait for ever, with 0 nothing would ever work."""

    example: ClassVar[str] = "10s"
    highest: ClassVar[float] = 600.0
    zero: ClassVar[str | None] = "nothing is done in no time; write it like '10s'"


class LongTimeout(Timeout):
    """A time limit in seconds for work that may take hours."""

    example: ClassVar[str] = "1h"
    highest: ClassVar[float] = 86400.0


class Bytes(Quantity):
    """An amount of memory or disk in bytes."""

    units: ClassVar[dict[str, float]] = {
        "B": 1.0, "kB": 1e3, "KiB": 1024.0, "MB": 1e6, "MiB": 1024.0**2, "GB": 1e9, "GiB": 1024.0**3}
    example: ClassVar[str] = "600MB"
    zero: ClassVar[str | None] = "leave it out for its default"


class BytesPerSecond(Quantity):
    """A bandwidth in bytes per second."""

    units: ClassVar[dict[str, float]] = {"B/s": 1.0, "kB/s": 1e3, "KiB/s": 1024.0, "MB/s": 1e6}
    example: ClassVar[str] = "64kB/s"
    zero: ClassVar[str | None] = "leave it out for no limit"


class Watts(Quantity):
    """Power in watts."""

    units: ClassVar[dict[str, float]] = {"mW": 1e-3, "W": 1.0}
    example: ClassVar[str] = "9W"
    zero: ClassVar[str | None] = "leave it out for no limit"


class Celsius(Quantity):
    """A temperature in degrees Celsius."""

    units: ClassVar[dict[str, float]] = {"C": 1.0, "°C": 1.0}
    example: ClassVar[str] = "85C"
    lowest: ClassVar[float] = -273.15


class PerSecond(Quantity):
    """A rate, per second."""

    units: ClassVar[dict[str, float]] = {"fps": 1.0, "/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}
    example: ClassVar[str] = "10fps"
    zero: ClassVar[str | None] = "leave it out for no limit"
