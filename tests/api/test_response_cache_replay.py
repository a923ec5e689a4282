"""A hit is the original again, frame by frame; and only what is complete is ever kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from appliance.api.server import ServerOptions
from appliance.supervisor.supervisor import Rules
from tests.api.answers import HIT, MISS, content, error, frames, is_stored, n_sampled, state, text_pieces
from tests.gateway import Gateway, engine_config, run_gateway
from tests.machine_room import until
from tests.response_cache import open_cache

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": None}
_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One for all tests, each of which asks what no other does."""
    async with open_cache(tmp_path_factory.mktemp("cache")) as cache, run_gateway(cache=cache) as running:
        yield running


@pytest.fixture
def text() -> str:
    """A prompt of which nothing is known yet; the answer is ``bcd``."""
    return f"{next(_numbers)} a"


async def ask(gateway: Gateway, path: str, prompt: Any, **fields: Any) -> httpx.Response:
    asked = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    return await gateway.http.post(path, json={**asked, "max_tokens": 4, "temperature": 0, **fields})


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    """A body or a frame without what is new in each answer."""
    found = {name: value for name, value in body.items() if name not in ("id", "created", "timings")}
    if found.get("usage"):
        found["usage"] = {**found["usage"], "prompt_tokens_details": None}
    return found


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (CHAT, {}),
    "with usage": (CHAT, {"stream_options": {"include_usage": True}}),
    "several answers": (CHAT, {"n": 3}),
    "several answers with a seed": (CHAT, {"n": 2, "seed": 7, "temperature": 1}),
    "logprobs": (CHAT, {"logprobs": True, "top_logprobs": 2}),
    "logprobs of several answers": (CHAT, {"logprobs": True, "n": 2}),
    "a stop string": (CHAT, {"stop": ["cd"]}),
    "a stop string that never comes": (CHAT, {"stop": ["bcx"]}),
    "to its end": (CHAT, {"max_tokens": 100}),
    "to its end with usage": (CHAT, {"max_tokens": 100, "n": 2, "stream_options": {"include_usage": True}}),
    "one token": (CHAT, {"max_tokens": 1}),
    "flex": (CHAT, {"service_tier": "flex"}),
    "text": (COMPLETIONS, {}),
    "text with logprobs": (COMPLETIONS, {"logprobs": 2, "n": 2}),
    "text with its prompt": (COMPLETIONS, {"echo": True, "n": 2}),
    "text with its prompt and a stop string": (COMPLETIONS, {"echo": True, "stop": ["a", "cd"]}),
}


@pytest.mark.parametrize("name", SHAPES)
async def test_a_hit_streams_like_the_original(gateway: Gateway, text: str, name: str) -> None:
    path, fields = SHAPES[name]
    first, second = [await ask(gateway, path, text, stream=True, **fields) for _ in range(2)]
    assert (state(first), state(second)) == (MISS, HIT)
    original, replayed = frames(first.text), frames(second.text)
    assert [comparable(frame) for frame in replayed] == [comparable(frame) for frame in original]
    assert {frame["id"] for frame in replayed}.isdisjoint(frame["id"] for frame in original)
    reasons = {choice["finish_reason"] for frame in replayed for choice in frame["choices"]} - {None}
    assert reasons == ({"stop"} if fields.get("max_tokens") == 100 or "cd" in fields.get("stop", ()) else {"length"})


@pytest.mark.parametrize("name", SHAPES)
async def test_streams_and_whole_answers_are_kept_as_one(gateway: Gateway, text: str, name: str) -> None:
    path, fields = SHAPES[name]
    fields = {key: value for key, value in fields.items() if key != "stream_options"}
    streamed = await ask(gateway, path, text, stream=True, **fields)
    whole = await ask(gateway, path, text, **fields)
    computed = await gateway.http.post(
        path,
        json=json.loads(whole.request.content),
        headers={"Cache-Control": "no-store"},
    )
    assert (state(streamed), state(whole)) == (MISS, HIT)
    assert comparable(whole.json()) == comparable(computed.json())


