"""Checks on a real GPU: ``python -m tests.device.gpu_check``. Needs no pytest, one line a check, exit 1 when one fails.

Needs pycuda and ONNX Runtime with its CUDA provider. CenterFace is checked where ``VEDETTE_GPU_MODELS`` names a folder
with a prepared ``centerface.onnx``. ``tests/device/test_gpu.py`` runs the same under pytest.
"""

import gc
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from functools import cache
from pathlib import Path

import numpy as np

from agent.errors import EngineError
from agent.inference.device import CudaDevice, facts
from agent.inference.ort_cuda import OrtCudaEngine
from bench import gpu_libraries
from bench.network import on_cpu, picture, to_fp16, to_onnx, yolov8n

SIZE = 320
_MB = 1 << 20


@cache
def device():
    return CudaDevice()


@cache
def models():
    """A folder with the network in FP32 and FP16, the expected outputs of 16 pictures beside it."""
    import onnx

    folder = Path(tempfile.mkdtemp())
    model = to_onnx(yolov8n(SIZE))
    onnx.save(model, str(folder / "fp32.onnx"))
    onnx.save(to_fp16(to_onnx(yolov8n(SIZE))), str(folder / "fp16.onnx"))
    frames = picture(SIZE, 16, seed=5)
    return folder, frames, on_cpu(model, frames)


def engine(name="fp16", max_batch=8, path=None, options=None, **settings):
    # Fused biases take cuDNN seconds to plan, and many engines are loaded here; the bench measures them.
    settings["options"] = {"fuse_conv_bias": "0", **(options or {})}
    loaded = OrtCudaEngine(path or models()[0] / f"{name}.onnx", name="check", identity="0" * 16, model_sha256="1" * 64,
                           device=device(), max_batch=max_batch, precision=name, **settings)
    loaded.warm_up()
    return loaded


def close_to(found, expected, score=0.15, pixels=8.0):
    """Compare detector outputs: 99.9 of 100 scores at most ``score`` apart, likely boxes ``pixels`` on average.

    FP16 on the CPU is 0.043 and 1.9 px away here, on an H200 0.099: random weights make more of rounding than trained
    ones. Outputs of another picture are 0.7 away.
    """
    apart = np.abs(found[:, 4:8] - expected[:, 4:8])
    most = float(np.quantile(apart, 0.999))
    likely = expected[:, 4:].max(1) > 0.2
    boxes = np.abs(found[:, :4] - expected[:, :4]).max(1)[likely]
    assert np.isfinite(found).all()
    assert most <= score, f"scores differ by {most}"
    assert apart.mean() <= score / 20, f"scores differ by {apart.mean()} on average"
    assert not boxes.size or boxes.mean() <= pixels, f"boxes differ by {boxes.mean()} px on average"
    return f"scores differ by {most:.4f} (99.9 %), boxes by {boxes.mean() if boxes.size else 0:.3f} px on average"


def used():
    with device().current():
        free, total = device().memory()
    return total - free


def check_facts():
    without = facts(0)
    assert without == device().facts()
    assert without.sm_count > 0
    assert without.memory_bytes > 1 << 30
    return str(without)


def check_copies_come_back_and_pinned_is_fast():
    gpu = device()
    lines = []
    with gpu.current():
        nbytes = 256 * _MB
        stream = gpu.stream()
        memory, host, back = gpu.malloc(nbytes), gpu.host(nbytes), gpu.host(nbytes)
        host.array[:] = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
        begin, end = gpu.event(timing=True), gpu.event(timing=True)
        for what, copy in (("in", lambda: gpu.copy_in(memory.address, host.array, stream)),
                           ("out", lambda: gpu.copy_out(back.array, memory.address, stream))):
            copy()
            begin.record(stream)
            for _ in range(4):
                copy()
            end.record(stream)
            end.wait()
            lines.append(f"pinned {what} {4 * nbytes / end.ms_since(begin) / 1e6:.1f} GB/s")
        assert (back.array == host.array).all()
        gpu.free(stream, memory, host, back, begin, end)
    return ", ".join(lines)


def check_mapped_memory_is_the_same_bytes():
    gpu = device()
    with gpu.current():
        nbytes = 64 * _MB
        stream, memory, mapped = gpu.stream(), gpu.malloc(nbytes), gpu.host(nbytes, mapped=True)
        other = gpu.host(nbytes, mapped=True)
        mapped.array[:] = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
        begin, end = gpu.event(timing=True), gpu.event(timing=True)
        lines = []
        # Device-to-device copies whose one side is the mapped address: the GPU itself reads and writes host memory.
        copy = gpu._cuda.memcpy_dtod_async
        for what, target, source in (("read", memory.address, mapped.address), ("written", other.address, memory.address)):
            copy(target, source, nbytes, stream.native)
            begin.record(stream)
            for _ in range(4):
                copy(target, source, nbytes, stream.native)
            end.record(stream)
            end.wait()
            lines.append(f"mapped {what} {4 * nbytes / end.ms_since(begin) / 1e6:.1f} GB/s")
        assert (other.array == mapped.array).all()
        gpu.free(stream, memory, mapped, other, begin, end)
    return ", ".join(lines)


