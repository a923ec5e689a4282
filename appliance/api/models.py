"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from appliance.api.state import AppState, State
from appliance.service.catalog import ServedModel

router = APIRouter()


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """The models that can be asked for, each followed by itself with its adapters, whose ``parent`` it is.

    ``note`` is what a person should know before using one; ``max_model_len`` is the context's length in tokens, if it
    is known before the model is loaded.
    """
    models = [each for model in state.catalog.current() for each in (model, *model.adapted)]
    return {"object": "list", "data": [_entry(model, state) for model in models]}


@router.get("/v1/models/{model:path}")
async def get_model(model: str, state: State) -> dict[str, Any]:
    """One model, by its name or an alias, or with an adapter as NAME:ADAPTER."""
    return _entry(state.catalog.resolve(model), state)


def _entry(model: ServedModel, state: AppState) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.stored.record.mtime_ns // 1_000_000_000,
        "owned_by": "appliance",
        # text, embedding (for /v1/embeddings), or rerank.
        "kind": model.stored.record.header.kind,
        # Without one it takes completions only.
        "has_chat_template": model.stored.chat_template is not None,
    }
    if (max_model_len := _max_model_len(model, state)) is not None:
        entry["max_model_len"] = max_model_len
    if model.adapter is not None:
        entry["parent"] = model.stored.name
    if model.aliases:
        entry["aliases"] = list(model.aliases)
    if model.stored.note:
        entry["note"] = model.stored.note
    return entry


def _max_model_len(model: ServedModel, state: AppState) -> int | None:
    """As the model is loaded or shall be by the settings; None: its load will choose."""
    host = state.supervisor.hosts.get(model.spec.key)
    n_ctx = host.info.n_ctx if host is not None and host.info is not None else model.spec.wanted.n_ctx
    return min(n_ctx, model.stored.record.header.n_ctx_train) if n_ctx is not None else None
