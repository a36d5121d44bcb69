"""What the agent says of itself: the schema of ``vedette status --json``.

A value that is not known is null (``unknown`` on the screen), never 0. Imports neither numpy nor OpenCV.
"""

import msgspec

from agent.errors import EXIT_DEGRADED, EXIT_DOWN, EXIT_OK

SCHEMA = 2
LAST_STATUS = "last-status.json"


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """One source. Rates are frames per second over the last five seconds; ages in seconds.

    ``grade``: good, fair, poor, bad or unknown, over the last hour; ``grade_why`` is empty when it is good.
    ``usual_rate``: the frames per second it usually delivers, null until that is known.
    """

    name: str
    url: str
    state: str
    reason: str
    since_s: float
    last_frame_age_s: float | None
    width: int | None
    height: int | None
    seen: int
    processed: int
    skipped: dict[str, int]
    reconnects: int
    hung: int
    seen_rate: float
    processed_rate: float
    grade: str = "unknown"
    grade_why: str = ""
    usual_rate: float | None = None


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the loop over the last one to two minutes, milliseconds; null where nothing was measured."""

    count: int
    total_count: int
    total_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    longest_ms: float | None


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """What really runs.

    ``tier``: ``tuned`` the engine that won on this box, ``quick`` one built in a hurry, ``prepared`` the model in FP32.
    ``checked`` is what the gate found and ``gated_at`` when, in seconds since the epoch (null: not known); ``tuning``
    how far a better engine is, empty when none is being built.
    """

    name: str
    identity: str
    runtime: str
    provider: str
    precision: str
    threads: int
    height: int
    width: int
    max_batch: int
    model_sha256: str
    ready_for_s: float
    tier: str = "prepared"
    checked: str = ""
    tuning: str = ""
    gated_at: float | None = None


class SpoolView(msgspec.Struct, frozen=True, kw_only=True):
    """The durable queue.

    ``pending`` events wait in memory for their commit; ``failed_commits`` could not be made at once; ``refused``
    counts events that found no room in memory since the start, by reason; ``evicted`` those that went because of the
    bounds since the start; ``lost`` all events lost for ever since the file was made, by reason; ``dead`` the upstream
    refused for good. ``sequence`` is the last that was given. ``disk_free`` is in bytes, null where it is not
    known. ``set_aside`` names files that could not be used.
    What came with a later version has a default, so that an earlier version's last word can be read.
    """

    depth: int
    pending: int
    bytes: int
    oldest_age_s: float | None
    appended: int
    committed: int
    acked: int
    failed_commits: int
    refused: dict[str, int]
    sequence: int | None = None
    dead: int = 0
    lost: dict[str, int] = {}
    evicted: int = 0
    disk_free: int | None = None
    disk_full: bool = False
    set_aside: list[str] = []


class UpstreamView(msgspec.Struct, frozen=True, kw_only=True):
    """The uploader: ``off`` when no address is configured.

    ``certificate_expires_in_s`` is below 0 when the client certificate has ended, null without one; ``clock`` says how
    far the box's clock can be believed; ``buried`` events became dead letters since the start; ``canaries`` asked
    whether the upstream takes anything at all.
    """

    state: str
    reason: str
    since_s: float
    last_ack_age_s: float | None
    delivered_events: int
    delivered_batches: int
    attempts: int
    next_try_in_s: float | None
    certificate_expires_in_s: float | None = None
    clock: str = "unknown"
    buried: int = 0
    canaries: int = 0


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """One budget: limit and reading are null when not set or not known."""

    limit: float | None
    reading: float | None
    unit: str
    enforced: bool


class ReadingView(msgspec.Struct, frozen=True, kw_only=True):
    """What the sensors said last: ``telemetry`` who read them, ``measures`` what the watts are of.

    ``rails`` in watts, ``zones`` in degrees Celsius, ``events`` the kernel's counters since the boot.
    """

    telemetry: str
    age_s: float | None
    watts: float | None
    measures: str
    celsius: float | None
    hottest: str
    gpu_load: float | None
    rails: dict[str, float]
    zones: dict[str, float]
    alarms: list[str]
    events: dict[str, int]
    trouble: str


class MemoryView(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes: this process, its children (builds), the engine on the device, and all three together.

    ``available`` on the machine; ``limit`` and ``used`` of the tightest control group; ``pressure`` the share of the
    last ten seconds, in percent, in which something waited for memory; ``given_up`` the rungs of the ladder in force.
    """

    resident: int | None
    children: int | None
    device: int | None
    total: int | None
    available: int | None
    limit: int | None
    limit_of: str
    used: int | None
    pressure: float | None
    given_up: list[str]
    why: str
    leak: str


