"""Forms over HTTP. The fake model goes through the alphabet as far as the grammar lets it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.service import forms
from tests.api.answers import HIT, MISS, content, error, frames, is_stored, state, violations
from tests.gateway import Gateway, run_gateway
from tests.response_cache import open_cache

pytestmark = pytest.mark.asyncio(loop_scope="module")

COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "n"],
    "additionalProperties": False,
}
ENDLESS = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def by(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


async def ask(gateway: Gateway, **fields: Any) -> httpx.Response:
    return await gateway.chat(**{"max_tokens": 100, **fields})


async def test_a_text_is_as_its_schema_wants_it_whole_and_streamed(gateway: Gateway) -> None:
    whole = await ask(gateway, response_format=by(COLOUR))
    text = content(whole)
    assert json.loads(text)["colour"] in ("red", "green")
    assert whole.json()["choices"][0]["finish_reason"] == "stop"
    chunks = frames((await ask(gateway, response_format=by(COLOUR), stream=True)).text)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


async def test_text_completions_and_the_other_forms(gateway: Gateway) -> None:
    body = {"prompt": ["a", "b"], "max_tokens": 100, "temperature": 0, "n": 2}
    for form, expected in (
        ({"response_format": by(COLOUR)}, r'\{"colour":"(red|green)","n":\d\}'),
        ({"regex": "x(yz|zy)"}, "x(yz|zy)"),
        ({"grammar": 'start: "<" B ">"\nB: /[b-d]{3}/'}, "<[b-d]{3}>"),
        ({"grammar": 'root ::= "<" [b-d] ">"'}, "<[b-d]>"),
    ):
        response = await gateway.http.post("/v1/completions", json={**body, **form})
        assert response.status_code == 200, response.text
        texts = [choice["text"] for choice in response.json()["choices"]]
        assert len(texts) == 4
        assert all(re.fullmatch(expected, text) for text in texts), texts


async def test_json_that_is_cut_off_says_so(gateway: Gateway) -> None:
    response = await ask(gateway, response_format=by(ENDLESS), max_tokens=12)
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert content(response).startswith('{"text":"')


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": by({"uniqueItems": True})}, "response_format", "uniqueItems"),
        ({"response_format": by({"uniqueItems": True, "description": "x" * 5000})}, "response_format", "uniqueItems"),
        ({"grammar": "start: y"}, "grammar", "unknown name"),
        ({"regex": "(?=a)"}, "regex", "look-around"),
    ],
)
async def test_what_can_not_be_kept_is_refused_before_an_engine_is_asked(
    fields: dict[str, Any], param: str, message: str, is_stream: bool
) -> None:
    async with run_gateway(is_loaded=False) as gateway:
        response = await ask(gateway, stream=is_stream, **fields)
        refused = response.json()["error"]
        assert (response.status_code, refused["type"], refused["param"]) == (400, "invalid_request_error", param)
        assert message in refused["message"]
        assert not gateway.supervisor.hosts


async def test_a_large_schema_is_looked_at_beside_the_event_loop(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_threads = []
    to_thread = asyncio.to_thread

    async def noted(function: Any, *args: Any) -> Any:
        on_threads.append(function.__name__)
        return await to_thread(function, *args)

    monkeypatch.setattr(forms.asyncio, "to_thread", noted)
    large = {"enum": [f"value {number}" for number in range(300)]}
    answers = await asyncio.gather(*(ask(gateway, response_format=by(large)) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert set(on_threads) == {"check"}
    await ask(gateway, response_format=by(large))
    assert len(on_threads) <= 3  # it is known


async def test_tools_and_another_form_are_refused_together(gateway: Gateway) -> None:
    tools = [{"type": "function", "function": {"name": "x", "parameters": {"type": "object"}}}]
    refused = await ask(gateway, tools=tools, response_format=by(COLOUR))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
    assert (await ask(gateway, tools=tools, tool_choice="none", response_format=by(COLOUR))).status_code == 200


async def test_a_tool_s_schema_is_looked_at_too(gateway: Gateway) -> None:
    tools = [
        {"type": "function", "function": {"name": "x"}},
        {"type": "function", "function": {"name": "y", "strict": True, "parameters": {"type": "object", "not": {}}}},
    ]
    refused = (await ask(gateway, tools=tools)).json()["error"]
    assert (refused["param"], "not: " in refused["message"]) == ("tools.1.function.parameters", True)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_violation_never_leaves_as_a_success_and_is_counted(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(forms, "violation", lambda grammar, text: "it is wrong")
    before = violations(gateway)
    asked = {"prompt": "a"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
    response = await gateway.http.post(path, json={**asked, "response_format": by(COLOUR), "max_tokens": 100})
    assert error(response) == (500, "schema_violation")
    assert "it is wrong" in response.json()["error"]["message"]
    assert violations(gateway) == before + 1
    cut = await gateway.http.post(path, json={**asked, "response_format": by(COLOUR), "max_tokens": 3})
    assert cut.status_code == 200
    assert violations(gateway) == before + 1


async def test_a_violation_is_not_kept_nor_answered_from_the_response_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {"response_format": by(COLOUR), "max_tokens": 100}
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        with monkeypatch.context() as wrong:
            wrong.setattr(forms, "violation", lambda grammar, text: "it is wrong")
            assert error(await ask(gateway, **fields)) == (500, "schema_violation")
            joined = await asyncio.gather(*(ask(gateway, **fields) for _ in range(2)))
            assert [error(one) for one in joined] == [(500, "schema_violation")] * 2
            assert not await is_stored(gateway, **fields)
        assert state(await ask(gateway, **fields)) == MISS
        assert state(await ask(gateway, **fields)) == HIT
        assert state(await ask(gateway, response_format=by(COLOUR | {"title": "x"}), max_tokens=100)) == MISS
        with monkeypatch.context() as wrong:
            wrong.setattr(forms, "violation", lambda grammar, text: "it is wrong")
            assert error(await ask(gateway, **fields)) == (500, "schema_violation")
