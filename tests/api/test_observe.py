"""What can be seen from outside: ids, metrics, status, cancelling, and nothing of what was said."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance import logs
from tests.gateway import Gateway, engine_config, run_gateway
from tests.response_cache import open_cache

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=2)) as running:
        yield running


async def test_a_request_id_comes_back_or_is_made(gateway: Gateway) -> None:
    response = await gateway.http.get("/v1/models", headers={"X-Request-ID": "my-id.7"})
    assert response.headers["x-request-id"] == "my-id.7"
    made = [(await gateway.http.get("/nowhere")).headers["x-request-id"] for _ in range(2)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in made)
    assert made[0] != made[1]


@pytest.mark.parametrize("bad", ["a b", "x" * 200, "ä", 'a"b', ""])
async def test_an_id_that_would_spoil_a_log_is_replaced(gateway: Gateway, bad: str) -> None:
    response = await gateway.http.get("/v1/models", headers={b"X-Request-ID": bad.encode()})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_a_request_has_one_log_line_without_its_text(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="appliance")
    await gateway.chat("planted-prompt a", stop=["planted-stop"], user="planted-user")
    await gateway.http.get("/health/live")
    (line,) = [record for record in caplog.records if record.name == "appliance.api.observe"]
    assert isinstance(line.msg, logs.Event)
    fields = line.msg.fields
    assert (fields["status"], fields["outcome"], fields["completion_tokens"]) == (200, "length", 3)
    assert float(str(fields["ttft_s"])) > 0
    assert "planted" not in caplog.text


def test_log_lines_in_json_have_their_fields() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, logs.event("done", a=1, b="two words"), (), None)
    line = json.loads(logs.JsonFormatter().format(record))
    assert (line["event"], line["a"], line["b"], line["level"]) == ("done", 1, "two words", "info")


def test_a_value_can_not_break_a_log_line() -> None:
    assert logs.event("x", path="a\nb c=d") == "x path='a\\nb c=d'"


async def scrape(gateway: Gateway) -> dict[str, float]:
    text = (await gateway.http.get("/metrics")).text
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")
    }


async def test_metrics_count_what_was_done(gateway: Gateway) -> None:
    await gateway.chat("hello", max_tokens=3)
    await gateway.chat("hello", max_tokens=3, stream=True)
    await gateway.chat("!")
    found = await scrape(gateway)
    model = '{model_name="fake"}'
    assert found[f"appliance_prompt_tokens_total{model}"] == 10
    assert found[f"appliance_prefix_cache_hits_total{model}"] == 4
    assert found[f"appliance_generation_tokens_total{model}"] == 6
    assert found[f"appliance_time_to_first_token_seconds_count{model}"] == 2
    assert found[f"appliance_inter_token_latency_seconds_count{model}"] == 4
    assert found[f"appliance_e2e_request_latency_seconds_count{model}"] == 3
    assert found['appliance_request_outcomes_total{model_name="fake",outcome="length"}'] == 2
    assert found['appliance_request_outcomes_total{model_name="fake",outcome="engine_error"}'] == 1
    assert found['appliance_http_requests_total{route="/v1/chat/completions",status="200"}'] == 2


async def test_what_a_stranger_makes_up_is_no_label(gateway: Gateway) -> None:
    await gateway.http.get("/v1/planted-path")
    await gateway.chat(model="planted-model")
    assert "planted" not in (await gateway.http.get("/metrics")).text


async def test_every_metric_is_documented_and_every_documented_metric_is_there(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        await gateway.chat()
        text = (await gateway.http.get("/metrics")).text
    live = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    documented = set(re.findall(r"^\| `(appliance_\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert live == documented


async def endless(gateway: Gateway, request_id: str) -> asyncio.Task[Any]:
    """A request that runs until it is ended; it has begun to answer."""
    task = asyncio.create_task(
        gateway.http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "a"}], "ignore_eos": True},
            headers={"X-Request-ID": request_id},
        )
    )
    while not any(g.context.request_id == request_id and g.n_pieces for g in gateway.activity.running()):
        await asyncio.sleep(0)
    return task


async def test_the_status_shows_engine_and_latencies(gateway: Gateway) -> None:
    await gateway.chat()
    task = await endless(gateway, "it")
    status = (await gateway.http.get("/admin/status", headers=gateway.admin)).json()
    (model,) = status["models"]
    assert (model["state"], model["engine"]["running"], status["requests_open"]) == ("ready", 1, 1)
    assert model["engine"]["kv_cache"]["used_tokens"] > 0
    assert status["default"] == model["name"] == "fake"
    assert status["latencies"]["n_requests"] == 1
    assert status["time_s"] - 120 < status["started_s"] <= status["time_s"]
    assert status["latencies"]["ttft_s"]["p50"] > 0
    await gateway.http.delete("/admin/requests/it", headers=gateway.admin)
    await task


async def test_requests_are_listed_and_cancelled(gateway: Gateway) -> None:
    task = await endless(gateway, "it")
    (entry,) = (await gateway.http.get("/admin/requests", headers=gateway.admin)).json()["requests"]
    assert (entry["request_id"], entry["state"], entry["prompt_tokens"]) == ("it", "decode", 1)
    response = await gateway.http.delete(f"/admin/requests/{entry['id']}", headers=gateway.admin)
    assert response.json() == {"cancelled": entry["id"]}
    answer = await task
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_cancelled")
    assert (await gateway.http.get("/admin/requests", headers=gateway.admin)).json()["requests"] == []
    assert (await gateway.http.delete("/admin/requests/it", headers=gateway.admin)).status_code == 404


async def test_a_cancelled_stream_ends_with_an_error(gateway: Gateway) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "ignore_eos": True, "stream": True}
    headers = {"X-Request-ID": "it"}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        lines = response.aiter_lines()
        while '"content":"b"' not in await anext(lines):
            pass
        await gateway.http.delete("/admin/requests/it", headers=gateway.admin)
        rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "request_cancelled"


async def test_the_progress_of_a_long_prompt_is_a_comment(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr("appliance.api.wire.stream.PROGRESS_INTERVAL_S", 0.0)
    text = (await gateway.chat("1" * 100, stream=True)).text
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert comments[0] == ": prefill 16/100"
    assert comments[-1] == ": prefill 96/100"


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr("appliance.api.streaming.KEEP_ALIVE_S", 0.05)
    busy = [await endless(gateway, str(number)) for number in range(2)]
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 1}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.aiter_lines()
        while await anext(lines) != ": keep-alive":
            pass
        for number in range(2):
            await gateway.http.delete(f"/admin/requests/{number}", headers=gateway.admin)
        assert [line async for line in lines if line][-1] == "data: [DONE]"
    await asyncio.gather(*busy)
