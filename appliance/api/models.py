"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from appliance.api.state import Service, State
from appliance.models.store import StoredModel

router = APIRouter()


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """The models that can be asked for. ``note`` is what a person should know before using one."""
    return {"object": "list", "data": [_entry(state.model)]}


@router.get("/v1/models/{model:path}")
async def get_model(model: str, state: State, service: Service) -> dict[str, Any]:
    """One model."""
    service.resolve(model)
    return _entry(state.model)


def _entry(model: StoredModel) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.record.mtime_ns // 1_000_000_000,
        "owned_by": "appliance",
    }
    if model.note:
        entry["note"] = model.note
    return entry
