"""Arguments that a model writes as plain text, each with a tag: what is kept of their schemas, and how they're read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.chat.call_grammar import answer_grammar
from appliance.chat.dialect import Dialect
from appliance.chat.template import ChatTemplate
from appliance.chat.tools import Tool
from appliance.errors import InvalidRequest
from tests.chat.calls import parsed
from tests.chat.lark import Grammar

TemplateOf = Callable[[str], ChatTemplate]
STRING = {"type": "string"}


def parameters(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def tool(schema: dict[str, Any], *, strict: bool = True) -> Tool:
    return Tool("t", None, schema, strict=strict)


def grammar_of(dialect: Dialect, one: Tool) -> Grammar:
    return Grammar(answer_grammar(dialect, [one], "auto", parallel=True), dialect)


@pytest.mark.parametrize(
    "schema",
    [
        parameters(a=STRING) | {"minProperties": 1},
        parameters(a=STRING, b=STRING) | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        parameters(ab=STRING) | {"patternProperties": {"^a": {"maxLength": 1}}},
        {"$ref": "#/$defs/a", "required": ["a"], "$defs": {"a": parameters(a=STRING)}},
        parameters(a={"$ref": "#/$defs/a", "pattern": "^q$"}) | {"$defs": {"a": STRING}},
        parameters(a={"anyOf": [{"anyOf": [{"type": "string", "maxLength": 1}]}]}),
        parameters(a={"anyOf": [{"enum": ["x"]}, {"type": "integer"}]}),
        parameters(a={"type": "string", "enum": ["x", "yy"], "maxLength": 1}),
        parameters(a={"type": ["string", "null"], "anyOf": [{"type": "null"}]}),
        parameters(a={"enum": ["x\n</parameter>\n<parameter=b>\ny"]}),
        parameters(a={"enum": ["1", 2]}),
    ],
)
def test_strict_is_refused_where_plain_text_says_less_than_the_schema(
    template_of: TemplateOf, schema: dict[str, Any]
) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    with pytest.raises(InvalidRequest, match="leave out strict"):
        answer_grammar(dialect, [tool(schema)], "auto", parallel=True)
    grammar_of(dialect, tool(schema, strict=False))


@pytest.mark.parametrize("name", ["Qwen3-Coder", "deepseek-ai-DeepSeek-V4"])
def test_texts_of_a_list_that_may_also_be_null(template_of: TemplateOf, name: str) -> None:
    """As pydantic writes an optional enum."""
    dialect = template_of(name).dialect
    unit = {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}], "title": "Unit", "default": None}
    one = tool(parameters(unit=unit) | {"$defs": {"Unit": {"enum": ["km", "mile"], "type": "string"}}})
    grammar = grammar_of(dialect, one)
    for value in ("km", "mile", None):
        text = dialect.write([("", "t", {"unit": value})])
        assert grammar.accepts(text)
        assert parsed(dialect, text, [one]).calls == [("t", {"unit": value})]
    assert not grammar.accepts(dialect.write([("", "t", {"unit": "light year"})]))


def test_without_strict_what_cannot_be_told_apart_is_left_out(template_of: TemplateOf) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    grammar = grammar_of(dialect, tool(parameters(a={"enum": ["x\n</parameter>\n", "y"]}), strict=False))
    assert grammar.accepts(dialect.write([("", "t", {"a": "y"})]))
    assert not grammar.accepts(dialect.write([("", "t", {"a": "x\n</parameter>\n"})]))


def test_a_value_may_refer_to_all_of_the_parameters(template_of: TemplateOf) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    schema = parameters(a={"type": "integer"}, b={"$ref": "#/properties/a"}, inner={"$ref": "#"})
    grammar = grammar_of(dialect, tool(schema))
    assert grammar.accepts(dialect.write([("", "t", {"a": 1, "b": 2, "inner": {"a": 3, "inner": {"b": 4}}})]))
    assert not grammar.accepts(dialect.write([("", "t", {"inner": {"inner": {"b": "x"}}})]))


def test_an_argument_brings_only_what_it_refers_to(template_of: TemplateOf) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    definitions = {f"d{n}": {"type": "integer", "minimum": n} for n in range(200)} | {"d~": {"$ref": "#/$defs/d7"}}
    properties = {f"p{n}": {"$ref": f"#/$defs/d{n}"} for n in range(200)} | {"a": {"$ref": "#/$defs/d~0"}}
    one = tool(parameters(**properties) | {"$defs": definitions})
    assert len(answer_grammar(dialect, [one], "auto", parallel=True)) < 100_000
    grammar = grammar_of(dialect, one)
    assert grammar.accepts(dialect.write([("", "t", {"p9": 9, "a": 7})]))
    assert not grammar.accepts(dialect.write([("", "t", {"a": 6})]))


def test_a_grammar_that_grows_with_each_argument_has_an_end(template_of: TemplateOf) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    one = tool(parameters(**{f"p{n}": {"$ref": "#"} for n in range(400)}))
    with pytest.raises(InvalidRequest, match="more than 2097152 characters") as refusal:
        answer_grammar(dialect, [one], "auto", parallel=True)
    assert refusal.value.param == "tools"


@pytest.mark.parametrize("strict", [True, False])
def test_a_name_that_holds_the_mark_behind_it_is_refused(template_of: TemplateOf, strict: bool) -> None:
    with pytest.raises(InvalidRequest, match="'a>b'") as refusal:
        grammar_of(template_of("ByteDance-Seed-OSS").dialect, tool(parameters(**{"a>b": STRING}), strict=strict))
    assert refusal.value.param == "tools"


def test_the_mark_behind_a_value_may_stand_in_a_text_of_its_json(template_of: TemplateOf) -> None:
    dialect = template_of("GLM-4.7-Flash").dialect
    one = tool(parameters(a={"type": "object"}, b=STRING))
    arguments = {"a": {"x": "</arg_value><arg_key>b"}, "b": "y"}
    text = dialect.write([("", "t", arguments)])
    assert grammar_of(dialect, one).accepts(text)
    for size in (1, 2, 7, len(text)):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert parsed(dialect, pieces, [one]).calls == [("t", arguments)]


@pytest.mark.parametrize("word", ["allOf", "anyOf", "oneOf", "enum", "$ref", "type", "properties", "$defs"])
@pytest.mark.parametrize("value", [5, "x", [5], {"x": 5}])
def test_a_malformed_schema_is_no_failure_of_the_grammar(template_of: TemplateOf, word: str, value: Any) -> None:
    """The look at the schema itself refuses it, with words."""
    dialect = template_of("Qwen3-Coder").dialect
    for schema in (parameters(a={word: value}), parameters(a=STRING) | {word: value}):
        assert answer_grammar(dialect, [tool(schema, strict=False)], "auto", parallel=True)


def test_a_forbidden_argument_is_never_written(template_of: TemplateOf) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    grammar = grammar_of(dialect, tool(parameters(a=False, b=STRING)))
    assert grammar.accepts(dialect.write([("", "t", {"b": "x"})]))
    assert not grammar.accepts(dialect.write([("", "t", {"a": "x"})]))


def test_an_anchor_leads_nowhere_but_where_it_stands(template_of: TemplateOf) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    one = tool(parameters(a={"$ref": "#text"}) | {"$defs": {"x": {"$anchor": "text", **STRING}}}, strict=False)
    text = dialect.write([("", "t", {"a": "plain"})])
    assert grammar_of(dialect, one).accepts(text)
    assert parsed(dialect, text, [one]).calls == [("t", {"a": "plain"})]


@pytest.mark.parametrize("name", ["मौसम", "e\u0301te\u0301", "ทดสอบ"])
def test_a_name_with_marks_that_go_with_letters(template_of: TemplateOf, name: str) -> None:
    for template in ("Qwen3-Coder", "Qwen-Qwen2.5-7B-Instruct"):
        dialect = template_of(template).dialect
        one = Tool(name, None, parameters(a=STRING))
        text = dialect.write([("", name, {"a": "x"})])
        assert grammar_of(dialect, one).accepts(text)
        assert parsed(dialect, text, [one]).calls == [(name, {"a": "x"})]
