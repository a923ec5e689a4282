"""Clients that leave, engines that die, servers that stop: everything ends, and the next request is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.api.server import ServerOptions
from appliance.engine.client import EngineClient, EngineProcess
from appliance.errors import EngineUnavailable
from appliance.hardware.fit import Fit
from appliance.supervisor.spec import ModelSpec
from tests.gateway import Gateway, engine_config, run_gateway

# Long enough that waiting for it to end would be noticed.
ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": None}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """With room for one running request and very long answers."""
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=1)) as running:
        yield running


@contextlib.asynccontextmanager
async def streaming(gateway: Gateway, content: str = "a", **fields: Any) -> AsyncIterator[AsyncIterator[str]]:
    """A stream whose first text has come; leaving the block closes its connection."""
    body = {"messages": [{"role": "user", "content": content}], "stream": True, **ENDLESS, **fields}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.aiter_lines()
        async for line in lines:
            if '"content":"b"' in line:
                break
        yield lines


async def engine_of(gateway: Gateway) -> EngineClient:
    """The engine that serves now, once there is one."""
    async with gateway.supervisor.engine(gateway.host.spec) as engine:
        return engine


async def engine_pid(gateway: Gateway) -> int:
    return (await engine_of(gateway)).pid


async def test_a_client_that_leaves_while_its_answer_streams_makes_room(gateway: Gateway) -> None:
    async with streaming(gateway):
        pass
    assert (await gateway.chat("a")).json()["choices"][0]["message"]["content"] == "bcd"


async def test_a_client_that_leaves_a_whole_answer_makes_room(gateway: Gateway) -> None:
    async with streaming(gateway) as lines:
        waiting = asyncio.create_task(gateway.chat("a", **ENDLESS))
        await anext(lines)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    assert (await gateway.chat("a")).status_code == 200


async def test_a_client_that_leaves_while_its_prompt_is_computed_makes_room(gateway: Gateway) -> None:
    body = {"messages": [{"role": "user", "content": "1" * 2_000_000}], "stream": True, **ENDLESS}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.aiter_lines()
        assert "assistant" in await anext(lines)  # accepted
    assert (await gateway.chat("a")).status_code == 200


async def test_a_client_that_leaves_the_queue_is_not_served_before_others(gateway: Gateway) -> None:
    async with streaming(gateway):
        body = {"messages": [{"role": "user", "content": "m"}], "stream": True, **ENDLESS}
        async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as queued:
            lines = queued.aiter_lines()  # closes the connection when it is collected
            assert "assistant" in await anext(lines)
        last = asyncio.create_task(gateway.chat("a"))
    assert (await last).status_code == 200


async def test_a_full_queue_is_refused_at_once_with_429() -> None:
    config = engine_config(n_ctx=1 << 22, max_running=1)
    async with run_gateway(config, max_open=2) as gateway, streaming(gateway):
        body = {"messages": [{"role": "user", "content": "m"}], "stream": True, **ENDLESS}
        async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as queued:
            lines = queued.aiter_lines()  # closes the connection when it is collected
            assert "assistant" in await anext(lines)
            refused = await gateway.chat("a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["Retry-After"]) > 0


async def test_a_killed_engine_ends_a_stream_with_an_error_and_the_next_request_is_served(gateway: Gateway) -> None:
    pid = await engine_pid(gateway)
    async with streaming(gateway) as lines:
        os.kill(pid, signal.SIGKILL)
        rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "engine_crashed"
    assert (await gateway.chat("a")).json()["choices"][0]["message"]["content"] == "bcd"
    assert await engine_pid(gateway) != pid


async def test_requests_of_which_nothing_was_sent_are_replayed_when_the_engine_dies(gateway: Gateway) -> None:
    pid = await engine_pid(gateway)
    async with streaming(gateway):
        whole = asyncio.create_task(gateway.chat("a"))
        streamed = asyncio.create_task(gateway.chat("c", stream=True))
        while len(await requests_of(gateway)) < 3:
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert (await whole).json()["choices"][0]["message"]["content"] == "bcd"
        text = (await streamed).text
    assert text.count('"role":"assistant"') == 1
    assert text.endswith("data: [DONE]\n\n")


async def requests_of(gateway: Gateway) -> list[str]:
    """The ids of the requests that the gateway has given to its engine."""
    return list((await engine_of(gateway))._streams)


async def test_a_request_that_kills_its_engine_twice_is_given_up(gateway: Gateway) -> None:
    async with streaming(gateway):
        waiting = asyncio.create_task(gateway.chat("a"))
        while len(await requests_of(gateway)) < 2:
            await asyncio.sleep(0)
        pid = await engine_pid(gateway)
        os.kill(pid, signal.SIGSTOP)  # so that nothing is answered before it is killed
        os.kill(pid, signal.SIGKILL)
        while await engine_pid(gateway) == pid:
            await asyncio.sleep(0)
        pid = await engine_pid(gateway)
        os.kill(pid, signal.SIGSTOP)
        while not await requests_of(gateway):
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        response = await waiting
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_crashed"


async def test_readiness_is_503_while_the_engine_is_away(gateway: Gateway) -> None:
    ready = (await gateway.http.get("/health/ready")).json()
    assert ready == {"status": "ready", "model": "fake", "models": {"fake": "ready"}}
    engine = await engine_of(gateway)
    os.kill(engine.pid, signal.SIGKILL)
    await engine.ended()
    response = await gateway.http.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (503, "loading")
    assert (await gateway.http.get("/health/live")).status_code == 200


async def test_an_engine_that_can_not_start_is_reported() -> None:
    with pytest.raises(EngineUnavailable, match="ended with status 1 while it loaded the model"):
        async with run_gateway(module="tests.no_such_module"):
            pass


async def test_a_process_that_can_not_be_started_is_tried_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = gateway.host
    spawn, attempts = host._spawn, []

    def fail_once(spec: ModelSpec, fit: Fit) -> EngineProcess:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError(24, "Too many open files")
        return spawn(spec, fit)

    monkeypatch.setattr(host, "_spawn", fail_once)
    monkeypatch.setattr("appliance.supervisor.host.BACKOFF_S", (0.0, 0.01))
    engine = await engine_of(gateway)
    os.kill(engine.pid, signal.SIGKILL)
    await engine.ended()
    while len(attempts) < 2 or host.state != "ready":
        await asyncio.sleep(0.001)
    assert (await gateway.chat("a")).status_code == 200


async def test_a_request_that_is_cancelled_while_its_model_loads_never_runs(gateway: Gateway) -> None:
    engine = await engine_of(gateway)
    os.kill(engine.pid, signal.SIGKILL)
    await engine.ended()
    waiting = asyncio.create_task(gateway.chat("a", **ENDLESS))
    while not gateway.activity.running():
        await asyncio.sleep(0)
    gateway.activity.running()[0].cancel()
    assert (await waiting).json()["error"]["code"] == "request_cancelled"


async def test_stopping_lets_requests_finish_and_takes_no_more(gateway: Gateway) -> None:
    async with streaming(gateway, max_tokens=300) as lines:
        gateway.server.stop()
        last = ""
        async for line in lines:
            last = line or last
    assert last == "data: [DONE]"


async def test_while_it_stops_it_is_not_ready_and_takes_nothing_new(gateway: Gateway) -> None:
    async with streaming(gateway, max_tokens=1000) as lines:
        # Connections that are open already: new ones are refused by the system.
        first, second = (httpx.AsyncClient(base_url=gateway.url, trust_env=False) for _ in range(2))
        for client in (first, second):
            assert (await client.get("/health/ready")).status_code == 200
        gateway.supervisor.drain()
        response = await first.get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (503, "draining")
        refused = await second.post("/v1/completions", json={"prompt": "a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        for client in (first, second):
            await client.aclose()
        last = ""
        async for line in lines:
            last = line or last
    assert last == "data: [DONE]"


async def test_stopping_ends_what_does_not_finish_with_an_error() -> None:
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=1), server=ServerOptions(drain_s=0.2)) as gateway:
        async with streaming(gateway) as lines:
            gateway.server.stop()
            rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "engine_unavailable"


async def test_one_key_can_not_fill_the_queue(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("hog-0123456789abcdef name=hog\nsingle-0123456789abcdef name=single\n")
    hog, single = ({"Authorization": f"Bearer {name}-0123456789abcdef"} for name in ("hog", "single"))
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 200, "ignore_eos": True}
    async with run_gateway(engine_config(max_running=1), max_open=4, keys=keys) as gateway:
        waiting = [
            asyncio.create_task(gateway.http.post("/v1/chat/completions", json=body, headers=hog)) for _ in range(3)
        ]
        while len(gateway.activity.running()) < 3:
            await asyncio.sleep(0.001)
        refused = await gateway.http.post("/v1/chat/completions", json=body, headers=hog)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        served = await gateway.http.post("/v1/chat/completions", json={**body, "max_tokens": 2}, headers=single)
        assert served.status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3
