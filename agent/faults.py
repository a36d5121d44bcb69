"""What is wrong with a configuration: from a failed check to file, key, value and remedy.

Promises: nothing that may be a secret is repeated; of an address only what :func:`agent.redact.redact` leaves. It
judges values alone and opens nothing: what the values name is looked at by ``vedette config check``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec

from agent.errors import ConfigError
from agent.redact import redact
from agent.units import Bytes, Celsius, Quantity, quantity

if TYPE_CHECKING:
    from agent.config import BudgetSection, Config, QuietHours, SourceSection, UpstreamSection

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}\Z"
KEYS = "see docs/configuration.md, or `vedette config show` for all keys"
_SECRETS = re.compile(r"source\..+\.password|upstream\.(token|client_key)|status\.token")
_SAID = re.compile(r"(.*?)(?: - at `\$([^`]*)`)?", re.DOTALL)  # msgspec: text and, but for the root, path
_REFERENCE = re.compile(r"file:[^\0]+|credential:\w[\w.@-]*")
_NO_LIMIT = "leave it out for no limit"  # as agent/units.py says it of a zero
_NAMES = "use lower-case letters, digits, - and _"
_REMEDIES = {
    "budget.sizes": "write a list of [height, width] pairs, each side from 32 to 4096 pixels: [[480, 640], [320, 320]]",
    "status.listen": 'write it like "127.0.0.1:8642"', "device.id": _NAMES, "engine.recipe": _NAMES,
}
_LEAST_SPOOL = 1 << 20  # bytes; below, SQLite's own pages and the log beside them leave no room for events
_LEAST_MEMORY = Bytes(32e6)  # a Python process with numpy alone takes more
_COLDEST, _HOTTEST = Celsius(20), Celsius(130)  # a room; more than any silicon of a board is let reach


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
                           f"add `{match.group(1)} = …` to {_header(key)}")
    file = origin_of(key, origin, path)
    if _SECRETS.fullmatch(key):
        return ConfigError(f"{file}: {key}: this is no reference to a secret", _HOW_TO_HIDE)
    text, remedy = _put(key, text, root)
    return ConfigError(f"{file}: {key}{_shown(values, key)}: {redact(text)}", remedy)


def _put(key: str, text: str, root: type[msgspec.Struct]) -> tuple[str, str]:
    """Return what is wrong with a value and how to mend it, from msgspec's ``text``."""
    kind = _hint(root, key)
    if get_origin(kind) is Literal:
        text = "it has no such value" if text.startswith("Invalid enum value") else text
        return text, f"write one of {', '.join(json.dumps(value) for value in get_args(kind))}"
    if re.fullmatch(r"budget\.quiet_hours\[\d+\]\.(begin|end)", key):
        return "this is no time of day", 'write HH:MM in quotes, for example "22:00"'
    if re.fullmatch(r"budget\.quiet_hours(\[\d+\])?", key):
        return text, f"write each entry below double brackets: {_header(key)}"
    if "Expected `object`" in text:
        return text, f"write it as a table: [{key}{'.NAME' * (key == 'source')}]"
    table, _, name = key.rpartition(".")
    fields = msgspec.structs.fields(struct) if (struct := _table(root, table)) else ()
    default = next((field.default for field in fields if field.name == name), None)
    if isinstance(default, Quantity):
        text = text.replace(_NO_LIMIT, f"leave it out for {default}")
    return re.sub(r"Expected `str` matching regex .*", "it is not of the right form", text), _REMEDIES.get(key, KEYS)


def _header(key: str) -> str:
    """Return how the table ``key`` is headed in TOML; one of a list has two brackets."""
    listed = re.fullmatch(r"(budget\.quiet_hours)(?:\[\d+\])?", key)
    return f"[[{listed[1]}]]" if listed else f"[{key}]"


def origin_of(key: str, origin: Mapping[str, Path], default: Path) -> Path:
    """Return the file that set ``key``, its list or its nearest table."""
    while key:
        if key in origin:
            return origin[key]
        key = key[:max(key.rfind("."), key.rfind("["), 0)]
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
    yield from _bad_secret("status.token", config.status.token)
    if config.status.listen and not 0 < int(config.status.listen.rpartition(":")[2]) < 65536:
        yield Problem("status.listen", "no such port", 'give one from 1 to 65535: "127.0.0.1:8642"')


