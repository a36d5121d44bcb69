"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

from agent.config import DEFAULT_PATH, Config, load

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
