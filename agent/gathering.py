"""Gather the pictures an engine is calibrated and judged on: a child process, ``python -m agent.gathering``.

Clips and pictures are foreign files, and several hundred canvases of 640x640 pixels are half a gigabyte: neither
belongs into the agent.
"""

from pathlib import Path

import msgspec
import numpy as np

from agent.building.child import Cancelled, Report, answer_one
from agent.building.recipe import find_recipe
from agent.errors import AgentError, ModelError
from agent.pictures import gather, synthetic


class GatherJob(msgspec.Struct, frozen=True, kw_only=True, tag="gather"):
    """What is wanted.

    Attributes:
        recipe: The recipe's folder.
        size: Canvas (height, width), pixels.
        state_dir: Holds fetched sets and live frames.
        folder: Pictures and clips of the user's, instead of the recipe's sets.
        calibrate: ``.npy`` file to write (n, height, width, 3) uint8 BGR, if there are enough frames.
        judge: The same for held-out frames; made-up ones where there are none.
    """

    recipe: str
    size: tuple[int, int]
    state_dir: str
    folder: str | None
    calibrate: str
    judge: str


class Gathered(msgspec.Struct, frozen=True, kw_only=True, tag="gathered"):
    """What was found: how many frames for what, of which kind, and why there are not more."""

    kind: str
    note: str
    sha256: str
    calibrating: int
    judging: int


def work(job: GatherJob, report: Report, cancelled: Cancelled) -> Gathered:
    """Gather.

    Raises:
        ModelError: the user's folder holds nothing that can be read, or the disk is full.
    """
    folder = Path(job.recipe)

    def say(words: str) -> None:
        if cancelled():
            raise ModelError("cancelled", "")
        report(words, 0, None)

    try:
        split, why = gather(find_recipe(folder.name, [folder.parent]), job.size, Path(job.state_dir),
                            folder=Path(job.folder) if job.folder else None, say=say)
        if split is None or not len(split.held_out):
            made_up = synthetic(job.size)
            np.save(job.judge, made_up)
            return Gathered(kind="synthetic", note=why or "no frame is left to judge INT8 by", sha256="", calibrating=0,
                            judging=len(made_up))
        np.save(job.judge, split.held_out)
        if len(split.calibration):
            np.save(job.calibrate, split.calibration)
    except OSError as error:
        why = error.strerror or f"the disk seems to be full ({error})"  # numpy's errors bear no number
        raise ModelError(f"{error.filename or job.judge}: {why}",
                         "make room on that disk (`vedette engines prune`), or see its owner and mode") from error
    except MemoryError as error:
        raise ModelError("the calibration frames do not fit into memory", "choose a smaller size, or fewer sets"
                         ) from error
    except ModelError:
        raise
    except AgentError as error:
        raise ModelError(error.what, error.remedy) from error
    return Gathered(kind="held-out", note="; ".join(filter(None, (split.note, why))), sha256=split.sha256,
                    calibrating=len(split.calibration), judging=len(split.held_out))


if __name__ == "__main__":
    answer_one(GatherJob, work)
