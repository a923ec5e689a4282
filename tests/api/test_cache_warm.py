"""``POST /admin/cache/warm``: requests are run through, so that their answers are stored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.store import ResponseCache
from appliance.service.warm import N_AT_ONCE, context_for, warm
from tests.api.admin import error, get
from tests.api.cache_admin import KEYS, chat, post, warmed
from tests.gateway import Gateway, engine_config, run_gateway
from tests.machine_room import until
from tests.response_cache import open_cache


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ResponseCache]:
    async with open_cache(tmp_path) as opened:
        yield opened


@pytest.fixture
async def gateway(cache: ResponseCache) -> AsyncIterator[Gateway]:
    async with run_gateway(cache=cache) as running:
        yield running


@pytest.fixture
async def guarded(cache: ResponseCache, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Wants API keys."""
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{key} {options}\n" for key, options in KEYS.items()))
    async with run_gateway(cache=cache, keys=keys) as running:
        yield running


async def test_a_warmed_request_is_a_hit_whatever_form_it_had(gateway: Gateway) -> None:
    completion = {"prompt": ["x", "abc"], "temperature": 0, "max_tokens": 2}
    results = await warmed(
        gateway,
        chat("body"),
        completion,
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": chat("line")},
        {"custom_id": "2", "url": "/v1/completions", "body": {"prompt": "line", "seed": 1}},
        {"body": chat("short")},
        chat("streamed", stream=True),
    )
    assert results == [("miss", None)] * 6
    for content in ("body", "line", "short", "streamed"):
        assert (await gateway.chat(content)).headers["X-Cache"] == "hit"
    for body in (completion, {"prompt": "line", "seed": 1}):
        assert (await gateway.http.post("/v1/completions", json=body)).headers["X-Cache"] == "hit"
    again = await warmed(gateway, chat("body"), {**completion, "prompt": ["x", "new"]})
    assert again == [("hit", None), ("miss", None)]


async def test_the_url_of_a_batch_line_decides(gateway: Gateway) -> None:
    both = {**chat("c"), "prompt": "x"}
    assert await warmed(gateway, {"url": "/v1/completions", "body": both}) == [("miss", None)]
    assert (await gateway.chat("c")).headers["X-Cache"] == "miss"
    response = await gateway.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3, "temperature": 0})
    assert response.headers["X-Cache"] == "hit"
    assert await warmed(gateway, {"url": "/v1/completions", "body": chat()}) == [("error", "prompt: is required")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"url": "/v1/embeddings", "body": {}}, "url: want one of /v1/chat/completions, /v1/completions"),
        ({"url": "/v1/batches", "body": chat()}, "url: want one of /v1/chat/completions, /v1/completions"),
        ({"url": ["/v1/completions"], "body": {}}, "url: want one of /v1/chat/completions, /v1/completions"),
        ({"url": None, "body": chat()}, "url: want one of /v1/chat/completions, /v1/completions"),
        ({"method": "GET", "url": "/v1/completions", "body": {"prompt": "a"}}, "method: want POST"),
        ({"url": "/v1/completions", "body": "text"}, "body: want a JSON object"),
        ({"url": "/v1/completions", "body": None}, "body: want a JSON object"),
        ({"url": "/v1/completions"}, "it has neither messages nor a prompt"),
        ({}, "it has neither messages nor a prompt"),
    ],
)
async def test_a_line_that_is_no_request_is_an_error_and_the_others_are_run(
    gateway: Gateway, line: dict[str, Any], reason: str
) -> None:
    assert await warmed(gateway, line, chat()) == [("error", reason), ("miss", None)]


