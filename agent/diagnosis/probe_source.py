"""Open one source and read one frame, inside a child process: a decoder may crash, and a camera may never answer."""

import time
from pathlib import Path

import msgspec

from agent.capture.opening import SourceOptions, open_source
from agent.diagnosis.around import Source
from agent.diagnosis.inquiries import SourceInquiry
from agent.errors import AgentError
from agent.redact import redact
from agent.secrets import read_secret


def probe_source(file: str) -> Source:
    """Do what the :class:`SourceInquiry` in ``file`` asks."""
    asked = msgspec.json.decode(Path(file).read_bytes(), type=SourceInquiry)
    seen = Source(name=asked.name, url=redact(asked.url))
    began_s = time.monotonic()
    try:
        password = read_secret(f"file:{asked.password_file}") if asked.password_file else None
        source = open_source(SourceOptions(
            name=asked.name, url=asked.url, username=asked.username, password=password,
            open_timeout_s=asked.open_timeout_s, read_timeout_s=asked.read_timeout_s,
            width=asked.width, height=asked.height, rate=asked.rate))
        try:
            source.grab()
            pixels = source.retrieve()
        finally:
            source.close()
    except AgentError as error:
        return msgspec.structs.replace(seen, fault=redact(error.what), remedy=redact(error.remedy))
    height, width = pixels.shape[:2]
    return msgspec.structs.replace(seen, width=int(width), height=int(height),
                                   first_frame_s=time.monotonic() - began_s)
