"""The requests that wait and run, and those that have ended, as an administrator sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.admin import get
from tests.api.commands import run
from tests.gateway import Gateway, engine_config, run_gateway
from tests.machine_room import until
from tests.response_cache import open_cache

KEYS = {"app": "sk-app-0123456789abcdef", "nightly": "sk-nightly-0123456789ab"}
ENDLESS = {"messages": [{"role": "user", "content": "a"}], "ignore_eos": True}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """It runs one sequence at a time."""
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=1)) as running:
        yield running


@contextlib.asynccontextmanager
async def asked(gateway: Gateway, request_id: str, key: str | None = None, **fields: Any) -> AsyncIterator[None]:
    """A request without an end, which runs or waits while the block lasts; its client leaves then."""
    headers = {"X-Request-ID": request_id} | ({"Authorization": f"Bearer {KEYS[key]}"} if key else {})
    task = asyncio.create_task(
        gateway.http.post("/v1/chat/completions", json={**ENDLESS, **fields}, headers=headers, timeout=60)
    )
    await until(lambda: any(g.context.request_id == request_id and g.n_prompt for g in gateway.activity.running()))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def listed(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """By the ids that the requests came with."""
    return {entry["request_id"]: entry for entry in (await get(gateway, "/admin/requests"))["requests"]}


async def recent(gateway: Gateway, n_least: int = 1) -> list[dict[str, Any]]:
    await until(lambda: len(gateway.activity.recent) >= n_least)
    found: list[dict[str, Any]] = (await get(gateway, "/admin/requests"))["recent"]
    return found


async def test_those_that_wait_have_a_place_and_those_that_run_have_a_speed(gateway: Gateway) -> None:
    async with asked(gateway, "first"), asked(gateway, "second"), asked(gateway, "third"):
        await until(lambda: gateway.activity.running()[0].n_pieces > 1)
        found = await listed(gateway)
        assert {name: entry["queue_place"] for name, entry in found.items()} == {"first": None, "second": 1, "third": 2}
        assert found["first"]["tokens_per_s"] > 0
        assert found["second"]["tokens_per_s"] is None
        assert [entry["cache"] for entry in found.values()] == ["bypass"] * 3


async def test_the_speed_is_that_of_the_pieces_after_the_first(gateway: Gateway) -> None:
    async with asked(gateway, "it"):
        (running,) = gateway.activity.running()
        await until(lambda: running.n_pieces > 1)
        loop = asyncio.get_running_loop()
        before, before_at = running.n_pieces, loop.time()
        speed = (await listed(gateway))["it"]["tokens_per_s"]
        after, after_at = running.n_pieces, loop.time()
        assert running.ttft_s is not None
        began_at = running.context.arrived_at + running.ttft_s
        assert (before - 1) / (after_at - began_at) <= speed <= (after - 1) / (before_at - began_at)


async def test_batch_work_waits_behind_what_came_later(gateway: Gateway) -> None:
    async with (
        asked(gateway, "first"),
        asked(gateway, "batch", service_tier="flex"),
        asked(gateway, "interactive"),
    ):
        await until(lambda: gateway.activity.running()[0].n_pieces)
        found = await listed(gateway)
        assert (found["interactive"]["queue_place"], found["batch"]["queue_place"]) == (1, 2)


async def test_a_key_s_only_request_does_not_wait_behind_all_of_another_s(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{key} name={name}\n" for name, key in KEYS.items()))
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=1), keys=keys) as gateway:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(4):
                await stack.enter_async_context(asked(gateway, f"app-{number}", "app"))
            await until(lambda: gateway.activity.running()[0].n_pieces)
            await stack.enter_async_context(asked(gateway, "nightly", "nightly"))
            found = await listed(gateway)
            assert found["nightly"]["queue_place"] == 1
            assert [found[f"app-{number}"]["queue_place"] for number in range(4)] == [None, 2, 3, 4]
            assert (found["nightly"]["key"], found["app-0"]["key"]) == ("nightly", "app")


async def test_each_model_has_its_own_queue(tmp_path: Path) -> None:
    orders = {"b": {"load_until": str(tmp_path / "loaded")}}
    async with run_gateway(models={"a": 0, "b": 0}, orders=orders) as gateway:
        waiting = [asyncio.create_task(gateway.chat(model="b")) for _ in range(2)]
        await until(lambda: len(gateway.activity.running()) == 2)
        await until(lambda: all(g.source is not None for g in gateway.activity.running()))
        entries = (await get(gateway, "/admin/requests"))["requests"]
        assert [(entry["model"], entry["queue_place"]) for entry in entries] == [("b", 1), ("b", 2)]
        (tmp_path / "loaded").touch()
        await asyncio.gather(*waiting)


async def test_one_that_joined_another_has_no_place_and_no_speed_of_its_own(tmp_path: Path) -> None:
    config = engine_config(n_ctx=1 << 22, max_running=1)
    async with open_cache(tmp_path) as cache, run_gateway(config, cache=cache) as gateway:
        async with asked(gateway, "first", temperature=0), asked(gateway, "second", temperature=0):
            await until(lambda: all(g.n_pieces > 1 for g in gateway.activity.running()))
            found = await listed(gateway)
            assert {name: entry["cache"] for name, entry in found.items()} == {"first": "miss", "second": "joined"}
            assert found["second"]["queue_place"] is None
            assert found["second"]["tokens_per_s"] is None


async def test_those_that_ended_are_listed_newest_first_however_they_ended(gateway: Gateway) -> None:
    began_s = time.time()
    chats = [{"content": "hello"}, {"content": "z"}, {"content": "!"}, {"content": "hello", "seed": 7}]
    for fields in chats:
        await gateway.chat(**fields)
    async with asked(gateway, "left"):
        pass
    found = await recent(gateway, len(chats) + 1)
    assert [entry["outcome"] for entry in found] == ["abort", "length", "engine_error", "stop", "length"]
    left, _, failed, stopped, first = found
    assert (first["model"], first["key"], first["cache"]) == ("fake", "-", "bypass")
    assert (first["prompt_tokens"], first["cached_tokens"], first["completion_tokens"]) == (5, 0, 3)
    assert first["id"].startswith("chatcmpl-")
    assert 0 <= first["queue_s"] <= first["ttft_s"] <= first["e2e_s"]
    assert began_s <= first["ended_s"] <= stopped["ended_s"] <= time.time()
    assert (failed["cached_tokens"], failed["queue_s"], failed["completion_tokens"]) == (0, None, 0)
    assert (left["request_id"], left["prompt_tokens"], left["queue_s"]) == ("left", 1, None)


async def test_hits_and_joins_are_listed_and_the_latencies_stay_those_of_computed_ones(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        for _ in range(3):
            await gateway.chat("hello")
        found = await recent(gateway, 3)
        assert [entry["cache"] for entry in found] == ["hit", "hit", "miss"]
        assert (found[0]["cached_tokens"], found[0]["queue_s"]) == (5, None)
        assert found[0]["ttft_s"] > 0
        assert (await get(gateway, "/admin/status"))["latencies"]["n_requests"] == 1


async def test_a_hundred_are_kept(gateway: Gateway) -> None:
    for number in range(103):
        await gateway.http.post(
            "/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers={"X-Request-ID": str(number)}
        )
    found = await recent(gateway, 100)
    assert [int(entry["request_id"]) for entry in found] == list(range(102, 2, -1))


async def test_nothing_of_what_was_said_is_told(gateway: Gateway) -> None:
    await gateway.chat("planted", user="planted", stop=["planted"])
    async with asked(gateway, "it", user="planted"):
        response = await gateway.http.get("/admin/requests", headers=gateway.admin)
    assert "planted" not in response.text


async def test_the_commands_show_place_speed_and_end(gateway: Gateway) -> None:
    assert (await run(gateway, "requests", "recent")).out == "no request has ended yet\n"
    async with asked(gateway, "first"), asked(gateway, "second"):
        await until(lambda: gateway.activity.running()[0].n_pieces > 1)
        first, second = (await run(gateway, "requests", "list")).out.splitlines()
        assert "decode " in first
        assert " a second  " in first
        assert "waiting  as number 1  fake  key -  prompt 0/1  answer 0 pieces  " in second
        as_json = json.loads((await run(gateway, "requests", "list", "--json")).out)
        assert [entry["queue_place"] for entry in as_json] == [None, 1]
    await recent(gateway, 2)
    lines = (await run(gateway, "requests", "recent")).out.splitlines()
    assert len(lines) == 2
    assert all("  abort    bypass  fake  key -  prompt 1 (0 cached)  answer " in line for line in lines)
    found = (await get(gateway, "/admin/requests"))["recent"]
    assert json.loads((await run(gateway, "requests", "recent", "--json")).out) == found


async def test_a_refused_request_has_ended(gateway: Gateway) -> None:
    response = await gateway.chat(logit_bias={"97": 1})
    assert response.status_code == 400
    (entry,) = await recent(gateway)
    assert (entry["outcome"], entry["completion_tokens"], entry["ttft_s"]) == ("invalid_value", 0, None)
