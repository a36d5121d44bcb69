"""The JSON Schema of what ``vedette status --json`` prints, made from the structs themselves."""

import inspect
import json

import msgspec

from agent.asking import NoAnswer
from agent.snapshot import SCHEMA, Snapshot

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_text() -> str:
    """Return the schema: an agent's answer, or the object that stands for none."""
    ways, parts = msgspec.json.schema_components((Snapshot, NoAnswer), ref_template="#/$defs/{name}")
    for part in parts.values():
        part["description"] = inspect.cleandoc(part["description"]).replace("``", "`")
    whole = {"$schema": _DIALECT, "title": f"vedette status --json, schema {SCHEMA}", "oneOf": list(ways),
             "$defs": parts}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=False) + "\n"
