"""Tools with the official client against a live server with the real model."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, ConfigDict

MODEL = "smollm2-135m-instruct"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather like in Paris?"}]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS},
}
TIME: ChatCompletionToolParam = {"type": "function", "function": {"name": "get_time", "description": "The time."}}
TOOLS = [WEATHER, TIME]


def ask(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    body = {"messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": 200, **fields}
    answer: ChatCompletion = client.chat.completions.create(model=MODEL, **body)
    return answer


def stream(client: openai.OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    body = {"messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": 200, **fields}
    return list(client.chat.completions.create(model=MODEL, stream=True, **body))


def called(answer: ChatCompletion) -> list[tuple[str, Any]]:
    """The names and the arguments of the first choice's calls."""
    calls = answer.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"]


def test_a_function_that_was_named(client: openai.OpenAI) -> None:
    answer = ask(client, tool_choice={"type": "function", "function": {"name": "get_weather"}})
    ((name, arguments),) = called(answer)
    assert name == "get_weather"
    assert arguments["city"] in ("Paris", "Rome")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content is None


def test_some_function_must_be_called(client: openai.OpenAI) -> None:
    answer = ask(client, tool_choice="required", parallel_tool_calls=False)
    ((name, _),) = called(answer)
    assert name in ("get_weather", "get_time")
    assert answer.choices[0].finish_reason == "tool_calls"


def test_only_allowed_ones_are_called(client: openai.OpenAI) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    answer = ask(client, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}, parallel_tool_calls=False)
    assert called(answer) == [("get_time", {})]


def test_none_is_called(client: openai.OpenAI) -> None:
    answer = ask(client, tool_choice="none", max_tokens=16)
    assert called(answer) == []
    assert answer.choices[0].message.content


@pytest.mark.parametrize("choice", ["auto", None])
def test_the_model_may_choose(client: openai.OpenAI, choice: str | None) -> None:
    answer = ask(client, **({} if choice is None else {"tool_choice": choice}), max_tokens=64)
    message, reason = answer.choices[0].message, answer.choices[0].finish_reason
    assert message.content or message.tool_calls
    assert reason in (("tool_calls", "length") if message.tool_calls else ("stop", "length"))


@pytest.mark.parametrize("choice", ["required", "get_weather", "auto"])
def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI, choice: str) -> None:
    named = {"type": "function", "function": {"name": choice}}
    fields = {"tool_choice": named if choice == "get_weather" else choice, "parallel_tool_calls": False}
    whole = ask(client, **fields).choices[0]
    content, calls, reason = "", [], None
    for chunk in stream(client, **fields):
        delta, reason = chunk.choices[0].delta, chunk.choices[0].finish_reason
        content += delta.content or ""
        for call in delta.tool_calls or ():
            assert call.function is not None
            if call.id is not None:
                assert (call.index, call.type, call.function.arguments) == (len(calls), "function", "")
                calls.append([call.function.name, ""])
            else:
                calls[call.index][1] += call.function.arguments or ""
    assert (content or None) == (whole.message.content or None)
    expected = [call.function for call in whole.message.tool_calls or () if call.type == "function"]
    assert calls == [[function.name, function.arguments] for function in expected]
    assert reason == whole.finish_reason


def test_the_client_s_own_stream_reader_puts_it_together(client: openai.OpenAI) -> None:
    names, finished = [], []
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=0
    ) as events:
        for event in events:
            if event.type == "tool_calls.function.arguments.delta":
                names.append(event.name)
            if event.type == "tool_calls.function.arguments.done":
                finished.append((event.name, json.loads(event.arguments)))
        final = events.get_final_completion()
    ((name, _),) = finished
    assert set(names) == {name}
    assert final.choices[0].finish_reason == "tool_calls"


class SetLight(BaseModel):
    """Switches the light in a room."""

    model_config = ConfigDict(extra="forbid")

    room: Literal["kitchen", "bath"]
    is_on: bool


def test_arguments_are_parsed_into_a_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "It is too dark in the kitchen."}],
        tools=[openai.pydantic_function_tool(SetLight)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=200,
        temperature=0,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, SetLight)


def test_what_the_function_said_goes_back_in(client: openai.OpenAI) -> None:
    first = ask(client, tool_choice={"type": "function", "function": {"name": "get_weather"}}).choices[0].message
    (call,) = first.tool_calls or ()
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "18 °C and sunny"}
    answer = ask(client, messages=[*ASK, first, result], tool_choice="none", max_tokens=32)
    assert answer.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="'call_unknown'"):
        ask(client, messages=[*ASK, first, {**result, "tool_call_id": "call_unknown"}])


def test_several_answers_have_calls_of_their_own(client: openai.OpenAI) -> None:
    answer = ask(client, tool_choice="required", parallel_tool_calls=False, n=3, temperature=1, seed=1)
    ids = [call.id for choice in answer.choices for call in choice.message.tool_calls or ()]
    assert len(set(ids)) == len(ids) == 3


def test_the_older_functions(client: openai.OpenAI) -> None:
    functions = [{"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS}]
    fields: dict[str, Any] = {"tools": openai.omit, "functions": functions, "function_call": {"name": "get_weather"}}
    message = ask(client, **fields).choices[0].message
    assert message.function_call is not None
    assert message.tool_calls is None
    arguments = json.loads(message.function_call.arguments)
    streamed = [chunk.choices[0].delta.function_call for chunk in stream(client, **fields)]
    parts = [part for part in streamed if part is not None]
    assert [part.name for part in parts if part.name] == ["get_weather"]
    assert json.loads("".join(part.arguments or "" for part in parts)) == arguments
    result: ChatCompletionMessageParam = {"role": "function", "name": "get_weather", "content": "sunny"}
    again = ask(client, **{**fields, "function_call": "none"}, messages=[*ASK, message, result], max_tokens=16)
    assert again.choices[0].message.content


def test_what_cannot_be_had_is_refused(client: openai.OpenAI) -> None:
    for fields, param in (
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
        ({"tools": openai.omit, "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, **fields)
        assert refused.value.param == param


def test_more_tools_than_the_context_holds(client: openai.OpenAI) -> None:
    """A hundred kilobytes: their grammar is compiled within its limits, which the numbers show."""
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "description": "word " * 100, "parameters": PARAMETERS}}
        for n in range(128)
    ]
    assert len(json.dumps(tools)) > 80_000
    with pytest.raises(openai.BadRequestError, match=r"\d{5} tokens.*context holds") as long:
        ask(client, tools=tools)
    assert long.value.code == "context_length_exceeded"


async def test_the_async_client_calls_side_by_side(async_client: openai.AsyncOpenAI) -> None:
    async def one(number: int) -> str:
        chunks = await async_client.chat.completions.create(
            model=MODEL, messages=ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False,
            max_tokens=100, temperature=0, seed=number, stream=True,
        )  # fmt: skip
        parts = [call.function async for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        return "".join(part.arguments or "" for part in parts if part is not None)

    for arguments in await asyncio.gather(*map(one, range(4))):
        assert isinstance(json.loads(arguments), dict)
