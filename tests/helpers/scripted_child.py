"""A child that does what its job says: ``python -m tests.helpers.scripted_child``."""

import os
import signal
import sys
import time

import msgspec

from agent.building.child import answer_one
from agent.errors import ModelError


class Do(msgspec.Struct, frozen=True, kw_only=True, tag="do"):
    what: str
    number: float = 0


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    what: str


def work(job, report, cancelled):
    match job.what:
        case "answer":
            return Done(what=f"nice {os.nice(0)}")
        case "progress":
            for step in range(int(job.number)):
                report("building", step, int(job.number))
        case "print":
            print("noise on stdout")
            os.write(1, b"{}\nmore noise\n")
            print("noise on stderr", file=sys.stderr)
        case "refuse":
            raise ModelError("no good", "mend it")
        case "defect":
            raise ZeroDivisionError("defect")
        case "signal":
            os.kill(os.getpid(), int(job.number))
            time.sleep(10)
        case "exit":
            print("last words", file=sys.stderr, flush=True)
            os._exit(int(job.number))
        case "eat":
            eaten = bytearray(int(job.number))
            eaten[::4096] = b"x" * len(eaten[::4096])
            time.sleep(30)
        case "hang":
            time.sleep(60)
        case "obey":
            report("waiting", 0, None)
            while not cancelled():
                time.sleep(0.01)
            raise ModelError("cancelled", "")
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            report("waiting", 0, None)
            time.sleep(60)
        case "close":
            os.closerange(1, 64)
            time.sleep(60)
    return Done(what=job.what)


if __name__ == "__main__":
    answer_one(Do, work)
