"""Connections that stand and take one request after the other; nothing but the server is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import urlsplit

from bench.client import Endpoint
from bench.errors import BenchError, NoAnswer
from bench.sse import HttpReader

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Reply:
    """A whole answer; ``headers`` have names in lower case, ``latency_s`` is from the request's first byte on."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    latency_s: float


class Connection(asyncio.Protocol):
    """One request at a time. What its answer consists of is put together as it comes."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader = HttpReader()
        self._body = b""
        self._complete: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked by its class: uvloop's transports are none of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._body += self._reader.feed(data)
        if self._reader.is_complete and self._complete is not None and not self._complete.done():
            self._complete.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._complete is not None and not self._complete.done():
            self._complete.set_exception(NoAnswer("a server closed a connection on which it was asked"))

    async def ask(self, request: bytes) -> Reply:
        """Raises NoAnswer if the answer does not come in time, or the server has closed the connection."""
        assert self._transport is not None
        if self._transport.is_closing():
            raise NoAnswer("a server closed a connection that was idle")
        self._reader, self._body = HttpReader(), b""
        self._complete = asyncio.get_running_loop().create_future()
        sent_at_s = time.perf_counter()
        self._transport.write(request)
        timer = asyncio.get_running_loop().call_later(_TIMEOUT_S, self._give_up)
        try:
            await self._complete
        finally:
            timer.cancel()
        return Reply(self._reader.status, self._reader.headers, self._body, time.perf_counter() - sent_at_s)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _give_up(self) -> None:
        assert self._transport is not None
        self._transport.abort()


class Pool:
    """Some connections to one server. ``ask`` waits for one that is free, in the order of the calls."""

    def __init__(self, connections: list[Connection]) -> None:
        self.connections = connections
        self._free: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in connections:
            self._free.put_nowait(connection)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, endpoint: Endpoint, n_connections: int) -> AsyncIterator[Self]:
        """Raises OSError if the server is not there."""
        address = urlsplit(endpoint.url)
        loop = asyncio.get_running_loop()
        connections: list[Connection] = []
        try:
            for _ in range(n_connections):
                _, connection = await loop.create_connection(Connection, address.hostname or "", address.port or 80)
                connections.append(connection)
            yield cls(connections)
        finally:
            for connection in connections:
                connection.close()

    async def ask(self, request: bytes) -> Reply:
        connection = await self._free.get()
        try:
            return await connection.ask(request)
        finally:
            self._free.put_nowait(connection)


def post(path: str, body: dict[str, Any]) -> bytes:
    """A request's bytes."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    return f"{head}\r\n\r\n".encode() + content


def check(reply: Reply, *, source: bytes) -> Reply:
    """The reply. Raises BenchError unless it is an answer that comes from where ``X-Cache`` shall say."""
    if reply.status != 200:
        raise BenchError(f"a server answered {reply.status}: {reply.body[:300].decode('utf-8', 'replace')}")
    if reply.headers.get(b"x-cache") != source:
        raise BenchError(f"X-Cache is {reply.headers.get(b'x-cache')!r}, and should be {source!r}")
    return reply
