"""``GET /v1/models``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from appliance.api.state import AppState, app_state

router = APIRouter()


@router.get("/v1/models")
async def list_models(state: Annotated[AppState, Depends(app_state)]) -> dict[str, Any]:
    """The models that can be asked for. ``note`` is what a person should know before using one."""
    model = state.model
    entry: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.record.mtime_ns // 1_000_000_000,
        "owned_by": "appliance",
    }
    if model.note:
        entry["note"] = model.note
    return {"object": "list", "data": [entry]}
