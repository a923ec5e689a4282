"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from appliance.api.state import Service, State
from appliance.service.catalog import ServedModel

router = APIRouter()


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """The models that can be asked for. ``note`` is what a person should know before using one."""
    return {"object": "list", "data": [_entry(model) for model in state.catalog.current()]}


@router.get("/v1/models/{model:path}")
async def get_model(model: str, service: Service) -> dict[str, Any]:
    """One model, by its name or an alias."""
    return _entry(service.resolve(model))


def _entry(model: ServedModel) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.stored.record.mtime_ns // 1_000_000_000,
        "owned_by": "appliance",
    }
    if model.aliases:
        entry["aliases"] = list(model.aliases)
    if model.stored.note:
        entry["note"] = model.stored.note
    return entry
