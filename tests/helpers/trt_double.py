"""A strict stand-in for the runtime half of ``tensorrt``: a plan is an ONNX file with a profile, run by ONNX Runtime.

It enforces what TensorRT enforces (shapes within the profile, all addresses set, a living stream and context) by None,
False and the logger, as TensorRT does, and raises ``BrokenRuleError`` for what TensorRT leaves undefined: one context queued in
two streams at once, buffers that are gone or too small, objects destroyed while their work is queued. Work happens
when the stream is waited for (see ``cuda_double.py``), on the bytes that are then at the addresses given before.
"""

import enum
import json

import numpy as np
import onnxruntime

from tests.helpers.cuda_double import BrokenRuleError, LaunchError

_MAGIC = b"double plan\n"


def make_plan(onnx_bytes, *, least=1, most=8):
    """Return a plan of an ONNX model; a batch that is not fixed gets the profile ``least`` to ``most``."""
    return _MAGIC + json.dumps({"least": least, "most": most}).encode() + b"\n" + onnx_bytes


def _launch_fails():
    """Stands alone, so that the traceback of its error holds no context."""
    raise LaunchError("an illegal memory access was encountered")


class TrtDouble:
    """Use an instance in the place of the module ``tensorrt``; ``cuda`` is the double the buffers are in.

    Attributes:
        fail: ``deserialize``, ``context``, ``shape``, ``address``, ``enqueue`` or ``launch``: fails from then on.
    """

    __version__ = "10.3.0"

    class TensorIOMode(enum.Enum):
        NONE, INPUT, OUTPUT = range(3)

    class TensorLocation(enum.Enum):
        DEVICE, HOST = range(2)

    class DataType(enum.Enum):
        FLOAT, HALF, UINT8, INT64, BF16 = range(5)

    class ILogger:
        class Severity(enum.Enum):
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, cuda):
        self.cuda, self.fail, self.logger, self.alive = cuda, set(), None, []
        self.output_location = self.TensorLocation.DEVICE
        double = self

        class Runtime:
            made = False

            def __init__(self, logger):
                cuda._need_context()
                self.made = True
                double.alive.append(("runtime", id(self), None))
                if double.logger is None:
                    double.logger = logger  # the first one stays, as in TensorRT

            def deserialize_cuda_engine(self, plan):
                cuda._need_context()
                if "deserialize" in double.fail or not bytes(plan).startswith(_MAGIC):
                    return double.error("Serialization assertion magicTagRead == kMAGIC_TAG failed")
                return _Engine(double, id(self), bytes(plan)[len(_MAGIC):])

            def __del__(self):
                if self.made:
                    double.gone("runtime", self, "engine")

        self.Runtime = Runtime

    def nptype(self, kind):
        if kind is self.DataType.BF16:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return {self.DataType.FLOAT: np.float32, self.DataType.HALF: np.float16, self.DataType.UINT8: np.uint8,
                self.DataType.INT64: np.int64}[kind]

    def error(self, words, answer=None):
        self.logger.log(self.ILogger.Severity.ERROR, words)
        return answer

    def gone(self, what, me, child):
        self.alive = [entry for entry in self.alive if entry[:2] != (what, id(me))]
        if any(entry[0] == child and entry[2] == id(me) for entry in self.alive):
            self.cuda.broken.append(f"the {what} was destroyed before its {child}")


class _Engine:
    def __init__(self, double, runtime, plan):
        head, onnx_bytes = plan.split(b"\n", 1)
        self.double, self.profile = double, json.loads(head)
        double.alive.append(("engine", id(self), runtime))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        self.tensors = {value.name: value for value in [*self.session.get_inputs(), *self.session.get_outputs()]}
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.num_io_tensors = len(self.tensors)
        self.device_memory_size_v2 = 4096

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.double.TensorIOMode.INPUT if name in self.inputs else self.double.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name].shape)

    def get_tensor_dtype(self, name):
        kinds = self.double.DataType
        return {"tensor(float)": kinds.FLOAT, "tensor(float16)": kinds.HALF, "tensor(uint8)": kinds.UINT8,
                "tensor(int64)": kinds.INT64, "tensor(bfloat16)": kinds.BF16}[self.tensors[name].type]

    def get_tensor_location(self, name):
        return self.double.TensorLocation.DEVICE if name in self.inputs else self.double.output_location

    def get_tensor_profile_shape(self, name, profile):
        if profile != 0 or name not in self.inputs:
            raise BrokenRuleError(f"there is no profile {profile} of {name}")
        rest = self.get_tensor_shape(name)[1:]
        return [(self.profile["least"], *rest), (self.profile["most"], *rest), (self.profile["most"], *rest)]

    def create_execution_context(self):
        self.double.cuda._need_context()
        if "context" in self.double.fail:
            return self.double.error("Error Code 2: OutOfMemory")
        return _Context(self)

    def __del__(self):
        self.double.gone("engine", self, "context")


