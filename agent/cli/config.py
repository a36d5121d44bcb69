"""``vedette config``: is the file right, and what does it come to with all defaults?"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import msgspec

from agent.cli.options import config_option, json_option
from agent.config import Config, load
from agent.errors import AgentError, ConfigError


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Read the configuration and everything it names on this machine: recipe, files, secrets. Exit 78 on a fault."""
    loaded = load(config_path)
    faults = [error for error in _faults(loaded) if error]
    if as_json:
        click.echo(json.dumps([{"what": fault.what, "remedy": fault.remedy} for fault in faults]))
    for fault in faults if not as_json else ():
        click.echo(f"fault: {fault}")
    if faults:
        raise ConfigError(f"{config_path}: {len(faults)} fault{'s' * (len(faults) > 1)}", "mend what is listed above")
    if not as_json:
        click.echo(f"{config_path}: well; {len(loaded.source)} source(s), recipe {loaded.engine.recipe}, "
                   f"upstream {loaded.upstream.url or 'none'}")


@config.command()
@config_option
@json_option
def show(config_path: Path, as_json: bool) -> None:
    """Print the configuration as it is used: all files laid together, defaults filled in."""
    values = json.loads(msgspec.json.encode(load(config_path), enc_hook=_written))
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for section, keys in values.items():
        tables = keys.items() if section == "source" else [(None, keys)]
        for name, table in tables:
            click.echo(f"[{section}{f'.{name}' if name else ''}]")
            for key, value in table.items():
                click.echo(f"# {key} = (not set)" if value is None else f"{key} = {_toml(value)}")
            click.echo("")


def _written(value: Any) -> str:
    return str(value)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _faults(loaded: Config) -> list[AgentError | None]:
    from agent.building.recipe import find_recipe, recipe_folders
    from agent.capture.opening import check_url
    from agent.secrets import read_secret

    def attempt(what: Any, *arguments: Any) -> AgentError | None:
        try:
            what(*arguments)
        except AgentError as error:
            return error
        return None

    faults = [attempt(find_recipe, loaded.engine.recipe, recipe_folders(loaded.own_recipes))]
    for name, source in loaded.source.items():
        faults.append(attempt(check_url, source.url))
        parts = urlsplit(source.url)
        path = Path(unquote(parts.path))
        if parts.scheme in {"file", "images", "v4l2"} and not path.exists():
            faults.append(ConfigError(f"source.{name}.url: {path} does not exist", "correct the path"))
        if source.password:
            faults.append(attempt(read_secret, source.password))
    upstream = loaded.upstream
    for key, file in (("ca_file", upstream.ca_file), ("client_cert", upstream.client_cert)):
        if file and not Path(file).is_file():
            faults.append(ConfigError(f"upstream.{key}: {file} does not exist", "correct the path"))
    secrets = filter(None, (upstream.client_key, upstream.token))
    return faults + [attempt(read_secret, reference) for reference in secrets]



