"""The sections of the configuration: every key with its type, its default and its text. Values only, nothing is read.

docs/configuration.md is printed from this module.
"""

from typing import Annotated, Any, Literal

import msgspec

from agent.faults import NAME
from agent.units import Bytes, BytesPerSecond, Celsius, LongTimeout, PerSecond, Seconds, Timeout, Watts


def doc(text: str, **limits: Any) -> msgspec.Meta:
    """Return what the reference page says of a key, and its limits."""
    return msgspec.Meta(description=text, **limits)


Name = Annotated[str, msgspec.Meta(pattern=NAME)]
File = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]+\Z")]
HostPort = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}\Z")]
Side = Annotated[int, msgspec.Meta(ge=16, le=16384)]
Canvas = Annotated[list[Annotated[int, msgspec.Meta(ge=32, le=4096)]], msgspec.Meta(min_length=2, max_length=2)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Level = Annotated[int, msgspec.Meta(ge=0, le=5)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: frozen, and an unknown key is an error."""


class Device(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who this box is."""

    id: Annotated[Name | None, doc("Name of the box in every event. Default: derived from /etc/machine-id.")] = None
    state_dir: Annotated[File, doc(
        "Where models, prepared engines and the spool live. `$STATE_DIRECTORY` (set by systemd) wins.")
    ] = "/var/lib/vedette"
    runtime_dir: Annotated[File, doc("Where the status socket lives. `$RUNTIME_DIRECTORY` wins.")] = "/run/vedette"


class SourceSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One camera, stream or file; `[source.NAME]`, one table each."""

    url: Annotated[str, doc(
        "`rtsp://host/path`, `v4l2:///dev/video0` (`?format=raw` or `mjpeg`), `csi://0`, "
        "`file:///clip.mp4?loop=1&pace=realtime` "
        "(`loop`: 0 or 1; `pace`: `realtime` as a camera would, `all` every frame as fast as the engine takes them), "
        "`images:///folder?loop=0&fps=2`. No user or password in it.")]
    username: Annotated[str | None, doc("User name for the stream.")] = None
    password: Annotated[str | None, doc("Secret: `file:/path` or `credential:NAME`.")] = None
    read_timeout: Annotated[Timeout, doc("A read that takes longer means that the source is down.")] = Timeout(5)
    open_timeout: Annotated[Timeout, doc("As long may opening take.")] = Timeout(10)
    retry_max: Annotated[Timeout, doc(
        "Longest wait between two attempts to reconnect (full jitter, doubling from 250ms).")] = Timeout(2)
    frozen_after: Annotated[Seconds, doc(
        "A live picture that has not changed in a single bit for this long is `frozen`; `0s` switches it off.")
    ] = Seconds(10)
    black_after: Annotated[Seconds, doc("Black for this long is `black`; `0s` switches it off.")] = Seconds(5)
    max_rate: Annotated[PerSecond | None, doc("Frames of this source the engine may see at most.")] = None
    width: Annotated[Side | None, doc("Capture width asked of v4l2 and csi cameras, pixels.")] = None
    height: Annotated[Side | None, doc("Capture height asked of v4l2 and csi cameras.")] = None
    rate: Annotated[PerSecond | None, doc("Capture rate asked of v4l2 and csi cameras.")] = None
    priority: Annotated[int, doc(
        "When the budget does not suffice for all, sources of a higher number get their frames first.", ge=1, le=9)] = 5


class EngineSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What looks at the frames."""

    recipe: Annotated[Name, doc("Name of a recipe: `vedette engines list`.")] = "centerface"
    recipes: Annotated[list[File], doc(
        "Folders with recipes of your own, looked at before /etc/vedette/engines and those that come with vedette.")
    ] = []
    runtime: Annotated[Literal["onnxruntime", "tensorrt", "tensorrt_rtx"], doc(
        "What runs the model: `tensorrt` on a Jetson, `tensorrt_rtx` on a PC with an RTX GPU, `onnxruntime` anywhere.")
    ] = "onnxruntime"
    precision: Annotated[Literal["auto", "int8", "fp16", "fp32"], doc(
        "`auto` keeps the fastest form that agrees with FP32; any other is the only one tried, with FP32 to fall back "
        "to.")] = "auto"
    tune: Annotated[Literal["auto", "background", "off"], doc(
        "When no engine tuned on this box is there: `background` builds one while a quick one serves, `off` waits for "
        "`vedette engines build`. `auto` builds in the background on a GPU, and on a CPU only to replace one that no "
        "longer fits, because there the build takes the very cores that look.")] = "auto"
    provider: Annotated[str | None, doc(
        "ONNX Runtime execution provider that must be used, e.g. `CUDAExecutionProvider`; it is an error, never a "
        "silent fallback, when it cannot. Default: CPU.")] = None
    size: Annotated[Canvas | None, doc("Canvas [height, width] instead of the recipe's, 32 to 4096 pixels.")] = None
    threads: Annotated[int, doc("CPU threads of one engine call; 0 = all cores but one.", ge=0, le=256)] = 0
    max_batch: Annotated[int, doc("Most frames in one engine call.", ge=1, le=64)] = 1
    batch_deadline: Annotated[Seconds, doc("A batch not yet full waits this long for more frames.")] = Seconds(5e-3)
    score: Annotated[Share | None, doc("Score threshold instead of the recipe's.")] = None
    iou: Annotated[Share | None, doc("NMS overlap threshold instead of the recipe's.")] = None


class BuildSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What building an engine may take. It is done by a child process of lowest priority."""

    memory: Annotated[Bytes | None, doc(
        "Resident memory of the child; above it the build is stopped. Default: three quarters of the machine's.")
    ] = None
    wall: Annotated[LongTimeout, doc("Longest time one step may take.")] = LongTimeout(3600)
    workspace: Annotated[Bytes, doc(
        "TensorRT: scratch memory one layer may use. Too little lowers the largest batch first.")] = Bytes(1 << 30)
    level: Annotated[Level | None, doc("TensorRT: optimisation level of the builder; higher builds longer.")
                     ] = None


class CalibrationSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pictures of this box's own cameras, kept on its disk for INT8 and for checking engines; never sent anywhere."""

    live: Annotated[bool, doc("Keep a random sample of the frames that are looked at.")] = False
    max_bytes: Annotated[Bytes, doc("Disk space they may take, 1MB or more.")] = Bytes(64e6)
    interval: Annotated[LongTimeout, doc("One frame is drawn every so often.")] = LongTimeout(10)


class QuietHours(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Other limits at certain hours of the box's local time; `[[budget.quiet_hours]]`, the first that fits counts."""

    begin: Annotated[str, doc("`HH:MM`, when they begin.", pattern=r"^([01]\d|2[0-3]):[0-5]\d\Z")]
    end: Annotated[str, doc("`HH:MM`, when they end; before `begin` means the next day.",
                             pattern=r"^([01]\d|2[0-3]):[0-5]\d\Z")]
    rate: Annotated[PerSecond | None, doc("Instead of `budget.rate`, if that is not lower.")] = None
    watts: Annotated[Watts | None, doc("Instead of `budget.watts`, if that is not lower.")] = None
    celsius: Annotated[Celsius | None, doc("Instead of `budget.celsius`, if that is not lower.")] = None


class BudgetSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits, and what keeps the loop within them: see docs/budgets.md."""

    policy: Annotated[Literal["max_fps", "min_energy", "off"], doc(
        "`max_fps`: as many frames as the limits allow; `min_energy`: `fps` at the least power; `off`: the limits are "
        "only shown, all but `rate`.")] = "max_fps"
    fps: Annotated[PerSecond | None, doc("What `min_energy` must reach, all sources together.")] = None
    rate: Annotated[PerSecond | None, doc("Frames the engine may see, all sources together.")] = None
    watts: Annotated[Watts | None, doc("Power, as the sensors measure it: `vedette sensors` says of what.")] = None
    memory: Annotated[Bytes | None, doc(
        "Memory of the agent, device memory included; builds have [build] memory. A limit of its control group counts "
        "as well.")
    ] = None
    celsius: Annotated[Celsius | None, doc("The hottest zone of the board.")] = None
    reserve: Annotated[Bytes, doc("Memory that stays free for others when an engine is loaded or built.")
                       ] = Bytes(64 << 20)
    safe_rate: Annotated[PerSecond, doc(
        "Pace while a sensor that a limit needs tells nothing, and nothing better is known from `vedette tune`.")
    ] = PerSecond(1)
    sizes: Annotated[list[Canvas], doc(
        "Smaller canvases [height, width] the agent may fall back to, largest first: less accurate on small things, "
        "far fewer joules a frame. Empty = never.")] = []
    quiet_hours: Annotated[list[QuietHours], doc("Tighter limits at certain hours.")] = []
    telemetry: Annotated[Literal["auto", "jtop", "sysfs", "nvml", "rapl", "off"], doc(
        "Who reads the sensors: `jtop` jetson-stats' service, `sysfs` the kernel's files, `nvml` NVIDIA's driver, "
        "`rapl` the counters of x86 processors. `auto` takes the first that is there, in this order.")] = "auto"
    sysfs: Annotated[File, doc("Where `sysfs` and `rapl` look; another folder for trials with a simulated board.")
                    ] = "/sys"
    nvpmodel: Annotated[str | None, doc(
        "Power mode to set through jtop while the agent runs, by name, e.g. `15W`. Default: it is left alone.")] = None
    jetson_clocks: Annotated[bool | None, doc(
        "Switch jetson_clocks on or off through jtop while the agent runs. Default: it is left alone.")] = None


class SpoolSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The durable queue between the loop and the upstream."""

    commit_events: Annotated[int, doc("Most events in one commit.", ge=1, le=4096)] = 256
    commit_interval: Annotated[Seconds, doc(
        "Longest time an event waits for its commit: what a power cut can cost.")] = Seconds(0.25)
    max_bytes: Annotated[Bytes, doc(
        "Size of the spool file at most, 1MiB or more. Beyond it the oldest of the least important events go, and a "
        "`gap` event says which.")] = Bytes(512e6)
    max_age: Annotated[Seconds, doc(
        "Events that could not be delivered for this long go, and a `gap` event says which; `0s` keeps them as long "
        "as there is room.")] = Seconds(30 * 86400.0)
    dead_letters: Annotated[int, doc(
        "Most events kept that the upstream refuses for good; when there are more, delivery waits for a person.",
        ge=1, le=100_000)] = 1000


class UpstreamSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTPS receiver. Without `url` events stay in the spool."""

    url: Annotated[str | None, doc("`https://host/path` that takes POSTed CloudEvents batches.")] = None
    ca_file: Annotated[File | None, doc(
        "PEM file of the authority that signed the receiver's certificate. Default: the system's.")] = None
    client_cert: Annotated[File | None, doc("PEM certificate of this box, for mutual TLS.")] = None
    client_key: Annotated[str | None, doc("Secret: its private key, `file:/path` or `credential:NAME`.")] = None
    token: Annotated[str | None, doc("Secret: bearer token, `file:/path` or `credential:NAME`.")] = None
    proxy: Annotated[str | None, doc("`http://host:port`. Proxy variables of the environment are not looked at.")
                     ] = None
    format: Annotated[Literal["cloudevents", "json", "ndjson"], doc(
        "Body of a request: `cloudevents` a JSON array as `application/cloudevents-batch+json`, `json` the same array "
        "as `application/json`, `ndjson` one event a line as `application/x-ndjson`.")] = "cloudevents"
    compression: Annotated[Literal["gzip", "zstd", "none"], doc(
        "Content encoding of a request; `zstd` needs the package zstandard.")] = "gzip"
    batch_events: Annotated[int, doc("Most events in one request.", ge=1, le=1000)] = 32
    batch_interval: Annotated[Seconds, doc("A batch that is not full is sent after this long.")] = Seconds(1)
    connect_timeout: Annotated[Timeout, doc("To connect, at most.")] = Timeout(10)
    read_timeout: Annotated[Timeout, doc("Between two bytes of the answer, at most.")] = Timeout(30)
    request_timeout: Annotated[Timeout, doc("For one request from connecting to the answer's end, at most.")
                               ] = Timeout(120)
    bandwidth: Annotated[BytesPerSecond | None, doc(
        "Bytes of request bodies sent per second at most, on average. Default: no limit.")] = None
    retry_min: Annotated[Timeout, doc("First wait after a failure (full jitter, doubling).")] = Timeout(1)
    retry_max: Annotated[Timeout, doc("Longest wait after a failure.")] = Timeout(300)
    drain: Annotated[Seconds, doc("A stopping agent tries this long to deliver what is committed.")] = Seconds(5)


class StatusSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The local status socket, and the page for whoever aims a camera: see docs/page.md."""

    socket: Annotated[File | None, doc("Path of the unix socket. Default: `status.sock` in the runtime directory.")
                      ] = None
    listen: Annotated[HostPort | None, doc(
        "`127.0.0.1:8642`: serve the local page there, over plain HTTP. Default: there is no page.")] = None
    token: Annotated[str | None, doc(
        "Secret: what the page asks for, `file:/path` or `credential:NAME`. Default: one is made at each start; "
        "`vedette page` prints it.")] = None


class LogSection(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is written to the journal."""

    level: Annotated[Literal["debug", "info", "warning", "error"], doc("Least severe message that is shown.")] = "info"
