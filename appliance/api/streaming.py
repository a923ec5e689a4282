"""Answers over plain ASGI: server-sent events, and whole answers that end when the client leaves.

This is the hot path: one send for all that came in a step, no validation and no intermediate objects.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import orjson
from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

from appliance.api.errors import ClientLeft, envelope
from appliance.errors import ApplianceError

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


class Chunks(Protocol):
    """What is left to send. ``aclose`` ends the work behind it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


def frame(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class EventStreamResponse(Response):
    """Sends ``first`` and then each of ``chunks`` as they come; closes ``chunks`` when the client leaves.

    An error behind the start can't change the status: it becomes the last event, and nothing follows it.
    """

    def __init__(self, first: bytes, chunks: Chunks) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._first = first
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send))
        await _until_left(sending, receive)

    async def _send_all(self, send: Send) -> None:
        def body(data: bytes, *, more: bool = True) -> Message:
            return {"type": "http.response.body", "body": data, "more_body": more}

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await send(body(self._first))
            async for chunk in self._chunks:
                await send(body(chunk))
        except ApplianceError as error:
            await send(body(frame(envelope(error))))
        finally:
            await self._chunks.aclose()
        await send(body(b"", more=False))


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
