"""Clients that send too much, too slowly, or nothing: a clear error or a bounded wait, and no slot held."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from appliance.api.server import ServerOptions
from tests.gateway import Gateway, engine_config, run_gateway

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with run_gateway() as running:
        yield running


async def is_idle(gateway: Gateway) -> None:
    """Waits until the engine holds nothing; the test's timeout is the limit."""
    while gateway.activity.running() or (load := gateway.host.load_info) is None or load.n_running or load.n_waiting:
        await asyncio.sleep(0)


async def post(gateway: Gateway, content: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    response = await gateway.http.post("/v1/chat/completions", content=content, headers={**JSON, **headers})
    return response.status_code, response.json()["error"]


async def test_a_large_body_is_refused_by_its_header_and_by_its_bytes(gateway: Gateway) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * (10 << 20)}]}).encode()
    status, error = await post(gateway, body)
    assert (status, error["code"]) == (413, "body_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    response = await gateway.http.post("/v1/chat/completions", content=chunks(), headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "stop": "\\udfff"}',
        b'{"messages": [{"role": "user", "content": "a"}], "seed": 1e400}',
        b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1.5}',
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"messages": {}}',
        b'{"messages": [[]]}',
        b'{"messages": [null]}',
        b"null",
        b"1",
    ],
)
async def test_odd_bodies_are_a_400_in_the_envelope(gateway: Gateway, body: bytes) -> None:
    status, error = await post(gateway, body)
    assert status == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 1000
    assert (await gateway.chat()).status_code == 200
    await is_idle(gateway)


async def test_of_repeated_keys_the_last_one_counts(gateway: Gateway) -> None:
    body = b'{"messages": [{"role": "user", "content": "m"}], "messages": [{"role": "user", "content": "a"}], "n": 1}'
    response = await gateway.http.post("/v1/chat/completions", content=body, headers=JSON)
    assert response.json()["choices"][0]["message"]["content"].startswith("bc")


async def test_null_characters_and_markup_are_just_text(gateway: Gateway) -> None:
    for content in ("\0a", "<script>a", "{{ 7*7 }}a", "%s%na"):
        assert (await gateway.chat(content)).json()["choices"][0]["message"]["content"] == "bcd"


async def test_200_connections_that_never_finish_their_headers_are_closed_and_others_served() -> None:
    async with run_gateway(server=ServerOptions(headers_timeout_s=0.5)) as gateway:
        connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(200)]
        for _, writer in connections:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert (await gateway.chat()).status_code == 200
        for reader, writer in connections:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()


async def test_a_kept_alive_connection_must_finish_its_next_headers_too() -> None:
    async with run_gateway(server=ServerOptions(headers_timeout_s=0.5)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b'{"status":"live"}')
        writer.write(b"GET /health/live HTTP/1.1\r\nHo")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_more_connections_than_allowed_are_told_so() -> None:
    async with run_gateway(server=ServerOptions(max_connections=2)) as gateway:
        idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        answer = await reader.read()
        assert b"503 Service Unavailable" in answer
        assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "engine_unavailable"
        for _, open_writer in (*idle, (reader, writer)):
            open_writer.close()


async def test_a_client_that_never_reads_is_given_up_and_its_slot_freed() -> None:
    options = ServerOptions(write_stall_s=0.5)
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=16), server=options) as gateway:
        body = json.dumps(
            {
                "messages": [{"role": "user", "content": "a"}],
                "stream": True,
                "ignore_eos": True,
                "logprobs": True,
                "n": 16,
            }
        ).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        while not gateway.activity.running():
            await asyncio.sleep(0)
        await is_idle(gateway)
        assert (await gateway.chat()).status_code == 200
        writer.close()


async def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.api.limits.BODY_STALL_S", 0.2)
    async with run_gateway() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"mess'
        )
        answer = await reader.readuntil(b"}}")
        assert b"400 Bad Request" in answer
        assert b"did not come within" in answer
        writer.close()


async def test_requests_that_can_not_be_sent_leave_no_place_taken() -> None:
    async with run_gateway(max_open=2) as gateway:
        for fields in (
            {"max_tokens": 2**64},
            {"top_k": 2**64},
            {"seed": 2**64},
            {"logit_bias": {"18446744073709551616": 1}},
            {"logit_bias": {"9" * 5000: 1}},
            {"model": "\ud800"},
            {"dry_sequence_breakers": ["\ud800"]},
        ):
            body = json.dumps({"messages": [{"role": "user", "content": "a"}], **fields}).encode()
            status, _ = await post(gateway, body)
            assert status == 400, fields
        for _ in range(3):
            assert (await gateway.chat()).status_code == 200


async def test_a_name_can_not_hold_a_control_token(gateway: Gateway) -> None:
    response = await gateway.chat(messages=[{"role": "user", "content": "a", "name": "x<|end|>"}])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages.0.name")


async def test_a_prompt_that_is_far_too_long_is_refused_before_it_is_tokenized(gateway: Gateway) -> None:
    response = await gateway.chat("x" * 1_000_000)
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "1000000 bytes" in error["message"]


async def test_a_body_without_its_content_type_says_so(gateway: Gateway) -> None:
    response = await gateway.http.post("/v1/chat/completions", content=b'{"messages": []}')
    assert response.status_code == 400
    assert "Content-Type: application/json" in response.json()["error"]["message"]
