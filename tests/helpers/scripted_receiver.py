"""A receiver without a network: a session whose answers a function decides, and a clock that only waiting moves."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

from agent.report.credentials import Credentials
from agent.report.sealing import decode
from agent.report.upstream import Uploader, UpstreamPolicy

CANARY = b'{"specversion":"1.0","id":"canary","type":"heartbeat","source":"urn:vedette:test"}'


@dataclass
class Request:
    """What was posted: the events' bodies, the headers, and when by the clock."""

    bodies: list[bytes]
    headers: dict[str, str]
    at: float
    size: int

    @property
    def is_canary(self):
        return self.bodies == [CANARY]


@dataclass
class ScriptedReceiver:
    """Stands for requests.Session; ``judge(request)`` returns a status, or (status, headers)."""

    judge: object
    now: float = 0.0
    requests: list[Request] = field(default_factory=list)
    accepted: list[bytes] = field(default_factory=list)  # canaries excepted
    opened: int = 0

    def post(self, url, *, data, headers, **options):
        assert options["allow_redirects"] is False
        body = data.read()
        request = Request(decode(body, headers["Content-Type"], headers.get("Content-Encoding", "")), headers, self.now, len(body))
        self.requests.append(request)
        answer = self.judge(request)
        status, given = answer if isinstance(answer, tuple) else (answer, {})
        if status < 300 and not request.is_canary:
            self.accepted += request.bodies
        return _Answer(status, given)

    def close(self):
        pass

    def open(self):
        self.opened += 1
        return self

    @property
    def canaries(self):
        return sum(request.is_canary for request in self.requests)


class _Answer(SimpleNamespace):
    def __init__(self, status, headers):
        super().__init__(status_code=status, headers=headers)

    def iter_content(self, _size):
        return iter(())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def bodies(count):
    return [json.dumps({"id": f"e{number}", "number": number}, separators=(",", ":")).encode() for number in range(1, count + 1)]


def uploader(spool, receiver, *, trust="synchronised", credentials=None, **policy):
    """Return an uploader whose clock is the receiver's; its waits are drawn at their longest."""
    values = {"url": "https://upstream.test/", "batch_events": 8, "retry_max_s": 60.0, **policy}
    made = credentials or Credentials(receiver.open, trust=lambda: trust, clock=lambda: receiver.now)
    import threading

    return Uploader(spool, made, UpstreamPolicy(**values), canary=lambda: CANARY, stop=threading.Event(),
                    trust=lambda: trust, clock=lambda: receiver.now, wall=lambda: receiver.now, draw=lambda: 1.0)


def drive(delivery, receiver, spool, *, until=None, most=10_000):
    """Step until the spool is empty, ``until(status)`` holds, or, without it, until it holds; return the status."""
    for _ in range(most):
        status = delivery.status()
        if not spool.depth or (until(status) if until else status.state == "holding"):
            return status
        receiver.now += delivery._step(0) or 0.001
    raise AssertionError(f"no end after {most} steps: {delivery.status()}")
