"""The child process that builds: ``python -m agent.building.worker`` (see :mod:`agent.building.child`).

Parsers of foreign files, quantisers and TensorRT's builder run here and nowhere else: what they take is given back when
the child ends, and what kills them kills nothing else.
"""

from pathlib import Path

import msgspec
import numpy as np

from agent.building.child import Cancelled, Report, answer_one
from agent.building.forms import Form
from agent.building.jobs import BuildJob, Converted, ConvertJob
from agent.building.prepare import Job
from agent.errors import ModelError, missing_extra


def work(job: Job | ConvertJob | BuildJob, report: Report, cancelled: Cancelled) -> msgspec.Struct:
    """Do one job.

    Raises:
        ModelError: it cannot be done, and why.
    """
    try:
        if isinstance(job, BuildJob):
            return _build(job, report, cancelled)
        if isinstance(job, ConvertJob):
            return _convert(job, report, cancelled)
        from agent.building.preparing import prepare_model  # noqa: PLC0415 -- each job pays for its own libraries

        return prepare_model(job)
    except ImportError as error:
        raise ModelError(f"a model must be prepared and a package is missing: {error}",
                         missing_extra("build")) from error


def _convert(job: ConvertJob, report: Report, cancelled: Cancelled) -> Converted:
    from agent.building.precision import check_opset, write_forms  # noqa: PLC0415 -- see work()
    from agent.building.tail import with_tail  # noqa: PLC0415 -- see work()

    prepared = Path(job.prepared)
    check_opset(prepared, job.tensorrt, job.rtx)
    if job.classes:
        prepared = with_tail(prepared, Path(job.folder), job.head, job.classes)
    frames = None if job.frames is None else np.load(job.frames)
    written = write_forms(
        prepared, Path(job.folder), job.forms, frames, job.settings,
        cache=Path(job.cache) if job.cache else None, report=report, cancelled=cancelled)
    files: dict[Form, str] = {form: str(what) for form, what in written.items() if isinstance(what, Path)}
    return Converted(files=files, failures={form: what for form, what in written.items() if isinstance(what, str)})


def _build(job: BuildJob, report: Report, cancelled: Cancelled) -> msgspec.Struct:
    if job.tensorrt:
        from agent.building.tensorrt_builder import build  # noqa: PLC0415 -- see work()

        return build(Path(job.onnx), Path(job.target), job.tensorrt, report=report, cancelled=cancelled)
    from agent.building.ort_builder import build_ort  # noqa: PLC0415 -- see work()

    return build_ort(Path(job.onnx), Path(job.target), provider=job.provider, threads=job.threads, report=report,
                     cancelled=cancelled)


if __name__ == "__main__":
    answer_one(Job | ConvertJob | BuildJob, work)
