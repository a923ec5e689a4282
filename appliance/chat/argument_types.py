"""Which JSON types a schema allows: what tells a text from a number where a dialect writes both alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import orjson

# Of what leads from schema to schema.
MAX_DEPTH = 16
_PYTHON = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The names of the JSON types that a value may have; empty: any. ``root`` is where references lead."""
    schema = resolved(schema, root)
    if depth > MAX_DEPTH:
        return frozenset()
    if "enum" in schema and isinstance(schema["enum"], list):
        return frozenset(map(type_of, schema["enum"]))
    if "const" in schema:
        return frozenset([type_of(schema["const"])])
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset([named])
    if isinstance(named, list):
        return frozenset(name for name in named if isinstance(name, str))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found = [types_of(part, root, depth + 1) for part in schema[key]]
            return frozenset().union(*found) if all(found) else frozenset()
    parts = schema.get("allOf")
    for part in parts if isinstance(parts, list) else ():
        if types := types_of(part, root, depth + 1):
            return types
    return frozenset()


def resolved(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """The schema that a reference leads to, or ``schema`` itself; what is none allows anything."""
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if not (isinstance(reference, str) and reference.startswith("#")):
            return schema
        schema = referred(schema, root)
    return {}


def referred(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """What its reference leads to; None if that is no place in ``root``, by a pointer."""
    reference = schema["$ref"]
    if reference != "#" and not (isinstance(reference, str) and reference.startswith("#/")):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def properties_of(root: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of an object's properties, by name."""
    properties = resolved(root, root).get("properties")
    return properties if isinstance(properties, dict) else {}


def type_of(value: Any) -> str:
    """The name of a value's JSON type."""
    return "null" if value is None else _PYTHON.get(type(value), "")


def is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def argument_json(text: str, types: frozenset[str]) -> str:
    """A value that was written as ``text``, as JSON: a string unless one of the other ``types`` is what it spells."""
    if types != {"string"}:
        try:
            found = type_of(json.loads(text, parse_constant=_refuse))
        except (ValueError, RecursionError):
            found = "string"
        is_number = found == "integer" and "number" in types
        if found != "string" and (not types or found in types or is_number):
            return text.strip()
    return json.dumps(text, ensure_ascii=False)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
