"""The bench's network in PyTorch, for comparison: eager in FP32 and FP16, and FP16 replayed as a CUDA graph.

A program of its own (``python -m bench.gpu_torch FORM BATCH SECONDS FOLDER``), so that its memory is its own. PyTorch
is treated well: weights fused, cuDNN's search on, activations in place, TF32 allowed for convolutions, inputs already
on the GPU, and of the graph both memory layouts are measured.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu import matched
from bench.network import BINS, CLASSES, Network, channels, yolov8n


def module(network: Network) -> Any:
    """Return a ``torch.nn.Module`` that takes frames (n, size, size, 3) uint8 on any device."""
    import torch
    from torch import nn
    from torch.nn import functional

    widths = channels(network)
    others = {
        "concat": lambda x: torch.cat(x, 1), "add": lambda x: x[0] + x[1],
        "pool": lambda x: functional.max_pool2d(x[0], 5, 1, 2),
        "up": lambda x: functional.interpolate(x[0], scale_factor=2, mode="nearest")}

    class Yolo(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleDict()
            for index, layer in enumerate(network.layers):
                if layer.weight is not None:
                    cout, cin, kernel, _ = layer.weight.shape
                    conv = nn.Conv2d(cin, cout, kernel, layer.stride, kernel // 2)
                    conv.weight.data = torch.from_numpy(layer.weight.copy())
                    conv.bias.data = torch.from_numpy(np.array(layer.bias))
                    self.convs[str(index)] = conv
            self.steps = [(layer.kind, layer.inputs, layer.act) for layer in network.layers]
            centres, strides = network.anchors
            self.register_buffer("centres", torch.from_numpy(centres))
            self.register_buffer("strides", torch.from_numpy(strides))
            self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1))
            self.channels_last = False

        def step(self, index: int, x: list[Any]) -> Any:
            kind, inputs, act = self.steps[index]
            if kind == "conv":
                y = self.convs[str(index)](x[0])
                return functional.silu(y, inplace=True) if act else y
            if kind in others:
                return others[kind](x)
            half = widths[inputs[0]] // 2
            return x[0][:, :half] if kind == "first" else x[0][:, half:]

        def forward(self, frames: Any) -> Any:
            picture = frames.permute(0, 3, 1, 2).to(self.bins.dtype)
            values = [picture if self.channels_last else picture.contiguous()]
            for index in range(1, len(self.steps)):
                values.append(self.step(index, [values[at] for at in self.steps[index][1]]))
            count = len(frames)
            raw = torch.cat([torch.cat((values[b], values[c]), 1).reshape(count, 4 * BINS + CLASSES, -1)
                             for b, c, _ in network.heads], 2)
            shares = raw[:, :4 * BINS].reshape(count, 4, BINS, -1).transpose(1, 2).softmax(1)
            sides = functional.conv2d(shares, self.bins).reshape(count, 4, -1)
            near, far = self.centres - sides[:, :2], self.centres + sides[:, 2:]
            boxes = torch.cat(((near + far) * 0.5, far - near), 1) * self.strides
            return torch.cat((boxes, raw[:, 4 * BINS:].sigmoid()), 1).float()

    return Yolo().eval()


def _timed(call: Callable[[], Any], seconds: float, synchronise: Callable[[], Any]) -> dict[str, float]:
    """Return milliseconds of a call waited for (p50, p99), and of one when only the last of many is waited for."""
    took: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        call()
        synchronise()
        took.append(time.perf_counter() - began)
    calls = max(int(seconds / 2 / float(np.median(took))), 10)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    synchronise()
    return {"p50_ms": float(np.median(took)) * 1e3, "p99_ms": float(np.percentile(took, 99)) * 1e3,
            "streamed_ms": (time.perf_counter() - began) / calls * 1e3}


def measure(form: str, batch: int, seconds: float, folder: Path) -> dict[str, float]:
    """Run one form: ``eager-fp32``, ``eager-fp16``, ``graph-fp16`` or ``graph-fp16-nhwc``."""
    import torch

    torch.backends.cudnn.benchmark = True
    held = np.load(folder / "reference.npz")
    net = module(yolov8n(640)).cuda()
    if "fp16" in form:
        net = net.half()
    if form.endswith("nhwc"):
        net = net.to(memory_format=torch.channels_last)
        net.channels_last = True
    frames = torch.from_numpy(held["frames"][:batch]).cuda()
    with torch.inference_mode():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(20):
                given = net(frames)
        torch.cuda.synchronize()
        call: Callable[[], Any] = lambda: net(frames)  # noqa: E731 -- replaced just below
        if form.startswith("graph"):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                given = net(frames)
            call = graph.replay
        for _ in range(200):
            call()
        torch.cuda.synchronize()
        result = _timed(call, seconds, torch.cuda.synchronize)
        given = given if form.startswith("graph") else net(frames)
        found = given.cpu().numpy()
    free, total = torch.cuda.mem_get_info()
    score = np.abs(found[:, 4:8] - held["outputs"][:batch, 4:8])
    return result | {"score_most": float(np.quantile(score, 0.999)), "score_mean": float(score.mean()),
                     "matched": matched(held["outputs"][:batch], found), "device_mb": (total - free) / 1e6}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))))
