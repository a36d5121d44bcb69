"""One measured figure and what it should be."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``target`` is ``<= x`` or ``>= x``, or empty for a figure that is only told."""

    name: str
    value: float
    target: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the value meets the target; None without one."""
        match = re.fullmatch(r"(<=|>=) ([0-9.]+)", self.target)
        if not match:
            return None
        bound = float(match.group(2))
        return self.value <= bound if match.group(1) == "<=" else self.value >= bound

    @property
    def verdict(self) -> str:
        """The same in words."""
        return {True: "holds", False: "DOES NOT HOLD", None: ""}[self.holds]

    def as_dict(self) -> dict[str, object]:
        """Return the row as printed by ``--json``."""
        return {"name": self.name, "value": self.value, "target": self.target, "holds": self.holds}
