"""One small door to the GPU: memory, copies, streams and events, through pycuda.

ONNX Runtime and TensorRT compute in CUDA's primary context, so that one is retained here, never a context of our own
(``pycuda.autoinit`` makes one, and handles of one context are invalid in the other). CUDA knows a current context a
thread: every thread that calls anything here does so inside ``with device.current():``. What a device hands out is
freed in reverse order when the device is closed. ``pycuda`` is imported by the first device, not by this module.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.errors import EngineError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, which others in the process may use
_Thing = TypeVar("_Thing", "Memory", "HostMemory", "Stream", "Event")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a CUDA device is.

    Attributes:
        index: CUDA's number of it, from 0.
        name: For example ``Orin`` or ``NVIDIA H200``.
        sm: Compute capability, for example ``8.7``.
        sm_count: Multiprocessors.
        integrated: It shares its memory with the CPU, as on a Jetson.
        unified: Host and device pointers live in one address space.
        memory_bytes: All of its memory.
        driver: The driver's own version, for example ``580.159.04``; None where the kernel does not tell.
        driver_cuda: The newest CUDA the driver can run, for example ``13.0``.
        cuda: The CUDA that pycuda was built with.
    """

    index: int
    name: str
    sm: str
    sm_count: int
    integrated: bool
    unified: bool
    memory_bytes: int
    driver: str | None
    driver_cuda: str
    cuda: str


class Memory:
    """Device memory. ``address`` is what the runtimes take; ``nbytes`` its size."""

    def __init__(self, allocation: Any, nbytes: int) -> None:
        self._allocation = allocation
        self.address = int(allocation)
        self.nbytes = nbytes

    def release(self) -> None:
        """Free it; for who holds it only."""
        self._allocation.free()


class HostMemory:
    """Page-locked host memory, which the GPU copies without help from the CPU.

    Attributes:
        array: The bytes, uint8 (nbytes,). Not to be touched once the device is closed.
        address: Where the GPU sees the same bytes; None unless it was asked for as mapped.
    """

    def __init__(self, array: NDArray[np.uint8], allocation: Any, *, mapped: bool) -> None:
        self.array = array
        self.address: int | None = int(allocation.get_device_pointer()) if mapped else None
        self._allocation = allocation

    def release(self) -> None:
        """Free it; for who holds it only."""
        self._allocation.free()


class Stream:
    """A queue of work on the GPU. ``handle`` is CUDA's, as an integer."""

    def __init__(self, stream: Any, saying: Callable[[str], Any]) -> None:
        self.native = stream
        self._saying = saying
        self.handle = int(stream.handle)

    def wait_for(self, event: "Event") -> None:
        """Let what is queued from now on begin after ``event``; does not block."""
        with self._saying("a stream cannot wait"):
            self.native.wait_for_event(event.native)

    def synchronise(self) -> None:
        """Block until all that was queued is done; a failure of any of it is raised here."""
        with self._saying("queued work failed"):
            self.native.synchronize()

    def release(self) -> None:
        """Destroy it; for the device only."""
        self.native = None  # pycuda destroys it with its last reference


class Event:
    """A mark in a stream."""

    def __init__(self, event: Any, saying: Callable[[str], Any]) -> None:
        self.native = event
        self._saying = saying

    def record(self, stream: Stream) -> None:
        """Put the mark behind all that is queued in ``stream``; does not block."""
        with self._saying("an event cannot be recorded"):
            self.native.record(stream.native)

    def wait(self) -> None:
        """Block, without spinning, until the GPU has passed the mark; a failure before it is raised here."""
        with self._saying("queued work failed"):
            self.native.synchronize()

    def ms_since(self, earlier: "Event") -> float:
        """Milliseconds of GPU time from ``earlier`` to this one; both made with ``timing`` and waited for."""
        with self._saying("an event has no time"):
            return float(self.native.time_since(earlier.native))

    def release(self) -> None:
        """Destroy it; for the device only."""
        self.native = None


