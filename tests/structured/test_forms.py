"""From a request's fields to the grammar of its text, and what is refused on the way."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from pydantic import ValidationError

from appliance.chat import last_look
from appliance.chat.formats import MAX_GBNF_CHARS, Form, Verdicts, form_of, schema_form, violation
from appliance.chat.json_schema import Unenforceable, _check_bounds
from appliance.errors import InvalidRequest
from appliance.schemas.completions import CompletionRequest
from appliance.schemas.formats import MAX_SCHEMA_BYTES
from appliance.schemas.refusal import refusal
from appliance.schemas.sampling import GenerationFields
from tests.structured.walk import accepts, walk

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def fields(**values: Any) -> GenerationFields:
    return GenerationFields.model_validate(values)


def json_schema(schema: Any = SCHEMA, **values: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **values}}


def form(**values: Any) -> Form:
    found = form_of(fields(**values))
    assert found is not None
    Verdicts().check([found])
    return found


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize("values", [{}, {"response_format": {"type": "text"}}, {"response_format": None}])
def test_without_a_form_there_is_no_grammar(values: dict[str, Any]) -> None:
    assert form_of(fields(**values)) is None


def test_json_object_is_any_object_and_nothing_else() -> None:
    found = form(response_format={"type": "json_object"})
    assert found.param == "response_format"
    for text in ("{}", '{"a":[1,{"b":null}],"":"x"}'):
        assert accepts(found.grammar, text)
        assert violation(found.grammar, text) is None
    for text in ("[]", '"a"', "1", "{", "", ' {"a":1}', '{"a": 1}'):
        assert not accepts(found.grammar, text)
    assert violation(found.grammar, "[]") == "[] is not of type 'object' (at $)"


def test_strict_or_not_the_schema_is_kept() -> None:
    grammars = {form(response_format=json_schema(strict=strict)).grammar for strict in (True, False, None)}
    assert len(grammars) == 1


def test_a_property_s_name_has_one_spelling() -> None:
    """Otherwise another spelling would pass for an additional property, with any value."""
    grammar = schema_form({**SCHEMA, "required": []}, "x").grammar
    assert accepts(grammar, '{"b":null}')
    assert not accepts(grammar, r'{"\u0061":null}')
    assert not accepts(grammar, '{"a":1,"a":null}')


@pytest.mark.parametrize(
    ("text", "whole", "other"),
    [
        ('start: "a" B\nB: /[0-9]+/', "a17", "a"),
        ('root ::= "a" [0-9]+ | sub\nsub ::= "x"', "a17", "a"),
        ('start: %json {"type":"integer"} "!"', "17!", "17"),
    ],
)
def test_a_grammar_in_lark_or_gbnf(text: str, whole: str, other: str) -> None:
    found = form(grammar=text)
    assert found.param == "grammar"
    assert accepts(found.grammar, whole)
    assert not accepts(found.grammar, other)
    assert violation(found.grammar, "it is not looked at") is None


@pytest.mark.parametrize("pattern", ["(a|b){3}", 'x/"y"\\n', "é+"])
def test_a_regex_is_for_the_whole_text(pattern: str) -> None:
    grammar = form(regex=pattern).grammar
    text = walk(grammar, 1)
    assert text
    assert not accepts(grammar, f"!{text}")


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format.type", "json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "want json_schema"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "x", "schema": {}}}},
            "response_format",
            "no other",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema", "is required"),
        ({"response_format": json_schema(name="")}, "name", "pattern"),
        ({"response_format": json_schema(name="a b")}, "name", "pattern"),
        ({"response_format": json_schema(name="x" * 65)}, "name", "pattern"),
        ({"response_format": json_schema(True)}, "schema", "dict"),
        ({"response_format": json_schema([])}, "schema", "dict"),
        ({"response_format": json_schema({"const": float("nan")})}, "schema", "a number that JSON can't write"),
        ({"response_format": json_schema({"const": 1 << 64})}, "schema", "can't be written as JSON"),
        ({"response_format": json_schema({"const": "\ud800"})}, "schema", "can't be written as JSON"),
        ({"response_format": json_schema({"const": "x" * MAX_SCHEMA_BYTES})}, "schema", "bytes of JSON"),
        ({"response_format": json_schema(nested(64))}, "schema", "deeper than 64"),
        ({"grammar": ""}, "grammar", "at least 1"),
        ({"grammar": "x" * 65537}, "grammar", "at most 65536"),
        ({"regex": "\ud800"}, "regex", "surrogate"),
        ({"regex": "a", "grammar": 'start: "a"'}, None, "grammar and regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, None, "response_format and regex"),
        ({"regex": "a", "stop": "x"}, None, "either stop or regex"),
        ({"response_format": {"type": "json_object"}, "stop": ["x"]}, None, "either stop or response_format"),
    ],
)
def test_bad_fields_are_refused(values: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        fields(**values)
    error = refusal(caught.value.errors())
    assert message in error.message
    assert (error.param or "").endswith(param or "")


def test_an_empty_stop_string_is_none() -> None:
    assert form(regex="a", stop="").grammar


def test_echo_with_json_is_refused() -> None:
    with pytest.raises(ValidationError, match="echo with response_format"):
        CompletionRequest(prompt="x", echo=True, response_format={"type": "json_object"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grammar": 'start: "a'}, "lexer error"),
        ({"grammar": "start: y"}, 'unknown name: "y"'),
        ({"grammar": ' {"grammars":[{"json_schema":{}}]}'}, "Lark or GBNF"),
        ({"grammar": 'root ::= "a" ['}, "is no GBNF"),
        ({"grammar": "root ::= " + "(" * 5000 + '"a"'}, "nested too deep"),
        ({"grammar": 'root ::= "a"' + " " * MAX_GBNF_CHARS}, "characters of GBNF"),
        ({"grammar": 'start: x\nx[temperature=0.5]: "a"'}, "temperature"),
        ({"grammar": 'start: x "b"\nx[stop=""]: /.*/'}, "stop"),
        ({"grammar": 'start: x "b"\n  ?x [suffix="]\\"", temperature=1]: /.*/'}, "option temperature"),
        ({"grammar": "start: X\nX: " + " & ".join(["/(a|b)*a(a|b){9}/"] * 10)}, "at most 8 &"),
        ({"grammar": 'start: %json {"uniqueItems":true}'}, "uniqueItems"),
        ({"grammar": 'start: %json {"x-guidance":{"lenient":true},"not":{}}'}, "not: "),
        ({"grammar": 'start: %json {"multipleOf":999983}'}, "multipleOf"),
        ({"grammar": "start: %json {"}, "no JSON"),
        ({"grammar": "start: %json []"}, "want an object"),
        ({"grammar": f"start: %json {json.dumps(nested(120))}"}, "nested too deep"),
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
    ],
)
def test_what_is_no_grammar_or_can_not_be_kept_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        form(**values)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.param in values


def test_what_would_take_the_process_with_it_is_refused() -> None:
    """llguidance recurses; a stack that overflows ends the server."""
    chain: dict[str, Any] = {f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(2000)}
    anchors = {f"d{n}": {"$anchor": f"a{n}", "type": "array", "items": {"$ref": f"#a{n + 1}"}} for n in range(2000)}
    for schema in (
        {"$ref": "#/$defs/d0", "$defs": {**chain, "d2000": {}}},
        {"$ref": "#a0", "$defs": {**anchors, "d2000": {"$anchor": "a2000"}}},
    ):
        with pytest.raises(InvalidRequest, match="levels, all together"):
            Verdicts().check([schema_form(schema, "x")])
    rules = "\n".join(f'r{n}: "a" r{n + 1}' for n in range(3000))
    with pytest.raises(InvalidRequest, match="at most 500 rules"):
        form(grammar=f'start: r0\n{rules}\nr3000: "b"')


def test_many_bounds_and_multiples_are_looked_at_in_no_time() -> None:
    """Each bound with each other one would be gigabytes; the multiple of all is too long a number to be printed."""
    bounds = [{"exclusiveMinimum": n} for n in range(4000)] + [{"maximum": -n} for n in range(4000)]
    begun = time.thread_time()
    _check_bounds([{"allOf": []}, *bounds])
    assert time.thread_time() - begun < 1
    with pytest.raises(Unenforceable, match="exclusiveMinimum: 7 "):
        _check_bounds([{"allOf": []}, *bounds, {"maximum": 7.5}])
    multiples = [{"multipleOf": 10**15 + 2 * n + 1} for n in range(500)]
    with pytest.raises(InvalidRequest, match="take too long to find"):
        Verdicts().check([schema_form({"anyOf": multiples}, "x")])


def test_the_deepest_schema_is_looked_at() -> None:
    assert form(response_format=json_schema(nested(63))).grammar


def test_many_references_are_no_deep_ones() -> None:
    definitions = {f"d{n}": {"type": "object", "properties": {"a": {"type": "null"}}} for n in range(200)}
    properties = {f"p{n}": {"$ref": f"#/$defs/d{n}"} for n in range(200)}
    Verdicts().check([schema_form({"type": "object", "properties": properties, "$defs": definitions}, "x")])


def many_patterns(n: int) -> list[dict[str, Any]]:
    return [{"pattern": f"(a|b)*a(a|b){{{number + 10}}}"} for number in range(n)]


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": many_patterns(20)},
        {"allOf": [{"allOf": many_patterns(5)}, {"anyOf": [{}, {"allOf": many_patterns(5)}]}]},
        {"$ref": "#/$defs/a", "allOf": many_patterns(5), "$defs": {"a": {"allOf": many_patterns(5)}}},
        {"type": "array", "items": {"minLength": 1, "format": "date", "allOf": many_patterns(7)}},
    ],
)
def test_many_patterns_at_once_are_refused_before_they_take_hours(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="pattern: more than 8"):
        Verdicts().check([schema_form(schema, "x")])


def test_many_patterns_of_many_texts_are_no_matter() -> None:
    definitions = {f"d{n}": {"type": "string", "maxLength": 9, "pattern": f"^{n}"} for n in range(20)}
    texts = {f"p{n}": {"allOf": [{"$ref": f"#/$defs/d{n}"}]} for n in range(20)}
    Verdicts().check([schema_form({"type": "object", "properties": texts, "$defs": definitions}, "x")])
    anyone = {"anyOf": [{"$ref": f"#/$defs/d{n}"} for n in range(20)], "$defs": definitions}
    Verdicts().check([schema_form(anyone, "x")])


def test_a_grammar_in_lark_is_never_looked_at_on_the_event_loop() -> None:
    """A few rules may stand for millions of states."""
    assert not Verdicts().are_quick([Form('start: "a"', "grammar")])
    assert Verdicts().are_quick([schema_form({}, "x")])


def test_what_was_looked_at_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = Verdicts()
    large = schema_form({"enum": [f"value {number}" for number in range(500)]}, "x")
    refused = schema_form({"uniqueItems": True, "description": "x" * 2000}, "y")
    assert not verdicts.are_quick([large])
    verdicts.check([large])
    with pytest.raises(InvalidRequest, match="^y: uniqueItems"):
        verdicts.check([refused])
    monkeypatch.setattr("appliance.chat.formats._problem", None)
    assert verdicts.are_quick([large, refused])
    verdicts.check([large])
    with pytest.raises(InvalidRequest, match="^z: uniqueItems"):  # whoever asks
        verdicts.check([Form(refused.grammar, "z")])


@pytest.mark.parametrize(
    ("items", "value"),
    [
        ({"anyOf": [{"const": n} for n in range(300)]}, 299),
        ({"enum": [[[[n]]] for n in range(500)]}, [[[499]]]),
        ({"type": "object", "properties": {f"p{n}": {} for n in range(500)}}, {}),
    ],
)
def test_the_last_look_has_an_end_for_long_lists_too(
    monkeypatch: pytest.MonkeyPatch, items: dict[str, Any], value: Any
) -> None:
    grammar = schema_form({"type": "array", "items": items}, "x").grammar
    assert "wrong" in (violation(grammar, json.dumps([*[value] * 30, "wrong"])) or "")
    monkeypatch.setattr(last_look, "MAX_COST", 10_000)
    assert violation(grammar, json.dumps([*[value] * 30, "wrong"])) is None
    assert violation(grammar, json.dumps([value, "wrong"])) is not None


@pytest.mark.parametrize(
    ("schema", "text", "message"),
    [
        (SCHEMA, '{"a":1}', None),
        (SCHEMA, '{"a":"x"}', "'x' is not of type 'integer' (at $.a)"),
        (SCHEMA, "{}", "'a' is a required property"),
        (SCHEMA, '{"a":', "no JSON"),
        (SCHEMA, "", "no JSON"),
        ({"type": "number", "multipleOf": 0.1}, "8.7", None),
        ({"type": "number", "multipleOf": 0.1}, "8.75", "not a multiple"),
        ({"type": "integer"}, "9" * 5000, None),  # longer than Python reads
        ({"type": "array"}, "[" * 5000 + "]" * 5000, None),  # deeper than Python reads
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"const": 1}]}, "[2]", "1 was expected"),
        ({"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": False}, '{"ab":1}', None),
        ({"type": "object", "properties": {"b": {}}, "additionalProperties": False}, '{"ab":1}', "'ab' was unexpected"),
    ],
)
def test_the_last_look(schema: dict[str, Any], text: str, message: str | None) -> None:
    found = violation(schema_form(schema, "x").grammar, text)
    assert found is None if message is None else message in (found or "")


def test_the_last_look_comes_to_an_end() -> None:
    """Each level of the text doubles what there is to look at."""
    lists = [{"type": "array", "items": {"$ref": "#"}, "minItems": n, "maxItems": n} for n in (2, 1)]
    grammar = schema_form({"anyOf": [*lists, {"type": "null"}]}, "x").grammar
    assert violation(grammar, "[" * 5 + "1" + "]" * 5) is not None
    assert violation(grammar, "[" * 40 + "1" + "]" * 40) is None


def test_no_pattern_of_a_client_is_run_by_python() -> None:
    """This one takes Python's re longer than the universe is old."""
    schema = {"type": "string", "pattern": "^(a+)+$", "maxLength": 100}
    named = {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    for one, text in ((schema, "a" * 60 + "!"), (named, {"a" * 60 + "!": 1})):
        form = schema_form(one, "x")
        Verdicts().check([form])
        assert violation(form.grammar, json.dumps(text)) is None
