"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.config import DEFAULT_PATH, Config, Device, StatusSection, load
from agent.units import quantity

# Whoever reads it says why it cannot be read; a command that can do without goes on.
_FILE = click.Path(path_type=Path, readable=False)
config_option = click.option(
    "-c", "--config", "config_path", type=_FILE, default=DEFAULT_PATH, show_default=True,
    envvar="VEDETTE_CONFIG", show_envvar=True, help="The configuration file; conf.d/*.toml beside it is laid over it.")
optional_config_option = click.option(
    "-c", "--config", "config_path", type=_FILE, default=None, envvar="VEDETTE_CONFIG", show_envvar=True,
    help=f"The configuration file. Default: {DEFAULT_PATH} if it is there, else the defaults of all keys.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def engine_options(command: Callable[..., object]) -> Callable[..., object]:
    """Add --config, --state-dir and --json."""
    for option in (
            json_option,
            click.option("--state-dir", type=click.Path(path_type=Path), default=None,
                         help="Where models are kept. Default: [device] state_dir, or $STATE_DIRECTORY."),
            optional_config_option):
        command = option(command)
    return command


def load_or_default(path: Path | None) -> Config:
    """Return the configuration in ``path``; where none is named, the one in its usual place, or the defaults.

    Raises:
        ConfigError: a file that was named is not there, or a file that is there cannot be used.
    """
    if path is None:
        try:
            DEFAULT_PATH.stat()
        except FileNotFoundError:
            return Config()
        except OSError:
            pass  # it is there but may not be looked at: `load` says so
    return load(path or DEFAULT_PATH, to_run=False)


class _Where(msgspec.Struct):
    """Of a file that is part of a configuration, what tells where to ask; not yet looked at."""

    device: dict[str, Any] = {}
    status: dict[str, Any] = {}


def what_is_left(path: Path) -> tuple[Config, bool]:
    """Return a configuration of the sections that tell where to ask, or of the defaults; and whether all was read."""
    found, whole = _Where(), True
    for file in (path, *sorted(path.parent.glob("conf.d/[!.]*.toml"))):
        try:
            part = msgspec.toml.decode(file.read_bytes(), type=_Where)
        except (OSError, ValueError, RecursionError):
            whole = False
        else:
            found = _Where(found.device | part.device, found.status | part.status)
    try:
        return Config(device=msgspec.convert(found.device, Device, dec_hook=quantity),
                      status=msgspec.convert(found.status, StatusSection, dec_hook=quantity)), whole
    except msgspec.ValidationError:
        return Config(), False
