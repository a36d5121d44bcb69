"""Keeps a random sample of the frames that are looked at, if the configuration says so: what INT8 is calibrated on."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agent.building.recipe import Recipe
from agent.config import CalibrationSection
from agent.errors import AgentError
from agent.pictures import reservoir_of
from agent.records import Canvas

_LOG = logging.getLogger(__name__)


class Sampler:
    """Offers the frame looked at last to the reservoir, every ``interval``.

    Args:
        section: Its configuration.
        recipe: Whose engine looks.
        size: Canvas (height, width), pixels.
        state_dir: Where the frames are kept.
        seen: Returns the source and the canvas looked at last.
    """

    def __init__(self, section: CalibrationSection, recipe: Recipe, size: tuple[int, int], state_dir: Path,
                 seen: Callable[[], tuple[str, Canvas] | None]) -> None:
        self._interval_s = float(section.interval)
        self._reservoir = reservoir_of(state_dir, recipe, size, int(section.max_bytes))
        self._seen = seen

    def run(self, stop: threading.Event) -> None:
        """Sample until ``stop``; a full disk, say, is told once and lived with."""
        last, told = None, False
        while not stop.wait(self._interval_s):
            seen = self._seen()
            if seen is None or seen is last:
                continue
            last = seen
            try:
                self._reservoir.offer(seen[1].pixels, seen[0])
                told = False
            except AgentError as error:
                if not told:
                    _LOG.warning("no calibration frames are kept: %s", error.what)
                told = True
