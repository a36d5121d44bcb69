"""Secrets by reference: ``file:/path`` or ``credential:NAME`` (systemd's LoadCredential).

A secret never stands in a configuration and never reaches a log.
"""

import errno
import os
import shlex
from pathlib import Path

from agent.errors import ConfigError, unusable
from agent.reading import read_small

CREDENTIALS = Path("/etc/vedette/credentials")
_MOST = 1 << 16  # bytes


def secret_path(reference: str) -> Path:
    """Return the file a secret reference points to.

    Raises:
        ConfigError: ``credential:`` without a systemd credentials directory, or an unknown kind of reference.
    """
    kind, _, rest = reference.partition(":")
    if kind == "file":
        return Path(rest)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder:
        return Path(folder, rest)
    if os.access(CREDENTIALS, os.R_OK | os.X_OK):  # root looks at what the service will be given
        return CREDENTIALS / rest
    raise ConfigError(f"credential {rest!r} is not there: this was not started by systemd with it",
                      _hand_over(rest) if os.environ.get("INVOCATION_ID") else
                      f"use sudo; the service has it once {CREDENTIALS / rest} is written and vedette-setup was run")


def read_secret(reference: str) -> str:
    """Return the secret itself, without surrounding white space; it is never logged.

    Raises:
        ConfigError: the file is missing, may not be read, or is empty.
        AgentError: its disk fails.
    """
    path = secret_path(reference)
    what = f"secret {shlex.quote(str(path))}"  # of a path with a blank the page must see where it ends
    given = reference.startswith("credential:")
    mend = _hand_over(path.name) if given else "create it, readable by the agent's user only"
    try:
        secret = read_small(path, _MOST, links=True).data.decode("utf-8").strip()
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.EFBIG}:  # a pipe that nobody fills, a disk
            raise ConfigError(f"{what} {error.strerror}", "write the secret alone into a plain file") from error
        raise unusable(error, what, mend) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what}: not UTF-8 text", "write the secret into it as text") from error
    if not secret:
        raise ConfigError(f"{what} is empty", "write the secret into it")
    return secret


def _hand_over(name: str) -> str:
    """Return how the service gets a credential: systemd hands it over, as it is at the start."""
    return f"write {CREDENTIALS / name}, run `sudo vedette-setup`, and restart the service"
