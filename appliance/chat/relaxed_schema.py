"""What can be kept of a JSON schema: for tools that don't ask for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from llguidance import LLMatcher

from appliance.chat import json_schema
from appliance.chat.subschemas import subschemas


def relaxed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without the keywords that can't be enforced. One that is malformed stays so."""
    copy: dict[str, Any] = orjson.loads(orjson.dumps(schema))
    if str(copy.get("$schema")).removesuffix("#") not in json_schema.DIALECTS:
        copy.pop("$schema", None)
    try:
        for node, word in json_schema.unenforceable(copy):
            node.pop(word, None)
        for node in subschemas(copy):
            _relax(node)
    except (AttributeError, TypeError, ValueError):  # what should be a number is a text, and the like
        return dict(schema)
    return copy


def _relax(node: dict[str, Any]) -> None:
    # Where no JSON can meet two of them, which is what can be enforced, it is the same.
    if "oneOf" in node:
        node.setdefault("anyOf", node.pop("oneOf"))
    if "pattern" in node and not _can_follow(node["pattern"]):
        del node["pattern"]


@lru_cache(maxsize=1024)
def _can_follow(pattern: str) -> bool:
    """Whether llguidance knows what it means: it has no lookarounds, for one."""
    schema = orjson.dumps({"type": "string", "pattern": pattern}).decode()
    is_error, _ = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_json_schema(schema))
    return not is_error
