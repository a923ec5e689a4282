"""The bench's client against a small server on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.client import Endpoint, fetch_json
from bench.errors import BenchError, NoAnswer
from bench.load import check, complete, start

HEADERS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def event(**fields: object) -> bytes:
    data = b"data: " + json.dumps(fields).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def text(content: str) -> bytes:
    return event(choices=[{"text": content}])


DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@asynccontextmanager
async def server(*parts: bytes, stays_open: bool = False) -> AsyncIterator[Endpoint]:
    """Answers every request with these bytes; with ``stays_open`` it then says no more."""
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in headers.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        for part in parts:
            writer.write(part)
            await writer.drain()
        if stays_open:
            await left.wait()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        yield Endpoint(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        left.set()


async def test_tokens_are_those_that_the_server_counts() -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 5}
    async with server(HEADERS, text("a"), text("bc"), event(choices=[], usage=usage), DONE) as endpoint:
        (answer,) = await complete(endpoint, ["x"], max_tokens=5)
    assert (answer.text, answer.n_tokens, answer.n_prompt) == ("abc", 5, 4)
    assert answer.is_complete
    assert len(answer.text_times_s) == 2
    assert answer.sent_at_s <= answer.text_times_s[0] <= answer.ended_at_s


async def test_without_usage_each_event_is_a_token() -> None:
    async with server(HEADERS, text("a"), text(""), text("b"), DONE) as endpoint:
        (answer,) = await complete(endpoint, ["x"], max_tokens=5)
    assert answer.n_tokens == 2


async def test_an_error_in_a_stream_is_an_error() -> None:
    async with server(HEADERS, text("a"), text("b"), event(error={"message": "it broke"}), DONE) as endpoint:
        with pytest.raises(BenchError, match="it broke"):
            await complete(endpoint, ["x"], max_tokens=5)


async def test_a_refusal_is_an_error_with_its_status() -> None:
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull"
    async with server(refusal) as endpoint:
        with pytest.raises(BenchError, match="429: full"):
            await complete(endpoint, ["x"], max_tokens=5)


async def test_an_answer_that_breaks_off_is_not_complete() -> None:
    async with server(HEADERS, text("a"), text("b")) as endpoint:
        exchange = await start(endpoint, "x", max_tokens=5)
        answer = await exchange.finish(5)
    assert not answer.is_complete


async def test_a_server_that_says_no_more_is_left() -> None:
    async with server(HEADERS, text("a"), stays_open=True) as endpoint:
        exchange = await start(endpoint, "x", max_tokens=5)
        await exchange.wait_for_first(5)
        with pytest.raises(NoAnswer):
            await exchange.finish(0.01)
        with pytest.raises(BenchError, match="after 1 tokens"):
            check(exchange.answer())


async def test_json_is_fetched() -> None:
    async with server(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n{"a": 1}') as endpoint:
        assert await fetch_json(endpoint, "GET", "/x") == {"a": 1}
