"""``vedette config``: is the file right, and what does it come to with all defaults?"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import msgspec

from agent.cli.options import config_option, json_option
from agent.config import BudgetSection, Config, SourceSection, UpstreamSection, load
from agent.errors import AgentError, ConfigError
from agent.redact import redact

_LONGEST_SOCKET = 107  # bytes; sun_path of unix(7) less its closing zero
_ADDRESSES = frozenset({"url", "proxy"})
_CPU = "CPUExecutionProvider"


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Find what `vedette run` would refuse, without a network: exit 78 on a fault.

    Reads the configuration and looks at what it names on this machine: recipe, model, provider, files, secrets,
    directories.
    """
    loaded = load(config_path)
    faults = list(_faults(loaded))
    if as_json:
        click.echo(json.dumps([{"what": fault.what, "remedy": fault.remedy} for fault in faults]))
    for fault in faults if not as_json else ():
        click.echo(f"fault: {fault}")
    if faults:
        raise ConfigError(f"{config_path}: {len(faults)} fault{'s' * (len(faults) > 1)}", "mend what is listed above")
    if not as_json:
        click.echo(f"{config_path}: well; {len(loaded.source)} source(s), recipe {loaded.engine.recipe}, "
                   f"upstream {redact(loaded.upstream.url or 'none')}")


@config.command()
@config_option
@json_option
def show(config_path: Path, as_json: bool) -> None:
    """Print the configuration as it is used: all files laid together, defaults filled in, addresses without secrets.

    Where the configuration cannot be used, all keys with their defaults are printed, and the error.
    """
    try:
        loaded = load(config_path)
    except ConfigError:
        if not as_json:
            click.echo("# Not your configuration, which cannot be used: all keys with their defaults.")
            _print(Config(source={"NAME": SourceSection(url="rtsp://host/path")}))
        raise
    if as_json:
        click.echo(json.dumps(_shown(loaded), indent=2))
    else:
        _print(loaded)


def _print(shown: Config) -> None:
    for section, keys in _shown(shown).items():
        tables = keys.items() if section == "source" else [(None, keys)]
        for name, table in tables:
            click.echo(f"[{section}{f'.{name}' if name else ''}]")
            for key, value in table.items():
                click.echo(f"# {key} = (not set)" if value is None else f"{key} = {_toml(value)}")
            click.echo("")


def _shown(shown: Config) -> dict[str, Any]:
    """Return the configuration as plain values, addresses without what is secret in them."""
    values: dict[str, Any] = msgspec.to_builtins(shown, enc_hook=str)
    for table in (*values["source"].values(), values["upstream"]):
        table.update({key: redact(table[key]) for key in _ADDRESSES & table.keys() if table[key] is not None})
    return values


