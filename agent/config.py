"""The one TOML file a box is run by, with ``conf.d/*.toml`` laid over it. Read once; each part gets its own section.

An unknown key or a bad value is an error that names the file, the key's path, the value and the remedy. Secrets
never stand in the file: it names where they are (``file:/path`` or ``credential:NAME`` for systemd's LoadCredential).
What a fault is and how it is told stands in agent/faults.py. Nothing the file names is opened here.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from agent.errors import ConfigError
from agent.faults import KEYS, NAME, contradictions, explained, origin_of
from agent.units import Bytes, BytesPerSecond, Celsius, LongTimeout, PerSecond, Seconds, Timeout, Watts, quantity

DEFAULT_PATH = Path("/etc/vedette/config.toml")


def _doc(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


Name = Annotated[str, msgspec.Meta(pattern=NAME)]
File = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]+\Z")]
Side = Annotated[int, msgspec.Meta(ge=16, le=16384)]
Canvas = Annotated[list[Annotated[int, msgspec.Meta(ge=32, le=4096)]], msgspec.Meta(min_length=2, max_length=2)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Level = Annotated[int, msgspec.Meta(ge=0, le=5)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: frozen, and an unknown key is an error."""


class Device(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who this box is."""

    id: Annotated[Name | None, _doc("Name of the box in every event. Default: derived from /etc/machine-id.")] = None
    state_dir: Annotated[File, _doc(
        "Where models, prepared engines and the spool live. `$STATE_DIRECTORY` (set by systemd) wins.")
    ] = "/var/lib/vedette"
    runtime_dir: Annotated[File, _doc("Where the status socket lives. `$RUNTIME_DIRECTORY` wins.")] = "/run/vedette"


class SourceSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One camera, stream or file; `[source.NAME]`, one table each."""

    url: Annotated[str, _doc(
        "`rtsp://host/path`, `v4l2:///dev/video0` (`?format=raw` or `mjpeg`), `csi://0`, "
        "`file:///clip.mp4?loop=1&pace=realtime` "
        "(`loop`: 0 or 1; `pace`: `realtime` as a camera would, `all` every frame as fast as the engine takes them), "
        "`images:///folder?loop=0&fps=2`. No user or password in it.")]
    username: Annotated[str | None, _doc("User name for the stream.")] = None
    password: Annotated[str | None, _doc("Secret: `file:/path` or `credential:NAME`.")] = None
    read_timeout: Annotated[Timeout, _doc("A read that takes longer means that the source is down.")] = Timeout(5)
    open_timeout: Annotated[Timeout, _doc("As long may opening take.")] = Timeout(10)
    retry_max: Annotated[Timeout, _doc(
        "Longest wait between two attempts to reconnect (full jitter, doubling from 250ms).")] = Timeout(2)
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
    recipes: Annotated[list[File], _doc(
        "Folders with recipes of your own, looked at before /etc/vedette/engines and those that come with vedette.")
    ] = []
    runtime: Annotated[Literal["onnxruntime", "tensorrt", "tensorrt_rtx"], _doc(
        "What runs the model: `tensorrt` on a Jetson, `tensorrt_rtx` on a PC with an RTX GPU, `onnxruntime` anywhere.")
    ] = "onnxruntime"
    precision: Annotated[Literal["auto", "int8", "fp16", "fp32"], _doc(
        "`auto` keeps the fastest form that agrees with FP32; any other is the only one tried, with FP32 to fall back "
        "to.")] = "auto"
    tune: Annotated[Literal["auto", "background", "off"], _doc(
        "When no engine tuned on this box is there: `background` builds one while a quick one serves, `off` waits for "
        "`vedette engines build`. `auto` builds in the background on a GPU, and on a CPU only to replace one that no "
        "longer fits, because there the build takes the very cores that look.")] = "auto"
    provider: Annotated[str | None, _doc(
        "ONNX Runtime execution provider that must be used, e.g. `CUDAExecutionProvider`; it is an error, never a "
        "silent fallback, when it cannot. Default: CPU.")] = None
    size: Annotated[Canvas | None, _doc("Canvas [height, width] instead of the recipe's, 32 to 4096 pixels.")] = None
    threads: Annotated[int, _doc("CPU threads of one engine call; 0 = all cores but one.", ge=0, le=256)] = 0
    max_batch: Annotated[int, _doc("Most frames in one engine call.", ge=1, le=64)] = 1
    batch_deadline: Annotated[Seconds, _doc("A batch not yet full waits this long for more frames.")] = Seconds(5e-3)
    score: Annotated[Share | None, _doc("Score threshold instead of the recipe's.")] = None
    iou: Annotated[Share | None, _doc("NMS overlap threshold instead of the recipe's.")] = None


class BuildSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What building an engine may take. It is done by a child process of lowest priority."""

    memory: Annotated[Bytes | None, _doc(
        "Resident memory of the child; above it the build is stopped. Default: three quarters of the machine's.")
    ] = None
    wall: Annotated[LongTimeout, _doc("Longest time one step may take.")] = LongTimeout(3600)
    workspace: Annotated[Bytes, _doc(
        "TensorRT: scratch memory one layer may use. Too little lowers the largest batch first.")] = Bytes(1 << 30)
    level: Annotated[Level | None, _doc("TensorRT: optimisation level of the builder; higher builds longer.")
                     ] = None


class CalibrationSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pictures of this box's own cameras, kept on its disk for INT8 and for checking engines; never sent anywhere."""

    live: Annotated[bool, _doc("Keep a random sample of the frames that are looked at.")] = False
    max_bytes: Annotated[Bytes, _doc("Disk space they may take, 1MB or more.")] = Bytes(64e6)
    interval: Annotated[LongTimeout, _doc("One frame is drawn every so often.")] = LongTimeout(10)


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
    max_bytes: Annotated[Bytes, _doc(
        "Size of the spool file at most, 1MiB or more. Beyond it the oldest of the least important events go, and a "
        "`gap` event says which.")] = Bytes(512e6)
    max_age: Annotated[Seconds, _doc(
        "Events that could not be delivered for this long go, and a `gap` event says which; `0s` keeps them as long "
        "as there is room.")] = Seconds(30 * 86400.0)
    dead_letters: Annotated[int, _doc(
        "Most events kept that the upstream refuses for good; when there are more, delivery waits for a person.",
        ge=1, le=100_000)] = 1000


class UpstreamSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTPS receiver. Without `url` events stay in the spool."""

    url: Annotated[str | None, _doc("`https://host/path` that takes POSTed CloudEvents batches.")] = None
    ca_file: Annotated[File | None, _doc(
        "PEM file of the authority that signed the receiver's certificate. Default: the system's.")] = None
    client_cert: Annotated[File | None, _doc("PEM certificate of this box, for mutual TLS.")] = None
    client_key: Annotated[str | None, _doc("Secret: its private key, `file:/path` or `credential:NAME`.")] = None
    token: Annotated[str | None, _doc("Secret: bearer token, `file:/path` or `credential:NAME`.")] = None
    proxy: Annotated[str | None, _doc("`http://host:port`. Proxy variables of the environment are not looked at.")
                     ] = None
    format: Annotated[Literal["cloudevents", "json", "ndjson"], _doc(
        "Body of a request: `cloudevents` a JSON array as `application/cloudevents-batch+json`, `json` the same array "
        "as `application/json`, `ndjson` one event a line as `application/x-ndjson`.")] = "cloudevents"
    compression: Annotated[Literal["gzip", "zstd", "none"], _doc(
        "Content encoding of a request; `zstd` needs the package zstandard.")] = "gzip"
    batch_events: Annotated[int, _doc("Most events in one request.", ge=1, le=1000)] = 32
    batch_interval: Annotated[Seconds, _doc("A batch that is not full is sent after this long.")] = Seconds(1)
    connect_timeout: Annotated[Timeout, _doc("To connect, at most.")] = Timeout(10)
    read_timeout: Annotated[Timeout, _doc("Between two bytes of the answer, at most.")] = Timeout(30)
    request_timeout: Annotated[Timeout, _doc("For one request from connecting to the answer's end, at most.")
                               ] = Timeout(120)
    bandwidth: Annotated[BytesPerSecond | None, _doc(
        "Bytes of request bodies sent per second at most, on average. Default: no limit.")] = None
    retry_min: Annotated[Timeout, _doc("First wait after a failure (full jitter, doubling).")] = Timeout(1)
    retry_max: Annotated[Timeout, _doc("Longest wait after a failure.")] = Timeout(300)
    drain: Annotated[Seconds, _doc("A stopping agent tries this long to deliver what is committed.")] = Seconds(5)


class StatusSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The local status socket."""

    socket: Annotated[File | None, _doc("Path of the unix socket. Default: `status.sock` in the runtime directory.")
                      ] = None


class LogSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is written to the journal."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _doc("Least severe message that is shown.")] = "info"


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    device: Device = Device()
    source: Annotated[dict[str, SourceSection], _doc("At least one.")] = {}
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
    for file in (path, *sorted((path.parent / "conf.d").glob("*.toml"))):
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
    device, engine, status, upstream = config.device, config.engine, config.status, config.upstream
    return replace(
        config,
        device=replace(device, state_dir=file(device.state_dir), runtime_dir=file(device.runtime_dir)),
        source={name: replace(source, password=secret(source.password)) for name, source in config.source.items()},
        engine=replace(engine, recipes=[str(folder / path) for path in engine.recipes]),
        status=replace(status, socket=file(status.socket)),
        upstream=replace(upstream, ca_file=file(upstream.ca_file), client_cert=file(upstream.client_cert),
                         client_key=secret(upstream.client_key), token=secret(upstream.token)))


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = msgspec.toml.decode(file.read_bytes())
    except FileNotFoundError as error:
        remedy = f"give the right path with --config, or write one; {KEYS}"
        raise ConfigError(f"{file}: no such file", remedy) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", "check its owner and mode") from error
    except (ValueError, RecursionError) as error:  # faulty, no UTF-8, a number of 5000 digits, nested without end
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
