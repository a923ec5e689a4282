"""What of tools and their messages is refused, and that the refusal names it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from appliance.schemas.chat import ChatRequest
from appliance.schemas.refusal import refusal
from appliance.service.conversation import template_messages
from tests.chat.templates import compiled

USER = {"role": "user", "content": "x"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": "{}"}}


def tool(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def deep(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def refused(body: dict[str, Any]) -> tuple[str | None, str]:
    """The field that is named, and what is said of it."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"messages": [USER], **body})
    error = refusal(caught.value.errors())
    return error.param, error.message


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools.0.type", "want 'function'"),
        ({"tools": [tool("a b")]}, "tools.0.function.name", "match pattern"),
        ({"tools": [tool("")]}, "tools.0.function.name", "match pattern"),
        ({"tools": [tool("a\n")]}, "tools.0.function.name", "match pattern"),
        ({"tools": [tool("<|end|>")]}, "tools.0.function.name", "match pattern"),
        ({"tools": [tool("x" * 65)]}, "tools.0.function.name", "match pattern"),
        ({"tools": [tool(), tool("b"), tool()]}, "tools", "two functions have the name 'a'"),
        ({"tools": [tool(f"f{n}") for n in range(129)]}, "tools", "at most 128"),
        ({"tools": [tool(description="x" * (512 * 1024))]}, "tools", "at most 524288 are allowed"),
        ({"tools": [tool(description="\ud800")]}, "tools.0.function.description", "surrogate"),
        ({"tools": [tool(parameters={"\ud800": 1})]}, "tools.0.function.parameters", "can't be written"),
        ({"tools": [tool(parameters=nested(40))]}, "tools.0.function.parameters", "deeper than 64 levels"),
        ({"tools": [tool(parameters={"const": 1 << 70})]}, "tools.0.function.parameters", "Integer"),
        ({"tools": [tool(parameters=[])]}, "tools.0.function.parameters", "dictionary"),
        ({"tools": [tool(strict="yes")]}, "tools.0.function.strict", "boolean"),
        ({"tools": [tool()], "tool_choice": "any"}, "tool_choice.type", "want 'auto'"),
        ({"tools": [tool()], "tool_choice": 3}, "tool_choice", "dictionary"),
        ({"tools": [tool()], "tool_choice": "function"}, "tool_choice", "want function with the type"),
        ({"tools": [tool()], "tool_choice": {"type": "auto", "function": {"name": "a"}}}, "tool_choice", "no other"),
        ({"tools": [tool(), tool("c")], "tool_choice": tool("b")}, "tool_choice", "no function 'b'; there are: a, c"),
        ({"tools": [tool()], "tool_choice": {"type": "custom"}}, "tool_choice.type", "want 'auto'"),
        ({"tool_choice": "required"}, "tool_choice", "nothing to call"),
        ({"tool_choice": tool()}, "tool_choice", "nothing to call"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "nothing to call"),
        ({"functions": [{"name": "a"}], "tool_choice": "required"}, "tool_choice", "nothing to call"),
        (
            {
                "tools": [tool()],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("b")]}},
            },
            "tool_choice",
            "no function 'b'",
        ),
        ({"tools": [tool()], "functions": [{"name": "a"}]}, "functions", "either tools or functions"),
        ({"functions": [{"name": "a"}], "function_call": {"name": "b"}}, "function_call", "no function 'b'"),
        ({"function_call": {"name": "b"}}, "function_call", "nothing to call"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "boolean"),
    ],
)
def test_tools_that_cannot_be_had(body: dict[str, Any], param: str, words: str) -> None:
    found, message = refused(body)
    assert found == param
    assert words in message


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        ([{"role": "assistant", "content": None}], "messages.1", "content is missing, and so are tool_calls"),
        ([{"role": "assistant", "tool_calls": []}], "messages.1", "content is missing, and so are tool_calls"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "messages.1", "only an assistant message"),
        (
            [{"role": "assistant", "tool_calls": [CALL], "function_call": CALL["function"]}],
            "messages.1",
            "either tool_calls or function_call",
        ),
        ([{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}], "messages.1.tool_calls.0.type", "want"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": "<|end|>"}]}], "messages.1.tool_calls.0.id", "pattern"),
        ([{"role": "tool", "content": "y"}], "messages.1", "want tool_call_id"),
        ([{"role": "user", "content": "y", "tool_call_id": "call_1"}], "messages.1", "and with no other"),
        ([{"role": "tool", "tool_call_id": "call_1"}], "messages.1", "content is missing"),
        (
            [{"role": "tool", "tool_call_id": "call_1", "content": "y"}],
            "messages",
            "message 1 answers the call 'call_1'",
        ),
        (
            [
                {"role": "tool", "tool_call_id": "call_1", "content": "y"},
                {"role": "assistant", "tool_calls": [CALL]},
            ],
            "messages",
            "stands nowhere before",
        ),
        ([{"role": "function", "content": "y"}], "messages.1", "the name of the function"),
        ([{"role": "function", "name": "a", "content": "y"}], "messages", "message 1 answers a call of 'a'"),
    ],
)
def test_messages_that_do_not_fit_together(messages: list[Any], param: str, words: str) -> None:
    found, message = refused({"messages": [USER, *messages]})
    assert found == param
    assert words in message


@pytest.mark.parametrize("arguments", ["{", "[1]", "nul", "{} x", "7", '{"a": NaN}', '{"a":' * 2000, deep(129)])
def test_arguments_of_a_call_are_a_json_object(arguments: str) -> None:
    call = {**CALL, "function": {"name": "a", "arguments": arguments}}
    param, _ = refused({"messages": [USER, {"role": "assistant", "tool_calls": [call]}]})
    assert param == "messages.1.tool_calls.0.function.arguments"


def test_arguments_of_a_call_may_be_as_deep_as_templates_can_go() -> None:
    call = {**CALL, "function": {"name": "a", "arguments": deep(128)}}
    messages = ChatRequest.model_validate({"messages": [USER, {"role": "assistant", "tool_calls": [call]}]}).messages
    template = compiled("{{ messages[-1].content | tojson }}")
    (part,) = template.render(template_messages(messages))
    assert part.text.count("{") > 128


def test_a_call_without_arguments_may_say_nothing() -> None:
    call = {**CALL, "function": {"name": "a", "arguments": ""}}
    request = ChatRequest.model_validate({"messages": [USER, {"role": "assistant", "tool_calls": [call]}]})
    assert request.messages[1].tool_calls is not None
    assert request.messages[1].tool_calls[0].function.arguments == "{}"


@pytest.mark.parametrize(
    ("body", "may_call"),
    [
        ({"tools": [tool("größe_温度-1")]}, True),
        ({"tools": [tool()], "tool_choice": "none"}, False),
        ({"tools": [tool()], "tool_choice": None}, True),
        ({"tools": []}, False),
        ({"tool_choice": "auto"}, False),
        ({"tool_choice": "none", "parallel_tool_calls": False}, False),
        ({"functions": [{"name": "a"}], "function_call": "none"}, False),
        ({"functions": [{"name": "a"}], "function_call": {"name": "a"}}, True),
        ({"functions": [{"name": "a"}], "tool_choice": "none"}, False),
        ({"tools": [tool()], "function_call": "none"}, False),
        ({"tools": [tool()], "function_call": "auto"}, True),
    ],
)
def test_whether_the_model_may_call(body: dict[str, Any], may_call: bool) -> None:
    assert ChatRequest.model_validate({"messages": [USER], **body}).may_call is may_call
