"""A made-up `tensorrt` module: does nothing, notes what it is asked, and answers as a test wants it to.

It is there for answers the real builder cannot be brought to give (None from a factory, another GPU, a cache of another
version). What the real one accepts is seen in tests/integration/test_tensorrt_rtx.py, its names in tests/contracts.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace


class Memory(bytes):
    @property
    def nbytes(self):
        return len(self)


@dataclass
class Script:
    """What happens; every attribute may be set by a test."""

    none: str = ""  # this factory gives None
    builder_says: str = ""  # the builder does not start, and this is in the log
    flaws: tuple = ()  # of the parser: (node index, name, operator, text)
    outputs: int = 1
    shape: tuple = (-1, 64, 64, 3)
    fits: int = 10**6  # largest batch that the workspace allows
    fails: str = ""  # the build gives None, and this is in the log
    warns: tuple = ()  # in the log of a build that works
    steps: int = 10
    profile: int = 0  # what add_optimization_profile answers
    cache: str = ""  # "none": none can be made; "refused": set_timing_cache says no; "other": combine says no
    during: object = None  # called while the plan is built
    calls: list = field(default_factory=list)


def module(script, *, lacks=()):
    """The module; `lacks` are names it does not have."""
    said = script.calls

    class ILogger:
        def __init__(self):
            pass

    class IProgressMonitor:
        def __init__(self):
            pass

    class Config:
        progress_monitor = None

        def __setattr__(self, name, value):
            said.append(("config", name, value))
            object.__setattr__(self, name, value)

        def set_memory_pool_limit(self, pool, size):
            said.append(("limit", pool, size))

        def add_optimization_profile(self, profile):
            object.__setattr__(self, "profile", profile)
            return script.profile

        def create_timing_cache(self, held):
            if held.startswith(b"bad"):
                logger().log(2, "Failed to deserialize timing cache. Returning an empty timing cache.")
                held = b""
            return None if script.cache == "none" else Cache(held)

        def set_timing_cache(self, cache, ignore_mismatch):
            said.append(("cache", cache.held, ignore_mismatch))
            object.__setattr__(self, "cache", cache)
            return script.cache != "refused"

        def get_timing_cache(self):
            return None if script.cache in {"none", "refused"} else self.cache

    class Cache:
        def __init__(self, held):
            self.held = held

        def combine(self, other, ignore_mismatch):
            said.append(("combine", other.held, ignore_mismatch))
            if script.cache == "other":
                return False
            self.held += b"+" + other.held
            return True

        def serialize(self):
            return Memory(self.held + b"!")

    class Profile:
        def set_shape(self, name, least, best, most):
            self.shapes = (name, least, best, most)
            said.append(("profile", *self.shapes))

    class Network:
        num_inputs = 1
        num_layers = 0

        def __init__(self):
            self.num_outputs = script.outputs
            self.input = SimpleNamespace(name="frames", shape=script.shape)

        def get_input(self, index):
            return self.input

    class Parser:
        def __init__(self, network, logger):
            self.num_errors = len(script.flaws)

        def __new__(cls, network, logger):
            return made("OnnxParser", object.__new__(cls))

        def parse_from_file(self, path):
            return not script.flaws

        def get_error(self, index):
            node, name, operator, text = script.flaws[index]
            return SimpleNamespace(node=lambda: node, node_name=lambda: name, node_operator=lambda: operator, desc=lambda: text)

    class Builder:
        def __init__(self, log):
            said.append(("builder", log))
            if script.builder_says:
                log.log(1, script.builder_says)
                raise TypeError("factory function returned nullptr")

        def create_network(self, flags):
            said.append(("flags", flags))
            return made("create_network", Network())

        def create_builder_config(self):
            return made("create_builder_config", Config())

        def create_optimization_profile(self):
            return made("create_optimization_profile", Profile())

        def build_serialized_network(self, network, config):
            return _built(script, config, network, logger())

    def made(name, what):
        return None if script.none == name else what

    def logger():
        return next(call[1] for call in said if call[0] == "builder")

    names = {
        "__version__": "10.3.0", "ILogger": ILogger, "IProgressMonitor": IProgressMonitor, "Builder": Builder,
        "OnnxParser": Parser, "MemoryPoolType": SimpleNamespace(WORKSPACE="workspace"),
        "ProfilingVerbosity": SimpleNamespace(DETAILED="detailed"), "LayerType": SimpleNamespace(CONVOLUTION="conv"),
        "NetworkDefinitionCreationFlag": SimpleNamespace(
            **({} if "STRONGLY_TYPED" in lacks else {"STRONGLY_TYPED": 5}))}
    return SimpleNamespace(**{name: what for name, what in names.items() if name not in lacks}, __hash__=lambda: 0)


def _built(script, config, network, logger):
    monitor = config.progress_monitor
    if script.during:
        script.during()
    if monitor:
        monitor.phase_start("Building", None, script.steps)
        for step in range(script.steps):
            if not monitor.step_complete("Building", step):
                logger.log(1, "Error Code 7: BuildCanceled (Build canceled by user.)")
                return None
        monitor.phase_finish("Building")
    for text in script.warns:
        logger.log(2, text)
    if script.fails:
        logger.log(1, script.fails)
        return None
    most = network.input.shape[0] if network.input.shape[0] > 0 else config.profile.shapes[3][0]
    if most > script.fits:
        requested = f"Error Code 2: OutOfMemory (Requested size was {most} bytes.)"
        logger.log(1, requested)
        return None
    if script.none == "build_serialized_network":
        return None
    return Memory(b"plan of " + str(most).encode())
