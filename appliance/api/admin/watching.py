"""``/admin/events`` and ``/admin/logs``: what happens, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Response
from starlette.responses import StreamingResponse

from appliance.api.state import State
from appliance.api.streaming import HEADERS, KEEP_ALIVE_S
from appliance.api.wire.stream import DONE, frame
from appliance.logs import N_KEPT_LINES

router = APIRouter(prefix="/admin")


@router.get("/events")
async def events(state: State) -> Response:
    """Loads with their progress, unloads and failures of models, as server-sent events."""

    async def happened() -> AsyncGenerator[dict[str, Any]]:
        with state.supervisor.feed.watch() as queue:
            while True:
                event = await queue.get()
                fields = {name: value for name, value in event.fields.items() if value is not None}
                yield {"event": event.kind, "model": event.model, "time_s": event.time_s, **fields}

    return _streamed(happened(), state.supervisor.stopping)


@router.get("/logs")
async def log_lines(
    state: State, after: int = 0, limit: Annotated[int, Query(ge=0)] = N_KEPT_LINES, follow: bool = False
) -> Response:
    """The latest lines of the log, the engines' among them; with `follow`, those that come too, as they come.

    It begins with those whose numbers are above `after`, the latest `limit` of them.
    """
    begin = max(after, state.log.newest - limit)
    if not follow:
        # As appliance.schemas.admin.LogLines, whose thousands of objects would stop all streams for a moment.
        lines = [{"number": number, "line": line} for number, line in state.log.after(begin)]
        return Response(orjson.dumps({"lines": lines}), media_type="application/json")
    loop = asyncio.get_running_loop()
    has_come = asyncio.Event()

    def notify() -> None:
        loop.call_soon_threadsafe(has_come.set)

    async def written() -> AsyncGenerator[dict[str, Any]]:
        number = begin
        with state.log.notified(notify):
            while True:
                has_come.clear()
                for number, line in state.log.after(number):  # noqa: B020 - goes on behind the last one
                    yield {"number": number, "line": line}
                await has_come.wait()

    return _streamed(written(), state.supervisor.stopping)


def _streamed(items: AsyncGenerator[dict[str, Any]], stopping: asyncio.Event) -> Response:
    return StreamingResponse(_frames(items, stopping), media_type="text/event-stream", headers=HEADERS)


async def _frames(items: AsyncGenerator[dict[str, Any]], stopping: asyncio.Event) -> AsyncGenerator[bytes]:
    """Each of ``items`` as it comes. They have no end, and a stop must not wait for them: then the stream is done."""
    ending = asyncio.create_task(stopping.wait())
    coming = asyncio.create_task(_next(items))
    try:
        while not ending.done():
            done, _ = await asyncio.wait((coming, ending), timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if coming in done:
                yield frame(coming.result())
                coming = asyncio.create_task(_next(items))
            elif not done:
                yield b": keep-alive\n\n"
        yield DONE
    finally:
        ending.cancel()
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await coming
        await items.aclose()


async def _next(items: AsyncGenerator[dict[str, Any]]) -> dict[str, Any]:
    return await anext(items)
