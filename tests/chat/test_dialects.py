"""Every dialect: what its template writes of calls, the writer writes, the parser reads and the grammar takes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from appliance.chat.call_grammar import answer_grammar
from appliance.chat.call_parser import ToolCallParser
from appliance.chat.conversation import for_template
from appliance.chat.dialect import Dialect
from appliance.chat.generic import GENERIC
from appliance.chat.template import ChatTemplate
from appliance.chat.tools import Tool
from tests.chat.calls import parsed
from tests.chat.lark import Grammar
from tests.chat.templates import LEARNT, NAMED, user

TemplateOf = Callable[[str], ChatTemplate]
PLACE = {
    "type": "object",
    "properties": {
        "x": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "is_far": {"type": "boolean"},
        "part_of": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
    },
    "required": ["x"],
    "additionalProperties": False,
}
TOOLS = (
    Tool(
        "get_weather",
        'how the weather is "in" a place, or a \\ path',
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "as in 'Køln'"},
                "days": {"type": "integer"},
                "place": {"$ref": "#/$defs/Place"},
                "unit": {"type": "string", "enum": ["C", "a\tb", "F"]},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"Place": PLACE},
        },
    ),
    Tool("väder_2", None, {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}),
)
NESTED = {"x": 1.5, "tags": ["a", "b c"], "is_far": True, "part_of": {"x": -2, "part_of": None}}
CALLS = [
    (
        "call00000",
        "get_weather",
        {"city": 'Bad "Tölz"\n\\ 1', "days": 3, "place": NESTED, "unit": "a\tb", "note": None},
    ),
    ("call00001", "väder_2", {"q": "17"}),
]
DIALECTS = (*LEARNT, *NAMED)


def calls_of(dialect: Dialect) -> list[tuple[str, str, dict[str, object]]]:
    return CALLS[:1] if dialect.between is None else CALLS


def wanted(dialect: Dialect) -> list[tuple[str, object]]:
    return [(name, arguments) for _, name, arguments in calls_of(dialect)]


@pytest.mark.parametrize("name", LEARNT)
def test_the_writer_writes_what_the_template_writes(template_of: TemplateOf, name: str) -> None:
    template = template_of(name)
    dialect = template.dialect
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": tool, "arguments": for_template(arguments, dialect.arguments_as)},
            }
            for call_id, tool, arguments in calls_of(dialect)
        ],
    }
    written = dialect.write(calls_of(dialect))
    assert written in template._probe([user(), message], TOOLS)


@pytest.mark.parametrize("name", DIALECTS)
def test_written_calls_are_read_whole_and_cut_at_every_character(template_of: TemplateOf, name: str) -> None:
    dialect = template_of(name).dialect
    text = dialect.write(calls_of(dialect))
    before = "" if dialect.is_anchored else "I look it up.\n\n"
    whole = parsed(dialect, [before + text], TOOLS)
    assert whole.calls == wanted(dialect)
    assert whole.content == before.rstrip()
    assert parsed(dialect, before + text, TOOLS) == whole
    for cut in range(1, len(text)):
        assert parsed(dialect, [text[:cut], text[cut:]], TOOLS).texts == whole.texts


@pytest.mark.parametrize("name", DIALECTS)
def test_the_grammar_takes_written_calls(template_of: TemplateOf, name: str) -> None:
    dialect = template_of(name).dialect
    text = dialect.write(calls_of(dialect))
    free = Grammar(answer_grammar(dialect, TOOLS, "auto", parallel=True), dialect)
    assert free.allowed(text) == text
    before = "" if dialect.is_anchored else "I look it up.\n\n"
    assert free.allowed(before + text) == before + text
    assert free.accepts("I know < that [1] {}.")
    forced = Grammar(answer_grammar(dialect, TOOLS, "required", parallel=True), dialect)
    thought = f"so{dialect.reasoning[1]}\n" if dialect.reasoning and dialect.is_reasoning_open else ""
    assert forced.allowed(thought + text) == thought + text
    assert not forced.accepts("I know that.")
    one = Grammar(answer_grammar(dialect, TOOLS, "get_weather", parallel=False), dialect)
    alone = dialect.write(CALLS[:1])
    assert one.allowed(alone) == alone
    assert not one.accepts(dialect.write(CALLS[1:]))


@pytest.mark.parametrize("name", DIALECTS)
def test_the_grammar_refuses_an_argument_of_another_type(template_of: TemplateOf, name: str) -> None:
    dialect = template_of(name).dialect
    grammar = Grammar(answer_grammar(dialect, TOOLS, "auto", parallel=True), dialect)
    wrong = dialect.write([("call00000", "get_weather", {"city": "Oslo", "days": {"x": 0}})])
    assert grammar.allowed(wrong) == wrong[: wrong.index('{"x"')]
    missing = dialect.write([("call00000", "get_weather", {"city": "Oslo"})])
    assert grammar.allowed(missing) not in (missing, missing + "…")


@pytest.mark.parametrize("name", DIALECTS)
def test_parallel_calls_are_refused_where_one_is_wanted(template_of: TemplateOf, name: str) -> None:
    dialect = template_of(name).dialect
    if dialect.between is None:
        return
    grammar = Grammar(answer_grammar(dialect, TOOLS, "required", parallel=False), dialect)
    assert not grammar.accepts(dialect.write(CALLS))
    assert grammar.accepts(dialect.write(CALLS[:1]))


def test_the_generic_dialect() -> None:
    text = GENERIC.write(CALLS)
    assert text.startswith('<tool_call>\n{"name": "get_weather", "arguments": {"city": ')
    assert parsed(GENERIC, text, TOOLS).calls == wanted(GENERIC)
    assert Grammar(answer_grammar(GENERIC, TOOLS, "auto", parallel=True), GENERIC).accepts("So:\n" + text)


def test_a_call_begins_before_its_arguments_which_come_in_pieces() -> None:
    parser = ToolCallParser(GENERIC, TOOLS)
    seen = [
        parser.push(piece) for piece in ('Hm\n<tool_call>\n{"name": "väder_2", "arg', 'uments": ', '{"q":', ' "x"}')
    ]
    assert [json.dumps([type(event).__name__ for event in events]) for events in seen] == [
        '["Content"]',
        '["CallBegun"]',
        '["CallArguments"]',
        '["CallArguments"]',
    ]
