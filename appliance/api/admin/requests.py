"""``/admin/status``, and the requests that wait and run."""

from __future__ import annotations

from fastapi import APIRouter

from appliance.api.state import State
from appliance.errors import NotFound
from appliance.schemas.admin import Cancelled, History, RequestList, Status
from appliance.service.requests import request_list
from appliance.service.status import snapshot

router = APIRouter(prefix="/admin")


@router.get("/status")
async def status(state: State) -> Status:
    """One snapshot: models, engines, KV caches, queues, latencies."""
    return snapshot(state.catalog, state.supervisor, state.activity, state.cache)


@router.get("/history")
async def history(state: State, since_s: float = 0.0) -> History:
    """The last ten minutes; with `since_s`, what came after that time."""
    return state.history.history(since_s)


@router.get("/requests")
async def requests(state: State) -> RequestList:
    """The requests that wait and run, oldest first, and the latest 100 that ended, newest first."""
    return request_list(state.activity)


@router.delete("/requests/{request_id}")
async def cancel_request(request_id: str, state: State) -> Cancelled:
    """Ends a request with an error, by its completion's id or by its X-Request-ID."""
    if not state.activity.cancel(request_id):
        raise NotFound(f"no request {request_id!r} waits or runs", param="request_id")
    return Cancelled(cancelled=request_id)
