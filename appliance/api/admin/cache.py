"""``/admin/cache``: what is in the response cache, and taking answers out or bringing them in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from appliance.api.state import State
from appliance.api.streaming import EventStreamResponse
from appliance.api.wire.stream import DONE, frame
from appliance.cache.store import ResponseCache
from appliance.errors import ResponseCacheOff
from appliance.schemas.cache import CacheContents, Purged, PurgeRequest, Vacuumed, Warmed, WarmRequest
from appliance.service import cache_status
from appliance.service.warm import context_for, warm

router = APIRouter(prefix="/admin/cache")


async def _cache(state: State) -> ResponseCache:
    if state.cache is None:
        raise ResponseCacheOff("the response cache is off; set response_cache to true, and start the server again")
    return state.cache


Cache = Annotated[ResponseCache, Depends(_cache)]


@router.get("")
async def contents(state: State, cache: Cache) -> CacheContents:
    """How full it is, what it did since the start, and its answers by model and API key."""
    return await cache_status.contents(cache, state.activity.metrics.response_cache)


@router.post("/purge")
async def purge(body: PurgeRequest, state: State, cache: Cache) -> Purged:
    """Takes answers out."""
    return await cache_status.purge(cache, state.catalog, body)


@router.post("/vacuum")
async def vacuum(cache: Cache) -> Vacuumed:
    """Gives free room in the file back to the disk; answers are given meanwhile."""
    return await cache_status.vacuum(cache)


@router.post("/warm")
async def warm_up(body: WarmRequest, state: State, cache: Cache) -> Response:
    """Runs requests through at batch priority, so that their answers are stored. Ends with the connection.

    What became of each is told when it ends, as a server-sent event: `index`, `state`, `reason`.
    """
    context = context_for(state.keys, body.key)
    warmed = warm(state.inference, cache, context, body.requests, state.supervisor.stopping)
    return EventStreamResponse(b": warming\n\n", _frames(warmed), {})


async def _frames(warmed: AsyncGenerator[Warmed, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(warmed):
        async for result in warmed:
            yield frame(result.model_dump())
    yield DONE
