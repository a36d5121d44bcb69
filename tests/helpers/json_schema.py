"""A small validator of JSON Schema 2020-12: the keywords that msgspec writes, and an error for any other."""

from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {"object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
                                       "null": (type(None),)}
_WORDS_ONLY = {"$schema", "$defs", "title", "description", "default"}


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "$") -> list[str]:
    """Return what is wrong with value; empty when it is valid."""
    found = []
    for key, rule in schema.items():
        match key:
            case "$ref":
                found += faults(value, root["$defs"][rule.removeprefix("#/$defs/")], root, where)
            case "type":
                kinds = [rule] if isinstance(rule, str) else rule
                if not any(isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in kinds):
                    found.append(f"{where}: {value!r} is no {rule}")
            case "enum":
                found += [] if value in rule else [f"{where}: {value!r} is none of {rule}"]
            case "anyOf" | "oneOf":
                valid = sum(not faults(value, each, root, where) for each in rule)
                if valid == 0 or (key == "oneOf" and valid != 1):
                    found.append(f"{where}: {valid} of {key} fit")
            case "required":
                found += [f"{where}: {name} is missing" for name in rule if isinstance(value, dict) and name not in value]
            case "properties":
                for name, each in rule.items():
                    if isinstance(value, dict) and name in value:
                        found += faults(value[name], each, root, f"{where}.{name}")
            case "additionalProperties":
                others = set(value) - set(schema.get("properties", ())) if isinstance(value, dict) else ()
                for name in others:
                    found += [f"{where}: {name} is not known"] if rule is False else [] if rule is True else faults(value[name], rule, root, f"{where}.{name}")
            case "items":
                if isinstance(value, list) and isinstance(rule, dict):
                    found += [fault for n, each in enumerate(value) for fault in faults(each, rule, root, f"{where}[{n}]")]
            case _ if key not in _WORDS_ONLY:
                raise AssertionError(f"the validator does not know {key!r}: teach it")
    return found
