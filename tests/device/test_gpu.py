"""The checks of gpu_check.py under pytest; skipped, saying why, where there is no GPU."""

import importlib.util

import pytest

from tests.device import gpu_check


def _missing() -> str:
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed"
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA provider"
    try:
        gpu_check.device()
    except gpu_check.EngineError as error:
        return error.what
    return ""


MISSING = _missing()


@pytest.mark.skipif(bool(MISSING), reason=f"needs a GPU with pycuda and onnxruntime-gpu: {MISSING}")
@pytest.mark.parametrize("check", gpu_check.CHECKS, ids=lambda check: check.__name__)
def test_on_the_gpu(check):
    if str(check()).startswith("NOT RUN"):
        pytest.skip(check())
