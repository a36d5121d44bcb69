"""Text without secrets, for what leaves the box: known ones by their value, all others by the place they stand in.

:mod:`agent.redact` knows the places in addresses; here are those in settings, headers, units and logs. It would rather
hide too much of a line than too little. A reference (``file:PATH``, ``credential:NAME``) is no secret and stays.
"""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from agent.redact import HIDDEN, redact

_LEAST = 4  # letters: shorter values would tear holes into every word
_WORDS = r"(?:token|passw|pwd|secret|api[_-]?key|private[_-]?key|credential|signature|passphrase)"
SECRET_KEY = re.compile(rf"{_WORDS}|^pass$|^client_key$|^username$", re.IGNORECASE)
"""Names of settings whose values are hidden."""
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_RULES = (
    (re.compile(r"^(\s*(?:Set(?:Credential|LoginEnvironment)\w*)=[^:\n]*:?).*$", re.IGNORECASE | re.MULTILINE),
     rf"\1{HIDDEN}"),
    # A variable of a telling name may go on behind a blank, so nothing of its line stays.
    (re.compile(rf"^(\s*Environment=)[^\n]*{_WORDS}[^\n]*$", re.IGNORECASE | re.MULTILINE), rf"\1{HIDDEN}"),
    (re.compile(r"((?:proxy-)?authorization[\"']?\s*[:=])[^\n]*", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(bearer\s+)\S+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"(--[\w-]*{_WORDS}[\w-]*[ =])\S+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(
        rf"((?<!\w)(?<!Credential=)(?<!Encrypted=)(?!LoadCredential|credential:[\w.-])[\w.-]*{_WORDS}[\w.-]*[\"']?\s*[:=]\s*)"
        rf"(?![\"']?(?:file|credential):)(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s\"']\S*)", re.IGNORECASE), rf"\1{HIDDEN}"),
)


class Scrubber:
    """Takes secrets out of texts and values.

    Args:
        secrets: Those that are known; of a text of several lines, such as a key, every long line counts as well.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            whole = secret.strip()
            lines = [line.strip() for line in whole.splitlines()]
            for value in {whole, *(line for line in lines if len(line) > 16)}:
                if len(value) >= _LEAST and not value.startswith("-----"):
                    coded = base64.b64encode(value.encode()).decode()
                    forms |= {value, quote(value, safe=""), quote_plus(value), coded}
        self._known = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return ``text`` without secrets."""
        for value in self._known:
            text = text.replace(value, HIDDEN)
        text = redact(_PEM.sub(HIDDEN, text))
        for pattern, instead in _RULES:
            text = pattern.sub(instead, text)
        return text

    def value(self, value: object, *, by_key: bool = False) -> object:
        """Return a decoded JSON or TOML value without secrets.

        Args:
            value: Of dictionaries, lists, strings and plain values.
            by_key: What stands behind a telling key is hidden too, unless it is a reference.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): HIDDEN if by_key and _telling(str(key), item)
                    else self.value(item, by_key=by_key) for key, item in value.items()}
        return [self.value(item, by_key=by_key) for item in value] if isinstance(value, list | tuple) else value


def _telling(key: str, item: object) -> bool:
    plain = not isinstance(item, dict | list)
    return plain and bool(SECRET_KEY.search(key)) and not str(item).startswith(("file:", "credential:"))
