"""A hundred and twenty JSON schemas: those that are kept to the letter, and those that are refused, by the word that
the refusal must name. Texts and lists are bounded where a model would otherwise write for ever.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_6 = "http://json-schema.org/draft-06/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


class Closed(BaseModel):
    """As OpenAI's strict form has it."""

    model_config = ConfigDict(extra="forbid")


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Place(Closed):
    city: Annotated[str, Field(max_length=20)]
    country: Literal["France", "Italy", "Japan"]


class Weather(Closed):
    place: Place
    unit: Unit
    temperature: Annotated[int, Field(ge=-50, le=60)]
    is_raining: bool


class Step(Closed):
    explanation: Annotated[str, Field(max_length=40)]
    output: Annotated[str, Field(max_length=20)]


class Solution(Closed):
    steps: Annotated[list[Step], Field(min_length=1, max_length=3)]
    answer: Annotated[int, Field(ge=0, le=1000)]


class Cat(Closed):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(Closed):
    kind: Literal["dog"]
    is_good: bool


class Owner(Closed):
    name: Annotated[str, Field(max_length=12)]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    nickname: Annotated[str, Field(max_length=8)] | None = None


class Node(Closed):
    value: Annotated[int, Field(ge=0, le=9)]
    left: Node | None
    right: Node | None


class Line(Closed):
    item: Literal["book", "pen"]
    price: Annotated[float, Field(gt=0, lt=100)]
    size: tuple[Annotated[int, Field(ge=0, le=9)], Annotated[int, Field(ge=0, le=9)]]


