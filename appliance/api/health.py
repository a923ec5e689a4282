"""``/health/live``, ``/health/ready`` and ``/metrics``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from appliance.api.state import State
from appliance.service.readiness import readiness

router = APIRouter()


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 while the gateway runs."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(response: Response, state: State) -> dict[str, Any]:
    """200 when requests can be answered, 503 with the reason otherwise; and the state of each model."""
    found = readiness(state.catalog, state.supervisor)
    body: dict[str, Any] = {"status": found.status, "model": found.model, "models": found.models}
    if not found.is_ready:
        response.status_code = 503
        if found.error is not None:
            body["error"] = found.error
    return body


@router.get("/metrics")
async def metrics(state: State) -> Response:
    """Everything that is counted, for Prometheus."""
    return Response(state.activity.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
