"""The incremental parser, on texts that no template wrote."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.chat.call_parser import ToolCallParser
from appliance.chat.dialect import COUNT, ID, Dialect, JSONArguments, TaggedArguments
from appliance.chat.generic import GENERIC
from appliance.chat.tools import CallArguments, CallBegun, Content, Tool
from tests.chat.calls import Found, joined, parsed

TOOLS = (
    Tool("add", None, {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": ["number", "null"]}}}),
    Tool("say", None, {"properties": {"text": {"type": "string"}, "any": {}, "or": {"type": ["string", "integer"]}}}),
)
TAGGED = Dialect(
    opening="",
    before_name="<call>\n<function=",
    after_name=">\n",
    arguments=TaggedArguments("<p=", ">", ">", "</p>\n"),
    after_arguments="</function>\n</call>",
    between="\n",
    closing="",
)
LISTED = Dialect(
    opening="[CALLS][",
    before_name='{"name": "',
    after_name='", "args": ',
    arguments=JSONArguments(),
    after_arguments=f', "id": "{ID}", "n": {COUNT}}}',
    between=", ",
    closing="]<|end|>",
    control_tokens=("[CALLS]", "<|end|>"),
)
BARE = replace(GENERIC, before_name='{"name": "', after_arguments="}", between=None)
TYPED = replace(TAGGED, arguments=TaggedArguments("<p=", ' string="true">', ' string="false">', "</p>"))
DIALECTS = {"generic": GENERIC, "tagged": TAGGED, "listed": LISTED, "bare": BARE, "typed": TYPED}
EMPTY = Found()


def tagged(*parameters: tuple[str, str], tool: str = "say") -> str:
    return (
        f"<call>\n<function={tool}>\n{''.join(f'<p={k}>{v}</p>{chr(10)}' for k, v in parameters)}</function>\n</call>"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "no call here\n",
        "a <tool_call> is only a word",
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>{"name": "add"}',
        "<tool_cal",
        "<tool_call>\n",
        '<tool_call>\n{"name": "ad',
        "x\n\n<",
    ],
)
def test_a_text_without_a_call_is_content_byte_for_byte(text: str) -> None:
    assert parsed(GENERIC, text, TOOLS) == Found(content=text)
    assert parsed(GENERIC, [text], TOOLS) == Found(content=text)


def test_space_is_dropped_only_before_a_call() -> None:
    call = GENERIC.write([("", "add", {"a": 1})])
    assert parsed(GENERIC, " one \n two \n\n" + call, TOOLS).content == " one \n two"
    assert parsed(GENERIC, "\n\n" + call, TOOLS).content == ""
    assert parsed(GENERIC, call + "\n", TOOLS).content == ""
    assert parsed(GENERIC, call + "\nso", TOOLS).content == "\nso"


def test_only_what_could_begin_a_mark_is_held_back() -> None:
    parser = ToolCallParser(GENERIC, TOOLS)
    assert parser.push("2 < 3") == [Content("2 < 3")]
    assert parser.push(" <tool") == []
    assert parser.push("s>") == [Content(" <tools>")]
    assert parser.push(" <") == []
    assert parser.finish() == [Content(" <")]


def test_the_name_is_told_before_the_arguments() -> None:
    parser = ToolCallParser(LISTED, TOOLS)
    assert parser.push('Hm [CALLS][{"name": "add') == [Content("Hm")]
    assert parser.push('", "args": ') == [CallBegun(0, "add")]
    assert parser.push('{"a": "}') == [CallArguments(0, '{"a": "}')]
    assert parser.push('\\"]"}, "id": "x') == [CallArguments(0, '\\"]"}')]


def test_a_list_of_calls_with_ids_and_numbers() -> None:
    text = LISTED.write([("abc123", "add", {"a": 1}), ("def456", "say", {"text": "[]}"})])
    assert text.startswith('[CALLS][{"name": "add", "args": {"a": 1}, "id": "abc123", "n": 0}, {')
    assert parsed(LISTED, text, TOOLS).calls == [("add", {"a": 1}), ("say", {"text": "[]}"})]
    # A token that ends the list may be missing: it can be what ended the answer.
    assert parsed(LISTED, text.removesuffix("<|end|>"), TOOLS) == parsed(LISTED, text, TOOLS)


def test_bare_json_is_a_call_only_where_an_answer_begins() -> None:
    call = BARE.write([("", "add", {"a": 1})])
    assert parsed(BARE, "\n " + call, TOOLS) == Found(names=["add"], texts=['{"a": 1}'])
    assert parsed(BARE, "As in " + call, TOOLS) == Found(content="As in " + call)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "17", "17"),
        ("text", ' "quoted"\n', ' "quoted"\n'),
        ("any", "17", 17),
        ("any", '{"x": [1e3]}', {"x": [1000.0]}),
        ("any", "plain", "plain"),
        ("any", '"quoted"', '"quoted"'),
        ("or", "17", 17),
        ("or", "17.5", "17.5"),
        ("or", "null", "null"),
        ("unheard", "NaN", "NaN"),
    ],
)
def test_tagged_values_have_the_types_of_the_schema(key: str, text: str, value: object) -> None:
    assert parsed(TAGGED, tagged((key, text)), TOOLS).calls == [("say", {key: value})]


def test_tagged_numbers() -> None:
    text = tagged(("a", "-3"), ("b", "2"), tool="add") + "\n" + tagged(("b", "null"), tool="add")
    assert parsed(TAGGED, text, TOOLS).calls == [("add", {"a": -3, "b": 2}), ("add", {"b": None})]


def test_a_mark_that_tells_strings_from_other_values_wins_over_the_schema() -> None:
    text = "<call>\n<function=say>\n" + '<p=any string="true">17</p><p=or string="false">18</p></function>\n</call>'
    assert parsed(TYPED, text, TOOLS).calls == [("say", {"any": "17", "or": 18})]


def test_a_call_without_arguments() -> None:
    assert parsed(TAGGED, tagged(), TOOLS).texts == ["{}"]


def test_each_tagged_argument_comes_when_it_is_complete() -> None:
    parser = ToolCallParser(TAGGED, TOOLS)
    assert parser.push("<call>\n<function=say>\n<p=te") == [CallBegun(0, "say")]
    assert parser.push("xt>on") == []
    assert parser.push("e</p>\n<p=") == [CallArguments(0, '{"text":"one"')]
    assert parser.push("any>2</p>\n</fun") == [CallArguments(0, ',"any":2')]
    assert parser.push("ction>\n</call>") == [CallArguments(0, "}")]
    assert parser.finish() == []


def test_a_call_that_was_cut_off_stays_incomplete() -> None:
    call = GENERIC.write([("", "say", {"text": "one two"})])
    begun = call[: call.index(" two")]
    assert parsed(GENERIC, begun, TOOLS) == Found(names=["say"], texts=['{"text": "one'])
    assert parsed(GENERIC, call[:-3], TOOLS) == Found(names=["say"], texts=['{"text": "one two"}'])
    assert parsed(TAGGED, tagged(("text", "one"), ("any", "two"))[:45], TOOLS).texts == ['{"text":"one"']


def test_numbers_that_no_float_holds_stay_as_they_were_written() -> None:
    assert parsed(TAGGED, tagged(("any", "1e999")), TOOLS).texts == ['{"any":1e999}']


def test_nothing_is_too_deep() -> None:
    deep = "[" * 100_000
    assert parsed(TAGGED, [tagged(("any", deep))], TOOLS).calls == [("say", {"any": deep})]


FRAGMENTS = [
    *'<>{}[]"\\/ \n,:ab1',
    *("<tool_call>", "</tool_call>", '{"name": "', '"', "add", "say", "<call>\n<function=", ">\n", "<p=", "</p>\n"),
    *(
        "</function>\n</call>",
        "[CALLS][",
        '", "arguments": ',
        "{}",
        "}\n",
        ' string="true">',
        '", "args": ',
        '", "n": 1}',
    ),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=30).map("".join)
CALLS = st.lists(
    st.tuples(
        st.just("x1"),
        st.sampled_from(["add", "say"]),
        st.dictionaries(st.sampled_from(["a", "text"]), st.text(max_size=8) | st.integers() | st.none(), max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, begun=st.booleans(), data=st.data())
def test_any_text_in_any_cuts_gives_the_same(name: str, text: str, begun: bool, data: st.DataObject) -> None:
    dialect = DIALECTS[name]
    if begun:
        text = dialect.mark.replace(ID, "x").replace(COUNT, "1") + "say" + dialect.after_name + text
    whole = parsed(dialect, [text], TOOLS)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parsed(dialect, pieces, TOOLS) == whole
    assert parsed(dialect, text, TOOLS) == whole
    if not whole.names:
        assert whole.content == text


@pytest.mark.parametrize("name", ["generic", "listed"])
@settings(max_examples=100, deadline=None)
@given(calls=CALLS, before=st.text(max_size=10))
def test_any_calls_that_are_written_are_read(
    name: str, calls: list[tuple[str, str, dict[str, object]]], before: str
) -> None:
    dialect = DIALECTS[name]
    found = parsed(dialect, before + dialect.write(calls), TOOLS)
    assert found.calls == [(tool, json.loads(json.dumps(arguments))) for _, tool, arguments in calls]
    assert found.content == before.rstrip()


def test_events_after_the_end_are_none() -> None:
    parser = ToolCallParser(GENERIC, TOOLS)
    assert joined([*parser.push("a <"), *parser.finish(), *parser.finish()]).content == "a <"