def closed(**properties: Any) -> dict[str, Any]:
    """An object with just these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def ref(name: str, **definitions: Any) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}", "$defs": definitions}


DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
WORD = {"type": "string", "maxLength": 8}

KEPT: dict[str, dict[str, Any]] = {
    # Types.
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "minimum": -1000, "maximum": 1000},
    "number": {"type": "number", "minimum": -10, "maximum": 10, "multipleOf": 0.5},
    "string": {"type": "string", "maxLength": 30},
    "several types": {"type": ["boolean", "null"]},
    "nullable text": {"type": ["string", "null"], "maxLength": 10},
    "empty array": {"type": "array", "maxItems": 0},
    "empty object": {"type": "object", "additionalProperties": False},
    "annotations": {
        "type": "boolean",
        "title": "T",
        "description": "D",
        "default": 1,
        "examples": [2],
        "$comment": "C",
    },
    "unknown words": {"type": "boolean", "nullable": True, "x-order": 3, "deprecated": True, "readOnly": True},
    # Enums and constants.
    "enum of texts": {"enum": ["red", "green", "blue"]},
    "enum of all types": {"enum": [1, 2.5, "a", None, True, [1, "b"], {"a": {"b": []}}]},
    "enum cut by its type": {"type": "string", "enum": ["a", 1, None]},
    "enum of other scripts": {"enum": ["日本", "Ελλάδα", "😀", 'quote " and \\ slash /', "line\nend\ttab"]},
    "const text": {"const": "yes"},
    "const object": {"const": {"a": [1, {"b": None}]}},
    "const number": {"const": 3.25},
    "const float that is whole": {"const": 1.0},
    "greatest number": {"const": 9007199254740992},
    # Texts.
    "text of a length": {"type": "string", "minLength": 3, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "pattern inside": {"type": "string", "pattern": "b", "maxLength": 12},
    "pattern of alternatives": {"type": "string", "pattern": "^(cat|dog|bird)s?$"},
    "pattern with classes": {"type": "string", "pattern": "^\\w{1,8}@\\w{1,8}\\.(com|org)$"},
    "pattern of optional parts": {"type": "string", "pattern": "^\\d{1,3}(\\.\\d{1,2})?$"},
    "pattern with escapes": {"type": "string", "pattern": "^\\$\\d{1,3}\\/\\u0041\\x42$"},
    "pattern and length": {"type": "string", "pattern": "^a+b*$", "minLength": 4, "maxLength": 6},
    "pattern not greedy": {"type": "string", "pattern": "^<.{0,5}?>$"},
    "pattern without case": {"type": "string", "pattern": "(?i)^abc$"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time", "maxLength": 16},
    "date-time": {"type": "string", "format": "date-time", "maxLength": 28},
    "duration": {"type": "string", "format": "duration", "maxLength": 10},
    "email": {"type": "string", "format": "email", "maxLength": 24},
    "hostname": {"type": "string", "format": "hostname", "maxLength": 20},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "uri": {"type": "string", "format": "uri", "maxLength": 30},
    "uuid": {"type": "string", "format": "uuid"},
    "format and pattern": {"type": "string", "format": "date", "pattern": "^20"},
    "format of a number": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 99},
    # Numbers.
    "integer range": {"type": "integer", "minimum": 17, "maximum": 23},
    "integer range of fractions": {"type": "integer", "minimum": 1.5, "maximum": 3.2},
    "exclusive range": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 4},
    "number range": {"type": "number", "minimum": 0.5, "maximum": 0.75, "multipleOf": 0.05},
    "exclusive number range": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.1},
    "small numbers": {"type": "number", "minimum": 1e-9, "maximum": 2e-9, "multipleOf": 1e-9},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "multiple of a hundredth": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 100},
    "draft 4's exclusive": {
        "$schema": DRAFT_4,
        "type": "integer",
        "minimum": 1,
        "exclusiveMinimum": True,
        "maximum": 5,
    },
    # Arrays.
    "array": {"type": "array", "items": DIGIT, "minItems": 1, "maxItems": 5},
    "array of enums": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2},
    "matrix": {
        "type": "array",
        "items": {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 2},
        "minItems": 2,
        "maxItems": 2,
    },
    "tuple": {"type": "array", "prefixItems": [DIGIT, {"type": "boolean"}], "items": False, "minItems": 2},
    "tuple with a rest": {
        "type": "array",
        "prefixItems": [DIGIT],
        "items": {"type": "null"},
        "minItems": 2,
        "maxItems": 4,
    },
    "draft 7's tuple": {
        "$schema": DRAFT_7,
        "type": "array",
        "items": [DIGIT, WORD],
        "additionalItems": False,
        "minItems": 2,
    },
    "draft 6's tuple with a rest": {
        "$schema": DRAFT_6,
        "type": "array",
        "items": [DIGIT],
        "additionalItems": {"type": "null"},
        "minItems": 2,
        "maxItems": 3,
    },
    "2019-09's tuple": {"$schema": DRAFT_2019, "type": "array", "items": [WORD, DIGIT], "minItems": 2, "maxItems": 2},
    # Objects.
    "object": closed(name=WORD, age={"type": "integer", "minimum": 0, "maximum": 120}),
    "object of optional properties": {
        "type": "object",
        "properties": {"a": DIGIT, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "additionalProperties": False,
    },
    "nested objects": closed(outer=closed(inner=closed(leaf=DIGIT))),
    "names to be quoted": closed(**{'a"b\\c/d': DIGIT, "é": {"type": "null"}, "": {"type": "boolean"}, "$ref": DIGIT}),
    "names of keywords": closed(uniqueItems=DIGIT, format={"enum": ["x"]}, **{"not": DIGIT, "x-guidance": DIGIT}),
    "map": {"type": "object", "additionalProperties": DIGIT, "maxProperties": 2},
    "map that is not empty": {
        "type": "object",
        "additionalProperties": {"type": "null"},
        "minProperties": 1,
        "maxProperties": 2,
    },
    "one of its properties at least": {
        "type": "object",
        "properties": {"a": DIGIT, "b": DIGIT},
        "minProperties": 1,
        "additionalProperties": False,
    },
    "names by pattern": {
        "type": "object",
        "patternProperties": {"^x_[a-z]{1,5}$": DIGIT},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "required and not described": {
        "type": "object",
        "required": ["z", "a"],
        "additionalProperties": DIGIT,
        "maxProperties": 3,
    },
    "forbidden property": {
        "type": "object",
        "properties": {"a": False, "b": DIGIT},
        "required": ["b"],
        "additionalProperties": False,
    },
    # References and recursion.
    "reference": ref("digit", digit=DIGIT),
    "reference with siblings": {**ref("digit", digit=DIGIT), "minimum": 5},
    "reference to a name with a slash": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": DIGIT}},
    "reference to a name with a space": {"$ref": "#/$defs/a%20b", "$defs": {"a b": DIGIT}},
    "reference to a property": {**closed(a=DIGIT, b={"$ref": "#/properties/a"})},
    "anchor": {"$ref": "#here", "$defs": {"a": {"$anchor": "here", **DIGIT}}},
    "draft 7's definitions": {"$schema": DRAFT_7, "$ref": "#/definitions/a", "definitions": {"a": DIGIT}},
    "draft 7's anchor": {"$schema": DRAFT_7, "allOf": [{"$ref": "#a"}], "definitions": {"a": {"$id": "#a", **DIGIT}}},
    "draft 4's anchor": {"$schema": DRAFT_4, "allOf": [{"$ref": "#a"}], "definitions": {"a": {"id": "#a", **DIGIT}}},
    "list by recursion": closed(value=DIGIT, next={"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
    "expression by recursion": ref(
        "e",
        e={
            "anyOf": [
                {"enum": ["x", "y"]},
                {"type": "array", "items": {"$ref": "#/$defs/e"}, "minItems": 2, "maxItems": 2},
            ]
        },
    ),
    # Combinations.
    "anyOf": {"anyOf": [DIGIT, {"type": "boolean"}, WORD]},
    "anyOf of objects": {"anyOf": [closed(a=DIGIT), closed(b={"type": "boolean"})]},
    "anyOf with siblings": {
        "type": "object",
        "properties": {"a": DIGIT, "b": DIGIT},
        "additionalProperties": False,
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "oneOf of types": {"oneOf": [DIGIT, {"type": "boolean"}]},
    "oneOf by a constant": {"oneOf": [closed(k={"const": "a"}, v=DIGIT), closed(k={"const": "b"}, v=WORD)]},
    "allOf": {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 9}]},
    "allOf of patterns": {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "b$"}], "maxLength": 8},
    "allOf of objects": {
        "type": "object",
        "allOf": [{"properties": {"a": DIGIT}, "required": ["a"]}, {"properties": {"b": DIGIT}, "required": ["b"]}],
        "maxProperties": 2,
    },
    # Models of pydantic, as the official client sends them.
    "pydantic: nested": Weather.model_json_schema(),
    "pydantic: lists of models": Solution.model_json_schema(),
    "pydantic: discriminated union": Owner.model_json_schema(),
    "pydantic: tuples and floats": Line.model_json_schema(),
    # Its dialect said.
    "2020-12": {"$schema": DRAFT_2020, "$id": "https://example.com/a", **DIGIT},
}

# Kept as well, but a small model may write them for ever.
ENDLESS: dict[str, dict[str, Any]] = {
    "anything": {},
    "any object": {"type": "object"},
    "any array": {"type": "array"},
    "any text": {"type": "string"},
    "any integer": {"type": "integer"},
    "any number": {"type": "number"},
    "any number of a range": {"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.75},
    "any number from 10 on": {"type": "number", "minimum": 10},
    "open object": {"type": "object", "properties": {"a": DIGIT}, "required": ["b"]},
    "tree by recursion": closed(children={"type": "array", "items": {"$ref": "#"}, "maxItems": 2}),
    "pydantic: recursive": Node.model_json_schema(),
}

# By the word that the refusal names.
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("uniqueItems", {"type": "array", "uniqueItems": True}),
    ("contains", {"type": "array", "contains": DIGIT}),
    ("minContains", {"type": "array", "minContains": 2}),
    ("not", {"not": {"type": "string"}}),
    ("if", {"if": {"type": "string"}, "then": {"minLength": 2}}),
    ("propertyNames", closed(a={"type": "object", "propertyNames": {"pattern": "^a$"}})),
    ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}),
    ("dependentSchemas", {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}),
    ("dependencies", {"$schema": DRAFT_7, "type": "object", "dependencies": {"a": ["b"]}}),
    ("unevaluatedProperties", {"type": "object", "unevaluatedProperties": False}),
    ("unevaluatedItems", {"type": "array", "unevaluatedItems": False}),
    ("$dynamicRef", {"$dynamicRef": "#a", "$defs": {"a": {"$dynamicAnchor": "a"}}}),
    ("divisibleBy", {"type": "integer", "divisibleBy": 3}),
    ("x-guidance", {"x-guidance": {"lenient": True}, "type": "array"}),
    ("additionalItems", {"type": "array", "prefixItems": [DIGIT], "additionalItems": False}),
    ("prefixItems", {"$schema": DRAFT_7, "type": "array", "prefixItems": [DIGIT]}),
    ("items", {"type": "array", "items": [DIGIT]}),
    ("exclusiveMinimum", {"type": "integer", "minimum": 1, "exclusiveMinimum": True}),
    ("format", {"type": "string", "format": "uri-reference"}),
    ("format", {"anyOf": [{"format": "unknown"}]}),
    ("pattern", {"type": "string", "pattern": "(?=a)b"}),
    ("pattern", {"type": "string", "pattern": "^[a&&b]$"}),
    ("pattern", {"type": "string", "pattern": "("}),
    ("patternProperties", {"type": "object", "patternProperties": {"^a": DIGIT, "b$": WORD}}),
    ("oneOf", {"oneOf": [DIGIT, {"type": "number"}]}),
    ("minProperties", {"type": "object", "additionalProperties": DIGIT, "minProperties": 2}),
    ("const", {"const": 9007199254740993}),
    ("enum", {"enum": [0.1234567890123456]}),
    ("enum", {"enum": ["a\u0000b"]}),
    ("maximum", {"type": "number", "maximum": 1e300}),
    ("exclusiveMinimum", {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}),
    ("exclusiveMaximum", {"allOf": [{"exclusiveMaximum": 1}, {"minimum": 0.5}]}),
    ("exclusiveMinimum", {"$schema": DRAFT_4, "minimum": 0, "exclusiveMinimum": True, "maximum": 0.5}),
    ("multipleOf", {"type": "integer", "multipleOf": 999983}),
    ("multipleOf", {"type": "array", "prefixItems": [{"multipleOf": 9973}, {"multipleOf": 9967}]}),
    ("$ref", {"$ref": "https://example.com/schema.json"}),
    ("$ref", {"$ref": "#/$defs/missing"}),
    ("$ref", {"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    ("$ref", closed(a={"$ref": "#/properties/b"}, b={"$ref": "#/properties/a"})),
    ("$id", {"$ref": "#/$defs/a", "$defs": {"a": {"$id": "https://example.com/a", **DIGIT}}}),
    ("$schema", {"$schema": "http://json-schema.org/draft-03/schema#", **DIGIT}),
    ("never ends", closed(next={"$ref": "#"})),
    ("no JSON meets it", {"allOf": [{"type": "integer"}, {"type": "string"}]}),
    ("no JSON schema", {"type": "colour"}),
    ("no JSON schema", {"type": "object", "properties": {"a": 3}}),
]
