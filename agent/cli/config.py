"""``vedette config``: is the file right, and what does it come to with all defaults?"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent.cli.options import config_option, json_option
from agent.config import BudgetSection, Config, EngineSection, SourceSection, UpstreamSection, load
from agent.errors import EXIT_CONFIG, EXIT_OK, AgentError, ConfigError, EngineError
from agent.redact import redact
from agent.secrets import read_secret, secret_path

if TYPE_CHECKING:
    from agent.building.recipe import Recipe
    from agent.capture.address import Address

_LONGEST_SOCKET = 107  # bytes; sun_path of unix(7) less its closing zero
_ADDRESSES = frozenset({"url", "proxy"})
_CPU = "CPUExecutionProvider"


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> int:
    """Find what `vedette run` would end on (a fault), and what it would start with but lack (a warning).

    Reads the configuration and looks, without a network, at what it names on this machine: recipe, model, runtime,
    cameras, files, secrets, directories.

    Exit code 0: it can be started, whatever the warnings. 78: there is a fault.
    """
    loaded = load(config_path)
    faults, warnings = list(_faults(loaded)), list(_warnings(loaded))
    findings = [*(("fault", fault) for fault in faults), *(("warning", warning) for warning in warnings)]
    if as_json:
        click.echo(json.dumps([{"kind": kind, "what": found.what, "remedy": found.remedy} for kind, found in findings]))
        return EXIT_CONFIG if faults else EXIT_OK
    for kind, found in findings:
        click.echo(f"{kind}: {found}")
    if faults:
        return EXIT_CONFIG
    click.echo(f"{config_path}: {'can be started, and will be degraded' if warnings else 'well'}; "
               f"{len(loaded.source)} source(s), recipe {loaded.engine.recipe}, "
               f"upstream {redact(loaded.upstream.url or 'none')}")
    return EXIT_OK


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
    """Yield what ``run`` would end on, on this machine."""
    from agent.capture.opening import check_url

    yield from _engine_faults(loaded)
    for source in loaded.source.values():
        yield from _attempt(check_url, source.url)
    yield from _gone(loaded.source)
    yield from _upstream_faults(loaded.upstream)
    yield from _state_dir_faults(loaded.state_dir)
    if len(os.fsencode(loaded.socket_path)) > _LONGEST_SOCKET:
        yield ConfigError(f"status socket {loaded.socket_path}: longer than {_LONGEST_SOCKET} bytes",
                          "set [status] socket to a shorter path")


def _warnings(loaded: Config) -> Iterator[AgentError]:
    """Yield what ``run`` would start with, degraded until it is mended."""
    yield from _engine_warnings(loaded)
    yield from _sysfs_warnings(loaded.budget)
    if not _gone(loaded.source):
        for name, source in loaded.source.items():
            yield from _not_there(name, source)
    for name, source in loaded.source.items():
        if password := source.password:
            for error in _attempt(read_secret, password):
                yield ConfigError(f"source.{name}.password: {error.what}", error.remedy)
    yield from _upstream_warnings(loaded.upstream)
    if loaded.status.listen:
        yield from _page_warnings(loaded, loaded.status.listen)


def _recipe(loaded: Config) -> "Recipe":
    from agent.building.recipe import find_recipe, recipe_folders

    return find_recipe(loaded.engine.recipe, recipe_folders(loaded.own_recipes))


def _engine_faults(loaded: Config) -> Iterator[AgentError]:
    from agent.building.recipe import size_problem

    engine = loaded.engine
    yield from _runtime_faults(engine)
    try:
        recipe = _recipe(loaded)
    except ConfigError as error:
        yield error
        return
    if recipe.own_model is not None:
        for fault in _wrong_kind(f"recipe {recipe.name}: its model", recipe.own_model):
            yield ConfigError(fault.what, f"put your model there, or correct [model] source in {recipe.folder}")
    if engine.size and (problem := size_problem(recipe.input, (engine.size[0], engine.size[1]))):
        yield ConfigError(f"engine.size: recipe {recipe.name}: {problem[0]}", problem[1])


def _engine_warnings(loaded: Config) -> Iterator[AgentError]:
    """Tell which recipes and smaller canvases there are not; the engine itself may be there."""
    from agent.tiers import canvases

    for folder in loaded.own_recipes:
        yield from _wrong_kind("engine.recipes", folder, folder=True)
    with suppress(ConfigError):  # a recipe that cannot be read is a fault
        yield from _attempt(canvases, loaded, _recipe(loaded))


def _runtime_faults(engine: EngineSection) -> Iterator[AgentError]:
    from agent.fingerprint import platform
    from agent.inference.onnxruntime import check_provider

    if engine.runtime == "onnxruntime":
        yield from _attempt(check_provider, engine.provider or _CPU)
        return
    try:
        here = platform(engine.runtime, None, engine.threads)
    except EngineError as error:
        yield error
        return
    if not here.gpu:
        yield EngineError(f"engine.runtime = {engine.runtime!r}: this machine has no CUDA device",
                          '`vedette doctor` says more; `runtime = "onnxruntime"` runs on any CPU')


def _gone(sources: Mapping[str, SourceSection]) -> list[AgentError]:
    """Return what is not there where nothing else is to be read and none of it is waited for, so that a run ends."""
    from agent.capture.address import ClipAddress, FolderAddress

    found: list[AgentError] = []
    for name, source in sources.items():
        address, missing = _address(source.url), list(_not_there(name, source))
        if not missing or not isinstance(address, (ClipAddress, FolderAddress)) or address.loop:
            return []
        found += missing
    return found


def _not_there(name: str, source: SourceSection) -> Iterator[AgentError]:
    from agent.capture.address import ClipAddress, DeviceAddress, FolderAddress

    match _address(source.url):
        case DeviceAddress() as camera:
            yield from _wrong_kind(f"source.{name}.url", Path(camera.device),
                                   remedy="plug the camera in, or correct the address")
        case ClipAddress() | FolderAddress() as files:
            yield from _wrong_kind(f"source.{name}.url", files.path, folder=isinstance(files, FolderAddress),
                                   remedy="mount or make what is to lie there, or correct the address")


def _address(url: str) -> "Address | None":
    from agent.capture.address import parse

    try:
        return parse(url)
    except ConfigError:  # a fault of its own
        return None


def _sysfs_warnings(budget: BudgetSection) -> Iterator[AgentError]:
    """Tell whether the sensors' folder is one; a machine's own is never at fault, it may have no sensors."""
    folder = Path(budget.sysfs)
    if budget.telemetry in {"auto", "sysfs", "rapl"} and folder != Path("/sys"):
        yield from _wrong_kind("budget.sysfs", folder, folder=True, remedy=(
            "name a folder made as /sys is (`vedette sensors --simulate` makes one), or leave sysfs out for /sys"))


def _upstream_faults(upstream: UpstreamSection) -> Iterator[AgentError]:
    """Tell what the uploader cannot be made without; what it makes its sessions from may come later."""
    from agent.report.sealing import check_compression

    yield from _attempt(check_compression, upstream.compression)
    if upstream.url is None:
        return
    if token := upstream.token:
        yield from _attempt(read_secret, token)
    if key := upstream.client_key:
        yield from _attempt(secret_path, key)


def _upstream_warnings(upstream: UpstreamSection) -> Iterator[AgentError]:
    """Tell what holds the delivery, while events wait in the spool."""
    from agent.https import HttpsOptions, open_session, tls_context
    from agent.report.credentials import certificate_end

    if upstream.url is None or list(_upstream_faults(upstream)):
        return
    if token := upstream.token:
        yield from _attempt(lambda: open_session(HttpsOptions(token=read_secret(token))).close())
    key = secret_path(upstream.client_key) if upstream.client_key else None
    ca_file, cert = (Path(file) if file else None for file in (upstream.ca_file, upstream.client_cert))
    missing = [error for name, file in (("ca_file", ca_file), ("client_cert", cert), ("client_key", key)) if file
               for error in _wrong_kind(f"upstream.{name}", file)]
    yield from missing or _attempt(
        tls_context, HttpsOptions(ca_file=ca_file, client_cert=cert, client_key=key))
    if (end := certificate_end(cert)) is not None and end < time.time():
        date = time.strftime("%Y-%m-%d", time.gmtime(end))
        yield ConfigError(f"upstream.client_cert: {cert}: expired on {date}", "renew it (or set the clock)")


def _page_warnings(loaded: Config, listen: str) -> Iterator[AgentError]:
    """Tell why there would be no page; the token that the agent makes itself is none of this command's."""
    from agent.page.address import parse
    from agent.page.token import agents_token

    yield from _attempt(parse, listen)
    if loaded.status.token:
        yield from _attempt(agents_token, loaded)


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


def _wrong_kind(key: str, path: Path, *, folder: bool = False,
                remedy: str = "correct the path, or the rights on its folder") -> Iterator[AgentError]:
    """Yield why ``path`` is not the file, or the folder, that it should be."""
    try:
        is_folder = path.is_dir()
        path.stat()
    except OSError as error:
        yield ConfigError(f"{key}: {path}: {error.strerror}", remedy)
        return
    if is_folder != folder:
        yield ConfigError(f"{key}: {path} is {'a folder, not a file' if is_folder else 'a file, not a folder'}",
                          f"give a {'folder' if folder else 'file'}")


def _attempt(what: Callable[..., object], *arguments: object) -> Iterator[AgentError]:
    try:
        what(*arguments)
    except AgentError as error:
        yield error
