"""The load client: an HTTP request over a raw connection, whose answer is only kept while it comes.

On a small machine the client shares its processors with the servers. So while an answer streams in, each read costs a
look at the clock and an append; it is taken apart when the measurement is over.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from bench.errors import BenchError, NoAnswer
from bench.sse import EventReader, HttpReader

# More than any answer here; a server that sends more is cut off.
MAX_ANSWER_BYTES = 64 << 20
_LAST_CHUNK = b"0\r\n\r\n"
_END = b"\r\n" + _LAST_CHUNK
_DATA = b"data: {"


@dataclass(frozen=True)
class Endpoint:
    """Where a server answers. ``model`` None: the request names none."""

    url: str
    model: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Answer:
    """A streamed completion. Times are of the clock ``time.perf_counter``, in seconds.

    ``text_times_s`` has an entry for each event that brought text; ``usage`` is None if the server sent none.
    ``is_complete``: the server said that it was done.
    """

    status: int
    sent_at_s: float
    ended_at_s: float
    text_times_s: tuple[float, ...]
    text: str
    usage: dict[str, Any] | None
    error: str | None
    is_complete: bool

    @property
    def n_tokens(self) -> int:
        """As the server counts them; one for each event where it doesn't say."""
        return int(self.usage["completion_tokens"]) if self.usage else len(self.text_times_s)

    @property
    def n_prompt(self) -> int | None:
        return int(self.usage["prompt_tokens"]) if self.usage else None

    @property
    def ttft_s(self) -> float:
        """Time to the first text."""
        return self.text_times_s[0] - self.sent_at_s

    @property
    def tpot_s(self) -> float:
        """Time for one token more, from the first text to the last."""
        return (self.text_times_s[-1] - self.text_times_s[0]) / (self.n_tokens - 1)

    @property
    def latency_s(self) -> float:
        return self.ended_at_s - self.sent_at_s


class Exchange(asyncio.Protocol):
    """One request and its answer on a connection of its own."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._arrivals: list[tuple[float, bytes]] = []
        self._n_bytes = 0
        self._n_events = 0
        self._n_awaited = 0
        self._awaited: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self.sent_at_s = 0.0
        self.ended_at_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked by its class: uvloop's transports are none of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.sent_at_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._arrivals.append((time.perf_counter(), data))
        self._n_bytes += len(data)
        if self._awaited is not None:
            self._n_events += data.count(_DATA)
            self._wake_if_enough()
        if data.endswith(_END) or data == _LAST_CHUNK:
            self._end()
        elif self._n_bytes > MAX_ANSWER_BYTES:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def abort(self) -> None:
        """Leaves without reading the rest."""
        assert self._transport is not None
        self._transport.abort()
        self._end()

    async def wait_for_more(self, n_more: int, timeout_s: float) -> None:
        """Waits until so many events more than now have come, or the answer has ended.

        Raises:
            NoAnswer: neither happened in time.
        """
        self._n_events = sum(data.count(_DATA) for _, data in self._arrivals)
        self._n_awaited = self._n_events + n_more
        self._awaited = asyncio.get_running_loop().create_future()
        self._wake_if_enough()
        await self._within(timeout_s, self._awaited)

    async def wait_for_first(self, timeout_s: float) -> None:
        """Waits until an event has come, or the answer has ended. Raises NoAnswer if neither comes in time."""
        if not any(_DATA in data for _, data in self._arrivals):
            await self.wait_for_more(1, timeout_s)

    async def finish(self, timeout_s: float) -> Answer:
        """The whole answer. Raises NoAnswer if it hasn't ended in time."""
        await self._within(timeout_s, self._ended)
        return self.answer()

    async def body(self, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of an answer that is not streamed."""
        await self._within(timeout_s, self._ended)
        reader = HttpReader()
        body = b"".join(reader.feed(data) for _, data in self._arrivals)
        return reader.status, body

    def answer(self) -> Answer:
        """What has come until now, taken apart."""
        http, events = HttpReader(), EventReader()
        times: list[float] = []
        texts: list[str] = []
        usage, error, is_complete = None, None, False
        plain = bytearray()
        for time_s, data in self._arrivals:
            body = http.feed(data)
            if http.status != 200:
                plain += body
                continue
            for payload in events.feed(body):
                if payload == b"[DONE]":
                    is_complete = True
                    continue
                event = json.loads(payload)
                error = error or _error_of(event)
                usage = event.get("usage") or usage
                text = "".join(_text_of(choice) for choice in event.get("choices") or [])
                if text:
                    texts.append(text)
                    times.append(time_s)
        if http.status != 200:
            error = f"status {http.status}: {plain[:500].decode('utf-8', 'replace')}"
        return Answer(
            http.status, self.sent_at_s, self.ended_at_s, tuple(times), "".join(texts), usage, error, is_complete
        )

    async def _within(self, timeout_s: float, future: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(future)
        except TimeoutError:
            self.abort()
            raise NoAnswer(f"a server did not answer within {timeout_s:.0f} s") from None

    def _wake_if_enough(self) -> None:
        assert self._awaited is not None
        if (self._n_events >= self._n_awaited or self._ended.done()) and not self._awaited.done():
            self._awaited.set_result(None)

    def _end(self) -> None:
        if self._ended.done():
            return
        self.ended_at_s = time.perf_counter()
        self._ended.set_result(None)
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)
        if self._transport is not None:
            self._transport.close()


async def send(endpoint: Endpoint, method: str, path: str, body: dict[str, Any] | None = None) -> Exchange:
    """Connects and sends a request; its time counts from when it was sent. Raises OSError without a connection."""
    parts = urlsplit(endpoint.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {parts.path.rstrip('/')}{path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    if endpoint.key is not None:
        lines.append(f"Authorization: Bearer {endpoint.key}")
    request = "\r\n".join([*lines, "", ""]).encode() + content
    context = ssl.create_default_context() if parts.scheme == "https" else None
    loop = asyncio.get_running_loop()
    _, exchange = await loop.create_connection(lambda: Exchange(request), parts.hostname or "", port, ssl=context)
    return exchange


async def fetch_json(
    endpoint: Endpoint, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = 30.0
) -> Any:
    """The JSON that a server answers with. Raises BenchError if it answers otherwise, OSError if it is not there."""
    exchange = await send(endpoint, method, path, body)
    status, content = await exchange.body(timeout_s)
    if status != 200:
        raise BenchError(f"{endpoint.url}{path} answered {status}: {content[:300].decode('utf-8', 'replace')}")
    return json.loads(content)


def _text_of(choice: dict[str, Any]) -> str:
    return choice.get("text") or (choice.get("delta") or {}).get("content") or ""


def _error_of(event: dict[str, Any]) -> str | None:
    error = event.get("error")
    if error is None:
        return None
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
