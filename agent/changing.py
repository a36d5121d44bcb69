"""Changes the engine tier while the loop runs, and knows which tiers there are and what the table says of them.

Loading takes seconds, so it happens in a thread of its own; the engines change places between two batches. A tier that
cannot be loaded is left alone for a while, twice as long each time.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from agent import heap, points_file, tiers
from agent.building.recipe import Recipe
from agent.config import Config
from agent.errors import AgentError
from agent.pipeline import Pipeline
from agent.power.points import Way, misfits, tier_name, ways
from agent.power.telemetry import Telemetry
from agent.serving import Served, Serving

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 600.0, 10_000.0
_LOOK_AGAIN_S = 0.2


class TierChanger:
    """The engines the governor may choose from, and the way from one to another. The governor's thread uses it.

    Args:
        config: The whole configuration.
        recipe: The configured one.
        state_dir: Where engines and the table are.
        serving: Loads engines, and knows which one serves.
        pipeline: Where they change places.
        stop: Ends what is under way.
    """

    def __init__(self, config: Config, recipe: Recipe, state_dir: Path, *, serving: Serving, pipeline: Pipeline,
                 stop: threading.Event) -> None:
        self._config = config
        self._recipe = recipe
        self._state_dir = state_dir
        self._serving = serving
        self._pipeline = pipeline
        self._stop = stop
        self._offers: Sequence[tiers.Offer] = ()
        self._ways: Sequence[Way] = ()
        self._known: Served | None = serving.served
        self._thread: threading.Thread | None = None
        self._shunned: dict[str, tuple[float, float]] = {}  # tier -> until when, and how long the last time
        if serving.refused:
            self._shunned[serving.refused] = (time.monotonic() + _FIRST_WAIT_S, _FIRST_WAIT_S)
        self.table_words = "not measured: `vedette tune`"
        """Whether there are operating points that fit, in words."""
        self.measures = ""
        """What the watts of the table are of, if it fits; empty otherwise."""
        self.failure = ""
        """Why the last change failed, in words; empty when it did not."""

    @property
    def tier(self) -> str:
        """Name of the tier in service."""
        engine = self._pipeline.model.engine
        return tier_name(engine.spec.width, engine.spec.height, engine.describe().precision)

    @property
    def loading(self) -> bool:
        """Whether a tier is being loaded, or waits for its turn."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def device_bytes(self) -> int | None:
        """What the engine in service takes on the device, bytes; None = unknown, or there is none."""
        return getattr(self._pipeline.model.engine, "device_bytes", None)

    def look_around(self, telemetry: Telemetry) -> None:
        """Learn which tiers there are, and whether the table still speaks for this box."""
        table = points_file.load(self._state_dir, self._recipe.name)
        if table is None and not self._config.budget.sizes:
            return
        try:
            self._offers = tiers.offers(self._config, self._recipe, self._state_dir, say=_LOG.info,
                                        prepare_missing=False)
        except AgentError as error:
            self.table_words = f"cannot be used: {error.what}"
            _LOG.warning("operating points: %s", error.what)
            return
        names = [offer.tier.name for offer in self._offers]
        most = self._config.engine.max_batch
        self._ways = [Way(tier=offer.tier.name, batch=min(most, offer.tier.max_batch), rank=rank)
                      for rank, offer in enumerate(self._offers)]
        if table is None:
            return
        now = points_file.current(self._config, self._recipe, self._offers, telemetry=telemetry.name,
                                  measures=telemetry.sample().measures)
        self.measures = ""
        if why := misfits(table, now):
            self.table_words = f"stale, `vedette tune` measures anew: {'; '.join(why)}"
            _LOG.warning("operating points are %s", self.table_words)
        else:
            self._ways, self.measures = [way for way in ways(table) if way.tier in names], table.measures
            self.table_words = f"fit, measured {time.strftime('%Y-%m-%d', time.localtime(table.at))}"

    def ways(self, max_batch: int) -> Sequence[Way]:
        """Return the ways that can be chosen, with what is known of their cost; the one in service is among them."""
        most = min(max_batch, self._pipeline.model.engine.spec.max_batch)
        found = [way for way in self._ways if way.batch <= (most if way.tier == self.tier else max_batch)]
        if not any(way.tier == self.tier for way in found):
            found = [self._bare(most), *found]
        return found

    def way(self, batch: int) -> Way:
        """Return the way in service."""
        most = min(batch, self._pipeline.model.engine.spec.max_batch)
        same = [way for way in self._ways if way.tier == self.tier and way.batch <= most]
        return max(same, key=lambda way: way.batch, default=self._bare(most))

    def changeable(self) -> frozenset[str]:
        """Return the tiers that can be changed to now."""
        now_s = time.monotonic()
        return frozenset() if self.loading else frozenset(
            offer.tier.name for offer in self._offers
            if offer.tier.name != self.tier and self._shunned.get(offer.tier.name, (0.0, 0.0))[0] <= now_s)

    def rungs(self, batch: int) -> frozenset[str]:
        """Return the rungs of the memory ladder that would free something now."""
        rank = {way.tier: way.rank for way in self._ways}
        smaller = any(rank.get(name, 0) > rank.get(self.tier, 0) for name in self.changeable())
        return frozenset(rung for rung, there in (
            ("queues", True), ("batch", batch > 1), ("tier", smaller),
            ("candidate", self.loading or bool(self._serving.tuning))) if there)

    def make_room(self, rungs: Sequence[str]) -> None:
        """Free what the rungs that were just taken stand for, and what the allocator holds."""
        if "candidate" in rungs:
            self._serving.give_up_tuning("it was given up because memory had run short")
        trim = getattr(self._pipeline.model.engine, "trim", None)
        if trim:
            trim()
        heap.give_back()

    def renewed(self) -> bool:
        """Tell, once, whether another engine serves that was not asked for here: a tuned one has taken over."""
        if self.loading or self._serving.served is self._known:
            return False
        self._known = self._serving.served
        return True

    def change_to(self, tier: str, *, unload_first: bool = False) -> None:
        """Begin to load ``tier``; nothing happens while another one is, or before this one may be tried again.

        Args:
            tier: Its name.
            unload_first: There is no memory for two engines: close the one that serves before the other is loaded. No
                frame is looked at meanwhile.
        """
        offer, before = self._offer(tier), self._offer(self.tier)
        if offer is None or tier not in self.changeable():
            return
        self._thread = threading.Thread(target=self._change, args=(offer, before if unload_first else None),
                                        name="tier", daemon=True)
        self._thread.start()

    def _offer(self, tier: str) -> tiers.Offer | None:
        return next((offer for offer in self._offers if offer.tier.name == tier), None)

    def take_failure(self) -> str:
        """Return why the last change failed, and forget it."""
        words, self.failure = self.failure, ""
        return words

    def _change(self, offer: tiers.Offer, unloads: tiers.Offer | None) -> None:
        """Load ``offer`` and let it take over; ``unloads`` is closed before, and loaded again if that fails."""
        name = offer.tier.name
        if unloads and not self._waited(self._pipeline.unload()):
            return
        heap.give_back()
        try:
            served = self._serving.load(offer, alone=unloads is not None)
        except (AgentError, MemoryError) as error:
            wait_s = min(max(2 * self._shunned.get(name, (0.0, 0.0))[1], _FIRST_WAIT_S), _LONGEST_WAIT_S)
            self._shunned[name] = (time.monotonic() + wait_s, wait_s)
            what = error.what if isinstance(error, AgentError) else "there is not enough memory"
            if unloads:
                self._take_over(self._serving.load(unloads, alone=True, ask=False))
            self.failure = f"{name} cannot be loaded: {what}; not tried again for {wait_s / 60:.0f} min"
        else:
            if self._take_over(served):
                self._shunned.pop(name, None)
        heap.give_back()

    def _take_over(self, served: Served) -> bool:
        """Let an engine take over; tell whether it did: a tuned one may have overtaken it."""
        if not self._waited(self._pipeline.swap(served.model)) or self._pipeline.model is not served.model:
            return False
        self._serving.served = self._known = served
        self.make_room(())
        return True

    def _waited(self, closed: threading.Event) -> bool:
        while not closed.wait(_LOOK_AGAIN_S):
            if self._stop.is_set():
                return False
        return True

    def _bare(self, batch: int) -> Way:
        rank = next((way.rank for way in self._ways if way.tier == self.tier), 0)
        return Way(tier=self.tier, batch=batch, rank=rank)
