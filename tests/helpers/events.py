"""Small events for the spool and the uploader."""

import json

from agent.records import Event


def event(number: int, run: str = "run", size: int = 0, kind: str = "detection") -> Event:
    """Return the ``number``-th event of a run, its body padded by ``size`` bytes that hardly compress."""
    import random

    name = f"{run}-{number}"
    padding = random.Random(number).randbytes(size // 2).hex()
    body = json.dumps({"specversion": "1.0", "id": name, "type": kind, "source": "urn:vedette:test", "subject": "door",
                       "data": {"number": number, "padding": padding}}, separators=(",", ":"))
    return Event(id=name, type=kind, subject="door", body=body.encode())