def check_a_stream_waits_for_an_event_of_another():
    gpu = device()
    with gpu.current():
        nbytes = 512 * _MB
        one, two = gpu.stream(), gpu.stream()
        memory, host, back = gpu.malloc(nbytes), gpu.host(nbytes), gpu.host(nbytes)
        host.array[:] = 7
        done = gpu.event()
        gpu.copy_in(memory.address, host.array, one)
        done.record(one)
        two.wait_for(done)
        gpu.copy_out(back.array, memory.address, two)
        two.synchronise()
        assert (back.array == 7).all()
        gpu.free(one, two, memory, host, back, done)
    return "512 MiB in by one stream, out by another"


def check_another_thread_may_push_the_context():
    failed = []

    def work():
        try:
            with device().current():
                stream, memory, host = device().stream(), device().malloc(_MB), device().host(_MB)
                device().copy_in(memory.address, host.array, stream)
                stream.synchronise()
                device().free(stream, memory, host)
        except BaseException as error:  # noqa: BLE001 -- told to the main thread
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    return "8 threads"


def check_without_a_context_it_is_an_error_of_ours():
    try:
        device().malloc(16)
    except EngineError as error:
        return error.what
    raise AssertionError("malloc without a current context went through")


def check_too_much_memory_is_an_error_of_ours():
    with device().current():
        try:
            device().malloc(1 << 42)
        except EngineError as error:
            return error.what
    raise AssertionError("4 TiB were allocated")


def check_fp16_and_fp32_give_what_the_cpu_gives():
    _, frames, expected = models()
    lines = []
    for name, score, options in (("fp32", 0.005, {"use_tf32": "0"}), ("fp16", 0.15, {})):
        loaded = engine(name, options=options)
        assert loaded.cuda_graph, "no CUDA graph"
        for count in (1, 2, 3, 5, 8):
            given = loaded.start(np.ascontiguousarray(frames[:count]))()[0]
            assert given.shape == expected[:count].shape
            line = close_to(given, expected[:count], score)
        lines.append(f"{name}: {line}")
        loaded.close()
    return "; ".join(lines)


def check_without_a_graph_the_same():
    _, frames, expected = models()
    loaded = engine(graphs=False)
    assert not loaded.cuda_graph
    line = close_to(loaded.start(frames[:8])()[0], expected[:8])
    pending = loaded.start(frames[:3])
    for index in range(300):  # two always under way
        after, pending = pending, loaded.start(frames[index % 8:index % 8 + 3])
        after()
    close_to(pending()[0], expected[299 % 8:299 % 8 + 3])
    loaded.close()
    return line


def check_outputs_outlive_the_engine():
    _, frames, expected = models()
    loaded = engine()
    kept = [loaded.start(np.ascontiguousarray(frames[at:at + 2]))()[0] for at in range(6)]
    loaded.close()
    for at, given in enumerate(kept):
        close_to(given, expected[at:at + 2])
    copies = [given.copy() for given in kept]
    other = engine()
    for _ in range(20):
        other.start(frames[8:16])()
    other.close()
    for given, copy in zip(kept, copies, strict=True):
        assert (given == copy).all()
    return f"{len(kept)} outputs held while the engine closed and another ran"


def check_centerface():
    path = Path(os.environ.get("VEDETTE_GPU_MODELS", "."), "centerface.onnx")
    if not path.exists():
        return f"NOT RUN: {path} is not there"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    loaded = engine("fp32", path=path, options={"use_tf32": "0"})
    worst = []
    for count in (1, 8):
        frames = picture(loaded.spec.height, count, seed=3)
        for one, other in zip(loaded.start(frames)(), session.run(None, {"frames": frames}), strict=True):
            assert one.shape == other.shape
            worst.append(float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-6)))
    loaded.close()
    assert max(worst) < 2e-3, worst
    return f"graph {loaded.cuda_graph}, largest difference {max(worst):.2g} of an output's largest value"


def check_start_in_one_thread_wait_in_another_never_mixed():
    _, frames, expected = models()
    loaded = engine()
    under_way, failed = [], []
    ready = threading.Semaphore(0)
    rng = np.random.default_rng(2)

    def wait():
        for _ in range(400):
            ready.acquire()
            chosen, pending = under_way.pop(0)
            try:
                close_to(pending()[0], expected[chosen])
            except BaseException as error:  # noqa: BLE001 -- told to the main thread; the starter waits for us
                failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    scratch = np.empty((8, SIZE, SIZE, 3), np.uint8)
    for _ in range(400):
        chosen = rng.integers(0, 16, rng.integers(1, 9))
        batch = scratch[:len(chosen)]
        batch[:] = frames[chosen]
        pending = loaded.start(batch)
        batch[:] = 0  # it is ours again
        under_way.append((chosen, pending))
        ready.release()
    thread.join()
    loaded.close()
    assert not failed, f"{len(failed)} calls: {failed[0]}"
    return "400 calls of 1 to 8 pictures, the batch overwritten at once"


