"""``/admin/events`` and ``/admin/logs``: what happens, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from starlette.responses import StreamingResponse

from appliance.api.state import State
from appliance.api.streaming import HEADERS, KEEP_ALIVE_S
from appliance.api.wire.stream import frame
from appliance.schemas.admin import LogLine, LogLines

router = APIRouter(prefix="/admin")


@router.get("/events")
async def events(state: State) -> Response:
    """Loads with their progress, unloads and failures of models, as server-sent events."""

    async def frames() -> AsyncIterator[bytes]:
        with state.supervisor.feed.watch() as queue:
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        event = await queue.get()
                except TimeoutError:
                    yield b": keep-alive\n\n"
                    continue
                fields = {name: value for name, value in event.fields.items() if value is not None}
                yield frame({"event": event.kind, "model": event.model, "time_s": event.time_s, **fields})

    return StreamingResponse(frames(), media_type="text/event-stream", headers=HEADERS)


@router.get("/logs")
async def log_lines(state: State, after: int = 0, follow: bool = False) -> Response:
    """The latest lines of the log, the engines' among them; with `follow`, those that come too, as they come."""
    if not follow:
        lines = LogLines(lines=[LogLine(number=number, line=line) for number, line in state.log.after(after)])
        return Response(lines.model_dump_json(), media_type="application/json")
    loop = asyncio.get_running_loop()
    has_come = asyncio.Event()

    def notify() -> None:
        loop.call_soon_threadsafe(has_come.set)

    async def frames() -> AsyncIterator[bytes]:
        number = after
        with state.log.notified(notify):
            while True:
                has_come.clear()
                for number, line in state.log.after(number):  # noqa: B020 - goes on behind the last one
                    yield frame({"number": number, "line": line})
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        await has_come.wait()
                except TimeoutError:
                    yield b": keep-alive\n\n"

    return StreamingResponse(frames(), media_type="text/event-stream", headers=HEADERS)
