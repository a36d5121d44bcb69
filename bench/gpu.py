"""YOLOv8n's architecture on the GPU: our engine on ONNX Runtime's CUDA provider against PyTorch, in one run.

Both compute the same function with the same random weights (``bench/network.py``). Every engine runs in a process of
its own, one after the other, so that memory is its own and nothing else is on the GPU. ``python -m bench.gpu --sweep``
shows what each of the provider's options is worth.
"""

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.engine import EngineSpec, TensorSpec
from bench.row import Row

SIZE = 640
_ROOT = Path(__file__).resolve().parent.parent
_SWEEP: dict[str, dict[str, str]] = {
    "as the engine does it": {},
    "cudnn_conv_use_max_workspace=0": {"cudnn_conv_use_max_workspace": "0"},
    "fuse_conv_bias=0": {"fuse_conv_bias": "0"},
    "fuse_conv_bias=1, search HEURISTIC": {"cudnn_conv_algo_search": "HEURISTIC"},
    "prefer_nhwc=0": {"prefer_nhwc": "0"},
    "no CUDA graph": {"enable_cuda_graph": "0"},
    "arena_extend_strategy=kNextPowerOfTwo": {"arena_extend_strategy": "kNextPowerOfTwo"},
}


def run(quick: bool) -> list[Row]:
    """Measure and return the rows."""
    seconds = 1.0 if quick else 4.0
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for batch in (1, 8):
            ours = _child("bench.gpu", "--child", "--batch", str(batch), "--seconds", str(seconds), "--folder", name)
            forms = {form: _child("bench.gpu_torch", form, str(batch), str(seconds), name)
                     for form in ("eager-fp32", "eager-fp16", "graph-fp16", "graph-fp16-nhwc")}
            rows += _rows(batch, ours, forms)
    return rows


def _rows(batch: int, ours: dict[str, float], forms: dict[str, dict[str, float]]) -> list[Row]:
    graph = min(forms["graph-fp16"], forms["graph-fp16-nhwc"], key=lambda form: form["p50_ms"])
    eager, name = forms["eager-fp32"], f"YOLOv8n {SIZE}, batch {batch}"
    return [
        Row(f"{name}: ours, FP16, CUDA graph, p50 ms", ours["p50_ms"]),
        Row(f"{name}: ours, p99 ms", ours["p99_ms"]),
        *(Row(f"{name}: PyTorch {form}, p50 ms", forms[form]["p50_ms"]) for form in forms),
        Row(f"{name}: PyTorch eager FP32 / ours", eager["p50_ms"] / ours["p50_ms"], ">= 3"),
        Row(f"{name}: PyTorch eager FP16 / ours", forms["eager-fp16"]["p50_ms"] / ours["p50_ms"]),
        Row(f"{name}: PyTorch's faster FP16 CUDA graph / ours", graph["p50_ms"] / ours["p50_ms"], ">= 1.0"),
        Row(f"{name}: the same, only the last call waited for", graph["streamed_ms"] / ours["streamed_ms"]),
        Row(f"{name}: one batch after the other, end to end, ms", ours["serial_ms"]),
        Row(f"{name}: two batches under way, end to end, ms a batch", ours["overlapped_ms"]),
        Row(f"{name}: the same without the head, ms a batch", ours["no_head_ms"]),
        Row(f"{name}: end to end / engine-only throughput", ours["engine_ms"] / ours["overlapped_ms"], ">= 0.95"),
        Row(f"{name}: the same without the head", ours["engine_ms"] / ours["no_head_ms"]),
        Row(f"{name}: head alone, ms a batch", ours["head_ms"]),
        Row(f"{name}: score error to the CPU, mean", ours["score_mean"], "<= 0.002"),
        Row(f"{name}: score error to the CPU, 99.9 %", ours["score_most"], "<= 0.05"),
        Row(f"{name}: score error of PyTorch's FP16, 99.9 %", graph["score_most"]),
        Row(f"{name}: boxes of the CPU found at IoU 0.5 and the same class, share", ours["matched"], ">= 0.98"),
        Row(f"{name}: the same of PyTorch's FP16", graph["matched"]),
        Row(f"{name}: device memory, ours, MB", ours["device_mb"]),
        Row(f"{name}: device memory, PyTorch FP16 CUDA graph, MB", graph["device_mb"]),
        Row(f"{name}: device memory, PyTorch eager FP32, MB", eager["device_mb"]),
        Row(f"{name}: device memory, ours / PyTorch's least",
            ours["device_mb"] / min(form["device_mb"] for form in forms.values()), "<= 1.0"),
    ]


