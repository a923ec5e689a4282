"""The bench's standing connections against a small server on loopback, and what they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.client import Endpoint
from bench.errors import BenchError, NoAnswer
from bench.kept_alive import Pool, check, post
from bench.stored_answers import chat, store, stored_answer, stored_chat
from tests.response_cache import open_cache

HIT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Cache: hit\r\n\r\n"


@asynccontextmanager
async def server(*parts: bytes, n_answers: int = 1000) -> AsyncIterator[tuple[Endpoint, list[bytes]]]:
    """Answers each request with these bytes; after so many it closes the connection. Also all bodies that came."""
    bodies: list[bytes] = []
    answering: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        for _ in range(n_answers):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            bodies.append(await reader.readexactly(int(length.split(b":")[1])))
            for part in parts:
                writer.write(part)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield Endpoint(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"), bodies
        await asyncio.gather(*answering)  # their connections have ended


async def test_a_connection_takes_one_request_after_the_other() -> None:
    async with server(HIT, b"o", b"k") as (endpoint, bodies), Pool.connect(endpoint, 1) as pool:
        replies = [await pool.ask(post("/x", {"number": number})) for number in range(3)]
    assert [(reply.status, reply.body, reply.headers[b"x-cache"]) for reply in replies] == [(200, b"ok", b"hit")] * 3
    assert bodies == [b'{"number": 0}', b'{"number": 1}', b'{"number": 2}']
    assert all(reply.latency_s > 0 for reply in replies)


async def test_requests_wait_for_a_connection_that_is_free() -> None:
    async with server(HIT, b"ok") as (endpoint, bodies), Pool.connect(endpoint, 2) as pool:
        replies = await asyncio.gather(*(pool.ask(post("/x", {})) for _ in range(10)))
    assert len(bodies) == len(replies) == 10


async def test_a_connection_that_the_server_closes_gives_no_answer() -> None:
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", n_answers=1) as (endpoint, _):
        async with Pool.connect(endpoint, 1) as pool:
            for _ in range(2):
                with pytest.raises(NoAnswer):
                    await pool.ask(post("/x", {}))


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nfull", "429: full"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Cache: miss\r\n\r\nok", "miss"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "None"),
    ],
)
async def test_what_is_no_hit_does_not_count_as_one(answer, wanted) -> None:
    async with server(answer) as (endpoint, _), Pool.connect(endpoint, 1) as pool:
        reply = await pool.ask(post("/x", {}))
    with pytest.raises(BenchError, match=wanted):
        check(reply, source=b"hit")


async def test_answers_that_were_stored_are_found_when_store_returns(tmp_path) -> None:
    async with open_cache(tmp_path) as cache:
        await store(cache, ((b"%032d" % number, stored_answer(number)) for number in range(5)))
    async with open_cache(tmp_path) as cache:
        found = [await cache.get(b"%032d" % number) for number in range(5)]
    assert [one and one.answer for one in found] == [stored_answer(number) for number in range(5)]
    assert found[0].answer != found[1].answer


async def test_answers_that_have_no_room_are_an_error(tmp_path) -> None:
    async with open_cache(tmp_path, max_bytes=64 << 10) as cache:
        with pytest.raises(BenchError, match="made room"):
            await store(cache, ((b"%032d" % number, stored_answer(number)) for number in range(200)))


def test_requests_differ_where_their_seeds_do() -> None:
    contents = [chat("1 0", "miss", number)["messages"][0]["content"] for number in range(50)]
    contents += [stored_chat(number)["messages"][0]["content"] for number in range(50)]
    assert len(set(contents)) == 100
    assert all(content.startswith("1 0 ") for content in contents)
