"""Operating points: what each way of working gives and takes on this very device, as ``vedette tune`` measured it.

Pure: tables in, choices out. A *tier* is an engine that may serve (its canvas, its form); a *way* is a tier with a
batch size; a *point* is a way at a frame rate. Between the points of a way power is taken as linear in the rate,
``watts = base + joules * rate`` (least squares through its points): every frame costs the same energy.
"""

from collections.abc import Sequence

import msgspec

SCHEMA = 1


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that may serve.

    Attributes:
        name: For people, unique in a table: ``640x640 int8-fp16``.
        identity: The engine's, 16 hex digits.
        form: What it computes in: ``fp32``, ``fp16``, ``int8-fp16``.
        height: Canvas height, pixels.
        width: Canvas width, pixels.
        max_batch: Most frames in one call.
    """

    name: str
    identity: str
    form: str
    height: int
    width: int
    max_batch: int


def tier_name(width: int, height: int, form: str) -> str:
    """Return what a tier is called."""
    return f"{width}x{height} {form}"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One way at one rate, measured.

    Attributes:
        tier: Name of the tier.
        batch: Frames in one call.
        asked: Frames per second asked for; None = as many as it takes.
        fps: Frames per second it gave.
        p50_ms: Median time of one call with all that belongs to it, milliseconds.
        p99_ms: 99th percentile of the same.
        watts: Mean power meanwhile, as the telemetry measures it; None = unknown.
        resident_bytes: Resident memory of the process that measured.
        grown_bytes: What of it came with loading and running the engine.
        device_bytes: Memory the engine takes on the device; None = unknown, or there is none.
    """

    tier: str
    batch: int
    asked: float | None
    fps: float
    p50_ms: float
    p99_ms: float
    watts: float | None = None
    resident_bytes: int | None = None
    grown_bytes: int | None = None
    device_bytes: int | None = None

    def above(self, idle_watts: float | None) -> float | None:
        """Return the watts above ``idle_watts``; None when either is unknown."""
        return None if self.watts is None or idle_watts is None else self.watts - idle_watts

    @property
    def frames_per_joule(self) -> float | None:
        """Frames for one joule of the whole power; None when that is unknown."""
        return self.fps / self.watts if self.watts else None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All points of one recipe on one device.

    Attributes:
        recipe: Its name.
        tiers: Most wanted first: the configured canvas, then the smaller ones that were allowed.
        points: In the order they were measured.
        idle_watts: Power before any engine was loaded; None = unknown.
        telemetry: What measured it, see :attr:`agent.power.telemetry.Telemetry.name`, without the version.
        measures: What the watts are of, see :class:`agent.power.telemetry.Reading`.
        power_mode: The board's, as ``nvpmodel`` calls it; None = there is none.
        clocks: How the clocks were ruled: ``jetson_clocks``, the CPU's governor; empty = unknown.
        at: When it was finished, seconds since the epoch.
        took_s: How long it took.
        complete: All points are there; False while ``vedette tune`` is under way or was interrupted.
        seconds: How long each point was measured.
        runs_on: What runs the engines, in words: runtime, processor or GPU, threads; empty = unknown.
        frames: What was looked at: the recipe's pictures, or made-up ones and why.
    """

    schema: int = SCHEMA
    recipe: str
    tiers: list[Tier]
    points: list[Point]
    idle_watts: float | None
    telemetry: str
    measures: str
    power_mode: str | None
    clocks: str
    at: float
    took_s: float
    complete: bool
    seconds: float
    runs_on: str = ""
    frames: str = ""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A tier with a batch size, and what is known of its cost.

    Attributes:
        tier: Name of the tier.
        batch: Frames in one call.
        rank: 0 = the tier most wanted; larger ones are smaller canvases.
        capacity: Frames per second at most; None = not measured.
        base: Watts at no frames at all, the engine loaded; None = not measured.
        joules: Joules of one frame; None = not measured.
        bytes: Resident and device memory together; None = not measured.
    """

    tier: str
    batch: int
    rank: int = 0
    capacity: float | None = None
    base: float | None = None
    joules: float | None = None
    bytes: int | None = None


def ways(table: Table) -> list[Way]:
    """Return the ways a table knows, most wanted tier first, small batches before large ones."""
    found = []
    for rank, tier in enumerate(table.tiers):
        for batch in sorted({point.batch for point in table.points if point.tier == tier.name}):
            points = [point for point in table.points if point.tier == tier.name and point.batch == batch]
            base, joules = _line([(p.fps, p.watts) for p in points if p.watts is not None])
            sizes = [(p.resident_bytes or 0) + (p.device_bytes or 0) for p in points
                     if p.resident_bytes is not None or p.device_bytes is not None]
            found.append(Way(tier=tier.name, batch=batch, rank=rank, capacity=max(p.fps for p in points), base=base,
                             joules=joules, bytes=max(sizes) if sizes else None))
    return found


def _line(points: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Return intercept and slope of the least-squares line; (None, None) without two different rates.

    A slope that is not positive is no measurement of what a frame costs: noise, or a load beside ours.
    """
    n = len(points)
    if n < 2:
        return None, None
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread > 0 else 0.0
    return (mean_y - slope * mean_x, slope) if slope > 0 else (None, None)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both frames per second and watts, by rising watts."""
    front: list[Point] = []
    known = [(point.watts, -point.fps, n, point) for n, point in enumerate(points) if point.watts is not None]
    for _, _, _, point in sorted(known):
        if not front or point.fps > front[-1].fps:
            front.append(point)
    return front


def misfits(table: Table, now: Table) -> list[str]:
    """Return in words why ``table`` does not speak for the device as it is now; empty when it does.

    Args:
        table: As measured.
        now: What a table measured now would say of itself; its points do not matter.
    """
    found = [] if table.complete else ["its measuring was interrupted"]
    known = {tier.name: tier.identity for tier in table.tiers}
    for tier in now.tiers:
        if tier.name not in known:
            found.append(f"the tier {tier.name} was not measured")
        elif known[tier.name] != tier.identity:
            found.append(f"the engine of {tier.name} is another one now ({known[tier.name]} then, {tier.identity} now)")
    for what, then, today in (("the power mode", table.power_mode, now.power_mode),
                              ("the ruling of the clocks", table.clocks, now.clocks),
                              ("what the watts are of", table.measures, now.measures),
                              ("what runs the engines", table.runs_on, now.runs_on)):
        if then and today and then != today:
            found.append(f"{what} was {then!r} and is {today!r}")
    return found
