"""The timing cache: what TensorRT measured in earlier builds, so that the next one need not measure it again.

A cache saves time and never decides whether a build succeeds: whatever is wrong with it becomes a warning.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.atomic import write_atomic
from agent.building.lock import alone_in
from agent.building.tensorrt_bindings import Log
from agent.errors import ModelError


@contextmanager
def timing_cache(config: Any, name: str | None, log: Log, complaints: list[str]) -> Iterator[None]:
    """Build, within the block, with the times kept in file ``name``; afterwards add the new ones to it.

    Two builds may use one file at the same time: each adds to what is on the disk when it ends.

    Args:
        config: TensorRT's IBuilderConfig.
        name: Path of the file, made where missing; None = no cache.
        log: What TensorRT says.
        complaints: Gets what went wrong, in words.
    """
    if name is None:
        yield
        return
    path = Path(name)
    with warnings.catch_warnings():
        # TensorRT-RTX takes the calls, does nothing and says so each time.
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = _read(config, path, log, complaints)
        if cache is None:
            cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            complaints.append(f"timing cache {path}: TensorRT takes none; built without")
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            with alone_in(path.parent):
                _add(config, path, log, complaints)
        except OSError as error:
            complaints.append(f"timing cache {path}: cannot be written: {error.strerror}")
        except ModelError as error:
            complaints.append(f"timing cache {path}: {error.what}")


def _add(config: Any, path: Path, log: Log, complaints: list[str]) -> None:
    """Write this build's times together with those on the disk."""
    mine = config.get_timing_cache()
    if mine is None:
        return
    other = _read(config, path, log, complaints)
    if other is not None and not mine.combine(other, False):
        complaints.append(f"timing cache {path}: made by another TensorRT or GPU; replaced")
    held = mine.serialize()
    if held is not None:
        write_atomic(path, bytes(held))


def _read(config: Any, path: Path, log: Log, complaints: list[str]) -> Any | None:
    """Return the cache on the disk; one that TensorRT refuses is renamed to ``*.refused`` and counts as missing."""
    try:
        held = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        complaints.append(f"timing cache {path}: cannot be read: {error.strerror}")
        return None
    with log.listening() as heard:
        cache = config.create_timing_cache(held)
    # What cannot be read becomes an empty cache without an error; only the log tells.
    if cache is not None and not any("timing cache" in text and "eserializ" in text for text in heard):
        return cache
    complaints.append(f"timing cache {path}: refused, set aside as {path.name}.refused")
    try:
        path.replace(path.with_name(f"{path.name}.refused"))
    except OSError as error:
        complaints.append(f"timing cache {path}: cannot be set aside: {error.strerror}")
    return None
