"""Which engines may serve: the best of each canvas that the configuration allows, the most wanted canvas first.

The governor steps along them and ``vedette tune`` measures them. Nothing here is loaded or built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent import points_file
from agent.building.forms import Form
from agent.building.prepare import Prepared, prepare
from agent.building.recipe import Recipe, size_problem
from agent.building.store import Store, Stored
from agent.config import Config
from agent.errors import ConfigError, EngineError, ModelError
from agent.loading import EngineFile
from agent.plan import Plan, plan_for
from agent.power.points import Table, Tier, tier_name

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An engine that may serve.

    Attributes:
        tier: What it is called in a table of operating points.
        plan: What it was built for.
        file: What it takes to load it.
        stored: Where it is in the store; None = the prepared model itself.
        need: Bytes it will take: what was measured when it was tuned (device memory on a GPU, the growth of the process
            on a CPU), else what ``vedette tune`` measured, else the size of its file, which is less than it will take;
            None = not even that is known.
        why: Why it is the best of its canvas, and where ``need`` is from.
        kind: ``tuned``, ``quick`` or ``prepared``, as :class:`agent.serving.Served` calls it.
    """

    tier: Tier
    plan: Plan
    file: EngineFile
    stored: Stored | None
    need: int | None
    why: str
    kind: str


_KINDS = {"tuned": "the tuned engine", "quick": "the quick engine", "prepared": "the prepared model, not tuned"}


class _NotPreparedError(ModelError):
    """The prepared model is not there, and nobody wants to wait for it."""


def offers(config: Config, recipe: Recipe, state_dir: Path, *, say: Say, prepare_missing: bool) -> list[Offer]:
    """Return the best engine of each allowed canvas: the tuned one, else the quick one, else, on a CPU, the FP32 model.

    Args:
        config: Its canvas, ``[budget] sizes``, runtime.
        recipe: The configured one.
        state_dir: Where models and engines are.
        say: Told in words what is being done, and why a canvas is left out.
        prepare_missing: Fetch and prepare models that are not prepared yet, which takes seconds; else they are left
            out.

    Returns:
        The configured canvas first, then ever smaller ones; a canvas without an engine is not in it.

    Raises:
        ConfigError: a canvas in ``[budget] sizes`` is not smaller than the configured one, or not one for this recipe.
        ModelError: the model cannot be prepared for the configured canvas.
        EngineError: the runtime is not installed, or cannot run here.
    """
    known, found = points_file.load(state_dir, recipe.name), list[Offer]()
    for number, size in enumerate(canvases(config, recipe)):
        called = f"{recipe.name} {size[1]}x{size[0]}"
        try:
            prepared = _prepared(recipe, size, state_dir, say, prepare_missing=prepare_missing)
        except ModelError as error:
            if number == 0 and not isinstance(error, _NotPreparedError):
                raise
            say(f"{called} is left out: {error.what}")
            continue
        plan = plan_for(config, recipe, prepared)
        if why := plan.cannot_run:
            raise EngineError(f"[engine] runtime = {plan.runtime!r} cannot run: {why}",
                              '`vedette doctor` says more; `runtime = "onnxruntime"` runs on any CPU')
        offer = _best(plan, Store(state_dir), known)
        if offer:
            found.append(offer)
        else:
            say(f"{called} is left out: no engine of it is built here; with [engine] size = {list(size)} "
                f"`vedette engines build {recipe.name}` builds one")
    return found


def canvases(config: Config, recipe: Recipe) -> list[tuple[int, int]]:
    """Return the canvases (height, width) that the configuration allows, the configured one first.

    Raises:
        ConfigError: one of the others is no smaller canvas, or the model cannot take it.
    """
    wanted = config.engine.size
    first = (wanted[0], wanted[1]) if wanted else recipe.input.size
    sizes = [first]
    for height, width in config.budget.sizes:
        if height * width >= first[0] * first[1]:
            raise ConfigError(f"budget.sizes: [{height}, {width}] is not smaller than the canvas of the engine, "
                              f"{list(first)}", "remove it, or set [engine] size to a larger canvas")
        if problem := size_problem(recipe.input, (height, width)):
            raise ConfigError(f"budget.sizes: recipe {recipe.name}: {problem[0]}", problem[1])
        sizes.append((height, width))
    return sizes


def _prepared(recipe: Recipe, size: tuple[int, int], state_dir: Path, say: Say, *, prepare_missing: bool) -> Prepared:
    """Return the prepared model.

    Raises:
        ModelError: it cannot be had.
    """
    def refuse(_words: str) -> None:  # it is called just before something is fetched or prepared
        raise _NotPreparedError("its model is not prepared yet", "`vedette tune` or `vedette engines build` do it")

    return prepare(recipe, size=size, state_dir=state_dir, stage=say if prepare_missing else refuse)


def _best(plan: Plan, store: Store, known: Table | None) -> Offer | None:
    for tier, on in (("tuned", plan), ("quick", plan.quick())):
        if stored := store.serving(on.parts):
            file = on.file(stored.path, stored.card.form, stored.card.max_batch)
            return _offer(on, file, stored, tier, known)
    return prepared_offer(plan, known) if plan.on_cpu else None


def prepared_offer(plan: Plan, known: Table | None) -> Offer:
    """Return the prepared model of a plan for the CPU; ``known`` may tell what it takes."""
    # As `vedette run` loads it: without a tuning it bears the prepared model's own identity.
    file = msgspec.structs.replace(plan.file(plan.prepared.path, Form.FP32), identity=plan.prepared.identity)
    return _offer(plan, file, None, "prepared", known)


def _offer(plan: Plan, file: EngineFile, stored: Stored | None, kind: str, known: Table | None) -> Offer:
    height, width = plan.prepared.height, plan.prepared.width
    form = str(file.form)
    tier = Tier(name=tier_name(width, height, form), identity=file.identity, form=form, height=height, width=width,
                max_batch=file.max_batch)
    need, origin = _need(plan, file, stored, known)
    return Offer(tier=tier, plan=plan, file=file, stored=stored, need=need, kind=kind,
                 why=f"{_KINDS[kind]}; {origin}")


def _need(plan: Plan, file: EngineFile, stored: Stored | None, known: Table | None) -> tuple[int | None, str]:
    """Return the bytes an engine will take, and how that is known."""
    for rung in (stored.tuning.rungs if stored and stored.tuning else []):
        if rung.form is file.form and rung.measured:
            need = rung.measured.resident_bytes if plan.on_cpu else rung.measured.device_bytes
            if need:
                return need, "memory as measured when it was tuned"
    same = {tier.name for tier in known.tiers if tier.identity == file.identity} if known else set()
    sizes = [size for point in (known.points if known else []) if point.tier in same
             if (size := point.grown_bytes if plan.on_cpu else point.device_bytes)]
    if sizes:
        return max(sizes), "memory as `vedette tune` measured it"
    try:
        return Path(file.path).stat().st_size, "memory not measured: at least the size of its file"
    except OSError:
        return None, "memory not measured"


def checked(offer: Offer) -> str:
    """Return what the gate found, or the preparation."""
    prepared = offer.plan.prepared
    return judged(offer.stored) if offer.stored else (
        f"outputs within {prepared.max_difference:.1e} of the original's range")


def judged(stored: Stored) -> str:
    """Return what the gate found of a stored engine; empty where nothing is known."""
    rungs = stored.tuning.rungs if stored.tuning else []
    return next((rung.words for rung in rungs if rung.form is stored.card.form), "")