class CudaDevice:
    """A GPU through its primary context.

    Args:
        index: CUDA's number of it.
        cuda: ``pycuda.driver``, or a stand-in for tests; None imports it.

    Raises:
        EngineError: pycuda, the driver or the device is missing.
    """

    def __init__(self, index: int = 0, cuda: Any = None) -> None:
        self._cuda = _import_pycuda() if cuda is None else cuda
        self._index = index
        # By id, in the order of their birth: one step adds or takes one away, so no thread needs a lock.
        self._held: dict[int, Memory | HostMemory | Stream | Event] = {}
        with self._saying("cannot be used"):
            self._facts = _read_facts(self._cuda, index)
            self._context = _primary_context(self._cuda, index)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread, for as long as the block lasts."""
        with self._saying("its context cannot be made current"):
            self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def malloc(self, nbytes: int) -> Memory:
        """Allocate device memory, at least one byte.

        Raises:
            EngineError: there is not enough.
        """
        with self._saying(f"{nbytes} bytes cannot be allocated"):
            return self._hold(Memory(self._cuda.mem_alloc(max(nbytes, 1)), nbytes))

    def host(self, nbytes: int, *, mapped: bool = False) -> HostMemory:
        """Allocate page-locked host memory; ``mapped`` gives it an address on the GPU, too.

        Raises:
            EngineError: there is not enough.
        """
        with self._saying(f"{nbytes} bytes of page-locked memory cannot be allocated"):
            flags = self._cuda.host_alloc_flags.DEVICEMAP if mapped else 0
            array = self._cuda.pagelocked_empty(max(nbytes, 1), np.uint8, mem_flags=flags)
            return self._hold(HostMemory(array, array.base, mapped=mapped))

    def copy_in(self, address: int, data: NDArray[Any], stream: Stream) -> None:
        """Queue a copy of ``data``, C-contiguous, page-locked and unchanged until it is done, to ``address``."""
        with self._saying("a copy to the GPU failed"):
            self._cuda.memcpy_htod_async(address, data, stream.native)

    def copy_out(self, data: NDArray[Any], address: int, stream: Stream) -> None:
        """Queue a copy of ``data.nbytes`` bytes from ``address`` into ``data``, C-contiguous and page-locked."""
        with self._saying("a copy from the GPU failed"):
            self._cuda.memcpy_dtoh_async(data, address, stream.native)

    def stream(self) -> Stream:
        """Make a stream."""
        with self._saying("a stream cannot be made"):
            return self._hold(Stream(self._cuda.Stream(_NON_BLOCKING), self._saying))

    def event(self, *, timing: bool = False) -> Event:
        """Make an event; whoever waits for it sleeps, so that the cores stay with the cameras."""
        flags = self._cuda.event_flags
        with self._saying("an event cannot be made"):
            wanted = flags.BLOCKING_SYNC | (0 if timing else flags.DISABLE_TIMING)
            return self._hold(Event(self._cuda.Event(wanted), self._saying))

    def memory(self) -> tuple[int, int]:
        """Return (free, total) bytes of the whole device, whoever uses it."""
        with self._saying("does not tell its memory"):
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def facts(self) -> DeviceFacts:
        """Say what it is."""
        return self._facts

    def free(self, *things: Memory | HostMemory | Stream | Event) -> None:
        """Free ``things`` before the device is closed, the last first; nothing queued may still use them."""
        for thing in reversed(things):
            if self._held.pop(id(thing), None) is not None:
                with self._saying("something cannot be freed"):
                    thing.release()

    def give_up(self, *things: Memory | HostMemory | Stream | Event) -> None:
        """Leave ``things`` to the caller: closing the device does not free them."""
        for thing in things:
            self._held.pop(id(thing), None)

    def close(self) -> None:
        """Free all that is left, the last first; may be called again.

        The context itself stays until the process ends: runtimes in this process may use it, and a release through
        pycuda leaves a dead context current in the thread.
        """
        with self.current():
            self.free(*list(self._held.values()))

    def _hold(self, thing: _Thing) -> _Thing:
        self._held[id(thing)] = thing
        return thing

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise EngineError(f"CUDA device {self._index}: {what}: {error}",
                              "free GPU memory, or restart the service; if it stays, look at `dmesg` and the driver"
                              ) from error


def facts(index: int = 0) -> DeviceFacts:
    """Say what device ``index`` is, without a context and without taking memory of it.

    Raises:
        EngineError: pycuda, the driver or the device is missing.
    """
    cuda = _import_pycuda()
    try:
        return _read_facts(cuda, index)
    except cuda.Error as error:
        raise EngineError(f"CUDA device {index} cannot be used: {error}",
                          "look at `nvidia-smi` (on a Jetson at `dmesg`) and the driver") from error


def _read_facts(cuda: Any, index: int) -> DeviceFacts:
    cuda.init()
    device = cuda.Device(index)
    attribute = cuda.device_attribute
    major, minor = device.compute_capability()
    newest = int(cuda.get_driver_version())
    return DeviceFacts(
        index=index, name=str(device.name()), sm=f"{major}.{minor}",
        sm_count=int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
        integrated=bool(device.get_attribute(attribute.INTEGRATED)),
        unified=bool(device.get_attribute(attribute.UNIFIED_ADDRESSING)), memory_bytes=int(device.total_memory()),
        driver=_driver_version(), driver_cuda=f"{newest // 1000}.{newest % 1000 // 10}",
        cuda=".".join(map(str, cuda.get_version()[:2])))


def _driver_version() -> str | None:
    try:
        words = _DRIVER_FILE.read_text("utf-8").split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and word.count(".") >= 1), None)


@cache
def _primary_context(cuda: Any, index: int) -> Any:
    return cuda.Device(index).retain_primary_context()


def _import_pycuda() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise EngineError(f"pycuda cannot be imported: {error}",
                          "install it where CUDA's headers are: `pip install pycuda`; libcuda comes with the driver"
                          ) from error
