"""Let ONNX Runtime's CUDA provider find CUDA and cuDNN where they came as Python packages, without PyTorch."""

import ctypes
import importlib.util
from pathlib import Path

_WANTED = ("libcudart", "libnvrtc", "libnvJitLink", "libcublasLt", "libcublas", "libcufft", "libcurand", "libcudnn")


def load() -> list[str]:
    """Load what lies in ``nvidia/*/lib``; return the names."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    loaded = []
    for wanted in _WANTED:
        for place in places:
            for file in sorted(Path(place).glob(f"*/lib/{wanted}.so.*")):
                try:
                    ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
                except OSError as error:
                    print(f"{file}: {error}")
                else:
                    loaded.append(file.name)
    return loaded
