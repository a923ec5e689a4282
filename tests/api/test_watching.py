"""Events, the log, the last minutes and the machine, as they are watched over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.api.server import ServerOptions
from appliance.schemas.admin import LogLines
from tests.api.admin import done, get
from tests.fake_models import digest
from tests.gateway import Gateway, run_gateway
from tests.machine_room import until
from tests.response_cache import open_cache


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with run_gateway(models={"a": 0, "b": 0, "c": 0}) as running:
        yield running


@contextlib.asynccontextmanager
async def following(gateway: Gateway, path: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with gateway.http.stream("GET", path, headers=gateway.admin) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")

        async def events() -> AsyncIterator[dict[str, Any]]:
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

        yield events()


async def test_what_happens_to_models_is_streamed_and_a_client_that_leaves_is_forgotten() -> None:
    async with run_gateway(models={"a": 0, "b": 0}, orders={"b": {"load_s": 0.05}}) as gateway:
        watchers = gateway.supervisor.feed._watchers
        async with following(gateway, "/admin/events") as events:
            await until(lambda: watchers)
            await done(gateway, "b/load")
            await done(gateway, "b/unload")
            seen: list[dict[str, Any]] = []
            while not seen or seen[-1]["event"] != "unloaded":
                seen.append(await anext(events))
        assert [e["event"] for e in seen if e["event"] != "progress"] == ["loading", "ready", "draining", "unloaded"]
        assert {(e["model"], e["version"]) for e in seen} == {("b", digest("b")[:12])}
        assert seen[-1]["reason"] == "operator"
        assert any(e["event"] == "progress" for e in seen)
        await until(lambda: not watchers)


async def test_log_lines_are_numbered_and_followed_and_a_client_that_leaves_is_forgotten(gateway: Gateway) -> None:
    log = gateway.state.log
    for line in ("one", "two", "three"):
        log.add(line)
    lines = (await get(gateway, "/admin/logs"))["lines"]
    assert [(line["number"], line["line"]) for line in lines] == [(1, "one"), (2, "two"), (3, "three")]
    assert [line["line"] for line in (await get(gateway, "/admin/logs?after=2"))["lines"]] == ["three"]
    assert (await get(gateway, "/admin/logs?after=99"))["lines"] == []
    assert [line["line"] for line in (await get(gateway, "/admin/logs?limit=2"))["lines"]] == ["two", "three"]
    assert [line["line"] for line in (await get(gateway, "/admin/logs?limit=2&after=2"))["lines"]] == ["three"]
    assert (await get(gateway, "/admin/logs?limit=0"))["lines"] == []
    refused = await gateway.http.get("/admin/logs?limit=-1", headers=gateway.admin)
    assert refused.status_code == 400
    async with following(gateway, "/admin/logs?follow=true&after=1") as events:
        assert [(await anext(events))["line"] for _ in range(2)] == ["two", "three"]
        await asyncio.to_thread(log.add, "four")
        assert await anext(events) == {"number": 4, "line": "four"}
    async with following(gateway, "/admin/logs?follow=true&limit=1") as events:
        assert await anext(events) == {"number": 4, "line": "four"}
    async with following(gateway, "/admin/logs?follow=true&limit=0") as events:
        await until(lambda: log._on_line)
        await asyncio.to_thread(log.add, "five")
        assert await anext(events) == {"number": 5, "line": "five"}
    await until(lambda: not log._on_line)


async def test_log_lines_are_as_their_type_says(gateway: Gateway) -> None:
    for line in ("one", 'ä \U0001f600 "', "\x00\x1b[31m", "x" * 9000):
        gateway.state.log.add(line)
    found = LogLines.model_validate(await get(gateway, "/admin/logs"))
    assert [(entry.number, entry.line) for entry in found.lines] == gateway.state.log.after(0)


async def test_streams_that_never_end_hold_up_no_stop() -> None:
    async with run_gateway(server=ServerOptions(drain_s=3600.0)) as gateway:
        async with following(gateway, "/admin/events") as events, following(gateway, "/admin/logs?follow=1") as lines:
            await until(lambda: gateway.supervisor.feed._watchers and gateway.state.log._on_line)
            gateway.server.stop()
            assert [event async for event in events] == []
            assert [line async for line in lines] == []


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr("appliance.api.admin.watching.KEEP_ALIVE_S", 0.01)
    for path in ("/admin/events", "/admin/logs?follow=true"):
        async with gateway.http.stream("GET", path, headers=gateway.admin) as response:
            lines = response.aiter_lines()
            assert [await anext(lines) for _ in range(3)] == [": keep-alive", "", ": keep-alive"]


async def test_the_last_minutes_are_kept(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr("appliance.service.history.INTERVAL_S", 0.01)
    keeping = asyncio.create_task(gateway.state.history.keep())
    await gateway.chat("hello")
    ring = gateway.state.history._ring
    await until(lambda: ring and ring[-1].completion_tokens == 3)
    await done(gateway, "a/unload")
    await until(lambda: ring[-1].kv_total_tokens == 0)
    await gateway.chat("hello")  # another engine, which counts from 0
    await until(lambda: ring[-1].completion_tokens == 6)
    keeping.cancel()
    found = (await get(gateway, "/admin/history"))["snapshots"]
    times = [snapshot["time_s"] for snapshot in found]
    assert times == sorted(times)
    counts = [snapshot["completion_tokens"] for snapshot in found]
    assert counts == sorted(counts)
    assert found[-1]["ram_used_bytes"] > 0
    assert found[-1]["net_sent_bytes"] >= found[0]["net_sent_bytes"] >= 0
    assert found[-1]["net_received_bytes"] >= found[0]["net_received_bytes"] >= 0
    later = (await get(gateway, f"/admin/history?since_s={times[-2]}"))["snapshots"]
    assert later == found[-1:]


async def test_the_last_minutes_tell_of_the_response_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("appliance.service.history.INTERVAL_S", 0.01)
    orders = {"fake": {"step_s": 0.01}}
    async with open_cache(tmp_path) as cache, run_gateway(orders=orders, cache=cache) as gateway:
        keeping = asyncio.create_task(gateway.state.history.keep())
        ring = gateway.state.history._ring
        await until(lambda: ring)
        first = asyncio.create_task(gateway.chat("hello", max_tokens=20, ignore_eos=True))
        await until(lambda: any(generation.source for generation in gateway.activity.running()))
        joined = await gateway.chat("hello", max_tokens=20, ignore_eos=True)
        assert [response.headers["X-Cache"] for response in (await first, joined)] == ["miss", "joined"]
        await gateway.chat("hello", max_tokens=20, ignore_eos=True)
        await gateway.chat("hello", temperature=1)
        await until(lambda: ring[-1].response_cache_hits)
        keeping.cancel()
        found = (await get(gateway, "/admin/history"))["snapshots"]
        names = ("response_cache_hits", "response_cache_joins", "response_cache_misses")
        assert [found[0][name] for name in names] == [0, 0, 0]
        assert [found[-1][name] for name in names] == [1, 1, 1]


async def test_the_machine_is_shown(gateway: Gateway) -> None:
    found = await get(gateway, "/admin/hardware")
    assert found["ram"]["total_bytes"] > 0
    assert found["cpu"]
