"""What the watts are of, held fast: a limit that is kept with the GPU's watts says nothing about those of a processor.

A reader that stands in for another may measure something else, see :class:`agent.power.choose.Chosen`. Its watts would
look fine and the limit would be broken without a word, so they count as unknown.
"""

import re
from dataclasses import replace

from agent.power.telemetry import Reading

_SUM = re.compile(r"sum of ([0-9]+) rails?\Z")


class Pinned:
    """Lets the watts of one thing through.

    Of which: what the operating points were measured with; else what the first reading with watts says. What a
    stand-in said first holds until the one it stands in for tells watts.

    Attributes:
        measures: What that is, see :class:`agent.power.telemetry.Reading`; empty before the first watts.
    """

    def __init__(self) -> None:
        self.measures = ""
        self._table = ""
        self._for_now = False

    def check(self, reading: Reading, *, table: str = "", stand_in: bool = False) -> Reading:
        """Return the reading; without its watts, and with the reason, where they are of something else.

        Args:
            reading: The newest.
            table: What the operating points were measured with; empty without any that fit.
            stand_in: The reading is of a reader that stands in for the wanted one.
        """
        if table != self._table:
            self._table = table
            if table:
                self.measures, self._for_now = table, False
        if reading.watts is None:
            return reading
        if not self.measures or (self._for_now and not stand_in) or _grown(self.measures, reading.measures):
            self.measures, self._for_now = reading.measures, stand_in
        if reading.measures == self.measures:
            return reading
        why = (f"the watts are of {reading.measures or 'something without a name'} now, "
               f"the limit was kept with those of {self.measures}")
        return replace(reading, watts=None, trouble="; ".join(filter(None, [why, reading.trouble])))


def _grown(before: str, now: str) -> bool:
    """Whether a sum has got more rails; it is not less than it was, so the limit is kept with it as well."""
    one, other = _SUM.match(before), _SUM.match(now)
    return bool(one and other and int(other[1]) > int(one[1]))
