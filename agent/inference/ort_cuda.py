"""A prepared model on ONNX Runtime's CUDA provider, with frames and outputs in buffers of our own.

ONNX Runtime copies nothing: inputs and outputs are bound to device addresses, and copies of neighbouring batches run
beside the computing (:mod:`agent.inference.staging`). Launching each kernel alone takes longer than a small network
computes, so the whole network is captured once a batch size and set of buffers as a CUDA graph. Promises: never another
provider; a network that cannot be captured runs without a graph and says so in the log and in ``cuda_graph``.

ONNX Runtime keeps the graphs of each thread apart and waits for a replay in the calling thread. So one thread of the
engine's own makes all runs; ``start`` only copies the frames and hands the batch over to it. Batch sizes between powers
of two run in the next larger captured one: nothing is ever captured once cameras are being served.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import EngineError
from agent.inference.device import CudaDevice
from agent.inference.engine import EngineDescription, Outputs, Pending
from agent.inference.onnxruntime import check_batch, check_provider, import_runtime, read_spec, runtime_errors
from agent.inference.staging import DEPTH, Slot, Staging
from agent.records import Pixels

PROVIDER = "CUDAExecutionProvider"
_LOG = logging.getLogger(__name__)
_REBUILD = "run `vedette engines build NAME` again; if it stays, look at `vedette doctor`"
_PATIENCE_S = 10.0


class OrtCudaEngine:
    """A loaded model; see :class:`agent.inference.engine.Engine`. After a failed run every further one fails.

    Args:
        path: The prepared ONNX file.
        name: The recipe's name.
        identity: Identity of the file, 16 hex digits.
        model_sha256: SHA-256 of the model as fetched.
        device: The GPU; stays the caller's and is not closed here.
        max_batch: Most frames in one call; a model with a fixed batch lowers it.
        precision: What the file holds.
        graphs: Capture CUDA graphs; False launches kernel by kernel.
        options: More options of the provider, over ours.

    Raises:
        EngineError: the package, the provider or memory is missing, or the file cannot be loaded.

    Attributes:
        cuda_graph: Whether runs are replays of a captured graph.
        device_bytes: Device memory taken while loading and warming, as the whole device saw it.
    """

    def __init__(self, path: Path, *, name: str, identity: str, model_sha256: str, device: CudaDevice,
                 max_batch: int = 1, precision: str = "fp32", graphs: bool = True,
                 options: Mapping[str, str] | None = None) -> None:
        self._what = f"engine {name} ({path})"
        self._device = device
        self._runtime = import_runtime()
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and a child answers on standard output
            self._runtime.preload_dlls()
        self._runtime.set_default_logger_severity(3)  # a warning a session about plugins that nobody asked for
        self._errors = runtime_errors()
        self._options = dict(options or {})
        self._single = max_batch == 1
        self._failed = ""
        self._closed = False
        self._lock = threading.Lock()
        self._bindings: dict[tuple[int, int], tuple[Any, Any]] = {}
        with device.current():
            self._free_before = device.memory()[0]
            self._stream = device.stream()
        self._runs = ThreadPoolExecutor(1, thread_name_prefix="cuda-runs")
        try:
            self._session, self.cuda_graph = self._load(path, graphs=graphs)
            self._input, self.spec = read_spec(self._session, max_batch, self._what, depth=DEPTH)
            self._check_outputs()
            with device.current():
                self._staging = Staging(
                    device, height=self.spec.height, width=self.spec.width, max_batch=self.spec.max_batch,
                    outputs=self.spec.outputs, stream=self._stream)
        except EngineError:
            self._runs.shutdown()
            self._session = None
            with device.current():
                device.free(self._stream)
            raise
        self._sizes = _sizes(self.spec.max_batch)
        self.device_bytes = 0
        self._description = EngineDescription(
            name=name, identity=identity, runtime=f"onnxruntime {self._runtime.__version__}", provider=PROVIDER,
            precision=precision, threads=0, model_sha256=model_sha256)

    def warm_up(self) -> None:
        """Run grey frames in every batch size and set of buffers, so that all graphs are captured before service.

        Raises:
            EngineError: a run fails.
        """
        spec = self.spec
        for size in self._sizes:
            grey = np.full((size, spec.height, spec.width, 3), 127, np.uint8)
            for _ in range(DEPTH):
                self.start(grey)()
        with self._device.current():
            self.device_bytes = max(self._free_before - self._device.memory()[0], 0)

    def start(self, batch: Pixels) -> Pending:
        """Begin a run of ``batch`` (n, height, width, 3) uint8 BGR, C-contiguous, 1 <= n <= ``spec.max_batch``.

        Raises:
            EngineError: the batch is not as above, or this or an earlier run failed. Waiting may raise it, too.
        """
        check_batch(batch, self.spec, self._what)
        slot = self._staging.take()
        if slot is None:
            raise EngineError(f"{self._what}: is closed", "this is a defect: report it with this line")
        try:
            self._check_earlier()
            with self._device.current():
                self._staging.fill(slot, batch)
            run = self._runs.submit(self._run, slot, len(batch))
        except EngineError:
            self._staging.give_back(slot)
            raise
        return lambda: self._wait(slot, len(batch), run)

    def describe(self) -> EngineDescription:
        """Say what really runs."""
        return self._description

    def close(self) -> None:
        """Wait for calls under way and free everything; may be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if not self._staging.end(_PATIENCE_S):
            _LOG.warning("%s: closed with a call whose outputs nobody fetched", self._what)
        # Captured graphs belong to the thread that captured them: it lets go of them itself.
        self._runs.submit(self._let_go).result()
        self._runs.shutdown()
        with self._device.current():
            self._staging.release()
            self._device.free(self._stream)

    def _let_go(self) -> None:
        with self._device.current():
            self._stream.synchronise()
            self._bindings.clear()
            self._session = None

    def _wait(self, slot: Slot, count: int, run: Future[None]) -> Outputs:
        try:
            run.result()
        except EngineError:
            self._staging.give_back(slot)
            raise
        try:
            with self._device.current():
                return self._staging.collect(slot, count)
        except EngineError as error:
            raise self._fail(error.what) from error

    def _run(self, slot: Slot, count: int) -> None:
        """Queue the network and the way back; in the engine's own thread."""
        self._check_earlier()
        size = next(size for size in self._sizes if size >= count)
        try:
            with self._device.current():
                binding, options = self._bindings.get((size, slot.index)) or self._bind(size, slot)
                self._staging.before_computing(slot)
                if not self.cuda_graph:
                    self._stream.synchronise()  # the frames are there; what follows runs in a stream of its own
                self._session.run_with_iobinding(binding, options)
                self._staging.after_computing(slot, count)
        except self._errors as error:
            raise self._fail(f"the run failed: {error}") from error
        except EngineError as error:
            raise self._fail(error.what) from error

    def _check_earlier(self) -> None:
        if self._failed:
            raise EngineError(f"{self._what}: a run failed earlier: {self._failed}", _REBUILD)

    def _fail(self, why: str) -> EngineError:
        self._failed = self._failed or why
        return EngineError(f"{self._what}: {why}", _REBUILD)

    def _bind(self, size: int, slot: Slot) -> tuple[Any, Any]:
        """Bind the network of batch ``size`` to the buffers of ``slot``."""
        index, spec = self._device.facts().index, self.spec
        binding = self._session.io_binding()
        binding.bind_input(self._input, "cuda", index, np.uint8, [size, spec.height, spec.width, 3], slot.frames)
        for output, address in zip(spec.outputs, slot.outputs, strict=True):
            binding.bind_output(output.name, "cuda", index, np.dtype(output.dtype).type, [size, *output.shape[1:]],
                                address)
        options = self._runtime.RunOptions()
        options.log_severity_level = 4  # what goes wrong arrives as an exception
        if self.cuda_graph:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            options.add_run_config_entry("gpu_graph_id", str(size * DEPTH + slot.index + 1))
        self._bindings[size, slot.index] = binding, options
        return binding, options

    def _load(self, path: Path, *, graphs: bool) -> tuple[Any, bool]:
        check_provider(PROVIDER)
        if graphs:
            try:
                return self._open(path, graphs=True), True
            except EngineError as error:
                _LOG.warning("%s: no CUDA graph, runs will be slower: %s", self._what, error.what)
        return self._open(path, graphs=False), False

    def _open(self, path: Path, *, graphs: bool) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        # Without a graph each run is waited for, in a stream of its own: given ours and not waited for, ONNX Runtime
        # 1.31 frees host memory in a callback of that stream, where CUDA allows no calls, and ends the process.
        provider = {
            "device_id": str(self._device.facts().index),
            # Tensor cores want channels last; the arena takes what it needs and no more. A bias inside the convolution
            # was 6 to 13 % faster (YOLOv8n on an H200), but with several batch sizes captured a launch failed there.
            "prefer_nhwc": "1", "fuse_conv_bias": "1" if graphs and self._single else "0",
            "arena_extend_strategy": "kSameAsRequested",
            **({"user_compute_stream": str(self._stream.handle), "enable_cuda_graph": "1"} if graphs else {}),
            **self._options}
        try:
            # Made in the thread that will run it: what ONNX Runtime keeps a thread belongs there.
            session = self._runs.submit(self._runtime.InferenceSession, str(path), options,
                                        providers=[(PROVIDER, provider)]).result()
        except self._errors as error:
            raise EngineError(f"{self._what}: cannot be loaded: {error}", _REBUILD) from error
        if (in_use := session.get_providers()[0]) != PROVIDER:
            raise EngineError(f"{self._what}: asked for {PROVIDER}, onnxruntime took {in_use}",
                              "mend the CUDA and cuDNN libraries, or leave [engine] provider out for the CPU")
        return session

    def _check_outputs(self) -> None:
        for output in self.spec.outputs:
            if not output.shape or any(size < 1 for size in output.shape[1:]):
                raise EngineError(f"{self._what}: output {output.name!r} has the shape {output.shape}: only the batch "
                                  "may be unknown", "export the model with fixed output sizes")


def _sizes(most: int) -> Sequence[int]:
    """Batch sizes to capture: the powers of two below ``most``, and ``most``."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
