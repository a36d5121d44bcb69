"""The page's token: made or read, and asked of whoever comes. Imports nothing heavy: ``vedette page`` uses it."""

import hashlib
import hmac
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent.atomic import write_atomic
from agent.config import Config
from agent.errors import ConfigError, unusable
from agent.reading import read_small
from agent.secrets import read_secret

_LOG = logging.getLogger(__name__)
_BYTES, _MOST = 18, 128
_LEAST = 16
_TOLD_EVERY_S = 60.0
TOKEN_FILE = "page-token"  # noqa: S105 -- a name


def token_path(config: Config) -> Path:
    """Return the file of a token that the agent made itself."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or config.device.runtime_dir
    return Path(folder, TOKEN_FILE)


def agents_token(config: Config) -> str:
    """Return the token of the configuration; without one, make one that the agent's group may read.

    Raises:
        ConfigError: it cannot be read or written, or could be guessed.
    """
    if config.status.token:
        token = read_secret(config.status.token)
        if len(token) < _LEAST or not token.isascii() or not token.isprintable():
            raise ConfigError(f"status.token has fewer than {_LEAST} characters, or others than plain ASCII",
                              "write a longer one into its file: `openssl rand -hex 16`")
        return token
    token, path = secrets.token_urlsafe(_BYTES), token_path(config)
    try:
        write_atomic(path, token.encode(), mode=0o640)
    except OSError as error:
        raise ConfigError(f"{path}: the page's token cannot be written: {error.strerror or error}",
                          "set [status] token, or [device] runtime_dir to a folder this user may write") from error
    return token


def made_token(path: Path) -> str:
    """Return the token that the agent made itself; root may ask, so what else may stand there is refused.

    Raises:
        ConfigError: it is not there, may not be read, or is no such token.
    """
    try:
        token = read_small(path, _MOST).data.decode("ascii", "replace").strip()
    except OSError as error:
        raise unusable(error, f"secret {path}", "restart the agent: it makes the token anew") from error
    if not re.fullmatch(r"[A-Za-z0-9_-]+", token):
        raise ConfigError(f"secret {path} is no token of the agent's", "restart the agent: it makes the token anew")
    return token


class Door:
    """Lets in whoever has the token.

    Args:
        token: What is asked for.
        device: The cookie is named after it: browsers do not keep ports apart, and several boxes may be looked at
            through one computer's loopback address.
    """

    def __init__(self, token: str, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token.encode()
        self._pass = hmac.new(self._token, b"vedette page", hashlib.sha256).hexdigest()
        self._name = f"vedette-{hashlib.sha256(device.encode()).hexdigest()[:8]}"
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong = 0
        self._told_at = -_TOLD_EVERY_S

    @property
    def set_cookie(self) -> str:
        """The header's value that lets a browser in from now on; what it holds is not the token."""
        return f"{self._name}={self._pass}; HttpOnly; SameSite=Strict; Path=/"

    def knows_token(self, token: str, client: str) -> bool:
        """Tell whether this is the token; compared in a time that does not depend on where they differ."""
        return self._judge(token.encode("utf-8", "replace"), self._token, client)

    def knows_cookie(self, cookies: str, client: str) -> bool:
        """Tell whether a Cookie header holds what :attr:`set_cookie` gave."""
        for cookie in cookies.split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self._name:
                return self._judge(value.encode("utf-8", "replace"), self._pass.encode(), client)
        return False

    def _judge(self, given: bytes, wanted: bytes, client: str) -> bool:
        if hmac.compare_digest(given, wanted):
            return True
        with self._lock:
            self._wrong += 1
            if self._clock() - self._told_at < _TOLD_EVERY_S:
                return False
            wrong, self._wrong, self._told_at = self._wrong, 0, self._clock()
        _LOG.warning("the page was asked for with a wrong token, last by %s; %d times since this was last said", client,
                     wrong)
        return False
