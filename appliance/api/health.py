"""``/health/live``, ``/health/ready`` and ``/metrics``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from appliance.api.state import State

router = APIRouter()


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 while the gateway runs."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(response: Response, state: State) -> dict[str, Any]:
    """200 when requests can be answered, 503 with the reason otherwise."""
    supervisor = state.supervisor
    body: dict[str, Any] = {"status": supervisor.state, "model": state.model.name}
    if supervisor.state != "ready":
        response.status_code = 503
        if supervisor.error is not None:
            body["error"] = supervisor.error.message
    return body


@router.get("/metrics")
async def metrics(state: State) -> Response:
    """Everything that is counted, for Prometheus."""
    return Response(state.activity.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
