"""What is left of schemas without what can't be enforced."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.chat import json_schema
from appliance.chat.formats import Verdicts, schema_form
from appliance.chat.relaxed_schema import relaxed


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}}, None),
        ({"oneOf": [{"type": "null"}, {"type": "string"}]}, {"anyOf": [{"type": "null"}, {"type": "string"}]}),
        ({"anyOf": [{}], "oneOf": [{"type": "null"}]}, {"anyOf": [{}]}),
        ({"type": "array", "uniqueItems": True, "items": {"not": {}}}, {"type": "array", "items": {}}),
        ({"type": "string", "format": "phone"}, {"type": "string"}),
        ({"type": "string", "format": "date", "pattern": "^a+$"}, None),
        ({"type": "string", "pattern": "a(?!b)"}, {"type": "string"}),
        ({"type": "string", "pattern": "["}, {"type": "string"}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}, None),
        ({"$schema": "my own", "type": "object"}, {"type": "object"}),
        (
            {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"if": {}}}},
            {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}},
        ),
        ({"properties": {"a": {"$ref": "other.json"}}}, {"properties": {"a": {}}}),
        ({"properties": {"uniqueItems": {"type": "string"}}}, None),
        ({"x-guidance": {"lenient": True}}, {}),
        # Malformed ones stay so, and are refused with words.
        ({"properties": 5}, None),
        ({"minProperties": "many", "not": {}}, None),
    ],
)
def test_only_what_cannot_be_kept_goes(schema: dict[str, Any], left: dict[str, Any] | None) -> None:
    before = repr(schema)
    assert relaxed(schema) == (schema if left is None else left)
    assert repr(schema) == before


@pytest.mark.parametrize("word", sorted(json_schema._UNENFORCED))
def test_what_is_left_can_be_kept(word: str) -> None:
    schema = {"type": "object", "properties": {"a": {word: {"type": "string"}}}}
    Verdicts().check([schema_form(relaxed(schema), "x")])
