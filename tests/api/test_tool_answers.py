"""What a model wrote, and what leaves of it. Its text is put into the response cache, from which it is answered."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import pytest_asyncio

from appliance.cache.answer import Answer
from appliance.cache.key import answer_key
from appliance.cache.store import ResponseCache
from appliance.engine.messages import Piece, SequenceFinished, TokenLogprob
from appliance.schemas.chat import ChatRequest
from appliance.service import forms
from appliance.service.context import RequestContext
from tests.api.answers import HIT, MISS, error, frames, is_stored, state, violations
from tests.api.tools import HEADER, NAMED, TOOLS, WEATHER, put_together, without_ids
from tests.gateway import Gateway, engine_config, run_gateway
from tests.response_cache import open_cache

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "what_is_the_time", "arguments": {}}\n</tool_call>'
_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cache(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ResponseCache]:
    async with open_cache(tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cache: ResponseCache) -> AsyncIterator[Gateway]:
    async with run_gateway(engine_config(n_ctx=8192), header=HEADER, cache=cache) as running:
        yield running


class Room:
    """Asks for what was written before."""

    def __init__(self, gateway: Gateway, cache: ResponseCache) -> None:
        self._gateway = gateway
        self._cache = cache

    async def ask(
        self, *texts: Sequence[str], reason: str = "stop", logprob: bool = False, **fields: Any
    ) -> httpx.Response:
        """``texts``: the pieces of each choice."""
        question = str(next(_numbers))
        body = {"tools": TOOLS, "n": len(texts), "temperature": 0, "logprobs": logprob, **fields}
        body["messages"] = [{"role": "user", "content": question}]
        events: list[Piece | SequenceFinished] = []
        for index, pieces in enumerate(texts):
            for piece in pieces:
                logprobs = (TokenLogprob(piece.encode(), -1.0),) if logprob else ()
                events.append(Piece("", index, piece, logprobs))
            events.append(SequenceFinished("", index, reason, len(pieces)))
        inference = self._gateway.state.inference
        completion = inference.chat(ChatRequest.model_validate(body), RequestContext("r", 0.0))
        key = answer_key(inference.resolve(None).identity, completion.generations[0].submit)
        self._cache.put(key, Answer(1, 1, 1.0, tuple(events)), model="fake", version="v", owner="-")
        response = await self._gateway.http.post("/v1/chat/completions", json=body)
        assert response.status_code != 200 or state(response) == HIT
        return response


@pytest.fixture
def room(gateway: Gateway, cache: ResponseCache) -> Room:
    return Room(gateway, cache)


def called(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = [call["function"] for call in choice["message"].get("tool_calls", ())]
    return [(function["name"], json.loads(function["arguments"])) for function in calls]


TEXTS = {
    "a call": (CALL, None, [("weather", {"city": "Köln"})], "tool_calls"),
    "two calls": (f"{CALL}\n{OTHER}", None, [("weather", {"city": "Köln"}), ("what_is_the_time", {})], "tool_calls"),
    "text": ("No call.", "No call.", [], "stop"),
    "text and a call": (f"Let me see.\n\n{CALL}", "Let me see.", [("weather", {"city": "Köln"})], "tool_calls"),
    "nothing": ("", "", [], "stop"),
    "half a mark of a call": ("a <tool_call", "a <tool_call", [], "stop"),
    "no mark of a call": ("a <tool and a <b>", "a <tool and a <b>", [], "stop"),
}


@pytest.mark.parametrize("name", TEXTS)
async def test_a_whole_answer(room: Room, name: str) -> None:
    text, content, calls, reason = TEXTS[name]
    (choice,) = (await room.ask([text])).json()["choices"]
    assert choice["message"]["content"] == content
    assert called(choice) == calls
    assert choice["finish_reason"] == reason


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", TEXTS)
async def test_a_stream_in_pieces_of_any_size(room: Room, name: str, size: int) -> None:
    text, content, calls, reason = TEXTS[name]
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    choice = put_together(frames((await room.ask(pieces, stream=True)).text))
    assert choice["message"]["content"] == content
    assert called(choice) == calls
    assert choice["finish_reason"] == reason


@pytest.mark.parametrize("stream", [False, True])
async def test_each_choice_is_read_by_itself(room: Room, stream: bool) -> None:
    texts = [list(TEXTS[name][0]) for name in TEXTS]
    response = await room.ask(*texts, stream=stream)
    chunks = frames(response.text) if stream else []
    found = [put_together(chunks, i) for i in range(len(texts))] if stream else response.json()["choices"]
    for choice, (_, content, calls, reason) in zip(found, TEXTS.values(), strict=True):
        assert (choice["message"]["content"], called(choice), choice["finish_reason"]) == (content, calls, reason)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_a_limit_cut_off_ends_with_length(room: Room, stream: bool) -> None:
    response = await room.ask(list(f"{OTHER}\n{CALL[:60]}"), reason="length", stream=stream)
    choice = put_together(frames(response.text)) if stream else response.json()["choices"][0]
    arguments = [call["function"]["arguments"] for call in choice["message"]["tool_calls"]]
    assert arguments[0] == "{}"
    assert '{"city": "Köln"}'.startswith(arguments[1])
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_older_form(room: Room, stream: bool) -> None:
    functions = {"tools": None, "functions": [WEATHER]}
    response = await room.ask(list(f"So.\n{CALL}"), **functions, stream=stream)
    choice = put_together(frames(response.text)) if stream else response.json()["choices"][0]
    function = choice["message"].pop("function_call")
    assert choice["message"] == {"role": "assistant", "content": "So.", "refusal": None}
    assert (function["name"], json.loads(function["arguments"])) == ("weather", {"city": "Köln"})
    assert choice["finish_reason"] == "function_call"


async def test_with_none_the_text_stays_as_it_is(room: Room) -> None:
    choices = {"tool_choice": "none"}
    (whole,) = (await room.ask([CALL], **choices)).json()["choices"]
    streamed = put_together(frames((await room.ask(list(CALL), **choices, stream=True)).text))
    assert whole["message"]["content"] == streamed["message"]["content"] == CALL
    assert whole["finish_reason"] == streamed["finish_reason"] == "stop"


async def test_the_log_probabilities_of_all_tokens_are_told_in_their_order(room: Room) -> None:
    text = f"So.\n{CALL}"
    for pieces in ([text], list(text), [text[:10], text[10:]]):
        whole = (await room.ask(pieces, logprob=True)).json()["choices"]
        chunks = frames((await room.ask(pieces, logprob=True, stream=True)).text)
        for choices in (whole, [choice for chunk in chunks for choice in chunk["choices"]]):
            told = [record["token"] for c in choices if c["logprobs"] for record in c["logprobs"]["content"]]
            assert told == pieces


async def test_nothing_is_held_back_of_a_text_that_is_no_call(room: Room) -> None:
    chunks = frames((await room.ask(["abc", "def", "<ghi>"], stream=True)).text)
    pieces = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    assert pieces == ["", "abc", "def", "<ghi>", None]
    assert without_ids(put_together(chunks))["message"]["content"] == "abcdef<ghi>"


STRICT = [TOOLS[1], {"type": "function", "function": {**WEATHER, "strict": True}}]
WRONG = CALL.replace("Köln", "Paris")


async def test_a_strict_tool_s_arguments_are_looked_at_before_a_whole_answer_leaves(
    room: Room, gateway: Gateway
) -> None:
    before = violations(gateway)
    for text in (WRONG, f"So: {CALL}\n{WRONG}", CALL.replace('"city"', '"town"')):
        refused = await room.ask([CALL], [text], tools=STRICT)
        assert error(refused) == (500, "schema_violation")
        assert refused.json()["error"]["param"] == "tools.1.function.parameters"
    assert violations(gateway) == before + 3
    functions = [tool["function"] for tool in STRICT]
    assert error(await room.ask([WRONG], tools=None, functions=functions)) == (500, "schema_violation")


async def test_only_whole_arguments_of_strict_tools_are_looked_at(room: Room) -> None:
    for text, tools in ((WRONG, TOOLS), (OTHER, STRICT), ("Paris", STRICT), (CALL, STRICT), (WRONG[:55], STRICT)):
        (choice,) = (await room.ask([text], tools=tools)).json()["choices"]
        assert choice["finish_reason"] in ("stop", "tool_calls", "length")
    streamed = frames((await room.ask(list(WRONG), tools=STRICT, stream=True)).text)
    assert called(put_together(streamed)) == [("weather", {"city": "Paris"})]


async def test_arguments_that_are_not_as_a_strict_tool_wants_them_are_not_kept(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"tools": STRICT, "tool_choice": NAMED, "max_tokens": 500}
    with monkeypatch.context() as wrong:
        wrong.setattr(forms, "violation", lambda grammar, text: "it is wrong")
        for stream in (False, True):
            assert (await gateway.chat(**fields, stream=stream)).status_code == (200 if stream else 500)
            assert not await is_stored(gateway, **fields)
    assert [state(await gateway.chat(**fields)) for _ in range(2)] == [MISS, HIT]
