"""A strict stand-in for ``pycuda.driver``: what CUDA leaves undefined or to chance is an error here.

Work is done only when somebody waits for it, so who reads too early, forgets an event or reuses a buffer gets garbage
every time instead of now and then. Breaking one of CUDA's rules raises ``BrokenRuleError``; where no exception can be raised (a
destructor) it is noted in ``broken``. What CUDA itself reports leaves as ``Error``, as pycuda does it.
"""

import enum
import threading
import weakref

import numpy as np


class BrokenRuleError(AssertionError):
    """A rule of CUDA's was broken that a real GPU might let pass in silence."""


class Error(Exception):
    """As pycuda's."""


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001 -- pycuda's own name
    pass


class LaunchError(Error):
    pass


class _Allocation:
    def __init__(self, cuda, nbytes, kind):
        self._cuda, self.kind = cuda, kind
        self.data = np.full(nbytes, 0xAB, np.uint8)
        self.address = cuda._next_address
        cuda._next_address += (nbytes + 511) // 256 * 256
        self.alive = True
        cuda._allocations[self.address] = self

    def __int__(self):
        return self.address

    def free(self):
        self._cuda._need_context()
        if not self.alive:
            raise LogicError(f"{self.kind} memory freed twice")
        if any(self in users for stream in self._cuda._streams for _, users in stream.queue):
            raise BrokenRuleError(f"{self.kind} memory freed while queued work uses it")
        self.alive = False
        self.data[:] = 0xCD


class _HostAllocation(_Allocation):
    def __init__(self, cuda, nbytes, mapped):
        super().__init__(cuda, nbytes, "page-locked")
        self.mapped = mapped

    def get_device_pointer(self):
        if not self.mapped:
            raise LogicError("the memory was not allocated as mapped")
        return self.address


class _Pinned(np.ndarray):
    """An array whose ``base`` is its allocation, as pycuda's."""

    allocation = None

    @property
    def base(self):
        return self.allocation


class Stream:
    def __init__(self, cuda, flags=0):
        self.cuda, self.flags, self.queue, self.done = cuda, flags, [], 0
        cuda._need_context()
        self.queued = 0
        self.handle = 0x5000 + id(self) % 0xFFFFF * 16
        cuda._streams.add(self)

    def put(self, work, users=()):
        self.queue.append((work, tuple(users)))
        self.queued += 1

    def run_to(self, number):
        while self.done < number:
            work, _ = self.queue.pop(0)
            self.done += 1
            try:
                work()
            except LaunchError as error:
                self.cuda.sticky = self.cuda.sticky or error
        if self.cuda.sticky:
            raise self.cuda.sticky

    def wait_for_event(self, event):
        self.cuda._need_context()
        if event.at is None:
            raise BrokenRuleError("a stream waits for an event that was never recorded: CUDA would not wait at all")
        stream, number = event.at
        self.put(lambda: stream.run_to(number))

    def synchronize(self):
        self.cuda._called("synchronize")
        self.run_to(self.queued)

    def __del__(self):
        if self.queue:
            self.cuda.broken.append("a stream was destroyed with work in it")


class Event:
    def __init__(self, cuda, flags=0):
        cuda._need_context()
        self.cuda, self.flags, self.at = cuda, flags, None

    def record(self, stream):
        self.cuda._called("record")
        self.at = (stream, stream.queued)

    def synchronize(self):
        self.cuda._called("synchronize")
        if self.at is None:
            raise BrokenRuleError("an event is waited for that was never recorded")
        stream, number = self.at
        stream.run_to(number)

    def time_since(self, earlier):
        if self.flags & 2 or earlier.flags & 2:
            raise LogicError("an event made without timing has no time")
        return 1.0