BAD_BODIES = [
    {"messages": []},
    {"messages": "hello"},
    {"messages": None},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "wizard", "content": "a"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    {"messages": [{"role": "user", "content": "\ud800"}]},
    chat(temperature=3),
    chat(temperature=1e400),
    chat(temperature="0"),
    chat(n=99),
    chat(stop=["x"] * 99),
    chat(logit_bias={"x": 1}),
    chat(logit_bias={"1": 1}),
    chat(top_logprobs=3),
    chat(tools=[{}]),
    chat(response_format={"type": "json_schema"}),
    chat(regex="("),
    chat(service_tier="bogus"),
    chat(model="nosuch"),
    chat(model=7),
    chat("x" * 999),
    {"prompt": []},
    {"prompt": [[]]},
    {"prompt": "a", "suffix": "b"},
    {"prompt": "a", "echo": True, "logprobs": 1},
    {"prompt": [1 << 40]},
    {"prompt": [300], "temperature": 0},
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: json.dumps(body)[:60])
async def test_the_error_of_a_line_reads_as_that_of_the_request(gateway: Gateway, body: dict[str, Any]) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    headers = {**gateway.admin, "Content-Type": "application/json"}
    refused = await gateway.http.post(path, content=json.dumps(body), headers=headers)
    assert refused.status_code >= 400
    line = {"requests": [body]}
    response = await gateway.http.post("/admin/cache/warm", content=json.dumps(line), headers=headers)
    event = json.loads(response.text.split("\n\n")[1].removeprefix("data: "))
    assert (event["state"], event["reason"]) == ("error", refused.json()["error"]["message"])


async def test_a_request_that_is_not_deterministic_is_not_computed(gateway: Gateway) -> None:
    sampled = {"messages": [{"role": "user", "content": "a"}]}
    reason = "it has neither temperature 0 nor a seed"
    results = await warmed(gateway, sampled, {**sampled, "temperature": 0.5}, {"prompt": "a"})
    assert results == [("bypass", reason)] * 3
    assert not gateway.activity.recent


async def test_the_bounds_of_a_call_are_kept(gateway: Gateway) -> None:
    for requests in ([], [{}] * 257, ["text"], [None], "text", None):
        assert (await post(gateway, "warm", {"requests": requests})).status_code == 400
    assert (await post(gateway, "warm", {"requests": [chat()], "keys": "app"})).status_code == 400


async def test_without_keys_the_answers_are_everybodys_but_the_administrators(gateway: Gateway) -> None:
    assert await warmed(gateway, chat()) == [("miss", None)]
    assert (await gateway.chat()).headers["X-Cache"] == "hit"
    # The admin token is a tenant of its own, as it is with prefixes.
    own = await gateway.http.post("/v1/chat/completions", json=chat(), headers=gateway.admin)
    assert own.headers["X-Cache"] == "miss"
    response = await post(gateway, "warm", {"requests": [chat()], "key": "app"})
    assert error(response)[2] == "this server has no API keys: all requests share answers; name none"


async def test_a_request_is_warmed_for_one_key(guarded: Gateway) -> None:
    assert await warmed(guarded, chat(), key="app") == [("miss", None)]
    assert await warmed(guarded, chat("b"), key="team") == [("miss", None)]
    states = []
    for key in KEYS:
        for content in ("a", "b"):
            only = {"Authorization": f"Bearer {key}", "Cache-Control": "only-if-cached"}
            response = await guarded.http.post("/v1/chat/completions", json=chat(content), headers=only)
            states.append(response.headers.get("X-Cache"))
    assert states == ["hit", None, None, None, None, None, None, "hit", None, "hit"]
    owners = [group["key"] for group in (await get(guarded, "/admin/cache"))["contents"]]
    assert owners == ["app", "team"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "answers belong to API keys: name the one whose apps will ask, of app, team, twin"),
        ("nosuch", "no API key has the name 'nosuch'; there are: app, team, twin"),
        ("admin", "no API key has the name 'admin'; there are: app, team, twin"),
        ("twin", "several keys with scopes of their own have the name 'twin'"),
        ("", "key: is empty"),
    ],
)
async def test_a_key_that_is_not_one_is_refused(guarded: Gateway, key: str | None, message: str) -> None:
    response = await post(guarded, "warm", {"requests": [chat()], "key": key})
    assert error(response) == (400, "invalid_value", message)


