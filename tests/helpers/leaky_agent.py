"""The real agent with a defect: every frame that is looked at costs some memory for ever.

``python leaky_agent.py MEGABYTES vedette's arguments...``
"""

import sys

from agent import assembly
from agent.cli import main

_KEPT = []


def leak(size):
    """Let the loop's last step keep ``size`` bytes a frame, each of them written, so that they are resident."""
    whole = assembly.pipeline

    def pipeline(*arguments, deliver, **options):
        def leaking(result, what):
            _KEPT.append(b"\x01" * size)
            deliver(result, what)

        return whole(*arguments, deliver=leaking, **options)

    assembly.pipeline = pipeline


if __name__ == "__main__":
    leak(int(float(sys.argv[1]) * 1e6))
    sys.exit(main(sys.argv[2:]))
