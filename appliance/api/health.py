"""``/health/live`` and ``/health/ready``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from appliance.api.state import AppState, app_state

router = APIRouter(prefix="/health")


@router.get("/live")
async def live() -> dict[str, str]:
    """200 while the gateway runs."""
    return {"status": "live"}


@router.get("/ready")
async def ready(response: Response, state: Annotated[AppState, Depends(app_state)]) -> dict[str, Any]:
    """200 when requests can be answered, 503 with the reason otherwise."""
    supervisor = state.supervisor
    body: dict[str, Any] = {"status": supervisor.state, "model": state.model.name}
    if supervisor.state != "ready":
        response.status_code = 503
        if supervisor.error is not None:
            body["error"] = supervisor.error.message
    return body
