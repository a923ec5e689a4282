"""Tools on the wire, whole and streamed. The fake model writes what the grammar lets it: calls only if it must."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from tests.api.answers import HIT, MISS, frames, state
from tests.api.tools import CALL_ID, CITY, CLOCK, HEADER, NAMED, TOOLS, WEATHER, put_together, without_ids
from tests.gateway import Gateway, engine_config, run_gateway
from tests.response_cache import open_cache

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    async with run_gateway(engine_config(n_ctx=8192), header=HEADER) as running:
        yield running


async def ask(gateway: Gateway, **fields: Any) -> httpx.Response:
    return await gateway.chat(**{"tools": TOOLS, "max_tokens": 500, **fields})


async def choice_of(gateway: Gateway, **fields: Any) -> dict[str, Any]:
    response = await ask(gateway, **fields)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return dict(choice)


async def test_a_whole_answer_with_a_call(gateway: Gateway) -> None:
    choice = await choice_of(gateway, tool_choice="required", parallel_tool_calls=False)
    (call,) = choice["message"]["tool_calls"]
    assert re.fullmatch(CALL_ID, call.pop("id"))
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
        "logprobs": None,
        "finish_reason": "tool_calls",
    }
    assert call["type"] == "function"
    assert set(call["function"]) == {"name", "arguments"}
    assert call["function"]["name"] in ("weather", "what_is_the_time")


@pytest.mark.parametrize("name", ["weather", "what_is_the_time"])
async def test_a_named_function_is_called_once_and_ends_with_stop(gateway: Gateway, name: str) -> None:
    choice = await choice_of(gateway, tool_choice={"type": "function", "function": {"name": name}})
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == name
    assert json.loads(call["function"]["arguments"]) in ({}, {"city": "Köln"}, {"city": "Wien"})
    assert ("city" in call["function"]["arguments"]) is (name == "weather")
    assert choice["finish_reason"] == "stop"  # as OpenAI has it


@pytest.mark.parametrize("name", ["auto", "none", "required"])
async def test_a_function_may_have_the_name_of_a_choice(gateway: Gateway, name: str) -> None:
    odd = {"type": "function", "function": {"name": name}}
    choice = await choice_of(gateway, tools=[*TOOLS, odd], tool_choice=odd)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == [name]


@pytest.mark.parametrize("n_allowed", [1, 2])
async def test_only_allowed_tools_are_called_and_all_are_in_the_prompt(gateway: Gateway, n_allowed: int) -> None:
    prompts = []
    for tool in TOOLS:
        allowed = [tool] if n_allowed == 1 else TOOLS
        named = [{"type": "function", "function": {"name": tool["function"]["name"]}} for tool in allowed]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
        body = (await ask(gateway, tool_choice=choice, parallel_tool_calls=False)).json()
        (call,) = body["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] in [tool["function"]["name"] for tool in allowed]
        assert body["choices"][0]["finish_reason"] == "tool_calls"
        prompts.append(body["usage"]["prompt_tokens"])
    assert prompts[0] == prompts[1] == (await ask(gateway)).json()["usage"]["prompt_tokens"]


async def test_a_model_that_may_call_and_does_not_answers_with_text(gateway: Gateway) -> None:
    for fields in ({}, {"tool_choice": "auto"}):
        choice = await choice_of(gateway, **fields)
        assert choice["message"] == {"role": "assistant", "content": "bcdefghijklmnopqrstuvwxyz", "refusal": None}
        assert choice["finish_reason"] == "stop"


async def test_with_none_the_tools_are_not_in_the_prompt_and_nothing_is_read_as_a_call(gateway: Gateway) -> None:
    plain = (await gateway.chat("a", max_tokens=500)).json()
    silent = (await ask(gateway, tool_choice="none")).json()
    assert silent["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    assert silent["choices"] == plain["choices"]
    assert (await ask(gateway)).json()["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


async def test_several_calls_unless_the_request_wants_one(gateway: Gateway) -> None:
    several = await choice_of(gateway, tool_choice="required", max_tokens=400)
    assert len(several["message"]["tool_calls"]) > 1
    assert len({call["id"] for call in several["message"]["tool_calls"]}) == len(several["message"]["tool_calls"])
    one = await choice_of(gateway, tool_choice="required", parallel_tool_calls=False)
    assert len(one["message"]["tool_calls"]) == 1


FORMS: dict[str, dict[str, Any]] = {
    "required": {"tool_choice": "required", "parallel_tool_calls": False},
    "named": {"tool_choice": NAMED},
    "several": {"tool_choice": "required", "max_tokens": 300},
    "auto": {},
    "none": {"tool_choice": "none"},
    "several answers": {"tool_choice": "required", "parallel_tool_calls": False, "n": 3},
    "functions": {"tools": None, "functions": [CLOCK, WEATHER]},
    "a named one of functions": {"tools": None, "functions": [CLOCK, WEATHER], "function_call": {"name": "weather"}},
}


@pytest.mark.parametrize("name", FORMS)
async def test_a_stream_is_the_whole_answer_in_pieces(gateway: Gateway, name: str) -> None:
    whole = (await ask(gateway, **FORMS[name])).json()["choices"]
    chunks = frames((await ask(gateway, **FORMS[name], stream=True)).text)
    assert [without_ids(put_together(chunks, index)) for index in range(len(whole))] == list(map(without_ids, whole))
    ids = [call["id"] for choice in whole for call in choice["message"].get("tool_calls", ())]
    assert len(set(ids)) == len(ids)


async def test_a_stream_says_the_name_first_and_then_the_arguments_as_they_come(gateway: Gateway) -> None:
    text = (await ask(gateway, tool_choice=NAMED, stream=True, stream_options={"include_usage": True})).text
    chunks = frames(text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    (first,) = deltas[1]["tool_calls"]
    assert re.fullmatch(CALL_ID, first.pop("id"))
    assert first == {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert all(set(delta) == {"tool_calls"} for delta in deltas[2:-1])
    assert deltas[-1] == {}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_arguments_that_the_limit_cut_off_are_given_as_they_are(gateway: Gateway) -> None:
    full = (await ask(gateway, tool_choice=NAMED)).json()
    n_tokens = full["usage"]["completion_tokens"]
    cut = await choice_of(gateway, tool_choice=NAMED, max_tokens=n_tokens - 20)
    arguments = cut["message"]["tool_calls"][0]["function"]["arguments"]
    assert cut["finish_reason"] == "length"
    assert full["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].startswith(arguments)
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("stop", ["city", "}", "name", "<"])
async def test_a_call_that_a_stop_string_cuts_off_never_looks_whole(gateway: Gateway, choice: Any, stop: str) -> None:
    for stream in (False, True):
        response = await ask(gateway, tool_choice=choice, tools=TOOLS[:1], stop=[stop], stream=stream)
        found = put_together(frames(response.text)) if stream else response.json()["choices"][0]
        assert found["finish_reason"] == "length"
        for call in found["message"].get("tool_calls", ()):
            assert stop not in call["function"]["arguments"]


async def test_a_stop_string_behind_a_call_changes_nothing(gateway: Gateway) -> None:
    choice = await choice_of(gateway, tool_choice="required", tools=TOOLS[:1], stop=["</tool_call>"])
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["city"] in CITY["enum"]
    assert choice["finish_reason"] == "tool_calls"


async def test_the_older_form_is_answered_in_the_older_form(gateway: Gateway) -> None:
    fields = {"tools": None, "functions": [WEATHER]}
    named = await choice_of(gateway, **fields, function_call={"name": "weather"})
    assert named["message"].keys() == {"role", "content", "refusal", "function_call"}
    assert named["message"]["content"] is None
    assert named["message"]["function_call"]["name"] == "weather"
    assert json.loads(named["message"]["function_call"]["arguments"])["city"] in CITY["enum"]
    assert named["finish_reason"] == "stop"
    text = await choice_of(gateway, **fields, function_call="auto")
    assert text["message"] == {"role": "assistant", "content": "bcdefghijklmnopqrstuvwxyz", "refusal": None}


async def test_the_older_form_has_one_call(gateway: Gateway) -> None:
    choice = await choice_of(gateway, tools=None, functions=[CLOCK], function_call="required")
    assert choice["message"]["function_call"] == {"name": "what_is_the_time", "arguments": "{}"}
    assert choice["finish_reason"] == "function_call"


async def test_what_a_tool_said_goes_back_in(gateway: Gateway) -> None:
    first = await choice_of(gateway, tool_choice=NAMED)
    (call,) = first["message"]["tool_calls"]
    messages = [
        {"role": "user", "content": "x"},
        first["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny x"},
    ]
    choice = await choice_of(gateway, messages=messages)
    assert choice["message"]["content"] == "yz"
    refused = await ask(gateway, messages=[*messages[:2], {**messages[2], "tool_call_id": "call_0"}])
    assert refused.status_code == 400
    assert "'call_0'" in refused.json()["error"]["message"]


def with_city(**city: Any) -> dict[str, Any]:
    return {**WEATHER, "parameters": {**WEATHER["parameters"], "properties": {"city": city}}}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ({"name": "f", "parameters": {"type": "string"}}, "of the type 'object'"),
        ({"name": "f", "parameters": {"type": ["object", "null"]}}, "of the type 'object'"),
        ({"name": "f", "parameters": {"properties": 5}}, "is no JSON schema"),
        ({"name": "f", "parameters": {"required": 5, "type": "object"}}, "is no JSON schema"),
        (with_city(enum=[]), "is no JSON schema|no JSON meets it"),
        ({**with_city(type="array", uniqueItems=True), "strict": True}, "uniqueItems: .*can't be enforced"),
        ({**with_city(type="string", pattern="(?=K)"), "strict": True}, "pattern: look-around"),
        ({**with_city(oneOf=[{"minimum": 1}, {"type": "integer"}]), "strict": True}, "oneOf: can only"),
        ({**with_city(**{"$ref": "http://example.com/city"}), "strict": True}, r"\$ref: .*none is fetched"),
    ],
)
async def test_parameters_that_cannot_be_kept_to_are_refused(
    gateway: Gateway, function: dict[str, Any], words: str
) -> None:
    for fields, param in (
        ({"tools": [TOOLS[0], {"type": "function", "function": {**function, "name": "f"}}]}, "tools.1.function"),
        ({"tools": None, "functions": [function]}, "functions.0"),
    ):
        response = await ask(gateway, **fields)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, f"{param}.parameters")
        assert re.search(words, error["message"])


async def test_without_strict_what_cannot_be_enforced_is_passed_over_and_the_rest_is_kept(gateway: Gateway) -> None:
    city = {"type": "string", "enum": ["Köln"], "format": "city", "pattern": "(?=K)", "not": {"const": ""}}
    function = {**with_city(**city), "strict": False}
    function["parameters"] = {**function["parameters"], "propertyNames": {"maxLength": 9}, "$schema": "my own"}
    choice = await choice_of(gateway, tools=[{"type": "function", "function": function}], tool_choice=NAMED)
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}


async def test_a_hundred_kilobytes_of_tools_are_no_matter() -> None:
    tools = [
        {"type": "function", "function": {**WEATHER, "name": f"weather_{number}", "description": "x" * 700}}
        for number in range(100)
    ]
    assert len(json.dumps(tools)) > 90_000
    config = msgspec.structs.replace(engine_config(n_ctx=1 << 20), n_batch=8192)
    async with run_gateway(config, header=HEADER) as gateway:
        named = {"type": "function", "function": {"name": "weather_99"}}
        for choice, name in (("required", "weather_0"), (named, "weather_99")):
            found = await choice_of(gateway, tools=tools, tool_choice=choice, parallel_tool_calls=False)
            assert found["message"]["tool_calls"][0]["function"]["name"] == name
            assert json.loads(found["message"]["tool_calls"][0]["function"]["arguments"])["city"] in CITY["enum"]


async def test_more_tools_than_the_context_holds(gateway: Gateway) -> None:
    tools = [
        {"type": "function", "function": {**WEATHER, "name": f"weather_{number}", "description": "x" * 1000}}
        for number in range(100)
    ]
    for stream in (False, True):
        response = await ask(gateway, tools=tools, stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert re.search(r"\d{6} tokens.*8192", error["message"]), error["message"]


async def test_a_model_without_a_template_has_no_tools_either() -> None:
    async with run_gateway(header=msgspec.structs.replace(HEADER, chat_template=None)) as gateway:
        response = await ask(gateway)
        assert response.status_code == 400
        assert "no chat template" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_every_token_s_logprob_is_in_the_answer(gateway: Gateway, stream: bool) -> None:
    fields = {"tool_choice": NAMED, "logprobs": True}
    n_tokens = (await ask(gateway, **fields)).json()["usage"]["completion_tokens"]
    response = await ask(gateway, **fields, stream=stream)
    choices = [c for chunk in frames(response.text) for c in chunk["choices"]] if stream else response.json()["choices"]
    records = [record for choice in choices if choice["logprobs"] for record in choice["logprobs"]["content"]]
    assert len(records) in (n_tokens, n_tokens - 1)  # the end has none
    assert "weather" in "".join(record["token"] for record in records)


@pytest.mark.parametrize("name", FORMS)
async def test_a_stored_answer_is_read_anew(tmp_path: Path, name: str) -> None:
    fields = FORMS[name]
    async with (
        open_cache(tmp_path) as cache,
        run_gateway(engine_config(n_ctx=8192), header=HEADER, cache=cache) as gateway,
    ):
        first = await ask(gateway, **fields)
        whole, streamed = await ask(gateway, **fields), await ask(gateway, **fields, stream=True)
    assert [state(response) for response in (first, whole, streamed)] == [MISS, HIT, HIT]
    original = first.json()["choices"]
    assert list(map(without_ids, whole.json()["choices"])) == list(map(without_ids, original))
    chunks = frames(streamed.text)
    assert [without_ids(put_together(chunks, i)) for i in range(len(original))] == list(map(without_ids, original))
    ids = re.findall(CALL_ID, first.text + whole.text + streamed.text)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_begins_again_behind_a_dead_engine_is_whole(stream: bool) -> None:
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=1), header=HEADER) as gateway:
        expected = await choice_of(gateway, tool_choice=NAMED)
        endless = asyncio.create_task(gateway.chat("a", ignore_eos=True, max_tokens=None))
        waiting = asyncio.create_task(ask(gateway, tool_choice=NAMED, stream=stream))
        async with gateway.supervisor.engine(gateway.host.spec) as engine:
            pid = engine.pid
            while len(engine._streams) < 2:
                await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        endless.cancel()
        response = await waiting
        assert response.status_code == 200, response.text
        found = put_together(frames(response.text)) if stream else response.json()["choices"][0]
        assert without_ids(found) == without_ids(expected)


async def test_tools_count_as_the_prompt_does(gateway: Gateway) -> None:
    messages = [{"role": "user", "content": "a"}]
    counted = await gateway.http.post("/v1/tokenize", json={"messages": messages, "tools": TOOLS})
    assert counted.json()["count"] == (await ask(gateway)).json()["usage"]["prompt_tokens"]
    refused = await gateway.http.post("/v1/tokenize", json={"prompt": "a", "tools": TOOLS})
    assert (refused.status_code, "tools go with messages" in refused.text) == (400, True)
