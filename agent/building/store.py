"""The engines of this box on its disk: whole or not there, by identity, and never one that was built for another box.

``<state>/engines/<recipe>/built/<base>/`` holds the engines of one identity (all but their form): ``<form>.engine``,
``<form>.json`` (its report card with the engine's own SHA-256; written last, so it vouches for a whole file) and
``tuned.json`` (the ladder as it was tried, and which form serves). What cannot be trusted goes to ``quarantine/`` with
the reason beside it. Nothing here loads an engine.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.atomic import fsync_dir, replacing, sha256_of, write_atomic
from agent.building.card import Card, Rung, Tuning
from agent.building.forms import Form
from agent.building.identity import Parts, differences
from agent.building.lock import alone_in, taken
from agent.errors import ModelError
from agent.journal import MessageId, about

__all__ = ["FAILED_SERVING", "TUNED", "Card", "Rung", "Store", "Stored", "Tuning"]

_LOG = logging.getLogger(__name__)
_KEPT_IN_QUARANTINE = 3
_MAKE_ROOM = "make room on that disk: `vedette engines prune`"
TUNED = "tuned.json"
FAILED_SERVING = "it failed while it served: "
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An engine in the store that is whole and belongs to the parts it was asked for."""

    path: Path
    card: Card
    tuning: Tuning | None

    @property
    def identity(self) -> str:
        """16 hex digits."""
        return self.card.parts.identity(self.card.form)


