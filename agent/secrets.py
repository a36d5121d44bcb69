"""Secrets by reference: ``file:/path`` or ``credential:NAME`` (systemd's LoadCredential).

A secret never stands in a configuration and never reaches a log.
"""

import os
from pathlib import Path

from agent.errors import ConfigError


def secret_path(reference: str) -> Path:
    """Return the file a secret reference points to.

    Raises:
        ConfigError: ``credential:`` without a systemd credentials directory, or an unknown kind of reference.
    """
    kind, _, rest = reference.partition(":")
    if kind == "file":
        return Path(rest)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(f"credential {rest!r} is not there: the agent was not started by systemd with it",
                          f'add LoadCredential={rest}:/path to the unit, or use "file:/path"')
    return Path(folder, rest)


def read_secret(reference: str) -> str:
    """Return the secret itself, without surrounding white space; it is never logged.

    Raises:
        ConfigError: the file is missing, unreadable or empty.
    """
    path = secret_path(reference)
    try:
        secret = path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"secret {path}: {error.strerror}", "create it, readable by the agent's user only") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"secret {path}: not UTF-8 text", "write the secret into it as text") from error
    if not secret:
        raise ConfigError(f"secret {path} is empty", "write the secret into it")
    return secret