def _budget_problems(budget: "BudgetSection") -> Iterator[Problem]:
    if budget.policy == "min_energy" and budget.fps is None:
        yield Problem("budget.fps", "missing, but `min_energy` must know what to reach", 'add `fps = "10fps"`')
    if budget.policy != "min_energy" and budget.fps is not None:
        yield Problem("budget.fps", f"only `min_energy` looks at it, and the policy is {budget.policy!r}",
                      'add `policy = "min_energy"`, or use `rate` for an upper limit')
    areas = [height * width for height, width in budget.sizes]
    if any(later >= earlier for earlier, later in pairwise(areas)):
        yield Problem("budget.sizes", "each canvas must be smaller than the one before it", "sort them, largest first")
    if budget.rate is not None:
        yield from _above_the_rate(budget, budget.rate)
    if budget.memory is not None and budget.memory < _LEAST_MEMORY:
        yield Problem("budget.memory", f"{budget.memory} is less than the agent takes before it has any engine",
                      f"give it {_LEAST_MEMORY} or more; `vedette status` shows what it takes")
    yield from _bad_celsius("budget.celsius", budget.celsius)
    for number, hours in enumerate(budget.quiet_hours):
        yield from _quiet_problems(f"budget.quiet_hours[{number}]", hours)
    if budget.telemetry == "off" and budget.policy != "off" and (budget.watts or budget.celsius is not None):
        yield Problem("budget.telemetry", "without sensors watts and celsius cannot be kept",
                      'write `telemetry = "auto"`, or `policy = "off"`')
    for key, value in (("nvpmodel", budget.nvpmodel), ("jetson_clocks", budget.jetson_clocks)):
        if value is not None and budget.telemetry not in {"auto", "jtop"}:
            yield Problem(f"budget.{key}", f"only jtop can set it, and telemetry is {budget.telemetry!r}",
                          f'write `telemetry = "auto"` or "jtop", or leave {key} out')


def _above_the_rate(budget: "BudgetSection", rate: Quantity) -> Iterator[Problem]:
    if budget.fps is not None and budget.fps > rate:
        yield Problem("budget.fps", f"{budget.fps} can never be reached: budget.rate allows {rate}",
                      f'write `fps = "{rate}"` or less, or `rate = "{budget.fps}"` or more')
    # The default may be above: nobody wrote it, and the rate holds all the same.
    if budget.safe_rate > rate and budget.safe_rate != type(budget)().safe_rate:
        yield Problem("budget.safe_rate", f"{budget.safe_rate} is more than budget.rate allows, {rate}",
                      f'write `safe_rate = "{rate}"` or less, or `rate = "{budget.safe_rate}"` or more')


def _bad_celsius(key: str, limit: Celsius | None) -> Iterator[Problem]:
    if limit is not None and not _COLDEST <= limit <= _HOTTEST:
        why = "a limit below the air's temperature pauses for ever" if limit < _COLDEST else "no board runs at that"
        yield Problem(key, f"{limit}: {why}", f'write {_COLDEST} to {_HOTTEST}, for example "85C"')


def _quiet_problems(key: str, hours: "QuietHours") -> Iterator[Problem]:
    if hours.begin == hours.end:
        yield Problem(key, f"begin and end are both {hours.begin}, so they hold all day",
                      "write another `end`; limits for the whole day belong into [budget]")
    if hours.rate is None and hours.watts is None and hours.celsius is None:
        yield Problem(key, "it limits nothing",
                      'add `rate = "2fps"`, `watts = "5W"` or `celsius = "60C"`, or remove it')
    yield from _bad_celsius(f"{key}.celsius", hours.celsius)


def _source_problems(name: str, source: "SourceSection") -> Iterator[Problem]:
    key = f"source.{name}"
    if not re.match(NAME, name):
        yield Problem(key, f"{name!r} is no good name", _NAMES)
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
    return re.sub(r"(?<!\.quiet_hours)\[[^\]]*\]", "", where).lstrip(".")  # which of the tables is worth knowing


def _table(root: type[msgspec.Struct], key: str) -> type[msgspec.Struct] | None:
    """Return the struct that the table ``key`` is read as."""
    kind = _hint(root, key)
    return kind if hasattr(kind, "__struct_fields__") else None


def _hint(root: type[msgspec.Struct], key: str) -> Any:
    """Return the type that ``key`` is read as; None = there is no such key."""
    kind: Any = root
    for part in filter(None, key.split(".")):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
            continue
        name, listed, _ = part.partition("[")
        kind = get_type_hints(kind).get(name) if hasattr(kind, "__struct_fields__") else None
        if listed and get_origin(kind) is list:
            kind = get_args(kind)[0]
    return kind


def _shown(values: Any, key: str) -> str:
    """Return the value for a message; tables and lists of text are left out, as they may hold what is secret."""
    for part in re.sub(r"(?<=quiet_hours)\[", ".", key).replace("]", "").split("."):
        if isinstance(values, list) and part.isdecimal():
            values = values[int(part)]
        elif isinstance(values, Mapping) and part in values:
            values = values[part]
        else:
            return ""
    if isinstance(values, str):
        return f" = {redact(repr(values))}"
    return f" = {values!r}" if _all_numbers(values) else ""


def _all_numbers(value: object) -> bool:
    return all(map(_all_numbers, value)) if isinstance(value, list) else isinstance(value, (int, float))