class _Context:
    def __init__(self, engine):
        self._engine, self._double = engine, engine.double
        self._double.alive.append(("context", id(self), id(engine)))
        self._shape = None
        fixed = engine.get_tensor_shape(engine.inputs[0])
        if fixed[0] > 0:
            self._shape = fixed
        self._addresses, self._under_way = {}, []

    def set_input_shape(self, name, shape):
        engine, shape = self._engine, tuple(shape)
        if name not in engine.inputs or "shape" in self._double.fail:
            return self._double.error(f"Parameter check failed, condition: {name} is an input", False)
        wanted = engine.get_tensor_shape(name)
        least, most = (wanted[0],) * 2 if wanted[0] > 0 else (engine.profile["least"], engine.profile["most"])
        if len(shape) != len(wanted) or shape[1:] != wanted[1:] or not least <= shape[0] <= most:
            return self._double.error(f"setInputShape: {shape} does not satisfy any optimization profile", False)
        self._shape = shape
        return True

    def get_tensor_shape(self, name):
        return tuple(self._shape[0] if at == 0 and size < 0 and self._shape else size
                     for at, size in enumerate(self._engine.get_tensor_shape(name)))

    def set_tensor_address(self, name, address):
        if name not in self._engine.tensors or not address or "address" in self._double.fail:
            return self._double.error(f"Parameter check failed: address of {name}", False)
        self._addresses[name] = address
        return True

    def execute_async_v3(self, handle):
        double, engine = self._double, self._engine
        double.cuda._need_context()
        stream = double.cuda.stream_of(handle)
        if "enqueue" in double.fail:
            return double.error("Error Code 1: Cuda Runtime (invalid argument)", False)
        if missing := [name for name in engine.tensors if name not in self._addresses]:
            return double.error(f"Error Code 3: address of {missing[0]} is not set", False)
        if self._shape is None:
            return double.error("Error Code 3: not all input shapes are specified", False)
        self._under_way = [(other, number) for other, number in self._under_way if other.done < number]
        if any(other is not stream for other, _ in self._under_way):
            raise BrokenRuleError("one execution context queued in two streams at once")
        shapes = {name: tuple(self._shape if name in engine.inputs else self.get_tensor_shape(name)) for name in engine.tensors}
        addresses = dict(self._addresses)
        sizes = {name: int(np.prod(shapes[name])) * np.dtype(double.nptype(engine.get_tensor_dtype(name))).itemsize
                 for name in engine.tensors}
        users = [double.cuda.buffer(addresses[name], sizes[name]) for name in engine.tensors]

        def work():
            feeds = {name: self._view(addresses[name], sizes[name], name, shapes[name]) for name in engine.inputs}
            for name, given in zip([n for n in engine.tensors if n not in engine.inputs],
                                   engine.session.run(None, feeds), strict=True):
                self._view(addresses[name], sizes[name], name, shapes[name])[:] = given

        stream.put(_launch_fails if "launch" in double.fail else work, users)
        self._under_way.append((stream, stream.queued))
        return True

    def _view(self, address, nbytes, name, shape):
        kind = self._double.nptype(self._engine.get_tensor_dtype(name))
        return self._double.cuda.bytes_at(address, nbytes).view(kind).reshape(shape)

    def __del__(self):
        self._double.gone("context", self, None)
        if any(stream.done < number for stream, number in self._under_way):
            self._double.cuda.broken.append("an execution context was destroyed with queued work")
