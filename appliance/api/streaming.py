"""Answers over plain ASGI: server-sent events, and whole answers that end when the client leaves.

This is the hot path: one send for all that came in a step, no validation and no intermediate objects.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

from appliance.api.errors import ClientLeft, envelope
from appliance.api.wire.stream import frame
from appliance.errors import ApplianceError

T = TypeVar("T")

# Proxies cut connections on which nothing moves.
KEEP_ALIVE_S = 15.0
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Chunks(Protocol):
    """What is left to send. ``aclose`` ends the work behind it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class EventStreamResponse(Response):
    """Sends ``first`` and then each of ``chunks`` as they come; closes ``chunks`` when the client leaves.

    An error behind the start can't change the status: it becomes the last event, and nothing follows it.
    """

    def __init__(self, first: bytes, chunks: Chunks, headers: Mapping[str, str]) -> None:
        """``headers``: beside those of every stream."""
        super().__init__(media_type="text/event-stream", headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._first = first
        self._chunks = chunks
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server_send = scope["state"]["server_send"]
        sending = asyncio.create_task(self._send_all(send, server_send))
        keeping_alive = asyncio.create_task(self._keep_alive(server_send))
        try:
            await _until_left(sending, receive)
        finally:
            keeping_alive.cancel()

    async def _send_all(self, start: Send, send: Send) -> None:
        """``start`` sends the head, ``send`` what follows."""
        loop = asyncio.get_running_loop()
        await start({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await send(_body(self._first))
            async for chunk in self._chunks:
                self._sent_at = loop.time()
                await send(_body(chunk))
        except ApplianceError as error:
            await send(_body(frame(envelope(error))))
        finally:
            await self._chunks.aclose()
        await send(_body(b"", more=False))

    async def _keep_alive(self, send: Send) -> None:
        """A comment, which clients ignore, whenever nothing was sent for a while."""
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while True:
            due_s = self._sent_at + KEEP_ALIVE_S - loop.time()
            if due_s > 0:
                await asyncio.sleep(due_s)
                continue
            self._sent_at = loop.time()
            await send(_body(b": keep-alive\n\n"))


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled if the client leaves first.

    Raises:
        ClientLeft: it did.
    """
    task = asyncio.create_task(work)
    await _until_left(task, request.receive)
    if task.cancelled():
        raise ClientLeft
    return task.result()


async def _until_left(task: asyncio.Task[Any], receive: Callable[[], Awaitable[Message]]) -> None:
    """Waits for ``task``, and cancels it if the client leaves first."""
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ApplianceError):
            await task


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