async def test_of_ten_prompts_only_the_new_one_is_computed(gateway: Gateway, text: str) -> None:
    prompts = [f"{text}{'a' * number}" for number in range(10)]
    known = await ask(gateway, COMPLETIONS, prompts[:4] + prompts[5:], n=2)
    assert state(known) == MISS
    before = n_sampled(gateway)
    response = await ask(gateway, COMPLETIONS, prompts, n=2)
    assert n_sampled(gateway) - before == 2 * 4
    assert state(response) == MISS
    body = response.json()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(i, "bcde") for i in range(20)]
    assert body["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert body["usage"]["completion_tokens"] == 80
    again = await ask(gateway, COMPLETIONS, prompts, n=2)
    assert state(again) == HIT
    assert "Age" in again.headers
    assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == sum(map(len, prompts))


@pytest.mark.parametrize("stream", [False, True])
async def test_one_unknown_prompt_fails_a_request_that_wants_stored_answers_only(
    gateway: Gateway, text: str, stream: bool
) -> None:
    assert state(await ask(gateway, COMPLETIONS, text)) == MISS
    before = n_sampled(gateway)
    body = {"prompt": [text, f"{text}a"], "max_tokens": 4, "temperature": 0, "stream": stream}
    response = await gateway.http.post(COMPLETIONS, json=body, headers={"Cache-Control": "only-if-cached"})
    assert error(response) == (504, "not_cached")
    assert n_sampled(gateway) == before
    assert not gateway.activity.running()


async def test_the_same_prompt_twice_in_a_request_is_computed_once(gateway: Gateway, text: str) -> None:
    before = n_sampled(gateway)
    response = await ask(gateway, COMPLETIONS, [text] * 5)
    assert [choice["text"] for choice in response.json()["choices"]] == ["bcde"] * 5
    assert n_sampled(gateway) - before == 4


async def test_an_answer_that_begins_with_its_end_has_its_prompt_too(gateway: Gateway) -> None:
    for expected in (MISS, HIT):
        response = await ask(gateway, COMPLETIONS, "xyz", echo=True)
        assert state(response) == expected
        assert response.json()["choices"][0]["text"] == "xyz"


async def test_an_answer_that_filled_the_context_is_not_kept(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(engine_config(n_ctx=16), cache=cache) as gateway:
        for fields, is_kept in (
            ({"max_tokens": None}, False),
            ({"max_tokens": 100}, False),
            ({"max_tokens": 100, "n": 2}, False),
            ({"max_tokens": 15}, True),  # as many as there is room for
            ({"max_tokens": 15, "n": 2}, True),
        ):
            response = await gateway.chat("a", ignore_eos=True, **fields)
            assert response.json()["choices"][0]["finish_reason"] == "length"
            assert len(content(response)) == 15
            assert await is_stored(gateway, "a", ignore_eos=True, **fields) is is_kept


async def test_what_fails_is_not_kept(gateway: Gateway, text: str) -> None:
    for prompt, code in ((f"{text}!", "engine_error"), ("x" * 300, "context_length_exceeded")):
        for _ in range(2):
            assert error(await gateway.chat(prompt))[1] == code
        assert not await is_stored(gateway, prompt)


@contextlib.asynccontextmanager
async def slow_gateway(folder: Path, **options: Any) -> AsyncIterator[Gateway]:
    """Its answers take long enough to be broken off."""
    async with (
        open_cache(folder) as cache,
        run_gateway(
            engine_config(n_ctx=1 << 22), cache=cache, orders={"fake": {"step_s": 0.002}}, **options
        ) as gateway,
    ):
        yield gateway


@contextlib.asynccontextmanager
async def streaming(gateway: Gateway, **fields: Any) -> AsyncIterator[AsyncIterator[str]]:
    """The pieces of a stream of which some have come."""
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "temperature": 0, **fields}
    async with gateway.http.stream("POST", CHAT, json=body) as response:
        pieces = text_pieces(response.aiter_lines())
        for _ in range(3):
            await anext(pieces)
        yield pieces


async def test_what_its_client_left_is_not_kept(tmp_path: Path) -> None:
    async with slow_gateway(tmp_path) as gateway:
        async with streaming(gateway, **ENDLESS):
            pass
        await until(lambda: not gateway.activity.running())
        assert content(await gateway.chat("a", max_tokens=2)) == "bc"  # behind what is left of the other
        assert not await is_stored(gateway, "a", **ENDLESS)


async def test_what_an_administrator_cancelled_is_not_kept(tmp_path: Path) -> None:
    async with slow_gateway(tmp_path) as gateway:
        waiting = asyncio.create_task(gateway.chat("a", **ENDLESS))
        await until(lambda: any(generation.n_pieces for generation in gateway.activity.running()))
        gateway.activity.running()[0].cancel()
        assert error(await waiting) == (409, "request_cancelled")
        assert not await is_stored(gateway, "a", **ENDLESS)


async def test_what_a_stopped_engine_had_begun_is_not_kept(tmp_path: Path) -> None:
    async with slow_gateway(tmp_path, rules=Rules(drain_s=0.0)) as gateway:
        async with streaming(gateway, **ENDLESS) as pieces:
            await gateway.supervisor.unload(gateway.host.key, "a test")
            with pytest.raises(AssertionError, match="engine_unavailable"):
                async for _ in pieces:
                    pass
        assert not await is_stored(gateway, "a", **ENDLESS)


async def test_what_a_stopped_server_had_begun_is_not_kept(tmp_path: Path) -> None:
    async with (
        slow_gateway(tmp_path, server=ServerOptions(drain_s=0.1)) as gateway,
        streaming(gateway, **ENDLESS) as pieces,
    ):
        gateway.server.stop()
        with pytest.raises(AssertionError, match="engine_unavailable"):
            async for _ in pieces:
                pass
    async with slow_gateway(tmp_path) as gateway:
        assert not await is_stored(gateway, "a", **ENDLESS)


async def test_a_hit_needs_no_engine(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        async with run_gateway(cache=cache) as gateway:
            originals = [
                await ask(gateway, CHAT, "a"),
                await ask(gateway, COMPLETIONS, [97], echo=True, n=2),
                await ask(gateway, COMPLETIONS, ["a", "b"]),
            ]
        async with run_gateway(cache=cache, is_loaded=False, rules=Rules(autoload=False)) as gateway:
            again = [
                await ask(gateway, CHAT, "a"),
                await ask(gateway, COMPLETIONS, [97], echo=True, n=2),
                await ask(gateway, COMPLETIONS, ["a", "b"]),
            ]
            assert [state(response) for response in again] == [HIT] * 3
            assert [comparable(r.json()) for r in again] == [comparable(r.json()) for r in originals]
            assert state(await ask(gateway, CHAT, "a", stream=True)) == HIT
            refused = await ask(gateway, CHAT, "c")
            assert error(refused) == (503, "engine_unavailable")
            assert "autoload is off" in refused.json()["error"]["message"]
            assert not gateway.supervisor.hosts or gateway.host.client is None


async def test_a_hit_does_not_load_a_model_that_was_unloaded(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        assert state(await gateway.chat("a")) == MISS
        await gateway.supervisor.unload(gateway.host.key, "a test")
        assert state(await gateway.chat("a")) == HIT
        assert gateway.host.state == "stored"
        assert state(await gateway.chat("b")) == MISS
        assert gateway.host.state == "ready"
