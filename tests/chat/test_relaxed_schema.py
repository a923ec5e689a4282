"""What is left of schemas without what can't be enforced."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.chat import json_schema
from appliance.chat.formats import Verdicts, schema_form
from appliance.chat.relaxed_schema import relaxed
from appliance.errors import InvalidRequest


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
        ({"type": "integer", "title": "T", "examples": "no list", "default": {}}, {"type": "integer"}),
        ({"properties": {"title": {"description": "D"}}}, {"properties": {"title": {}}}),
        ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, {"properties": {"a": {}, "b": {}}}),
        ({"type": "object", "maxProperties": 1}, None),
        (
            {"patternProperties": {"^a": {}, "b$": {}}, "properties": {"x": {}}, "additionalProperties": False},
            {"properties": {"x": {}}},
        ),
        ({"patternProperties": {"^a": {}}, "additionalProperties": False}, None),
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


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        {"allOf": [{"exclusiveMaximum": 1}, {"minimum": 0.5}]},
        {"type": "integer", "multipleOf": 999983},
        {"type": "array", "prefixItems": [{"multipleOf": 9973}, {"multipleOf": 9967}]},
        {"type": "object", "patternProperties": {"^(?=a)": {}}},
        {"type": "string", "allOf": [{"pattern": f"{number}$"} for number in range(9)]},
        {"type": "object", "properties": {"b": {}, "c": {}}, "required": ["b"], "minProperties": 2},
    ],
)
def test_what_is_left_of_several_words_can_be_kept_together(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Verdicts().check([schema_form(schema, "x")])
    Verdicts().check([schema_form(relaxed({"type": "object", "properties": {"a": schema}}), "x")])
