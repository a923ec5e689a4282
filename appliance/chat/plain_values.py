"""What a schema says of a value that is written as plain text: which values it lists, or which types it names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any

from appliance.chat.argument_types import MAX_DEPTH, argument_json, referred, type_of
from appliance.chat.dialect import TaggedArguments

# Words that say more of a text, a number, true, false or null than its type.
_NARROWING = frozenset(
    "allOf const enum exclusiveMaximum exclusiveMinimum format maxLength maximum minLength minimum multipleOf"
    " pattern".split()
)
_SAYING = _NARROWING | {"$ref", "type", "anyOf", "oneOf"}
# Words that say more of an object than the schemas of its properties, and which of them must be there.
_OF_OBJECTS = frozenset("allOf anyOf const enum maxProperties minProperties oneOf patternProperties".split())
_ALL_OF_A_TYPE: dict[str, list[Any]] = {"null": [None], "boolean": [True, False]}


def listed(schema: Any, root: Mapping[str, Any], depth: int = 0) -> list[Any] | None:
    """The values that a schema lists, whatever else it says of them; None if it allows others."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    kinds = schema.get("type")
    if "const" in schema or isinstance(schema.get("enum"), list):
        names = [kinds] if isinstance(kinds, str) else kinds
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return [value for value in values if not isinstance(names, list) or _is_one_of(value, names)]
    if "$ref" in schema:
        return listed(referred(schema, root), root, depth + 1)
    if isinstance(kinds, str):
        return _ALL_OF_A_TYPE.get(kinds)
    if not (members := _members(schema)):
        return None
    lists = [listed(member, root, depth + 1) for member in members]
    return None if None in lists else [value for values in lists for value in values or ()]


def says_only(words: Set[str], schema: Any, root: Mapping[str, Any], depth: int = 0) -> bool:
    """Whether a schema of scalars says of a value what these words say, and no more."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return False
    said = schema.keys() & _SAYING
    if said == {"$ref"}:
        return says_only(words, referred(schema, root), root, depth + 1)
    if said in ({"anyOf"}, {"oneOf"}):
        return all(says_only(words, member, root, depth + 1) for member in _members(schema))
    return said <= words


def is_only_properties(parameters: Mapping[str, Any]) -> bool:
    """Whether a schema of an object says nothing but what its properties are, and which must be there."""
    schema: Any = parameters
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, Mapping) or schema.keys() & _OF_OBJECTS:
            return False
        if "$ref" not in schema:
            return True
        if schema.keys() & {"properties", "required"}:
            return False
        schema = referred(schema, parameters)
    return False


def can_hold_key(form: TaggedArguments, key: str) -> bool:
    """Whether a parser finds the end of this name."""
    marks = (form.before_string, form.before_json)
    return not any(0 <= (key + mark).find(other) < len(key) for mark in marks for other in marks)


def can_hold(form: TaggedArguments, value: Any, types: frozenset[str]) -> bool:
    """Whether a parser, which knows that it may be of these types, finds just this value in its text."""
    text = value if isinstance(value, str) else as_json(value)
    if form.before_string != form.before_json:
        types = frozenset(["string"] if isinstance(value, str) else [])
    is_ended = (text + form.after_value).find(form.after_value) == len(text)
    return is_ended and argument_json(text, types) == as_json(value)


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _members(schema: Mapping[str, Any]) -> list[Any]:
    members = schema.get("anyOf", schema.get("oneOf"))
    return members if isinstance(members, list) else []


def _is_one_of(value: Any, types: list[Any]) -> bool:
    kind = type_of(value)
    return kind in types or (kind == "integer" and "number" in types)