def check_start_returns_before_the_gpu_is_done():
    _, frames, _ = models()
    loaded = engine()
    begun, whole = [], []
    for _ in range(100):
        before = time.perf_counter()
        pending = loaded.start(frames[:8])
        begun.append(time.perf_counter() - before)
        pending()
        whole.append(time.perf_counter() - before)
    loaded.close()
    return f"start {np.median(begun) * 1e3:.3f} ms, start and wait {np.median(whole) * 1e3:.3f} ms"


def check_a_thousand_calls_take_no_more_memory():
    _, frames, _ = models()
    loaded = engine()
    for count in (1, 8, 3):
        loaded.start(frames[:count])()
    before, rss = used(), _resident()
    for index in range(1000):
        loaded.start(frames[:1 + index % 8])()
    after, rss_after = used(), _resident()
    told = loaded.device_bytes
    loaded.close()
    assert after - before <= _MB, f"{(after - before) / _MB} MiB more on the device"
    assert rss_after - rss < 40 * _MB, f"{(rss_after - rss) / _MB} MiB more in the process"
    return f"device {(after - before) / _MB:+.1f} MiB, process {(rss_after - rss) / _MB:+.1f} MiB; the engine says {told / _MB:.0f} MiB"


def check_close_gives_the_memory_back_and_may_be_called_again():
    _, frames, expected = models()
    engine().close()
    gc.collect()
    before = used()
    for _ in range(5):
        loaded = engine()
        loaded.close()
        loaded.close()
        del loaded
        gc.collect()
    left = used() - before
    loaded = engine()
    line = close_to(loaded.start(frames[:1])()[0], expected[:1])
    loaded.close()
    assert left <= 8 * _MB, f"{left / _MB} MiB left after five engines"
    return f"{left / _MB:+.1f} MiB after five engines; a sixth: {line}"


def check_close_waits_for_a_call_under_way():
    _, frames, expected = models()
    loaded = engine()
    pending = loaded.start(frames[:8])
    thread = threading.Thread(target=loaded.close)
    thread.start()
    time.sleep(0.1)
    given = pending()[0]
    thread.join(20)
    assert not thread.is_alive()
    try:
        loaded.start(frames[:1])
    except EngineError as error:
        return close_to(given, expected[:8]) + f"; afterwards: {error.what[-20:]}"
    raise AssertionError("a closed engine took a batch")


def check_a_network_that_cannot_be_captured_says_so_and_runs():
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Cast", ["frames"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2], keepdims=0),
             helper.make_node("NonZero", ["m"], ["z"]), helper.make_node("Shape", ["z"], ["s"]),
             helper.make_node("Cast", ["s"], ["sf"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMax", ["sf"], ["top"], keepdims=0),
             helper.make_node("Add", ["m", "top"], ["out"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 3])])
    path = models()[0] / "loop.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("agent.inference.ort_cuda")
    log.addHandler(handler)
    try:
        loaded = engine(path=path, max_batch=2)
    finally:
        log.removeHandler(handler)
    frames = np.random.default_rng(0).integers(1, 255, (2, 32, 32, 3), np.uint8)
    given = loaded.start(frames)()[0]
    loaded.close()
    np.testing.assert_allclose(given, frames.astype(np.float64).mean((1, 2)) + 6, rtol=1e-4)
    assert loaded.cuda_graph or said, "it fell back in silence"
    return f"graph {loaded.cuda_graph}; said {said[0][-150:] if said else 'nothing'}"


def check_garbage_is_an_error_of_ours_and_leaves_nothing():
    path = models()[0] / "garbage.onnx"
    path.write_bytes(b"\x08\x07garbage" * 100)
    before = used()
    try:
        engine(path=path)
    except EngineError as error:
        assert used() - before <= 8 * _MB
        return error.what[-100:]
    raise AssertionError("garbage was loaded")


def check_beside_pytorch():
    try:
        import torch
    except ImportError:
        return "NOT RUN: no torch here"
    _, frames, expected = models()
    held = torch.ones(1 << 20, device="cuda")
    loaded = engine()
    line = close_to(loaded.start(frames[:4])()[0], expected[:4])
    assert float((held * 2).sum()) == 2 << 20
    loaded.close()
    assert float((held * 2).sum()) == 2 << 20
    return line


def _resident():
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


def main():
    print("libraries:", ", ".join(gpu_libraries.load()) or "none found as packages", flush=True)
    failed = 0
    for check in CHECKS:
        began = time.perf_counter()
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            told = check()
        except BaseException:  # noqa: BLE001 -- every check is told
            failed += 1
            print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"ok   {name} ({time.perf_counter() - began:.1f} s): {told}", flush=True)
    device().close()
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