class CudaDouble:
    """Use an instance in the place of the module ``pycuda.driver``."""

    Error, LogicError, MemoryError, LaunchError = Error, LogicError, MemoryError, LaunchError

    class host_alloc_flags:  # noqa: N801
        PORTABLE, DEVICEMAP = 1, 2

    class event_flags:  # noqa: N801
        BLOCKING_SYNC, DISABLE_TIMING = 1, 2

    class device_attribute(enum.Enum):  # noqa: N801
        MULTIPROCESSOR_COUNT, INTEGRATED, UNIFIED_ADDRESSING = range(3)

    def __init__(self, *, integrated=False, total=1 << 30, devices=1):
        self.integrated, self.total, self.devices = integrated, total, devices
        self.broken, self.calls, self.sticky = [], [], None
        self.fail = {}  # name of a call -> the error to raise, once
        self.retained = 0
        self._initialised = False
        self._allocations, self._next_address = {}, 0x10000
        self._streams = weakref.WeakSet()
        self._local = threading.local()
        double = self

        class Device:
            def __init__(self, index):
                if not double._initialised:
                    raise LogicError("cuInit was not called")
                if index >= double.devices:
                    raise LogicError("invalid device ordinal")

            def compute_capability(self):
                return 8, 7

            def get_attribute(self, which):
                return {0: 8, 1: int(double.integrated), 2: 1}[which.value]

            def name(self):
                return "Double"

            def total_memory(self):
                return double.total

            def retain_primary_context(self):
                double.retained += 1
                return Context()

        class Context:
            def push(self):
                double._stack().append(self)

            @staticmethod
            def pop():
                if not double._stack():
                    raise LogicError("cannot pop non-current context")
                double._stack().pop()

        self.Device, self.Context = Device, Context
        self.Stream = lambda flags=0: Stream(self, flags)
        self.Event = lambda flags=0: Event(self, flags)

    def init(self):
        self._initialised = True

    def get_driver_version(self):
        return 12060

    def get_version(self):
        return 12, 6, 0

    def mem_alloc(self, nbytes):
        self._called("mem_alloc")
        if nbytes > self.mem_get_info()[0]:
            raise MemoryError("out of memory")
        return _Allocation(self, nbytes, "device")

    def pagelocked_empty(self, shape, dtype, mem_flags=0):
        self._called("pagelocked_empty")
        allocation = _HostAllocation(self, int(np.prod(shape)) * np.dtype(dtype).itemsize, bool(mem_flags & 2))
        array = allocation.data.view(dtype).reshape(shape).view(_Pinned)
        array.allocation = allocation
        return array

    def mem_get_info(self):
        self._need_context()
        return self.total - sum(a.data.nbytes for a in self.living() if a.kind == "device"), self.total

    def memcpy_htod_async(self, address, source, stream):
        self._called("memcpy_htod_async")
        host, target = self._pinned(source), self.buffer(address, source.nbytes)

        def work():
            self.bytes_at(address, source.nbytes)[:] = self._still(host) and np.asarray(source).reshape(-1).view(np.uint8)

        stream.put(work, (host, target))

    def memcpy_dtoh_async(self, target, address, stream):
        self._called("memcpy_dtoh_async")
        host, source = self._pinned(target), self.buffer(address, target.nbytes)

        def work():
            self._still(host)
            np.asarray(target).reshape(-1).view(np.uint8)[:] = self.bytes_at(address, target.nbytes)

        stream.put(work, (host, source))

    def living(self):
        return [a for a in self._allocations.values() if a.alive]

    def buffer(self, address, nbytes):
        """The living allocation that holds ``nbytes`` from ``address``."""
        for base, allocation in self._allocations.items():
            if base <= address < base + max(allocation.data.nbytes, 1):
                if not allocation.alive:
                    raise BrokenRuleError(f"{allocation.kind} memory used after it was freed")
                if address + nbytes > base + allocation.data.nbytes:
                    raise BrokenRuleError(f"{nbytes} bytes in a buffer of {allocation.data.nbytes}")
                return allocation
        raise BrokenRuleError(f"address {address:#x} belongs to nobody")

    def bytes_at(self, address, nbytes):
        allocation = self.buffer(address, nbytes)
        begin = address - allocation.address
        return allocation.data[begin:begin + nbytes]

    def stream_of(self, handle):
        for stream in self._streams:
            if stream.handle == handle:
                return stream
        raise BrokenRuleError(f"no stream has the handle {handle:#x}")

    def _pinned(self, array):
        if not array.flags.c_contiguous:
            raise BrokenRuleError("a copy of an array that is not contiguous")
        start = array.__array_interface__["data"][0]
        for allocation in self._allocations.values():
            first = allocation.data.__array_interface__["data"][0]
            if allocation.kind == "page-locked" and first <= start and start + array.nbytes <= first + allocation.data.nbytes:
                self._still(allocation)
                return allocation
        raise BrokenRuleError("an asynchronous copy of host memory that is not page-locked")

    @staticmethod
    def _still(allocation):
        if not allocation.alive:
            raise BrokenRuleError("page-locked memory used after it was freed")
        return True

    def _stack(self):
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack

    def _need_context(self):
        if not self._stack():
            raise LogicError("invalid device context: none is current in this thread")

    def _called(self, name):
        self._need_context()
        self.calls.append(name)
        if self.sticky:
            raise self.sticky
        if name in self.fail:
            raise self.fail.pop(name)
