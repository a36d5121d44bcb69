"""What is wrong with a configuration: from a failed check to file, key, value and remedy.

Promises: nothing that may be a secret is repeated; of an address only what :func:`agent.redact.redact` leaves. It
judges values alone and opens nothing: what the values name is looked at by ``vedette config check``.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec

from agent.errors import ConfigError
from agent.redact import redact
from agent.units import quantity

if TYPE_CHECKING:
    from agent.config import BudgetSection, Config, SourceSection, UpstreamSection

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}\Z"
KEYS = "see docs/configuration.md, or `vedette config show` for all keys"
_SECRETS = re.compile(r"source\..+\.password|upstream\.(token|client_key)")
_SAID = re.compile(r"(.*?)(?: - at `\$([^`]*)`)?", re.DOTALL)  # msgspec: text and, but for the root, path
_REFERENCE = re.compile(r"file:[^\0]+|credential:\w[\w.@-]*")
_LEAST_SPOOL = 1 << 20  # bytes; below, SQLite's own pages and the log beside them leave no room for events


class Problem(NamedTuple):
    """One fault: the key, what is wrong with its value, and how to mend it."""

    key: str
    what: str
    remedy: str


class _Address(NamedTuple):
    schemes: tuple[str, ...]
    example: str
    login: str  # what to do instead of writing a login into the address


_SOURCE = _Address(("rtsp", "rtsps", "v4l2", "csi", "file", "images"), "rtsp://host:554/path",
                   'move them to `username` and `password = "file:/path"` (or "credential:NAME")')
_UPSTREAM = _Address(("https",), "https://host/path", 'use `token = "file:/path"` (or "credential:NAME")')
_PROXY = _Address(("http", "https"), "http://host:port", "let the proxy know this box without a login")
_ON_A_NETWORK = frozenset({"rtsp", "rtsps", "http", "https"})


def explained(error: msgspec.ValidationError, values: Mapping[str, Any], origin: Mapping[str, Path], path: Path,
              root: type[msgspec.Struct]) -> ConfigError:
    """Return the error a person can act on.

    Args:
        error: What msgspec found.
        values: The files laid over each other.
        origin: Which file set a key.
        path: The first file.
        root: The struct the values were read as.
    """
    said = _SAID.fullmatch(str(error))
    text, where = said.groups("") if said else (str(error), "")
    key = _key(where, text, values, root)
    if match := re.match(r"Object contains unknown field `(.+)`", text):
        known = _table(root, key)
        key = ".".join(filter(None, (key, match.group(1))))
        names = f"; keys here: {', '.join(known.__struct_fields__)}" if known else ""
        return ConfigError(f"{origin_of(key, origin, path)}: {key}: unknown key",
                           f"remove it or correct its spelling{names}")
    if match := re.match(r"Object missing required field `(.+)`", text):
        return ConfigError(f"{origin_of(key, origin, path)}: {key}.{match.group(1)}: missing",
                           f"add `{match.group(1)} = …` to [{key}]")
    file = origin_of(key, origin, path)
    if _SECRETS.fullmatch(key):
        return ConfigError(f"{file}: {key}: this is no reference to a secret", _HOW_TO_HIDE)
    remedy = f"write it as a table: [{key}{'.NAME' * (key == 'source')}]" if "Expected `object`" in text else KEYS
    return ConfigError(f"{file}: {key}{_shown(values, key)}: {redact(text)}", remedy)


def origin_of(key: str, origin: Mapping[str, Path], default: Path) -> Path:
    """Return the file that set ``key`` or its nearest table."""
    while key:
        if key in origin:
            return origin[key]
        key = key.rpartition(".")[0]
    return default


def contradictions(config: "Config") -> Iterator[Problem]:
    """Yield what types alone cannot see."""
    if not config.source:
        yield Problem("source", "no source is configured", 'add one: [source.door] and url = "rtsp://…"')
    for name, source in config.source.items():
        yield from _source_problems(name, source)
    if config.spool.max_bytes < _LEAST_SPOOL:
        yield Problem("spool.max_bytes", f"{config.spool.max_bytes} is too little for a spool", "give it 1MiB or more")
    yield from _budget_problems(config.budget)
    yield from _upstream_problems(config.upstream)


def _budget_problems(budget: "BudgetSection") -> Iterator[Problem]:
    if budget.policy == "min_energy" and budget.fps is None:
        yield Problem("budget.fps", "missing, but `min_energy` must know what to reach", 'add `fps = "10fps"`')
    if budget.policy != "min_energy" and budget.fps is not None:
        yield Problem("budget.fps", f"only `min_energy` looks at it, and the policy is {budget.policy!r}",
                      'add `policy = "min_energy"`, or use `rate` for an upper limit')
    areas = [height * width for height, width in budget.sizes]
    if any(later >= earlier for earlier, later in pairwise(areas)):
        yield Problem("budget.sizes", "each canvas must be smaller than the one before it", "sort them, largest first")
    if budget.telemetry == "off" and budget.policy != "off" and (budget.watts or budget.celsius is not None):
        yield Problem("budget.telemetry", "without sensors watts and celsius cannot be kept",
                      'write `telemetry = "auto"`, or `policy = "off"`')
    for key, value in (("nvpmodel", budget.nvpmodel), ("jetson_clocks", budget.jetson_clocks)):
        if value is not None and budget.telemetry not in {"auto", "jtop"}:
            yield Problem(f"budget.{key}", f"only jtop can set it, and telemetry is {budget.telemetry!r}",
                          f'write `telemetry = "auto"` or "jtop", or leave {key} out')


def _source_problems(name: str, source: "SourceSection") -> Iterator[Problem]:
    key = f"source.{name}"
    if not re.match(NAME, name):
        yield Problem(key, f"{name!r} is no good name", "use lower-case letters, digits, - and _")
    yield from _bad_address(f"{key}.url", source.url, _SOURCE)
    yield from _bad_secret(f"{key}.password", source.password)
    if source.password is not None and source.username is None:
        yield Problem(f"{key}.username", "missing, but there is a password", 'add `username = "…"`')


def _upstream_problems(upstream: "UpstreamSection") -> Iterator[Problem]:
    if upstream.url is not None:
        yield from _bad_address("upstream.url", upstream.url, _UPSTREAM)
    if upstream.proxy is not None:
        yield from _bad_address("upstream.proxy", upstream.proxy, _PROXY)
    if (upstream.client_cert is None) != (upstream.client_key is None):
        yield Problem("upstream.client_cert", "client_cert and client_key go together", "give both or neither")
    yield from _bad_secret("upstream.client_key", upstream.client_key)
    yield from _bad_secret("upstream.token", upstream.token)
    if upstream.retry_min > upstream.retry_max:
        yield Problem("upstream.retry_min", f"{upstream.retry_min} is more than retry_max, {upstream.retry_max}",
                      "the first wait must not be longer than the longest: change one of them")


def _bad_address(key: str, url: str, kind: _Address) -> Iterator[Problem]:
    """Check host, port and scheme, and that no login hides anywhere: a raw password may hold any character."""
    if "@" in url:
        yield Problem(key, "user or password inside the address", f"{kind.login}; an @ that is meant is written %40")
    elif " " in url or not url.isprintable():
        yield Problem(key, "a blank or a control character in the address", "write a blank as %20")
    elif (parts := _split(url)) is None:
        yield Problem(key, "its host or port is malformed", f"write it like {kind.example}")
    elif parts.scheme not in kind.schemes:
        why = ": reports travel over TLS only" if kind is _UPSTREAM else ""
        yield Problem(key, f"{redact(url)!r}: {parts.scheme or 'no'} scheme is not known here",
                      f"use {' or '.join(f'{scheme}://' for scheme in kind.schemes)}{why}")
    elif parts.scheme in _ON_A_NETWORK and not parts.hostname:
        yield Problem(key, f"{redact(url)!r}: no host", f"write it like {kind.example}")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text would repeat a part of the address
        return None
    return None if port == 0 else parts


_HOW_TO_HIDE = ('put the secret in a file of mode 0400 and write "file:/path", or use systemd\'s LoadCredential and '
                'write "credential:NAME"')


def _bad_secret(key: str, reference: str | None) -> Iterator[Problem]:
    if reference is not None and not _REFERENCE.fullmatch(reference):
        yield Problem(key, "a secret stands in the configuration", _HOW_TO_HIDE)


def _key(where: str, text: str, values: Mapping[str, Any], root: type[msgspec.Struct]) -> str:
    """Return msgspec's path as a key; it names no dictionary keys, so that of the source is looked for."""
    head, is_source, tail = where.partition(".source[...]")
    if is_source and not head:
        for name, table in values["source"].items():
            kind = _table(root, f"source.{name}")
            try:
                msgspec.convert(table, kind, dec_hook=quantity)
            except msgspec.ValidationError as error:
                if str(error) == (f"{text} - at `${tail}`" if tail else text):
                    where = f".source.{name}{tail}"
                    break
    return re.sub(r"\[[^\]]*\]", "", where).lstrip(".")


def _table(root: type[msgspec.Struct], key: str) -> type[msgspec.Struct] | None:
    """Return the struct that the table ``key`` is read as."""
    kind: Any = root
    for part in filter(None, key.split(".")):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            kind = get_type_hints(kind).get(part) if hasattr(kind, "__struct_fields__") else None
    return kind if hasattr(kind, "__struct_fields__") else None


def _shown(values: Any, key: str) -> str:
    """Return the value for a message; tables and lists of text are left out, as they may hold what is secret."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return ""
        values = values[part]
    if isinstance(values, str):
        return f" = {redact(repr(values))}"
    numbers = values if isinstance(values, list) else [values]
    return f" = {values!r}" if all(isinstance(number, (int, float)) for number in numbers) else ""