async def test_interactive_requests_are_served_first(cache: ResponseCache) -> None:
    orders = {"fake": {"step_s": 0.01}}
    async with run_gateway(engine_config(max_running=1), orders=orders, cache=cache) as gateway:
        bodies = [chat(f"{number} ") for number in range(8)]
        warming = asyncio.create_task(warmed(gateway, *bodies))
        await until(lambda: len(gateway.activity.running()) == len(bodies))
        await gateway.chat("at once")
        n_ended = len(bodies) - len(gateway.activity.running())
        assert await warming == [("miss", None)] * len(bodies)
        assert n_ended <= 2


async def test_what_finds_no_room_waits_for_it(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.client.EngineClient._retry_after_s", lambda client: 0)
    async with run_gateway(engine_config(max_running=1), max_open=2, cache=cache) as gateway:
        assert await warmed(gateway, *[chat(f"{n} ") for n in range(12)]) == [("miss", None)] * 12


async def test_nothing_is_computed_for_a_client_that_has_left(cache: ResponseCache, tmp_path: Path) -> None:
    orders = {"fake": {"step_s": 0.005}}
    async with run_gateway(orders=orders, cache=cache) as gateway:
        bodies = [chat("short "), *[chat(f"{n} ", max_tokens=200, ignore_eos=True) for n in range(20)]]
        async with gateway.http.stream(
            "POST", "/admin/cache/warm", json={"requests": bodies}, headers=gateway.admin
        ) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    assert json.loads(line.removeprefix("data: ")) == {"index": 0, "state": "miss", "reason": None}
                    break
        await until(lambda: not gateway.activity.running())
        assert (await gateway.chat("short ")).headers["X-Cache"] == "hit"
        (group,) = (await get(gateway, "/admin/cache"))["contents"]
        assert group["answers"] == 1


async def test_a_server_that_stops_ends_it_once_those_have_ended_that_run(cache: ResponseCache) -> None:
    async with run_gateway(engine_config(max_running=8), orders={"fake": {"step_s": 0.005}}, cache=cache) as gateway:
        warming = asyncio.create_task(warmed(gateway, *[chat(f"{n} ", max_tokens=20) for n in range(30)]))
        await until(lambda: gateway.host.n_users == 8)
        gateway.server.stop()
        *done, last = await warming
        assert last == ("failed", "the server is stopping")
        assert done == [("miss", None)] * 8


async def test_lines_that_cost_no_waiting_do_not_hold_up_the_loop(gateway: Gateway, cache: ResponseCache) -> None:
    n_turns = 0

    async def turn() -> None:
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    results = warm(gateway.state.inference, cache, context_for(None, None), [{}] * 256, asyncio.Event())
    assert len([result async for result in results]) == 256
    turning.cancel()
    assert n_turns >= 256 // N_AT_ONCE


async def test_an_answer_that_fills_the_context_is_not_kept_and_the_line_says_so(gateway: Gateway) -> None:
    reason = "its text ends where the context does; max_tokens sets an end before that"
    endless = chat(ignore_eos=True, max_tokens=None)
    assert await warmed(gateway, endless, {**endless, "max_tokens": 5}) == [("miss", reason), ("miss", None)]


async def test_a_line_that_ends_its_engine_is_an_error_and_the_next_ones_wait_for_another(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.service.warm.N_AT_ONCE", 1)
    monkeypatch.setattr("appliance.supervisor.host.BACKOFF_S", (0.0, 0.1))
    orders = {"fake": {"crash_after": 50}}
    async with run_gateway(orders=orders, cache=cache) as gateway:
        long = chat("long ", max_tokens=100, ignore_eos=True)
        results = await warmed(gateway, chat("a"), long, chat("b"), chat("c"))
        assert [state for state, _ in results] == ["miss", "error", "miss", "miss"]
        assert results[1][1] == "the model's engine process ended while it worked on this request; try again"


async def test_a_model_that_can_not_be_loaded_ends_it(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.supervisor.host.BACKOFF_S", (0.0, 0.1))
    monkeypatch.setattr("appliance.service.warm.N_TRIES", 2)
    async with run_gateway(
        models={"a": 0, "bad": 0}, orders={"bad": {"fail": "it is cut off"}}, cache=cache
    ) as gateway:
        last = ("failed", "the model bad can't be loaded: it is cut off")
        assert (await warmed(gateway, *[chat(str(number), model="bad") for number in range(20)])) == [last]
