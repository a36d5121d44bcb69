"""The one TOML file a box is run by, with ``conf.d/*.toml`` laid over it. Read once; each part gets its own section.

An unknown key or a bad value is an error that names the file, the key's path, the value and the remedy. Secrets
never stand in the file: it names where they are (``file:/path`` or ``credential:NAME`` for systemd's LoadCredential).
What a fault is and how it is told stands in agent/faults.py. Nothing the file names is opened here.
"""

import os
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from agent.errors import ConfigError
from agent.faults import KEYS, contradictions, explained, origin_of
from agent.sections import (
    BudgetSection,
    BuildSection,
    CalibrationSection,
    Device,
    EngineSection,
    LogSection,
    QuietHours,
    Section,
    SourceSection,
    SpoolSection,
    StatusSection,
    UpstreamSection,
    doc,
)
from agent.units import quantity

__all__ = [
    "DEFAULT_PATH", "BudgetSection", "BuildSection", "CalibrationSection", "Config", "Device", "EngineSection",
    "LogSection", "QuietHours", "SourceSection", "SpoolSection", "StatusSection", "UpstreamSection", "load",
]
DEFAULT_PATH = Path("/etc/vedette/config.toml")
_BETWEEN = "', '"
_KEYS_PATH = re.compile(r"\('(.*?)',?\)")  # of a table, as Python's parser prints it: ('source', 'door')


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    device: Device = Device()
    source: Annotated[dict[str, SourceSection], doc("At least one.")] = {}  # noqa: RUF012 -- msgspec copies it
    engine: EngineSection = EngineSection()
    build: BuildSection = BuildSection()
    calibration: CalibrationSection = CalibrationSection()
    budget: BudgetSection = BudgetSection()
    spool: SpoolSection = SpoolSection()
    upstream: UpstreamSection = UpstreamSection()
    status: StatusSection = StatusSection()
    log: LogSection = LogSection()

    @property
    def state_dir(self) -> Path:
        """The directory that survives restarts."""
        return Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0] or self.device.state_dir)

    @property
    def own_recipes(self) -> list[Path]:
        """Folders with the user's own recipes."""
        return [Path(folder) for folder in self.engine.recipes]

    @property
    def socket_path(self) -> Path:
        """The status socket."""
        runtime_dir = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or self.device.runtime_dir
        return Path(self.status.socket or Path(runtime_dir, "status.sock"))


def load(path: Path, *, to_run: bool = True) -> Config:
    """Read ``path`` and the ``*.toml`` files of ``conf.d`` beside it, in the order of their names.

    Args:
        path: The main file.
        to_run: It must name what an agent needs, a source above all; engines can be built without one.

    Raises:
        ConfigError: a file is missing or no TOML, a key is unknown, a value is bad; names all four of file, key
            path, value and remedy.
    """
    values: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for file in (path, *overlays(path)):
        _lay_over(values, _read_toml(file), file, origin, "")
    try:
        config = msgspec.convert(values, Config, dec_hook=quantity)
    except msgspec.ValidationError as error:
        raise explained(error, values, origin, path, Config) from error
    for key, problem, remedy in contradictions(config):
        if key == "source" and not to_run:
            continue
        raise ConfigError(f"{origin_of(key, origin, path)}: {key}: {problem}", remedy)
    return _rooted(config, path.absolute().parent)


def _rooted(config: Config, folder: Path) -> Config:
    """Return the configuration with its relative paths starting at ``folder``."""

    def file(path: str | None) -> str | None:
        return None if path is None else str(folder / path)

    def secret(reference: str | None) -> str | None:
        kind, _, rest = (reference or "").partition(":")
        return f"file:{folder / rest}" if kind == "file" else reference

    replace = msgspec.structs.replace
    device, engine, budget, status = config.device, config.engine, config.budget, config.status
    upstream = config.upstream
    return replace(
        config,
        device=replace(device, state_dir=file(device.state_dir), runtime_dir=file(device.runtime_dir)),
        source={name: replace(source, password=secret(source.password)) for name, source in config.source.items()},
        engine=replace(engine, recipes=[str(folder / path) for path in engine.recipes]),
        budget=replace(budget, sysfs=file(budget.sysfs)),
        status=replace(status, socket=file(status.socket), token=secret(status.token)),
        upstream=replace(upstream, ca_file=file(upstream.ca_file), client_cert=file(upstream.client_cert),
                         client_key=secret(upstream.client_key), token=secret(upstream.token)))


def what_is_left(path: Path) -> tuple[Config, bool]:
    """Return of a configuration that cannot be used what tells where its agent is, or the defaults.

    Args:
        path: The main file.

    Returns:
        With its sections ``device`` and ``status`` only; and whether all that may hold them could be read.
    """
    values: dict[str, Any] = {}
    files, whole = [path], True
    try:
        files += overlays(path)
    except ConfigError:
        whole = False
    for file in files:
        try:
            found = _read_toml(file)
        except ConfigError:
            whole = False
        else:
            _lay_over(values, {key: found[key] for key in ("device", "status") if key in found}, file, {}, "")
    try:
        return _rooted(msgspec.convert(values, Config, dec_hook=quantity), path.absolute().parent), whole
    except msgspec.ValidationError:
        return Config(), False


def overlays(path: Path) -> list[Path]:
    """Return the files that are laid over ``path``, in their order.

    Raises:
        ConfigError: their folder may not be looked into.
    """
    folder = path.parent / "conf.d"

    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be looked at: {error.strerror}", "check its owner and mode") from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
        if content.startswith(BOM_UTF8):
            raise ConfigError(f"{file}: it begins with a byte order mark, which TOML has not",
                              "save it as UTF-8 without a BOM")
        loaded: dict[str, Any] = msgspec.toml.decode(content)
    except FileNotFoundError as error:
        remedy = f"give the right path with --config, or write one; {KEYS}"
        raise ConfigError(f"{file}: no such file", remedy) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", "check its owner and mode") from error
    except (ValueError, RecursionError) as error:  # faulty, no UTF-8, a number of 5000 digits, nested without end
        said = _KEYS_PATH.sub(lambda path: f"[{path[1].replace(_BETWEEN, '.')}]", str(error))
        raise ConfigError(f"{file}: not valid TOML: {said}", "correct that line; strings need quotes") from error
    return loaded


def _lay_over(base: dict[str, Any], top: Mapping[str, Any], file: Path, origin: dict[str, Path], prefix: str) -> None:
    for key, value in top.items():
        path = f"{prefix}{key}"
        origin[path] = file
        if isinstance(value, dict) and isinstance(base.get(key, {}), dict):
            _lay_over(base.setdefault(key, {}), value, file, origin, f"{path}.")
        else:
            base[key] = value