def _toml(value: Any) -> str:
    """Return ``value`` as TOML, which is JSON but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _faults(loaded: Config) -> Iterator[AgentError]:
    """Yield what ``run`` would refuse, or would fail by, on this machine."""
    yield from _engine_faults(loaded)
    yield from _budget_faults(loaded.budget)
    for name, source in loaded.source.items():
        yield from _source_faults(f"source.{name}", source)
    yield from _upstream_faults(loaded.upstream)
    yield from _state_dir_faults(loaded.state_dir)
    if len(os.fsencode(loaded.socket_path)) > _LONGEST_SOCKET:
        yield ConfigError(f"status socket {loaded.socket_path}: longer than {_LONGEST_SOCKET} bytes",
                          "set [status] socket to a shorter path")


def _engine_faults(loaded: Config) -> Iterator[AgentError]:
    from agent.building.recipe import find_recipe, recipe_folders, size_problem
    from agent.inference.onnxruntime import check_provider
    from agent.tiers import canvases

    engine, own_recipes = loaded.engine, loaded.own_recipes
    for folder in own_recipes:
        yield from _wrong_kind("engine.recipes", folder, folder=True)
    yield from _attempt(lambda: check_provider(engine.provider or _CPU))
    try:
        recipe = find_recipe(engine.recipe, recipe_folders(own_recipes))
    except ConfigError as error:
        yield error
        return
    if recipe.own_model is not None:
        for fault in _wrong_kind(f"recipe {recipe.name}: its model", recipe.own_model):
            yield ConfigError(fault.what, f"put your model there, or correct [model] source in {recipe.folder}")
    if engine.size and (problem := size_problem(recipe.input, (engine.size[0], engine.size[1]))):
        yield ConfigError(f"engine.size: recipe {recipe.name}: {problem[0]}", problem[1])
    yield from _attempt(lambda: canvases(loaded, recipe))


def _budget_faults(budget: BudgetSection) -> Iterator[AgentError]:
    """Tell whether the sensors' folder is one; a machine's own is never at fault, it may have no sensors."""
    folder = Path(budget.sysfs)
    if budget.telemetry in {"auto", "sysfs", "rapl"} and folder != Path("/sys"):
        for fault in _wrong_kind("budget.sysfs", folder, folder=True):
            yield ConfigError(fault.what, "name a folder made as /sys is (`vedette sensors --simulate` makes one), or "
                              "leave sysfs out for /sys")


def _source_faults(key: str, source: SourceSection) -> Iterator[AgentError]:
    from agent.capture.opening import check_url
    from agent.secrets import read_secret

    faults = list(_attempt(lambda: check_url(source.url)))
    parts = urlsplit(source.url)
    if not faults and parts.scheme in {"file", "images", "v4l2"}:
        faults = list(_wrong_kind(f"{key}.url", Path(unquote(parts.path)), folder=parts.scheme == "images"))
    yield from faults
    if password := source.password:
        yield from _attempt(lambda: read_secret(password))


def _upstream_faults(upstream: UpstreamSection) -> Iterator[AgentError]:
    from agent.https import HttpsOptions, open_session, tls_context
    from agent.report.credentials import certificate_end
    from agent.report.sealing import check_compression
    from agent.secrets import read_secret, secret_path

    if token := upstream.token:
        yield from _attempt(lambda: open_session(HttpsOptions(token=read_secret(token))).close())
    yield from _attempt(lambda: check_compression(upstream.compression))
    faults: list[AgentError] = []
    key: Path | None = None
    if reference := upstream.client_key:
        faults += _attempt(lambda: secret_path(reference))
        key = None if faults else secret_path(reference)
    ca_file, cert = (Path(file) if file else None for file in (upstream.ca_file, upstream.client_cert))
    for name, file in (("ca_file", ca_file), ("client_cert", cert), ("client_key", key)):
        if file:
            faults += _wrong_kind(f"upstream.{name}", file)
    if not faults:
        faults += _attempt(lambda: tls_context(HttpsOptions(ca_file=ca_file, client_cert=cert, client_key=key)))
    if not faults and (end := certificate_end(cert)) is not None and end < time.time():
        date = time.strftime("%Y-%m-%d", time.gmtime(end))
        faults.append(ConfigError(f"upstream.client_cert: {cert}: expired on {date}", "renew it (or set the clock)"))
    yield from faults


def _state_dir_faults(state_dir: Path) -> Iterator[AgentError]:
    """Tell whether the state directory can be written or made; makes nothing."""
    there = state_dir
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    remedy = "set [device] state_dir to a directory that this user may write"
    if not os.path.isdir(there):  # noqa: PTH112  (Path.is_dir raises where a folder may not be looked into)
        yield ConfigError(f"state directory {state_dir}: {there} is not a directory", remedy)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield ConfigError(f"state directory {state_dir}: {there} cannot be written by this user", remedy)


def _wrong_kind(key: str, path: Path, *, folder: bool = False) -> Iterator[AgentError]:
    """Yield why ``path`` is not the file, or the folder, that it should be."""
    try:
        is_folder = path.is_dir()
        path.stat()
    except OSError as error:
        yield ConfigError(f"{key}: {path}: {error.strerror}", "correct the path, or the rights on its folder")
        return
    if is_folder != folder:
        yield ConfigError(f"{key}: {path} is {'a folder, not a file' if is_folder else 'a file, not a folder'}",
                          f"give a {'folder' if folder else 'file'}")


def _attempt(what: Callable[[], object]) -> Iterator[AgentError]:
    try:
        what()
    except AgentError as error:
        yield error
