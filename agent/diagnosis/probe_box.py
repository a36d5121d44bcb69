"""Look at disk, engine store, sensors and jtop, inside a child process: each may hang, or load what crashes."""

import os
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from agent import machine
from agent.atomic import sha256_of
from agent.building.card import Card, Tuning
from agent.building.prepare import prepared_in
from agent.building.store import TUNED
from agent.diagnosis.around import Disk, EngineStore, Jtop, Sensors, StoredEngine
from agent.diagnosis.inquiries import SensorsInquiry
from agent.errors import AgentError

_CHUNK = bytes(1 << 20)
_CHUNKS = 8
_LONGEST_WRITE_S = 3.0
_SMALL = bytes(4096)
_COMMITS = 5
_SETTLE_S = 3.0
_JTOP_S = 5.0
_PAUSE_S = 0.1


def probe_disk(folder: str) -> Disk:
    """Write and sync up to 8 MiB for at most three seconds, then a few small commits; the file never has a name."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began_s, written = time.monotonic(), 0
            while written < _CHUNKS * len(_CHUNK) and time.monotonic() - began_s < _LONGEST_WRITE_S:
                written += os.write(file.fileno(), _CHUNK)
                os.fsync(file.fileno())
            took_s, longest_s = time.monotonic() - began_s, 0.0
            for _ in range(_COMMITS):
                at_s = time.monotonic()
                os.write(file.fileno(), _SMALL)
                os.fsync(file.fileno())
                longest_s = max(longest_s, time.monotonic() - at_s)
    except OSError as error:
        return Disk(fault=error.strerror or str(error))
    return Disk(written=written, rate=written / max(took_s, 1e-6), commit_s=longest_s)


def probe_model(folder: str, sha256: str, own_model: str) -> bool:
    """Tell whether a recipe's model is prepared and whole; without ``sha256`` it is that of the file ``own_model``."""
    if not sha256 and own_model:
        try:
            sha256 = sha256_of(Path(own_model))
        except OSError:
            return False
    return any(prepared.model_sha256 == sha256 for prepared in prepared_in(Path(folder)))


def probe_store(state_dir: str) -> EngineStore:
    """Look at every engine, its hash included; unlike the agent, change nothing."""
    from agent.plan import misfit  # noqa: PLC0415 -- loads runtimes when it is called

    root = Path(state_dir, "engines")
    if not os.path.lexists(root):
        return EngineStore()
    if not os.access(root, os.R_OK | os.X_OK):
        return EngineStore(fault="this user may not look into it")
    engines, damaged = [], []
    for path in sorted(root.glob("*/built/*/*.engine")):
        if path.parent.name.startswith("."):  # the scratch of a build
            continue
        card, name = _read(path.with_suffix(".json"), Card), str(path.relative_to(root))
        if not isinstance(card, Card):
            damaged.append((name, card or "it has no card"))
            continue
        whole = _whole(path, card)
        if whole:
            damaged.append((name, whole))
        tuning = _read(path.with_name(TUNED), Tuning)
        why = tuple(misfit(card.parts))
        engines.append(StoredEngine(
            recipe=card.parts.recipe, form=str(card.form), identity=card.parts.identity(card.form), bytes=card.bytes,
            whole=not whole, misfit=why,
            serves=isinstance(tuning, Tuning) and tuning.kept == card.form and not why and not whole))
    damaged += [(str(path.relative_to(root)), said) for path in sorted(root.glob(f"*/built/*/{TUNED}"))
                if isinstance(said := _read(path, Tuning), str)]
    return EngineStore(engines=tuple(engines), damaged=tuple(damaged), quarantined=tuple(_quarantined(root)))


def _read(path: Path, kind: type[Any]) -> Any:
    """Return what is in ``path``; in words what is wrong with it; None when it is not there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        return f"{path.name} cannot be read: {error}"


def _whole(path: Path, card: Card) -> str:
    """Return what is wrong with an engine file, empty for nothing."""
    try:
        return "" if sha256_of(path) == card.sha256 else "its content is not what its card says"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _quarantined(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.glob("*/quarantine/*.txt")):
        try:
            why = path.read_text("utf-8", "replace").partition("\n")[0]
        except OSError as error:
            why = f"reason cannot be read: {error.strerror}"
        yield path.parent.parent.name, why


def probe_sensors(file: str) -> Sensors:
    """Ask the reader that the :class:`SensorsInquiry` in ``file`` names; power from counters needs two looks."""
    from agent.power.choose import open_telemetry  # noqa: PLC0415 -- only this probe needs it

    asked = msgspec.json.decode(Path(file).read_bytes(), type=SensorsInquiry)
    memory = machine.memory() is not None
    try:
        telemetry = open_telemetry(asked.telemetry, Path(asked.sysfs))
    except AgentError as error:
        return Sensors(fault=error.what, memory=memory)
    try:
        reading = telemetry.sample()
        until_s = time.monotonic() + _SETTLE_S
        while (reading.watts is None or reading.celsius is None) and time.monotonic() < until_s:
            time.sleep(_PAUSE_S)
            reading = telemetry.sample()
        return Sensors(name=telemetry.name, watts=reading.watts, measures=reading.measures, celsius=reading.celsius,
                       hottest=reading.hottest, trouble=reading.trouble, memory=memory)
    finally:
        telemetry.close()


def probe_jtop() -> Jtop:
    """Connect to the service of jetson-stats and wait for one sample; only called where its socket is."""
    from agent.power.jtop_client import Link  # noqa: PLC0415 -- only this probe needs it

    try:
        package = version("jetson-stats")
    except PackageNotFoundError:
        return Jtop(socket=True, trouble="the package jetson-stats is not installed in this Python")
    samples: list[object] = []
    link = Link(0.5, samples.append)
    until_s, why = time.monotonic() + _JTOP_S, ""
    while not samples and not why and time.monotonic() < until_s:
        time.sleep(_PAUSE_S)
        why = link.ended()
    if samples:
        return Jtop(socket=True, package=package, trouble="")
    slow = f"jtop.service gave no sample within {_JTOP_S:g} s: `sudo systemctl restart jtop`"
    return Jtop(socket=True, package=package, trouble=why or slow)