class OrderView(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop may do: engine tier, frames in a call, frames per second (null = no limit, 0 = paused)."""

    tier: str
    batch: int
    rate: float | None


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the governor; ``at`` in seconds since the epoch.

    ``kind``: step, memory, blind, seeing, limits, leak.
    """

    at: float
    kind: str
    before: OrderView
    after: OrderView
    reason: str
    watts: float | None
    celsius: float | None
    memory: int | None


class SpentView(msgspec.Struct, frozen=True, kw_only=True):
    """Time at one way of working; ``frames_per_joule`` while the power was known."""

    name: str
    seconds: float
    frames: float
    frames_per_joule: float | None


class GovernorView(msgspec.Struct, frozen=True, kw_only=True):
    """The governor: what it may do, why, and what it did. ``quiet`` names the quiet hours that hold, empty = none.

    ``blind``: a sensor that a limit needs tells nothing, the loop runs at its safest known pace. ``table``: whether
    there are operating points that fit. ``shares``: what each source may have, where priorities decide. ``count``: all
    steps.
    """

    policy: str
    order: OrderView
    why: str
    since_s: float
    quiet: str
    blind: bool
    table: str
    shares: dict[str, float]
    reading: ReadingView
    memory: MemoryView
    frames_per_joule: float | None
    spent: list[SpentView]
    steps: list[StepView]
    count: int


class ProblemView(msgspec.Struct, frozen=True, kw_only=True):
    """A problem of this run; ``began_at`` and ``ended_at`` in seconds since the epoch, ``ended_at`` null = it lasts.

    ``times``: how often it began; one that comes back within a minute is the same one.
    """

    words: str
    began_at: float
    ended_at: float | None
    times: int = 1


class EndView(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, or a start failed: ``at`` in seconds since the epoch, null where nobody saw it.

    ``how`` in a word (``stopped`` on request, ``ended`` by itself, ``watchdog``, ``oom-kill``, ``power`` …, and
    ``no-start`` of the last of the starts that failed before they were a run), ``words`` the same as a sentence.
    """

    at: float | None
    how: str
    words: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent says of itself: ``vedette status --json`` while one answers.

    ``problems`` is what is wrong now, ``problems_past`` the last 20 problems of this run with their times, those of now
    among them, in the order they began. ``ends``: how the runs before this one ended, the newest last.
    ``page``: where the local page is served, empty while it is not.
    """

    schema: int
    version: str
    device: str
    run_id: str
    pid: int
    state: str
    doing: str
    ready: bool
    uptime_s: float
    first_result_s: float | None
    problems: list[str]
    sources: list[SourceView]
    stages: dict[str, StageView]
    engine: EngineView | None
    found: dict[str, int]
    spool: SpoolView | None
    upstream: UpstreamView | None
    budget: dict[str, LimitView]
    heartbeats: dict[str, float]
    governor: GovernorView | None = None
    state_since_s: float | None = None
    problems_past: list[ProblemView] = []
    ends: list[EndView] = []
    page: str = ""

    def exit_code(self) -> int:
        """Return 0 (well), 1 (degraded) or 2 (down: it does not run, or sees nothing at all)."""
        if not self.ready or self.state not in {"running", "degraded"}:
            return EXIT_DOWN
        return EXIT_DEGRADED if self.problems else EXIT_OK
