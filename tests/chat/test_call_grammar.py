"""Grammars of whole answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from appliance.chat.call_grammar import answer_grammar
from appliance.chat.generic import GENERIC
from appliance.chat.template import ChatTemplate
from appliance.chat.tools import Tool
from appliance.errors import InvalidRequest
from tests.chat.lark import Grammar

TemplateOf = Callable[[str], ChatTemplate]
LOOK = Tool("look", None, {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]})
LOOK_UP = Tool("look_up", None, {})


def generic(arguments: str, tool: str = "t") -> str:
    return f'<tool_call>\n{{"name": "{tool}", "arguments": {arguments}}}\n</tool_call>'


def grammar_of(*parameters: dict[str, Any]) -> Grammar:
    tools = [Tool(f"t{number or ''}", None, schema) for number, schema in enumerate(parameters)]
    return Grammar(answer_grammar(GENERIC, tools, "auto", parallel=True), GENERIC)


def test_nothing_follows_the_last_call() -> None:
    grammar = grammar_of({})
    assert grammar.accepts(generic("{}"))
    assert not grammar.accepts(generic("{}") + "\nso")
    assert grammar.accepts(generic("{}") + "\n" + generic("{}"))


def test_a_tool_whose_name_begins_as_another_s() -> None:
    grammar = Grammar(answer_grammar(GENERIC, [LOOK, LOOK_UP], "auto", parallel=True), GENERIC)
    assert grammar.accepts(generic('{"at": "x"}', "look"))
    assert grammar.accepts(generic("{}", "look_up"))
    assert not grammar.accepts(generic("{}", "look"))
    assert not grammar.accepts(generic("{}", "look_u"))


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"description": "anything"}])
def test_no_parameters_are_any_object(schema: dict[str, Any]) -> None:
    grammar = grammar_of(schema)
    assert grammar.accepts(generic('{"a": [1, {"b": null}]}'))
    assert not grammar.accepts(generic("[]"))
    assert not grammar.accepts(generic("null"))


def test_references_inside_of_a_tool_s_schema() -> None:
    node = {"type": "object", "properties": {"n": {"$ref": "#/$defs/Node"}}, "additionalProperties": False}
    schema = {"type": "object", "properties": {"tree": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}}
    other = {"$ref": "#/$defs/Node", "$defs": {"Node": {"type": "object", "required": ["x"]}}}
    grammar = grammar_of(schema, other)
    assert grammar.accepts(generic('{"tree": {"n": {"n": {}}}}'))
    assert not grammar.accepts(generic('{"tree": {"n": {"x": 1}}}'))
    assert grammar.accepts(generic('{"x": 1}', "t1"))
    assert not grammar.accepts(generic("{}", "t1"))


def test_odd_characters_in_names_values_and_descriptions() -> None:
    odd = 'a "b" \\ \n ü 😀 </tool_call> %json {'
    tool = Tool("größe-Ж_1", odd, {"type": "object", "properties": {odd: {"enum": [odd, "x"], "description": odd}}})
    grammar = Grammar(answer_grammar(GENERIC, [tool], "required", parallel=False), GENERIC)
    text = GENERIC.write([("", tool.name, {odd: odd})])
    assert grammar.allowed(text) == text


def test_a_forced_call_is_all_of_the_answer() -> None:
    for choice in ("required", "look"):
        grammar = Grammar(answer_grammar(GENERIC, [LOOK, LOOK_UP], choice, parallel=False), GENERIC)
        assert grammar.accepts(generic('{"at": "x"}', "look"))
        assert not grammar.accepts("Hm\n" + generic('{"at": "x"}', "look"))
        assert grammar.accepts(generic("{}", "look_up")) == (choice == "required")


def test_a_choice_that_is_no_tool_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="none of the tools") as refusal:
        answer_grammar(GENERIC, [LOOK], "hear", parallel=True)
    assert refusal.value.param == "tool_choice"


def test_a_model_may_think_before_a_forced_call() -> None:
    thinking = replace(GENERIC, reasoning=("<think>", "</think>"))
    call = generic("{}", "look_up")
    grammar = Grammar(answer_grammar(thinking, [LOOK_UP], "required", parallel=False), thinking)
    assert grammar.accepts(call)
    assert grammar.accepts("<think>\nif <tool_call> is a word\n</think>\n\n" + call)
    assert not grammar.accepts("well" + call)
    opened = replace(thinking, is_reasoning_open=True)
    grammar = Grammar(answer_grammar(opened, [LOOK_UP], "required", parallel=False), opened)
    assert grammar.accepts("well then\n</think>\n" + call)
    assert grammar.accepts("</think>" + call)
    assert grammar.accepts(call)
    assert not grammar.accepts("well then")


def test_a_mark_that_is_a_control_token_opens_a_call_also_letter_by_letter(template_of: TemplateOf) -> None:
    dialect = template_of("mistralai-Mistral-Nemo-Instruct-2407").dialect
    assert dialect.shown_tokens == ("[TOOL_CALLS]",)
    text = answer_grammar(dialect, [LOOK], "auto", parallel=True)
    call = dialect.write([("abcdefghi", "look", {"at": "x"})])
    assert Grammar(text, dialect).accepts("So: " + call)
    grammar = Grammar(text, dialect)
    letters = replace(dialect, control_tokens=())
    grammar._tokens = Grammar(answer_grammar(GENERIC, [LOOK], "auto", parallel=True), letters)._tokens  # type: ignore[method-assign]
    assert grammar.accepts("So: " + call)
    assert not grammar.accepts("So: [TOOL_CALLS] are")


def test_control_tokens_that_the_template_names_may_stand_in_free_text(template_of: TemplateOf) -> None:
    dialect = template_of("Cohere2MoE").dialect
    grammar = Grammar(answer_grammar(dialect, [LOOK], "auto", parallel=True), dialect)
    call = dialect.write([("", "look", {"at": "x"})])
    assert grammar.accepts("hm<|END_THINKING|><|START_TEXT|>So.<|END_TEXT|>")
    assert grammar.accepts("hm<|END_THINKING|>" + call)


def test_control_tokens_of_a_call_may_stand_in_free_text_where_they_open_none(template_of: TemplateOf) -> None:
    dialect = template_of("openai-gpt-oss-120b").dialect
    grammar = Grammar(answer_grammar(dialect, [LOOK], "auto", parallel=True), dialect)
    thought = "<|channel|>analysis<|message|>Look?<|end|><|start|>assistant<|channel|>"
    assert grammar.accepts(thought + "final<|message|>No.")
    assert grammar.accepts(thought + "commentary " + dialect.write([("", "look", {"at": "x"})]))


def test_bare_json_is_a_call_or_the_answer_does_not_begin_so(template_of: TemplateOf) -> None:
    dialect = template_of("meta-llama-Llama-3.1-8B-Instruct").dialect
    assert dialect.is_anchored
    grammar = Grammar(answer_grammar(dialect, [LOOK], "auto", parallel=True), dialect)
    assert grammar.accepts('{"name": "look", "parameters": {"at": "x"}}')
    assert grammar.accepts('As JSON: {"name": 1}')
    assert grammar.accepts("")
    assert not grammar.accepts('{"answer": 1}')
    assert not grammar.accepts('\n{"answer": 1}')


def parameters(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def test_tagged_parameters_of_each_type(template_of: TemplateOf) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    schema = parameters(
        s={"type": "string"},
        e={"enum": ["<|im_end|>", "b", "b c"]},
        n={"type": "integer", "maximum": 5},
        l={"type": "array", "items": {"$ref": "#/$defs/B"}},
        m={"type": ["string", "null"]},
    ) | {"required": ["s"], "$defs": {"B": {"type": "boolean"}}}
    grammar = Grammar(answer_grammar(dialect, [Tool("t", None, schema, strict=True)], "auto", parallel=True), dialect)

    def accepts(**arguments: Any) -> bool:
        return grammar.accepts(dialect.write([("", "t", arguments)]))

    assert accepts(s="any </thing>\n{", e="b c", n=5, l=[True, False], m=None)
    assert accepts(s="")
    assert accepts(s="x", e="b", m="text")
    assert not accepts(e="b")
    assert not accepts(s="x", e="c")
    assert not accepts(s="x", n=6)
    assert not accepts(s="x", l=[1])
    assert not accepts(s="x", other=1)


def test_tagged_parameters_without_a_schema_are_any(template_of: TemplateOf) -> None:
    dialect = template_of("GLM-4.6").dialect
    grammar = Grammar(answer_grammar(dialect, [LOOK_UP], "auto", parallel=True), dialect)
    assert grammar.accepts(dialect.write([("", "look_up", {"a": "x", "b-c": [1]})]))
    assert grammar.accepts(dialect.write([("", "look_up", {})]))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a+$"},
        {"type": "string", "maxLength": 3},
        {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]},
        {"anyOf": [{"type": "string"}, {"type": "object"}]},
        {"type": ["string", "null"], "format": "date"},
        {},
    ],
)
def test_what_text_can_t_be_held_to_is_refused_where_strict_is_asked_for(
    template_of: TemplateOf, schema: dict[str, Any]
) -> None:
    dialect = template_of("Qwen3-Coder").dialect
    with pytest.raises(InvalidRequest, match="leave out strict") as refusal:
        answer_grammar(dialect, [Tool("t", None, parameters(p=schema), strict=True)], "auto", parallel=True)
    assert refusal.value.param == "tools"
    Grammar(answer_grammar(dialect, [Tool("t", None, parameters(p=schema))], "auto", parallel=True), dialect)
    Grammar(
        answer_grammar(GENERIC, [Tool("t", None, parameters(p=schema), strict=True)], "auto", parallel=True), GENERIC
    )


@pytest.mark.parametrize("name", ["Qwen-Qwen2.5-7B-Instruct", "Qwen3-Coder", "meta-llama-Llama-3.1-8B-Instruct"])
def test_a_hundred_kilobytes_of_tools_compile_within_a_second(template_of: TemplateOf, name: str) -> None:
    dialect = template_of(name).dialect
    item = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}, "required": ["a"]}
    properties = {
        "city": {"type": "string", "description": "where it is " * 10},
        "unit": {"enum": [f"unit {number}" for number in range(20)]},
        "n": {"type": "integer", "minimum": 1, "maximum": 40},
        "items": {"type": "array", "items": item},
        "inner": {"$ref": "#/$defs/Node"},
    }
    node = {"type": "object", "properties": {"v": {"type": "string"}, "n": {"$ref": "#/$defs/Node"}}}
    schema = {"type": "object", "properties": properties, "required": ["city", "n"], "$defs": {"Node": node}}
    tools = [Tool(f"tool_{number}", 'does "it" \\ ' * 20, schema) for number in range(85)]
    assert len(json.dumps([tool.described() for tool in tools])) > 100_000
    begun = time.perf_counter()
    text = answer_grammar(dialect, tools, "auto", parallel=True)
    grammar = Grammar(text, dialect)
    assert grammar.accepts(dialect.write([("", "tool_84", {"city": "x", "unit": "unit 7", "n": 3})]))
    assert time.perf_counter() - begun < 1
