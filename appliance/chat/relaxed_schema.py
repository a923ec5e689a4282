"""What can be kept of a JSON schema: for tools that don't ask for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from llguidance import LLMatcher

from appliance.chat import json_schema
from appliance.chat.subschemas import subschemas

# What says nothing of a value.
_NOTES = ("$comment", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly")
_COUNTS = ("minProperties", "maxProperties")


def relaxed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without the keywords that can't be enforced, and without notes. One that is malformed stays so."""
    copy: dict[str, Any] = orjson.loads(orjson.dumps(schema))
    if str(copy.get("$schema")).removesuffix("#") not in json_schema.DIALECTS:
        copy.pop("$schema", None)
    try:
        for node, word in json_schema.unenforceable(copy):
            _remove(node, word)
        nodes = subschemas(copy)
        for node in nodes:
            _relax(node)
        for word in json_schema.unenforceable_together(copy):
            for node in nodes:
                node.pop(word, None)
    except (AttributeError, TypeError, ValueError):  # what should be a number is a text, and the like
        return dict(schema)
    return copy


def _remove(node: dict[str, Any], word: str) -> None:
    node.pop(word, None)
    if word == "patternProperties":  # else their names would be none that may be there
        node.pop("additionalProperties", None)


def _relax(node: dict[str, Any]) -> None:
    for word in _NOTES:
        node.pop(word, None)
    # Where no JSON can meet two of them, which is what can be enforced, it is the same.
    if "oneOf" in node:
        node.setdefault("anyOf", node.pop("oneOf"))
    if "pattern" in node and not _can_follow({"type": "string", "pattern": node["pattern"]}):
        del node["pattern"]
    # To find whether a name could meet two of them takes long, and here somebody waits for it.
    if len(node.get("patternProperties", ())) > 1:
        _remove(node, "patternProperties")
    for words in (_COUNTS, ("patternProperties",)):
        if node.keys() & {*_COUNTS, "patternProperties"} and not _can_follow(_names_only(node)):
            for word in words:
                _remove(node, word)


def _names_only(node: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema says of an object's names."""
    said = {word: node[word] for word in ("required", *_COUNTS) if word in node}
    for word in ("properties", "patternProperties"):
        said[word] = dict.fromkeys(node.get(word, ()), True)
    return {**said, "type": "object", "additionalProperties": node.get("additionalProperties") is not False}


def _can_follow(schema: dict[str, Any]) -> bool:
    return _is_followed(orjson.dumps(schema).decode())


@lru_cache(maxsize=256)
def _is_followed(schema: str) -> bool:
    """Whether llguidance knows what a schema means: it has no lookarounds, for one."""
    is_error, _ = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_json_schema(schema))
    return not is_error
