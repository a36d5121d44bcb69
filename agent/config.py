"""The one TOML file a box is run by, with ``conf.d/*.toml`` laid over it. Read once; each part gets its own section.

An unknown key or a bad value is an error that names the file, the key's path, the value and the remedy. Secrets
never stand in the file: it names where they are (``file:/path`` or ``credential:NAME`` for systemd's LoadCredential).
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from agent.errors import ConfigError
from agent.units import Bytes, Celsius, PerSecond, Quantity, Seconds, Watts

DEFAULT_PATH = Path("/etc/vedette/config.toml")
_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def _doc(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


Name = Annotated[str, msgspec.Meta(pattern=_NAME)]
Side = Annotated[int, msgspec.Meta(ge=16, le=16384)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: frozen, and an unknown key is an error."""


class Device(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who this box is."""

    id: Annotated[Name | None, _doc("Name of the box in every event. Default: derived from /etc/machine-id.")] = None
    state_dir: Annotated[str, _doc(
        "Where models, prepared engines and the spool live. `$STATE_DIRECTORY` (set by systemd) wins.")
    ] = "/var/lib/vedette"
    runtime_dir: Annotated[str, _doc("Where the status socket lives. `$RUNTIME_DIRECTORY` wins.")] = "/run/vedette"


class SourceSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One camera, stream or file; `[source.NAME]`, one table each."""

    url: Annotated[str, _doc(
        "`rtsp://host/path`, `v4l2:///dev/video0` (`?format=raw` or `mjpeg`), `csi://0`, "
        "`file:///clip.mp4?loop=1&pace=realtime` "
        "(`loop`: 0 or 1; `pace`: `realtime` as a camera would, `all` every frame as fast as the engine takes them), "
        "`images:///folder?loop=0&fps=2`. No user or password in it.")]
    username: Annotated[str | None, _doc("User name for the stream.")] = None
    password: Annotated[str | None, _doc("Secret: `file:/path` or `credential:NAME`.")] = None
    read_timeout: Annotated[Seconds, _doc("A read that takes longer means that the source is down.")] = Seconds(5)
    open_timeout: Annotated[Seconds, _doc("As long may opening take.")] = Seconds(10)
    retry_max: Annotated[Seconds, _doc(
        "Longest wait between two attempts to reconnect (full jitter, doubling from 250ms).")] = Seconds(2)
    frozen_after: Annotated[Seconds, _doc(
        "A live picture that has not changed in a single bit for this long is `frozen`; `0s` switches it off.")
    ] = Seconds(10)
    black_after: Annotated[Seconds, _doc("Black for this long is `black`; `0s` switches it off.")] = Seconds(5)
    max_rate: Annotated[PerSecond | None, _doc("Frames of this source the engine may see at most.")] = None
    width: Annotated[Side | None, _doc("Capture width asked of v4l2 and csi cameras, pixels.")] = None
    height: Annotated[Side | None, _doc("Capture height asked of v4l2 and csi cameras.")] = None
    rate: Annotated[PerSecond | None, _doc("Capture rate asked of v4l2 and csi cameras.")] = None


class EngineSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What looks at the frames."""

    recipe: Annotated[Name, _doc("Name of a recipe: `vedette engines list`.")] = "centerface"
    recipes: Annotated[list[str], _doc(
        "Folders with recipes of your own, looked at before /etc/vedette/engines and those that come with vedette.")
    ] = []
    runtime: Annotated[Literal["onnxruntime"], _doc("What runs the model.")] = "onnxruntime"
    provider: Annotated[str | None, _doc(
        "ONNX Runtime execution provider that must be used, e.g. `CUDAExecutionProvider`; it is an error, never a "
        "silent fallback, when it cannot. Default: CPU.")] = None
    size: Annotated[list[int] | None, _doc("Canvas [height, width] instead of the recipe's, pixels.")] = None
    threads: Annotated[int, _doc("CPU threads of one engine call; 0 = all cores but one.", ge=0, le=256)] = 0
    max_batch: Annotated[int, _doc("Most frames in one engine call.", ge=1, le=64)] = 1
    batch_deadline: Annotated[Seconds, _doc("A batch not yet full waits this long for more frames.")] = Seconds(5e-3)
    score: Annotated[Share | None, _doc("Score threshold instead of the recipe's.")] = None
    iou: Annotated[Share | None, _doc("NMS overlap threshold instead of the recipe's.")] = None


class BudgetSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits. `rate` is enforced; watts, memory and celsius are read, checked and shown, not yet enforced."""

    rate: Annotated[PerSecond | None, _doc("Frames the engine may see, all sources together.")] = None
    watts: Annotated[Watts | None, _doc("Power of the whole board.")] = None
    memory: Annotated[Bytes | None, _doc("Memory of the agent, device memory included.")] = None
    celsius: Annotated[Celsius | None, _doc("Junction temperature.")] = None


class SpoolSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The durable queue between the loop and the upstream."""

    commit_events: Annotated[int, _doc("Most events in one commit.", ge=1, le=4096)] = 256
    commit_interval: Annotated[Seconds, _doc(
        "Longest time an event waits for its commit: what a power cut can cost.")] = Seconds(0.25)
    max_bytes: Annotated[Bytes, _doc("Size of the spool file at most; what does not fit is refused and counted.")
                         ] = Bytes(512e6)


class UpstreamSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTPS receiver. Without `url` events stay in the spool."""

    url: Annotated[str | None, _doc("`https://host/path` that takes POSTed CloudEvents batches.")] = None
    ca_file: Annotated[str | None, _doc(
        "PEM file of the authority that signed the receiver's certificate. Default: the system's.")] = None
    client_cert: Annotated[str | None, _doc("PEM certificate of this box, for mutual TLS.")] = None
    client_key: Annotated[str | None, _doc("Secret: its private key, `file:/path` or `credential:NAME`.")] = None
    token: Annotated[str | None, _doc("Secret: bearer token, `file:/path` or `credential:NAME`.")] = None
    proxy: Annotated[str | None, _doc("`http://host:port`. Proxy variables of the environment are not looked at.")
                     ] = None
    batch_events: Annotated[int, _doc("Most events in one request.", ge=1, le=1000)] = 32
    batch_interval: Annotated[Seconds, _doc("A batch that is not full is sent after this long.")] = Seconds(1)
    connect_timeout: Annotated[Seconds, _doc("To connect, at most.")] = Seconds(10)
    read_timeout: Annotated[Seconds, _doc("Between two bytes of the answer, at most.")] = Seconds(30)
    retry_min: Annotated[Seconds, _doc("First wait after a failure (full jitter, doubling).")] = Seconds(1)
    retry_max: Annotated[Seconds, _doc("Longest wait after a failure.")] = Seconds(300)
    drain: Annotated[Seconds, _doc("A stopping agent tries this long to deliver what is committed.")] = Seconds(5)


class StatusSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The local status socket."""

    socket: Annotated[str | None, _doc("Path of the unix socket. Default: `status.sock` in the runtime directory.")
                      ] = None


class LogSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is written to the journal."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _doc("Least severe message that is shown.")] = "info"


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    device: Device = Device()
    source: Annotated[dict[str, SourceSection], _doc("At least one.")] = {}
    engine: EngineSection = EngineSection()
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


def load(path: Path) -> Config:
    """Read ``path`` and the ``*.toml`` files of ``conf.d`` beside it, in the order of their names.

    Raises:
        ConfigError: a file is missing or no TOML, a key is unknown, a value is bad; names all four of file, key
            path, value and remedy.
    """
    values: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for file in (path, *sorted((path.parent / "conf.d").glob("*.toml"))):
        _lay_over(values, _read_toml(file), file, origin, "")
    try:
        config = msgspec.convert(values, Config, dec_hook=_quantity)
    except msgspec.ValidationError as error:
        raise _explained(error, values, origin, path) from error
    for key, problem, remedy in _contradictions(config):
        raise ConfigError(f"{_origin(origin, key, path)}: {key}: {problem}", remedy)
    return config


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = msgspec.toml.decode(file.read_bytes())
    except FileNotFoundError as error:
        remedy = "give the right path with --config, or write one: docs/configuration.md"
        raise ConfigError(f"{file}: no such file", remedy) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", "check its owner and mode") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}", "correct that line; strings need quotes") from error
    return loaded


def _lay_over(base: dict[str, Any], top: Mapping[str, Any], file: Path, origin: dict[str, Path], prefix: str) -> None:
    for key, value in top.items():
        path = f"{prefix}{key}"
        origin[path] = file
        if isinstance(value, dict) and isinstance(base.get(key, {}), dict):
            _lay_over(base.setdefault(key, {}), value, file, origin, f"{path}.")
        else:
            base[key] = value


def _quantity(kind: type, written: object) -> Any:
    if issubclass(kind, Quantity):
        return kind.parse(written)
    raise NotImplementedError(kind)


def _origin(origin: Mapping[str, Path], key: str, default: Path) -> Path:
    """Return the file that set ``key`` or its nearest table."""
    while key:
        if key in origin:
            return origin[key]
        key = key.rpartition(".")[0]
    return default


def _explained(error: msgspec.ValidationError, values: Mapping[str, Any], origin: Mapping[str, Path], path: Path
               ) -> ConfigError:
    text, _, where = str(error).partition(" - at `$")
    key = re.sub(r"\[\.\.\.\]", "", where.rstrip("`").lstrip("."))
    key = _full_key(key, values, text)
    if match := re.search(r"unknown field `(.+?)`", text):
        key = ".".join(filter(None, (key, match.group(1))))
        section = _section(key)
        known = ", ".join(section.__struct_fields__) if section else ""
        return ConfigError(f"{_origin(origin, key, path)}: {key}: unknown key",
                           f"remove it or correct its spelling{f'; keys here: {known}' if known else ''}")
    if match := re.search(r"missing required field `(.+?)`", text):
        return ConfigError(f"{_origin(origin, key, path)}: {key}.{match.group(1)}: missing",
                           f"add `{match.group(1)} = …` to [{key}]")
    value = _lookup(values, key)
    shown = "" if value is None or isinstance(value, dict) else f" = {value!r}"
    return ConfigError(f"{_origin(origin, key, path)}: {key}{shown}: {text}", "see docs/configuration.md for this key")


def _full_key(key: str, values: Mapping[str, Any], text: str) -> str:
    """Put the table's name back into ``source..url``: msgspec names no dictionary keys in its paths."""
    head, gap, tail = key.partition("source")
    if head or not gap:
        return key
    tail = tail.lstrip(".")
    for name, table in (values.get("source") or {}).items():
        try:
            msgspec.convert(table, SourceSection, dec_hook=_quantity)
        except msgspec.ValidationError as error:
            if str(error).partition(" - at `$")[0] == text:
                return ".".join(filter(None, ("source", name, tail)))
    return key


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return None
        values = values[part]
    return values


def _section(key: str) -> type[msgspec.Struct] | None:
    parts = key.split(".")
    if len(parts) == 1:
        return Config
    if parts[0] == "source":
        return SourceSection
    default = getattr(Config(), parts[0], None)
    return type(default) if isinstance(default, msgspec.Struct) else None


def _contradictions(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (key, problem, remedy) for what types alone cannot see."""
    if not config.source:
        yield "source", "no source is configured", 'add one: [source.door] and url = "rtsp://…"'
    for name, source in config.source.items():
        key = f"source.{name}"
        if not re.match(_NAME, name):
            yield key, f"{name!r} is no good name", "use lower-case letters, digits, - and _"
        parts = urlsplit(source.url)
        if parts.scheme not in {"rtsp", "rtsps", "v4l2", "csi", "file", "images"}:
            yield f"{key}.url", f"{parts.scheme or 'no'} scheme is not known", (
                "use rtsp://, v4l2://, csi://, file:// or images://")
        if "@" in parts.netloc:
            yield f"{key}.url", "user or password inside the address", (
                'move them to `username` and `password = "file:/path"` (or "credential:NAME")')
        yield from _bad_secret(f"{key}.password", source.password)
    if config.engine.size is not None and (len(config.engine.size) != 2 or min(config.engine.size) < 32):
        yield "engine.size", f"{config.engine.size} is not [height, width]", "for example size = [320, 320]"
    upstream = config.upstream
    if upstream.url is not None and urlsplit(upstream.url).scheme != "https":
        yield "upstream.url", f"{upstream.url!r} is not https", "reports travel over TLS only: use an https:// address"
    if (upstream.client_cert is None) != (upstream.client_key is None):
        yield "upstream.client_cert", "client_cert and client_key go together", "give both or neither"
    yield from _bad_secret("upstream.client_key", upstream.client_key)
    yield from _bad_secret("upstream.token", upstream.token)


def _bad_secret(key: str, reference: str | None) -> Iterator[tuple[str, str, str]]:
    if reference is not None and not reference.startswith(("file:/", "credential:")):
        yield key, "a secret stands in the configuration", (
            "put it in a file of mode 0400 and write \"file:/path\", or use systemd's LoadCredential and "
            'write "credential:NAME"')
