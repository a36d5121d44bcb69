"""Where log lines go: to the journal with fields of their own, or to standard error as plain text.

Under systemd, with systemd-python installed, each line has ``VEDETTE_STAGE`` (the part that wrote it),
``VEDETTE_SOURCE`` (the camera it is about) and, for kinds of event that somebody may want to be told of, a
``MESSAGE_ID``. Without systemd-python the lines have their priority only. A call site says what a line is about by
``extra=about(...)``.
"""

import logging
import os
import sys
import traceback
from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from typing import Any

_IDENTIFIER = "vedette"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
_READER = "reader-"
_STAGES = {"MainThread": "supervisor", "loader": "engine", "tuner": "engine", "status-client": "status"}


class MessageId(Enum):
    """Kinds of event with the ``MESSAGE_ID`` that finds them: ``journalctl MESSAGE_ID=…``; see docs/operations.md."""

    STARTED = "0b627f2e4c9d44cb969b695beec5054a"
    READY = "f48a53c3a8a0458fb07870e85ec1c2f6"
    STOPPED = "a057a1de003b41abad1463eb0609dd9d"
    DEFECT = "2826188bad9b410aa583f951462c2cba"
    FAILED = "431a2edc8c0c484f98d6e503e21fe78e"
    STUCK = "82589437ac01497fac153fdc3ee4d8a2"
    WAITS = "70bd13e0e095433496f6b93a1b62b6a1"
    SOURCE = "e621137532054c68930a73e9876df476"
    ENGINE = "86aaeb3bb6264c8995a69ef9b1500fb4"
    ENGINE_ASIDE = "a22ebf684a8e487cae627d03fb2abb5c"
    BUDGET = "13412542b7d2415d93aa502837529429"
    MEMORY = "66ca2af5aa934f6daa1d2dd8f4892a5a"
    SPOOL = "1a073d680c664e3da70925e03b8ff4ee"
    UPSTREAM = "bcd06de9fb67430399ce482b53f0ed79"
    LOST = "699bccccac7d45d1accf789b20c095a4"
    PAGE = "1aa452c202854ccabf45648d3ad30858"


def about(kind: MessageId | None = None, *, source: str | None = None, stage: str | None = None) -> dict[str, Any]:
    """Return the ``extra`` of a log line: the kind of event, and the source and the stage that it is about."""
    return {"vedette": {"kind": kind, "source": source, "stage": stage}}


def fields(record: logging.LogRecord) -> dict[str, str | int]:
    """Return the journal's fields of a log record, all but ``MESSAGE``."""
    said: Mapping[str, Any] = getattr(record, "vedette", {})
    thread = record.threadName or ""
    of_reader = thread.startswith(_READER)
    source = said.get("source") or (thread.removeprefix(_READER) if of_reader else None)
    stage = said.get("stage") or ("capture" if of_reader else _STAGES.get(thread, thread))
    kind = said.get("kind")
    return {
        "PRIORITY": str(priority(record.levelno)), "SYSLOG_IDENTIFIER": _IDENTIFIER, "LOGGER": record.name,
        "THREAD_NAME": thread, "CODE_FILE": record.pathname, "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName, **({"VEDETTE_STAGE": stage} if stage else {}),
        **({"VEDETTE_SOURCE": source} if source else {}), **({"MESSAGE_ID": kind.value} if kind else {}),
    }


def priority(level: int) -> int:
    """Return syslog's priority for a level of logging."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


class _Native(logging.Handler):
    """Hands records to journald with their fields."""

    def __init__(self, journal: Any) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info and record.exc_info[0]:
                message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
            self._journal.send(message, **fields(record))
        except (OSError, ValueError, TypeError):  # journald is away, or takes it amiss: one line lost, not the agent
            self.handleError(record)


class _Prefixed(logging.Formatter):
    """Begins each line with its priority, as sd-daemon(3) has it."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def set_up(level: str) -> None:
    """Send all log lines of at least ``level`` to the journal if that is where standard error goes, else there."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    if _to_the_journal():
        try:
            handler = _Native(import_module("systemd.journal"))  # only here: it is not on every machine
        except ImportError:
            handler.setFormatter(_Prefixed("%(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _to_the_journal() -> bool:
    """Tell whether standard error is journald's socket; see JOURNAL_STREAM in systemd.exec(5)."""
    try:
        where = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{where.st_dev}:{where.st_ino}"
