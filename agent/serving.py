"""Which engine serves: the one tuned on this box if it is there, else a quick one until a tuned one is built.

An engine is loaded only if it was built for exactly this platform and let pass by the gate. A stored one that cannot be
loaded goes to the quarantine, and the next lower tier serves. Tuning goes on beside the loop, in child processes; what
wins takes over between two batches, if there is room for both for a moment, else at the next start.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent import assembly, points_file, tiers
from agent.building.child import Report
from agent.building.identity import Parts
from agent.building.prepare import in_words, prepare
from agent.building.recipe import Recipe
from agent.building.store import FAILED_SERVING, Store, Stored
from agent.config import Config
from agent.errors import AgentError, EngineError, ModelError
from agent.inference.engine import Engine
from agent.journal import MessageId, about
from agent.loading import EngineFile, load_engine
from agent.pipeline import Model
from agent.plan import Plan, plan_for
from agent.room import NoRoomError, Room, measured_need
from agent.tuning import Tuner

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Served:
    """An engine that serves.

    Attributes:
        model: Loaded, warmed, with its head.
        tier: ``tuned`` the ladder's winner; ``quick`` built in a hurry; ``prepared`` the FP32 model as it is.
        stored: Where it came from; None = the prepared model.
        checked: What the gate, or the preparation, found, in words.
    """

    model: Model
    tier: str
    stored: Stored | None
    checked: str


class Serving:
    """Finds the first engine, and a better one.

    Args:
        config: The whole configuration.
        recipe: The configured one.
        state_dir: Where models, frames and engines are.
        say: Told in words what is being done.
        cancel: Set it and what is under way is given up.
    """

    def __init__(self, config: Config, recipe: Recipe, state_dir: Path, say: Callable[[str], None],
                 cancel: threading.Event) -> None:
        self._config = config
        self._recipe = recipe
        self._state_dir = state_dir
        self._say = say
        self._cancel = _EitherSet(cancel)
        self._store = Store(state_dir)
        self._room = Room(config.budget)
        self._plan: Plan | None = None
        self._loading_s: float | None = None
        self.served: Served | None = None
        self.tuning = ""
        """How far tuning is, in words; empty when none is going on or wanted."""
        self.refused = ""
        """Name of the tier for which there was no room at the start; empty when there was."""
        self.failed = ""
        """Why the box runs a lower tier than it should, in words; empty when it does not."""

    @property
    def size(self) -> tuple[int, int]:
        """Canvas (height, width), pixels."""
        wanted = self._config.engine.size
        return (wanted[0], wanted[1]) if wanted else self._recipe.input.size

    def first(self) -> Served:
        """Return the best engine that can serve now; may fetch a model and build a quick engine.

        Raises:
            AgentError: there is none, and why.
        """
        self._store.sweep()
        prepared = prepare(self._recipe, size=self.size, state_dir=self._state_dir, stage=self._say,
                           progress=in_words(self._say))
        self._say(f"loading {self._recipe.name}")
        self._plan = plan = plan_for(self._config, self._recipe, prepared)
        if why := plan.cannot_run:
            raise EngineError(f"[engine] runtime = {plan.runtime!r} cannot run: {why}",
                              '`vedette doctor` says more; `runtime = "onnxruntime"` runs on any CPU')
        try:
            self.served = self._from_store(plan, "tuned") or self._lower_tier(plan)
        except NoRoomError as error:
            self.served = self._smaller(error)
        return self.served

    def load(self, offer: tiers.Offer, *, alone: bool = False, ask: bool = True) -> Served:
        """Load another tier.

        Args:
            offer: Which one.
            alone: The one that served is closed already.
            ask: Whether there is room; False to have back what was there before.

        Raises:
            NoRoomError: there is none.
            EngineError: it cannot be loaded.
        """
        if ask:
            self._room.ask(offer.plan, offer.need, None if alone else self._engine)
        return self._with_head(self._loaded(offer.file), offer.kind, offer.stored, tiers.checked(offer))

    def loading_for_s(self) -> float:
        """Return the seconds since an engine is being loaded and warmed; 0 when none is."""
        began_s = self._loading_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def give_up_tuning(self, why: str) -> None:
        """End the tuning that goes on, if there is one."""
        if self.tuning:
            self.failed = f"a better engine is not built: {why}; `vedette engines build` does it, or the next start"
            self._cancel.set()

    def improve(self, swap: Callable[[Served], threading.Event]) -> None:
        """Tune if that is wanted, and hand the winner to ``swap``; failures are told, and end nothing."""
        plan, served = self._plan, self.served
        if plan is None or served is None or not self._wanted(plan, served):
            return
        self.tuning = "waits for its turn"
        try:
            tuning = Tuner(plan=self._room.for_build(plan), state_dir=self._state_dir, report=self._heard(),
                           cancel=self._cancel).run()
            if tuning.kept is None:
                self.failed = "tuning found no engine that may serve: " + "; ".join(
                    f"{rung.form} {rung.words}" for rung in tuning.rungs if rung.outcome in {"lost", "failed"})
                return
            self._take_over(plan, swap)
        except (AgentError, MemoryError, OSError) as error:
            if not self._cancel.is_set():
                self.failed = f"tuning failed: {error.what if isinstance(error, AgentError) else repr(error)}"
                _LOG.warning("%s; the %s engine goes on serving", self.failed, served.tier)
        finally:
            self.tuning = ""

    def distrust(self, why: str) -> None:
        """Set the serving engine aside, so that the next start does not load it again."""
        if self.served and self.served.stored and not _out_of_memory(why):
            try:
                self._store.quarantine(self.served.stored, FAILED_SERVING + why)
            except ModelError as error:  # the events of this run are still to be saved
                _LOG.error("%s", error)

    def _from_store(self, plan: Plan, tier: str) -> Served | None:
        """Return the stored engine of exactly this plan, loaded; a faulty one is set aside, and that is told."""
        there = self._store.tuning(plan.parts)
        stored = self._store.serving(plan.parts)
        if stored is None:
            if there and there.kept:
                self.failed = f"the {tier} engine ({there.kept}) was damaged and is set aside"
            return None
        self._room.ask(plan, measured_need(plan, stored), self._engine)
        try:
            engine = self._loaded(plan.file(stored.path, stored.card.form, stored.card.max_batch))
        except EngineError as error:
            if _out_of_memory(error.what):  # it may be whole, and load the next time
                self.failed = f"there is not enough memory for the {tier} engine ({stored.card.form}): {error.what}"
                _LOG.warning(self.failed, extra=about(MessageId.ENGINE))
            else:
                self.failed = f"the {tier} engine ({stored.card.form}) cannot be loaded and is set aside: {error.what}"
                self._store.quarantine(stored, error.what)
            return None
        return self._with_head(engine, tier, stored, tiers.judged(stored))

    def _lower_tier(self, plan: Plan) -> Served:
        if plan.on_cpu:
            return self.load(tiers.prepared_offer(plan, points_file.load(self._state_dir, self._recipe.name)))
        quick = plan.quick()
        if found := self._from_store(quick, "quick"):
            return found
        self._say(f"building a quick engine for {self._recipe.name}")
        tuning = Tuner(
            plan=self._room.for_build(quick), state_dir=self._state_dir, cancel=self._cancel,
            report=lambda phase, *_: self._say(f"building a quick engine for {self._recipe.name}: {phase}"),
        ).run(quick.quick_forms)
        if found := self._from_store(quick, "quick"):
            return found
        raise EngineError(f"no engine for {self._recipe.name} may serve: " + "; ".join(
            f"{rung.form} {rung.outcome}: {rung.words}" for rung in tuning.rungs),
            "`vedette engines show` and `vedette doctor` say more")

    def _smaller(self, error: NoRoomError) -> Served:
        """Return the largest of the smaller canvases for which there is room.

        Raises:
            NoRoomError: there is none.
        """
        allowed = tiers.offers(self._config, self._recipe, self._state_dir, say=self._say, prepare_missing=True)
        for offer in allowed[1:]:
            try:
                served = self.load(offer)
            except NoRoomError:
                continue
            self.failed = f"{error.what}; the smaller canvas {offer.tier.name} serves instead"
            self.refused = allowed[0].tier.name
            _LOG.warning(self.failed, extra=about(MessageId.ENGINE))
            return served
        raise error

    def _loaded(self, file: EngineFile) -> Engine:
        self._loading_s = time.monotonic()
        try:
            return load_engine(file)
        finally:
            self._loading_s = None

    @property
    def _engine(self) -> Engine | None:
        return self.served.model.engine if self.served else None

    def _with_head(self, engine: Engine, tier: str, stored: Stored | None, checked: str) -> Served:
        try:
            model = assembly.model(self._config, self._recipe, engine)
        except ModelError:
            engine.close()
            raise
        return Served(model=model, tier=tier, stored=stored, checked=checked)

    def _wanted(self, plan: Plan, served: Served) -> bool:
        """Tell whether to tune now."""
        if served.tier == "tuned" or self._config.engine.tune == "off":
            return False
        aside, rebuild = self._store.set_aside(plan.parts), f"`vedette engines build {plan.recipe.name} --force`"
        if aside.startswith(FAILED_SERVING):
            # It would be built, let pass, and fail again.
            self.failed = f"the tuned engine is in quarantine ({aside}): {rebuild} builds it again"
            return False
        before = self._store.tuning(plan.parts)
        if before and before.kept:
            return self._store.serving(plan.parts) is None  # if it is whole there is no memory for it now
        if before and any(rung.outcome == "lost" for rung in before.rungs):
            self.failed = f"tuned before, and none could be kept: `vedette engines show` says why; {rebuild} to retry"
            return False
        if aside:
            self.failed = self.failed or f"the tuned engine is in quarantine ({aside})"
        outdated = aside or any(_replaced_by(plan.parts, tuning.parts) for tuning in
                                self._store.tunings(plan.recipe.name) if tuning.kept)
        if outdated and served.tier == "prepared":
            _LOG.info("the engine tuned before does not fit any more, it is built anew")
        return bool(self._config.engine.tune == "background" or served.tier == "quick" or outdated)

    def _take_over(self, plan: Plan, swap: Callable[[Served], threading.Event]) -> None:
        stored = self._store.serving(plan.parts)
        if stored is None:
            self.failed = "the tuned engine is gone from the disk"
            return
        try:
            better = self._from_store(plan, "tuned")
        except NoRoomError as error:
            self.failed = (f"a tuned engine ({stored.card.form}) is there, but {error.what}: it takes over at the next "
                           "start")
            _LOG.warning(self.failed, extra=about(MessageId.ENGINE))
            return
        if better is None:
            return
        taken_over = swap(better)
        while not taken_over.wait(_LOOK_AGAIN_S):
            if self._cancel.is_set():
                return
        self.served = better
        self.failed = ""
        _LOG.info("the tuned engine %s (%s) takes over", stored.identity, stored.card.form,
                  extra=about(MessageId.ENGINE))

    def _heard(self) -> Report:
        def heard(phase: str, done: int, total: int | None) -> None:
            self.tuning = phase + (f" {done} of {total}" if total else "")
        return heard


def _replaced_by(new: Parts, old: Parts) -> bool:
    """Tell whether engines of ``old`` would be those of ``new`` now: same runtime and tier, but something changed."""
    kinds = [(parts.platform.runtime.partition(" ")[0], parts.platform.provider, parts.level) for parts in (new, old)]
    return kinds[0] == kinds[1] and new.base != old.base


class _EitherSet(threading.Event):
    """An event that is also set when ``other`` is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()


def _out_of_memory(why: str) -> bool:
    return any(words in why.lower() for words in ("out of memory", "cannot be allocated", "failed to allocate"))

