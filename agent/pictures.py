"""The pictures an engine is calibrated and judged on: this box's live frames, the recipe's sets, a user's folder.

All are laid on the engine's canvas as the loop lays them. Decoding is the capture package's business.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from agent.building.calibration import Split, split
from agent.building.recipe import Recipe
from agent.building.reservoir import Reservoir
from agent.capture.opening import SourceOptions, open_source
from agent.errors import AgentError, EndOfStreamError, ModelError
from agent.inference.letterbox import Letterbox

_LOG = logging.getLogger(__name__)
_MOST_OF_A_SET = 300  # a longer clip is thinned out while it is decoded, so that it never fills the memory
_LONGEST_SET = 20_000  # frames; what comes after is not looked at
_SYNTHETIC = 12
CLIPS = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".ts", ".m4v"}

Canvases = NDArray[np.uint8]


def reservoir_of(state_dir: Path, recipe: Recipe, size: tuple[int, int], max_bytes: int) -> Reservoir:
    """Return where live frames of this canvas are kept; made when the first one comes."""
    height, width = size
    return Reservoir(state_dir / "calibration" / recipe.name / f"{height}x{width}", height=height, width=width,
                     max_bytes=max_bytes)


def gather(recipe: Recipe, size: tuple[int, int], state_dir: Path, *, folder: Path | None = None,
           say: Callable[[str], None] = _LOG.info) -> tuple[Split | None, str]:
    """Return frames to calibrate and to judge on (None = there are none), and why there are not more.

    Args:
        recipe: Whose sets; what is not there yet is fetched.
        size: Canvas (height, width), pixels.
        state_dir: Holds fetched sets and the reservoir of live frames.
        folder: Pictures and clips of the user's, used instead of the recipe's sets.
        say: Told what takes long.

    Raises:
        ModelError: ``folder`` holds nothing that can be read.
    """
    live = reservoir_of(state_dir, recipe, size, 1 << 40).frames()
    why: list[str] = []
    sets = [_of_folder(folder, recipe, size)] if folder else _sets(recipe, size, state_dir, say, why)
    if not len(live) and not sets:
        return None, "; ".join(why) or (
            "there are no calibration frames: give --frames FOLDER, name sets in the recipe's [calibration], or let "
            "the agent keep live frames ([calibration] live = true)")
    most = recipe.calibration.most
    try:
        return split(live, sets, least=recipe.calibration.least, most=most), "; ".join(why)
    except ModelError as error:
        # Too few or too alike to calibrate on; the float forms can be judged on them all the same.
        every = np.concatenate([live, *sets])[:most]
        return Split(calibration=every[:0], held_out=every, sha256=hashlib.sha256(every.tobytes()).hexdigest(),
                     note=f"none calibrates, {len(every)} judge"), "; ".join([*why, error.what])


def synthetic(size: tuple[int, int]) -> Canvases:
    """Return made-up pictures (n, height, width, 3): soft gradients with shapes; no two alike, always the same ones.

    They show whether an engine computes, not whether it sees.
    """
    height, width = size
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / max(size)
    pictures = []
    for _ in range(_SYNTHETIC):
        waves = [rng.uniform(1, 12, 2) @ np.stack([y.ravel(), x.ravel()]) + rng.uniform(0, 6) for _ in range(3)]
        picture = np.stack([127 + 100 * np.sin(wave).reshape(height, width) for wave in waves], axis=-1)
        for _ in range(8):
            top, left = rng.integers(0, [height, width])
            high, wide = rng.integers(4, [max(height // 3, 5), max(width // 3, 5)])
            picture[top:top + high, left:left + wide] = rng.uniform(0, 255, 3)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def _sets(recipe: Recipe, size: tuple[int, int], state_dir: Path, say: Callable[[str], None], why: list[str]
          ) -> list[Canvases]:
    """Fetch and decode the recipe's sets; one that cannot be had is left out, and said."""
    from agent.building.fetch import fetch  # noqa: PLC0415 -- brings `requests`

    found = []
    for item in recipe.calibration.sets:
        try:
            path = fetch(item.source, item.sha256, state_dir / "models", base=recipe.folder, stage=say)
            found.append(decode(path, recipe, size))
        except AgentError as error:
            _LOG.warning("calibration set %s is left out: %s", item.source, error.what)
            why.append(f"set {item.source} is left out: {error.what}")
    return [frames for frames in found if len(frames)]


def _of_folder(folder: Path, recipe: Recipe, size: tuple[int, int]) -> Canvases:
    """Decode all clips and pictures of a folder (or one file); what cannot be read is passed over, and said.

    Raises:
        ModelError: nothing in it can be read.
    """
    paths = [folder]
    if folder.is_dir():
        paths = [*sorted(path for path in folder.iterdir() if path.suffix.lower() in CLIPS), folder]
    found, why = [], []
    for path in paths:
        try:
            found.append(decode(path, recipe, size))
        except AgentError as error:
            if path != folder or len(paths) == 1:
                _LOG.warning("%s is passed over: %s", path, error.what)
            why.append(error.what)
    if not sum(map(len, found)):
        raise ModelError(f"{folder}: no picture and no clip in it can be read ({'; '.join(why)})",
                         f"put pictures or clips ({', '.join(sorted(CLIPS))}) into it")
    return np.concatenate(found)


def decode(path: Path, recipe: Recipe, size: tuple[int, int]) -> Canvases:
    """Return the frames of a clip, a picture or a folder of pictures on the engine's canvas.

    Raises:
        AgentError: it cannot be read.
    """
    height, width = size
    place = Letterbox(height, width, recipe.input.pad).place
    kind = "images" if path.is_dir() else "file"
    ending = "" if path.is_dir() else "?pace=all"
    source = open_source(SourceOptions(name="calibration", url=f"{kind}://{quote(str(path.absolute()))}{ending}"))
    frames: list[Canvases] = []
    step = 1
    try:
        for number in range(_LONGEST_SET):
            source.grab()
            if number % step:
                continue
            canvas = np.empty((height, width, 3), np.uint8)
            place(source.retrieve(), canvas)
            frames.append(canvas)
            if len(frames) == _MOST_OF_A_SET:
                frames, step = frames[::2], step * 2
    except EndOfStreamError:
        pass
    finally:
        source.close()
    return np.stack(frames) if frames else np.empty((0, height, width, 3), np.uint8)
