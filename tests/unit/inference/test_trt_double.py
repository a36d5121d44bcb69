"""The double of TensorRT and CUDA is worth nothing unless it catches each broken rule."""

import gc
import threading

import numpy as np
import pytest

from tests.helpers.cuda_double import BrokenRuleError, CudaDouble, LogicError
from tests.helpers.gpu_models import SIDE, on_cpu, pictures, scorer
from tests.helpers.trt_double import TrtDouble, make_plan


class Rig:
    """Everything done by hand and by the rules; each test breaks one."""

    def __init__(self, plan=None, **settings):
        self.cuda = CudaDouble(**settings)
        self.cuda.init()
        self.context = self.cuda.Device(0).retain_primary_context()
        self.context.push()
        self.trt = TrtDouble(self.cuda)
        self.said = []
        rig = self

        class Log(self.trt.ILogger):
            def log(self, severity, msg):
                rig.said.append(msg)

        self.runtime = self.trt.Runtime(Log())
        self.engine = self.runtime.deserialize_cuda_engine(plan or make_plan(scorer()))
        self.run = self.engine.create_execution_context()
        self.stream = self.cuda.Stream()
        self.host = self.cuda.pagelocked_empty((2, SIDE, SIDE, 3), np.uint8)
        self.host[:] = pictures(2)
        self.back = self.cuda.pagelocked_empty((2, 8), np.float32)
        self.frames, self.rows, self.means = (self.cuda.mem_alloc(size) for size in (2 * SIDE * SIDE * 3, 2 * 8 * 4, 2 * 3 * 4))

    def addresses(self):
        for name, memory in (("frames", self.frames), ("rows", self.rows), ("means", self.means)):
            assert self.run.set_tensor_address(name, int(memory))

    def ready(self):
        self.addresses()
        assert self.run.set_input_shape("frames", (2, SIDE, SIDE, 3))

    def whole(self):
        self.cuda.memcpy_htod_async(int(self.frames), self.host, self.stream)
        self.ready()
        assert self.run.execute_async_v3(self.stream.handle)
        self.cuda.memcpy_dtoh_async(self.back, int(self.rows), self.stream)


@pytest.fixture
def rig():
    return Rig()


def test_by_the_rules_it_computes(rig):
    rig.whole()
    rig.stream.synchronize()
    np.testing.assert_allclose(rig.back, on_cpu(scorer(), pictures(2))[0], rtol=1e-5)
    assert rig.cuda.broken == []


def test_outputs_read_too_early_are_garbage(rig):
    rig.whole()
    assert (np.asarray(rig.back).view(np.uint8) == 0xAB).all()


def test_a_frame_overwritten_before_its_copy_shows(rig):
    rig.whole()
    rig.host[:] = 0
    rig.stream.synchronize()
    assert np.abs(rig.back).max() == 0


def test_a_missing_address_is_refused(rig):
    rig.run.set_input_shape("frames", (2, SIDE, SIDE, 3))
    rig.run.set_tensor_address("frames", int(rig.frames))
    assert rig.run.execute_async_v3(rig.stream.handle) is False
    assert "address of rows is not set" in rig.said[-1]


def test_a_missing_shape_is_refused(rig):
    rig.addresses()
    assert rig.run.execute_async_v3(rig.stream.handle) is False
    assert "not all input shapes" in rig.said[-1]


@pytest.mark.parametrize("shape", [(0, SIDE, SIDE, 3), (9, SIDE, SIDE, 3), (1, SIDE, SIDE + 1, 3), (1, SIDE, SIDE)])
def test_a_shape_outside_the_profile_is_refused(shape, rig):
    assert rig.run.set_input_shape("frames", shape) is False
    assert "does not satisfy" in rig.said[-1]


def test_a_static_plan_takes_its_own_batch_only():
    rig = Rig(make_plan(scorer(2)))
    assert rig.run.set_input_shape("frames", (1, SIDE, SIDE, 3)) is False
    assert rig.run.set_input_shape("frames", (2, SIDE, SIDE, 3)) is True


def test_an_unknown_tensor_or_a_null_address_is_refused(rig):
    assert rig.run.set_tensor_address("frame", int(rig.frames)) is False
    assert rig.run.set_tensor_address("frames", 0) is False
    assert rig.run.set_input_shape("rows", (2, 8)) is False