class Store:
    """All built engines below ``<state>/engines``."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "engines"

    def folder(self, parts: Parts) -> Path:
        """Return where the engines of these parts are."""
        return self._root / parts.recipe / "built" / parts.base

    def tuning(self, parts: Parts) -> Tuning | None:
        """Return the report of the tuning of exactly these parts; None = there was none, or it is damaged."""
        found = _read(self.folder(parts) / TUNED, Tuning)
        return found if found and found.parts == parts else None

    def serving(self, parts: Parts) -> Stored | None:
        """Return the engine that was tuned for exactly these parts and kept, its file's hash checked.

        A file that is not what its card says goes to the quarantine.
        """
        tuning = self.tuning(parts)
        return self.engine(parts, tuning.kept) if tuning and tuning.kept else None

    def engine(self, parts: Parts, form: Form) -> Stored | None:
        """Return the engine of these parts in this form, if it is there and whole."""
        folder = self.folder(parts)
        card, path = _read(folder / f"{form}.json", Card), folder / f"{form}.engine"
        if card is None or card.parts != parts or card.form != form:
            return None
        try:
            found = sha256_of(path)
        except OSError:
            return None
        stored = Stored(path=path, card=card, tuning=self.tuning(parts))
        if found != card.sha256:
            if _read(folder / f"{form}.json", Card) != card:
                return None  # another process is just putting a new one in its place
            self.quarantine(stored, f"its sha256 is {found}, its card says {card.sha256}")
            return None
        return stored

    def foreign(self, folder: Path, parts: Parts, form: Form) -> Stored | None:
        """Return an engine of another store's folder, if it is whole and was built for exactly these parts."""
        card, path = _read(folder / f"{form}.json", Card), folder / f"{form}.engine"
        if card is None or card.parts != parts or card.form != form:
            _LOG.info("%s holds no %s engine for this device (%s)", folder, form,
                      "; ".join(differences(card.parts, parts)) if card else "no card")
            return None
        try:
            whole = sha256_of(path) == card.sha256
        except OSError:
            whole = False
        if not whole:
            _LOG.warning("%s is damaged: it is built anew", path)
        return Stored(path=path, card=card, tuning=None) if whole else None

    def put(self, parts: Parts, form: Form, built: Path, max_batch: int) -> Stored:
        """Take the engine file ``built`` (on the same file system) into the store.

        Raises:
            ModelError: it cannot be read or stored; for want of room, the store is then as it was.
        """
        folder = self.folder(parts)
        path, card = folder / f"{form}.engine", folder / f"{form}.json"
        try:
            with alone_in(folder):
                _tidy(folder)
                with built.open("rb") as file:
                    os.fsync(file.fileno())
                content = Card(parts=parts, form=form, sha256=sha256_of(built), bytes=built.stat().st_size,
                               max_batch=max_batch, at=time.time())
                with replacing(card) as file:
                    file.write(msgspec.json.encode(content))
                    file.flush()
                    os.fsync(file.fileno())  # a full disk shows here, while what was stored before still stands
                    card.unlink(missing_ok=True)  # it vouches for the file that goes now
                    built.replace(path)
                    fsync_dir(folder)
        except OSError as error:
            raise ModelError(f"{path}: cannot be stored: {error.strerror}", _MAKE_ROOM) from error
        return Stored(path=path, card=content, tuning=self.tuning(parts))

    def finish(self, tuning: Tuning) -> None:
        """Keep the report of a tuning and, where one form won, only that form's engine.

        Raises:
            ModelError: it cannot be written.
        """
        folder = self.folder(tuning.parts)
        try:
            with alone_in(folder):
                _tidy(folder)
                write_atomic(folder / TUNED, msgspec.json.encode(tuning))
                if tuning.kept:
                    for form in Form:
                        if form is not tuning.kept:
                            (folder / f"{form}.json").unlink(missing_ok=True)
                            (folder / f"{form}.engine").unlink(missing_ok=True)
                fsync_dir(folder)
        except OSError as error:
            raise ModelError(f"{folder}: cannot be written: {error.strerror}", _MAKE_ROOM) from error

    def quarantine(self, stored: Stored, why: str) -> None:
        """Set an engine aside, so that it is not loaded again; the newest few are kept to be looked at."""
        parts = stored.card.parts
        place = self._root / parts.recipe / "quarantine"
        name = f"{stored.identity}-{int(time.time())}"
        _LOG.warning("engine %s %s is set aside: %s", parts.recipe, stored.identity, why,
                     extra=about(MessageId.ENGINE_ASIDE))
        card = self.folder(parts) / f"{stored.card.form}.json"
        try:
            card.unlink(missing_ok=True)  # this is what counts, and a full disk lets it happen
            card.with_name(TUNED).unlink(missing_ok=True)
            place.mkdir(parents=True, exist_ok=True)
            if stored.path.exists():
                stored.path.replace(place / f"{name}.engine")
            (place / f"{name}.txt").write_text(f"{why}\n{parts.base} {stored.card.form}\n", "utf-8")
            for old in sorted(place.glob("*.txt"), key=_mtime)[:-_KEPT_IN_QUARANTINE]:
                old.with_suffix(".engine").unlink(missing_ok=True)
                old.unlink(missing_ok=True)
        except OSError as error:
            if card.exists():
                raise ModelError(f"{card}: cannot be deleted: {error.strerror}", "check its owner and mode") from error
            _LOG.warning("nothing is kept of it to be looked at: %s", error.strerror)

    def set_aside(self, parts: Parts) -> str:
        """Return why an engine of these parts was last set aside; empty when none is in the quarantine."""
        for file in sorted(self._root.glob(f"{parts.recipe}/quarantine/*.txt"), key=_mtime, reverse=True):
            try:
                why, _, rest = file.read_text("utf-8").partition("\n")
            except (OSError, UnicodeDecodeError):
                continue
            if rest.startswith(parts.base):
                return why
        return ""

    def all(self, recipe: str | None = None) -> Iterator[Stored]:
        """Yield every engine with a card, hash not checked, newest first."""
        found = [Stored(path=path, card=card, tuning=_read(path.with_name(TUNED), Tuning))
                 for path in self._root.glob(f"{recipe or '*'}/built/*/*.engine")
                 if (card := _read(path.with_suffix(".json"), Card))]
        yield from sorted(found, key=lambda stored: stored.card.at, reverse=True)

    def tunings(self, recipe: str) -> list[Tuning]:
        """Return the reports of all tunings of ``recipe``, newest first."""
        found = (_read(path, Tuning) for path in self._root.glob(f"{recipe}/built/*/{TUNED}"))
        return sorted((tuning for tuning in found if tuning), key=lambda tuning: tuning.at, reverse=True)

    def parts(self) -> list[Parts]:
        """Return what the folders here were made for, each once: by every card and by the report of every tuning.

        A ladder that nothing won leaves a report and no engine; it still saves its box from climbing again.
        """
        found: dict[Parts, None] = {}
        for path in sorted(self._root.glob("*/built/*/*.json")):
            kept = _read(path, Tuning) if path.name == TUNED else _read(path, Card)
            if kept:
                found[kept.parts] = None
        return list(found)

    def sweep(self) -> None:
        """Delete the scratch of builds that were killed; that of one that goes on stays."""
        for folder in self._root.glob("*/built"):
            scraps = list(folder.glob(".work-*"))
            if scraps and not taken(folder):
                for scrap in scraps:
                    shutil.rmtree(scrap, ignore_errors=True)

    def used_bytes(self) -> int:
        """Return what built engines, scraps and the quarantine take on the disk."""
        places = (*self._root.glob("*/built"), *self._root.glob("*/quarantine"))
        return sum(_size(file) for place in places for file in place.rglob("*"))

    def prune(self, max_bytes: int, in_use: set[str], *, dry_run: bool = False) -> list[tuple[Path, int]]:
        """Delete until ``max_bytes`` are used: quarantine first, then scraps, then engines, oldest first.

        Args:
            max_bytes: Of built engines, scraps and quarantine.
            in_use: Bases (see :class:`Parts`; :meth:`parts` gives all) that are never touched.
            dry_run: Delete nothing.

        Returns:
            What was deleted, and the bytes that gave.

        Raises:
            ModelError: something cannot be deleted.
        """
        gone: list[tuple[Path, int]] = []
        free = max(self.used_bytes() - max_bytes, 0)
        try:
            for victim in self._victims(in_use):
                if sum(size for _, size in gone) >= free:
                    break
                size = sum(_size(file) for file in victim.rglob("*")) if victim.is_dir() else _size(victim)
                if victim.is_dir() and not dry_run:
                    shutil.rmtree(victim)
                elif not dry_run:
                    victim.unlink(missing_ok=True)
                gone.append((victim, size))
        except OSError as error:
            raise ModelError(f"{error.filename}: cannot be deleted: {error.strerror}",
                             "check its owner and mode") from error
        return gone

    def _victims(self, in_use: set[str]) -> Iterator[Path]:
        yield from sorted(self._root.glob("*/quarantine/*.engine"), key=_mtime)
        folders = [folder for folder in self._root.glob("*/built/*") if folder.is_dir() and folder.name not in in_use]
        for folder in sorted(folders, key=lambda folder: _mtime(folder / TUNED)):
            if not (folder.name.startswith(".") and taken(folder.parent)):  # a tuning that goes on works there
                yield folder


def _tidy(folder: Path) -> None:
    for scrap in folder.glob(".*.part"):  # of a process that was killed
        scrap.unlink(missing_ok=True)


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
