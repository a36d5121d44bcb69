"""The real agent, one part of which stops moving on command: as a call into a driver that never returns.

``python hanging_agent.py FOLDER LIMIT vedette's arguments...``: when a file FOLDER/STAGE appears after this process has
begun, STAGE hangs for good: ``device`` (the first read, which holds the camera), ``decoder`` (every read, those of its
replacements too), ``inference``, ``postprocess`` or ``writer`` (of the spool, within a commit). Heartbeats are stale
after LIMIT seconds.
"""

import sys
import threading
import time
from pathlib import Path

from agent import assembly, watchdog
from agent.capture import reader
from agent.cli import main
from agent.meters import Heartbeat
from agent.pipeline import Pipeline
from agent.report.spool_file import SpoolFile

STAGES = ("device", "decoder", "inference", "postprocess", "writer")


class Deaf:
    """A source that is open, and gives nothing."""

    live = True

    def grab(self):
        raise NotImplementedError

    def close(self):
        pass


def hanging(folder, longest_s):
    """Let each stage look for its file before it does what it always does."""
    begun = time.time()
    born, opens = Heartbeat.__init__, assembly.open_source

    def hangs(stage):
        file = folder / stage
        return file.exists() and file.stat().st_mtime > begun

    def in_place_of(owner, name, *stages):
        """Put in its place what hangs from then on."""
        whole = getattr(owner, name)

        def wrapped(*arguments, **options):
            if any(map(hangs, stages)):
                threading.Event().wait()
            return whole(*arguments, **options)

        setattr(owner, name, wrapped)

    def opened(options):
        source = Deaf() if hangs("decoder") else opens(options)
        in_place_of(source, "grab", "device", "decoder")
        return source

    def sooner(beat, name, limit_s, **options):
        born(beat, name, min(limit_s, longest_s), **options)

    assembly.open_source = opened
    in_place_of(Pipeline, "_begin", "inference")
    in_place_of(Pipeline, "_finish", "postprocess")
    in_place_of(SpoolFile, "commit", "writer")
    Heartbeat.__init__ = sooner
    reader.STUCK_S = watchdog.STUCK_S = longest_s


if __name__ == "__main__":
    hanging(Path(sys.argv[1]), float(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
