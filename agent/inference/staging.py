"""Two sets of buffers, three streams: the copies of one batch run while its neighbour is computed.

On a GPU of its own, frames go through page-locked memory in one stream, are computed in a second and leave in a third;
events keep the order. On an integrated GPU copies would only move bytes within one memory: there frames and outputs
lie in mapped memory, which each side touches once. A set belongs to one call from :meth:`Staging.take` until
:meth:`Staging.collect` (or :meth:`Staging.give_back`), so those of another call are never handed out.

Outputs are handed out as they lie, without a copy (a detector's are 3 MB a frame): the set gets a spare in their place,
and they become the next spare once the caller has let go of the last view of them. Without a spare they are copied.
"""

import ctypes
import math
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.errors import EngineError
from agent.inference.device import CudaDevice, Event, HostMemory, Memory, Stream
from agent.inference.engine import TensorSpec
from agent.records import Pixels

DEPTH = 2
_SPARES = 2
_Thing = TypeVar("_Thing", Memory, HostMemory, Stream, Event)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Results:
    """Where outputs end up: for each its memory, its array, and its address on the GPU where it is mapped."""

    memory: tuple[HostMemory, ...]
    arrays: tuple[NDArray[Any], ...]


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """One set of buffers.

    Attributes:
        index: 0 to DEPTH - 1.
        frames: Where the GPU reads (max_batch, height, width, 3) uint8.
        outputs: Where the GPU writes each output; may change from call to call where ``rebinds`` was said.
    """

    index: int
    frames: int
    outputs: tuple[int, ...]
    host_frames: Pixels
    results: _Results
    arrived: Event
    computed: Event
    left: Event


