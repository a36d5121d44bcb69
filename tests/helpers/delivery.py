"""A real spool and a running uploader with short waits, and what its receiver can prove afterwards."""

import gzip
import hashlib
import itertools
import json
import threading
import time

from agent.meters import Heartbeat
from agent.report.credentials import Credentials
from agent.report.upstream import Uploader, UpstreamPolicy
from tests.helpers.events import event
from tests.helpers.live_spools import open_spool

_runs = itertools.count(1)


class Delivery:
    """Start it, add events, wait; ``close`` it at the end. A second one on the same folder goes on where it was."""

    def __init__(self, folder, url, factory, *, files=(), client_cert=None, trust="synchronised", spool=None, **policy):
        run = next(_runs)
        self.spool = open_spool(folder / "spool.sqlite", run=f"gaps{run}", **{"commit_interval_s": 0.001, **(spool or {})})
        self.stop = threading.Event()
        self.heartbeat = Heartbeat("upstream", 60)
        values = {"batch_events": 5, "batch_interval_s": 0.0, "retry_min_s": 0.05, "retry_max_s": 0.2, **policy}
        canaries = itertools.count(1)

        def canary():
            return json.dumps({"specversion": "1.0", "id": f"canary{run}-{next(canaries)}", "type": "heartbeat",
                               "source": "urn:vedette:test"}).encode()

        credentials = Credentials(factory, files, client_cert=client_cert, trust=lambda: trust)
        self.uploader = Uploader(self.spool, credentials, UpstreamPolicy(url=url, user_agent="vedette/test", **values),
                                 canary=canary, stop=self.stop, heartbeat=self.heartbeat, trust=lambda: trust, draw=lambda: 1.0)
        self.thread = threading.Thread(target=self.uploader.run)
        self.made = 0

    def add(self, count):
        for _ in range(count):
            self.spool.append(event(self.made))
            self.made += 1
        assert self.spool.flush(10)
        return self

    def start(self):
        self.thread.start()
        return self

    def until(self, condition, seconds=15):
        deadline = time.monotonic() + seconds
        while not condition(self.uploader.status()):
            assert time.monotonic() < deadline, self.uploader.status()
            assert self.thread.is_alive()
            time.sleep(0.01)
        return self.uploader.status()

    def until_empty(self):
        return self.until(lambda _: self.spool.depth == 0)

    def close(self):
        self.stop.set()
        if self.thread.ident:
            self.thread.join(15)
        self.spool.close()


def same_bytes_for_same_key(server):
    """Check the promise of the retry: one key, one body; the key is the digest of what was sealed. Return how many."""
    bodies = {}
    for headers, body in zip(server.requests, server.bodies, strict=True):
        assert bodies.setdefault(headers["Idempotency-Key"], body) == body
        assert headers["Idempotency-Key"] == hashlib.sha256(gzip.decompress(body)).hexdigest()
    return len(bodies)


def stored(server):
    """Return the ids of the delivered events, without canaries and gaps."""
    return [one["id"] for one in server.delivered() if one["type"] == "detection"]


def names(count):
    return [f"run-{number}" for number in range(count)]
