"""The errors a person can act on: each says what is wrong, with which value, and how to mend it.

Foreign exceptions (OpenCV, ONNX Runtime, requests, sqlite3) stop at their adapter and leave it as one of these.
An exception that is not an ``AgentError`` is a defect: it ends the process and systemd starts it again.
"""

import errno

EXIT_OK = 0
EXIT_DEGRADED = 1
EXIT_DOWN = 2
EXIT_USAGE = 64
EXIT_SOFTWARE = 70
EXIT_CONFIG = 78


class AgentError(Exception):
    """Base of all errors shown to an operator.

    Args:
        what: One sentence that names the thing and the value that is wrong.
        remedy: How to mend it, as an instruction; empty only where nothing can be done by hand.
    """

    exit_code = EXIT_DOWN

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        """Return both halves on one line, as logs and the command line print it."""
        return f"{self.what}\n  mend: {self.remedy}" if self.remedy else self.what


_MENDED_BY_HAND = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
                   errno.ENAMETOOLONG}


def unusable(error: OSError, what: str, remedy: str) -> AgentError:
    """Return the error for a path of the configuration that cannot be used.

    A wrong path is a fault of the configuration, which only a person mends. A full, read-only or failing disk is none:
    it may pass, and whoever starts the agent should try again.

    Args:
        error: What the system said.
        what: See :class:`AgentError`; the system's words are added.
        remedy: How to correct the configuration.
    """
    words = f"{what}: {error.strerror or error}"
    if error.errno in _MENDED_BY_HAND or error.errno is None:
        return ConfigError(words, remedy)
    return AgentError(words, "look at the disk and the machine (`dmesg`); it is tried again by itself")


class ConfigError(AgentError):
    """A configuration or recipe file that cannot be used as it stands (exit 78)."""

    exit_code = EXIT_CONFIG


class ModelError(AgentError):
    """A model that cannot be fetched, checked, prepared or understood."""


class EngineError(AgentError):
    """An engine that cannot be loaded or whose run failed; a failed run never yields old results."""


class SourceError(AgentError):
    """A source that cannot be opened or read now; the reader tries again later."""


class SourceGoneError(SourceError):
    """A finite source (a file, a folder) that can never be read as it stands: trying again is useless."""


class EndOfStreamError(AgentError):
    """A finite source delivered its last frame. Not a fault."""


class SpoolError(AgentError):
    """The durable queue cannot be opened or written."""


def missing_extra(extra: str) -> str:
    """Return the remedy for a package that the extra ``extra`` of pyproject.toml brings.

    It names the checkout, never a package index: the name vedette may be a stranger's there.
    """
    return f"install vedette with its extra: `pip install -e '.[{extra}]'` in its checkout"
