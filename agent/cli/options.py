"""Options that several commands share."""

from pathlib import Path

import click

from agent.config import DEFAULT_PATH

config_option = click.option(
    "-c", "--config", "config_path", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
    envvar="VEDETTE_CONFIG", help="The configuration file; conf.d/*.toml beside it is laid over it.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