def write_models(folder: Path) -> None:
    """Write ``fp32.onnx``, ``fp16.onnx`` and ``reference.npz`` (frames and the CPU's outputs)."""
    import onnx

    from agent.building.tail import add_tail
    from bench.network import on_cpu, scene, to_fp16, to_onnx, yolov8n

    model = to_onnx(yolov8n(SIZE))
    onnx.save(model, str(folder / "fp32.onnx"))
    frames = scene(SIZE, 8)
    np.savez(folder / "reference.npz", frames=frames, outputs=on_cpu(model, frames))
    add_tail(model)  # as `vedette engines build` does for a GPU; PyTorch is spared it
    onnx.save(to_fp16(model), str(folder / "fp16.onnx"))


def _child(module: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=_ROOT, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
        raise SystemExit(f"{module} {' '.join(arguments)} ended with {done.returncode}")
    print(module, *arguments[:2], done.stdout.strip().splitlines()[-1], file=sys.stderr, flush=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(folder: Path, batch: int, seconds: float, options: dict[str, str], *, quick: bool = False
            ) -> dict[str, Any]:
    """Be the child: load our engine and measure it."""
    from agent.inference.device import CudaDevice
    from agent.inference.heads import HeadConfig, make_head
    from agent.inference.ort_cuda import OrtCudaEngine
    from agent.records import Placement
    from bench import gpu_libraries

    gpu_libraries.load()
    held = np.load(folder / "reference.npz")
    device = CudaDevice()
    began = time.perf_counter()
    engine = OrtCudaEngine(folder / "fp16.onnx", name="bench", identity="0" * 16, model_sha256="0" * 64, device=device,
                           max_batch=batch, precision="fp16", options=options,
                           graphs=options.get("enable_cuda_graph") != "0")
    engine.warm_up()
    loaded = time.perf_counter() - began
    batches = [np.ascontiguousarray(np.roll(held["frames"], shift, 0)[:batch]) for shift in range(4)]
    outputs = engine.start(np.ascontiguousarray(held["frames"][:batch]))()
    head = make_head(HeadConfig(kind="yolov8", classes=80, score=0.25, iou=0.45), engine.spec)
    places = [Placement(scale=1.0, left=0, top=0, width=SIZE, height=SIZE)] * batch
    score = np.abs(outputs[0][:, 4] - held["outputs"][:batch, 4:].max(1))
    result: dict[str, Any] = {
        "load_s": loaded, "cuda_graph": engine.cuda_graph,
        "score_most": float(np.quantile(score, 0.999)), "score_mean": float(score.mean()),
        "matched": matched(held["outputs"][:batch], outputs[0])}
    with device.current():
        free, total = device.memory()
    result["device_mb"] = (total - free) / 1e6
    result |= _engine_only(engine, seconds)
    if not quick:
        began = time.perf_counter()
        for _ in range(50):
            head(outputs, places)
        result["head_ms"] = (time.perf_counter() - began) / 50 * 1e3
        result["serial_ms"] = _serial(engine, batches, seconds)
        result["no_head_ms"] = _overlapped(engine, batches, seconds, None)
        result["overlapped_ms"] = _overlapped(engine, batches, seconds, lambda given: head(given, places))
    engine.close()
    device.close()
    return result


def _engine_only(engine: Any, seconds: float) -> dict[str, float]:
    """Run the bound network again and again in the engine's own thread: no copies, nothing of ours in between."""
    slot = engine._staging.slots[0]  # noqa: SLF001 -- the bench looks below the seam on purpose
    size = engine.spec.max_batch

    def work() -> dict[str, float]:
        with engine._device.current():  # noqa: SLF001
            binding, options = engine._bindings[size, slot.index]  # noqa: SLF001
            session, stream = engine._session, engine._stream  # noqa: SLF001
            took: list[float] = []
            for _ in range(200):
                session.run_with_iobinding(binding, options)
                stream.synchronise()
            ends = time.perf_counter() + seconds
            returned = 0.0
            while time.perf_counter() < ends:
                began = time.perf_counter()
                session.run_with_iobinding(binding, options)
                returned += time.perf_counter() - began
                stream.synchronise()
                took.append(time.perf_counter() - began)
            # Without a graph ONNX Runtime does not bear several runs in the queue, see the engine.
            calls = max(int(seconds / 2 / float(np.median(took))), 10) if engine.cuda_graph else 1
            began = time.perf_counter()
            for _ in range(calls):
                session.run_with_iobinding(binding, options)
            stream.synchronise()
            streamed = (time.perf_counter() - began) / calls * 1e3
        return {"p50_ms": float(np.median(took)) * 1e3, "p99_ms": float(np.percentile(took, 99)) * 1e3,
                "streamed_ms": streamed, "returned_after_ms": returned / len(took) * 1e3,
                "engine_ms": min(streamed, float(np.mean(took)) * 1e3)}

    measured: dict[str, float] = engine._runs.submit(work).result()  # noqa: SLF001
    return measured


def _serial(engine: Any, batches: list[NDArray[np.uint8]], seconds: float) -> float:
    calls, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        engine.start(batches[calls % len(batches)])()
        calls += 1
    return (time.perf_counter() - began) / calls * 1e3


def _overlapped(engine: Any, batches: list[NDArray[np.uint8]], seconds: float, head: Any) -> float:
    """Start in one thread, wait (and run the head) in another, as the agent's loop does; return ms a batch."""
    under_way: queue.Queue[Any] = queue.Queue(maxsize=engine.spec.depth)

    def tell() -> None:
        while (pending := under_way.get()) is not None:
            outputs = pending()
            if head is not None:
                head(outputs)

    teller = threading.Thread(target=tell)
    teller.start()
    calls, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        under_way.put(engine.start(batches[calls % len(batches)]))
        calls += 1
    under_way.put(None)
    teller.join()
    return (time.perf_counter() - began) / calls * 1e3


def matched(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the share of the CPU's boxes that are found, by the gate's own rule with its default score drift."""
    from agent.building.agreement import agree
    from agent.inference.heads import HeadConfig, make_head
    from agent.inference.heads.best import OUTPUT
    from agent.records import Placement

    places = [Placement(scale=1.0, left=0, top=0, width=SIZE, height=SIZE)] * len(expected)
    threshold, drift, sides = 0.25, 0.05, []
    for raw in (expected, found):
        name = OUTPUT if raw.shape[1] == 6 else "output0"
        spec = EngineSpec(height=SIZE, width=SIZE, max_batch=8,
                          outputs=(TensorSpec(name=name, shape=(-1, *raw.shape[1:]), dtype="float32"),))
        config = HeadConfig(kind="yolov8", classes=80, score=threshold - drift, iou=0.45)
        sides.append(make_head(config, spec)([raw], places))
    return agree(*sides, threshold=threshold, score_drift=drift, output_difference=0.0).share or 0.0


def sweep(seconds: float) -> None:
    """Print what each option of the provider is worth."""
    with tempfile.TemporaryDirectory() as name:
        write_models(Path(name))
        for batch in (1, 8):
            for words, options in _SWEEP.items():
                given = _child("bench.gpu", "--child", "--quick", "--batch", str(batch), "--seconds", str(seconds),
                               "--folder", name, "--options", json.dumps(options))
                print(f"batch {batch} {words:40} p50 {given['p50_ms']:7.3f} ms  streamed {given['streamed_ms']:7.3f} ms"
                      f"  returns after {given['returned_after_ms']:.3f} ms  {given['device_mb']:6.0f} MB"
                      f"  load {given['load_s']:.1f} s  graph {given['cuda_graph']}  matched {given['matched']:.3f}",
                      flush=True)


def main() -> None:
    """Run the bench, its sweep or one of its children."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    for flag in ("--child", "--quick", "--sweep", "--json"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--options", type=json.loads, default={})
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measure(asked.folder, asked.batch, asked.seconds, asked.options, quick=asked.quick)))
    elif asked.sweep:
        sweep(asked.seconds)
    else:
        rows = run(quick=asked.quick)
        if asked.json:
            print(json.dumps([row.as_dict() for row in rows], indent=1))
        else:
            for row in rows:
                print(f"  {row.name:<90} {row.value:9.3f}  {row.target:<9} {row.verdict}")


if __name__ == "__main__":
    main()
