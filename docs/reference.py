"""Write docs/configuration.md from the structs of agent/config.py: ``python docs/reference.py``."""

import sys
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from agent.config import Config, QuietHours, SourceSection
from agent.units import PerSecond, Quantity

_HEAD = """\
# Configuration

One TOML file, by default `/etc/vedette/config.toml`; the files of `conf.d/*.toml` beside it are laid over it in the
order of their names, key by key. An unknown key or a bad value is an error (exit code 78) that names file, key, value
and remedy.

`vedette config check` looks at what the file names on this machine, without a network. A fault is what `vedette run`
ends on: no such recipe, its model, the runtime or its provider, the upstream's token, the state directory; that gives
exit code 78. A warning is what it starts with and is degraded by until it is mended: a camera, a clip, a password, a
certificate, the page's token, a smaller canvas that is none; that gives exit code 0, so `vedette config check &&
systemctl start vedette` starts it. The installers go by this, too. `--json` prints both, each with its `kind`.

`vedette config show` prints what it comes to with all defaults, addresses without what is secret in them.

Quantities carry their unit: `"250ms"`, `"10s"`, `"600MB"`, `"9W"`, `"85C"`, `"10fps"`. A rate, a power and an amount of
bytes are more than 0: leave a limit out for no limit. A timeout is more than 0 and at most `"10min"`.

A relative path starts at the folder of the main file, `config.toml`, even if it stands in `conf.d`: keep certificates,
secrets and recipes beside it (`ca_file = "ca.pem"`, `recipes = ["recipes"]`). Only the address of a source
(`file:///…`) is always absolute.

Secrets never stand in the file: write `"file:/path"` (mode 0400) or `"credential:NAME"` (systemd's `LoadCredential`).
An `@` in any address is refused, as a login may hide before it; one that is meant is written `%40`.

The smallest useful file:

```toml
[source.door]
url = "rtsp://192.0.2.7/stream1"
username = "viewer"
password = "file:/etc/vedette/door.password"

[upstream]
url = "https://reports.example.com/v1/events"
ca_file = "/etc/vedette/ca.pem"
```

<!-- Below this line: written by `make docs` from agent/config.py; a test compares. -->
"""


def _kind(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in inner)
    if origin in (Union, types.UnionType):
        return _kind(next(arg for arg in inner if arg is not type(None)))
    if origin is list:
        return "tables, see below" if hasattr(inner[0], "__struct_fields__") else f"list of {_kind(inner[0])}"
    if isinstance(hint, type) and issubclass(hint, Quantity):
        name = "rate" if hint is PerSecond else hint.__name__.lower()
        return f'{name}, like `"{hint.example}"`'
    return {str: "text", bool: "`true` or `false`", int: "whole number", float: "number"}.get(hint, str(hint))


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**required**"
    if field.default is None:
        return "not set"
    if field.default is msgspec.NODEFAULT:
        return f"`{field.default_factory()}`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f'`"{field.default}"`' if isinstance(field.default, (str, Quantity)) else f"`{field.default}`"


def _text(hint: Any) -> str:
    found = [meta.description for meta in getattr(hint, "__metadata__", ()) if getattr(meta, "description", None)]
    return " ".join(found)


def reference() -> str:
    """Return the whole page."""
    lines = [_HEAD]
    for section in msgspec.structs.fields(Config):
        struct: type[msgspec.Struct] = SourceSection if section.name == "source" else type(section.default)
        lines += _table("[source.NAME]" if section.name == "source" else f"[{section.name}]", struct)
        if section.name == "budget":
            lines += _table("[[budget.quiet_hours]]", QuietHours)
    return "\n".join(lines)


def _table(title: str, struct: type[msgspec.Struct]) -> list[str]:
    hints = get_type_hints(struct, include_extras=True)
    return [f"## `{title}`", "", (struct.__doc__ or "").strip(), "", "| key | value | default | meaning |",
            "|---|---|---|---|",
            *(f"| `{field.name}` | {_kind(hints[field.name])} | {_default(field)} | {_text(hints[field.name])} |"
              for field in msgspec.structs.fields(struct)), ""]


if __name__ == "__main__":
    sys.stdout.write(reference())
