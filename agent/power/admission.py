"""May this be loaded, or built, beside what is there? Asked before, because afterwards the kernel answers.

Pure. What is unknown forbids nothing: the watch that follows (:mod:`agent.power.squeeze`) sees what it leads to.
"""

import math

from agent.power.memory import MemoryReading

FLOOR_BYTES = 128 << 20
"""Below this no engine can be built: onnxruntime and onnx alone take 56 MiB of a child, measured on x86-64 with
onnxruntime 1.31.1, and a model and its copies stand beside them."""


def admit(need: int, reading: MemoryReading, *, budget: int | None, reserve: int, what: str,
          on_device: tuple[int, int] | None = None) -> str:
    """Return in words why ``what`` must not begin, with all figures; empty when it may.

    Everything that stands against it is named, so that mending one thing does not uncover the next. The budget is the
    agent's own and keeps no reserve; the control group, the machine and the device are shared with others, and do.

    Args:
        need: Bytes of the machine's memory it takes; on a board whose GPU shares that memory, what goes to the GPU as
            well.
        reading: The memory now.
        budget: Most that the agent with its device memory may take, bytes; None = any.
        reserve: Bytes that must stay free for others.
        what: Begins the sentence: ``loading the engine 640x640 fp16``.
        on_device: Of a GPU with a memory of its own: what is needed there in addition, and what is free, bytes.
    """
    against = []
    everything = need + (on_device[0] if on_device else 0)
    if budget is not None and reading.own is not None and (short := reading.own + everything - budget) > 0:
        against.append(f"of the budget of {_mb(budget)} {_mb(reading.own)} are taken: {_mb_up(short)} too much")
    used = _in_group(reading)
    if reading.limit is not None and (short := used + need + reserve - reading.limit) > 0:
        against.append(f"of the control group's limit of {_mb(reading.limit)} ({reading.limit_of}) {_mb(used)} are "
                       f"taken and {_mb(reserve)} stay free: {_mb_up(short)} too much")
    if reading.available is not None and (short := need + reserve - reading.available) > 0:
        against.append(f"{_mb(reading.available)} are available on the machine and {_mb(reserve)} of them stay free: "
                       f"{_mb_up(short)} too much")
    if on_device and (short := on_device[0] + reserve - on_device[1]) > 0:
        against.append(f"{_mb(on_device[0])} of it on the device, where {_mb(on_device[1])} are free and "
                       f"{_mb(reserve)} stay free: {_mb_up(short)} too much")
    return f"{what} takes {_mb(everything)}; {'; '.join(against)}" if against else ""


def child_cap(reading: MemoryReading, reserve: int, wanted: int | None) -> int | None:
    """Return the most a build's child may take, bytes, 0 or more; None when nothing known bounds it.

    Args:
        reading: The memory now, before the child starts.
        reserve: Bytes that must stay free for others.
        wanted: What the configuration allows; None = any.
    """
    bounds = [bound for bound in (
        wanted,
        None if reading.available is None else reading.available - reserve,
        None if reading.limit is None else reading.limit - _in_group(reading) - reserve,
    ) if bound is not None]
    return max(0, min(bounds)) if bounds else None


def too_small(cap: int | None, reading: MemoryReading, reserve: int, *, what: str, floor: int = FLOOR_BYTES) -> str:
    """Return in words why a child with this ``cap`` need not be started; empty when it may.

    Args:
        cap: As :func:`child_cap` gave it.
        reading: The one it was given.
        reserve: The one it was given.
        what: Begins the sentence: ``building fp16``.
        floor: Least that can be enough, bytes.
    """
    if cap is None or cap >= floor:
        return ""
    shown = [f"{_mb(reading.available)} available on the machine"] if reading.available is not None else []
    if reading.limit is not None:
        shown.append(f"{_mb(_in_group(reading))} taken of the control group's limit of {_mb(reading.limit)}")
    figures = f" ({', '.join(shown)})" if shown else ""
    return (f"{what} takes {_mb(floor)} at least; {_mb(cap)} may be taken{figures}, {_mb(reserve)} stay free: "
            f"{_mb_up(floor - cap)} too little")


def _in_group(reading: MemoryReading) -> int:
    """Return the bytes taken of the control group's limit: what is unknown is at least what our processes take."""
    return (reading.resident or 0) + (reading.children or 0) if reading.used is None else reading.used


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _mb_up(size: int) -> str:
    return f"{math.ceil(size / 1e6)} MB"
