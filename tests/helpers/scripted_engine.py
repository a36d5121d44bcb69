"""An engine whose every call is known: it returns the mean of each canvas and takes as long as it is told."""

import threading
import time

import numpy as np

from agent.errors import EngineError
from agent.inference.engine import EngineDescription, EngineSpec, TensorSpec
from agent.records import Detections


class ScriptedEngine:
    def __init__(self, *, call_s=0.0, max_batch=1, side=32, fail_at=None, gate=None):
        self.spec = EngineSpec(height=side, width=side, max_batch=max_batch,
                               outputs=(TensorSpec(name="mean", shape=(-1, 1), dtype="float32"),))
        self.call_s, self.fail_at, self.gate = call_s, fail_at, gate
        self.batches, self.closed = [], False
        self.started = threading.Semaphore(0)

    def start(self, batch):
        self.started.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=10)
        if self.fail_at is not None and len(self.batches) >= self.fail_at:
            raise EngineError("scripted failure")
        time.sleep(self.call_s)
        self.batches.append([int(picture[0, 0, 0]) for picture in batch])
        means = [batch.reshape(len(batch), -1).mean(axis=1, keepdims=True).astype(np.float32)]
        return lambda: means

    def describe(self):
        return EngineDescription(name="scripted", identity="0" * 16, runtime="none", provider="none", precision="fp32", threads=0,
                                 model_sha256="0" * 64)

    def close(self):
        self.closed = True


def one_box_head(outputs, placements):
    """One detection a frame; its score is the canvas's mean / 255, so that a mixed-up batch shows."""
    return [Detections(xyxy=np.array([[0, 0, 1, 1]], np.float32), scores=np.array([mean[0] / 255], np.float32),
                       class_ids=np.zeros(1, np.int32)) for mean, _ in zip(outputs[0], placements, strict=True)]