def test_no_context_in_this_thread(rig):
    rig.ready()
    caught = []

    def work():
        for call in (lambda: rig.run.execute_async_v3(rig.stream.handle), lambda: rig.cuda.mem_alloc(1),
                     rig.stream.synchronize, lambda: rig.trt.Runtime(None)):
            try:
                call()
            except LogicError as error:
                caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 4
    assert [entry[0] for entry in rig.trt.alive].count("runtime") == 1


def test_a_context_too_many_popped(rig):
    rig.cuda.Context.pop()
    with pytest.raises(LogicError, match="cannot pop"):
        rig.cuda.Context.pop()


def test_a_stream_that_is_gone(rig):
    rig.ready()
    handle = rig.stream.handle
    rig.stream = None
    with pytest.raises(BrokenRuleError, match="no stream"):
        rig.run.execute_async_v3(handle)


def test_a_stream_destroyed_with_work_in_it_is_noted(rig):
    rig.whole()
    rig.run = None
    rig.stream = None
    gc.collect()
    assert any("stream was destroyed with work" in line for line in rig.cuda.broken)
    assert any("context was destroyed with queued work" in line for line in rig.cuda.broken)


def test_a_buffer_that_was_freed(rig):
    rig.ready()
    rig.rows.free()
    with pytest.raises(BrokenRuleError, match="after it was freed"):
        rig.run.execute_async_v3(rig.stream.handle)


def test_a_buffer_freed_while_work_uses_it(rig):
    rig.whole()
    for memory in (rig.rows, rig.frames, rig.host.base):
        with pytest.raises(BrokenRuleError, match="while queued work uses it"):
            memory.free()
    rig.stream.synchronize()
    rig.rows.free()


def test_a_buffer_freed_twice(rig):
    rig.rows.free()
    with pytest.raises(LogicError, match="twice"):
        rig.rows.free()


def test_a_buffer_too_small(rig):
    rig.ready()
    rig.run.set_tensor_address("rows", int(rig.means))
    with pytest.raises(BrokenRuleError, match="64 bytes in a buffer of 24"):
        rig.run.execute_async_v3(rig.stream.handle)
    with pytest.raises(BrokenRuleError, match="in a buffer of"):
        rig.cuda.memcpy_htod_async(int(rig.means), rig.host, rig.stream)


def test_an_address_of_nobody(rig):
    with pytest.raises(BrokenRuleError, match="belongs to nobody"):
        rig.cuda.memcpy_htod_async(3, rig.host, rig.stream)


def test_a_copy_of_pageable_or_scattered_memory(rig):
    with pytest.raises(BrokenRuleError, match="not page-locked"):
        rig.cuda.memcpy_htod_async(int(rig.frames), pictures(2), rig.stream)
    with pytest.raises(BrokenRuleError, match="not contiguous"):
        rig.cuda.memcpy_htod_async(int(rig.frames), rig.host[:, ::2], rig.stream)


def test_page_locked_memory_that_was_freed(rig):
    rig.host.base.free()
    with pytest.raises(BrokenRuleError, match="after it was freed"):
        rig.cuda.memcpy_htod_async(int(rig.frames), rig.host, rig.stream)


def test_one_context_in_two_streams(rig):
    rig.ready()
    other = rig.cuda.Stream()
    assert rig.run.execute_async_v3(rig.stream.handle)
    with pytest.raises(BrokenRuleError, match="two streams"):
        rig.run.execute_async_v3(other.handle)
    rig.stream.synchronize()
    assert rig.run.execute_async_v3(other.handle)
    other.synchronize()


def test_an_event_that_was_never_recorded(rig):
    event = rig.cuda.Event()
    with pytest.raises(BrokenRuleError, match="never recorded"):
        event.synchronize()
    with pytest.raises(BrokenRuleError, match="never recorded"):
        rig.stream.wait_for_event(event)


def test_a_pointer_for_the_gpu_needs_mapped_memory(rig):
    with pytest.raises(LogicError, match="mapped"):
        rig.host.base.get_device_pointer()


def test_an_engine_or_runtime_destroyed_first_is_noted(rig):
    rig.runtime = None
    gc.collect()
    assert rig.cuda.broken == ["the runtime was destroyed before its engine"]


def test_garbage_is_no_plan(rig):
    assert rig.runtime.deserialize_cuda_engine(b"garbage") is None
    assert "kMAGIC_TAG" in rig.said[-1]


def test_a_failed_kernel_sticks_to_the_context(rig):
    rig.trt.fail.add("launch")
    rig.whole()
    for call in (rig.stream.synchronize, rig.stream.synchronize, lambda: rig.cuda.mem_alloc(1)):
        with pytest.raises(rig.cuda.LaunchError, match="illegal memory"):
            call()