class Staging:
    """The buffers of one engine; needs the device's context current in every call that says so.

    Args:
        device: Whose memory.
        height: Canvas height, pixels.
        width: Canvas width, pixels.
        max_batch: Most frames a call.
        outputs: Names, shapes (first axis the batch, the rest known) and dtypes.
        stream: To compute in; None makes one. It stays the caller's.
        rebinds: The runtime reads ``Slot.outputs`` before every run; a captured graph cannot.

    Raises:
        EngineError: there is not enough memory; what was taken is free again. Context needed.
    """

    def __init__(self, device: CudaDevice, *, height: int, width: int, max_batch: int, outputs: Sequence[TensorSpec],
                 stream: Stream | None = None, rebinds: bool = False) -> None:
        self._device = device
        self._mapped = device.facts().integrated
        self._things: list[Memory | HostMemory | Stream | Event] = []
        self._free: list[Slot] = []
        self._turn = threading.Condition()
        self._ended = self._released = False
        # Guards _out, _released and who frees what is out. Re-entrant: the garbage collector may let go of an array
        # within a thread that holds it.
        self._ownership = threading.RLock()
        self._out: list[_Results] = []
        self._spares: deque[_Results] = deque()
        self._shapes = [((max_batch, *output.shape[1:]), np.dtype(output.dtype)) for output in outputs]
        self.device_bytes = 0
        try:
            self.computing = stream or self._keep(device.stream())
            self._coming, self._going = (self._keep(device.stream()) for _ in range(2))
            for index in range(DEPTH):
                self._free.append(self._slot(index, (max_batch, height, width, 3)))
            self._spares.extend(self._results() for _ in range(_SPARES if rebinds or not self._mapped else 0))
        except EngineError:
            self.release()
            raise
        self.slots = tuple(self._free)

    def take(self) -> Slot | None:
        """Return a set of buffers; blocks while all are under way. None once :meth:`end` was called."""
        with self._turn:
            self._turn.wait_for(lambda: self._free or self._ended)
            return None if self._ended else self._free.pop(0)

    def give_back(self, slot: Slot) -> None:
        """Let another call use ``slot``."""
        with self._turn:
            self._free.append(slot)
            self._turn.notify_all()

    def fill(self, slot: Slot, batch: Pixels) -> None:
        """Copy ``batch`` and queue its way to the GPU; the batch is the caller's again. Context needed."""
        host = slot.host_frames[:len(batch)]
        np.copyto(host, batch)
        if not self._mapped:
            self._device.copy_in(slot.frames, host, self._coming)
            slot.arrived.record(self._coming)

    def before_computing(self, slot: Slot) -> None:
        """Let ``computing`` wait for the frames. Context needed."""
        if not self._mapped:
            self.computing.wait_for(slot.arrived)

    def after_computing(self, slot: Slot, count: int) -> None:
        """Queue the way back of the outputs of ``count`` frames. Context needed."""
        if self._mapped:
            slot.left.record(self.computing)
            return
        slot.computed.record(self.computing)
        self._going.wait_for(slot.computed)
        for address, host in zip(slot.outputs, slot.results.arrays, strict=True):
            self._device.copy_out(host[:count], address, self._going)
        slot.left.record(self._going)

    def collect(self, slot: Slot, count: int) -> list[NDArray[Any]]:
        """Wait for the outputs and return them, the caller's from now on; ``slot`` is free again. Context needed.

        Raises:
            EngineError: computing or copying failed.
        """
        try:
            slot.left.wait()
            try:
                spare = self._spares.popleft()
            except IndexError:
                return [np.array(host[:count], subok=False) for host in slot.results.arrays]
            given, slot.results = slot.results, spare
            if self._mapped:
                slot.outputs = _addresses(spare)
            return self._hand_out(given, count)
        finally:
            self.give_back(slot)

    def _hand_out(self, results: _Results, count: int) -> list[NDArray[Any]]:
        """Return arrays whose last view, when it goes, brings ``results`` back."""
        given: list[NDArray[Any]] = []
        with self._ownership:
            self._out.append(results)
        out = list(results.memory)
        for memory, array in zip(results.memory, results.arrays, strict=True):
            # numpy keeps the object that a buffer came from alive through any number of views, but views of an array
            # keep that array's own base only: so each call gets an owner of its own.
            owner: Any = (ctypes.c_ubyte * array.nbytes).from_address(memory.array.ctypes.data)
            weakref.finalize(owner, self._came_back, results, memory, out).atexit = False
            given.append(np.frombuffer(owner, array.dtype).reshape(array.shape)[:count])
        return given

    def _came_back(self, results: _Results, memory: HostMemory, out: list[HostMemory]) -> None:
        """Runs in whatever thread lets go of an array, so it waits for nothing that takes long."""
        with self._ownership:
            out.remove(memory)
            if out:
                return
            self._out.remove(results)
            if not self._released:
                self._spares.append(results)
                return
            self._device.give_up(*results.memory)  # release() may be on its way to do so, further up in this thread
        with self._device.current():
            for held in reversed(results.memory):
                held.release()

    def end(self, patience_s: float) -> bool:
        """Hand out no more sets; wait for those under way. False: some did not come back in ``patience_s`` seconds."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()
            return self._turn.wait_for(lambda: len(self._free) == DEPTH, patience_s)

    def release(self) -> None:
        """Wait for the streams and free everything, the last first, but outputs that the caller still holds.

        Those are freed when the caller lets go of them. Context needed.
        """
        with self._ownership:
            things, self._things, self._released = self._things, [], True
            for results in tuple(self._out):
                self._device.give_up(*results.memory)
        try:
            for thing in things:
                if isinstance(thing, Stream):
                    thing.synchronise()
        finally:
            self._device.free(*things)

    def _slot(self, index: int, shape: tuple[int, ...]) -> Slot:
        nbytes = math.prod(shape)
        host = self._host(nbytes)
        frames = self._device_address(host, nbytes)
        results = self._results()
        outputs = tuple(self._device_address(memory, array.nbytes)
                        for memory, array in zip(results.memory, results.arrays, strict=True))
        arrived, computed, left = (self._keep(self._device.event()) for _ in range(3))
        return Slot(index=index, frames=frames, outputs=outputs, host_frames=host.array[:nbytes].reshape(shape),
                    results=results, arrived=arrived, computed=computed, left=left)

    def _results(self) -> _Results:
        memory, arrays = [], []
        for shape, kind in self._shapes:
            nbytes = math.prod(shape) * kind.itemsize
            memory.append(self._host(nbytes))
            arrays.append(memory[-1].array[:nbytes].view(kind).reshape(shape))
        return _Results(memory=tuple(memory), arrays=tuple(arrays))

    def _host(self, nbytes: int) -> HostMemory:
        return self._keep(self._device.host(nbytes, mapped=self._mapped))

    def _device_address(self, host: HostMemory, nbytes: int) -> int:
        """Return where the GPU has the bytes of ``host``: there, where it is mapped, else in memory of its own."""
        if host.address is not None:
            return host.address
        self.device_bytes += nbytes
        return self._keep(self._device.malloc(nbytes)).address

    def _keep(self, thing: _Thing) -> _Thing:
        self._things.append(thing)
        return thing


def _addresses(results: _Results) -> tuple[int, ...]:
    return tuple(memory.address for memory in results.memory if memory.address is not None)
